//! The sandbox's network: its rules as they are now, and changes of them.

use std::sync::Arc;

use super::{Sandbox, SandboxError};
use crate::blocking::blocking;
use crate::config;
use crate::network::live::{Live, Status};
use crate::network::settings::{Change, Settings};
use crate::timeline::Event;

impl Sandbox {
    /// Its network.
    pub fn network(&self) -> &Live {
        &self.network
    }

    /// Changes what it may reach, at once. Programs that join the sandbox see it as one that was started so.
    pub async fn change_network(
        self: &Arc<Self>,
        change: &Change,
        origin: &str,
    ) -> Result<Status, SandboxError> {
        let settings = self.network.change(change, origin)?;
        self.timeline.add(Event::Network {
            allow: change.allow.clone(),
            deny: change.deny.clone(),
        });
        self.note_network(settings).await;
        Ok(self.network.status())
    }

    /// Takes back what a person allowed for one command; open connections there are closed.
    pub async fn take_back_once(self: &Arc<Self>) -> Result<(), SandboxError> {
        let settings = self.network.take_back_once()?;
        self.note_network(settings).await;
        Ok(())
    }

    async fn note_network(&self, settings: Settings) {
        let instance = self.instance.clone();
        let noted = blocking(move || instance.set_settings(config::of_network(&settings))).await;
        if let Err(error) = noted {
            tracing::warn!("failed to {}", crate::describe(&error));
        }
        self.view.changed();
    }
}
