//! Replacing a machine by another one, and stopping it. Neither depends on the old guest's cooperation.

use std::sync::Arc;
use std::time::Duration;

use snowglobe_init::wire::Request;
use snowglobe_runner::Action;

use super::state::{DiskOf, Event as Change, Live, StartPoint, State};
use super::unapplied::Keep;
use super::{STOP_GRACE, Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::disk::CopiedWorkspace;
use crate::machine::CONSOLE_LOG;
use crate::progress::Progress;
use crate::timeline::Event;

/// How long a guest may take to freeze its commands and to write its caches. What it has not written by then is lost
/// with the machine.
const FREEZE: Duration = Duration::from_secs(10);

/// How long the guest may take to report that all commands ended, beyond their own grace period.
const END: Duration = Duration::from_millis(300);

/// The same where the guest also writes the workspace to its own disk.
const WRITE: Duration = Duration::from_secs(4);

impl Sandbox {
    /// Boots a new machine and stops the old one, which is paused meanwhile. If the new one does not come up, the old one
    /// goes on. With `keep`, the old one is saved as an automatic snapshot first.
    pub(super) async fn replace(
        self: &Arc<Self>,
        from: StartPoint,
        keep: Option<&Keep>,
        what: &'static str,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let mut state = self.lock().await?;
        let old = match &*state {
            State::Running(live) if live.runs() => Some(live.clone()),
            State::Stopped => return Err(SandboxError::Stopped),
            State::Running(_) | State::Off => None,
        };
        let booting = async {
            let carried = match &old {
                Some(live) => Box::pin(self.pause(live, keep, progress)).await?,
                None => {
                    if let Some(keep) = keep {
                        self.save_left(keep).await?;
                    }
                    None
                }
            };
            // A boot is a large future.
            Box::pin(self.boot(from, carried, progress)).await
        };
        let booted = match self.unless_stopped(booting).await {
            Err(SandboxError::Stopped) => return Err(SandboxError::Stopped),
            booted => self.booted(&mut state, booted),
        };
        match booted {
            Ok(_) => {
                self.read_ahead.forget();
                if let Some(old) = old {
                    old.replaced.set(what).ok();
                    self.view.replaced(what);
                    let how = what.to_owned();
                    self.timeline.add(Event::Ended { how });
                    old.machine.stop().await;
                }
                Ok(())
            }
            Err(error) => {
                if let Some(live) = &old {
                    self.view.booting(live.vm_dir.path().join(CONSOLE_LOG));
                    // In any case the old machine goes on; without its keys only other programs can't join it.
                    if let Err(error) = self.set_keys(&live.machine).await {
                        tracing::warn!(%error, "the keys of the sandbox were not written");
                    }
                    if let Err(error) = self.note_copy(live, None).await {
                        tracing::warn!(%error, "the layers of the workspace were not noted down");
                    }
                    self.stopping.run_until_cancelled(resume(live)).await;
                }
                Err(error)
            }
        }
    }

    /// Ends commands in order, then kills the VM and removes its files. Idempotent.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.network.ports.close_all();
        let mut state = self.state.lock().await;
        let old = self.published.change(&mut state, Change::Stop);
        drop(state);
        if let Ok(Some(live)) = old {
            end_commands(&live).await;
            self.note_unapplied(&live).await;
            live.machine.stop().await;
            let how = "stopped".to_owned();
            self.timeline.add(Event::Ended { how });
        }
        // Now, not when the last task that holds the sandbox ends: the process may exit before.
        let instance = self.instance.clone();
        blocking(move || instance.remove()).await;
    }

    /// Pauses a machine, so that it does not change the workspace beside its successor; gives the disk of a workspace that
    /// is a copy, frozen. The guest is asked to write its caches first; then the engine is stopped, whatever the guest
    /// answers.
    async fn pause(
        &self,
        live: &Live,
        keep: Option<&Keep>,
        progress: &Progress,
    ) -> Result<Option<CopiedWorkspace>, SandboxError> {
        if let Some(keep) = keep {
            self.prepare_kept(keep, live, progress).await?;
        }
        let asked = async {
            let guest = live.machine.guest().await?;
            Ok::<_, SandboxError>(guest.ask(&Request::Freeze).await?)
        };
        if !matches!(tokio::time::timeout(FREEZE, asked).await, Ok(Ok(_))) {
            tracing::warn!("the guest did not write its caches before it was paused");
        }
        let root = match keep {
            Some(_) => Some(self.freeze_disk(live, DiskOf::Root).await?),
            None => None,
        };
        let frozen = self.freeze_copy(live).await?;
        if let Err(error) = live.machine.vm.request(Action::Pause).await {
            tracing::warn!(%error, "the VM could not be paused");
        }
        if let (Some(keep), Some(root)) = (keep, root) {
            self.save_kept(keep, live, (root, frozen.clone())).await?;
        }
        Ok(frozen)
    }
}

/// Gives commands time to leave the workspace in order, without half-written files and locks.
async fn end_commands(live: &Live) {
    let patience = match live.workspace {
        Some(_) => WRITE,
        None => END,
    };
    // A VM that stands still or has ended does not answer.
    let told = async {
        let guest = live.machine.guest().await?;
        Ok::<_, SandboxError>(guest.ask(&Request::End).await?)
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(STOP_GRACE + patience, told) => ended,
        _ = live.machine.vm.stalled() => return,
    };
    match ended {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "commands were not told to end"),
        Err(_) => tracing::debug!("commands did not end in time"),
    }
}

/// Lets a paused machine go on.
async fn resume(live: &Live) {
    if let Err(error) = live.machine.vm.request(Action::Resume).await {
        tracing::warn!(%error, "the VM could not be resumed");
    }
    let thawed = async {
        let guest = live.machine.guest().await?;
        Ok::<_, SandboxError>(guest.ask(&Request::Thaw).await?)
    };
    // A guest that can't be reached thaws by itself.
    if !matches!(tokio::time::timeout(FREEZE, thawed).await, Ok(Ok(_))) {
        tracing::warn!("the guest did not confirm that it goes on");
    }
}
