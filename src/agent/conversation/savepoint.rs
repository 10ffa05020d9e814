//! States of the machine to go back to.
//!
//! Before the first change of a turn the machine is saved. Few states are kept; the oldest are deleted first.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Conversation;
use crate::agent::message::{Call, Content};
use crate::agent::session::{Body, EntryId};

/// How many are kept of a session.
const KEPT: usize = 10;

impl Conversation {
    /// The states of the present branch, each with the entry that says so, the oldest first.
    fn saved(&self) -> Vec<(EntryId, String)> {
        let branch = self.session.branch().into_iter();
        let saved = branch.filter_map(|(entry, body)| match body {
            Body::Snapshot(name) => Some((entry, name.clone())),
            _ => None,
        });
        saved.collect()
    }

    /// The machine's state just before an entry: the first that was saved after it.
    pub(super) fn saved_after(&self, entry: EntryId) -> Option<String> {
        let saved = self.saved();
        let mut kept = saved.into_iter().rev().take(KEPT).rev();
        kept.find(|(at, _)| *at > entry).map(|(_, name)| name)
    }

    /// Saves the machine before the first change of a turn.
    pub(super) async fn save_before_change(&mut self, cancel: &CancellationToken) {
        if std::mem::replace(&mut self.turn_is_saved, true) || self.cannot_save {
            return;
        }
        let name = format!(
            "agent-{}-{:06x}",
            self.session.id(),
            rand::random::<u32>() >> 8
        );
        if let Err(why) = self.snapshot("save", &name, cancel).await {
            match cancel.is_cancelled() {
                true => self.turn_is_saved = false,
                false => {
                    self.cannot_save = true;
                    self.notice(&format!(
                        "the machine can't be saved before changes, so `go back` covers the conversation only: {why}"
                    ));
                }
            }
            return;
        }
        if let Err(error) = self.session.append(Body::Snapshot(name)) {
            self.failed(&error.into());
        }
        let saved = self.saved();
        if let Some(surplus) = saved.len().checked_sub(KEPT + 1)
            && let Err(why) = self.snapshot("delete", &saved[surplus].1, cancel).await
        {
            tracing::debug!(why, "an old state of the machine stays");
        }
    }

    /// Restores the machine.
    pub(super) async fn restore(&mut self, name: &str) -> Result<(), String> {
        self.snapshot("restore", name, &CancellationToken::new())
            .await
    }

    async fn snapshot(
        &mut self,
        action: &str,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        let call = Call {
            id: "savepoint".into(),
            name: "snapshot".into(),
            arguments: json!({"action": action, "name": name}),
        };
        let servers = self.servers.clone();
        let result = self
            .attend(cancel, servers.call(&call, &|_| {}, cancel))
            .await;
        match (result.is_error, result.content.into_iter().next()) {
            (false, _) => Ok(()),
            (true, Some(Content::Text(why))) => Err(why),
            (true, _) => Err(format!("{action} the state {name}")),
        }
    }
}
