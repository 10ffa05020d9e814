//! Which sandbox a call acts on.
//!
//! Over stdio it is the server's only one. Over HTTP each session has its own, made at its first call and removed with the
//! session. A client without sessions names a sandbox by an unguessable handle; a call without a handle gets a new sandbox
//! and learns its handle from the result.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Config;
use crate::fleet::{Fleet, Lease, Lost};
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
    },
}

impl Selector {
    /// For a server with one sandbox.
    pub(crate) fn single(sandbox: Arc<Sandbox>) -> Self {
        let facts = Facts::of(sandbox.config());
        Self::Single { sandbox, facts }
    }

    /// For a client over HTTP.
    pub(crate) fn fleet(fleet: Arc<Fleet>) -> Self {
        Self::Fleet {
            facts: Facts::of(fleet.config()),
            fleet,
            own: Mutex::default(),
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
                let own = own.lock().unwrap_or_else(PoisonError::into_inner);
                fleet.peek(own.as_deref()?)
            }
        }
    }

    /// The sandbox for a call that names one by its handle, or none. `session`: whether the client has a session.
    pub(crate) fn lease(&self, handle: Option<&str>, session: bool) -> Result<Lease, Refusal> {
        let (fleet, own) = match self {
            Self::Single { sandbox, .. } => return Ok(Lease::only(sandbox.clone())),
            Self::Fleet { fleet, own, .. } => (fleet, own),
        };
        if let Some(handle) = handle {
            let found = fleet.lease(handle);
            return Ok(found.unwrap_or_else(|| Err(fleet.unknown(handle)))?);
        }
        if !session {
            return Ok(fleet.lease_new(None)?);
        }
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = match own.as_deref().map(|handle| fleet.lease(handle)) {
            Some(Some(found)) => found?,
            // The slot has expired, and its snapshots with it.
            Some(None) => fleet.lease_new(Some(Lost::All))?,
            None => fleet.lease_new(None)?,
        };
        *own = Some(lease.handle().to_owned());
        Ok(lease.for_session())
    }
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
