//! The process that keeps one sandbox: it owns the sandbox, and other programs of the same user join it.
//!
//! It listens in the sandbox's directory ([`crate::rundir`]) until it is asked to stop, a signal comes, or nothing has used
//! the sandbox for the configured time. A client that crashes leaves the sandbox as it is. A connection to `ssh.sock` or
//! `mcp.sock` and a running job count as use, and so does a question that is being answered, except one about the
//! status: looking changes nothing.
//!
//! Each kind of client has a bounded number of connections, and a question has a deadline and a bounded length. A keeper
//! whose runtime directory is gone ends: no client could stop it.

mod answers;
mod ending;
mod uses;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use snowglobe_runner::socket::Address;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::logs;
use crate::mcp;
use crate::progress::Progress;
use crate::rundir::{CONTROL_SOCKET, MCP_SOCKET, RunDirError, SSH_SOCKET};
use crate::sandbox::{Sandbox, SandboxError};
use crate::timeline;
use ending::{End, Ending};
use uses::Uses;

/// How long a new sandbox waits for its first client.
const FIRST_CLIENT: Duration = Duration::from_secs(30);

/// How often the keeper looks whether the sandbox is used.
const LOOK: Duration = Duration::from_secs(1);

/// How often its files are made to look used. Cleaners of temporary files remove what is older than days.
const REFRESH: Duration = Duration::from_secs(3600);

/// How many connections may ask questions at a time, and how many may use the guest.
const ASKING: usize = 128;
const USING: usize = 256;

/// How the last line of a keeper's log begins.
pub(crate) const ENDED: &str = "the sandbox is stopped: ";

/// Why a sandbox cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
}

/// A sandbox and those who use it.
pub(crate) struct Keeper {
    sandbox: Arc<Sandbox>,
    uses: Arc<Uses>,
    idle_stop: Option<Duration>,
    ending: Arc<Ending>,
    asking: Arc<Semaphore>,
    using: Arc<Semaphore>,
    ssh: UnixListener,
    mcp: UnixListener,
    control: UnixListener,
}

impl Keeper {
    /// Makes the sandbox, which is off, and listens for clients.
    pub(crate) async fn new(config: Config) -> Result<Self, KeeperError> {
        let idle_stop = config.sandbox.idle_stop;
        let console = logs::console(&config.host.dirs.data, &config.sandbox.name);
        let sandbox = Sandbox::kept(config).await?;
        sandbox.keep_console(console);
        let bind = |name: &str| {
            let path = sandbox.instance().dir.join(name);
            listen(&path).map_err(|source| RunDirError::File {
                operation: "listen on",
                path,
                source,
            })
        };
        let (ssh, mcp) = (bind(SSH_SOCKET)?, bind(MCP_SOCKET)?);
        // Last: a client that finds this socket also finds the others.
        let control = bind(CONTROL_SOCKET)?;
        Ok(Self {
            sandbox,
            uses: Arc::default(),
            idle_stop,
            ending: Arc::default(),
            asking: Arc::new(Semaphore::new(ASKING)),
            using: Arc::new(Semaphore::new(USING)),
            ssh,
            mcp,
            control,
        })
    }

    /// The sandbox's id.
    pub(crate) fn id(&self) -> &crate::rundir::Id {
        &self.sandbox.instance().id
    }

    /// Keeps the sandbox until it is to end, or a signal comes, whose number `signal` gives; then stops it.
    pub(crate) async fn run(self, signal: impl Future<Output = u8>) {
        tokio::pin!(signal);
        tracing::info!(
            "process {} of snowglobe {} keeps the sandbox of {}",
            std::process::id(),
            env!("CARGO_PKG_VERSION"),
            self.sandbox.config().sandbox.project_dir.display()
        );
        let mut look = tokio::time::interval(LOOK);
        let mut refresh = tokio::time::interval(REFRESH);
        let mut told = None;
        loop {
            tokio::select! {
                Ok((stream, _)) = self.ssh.accept() => self.serve(carry_ssh(self.sandbox.clone(), stream)),
                Ok((stream, _)) = self.mcp.accept() => self.serve(serve_mcp(self.sandbox.clone(), stream)),
                Ok((stream, _)) = self.control.accept() => self.answer(stream),
                _ = look.tick() => {
                    self.look();
                    self.tell_end(&mut told);
                }
                _ = refresh.tick() => {
                    if let Err(error) = self.sandbox.instance().refresh() {
                        tracing::warn!(%error, "the sandbox's files could not be refreshed");
                    }
                }
                _ = self.ending.ended() => break,
                number = &mut signal => self.ending.end(End::Signal(number)),
            }
        }
        self.sandbox.stop().await;
        self.tell_end(&mut told);
        tracing::info!("{ENDED}{}", self.ending.ended().await);
    }

    /// Logs how a machine ended.
    fn tell_end(&self, told: &mut Option<String>) {
        let end = self.sandbox.history().last_end;
        if end != *told {
            if let Some(end) = &end {
                tracing::info!("the machine was {end}");
            }
            *told = end;
        }
    }

    /// Answers a client's questions, unless there are too many clients.
    fn answer(&self, stream: UnixStream) {
        let Ok(place) = self.asking.clone().try_acquire_owned() else {
            return tracing::warn!("more than {ASKING} clients ask at a time: one was refused");
        };
        let answers = answers::Answering {
            sandbox: self.sandbox.clone(),
            uses: self.uses.clone(),
            idle_stop: self.idle_stop,
            ending: self.ending.clone(),
        };
        tokio::spawn(async move {
            timeline::acting(timeline::COMMAND_LINE, answers.answer(stream)).await;
            drop(place);
        });
    }

    /// Serves a client, which uses the sandbox meanwhile.
    fn serve(&self, client: impl Future<Output = ()> + Send + 'static) {
        let Ok(place) = self.using.clone().try_acquire_owned() else {
            return tracing::warn!("more than {USING} clients use the sandbox: one was refused");
        };
        let used = self.uses.begin();
        let ending = self.ending.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = client => {}
                _ = ending.ended() => {}
            }
            drop((used, place));
        });
    }

    /// Ends the sandbox if nothing has used it for its time, or if nothing can find it.
    fn look(&self) {
        let instance = self.sandbox.instance();
        if !instance.is_found() {
            return self.ending.end(End::NotFound(instance.dir.clone()));
        }
        let limit = match self.uses.ever() {
            true => self.idle_stop,
            false => Some(FIRST_CLIENT),
        };
        let Some(idle) = self
            .uses
            .idle()
            .filter(|idle| limit.is_some_and(|limit| *idle >= limit))
        else {
            return;
        };
        // Asking the guest for jobs may take as long as its deadline; meanwhile clients are served.
        let Some(checking) = self.uses.check() else {
            return;
        };
        let (sandbox, uses, ending) =
            (self.sandbox.clone(), self.uses.clone(), self.ending.clone());
        tokio::spawn(async move {
            match sandbox.is_busy().await {
                true => uses.used(),
                // A client may have come since.
                false if uses.idle().is_some_and(|now| now >= idle) => {
                    ending.end(End::Idle(idle));
                }
                false => {}
            }
            drop(checking);
        });
    }
}

/// A socket's address may be too short for its path.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    UnixListener::bind(Address::of(path)?.path())
}

/// Carries a client's own SSH session to the guest.
async fn carry_ssh(sandbox: Arc<Sandbox>, mut stream: UnixStream) {
    let carried = async {
        let guest = sandbox.guest(&Progress::none()).await?;
        let mut channel = guest.attach().await?;
        // An error means that one side has ended, which ends the session like any other end.
        drop(tokio::io::copy_bidirectional(&mut stream, &mut channel).await);
        Ok::<(), SandboxError>(())
    };
    if let Err(error) = carried.await {
        tracing::warn!("failed to {}", crate::describe(&error));
    }
}

async fn serve_mcp(sandbox: Arc<Sandbox>, stream: UnixStream) {
    if let Err(error) = mcp::serve_kept(stream, sandbox).await {
        tracing::debug!(%error, "an MCP session ended");
    }
}
