//! The rules that protect the shared workspace: as they are now, their changes, and the changes of files that they refused.

use std::sync::Arc;

use snowglobe_runner::protection::Protection;
use snowglobe_runner::{Action, Answer};

use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::config;
use crate::review::report::Step;
use crate::timeline::{Event, Paths, bounded};
use crate::workspace::{Change, Effects, Refusals};

impl Sandbox {
    /// How its workspace is protected now.
    pub fn protection(&self) -> Protection {
        self.protected.now()
    }

    /// Changes the effects of rules, at once; `once`: until [`Self::take_back_effects`]. Waits for a boot that is under way.
    pub async fn change_protection(
        self: &Arc<Self>,
        effects: &Effects,
        once: bool,
    ) -> Result<Protection, SandboxError> {
        // A machine that boots has the rules as they were at its beginning.
        let _unchanged = self.lock().await?;
        let now = self.protect(self.protected.changed(effects, once)).await?;
        self.timeline.add(Event::Protection {
            effects: effects.clone(),
        });
        Ok(now)
    }

    /// Takes back what a person allowed for one command.
    pub async fn take_back_effects(self: &Arc<Self>) -> Result<(), SandboxError> {
        let _unchanged = self.lock().await?;
        self.protect(self.protected.without_once()).await.map(drop)
    }

    async fn protect(&self, change: Change) -> Result<Protection, SandboxError> {
        if let Some(live) = self.published.running() {
            let rules = change.rules.clone();
            live.machine.vm.request(Action::Protect { rules }).await?;
        }
        self.protected.set(change);
        let (instance, now) = (self.instance.clone(), self.protected.now());
        let settings = config::of_protection(&now);
        if let Err(error) = blocking(move || instance.set_settings(settings)).await {
            tracing::warn!("failed to {}", crate::describe(&error));
        }
        self.view.changed();
        Ok(now)
    }

    /// The refused changes since a cursor. Without one: none, but where the next one will be.
    pub async fn refused_changes(&self, cursor: Option<u64>) -> Result<Refusals, SandboxError> {
        if self.workspace().shared().is_some()
            && let Some(live) = self.published.running()
            && let Answer::Changes {
                made,
                more,
                refused,
                lost,
            } = live.machine.vm.request(Action::TakeChanges).await?
        {
            if !made.is_empty() || more > 0 {
                let what = |removed| match removed {
                    true => "removed",
                    false => "written",
                };
                let steps = made.into_iter().map(|made| Step {
                    what: what(made.removed).to_owned(),
                    path: made.path,
                });
                self.timeline.add(Event::Changed {
                    paths: Paths::of(&steps.collect::<Vec<_>>()),
                    more,
                });
            }
            for refusal in &refused {
                self.timeline.add(Event::Refused {
                    rule: bounded(&refusal.rule),
                    path: bounded(&refusal.what),
                    count: refusal.count,
                });
            }
            self.protected.add(refused, lost);
        }
        let cursor = cursor.unwrap_or_else(|| self.protected.cursor());
        Ok(self.protected.since(cursor))
    }
}
