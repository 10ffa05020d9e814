//! The guest of a subcommand: that of the running sandbox of this workspace, or of one that is started for it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::client;
use crate::config::Config;
use crate::guest::Guest;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, SandboxError, User, weaker_fences};

/// A guest, and what it needs.
pub(super) struct Attached {
    /// Its connection.
    pub(super) guest: Arc<Guest>,
    /// The sandbox, if this process started it and ends it.
    own: Option<(Arc<Sandbox>, CancellationToken)>,
}

impl Attached {
    /// Says which fences do not hold around a sandbox that this process started, a line each. Whoever started one that
    /// runs was told when it booted.
    pub(super) fn tell_lacks(&self) {
        let lacks = self.own.as_ref().map(|(sandbox, _)| sandbox.lacks());
        for lack in lacks.unwrap_or_default() {
            say!("{}", weaker_fences(&[lack]));
        }
    }

    /// Ends the connection, and the sandbox that this process started.
    pub(super) async fn close(self) {
        if let Some((sandbox, closing)) = self.own {
            closing.cancel();
            sandbox.stop().await;
        }
        self.guest.close().await;
    }
}

/// Joins the running sandbox of this workspace, or boots one.
pub(super) async fn guest(
    config: Config,
    fresh: bool,
    progress: &Progress,
) -> anyhow::Result<Attached> {
    if !fresh && let Some(running) = client::find(&config)? {
        progress.say(format!("joining the running sandbox {}", running.id));
        return Ok(Attached {
            guest: Arc::new(client::join(&running).await?),
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
            closing.cancel();
            sandbox.stop().await;
            Err(error.into())
        }
    }
}

/// The user to act as.
pub(super) fn user(root: bool) -> User {
    if root { User::Root } else { User::Sandbox }
}
