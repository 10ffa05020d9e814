//! The state of the server: what it was set up with, and what is under way.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::{PrivateKey, PublicKey};
use tokio_util::sync::CancellationToken;

use super::settle::Settling;
use crate::boot::ImageUser;
use crate::command::context::Context;
use crate::command::jobs::Jobs;
use crate::command::supervisor::Supervisor;
use crate::files::LineIndex;
use crate::system::user_thread::UserThread;
use crate::wire::User;

/// The server of one guest. All connections share it.
#[derive(Debug)]
pub struct Server {
    /// What commands need of the system.
    pub(super) context: Context,
    /// Commands that run in the background.
    pub(super) jobs: Jobs,
    /// The root disk's mount point, if this guest builds an image.
    pub(super) build_root: Option<PathBuf>,
    /// Keys that may do everything.
    pub(super) control_keys: Vec<PublicKey>,
    /// Keys that may log in.
    pub(super) login_keys: Vec<PublicKey>,
    /// The server's own key.
    pub(super) host_key: PrivateKey,
    /// Held while a file is changed, so that changes come one after the other.
    pub(super) edits: Mutex<()>,
    /// Where lines begin in the files that were read last.
    pub(super) index: LineIndex,
    /// Writes the workspace to its own disk, if it has one.
    pub(super) settling: Arc<Settling>,
    threads: Mutex<HashMap<User, Arc<UserThread>>>,
    freezes: AtomicU64,
}

/// A key or a directory that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A key can't be decoded. That is an error, never "accept any".
    #[error("decode the {which} key: {source}")]
    Key {
        /// The kind of key.
        which: &'static str,
        /// Why not.
        source: russh::keys::ssh_key::Error,
    },
    /// A directory could not be made.
    #[error("make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a [`Server`] is set up with.
#[derive(Debug)]
pub struct Setup {
    /// The root of the file system, for `etc/passwd` and `etc/group`.
    pub root: PathBuf,
    /// The directory at which relative paths begin.
    pub workspace: PathBuf,
    /// Whether that is on a disk of its own, which survives the machine.
    pub workspace_survives: bool,
    /// The default working directory of commands.
    pub workdir: PathBuf,
    /// A directory for init's own files.
    pub state: PathBuf,
    /// The program that is started as [`crate::command::enter::ARG0`].
    pub enter: PathBuf,
    /// Starts the processes of commands.
    pub supervisor: Arc<dyn Supervisor>,
    /// The limit on open files of every command.
    pub nofile: u64,
    /// The environment of every command.
    pub env: Vec<(String, String)>,
    /// The root disk's mount point, if this guest builds an image.
    pub build_root: Option<PathBuf>,
    /// The image's user that `sandbox` stands for.
    pub image_user: Option<ImageUser>,
    /// The server's own key, OpenSSH PEM.
    pub host_key: String,
    /// Keys that may do everything, one line each.
    pub control_keys: Vec<String>,
    /// Keys that may log in, one line each.
    pub login_keys: Vec<String>,
}

fn public_keys(which: &'static str, lines: &[String]) -> Result<Vec<PublicKey>, SetupError> {
    let keys = lines.iter().map(|line| PublicKey::from_openssh(line));
    keys.collect::<Result<_, _>>()
        .map_err(|source| SetupError::Key { which, source })
}

impl Server {
    /// A server with no connection yet.
    pub fn new(setup: Setup) -> Result<Arc<Self>, SetupError> {
        let (private, shared) = (setup.state.join("private"), setup.state.join("shared"));
        for (path, mode) in [(&setup.state, 0o711), (&private, 0o700), (&shared, 0o711)] {
            std::fs::create_dir_all(path)
                .and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)))
                .map_err(|source| SetupError::Directory {
                    path: path.clone(),
                    source,
                })?;
        }
        let surviving = Some(&setup.workspace).filter(|_| setup.workspace_survives);
        Ok(Arc::new(Self {
            settling: Settling::of(surviving.cloned()),
            context: Context {
                root: setup.root,
                workspace: setup.workspace,
                workdir: setup.workdir,
                private,
                shared,
                enter: setup.enter,
                supervisor: setup.supervisor,
                nofile: setup.nofile,
                env: setup.env,
                image_user: setup.image_user,
                ending: CancellationToken::new(),
                numbers: AtomicU64::new(1),
            },
            build_root: setup.build_root,
            control_keys: public_keys("control", &setup.control_keys)?,
            login_keys: public_keys("login", &setup.login_keys)?,
            host_key: PrivateKey::from_openssh(&setup.host_key).map_err(|source| {
                SetupError::Key {
                    which: "host",
                    source,
                }
            })?,
            jobs: Jobs::default(),
            edits: Mutex::default(),
            index: LineIndex::default(),
            threads: Mutex::default(),
            freezes: AtomicU64::new(0),
        }))
    }

    /// A new thread with a user's permissions. Root's thread keeps those of init.
    pub(super) fn new_thread(&self, user: User) -> io::Result<UserThread> {
        UserThread::start(match user {
            User::Root => None,
            User::Sandbox => Some(self.context.account(user).credentials),
        })
    }

    /// The thread with a user's permissions that SFTP sessions share.
    pub(super) fn shared_thread(&self, user: User) -> io::Result<Arc<UserThread>> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = threads.get(&user) {
            return Ok(thread.clone());
        }
        let thread = Arc::new(self.new_thread(user)?);
        threads.insert(user, thread.clone());
        Ok(thread)
    }

    /// The workspace's path.
    pub(super) fn workspace(&self) -> PathBuf {
        self.context.workspace.clone()
    }

    /// Counts a freeze, so that an older freeze's timer does not end a newer freeze.
    pub(super) fn next_freeze(&self) -> u64 {
        self.freezes.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the newest freeze.
    pub(super) fn freeze_count(&self) -> u64 {
        self.freezes.load(Ordering::SeqCst)
    }
}
