//! The guest of a subcommand: that of this project's sandbox, which is started unless a process keeps it already, or that
//! of a sandbox for this command alone.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::ending::Interrupted;
use super::{logs, progress, stock};
use crate::client;
use crate::config::{Config, Raw};
use crate::control::Told;
use crate::disk::Store;
use crate::guest::Guest;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::sandbox::{Sandbox, User, WORKSPACE, weaker_fences};
use crate::timeline::{COMMAND_LINE, Timeline};

/// A guest, and what it needs.
pub(super) struct Attached {
    /// Its connection.
    pub(super) guest: Arc<Guest>,
    /// Where it runs.
    pub(super) host: Host,
    /// The timeline of its sandbox; none if it can't be written.
    pub(super) timeline: Option<Timeline>,
    told: Told,
}

/// Where a guest runs.
pub(super) enum Host {
    /// In a sandbox that is kept.
    Kept(Box<Running>),
    /// In a sandbox of this process, which ends with the command.
    Own(Arc<Sandbox>),
}

impl Attached {
    /// A connection to a kept sandbox's guest.
    pub(super) fn to(running: Running, guest: Guest) -> Self {
        Self {
            guest: Arc::new(guest),
            host: Host::Kept(Box::new(running)),
            timeline: None,
            told: Told::default(),
        }
    }

    /// Ends the connection, and the sandbox that is for this command alone.
    pub(super) async fn close(self) {
        if let Host::Own(sandbox) = self.host {
            stop(&sandbox).await;
        }
        self.guest.close().await;
    }
}

/// Says what a boot has to say, a line each.
pub(super) fn tell(told: &Told) {
    for lack in &told.lacks {
        say!("{}", weaker_fences(std::slice::from_ref(lack)));
    }
    for note in &told.notes {
        say!("{note}");
    }
}

/// Stops a sandbox that this process owns, and says how many unapplied changes of its workspace copy are lost.
pub(super) async fn stop(sandbox: &Sandbox) {
    if sandbox.workspace().copied().is_some() && sandbox.is_running() {
        let lost = match sandbox.unapplied().await {
            Some(0) => None,
            Some(count) => Some(stock::unapplied(count)),
            None => Some("what was not applied of its changes".to_owned()),
        };
        if let Some(lost) = lost {
            say!(
                "the copy of the workspace is gone, with {lost}; without --rm it stays, and `snowglobe changes` lists them"
            );
        }
    }
    sandbox.stop().await;
}

/// Says what keeps git from working in the sandbox as on this machine.
fn tell_git(config: &Config) {
    if let Some(trouble) = config.sandbox.workspace.git_trouble() {
        say!("{trouble}");
    }
}

/// The guest of this project's sandbox, or with `alone` of one for this command only. Says on standard error how it gets
/// there, and leaves quietly if a signal ends this program meanwhile.
pub(super) async fn guest(config: Config, flags: &Raw, alone: bool) -> anyhow::Result<Attached> {
    // A signal that comes between two waits for one must not be lost, nor leave a sandbox of this command behind.
    super::signals::watch();
    let (steps, shown) = progress::show();
    let attached = match alone {
        true => own(config, &steps).await,
        false => interruptible(kept(&config, flags, &steps)).await,
    };
    shown.finish();
    let attached = attached?;
    tell(&attached.told);
    Ok(attached)
}

/// Does work that needs no tidying up until a signal ends this program.
pub(super) async fn interruptible<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        signal = super::signals::terminated() => Err(Interrupted(signal).into()),
    }
}

/// A project's sandbox, started unless it is kept already, with a booted machine and a connection to its guest.
async fn kept(config: &Config, flags: &Raw, progress: &Progress) -> anyhow::Result<Attached> {
    // The environment that a command is given is not that of the commands after it.
    let lasting = Raw {
        env: Vec::new(),
        ..flags.clone()
    };
    let booted = booted(config, &lasting, progress).await?;
    let guest = client::join(&booted.running).await?;
    Ok(Attached {
        timeline: timeline(config),
        told: booted.told,
        ..Attached::to(booted.running, guest)
    })
}

/// The timeline of a project's sandbox that runs. What can't be written down is done all the same.
pub(super) fn timeline(config: &Config) -> Option<Timeline> {
    let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
    let opened = Timeline::open(&store.timeline_path(), None);
    match opened {
        Ok(timeline) => Some(timeline.of(COMMAND_LINE)),
        Err(error) => {
            tracing::warn!("failed to {}", crate::describe(&error));
            None
        }
    }
}

/// A kept sandbox with a machine that runs.
pub(super) struct Booted {
    pub(super) running: Running,
    /// Whether this started it.
    pub(super) started: bool,
    /// What the boot of a machine has to say.
    pub(super) told: Told,
}

/// The sandbox that a process keeps for this project, started if necessary, with a booted machine.
pub(super) async fn booted(
    config: &Config,
    flags: &Raw,
    progress: &Progress,
) -> anyhow::Result<Booted> {
    let log = crate::logs::log(&config.host.dirs.data, &config.sandbox.name);
    let (running, started, told) = loop {
        let (running, started) = start_or_join(config, flags, progress).await?;
        if started {
            tell_git(config);
        }
        match logs::shown_while(&log, client::boot(&running, started, progress)).await {
            // It was being stopped.
            Err(_) if !started && client::is_over(&running).await => {}
            booted => break (running, started, booted?),
        }
    };
    Ok(Booted {
        running,
        started,
        told,
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
                say!("{}", client::outdated(&differs));
            }
        }
    }
    Ok((running, started))
}

/// A sandbox for this command alone.
async fn own(config: Config, progress: &Progress) -> anyhow::Result<Attached> {
    let sandbox = Sandbox::new(config).await?;
    progress.say("starting a sandbox for this command alone, which is removed after it");
    tell_git(sandbox.config());
    let guest = tokio::select! {
        guest = sandbox.guest(progress) => guest.map_err(anyhow::Error::from),
        signal = super::signals::terminated() => Err(Interrupted(signal).into()),
    };
    match guest {
        Ok(guest) => Ok(Attached {
            guest,
            timeline: Some(sandbox.timeline().clone().of(COMMAND_LINE)),
            told: Told {
                lacks: sandbox.lacks(),
                notes: sandbox.take_notes(),
            },
            host: Host::Own(sandbox),
        }),
        Err(error) => {
            sandbox.stop().await;
            Err(error)
        }
    }
}

/// Where commands start: in the directory of the workspace that this process is in.
pub(super) fn directory(config: &Config) -> Option<String> {
    let workspace = &config.sandbox.workspace;
    workspace.shared().or(workspace.copied())?;
    let below = &config.subdirectory;
    (!below.as_os_str().is_empty()).then(|| guest_path(below))
}

/// A path as the guest's requests name it: text, or a URI for one that is not UTF-8.
pub(super) fn guest_path(path: &Path) -> String {
    path.to_str().map_or_else(
        || {
            let path = Path::new(WORKSPACE).join(path);
            let bytes = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
            let parts: Vec<String> = bytes
                .map(|part| percent_encode(part, NON_ALPHANUMERIC).to_string())
                .collect();
            format!("file://{}", parts.join("/"))
        },
        str::to_owned,
    )
}

/// The user to act as.
pub(super) fn user(root: bool) -> User {
    if root { User::Root } else { User::Sandbox }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_that_is_no_text_is_named_by_its_bytes() {
        let odd = OsStr::from_bytes(b"a b/\xff%");
        assert_eq!(guest_path(Path::new("a b/%")), "a b/%");
        assert_eq!(guest_path(Path::new(odd)), "file:///workspace/a%20b/%FF%25");
        assert_eq!(
            guest_path(&Path::new("/srv").join(odd)),
            "file:///srv/a%20b/%FF%25"
        );
    }
}
