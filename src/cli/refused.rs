//! Changes of the workspace that a command was refused: said after it, and asked about where a person types.

use snowglobe_runner::protection::Effect;

use super::attach::{Attached, Host};
use super::{confirm, terminal};
use crate::client;
use crate::mcp::protect::{in_words, wish};
use crate::workspace::{Effects, Refusals};

/// From where on refusals are those of a command; none if that can't be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(Option<u64>);

/// To be called before the command.
pub(super) async fn before(attached: &Attached) -> Before {
    let refusals = refusals(attached, None).await;
    Before(refusals.map(|refusals| refusals.next))
}

async fn refusals(attached: &Attached, since: Option<u64>) -> Option<Refusals> {
    let refusals = match &attached.host {
        Host::Kept(running) => client::refusals(running, since)
            .await
            .map_err(anyhow::Error::from),
        Host::Own(sandbox) => sandbox
            .refused_changes(since)
            .await
            .map_err(anyhow::Error::from),
    };
    // The command's own end says if the machine has ended.
    refusals
        .inspect_err(|error| tracing::debug!("failed to {error:#}"))
        .ok()
}

impl Before {
    /// Says what was refused since then. Where a rule has a person asked, and one is there, asks whether to allow it.
    pub(super) async fn tell(self, attached: &Attached) {
        let Some(since) = self.0 else { return };
        let Some(refusals) = refusals(attached, Some(since)).await else {
            return;
        };
        for line in in_words(&refusals) {
            say!("{line}");
        }
        let Host::Kept(running) = &attached.host else {
            return;
        };
        let Some(wish) = wish(&refusals, |_| false).filter(|_| terminal::is_there()) else {
            return;
        };
        match confirm::agrees(&format!("{} Until the sandbox is stopped?", wish.question)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return say!("failed to ask: {error}"),
        }
        let effects: Effects = wish
            .rules
            .into_iter()
            .map(|rule| (rule, Effect::Allow))
            .collect();
        match client::protection(running, Some(effects)).await {
            Ok(_) => say!("allowed; run the command again"),
            Err(error) => say!("failed to allow it: {}", crate::describe(&error)),
        }
    }
}
