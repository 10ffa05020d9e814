//! The guest of a subcommand: that of this project's sandbox, which is started unless a process keeps it already, or that
//! of a sandbox for this command alone.

use std::sync::Arc;

use crate::client;
use crate::config::{Config, Difference, Raw};
use crate::guest::Guest;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::sandbox::{Sandbox, SandboxError, User, weaker_fences};

/// A guest, and what it needs.
pub(super) struct Attached {
    /// Its connection.
    pub(super) guest: Arc<Guest>,
    /// Where it runs.
    pub(super) host: Host,
    lacks: Vec<String>,
}

/// Where a guest runs.
pub(super) enum Host {
    /// In a sandbox that is kept.
    Kept(Running),
    /// In a sandbox of this process, which ends with the command.
    Own(Arc<Sandbox>),
}

impl Attached {
    /// A connection to a kept sandbox's guest.
    pub(super) fn to(running: Running, guest: Guest) -> Self {
        Self {
            guest: Arc::new(guest),
            host: Host::Kept(running),
            lacks: Vec::new(),
        }
    }

    /// Says which fences do not hold around a machine that was booted for this command, a line each.
    pub(super) fn tell_lacks(&self) {
        tell_lacks(&self.lacks);
    }

    /// Ends the connection, and the sandbox that is for this command alone.
    pub(super) async fn close(self) {
        if let Host::Own(sandbox) = self.host {
            sandbox.stop().await;
        }
        self.guest.close().await;
    }
}

/// Says which fences do not hold, a line each.
pub(super) fn tell_lacks(lacks: &[String]) {
    for lack in lacks {
        say!("{}", weaker_fences(std::slice::from_ref(lack)));
    }
}

/// A project's sandbox, started unless it is kept already, with a booted machine and a connection to its guest.
pub(super) async fn kept(
    config: &Config,
    flags: &Raw,
    progress: &Progress,
) -> anyhow::Result<Attached> {
    // The environment that a command is given is not that of the commands after it.
    let lasting = Raw {
        env: Vec::new(),
        ..flags.clone()
    };
    let (running, started) = start_or_join(config, &lasting, progress).await?;
    let lacks = client::boot(&running, started, progress).await?;
    let guest = client::join(&running).await?;
    Ok(Attached {
        lacks,
        ..Attached::to(running, guest)
    })
}

/// The sandbox that a process keeps for this project, started if necessary; and whether this started it.
pub(super) async fn start_or_join(
    config: &Config,
    flags: &Raw,
    progress: &Progress,
) -> anyhow::Result<(Running, bool)> {
    let (running, started) = client::start_or_join(config, flags, progress).await?;
    match started {
        true => progress.say(format!(
            "starting the sandbox of {}",
            running.info.workspace.display()
        )),
        false => {
            progress.say(format!("joining the running sandbox {}", running.id));
            for differs in client::check(config, &running)? {
                say!("{}", outdated(&differs));
            }
        }
    }
    Ok((running, started))
}

/// What a person is told of a changed configuration.
pub(super) fn outdated(differs: &Difference) -> String {
    format!(
        "the running sandbox was started with {} = {}; the configuration now says {}, which counts after `snowglobe stop`",
        differs.asked.key, differs.has, differs.asked.value
    )
}

/// A sandbox for this command alone.
pub(super) async fn own(config: Config, progress: &Progress) -> anyhow::Result<Attached> {
    let sandbox = Sandbox::new(config).await?;
    progress.say("starting a sandbox for this command alone, which is removed after it");
    let guest = tokio::select! {
        guest = sandbox.guest(progress) => guest,
        _ = super::serve::terminated() => Err(SandboxError::Stopped),
    };
    match guest {
        Ok(guest) => Ok(Attached {
            guest,
            lacks: sandbox.lacks(),
            host: Host::Own(sandbox),
        }),
        Err(error) => {
            sandbox.stop().await;
            Err(error.into())
        }
    }
}

/// Where commands start: in the directory of the workspace that this process is in.
pub(super) fn directory(config: &Config) -> Option<String> {
    config.sandbox.workspace.shared()?;
    let below = config.subdirectory.to_str()?;
    (!below.is_empty()).then(|| below.to_owned())
}

/// The user to act as.
pub(super) fn user(root: bool) -> User {
    if root { User::Root } else { User::Sandbox }
}
