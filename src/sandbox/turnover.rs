//! One machine making way for another, and for none. None of it depends on the guest that goes.

use std::sync::Arc;
use std::time::Duration;

use snowglobe_init::wire::Request;
use snowglobe_runner::Action;

use super::state::{Live, StartPoint, State};
use super::{STOP_GRACE, Sandbox, SandboxError};
use crate::machine::CONSOLE_LOG;
use crate::progress::Progress;

/// How long a guest may take to have its commands stand still, and to write what they wrote. What the guest does not do
/// in time is lost with it, as it would be without asking.
const FREEZE: Duration = Duration::from_secs(10);

/// How long the end of all commands may take beyond the time that they have for it.
const END: Duration = Duration::from_millis(300);

impl Sandbox {
    /// Boots a machine in another's place. The new one is up before the old one goes, which stands still meanwhile; if
    /// it does not come up, the old one goes on.
    pub(super) async fn replace(
        self: &Arc<Self>,
        from: StartPoint,
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
            if let Some(live) = &old {
                pause(live).await;
            }
            self.view.booted(self.boot(from, progress).await)
        };
        match self.unless_stopped(booting).await {
            Ok(live) => {
                self.set(&mut state, State::Running(Arc::new(live)));
                self.ahead.forget();
                if let Some(old) = old {
                    let _ = old.replaced.set(what);
                    old.machine.stop().await;
                }
                Ok(())
            }
            Err(SandboxError::Stopped) => Err(SandboxError::Stopped),
            Err(error) => {
                if let Some(live) = &old {
                    self.view.booting(live.vm_dir.path().join(CONSOLE_LOG));
                    self.instance.set_keys(&live.machine.keys)?;
                    self.stopping.run_until_cancelled(resume(live)).await;
                }
                Err(error)
            }
        }
    }

    /// Has commands end in order, then kills the VM and removes what it left. Idempotent.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let mut state = self.state.lock().await;
        let old = self.set(&mut state, State::Stopped);
        drop(state);
        if let State::Running(live) = old {
            end_commands(&live).await;
            live.machine.stop().await;
        }
    }
}

/// Gives commands the time to leave the workspace as they should: without half-written files and locks.
async fn end_commands(live: &Live) {
    // What stands still, or was ended, ends nothing.
    let told = async {
        let guest = live.machine.guest().await?;
        Ok::<_, SandboxError>(guest.ask(&Request::End).await?)
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(STOP_GRACE + END, told) => ended,
        _ = live.machine.vm.stalled() => return,
    };
    match ended {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "commands were not told to end"),
        Err(_) => tracing::debug!("commands did not end in time"),
    }
}

/// Stops everything in a machine where it stands, so that it does not go on changing the workspace beside another. The
/// guest is asked first, for what it has not written yet; then the engine stands still, whatever the guest says.
async fn pause(live: &Live) {
    let asked = async {
        let guest = live.machine.guest().await?;
        Ok::<_, SandboxError>(guest.ask(&Request::Freeze).await?)
    };
    if !matches!(tokio::time::timeout(FREEZE, asked).await, Ok(Ok(_))) {
        tracing::warn!("the guest did not write what it holds back before it was stopped");
    }
    if let Err(error) = live.machine.vm.command(Action::Pause).await {
        tracing::warn!(%error, "the VM could not be stopped where it stands");
    }
}

/// Has it go on.
async fn resume(live: &Live) {
    if let Err(error) = live.machine.vm.command(Action::Resume).await {
        tracing::warn!(%error, "the VM could not be let go on");
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
