//! The guest as its server sees it: users, workspace, commands, and what is under way.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::boot::ImageUser;
use crate::command::cgroup::Tree;
use crate::command::jobs::Jobs;
use crate::command::reaper::Reaper;
use crate::files::{Index, Places};
use crate::system::actor::Actor;
use crate::system::users::{self, Account};
use crate::wire::User;
use tokio_util::sync::CancellationToken;

/// What commands run in, and what the server knows.
#[derive(Debug)]
pub struct Guest {
    /// Where relative paths begin.
    pub workspace: PathBuf,
    /// Where commands start that name no directory.
    pub workdir: PathBuf,
    /// A directory for init's own files, closed to users.
    pub private: PathBuf,
    /// A directory for what users may read of ours: long scripts, long outputs.
    pub shared: PathBuf,
    /// The program that is `snowglobe-enter`.
    pub enter: PathBuf,
    /// The commands' cgroups, where this is a VM's PID 1.
    pub cgroups: Option<Tree>,
    /// Starts processes and learns how they end.
    pub reaper: Reaper,
    /// The limit on open files of every command.
    pub nofile: Option<u64>,
    /// Environment of every command.
    pub env: Vec<(String, String)>,
    /// The root disk's mount point while an image is built.
    pub build_root: Option<PathBuf>,
    /// Whom `sandbox` stands for.
    pub image_user: Option<ImageUser>,
    /// Keys that may do everything.
    pub control_keys: Vec<russh::keys::PublicKey>,
    /// Keys that may log in.
    pub login_keys: Vec<russh::keys::PublicKey>,
    /// The server's own key.
    pub host_key: russh::keys::PrivateKey,
    /// Commands that run in the background.
    pub(crate) jobs: Jobs,
    /// Fires when the machine is about to go: commands then end.
    pub(crate) ending: CancellationToken,
    /// Whose turn it is to change a file.
    pub(crate) edits: Mutex<()>,
    /// What is known of the files that were read last.
    pub(crate) index: Index,
    numbers: AtomicU64,
    actors: Mutex<HashMap<bool, Arc<Actor>>>,
    freezes: AtomicU64,
}

/// A key or a directory that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A key that can't be decoded is an error, never "accept any".
    #[error("decode the {which} key: {source}")]
    Key {
        /// Which key.
        which: &'static str,
        /// Why.
        source: russh::keys::ssh_key::Error,
    },
    /// A directory could not be made.
    #[error("make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The parts of a [`Guest`] that differ from place to place.
#[derive(Debug)]
pub struct Setup {
    /// Where relative paths begin.
    pub workspace: PathBuf,
    /// Where commands start that name no directory.
    pub workdir: PathBuf,
    /// A directory for init's own files and for what users may read of ours.
    pub state: PathBuf,
    /// The program that is `snowglobe-enter`.
    pub enter: PathBuf,
    /// The commands' cgroups; absent on a host.
    pub cgroups: Option<Tree>,
    /// Starts processes.
    pub reaper: Reaper,
    /// The limit on open files.
    pub nofile: Option<u64>,
    /// Environment of every command.
    pub env: Vec<(String, String)>,
    /// The root disk's mount point while an image is built.
    pub build_root: Option<PathBuf>,
    /// Whom `sandbox` stands for.
    pub image_user: Option<ImageUser>,
    /// The server's own key, OpenSSH PEM.
    pub host_key: String,
    /// Keys that may do everything, one line each.
    pub control_keys: Vec<String>,
    /// Keys that may log in, one line each.
    pub login_keys: Vec<String>,
}

fn public_keys(
    which: &'static str,
    lines: &[String],
) -> Result<Vec<russh::keys::PublicKey>, SetupError> {
    let keys = lines
        .iter()
        .map(|line| russh::keys::PublicKey::from_openssh(line));
    keys.collect::<Result<_, _>>()
        .map_err(|source| SetupError::Key { which, source })
}

impl Guest {
    /// A guest made of these parts.
    pub fn new(setup: Setup) -> Result<Arc<Self>, SetupError> {
        use std::os::unix::fs::PermissionsExt;
        let (private, shared) = (setup.state.join("private"), setup.state.join("shared"));
        for (path, mode) in [(&setup.state, 0o711), (&private, 0o700), (&shared, 0o711)] {
            std::fs::create_dir_all(path)
                .and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)))
                .map_err(|source| SetupError::Directory {
                    path: path.clone(),
                    source,
                })?;
        }
        Ok(Arc::new(Self {
            workspace: setup.workspace,
            workdir: setup.workdir,
            private,
            shared,
            enter: setup.enter,
            cgroups: setup.cgroups,
            reaper: setup.reaper,
            nofile: setup.nofile,
            env: setup.env,
            build_root: setup.build_root,
            image_user: setup.image_user,
            control_keys: public_keys("control", &setup.control_keys)?,
            login_keys: public_keys("login", &setup.login_keys)?,
            host_key: russh::keys::PrivateKey::from_openssh(&setup.host_key).map_err(|source| {
                SetupError::Key {
                    which: "host",
                    source,
                }
            })?,
            jobs: Jobs::default(),
            ending: CancellationToken::new(),
            edits: Mutex::default(),
            index: Index::default(),
            numbers: AtomicU64::new(1),
            actors: Mutex::default(),
            freezes: AtomicU64::new(0),
        }))
    }

    /// A guest that is this host itself, for tests: commands run as the current user, with `enter` (the program
    /// `snowglobe-init`) before them.
    pub fn host_side(
        workspace: &Path,
        state: &Path,
        enter: &Path,
        host_key: String,
        control_keys: Vec<String>,
        login_keys: Vec<String>,
    ) -> Result<Arc<Self>, SetupError> {
        Self::new(Setup {
            workspace: workspace.to_owned(),
            workdir: workspace.to_owned(),
            state: state.to_owned(),
            enter: enter.to_owned(),
            cgroups: None,
            reaper: Reaper::Host,
            nofile: None,
            env: Vec::new(),
            build_root: None,
            image_user: None,
            host_key,
            control_keys,
            login_keys,
        })
    }

    /// A number nobody else has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The account of a user; on a host, whoever this process is.
    pub fn account(&self, user: User) -> Account {
        let mut account = users::account(Path::new("/"), user, self.image_user.as_ref());
        if self.cgroups.is_none() {
            account.credentials = None;
            account.home = self.workspace.clone();
        }
        account
    }

    /// Where the paths begin that this user names.
    pub(crate) fn places(&self, user: User) -> Places {
        Places {
            workspace: self.workspace.clone(),
            home: self.account(user).home,
            root: "/".into(),
        }
    }

    /// The thread that works with this user's permissions.
    pub fn actor(&self, user: User) -> io::Result<Arc<Actor>> {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(actor) = actors.get(&(user == User::Root)) {
            return Ok(actor.clone());
        }
        let credentials = self
            .account(user)
            .credentials
            .filter(|_| user != User::Root);
        let actor = Arc::new(Actor::start(credentials)?);
        actors.insert(user == User::Root, actor.clone());
        Ok(actor)
    }

    /// Counts a freeze, so that an old timer does not end a newer one.
    pub(crate) fn next_freeze(&self) -> u64 {
        self.freezes.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest freeze.
    pub(crate) fn freeze_count(&self) -> u64 {
        self.freezes.load(Ordering::SeqCst)
    }
}
