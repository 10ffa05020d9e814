//! The process that keeps one sandbox: it owns the sandbox, and other programs of the same user join it.
//!
//! It listens in the sandbox's directory ([`crate::rundir`]) until it is asked to stop, a signal comes, or nothing has used
//! the sandbox for the configured time. A client that crashes leaves the sandbox as it is. A connection to `ssh.sock` or
//! `mcp.sock` and a running job count as use, and so does a question that is being answered, except one about the
//! status: looking changes nothing.

mod answers;
mod uses;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use snowglobe_runner::socket::Address;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::mcp;
use crate::progress::Progress;
use crate::rundir::{CONTROL_SOCKET, MCP_SOCKET, RunDirError, SSH_SOCKET};
use crate::sandbox::{Sandbox, SandboxError};
use uses::Uses;

/// How long a new sandbox waits for its first client.
const FIRST_CLIENT: Duration = Duration::from_secs(30);

/// How often the keeper looks whether the sandbox is used.
const LOOK: Duration = Duration::from_secs(1);

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
    ending: CancellationToken,
    ssh: UnixListener,
    mcp: UnixListener,
    control: UnixListener,
}

impl Keeper {
    /// Makes the sandbox, which is off, and listens for clients.
    pub(crate) async fn new(config: Config) -> Result<Self, KeeperError> {
        let idle_stop = config.sandbox.idle_stop;
        let sandbox = Sandbox::new(config).await?;
        let bind = |name: &str| {
            let path = sandbox.instance().dir.join(name);
            listen(&path).map_err(|source| RunDirError::File {
                operation: "listen on",
                path,
                source,
            })
        };
        let (ssh, mcp) = (bind(SSH_SOCKET)?, bind(MCP_SOCKET)?);
        // Last: whoever finds it finds the others.
        let control = bind(CONTROL_SOCKET)?;
        Ok(Self {
            sandbox,
            uses: Arc::default(),
            idle_stop,
            ending: CancellationToken::new(),
            ssh,
            mcp,
            control,
        })
    }

    /// The sandbox's id.
    pub(crate) fn id(&self) -> &crate::rundir::Id {
        &self.sandbox.instance().id
    }

    /// Keeps the sandbox until it is to end, or `ended` says so; then stops it.
    pub(crate) async fn run(self, ended: impl Future<Output = ()>) {
        tokio::pin!(ended);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                Ok((stream, _)) = self.ssh.accept() => self.serve(carry_ssh(self.sandbox.clone(), stream)),
                Ok((stream, _)) = self.mcp.accept() => self.serve(serve_mcp(self.sandbox.clone(), stream)),
                Ok((stream, _)) = self.control.accept() => {
                    drop(tokio::spawn(self.answering().answer(stream)));
                }
                _ = look.tick() => self.look(),
                () = self.ending.cancelled() => break,
                () = &mut ended => break,
            }
        }
        self.ending.cancel();
        self.sandbox.stop().await;
    }

    /// Serves a client, which uses the sandbox meanwhile.
    fn serve(&self, client: impl Future<Output = ()> + Send + 'static) {
        let used = self.uses.begin();
        let ending = self.ending.clone();
        tokio::spawn(async move {
            ending.run_until_cancelled(client).await;
            drop(used);
        });
    }

    fn answering(&self) -> answers::Answering {
        answers::Answering {
            sandbox: self.sandbox.clone(),
            uses: self.uses.clone(),
            idle_stop: self.idle_stop,
            ending: self.ending.clone(),
        }
    }

    /// Ends the sandbox if nothing has used it for its time.
    fn look(&self) {
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
                    tracing::info!(
                        "nothing has used the sandbox for {} s: it is stopped",
                        idle.as_secs()
                    );
                    ending.cancel();
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
