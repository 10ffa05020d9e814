//! The owner of one VM's state.
//!
//! ```text
//!            first call that needs a guest
//!   Off ───────────────────────────────────▶ Running ──▶ Off      the VM ended by itself; the next call boots
//!    ▲ boot failed: an error, still Off        │  ▲
//!    └─────────────────────────────────────────┤  │ restore, reboot: the new VM is up before the old one goes;
//!                                              └──┘ if it does not come up, the old one goes on
//!   any ──▶ Stopped      stop(): for good
//! ```
//!
//! Each arrow is an event of [`state::Event`]; the state after an event is a pure function of both, and no event leads
//! out of Stopped. The machine of the newest state is published ([`state::Published`]).
//!
//! Invariants: [`Sandbox`] is the only owner; no other part keeps a copy of its state. A change of the VM holds the
//! state's lock for as long as it takes; commands only borrow the machine, so they run side by side, and end when the
//! machine does. A change gives the lock up when the sandbox is stopped, and every wait for the guest under it has a
//! deadline: a guest that does not answer can be rebooted and stopped like any other ([`replace`]).
//! If a machine ended between two calls, the next call fails and says so; the call after that boots.
//! Deliberately absent: MCP, and anything that prints.

mod commits;
mod commits_error;
mod content;
mod copied;
mod error;
mod exec;
mod files;
mod git;
mod guest_tree;
mod images;
mod jobs;
mod lifecycle;
mod network;
mod ports;
mod protect;
mod read_ahead;
mod replace;
mod request;
mod review;
mod snapshots;
mod state;
mod sync;
mod unapplied;
mod view;

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::config::{self, Config};
use crate::disk::{CopyPlace, Store};
pub use crate::guest::Output;
use crate::login::{Login, LoginKeys};
use crate::network::live::Live;
use crate::rundir::{self, Instance};
use crate::timeline::{Paths, Timeline};
use crate::workspace::{Protected, Workspace};
pub use commits::Branch;
pub use commits_error::CommitsError;
pub use content::{Read, Write, Written};
pub use error::SandboxError;
pub use exec::{Exec, ExecEnd, Limit, Ran};
pub use images::image_store;
pub use snapshots::Snapshot;
pub use snowglobe_init::wire::share::WORKSPACE;
pub use snowglobe_init::wire::{
    Detach, DirEntry, EditReport, EditRequest, ErrorKind, ExecReport, FoundLine, JobAction,
    JobInfo, JobReport, OUTPUT_DIRECTORY, Outcome, Program, PtySize, ReadContent, STOP_GRACE,
    SearchReport, SearchRequest, Status, Stdin, User, Word, lines,
};
use state::{Published, State};
pub use view::{Console, History, weaker_fences};

/// The owner of one VM's state. Boots at the first call that needs a guest.
pub struct Sandbox {
    config: Config,
    store: Store,
    instance: Arc<Instance>,
    /// The login key and the host key for the user's own ssh; none if the sandbox is not kept.
    login: Option<LoginKeys>,
    state: Arc<Mutex<State>>,
    published: Published,
    stopping: CancellationToken,
    view: view::View,
    network: Live,
    timeline: Timeline,
    protected: Protected,
    /// The place of the workspace's disk, if the workspace is a copy.
    copy: Option<Arc<CopyPlace>>,
    /// Held while changes are compared, applied or brought in.
    reviewing: Mutex<()>,
    /// The hashes of the guest's files that were fetched, by path, time of change and size.
    fetched: std::sync::Mutex<review::Fetched>,
    /// The changes of the copy whose content was shown, to whom and how they were then.
    shown: review::Shown,
    /// The changes of the copy that were added to the timeline last.
    noted_changes: std::sync::Mutex<Paths>,
    read_ahead: read_ahead::ReadAhead,
}

impl Sandbox {
    /// A sandbox that is off. Checks all that can be checked without booting.
    pub async fn new(config: Config) -> Result<Arc<Self>, SandboxError> {
        blocking(move || {
            let store = Store::open(&config.host.dirs.data, &config.sandbox.name)?;
            Self::with(config, store, None)
        })
        .await
    }

    /// As [`Self::new`], for one that the user's own ssh can log in to.
    pub async fn kept(config: Config) -> Result<Arc<Self>, SandboxError> {
        blocking(move || {
            let store = Store::open(&config.host.dirs.data, &config.sandbox.name)?;
            let login = Login::of(&config.host.dirs.data).keys(&config.sandbox.name)?;
            Self::with(config, store, Some(login))
        })
        .await
    }

    /// A sandbox of a client's session, with a store of snapshots of its own. Blocks.
    pub fn of_session(config: &Config, store: Store) -> Result<Arc<Self>, SandboxError> {
        let mut config = config.clone();
        config.sandbox.name = store.name().clone();
        Self::with(config, store, None)
    }

    fn with(
        config: Config,
        store: Store,
        login: Option<LoginKeys>,
    ) -> Result<Arc<Self>, SandboxError> {
        store.sweep();
        store.belongs_to(&config.sandbox.project_dir)?;
        if let Some(name) = &config.sandbox.snapshot {
            store.start(name)?;
        }
        let network = Live::new(config.sandbox.network.clone(), &store.network_dir()?)?;
        let session = store.name().session_id().map(str::to_owned);
        let timeline = Timeline::open(&store.timeline_dir()?, session)?;
        let protected = Protected::new(config.sandbox.protection.clone());
        let shared = &config.sandbox.workspace;
        let copy = match shared.copied() {
            Some(dir) => {
                Self::recover_applies(&store, dir)?;
                let stays = login.is_some() || store.name().is_session();
                let place = store.copy_place(stays)?;
                Self::sweep_copies(&store);
                Some(Arc::new(place))
            }
            None => None,
        };
        let instance = Instance::create(
            &config.host.dirs.runtime,
            rundir::About {
                name: &config.sandbox.name,
                workspace: &config.sandbox.project_dir,
                repository: shared.repository().map(|repository| repository.dir.path()),
                git_trouble: shared.git_trouble(),
                image: &config.sandbox.image,
                settings: config::lasting(&config.settings),
            },
        )?;
        if let Some(keys) = &login {
            instance.set_login(&keys.user)?;
        }
        Ok(Arc::new(Self {
            config,
            store,
            instance: Arc::new(instance),
            login,
            state: Arc::new(Mutex::new(State::Off)),
            network,
            timeline,
            protected,
            copy,
            reviewing: Mutex::new(()),
            fetched: std::sync::Mutex::default(),
            shown: review::Shown::default(),
            noted_changes: std::sync::Mutex::default(),
            published: Published::new(),
            stopping: CancellationToken::new(),
            view: view::View::default(),
            read_ahead: read_ahead::ReadAhead::default(),
        }))
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its workspace.
    pub fn workspace(&self) -> &Workspace {
        &self.config.sandbox.workspace
    }

    /// What was done in it.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Its directory of sockets and keys.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }
}
