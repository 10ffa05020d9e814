//! What every command needs of the system that it runs on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use crate::boot::ImageUser;
use crate::files::Places;
use crate::system::users::{self, Account};
use crate::wire::User;

/// The system as commands see it.
#[derive(Debug)]
pub(crate) struct Context {
    /// The root of the file system, for `etc/passwd` and `etc/group`.
    pub(crate) root: PathBuf,
    /// The directory at which relative paths begin.
    pub(crate) workspace: PathBuf,
    /// The default working directory.
    pub(crate) workdir: PathBuf,
    /// A directory for init's own files, closed to users.
    pub(crate) private: PathBuf,
    /// A directory for init's files that users may read, such as long scripts.
    pub(crate) shared: PathBuf,
    /// The program that is started as [`super::enter::ARG0`].
    pub(crate) enter: PathBuf,
    /// Starts processes and holds them together.
    pub(crate) supervisor: Arc<dyn Supervisor>,
    /// The limit on open files of every command.
    pub(crate) nofile: u64,
    /// The environment of every command.
    pub(crate) env: Vec<(String, String)>,
    /// The image's user that `sandbox` stands for.
    pub(crate) image_user: Option<ImageUser>,
    /// Fires when the machine is about to end; commands then end.
    pub(crate) ending: CancellationToken,
    /// The next number of a command.
    pub(crate) numbers: AtomicU64,
}

impl Context {
    /// A new number, which no other command has.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The account of a user.
    pub(crate) fn account(&self, user: User) -> Account {
        users::account(&self.root, user, self.image_user.as_ref())
    }

    /// The directories at which this user's paths begin.
    pub(crate) fn places(&self, user: User) -> Places {
        Places {
            workspace: self.workspace.clone(),
            home: self.account(user).home,
            root: self.root.clone(),
        }
    }
}
