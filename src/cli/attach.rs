//! Finding a guest for a command line: the running sandbox of this workspace, or one of our own.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::guest::{Guest, Identity};
use crate::progress::Progress;
use crate::rundir::{self, Running};
use crate::sandbox::{Sandbox, SandboxError, User};

/// A guest to work in, and what keeps it.
pub(super) struct Attached {
    /// Its connection.
    pub(super) guest: Arc<Guest>,
    /// The sandbox, where it is our own and goes with us.
    own: Option<(Arc<Sandbox>, CancellationToken)>,
}

impl Attached {
    /// Ends what is ours.
    pub(super) async fn close(self) {
        if let Some((sandbox, closing)) = self.own {
            closing.cancel();
            sandbox.stop().await;
        }
        self.guest.close().await;
    }
}

/// The running sandbox of this workspace, newest first.
pub(super) fn find(config: &Config) -> Result<Option<Running>, SandboxError> {
    let running = rundir::running(&config.host.dirs.runtime)?;
    Ok(running.into_iter().find(|running| {
        running.info.name == config.sandbox.name.as_str()
            && running.info.workspace == config.sandbox.project_dir
    }))
}

/// Joins the running sandbox of this workspace, or boots one.
pub(super) async fn guest(
    config: Config,
    fresh: bool,
    progress: &Progress,
) -> anyhow::Result<Attached> {
    if !fresh && let Some(running) = find(&config)? {
        progress.say(format!("joining the running sandbox {}", running.id));
        return Ok(Attached {
            guest: Arc::new(join(&running).await?),
            own: None,
        });
    }
    let sandbox = Sandbox::new(config)?;
    let closing = CancellationToken::new();
    super::serve::listen(&sandbox, &closing)?;
    let guest = tokio::select! {
        guest = sandbox.guest(progress) => guest,
        _ = super::serve::terminated() => Err(SandboxError::Stopped),
    };
    match guest {
        Ok(guest) => Ok(Attached {
            guest,
            own: Some((sandbox, closing)),
        }),
        Err(error) => {
            sandbox.stop().await;
            Err(error.into())
        }
    }
}

async fn join(running: &Running) -> anyhow::Result<Guest> {
    let stream = crate::guest::connect(&running.ssh_socket()).await?;
    // The first connection makes the guest boot, and only then its host key is known.
    let identity = wait_for_identity(running).await?;
    Ok(Guest::login(stream, &identity, "snowglobe").await?)
}

async fn wait_for_identity(running: &Running) -> anyhow::Result<Identity> {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        if let Some((_, host_key)) = running.read("known_hosts")?.trim().split_once(' ') {
            return Ok(Identity::decode(
                &running.read("control_ed25519")?,
                host_key,
            )?);
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "join the running sandbox: it did not boot in time"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// The user of that name.
pub(super) fn user(root: bool) -> User {
    if root { User::Root } else { User::Sandbox }
}
