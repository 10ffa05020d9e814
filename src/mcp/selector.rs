//! Which sandbox a call acts on.
//!
//! Over stdio it is the server's only one. Over HTTP each session has its own, made at its first call and removed with the
//! session. A client without sessions names a sandbox by an unguessable handle; a call without a handle gets a new sandbox
//! and learns its handle from the result.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::fleet::{Fleet, FleetError, Lease, Lost};
use crate::mcp::facts::Facts;
use crate::mcp::refusal::Refusal;
use crate::sandbox::Sandbox;

/// Selects the sandbox of each call of one client.
pub(crate) enum Selector {
    /// The server has one sandbox.
    Single { sandbox: Arc<Sandbox>, facts: Facts },
    /// The server has a fleet; `own` is the handle of the client's session, after its first call.
    Fleet {
        fleet: Arc<Fleet>,
        facts: Facts,
        own: Mutex<Option<String>>,
        /// Held by the call that finds or makes the session's slot.
        opening: tokio::sync::Mutex<()>,
    },
}

impl Selector {
    /// For a server with one sandbox.
    pub(crate) fn single(sandbox: Arc<Sandbox>) -> Self {
        let facts = Facts::of_sandbox(&sandbox);
        Self::Single { sandbox, facts }
    }

    /// For a client over HTTP.
    pub(crate) fn fleet(fleet: Arc<Fleet>) -> Self {
        Self::Fleet {
            facts: Facts::of(fleet.config()),
            fleet,
            own: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Whether calls may name a sandbox.
    pub(crate) fn has_fleet(&self) -> bool {
        matches!(self, Self::Fleet { .. })
    }

    /// The configuration of every sandbox.
    pub(crate) fn config(&self) -> &Config {
        match self {
            Self::Single { sandbox, .. } => sandbox.config(),
            Self::Fleet { fleet, .. } => fleet.config(),
        }
    }

    /// The facts about every sandbox.
    pub(crate) fn facts(&self) -> &Facts {
        match self {
            Self::Single { facts, .. } => facts,
            Self::Fleet { facts, .. } => facts,
        }
    }

    /// The sandbox of a handle, or else the client's own, if it exists. This neither starts nor keeps a sandbox.
    pub(crate) fn peek(&self, handle: Option<&str>) -> Option<Arc<Sandbox>> {
        match (self, handle) {
            (Self::Single { sandbox, .. }, _) => Some(sandbox.clone()),
            (Self::Fleet { fleet, .. }, Some(handle)) => fleet.peek(handle),
            (Self::Fleet { fleet, own, .. }, None) => {
                let own = lock(own).clone();
                fleet.peek(&own?)
            }
        }
    }

    /// The sandbox for a call that names one by its handle, or none. `session`: whether the client has a session.
    pub(crate) async fn lease(
        &self,
        handle: Option<&str>,
        session: bool,
    ) -> Result<Lease, Refusal> {
        let (fleet, own, opening) = match self {
            Self::Single { sandbox, .. } => return Ok(Lease::only(sandbox.clone())),
            Self::Fleet {
                fleet,
                own,
                opening,
                ..
            } => (fleet, own, opening),
        };
        if let Some(handle) = handle {
            return Ok(fleet.lease(handle).await?);
        }
        if !session {
            return Ok(fleet.lease_new(None).await?);
        }
        // Calls at the same time must not open two slots for one session.
        let _opening = opening.lock().await;
        let handle = lock(own).clone();
        let lost = match handle {
            Some(handle) => match fleet.lease(&handle).await {
                // The slot has expired, and its snapshots with it.
                Err(FleetError::Unknown { .. }) => Some(Lost::All),
                found => return Ok(found?.for_session()),
            },
            None => None,
        };
        let lease = fleet.lease_new(lost).await?;
        *lock(own) = Some(lease.handle().to_owned());
        Ok(lease.for_session())
    }
}

/// The handle of the session.
fn lock(own: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Selector {
    fn drop(&mut self) {
        if let Self::Fleet { fleet, own, .. } = self
            && let Some(handle) = own.get_mut().unwrap_or_else(PoisonError::into_inner)
        {
            fleet.close(handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::fleet::tests::Home;

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_of_a_session_at_the_same_time_share_its_sandbox() {
        let home = Home::new(4).await;
        let selector = Selector::fleet(home.fleet.clone());
        assert!(selector.peek(None).is_none());
        let leases = join_all((0..8).map(|_| selector.lease(None, true))).await;
        let handles: Vec<_> = leases
            .iter()
            .map(|lease| lease.as_ref().ok().map(Lease::handle))
            .collect();
        assert!(handles[0].is_some() && handles.iter().all(|handle| *handle == handles[0]));
        assert!(selector.peek(None).is_some());
        assert_eq!(home.fleet.count(), 1);
        drop(selector);
        assert_eq!(home.fleet.count(), 0);
        home.fleet.stop().await;
    }
}
