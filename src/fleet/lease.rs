//! The use of a sandbox by a call, and the place for a sandbox that a call makes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::FleetError;
use super::table::{Lost, Table};
use crate::disk::Store;
use crate::sandbox::{Sandbox, SandboxError};

/// The slots of a fleet. Leases and reservations change them when they end.
pub(super) struct Slots {
    table: Mutex<Table<Arc<Sandbox>, Store>>,
    /// How long a sandbox without calls is kept.
    idle: Duration,
}

impl Slots {
    pub(super) fn new(limit: usize, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table::new(limit)),
            idle,
        })
    }

    /// The table. Its lock is never held over disk work.
    pub(super) fn table(&self) -> MutexGuard<'_, Table<Arc<Sandbox>, Store>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox that a call uses. While it exists, the sandbox does not count as idle.
pub(crate) struct Lease {
    pub(crate) sandbox: Arc<Sandbox>,
    handle: String,
    slots: Option<Arc<Slots>>,
    /// Whether the client knows the handle, or does not need it.
    handle_known: bool,
    /// Whether the client's session stands for the sandbox.
    session: bool,
}

impl Lease {
    /// A lease of a server's only sandbox.
    pub(crate) fn only(sandbox: Arc<Sandbox>) -> Self {
        Self {
            sandbox,
            handle: String::new(),
            slots: None,
            handle_known: true,
            session: true,
        }
    }

    /// A lease of a sandbox that the table counts as used for it. `known`: whether the client knows the handle.
    pub(super) fn of(
        slots: Arc<Slots>,
        sandbox: Arc<Sandbox>,
        handle: String,
        known: bool,
    ) -> Self {
        Self {
            sandbox,
            handle,
            slots: Some(slots),
            handle_known: known,
            session: false,
        }
    }

    /// The same lease, for a client whose session stands for the sandbox.
    pub(crate) fn for_session(mut self) -> Self {
        self.handle_known = true;
        self.session = true;
        self
    }

    pub(crate) fn handle(&self) -> &str {
        &self.handle
    }

    /// The handle that resource addresses must name, for a client without a session.
    pub(crate) fn handle_for_addresses(&self) -> Option<&str> {
        (!self.session && self.slots.is_some()).then_some(self.handle.as_str())
    }

    /// What was lost before this call, and after which idle time; only the first caller gets it.
    pub(crate) fn take_loss(&self) -> Option<(Lost, Duration)> {
        let slots = self.slots.as_ref()?;
        let lost = slots.table().take_loss(&self.handle)?;
        Some((lost, slots.idle))
    }

    /// The handle, if the client does not know it yet.
    pub(crate) fn new_handle(&self) -> Option<&str> {
        (!self.handle_known).then_some(self.handle.as_str())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(slots) = &self.slots {
            slots.table().release(&self.handle, Instant::now());
        }
    }
}

/// The place for a sandbox that a call makes. Dropping it gives the place back, and lets others make one there.
pub(super) struct Reservation {
    slots: Arc<Slots>,
    handle: String,
    published: bool,
    // Wakes the calls that wait for the sandbox; dropped after the table was changed.
    _done: DropGuard,
}

impl Reservation {
    pub(super) fn new(slots: Arc<Slots>, handle: String, done: CancellationToken) -> Self {
        Self {
            slots,
            handle,
            published: false,
            _done: done.drop_guard(),
        }
    }

    /// Puts the sandbox into its place, and leases it to the caller. `known`: whether the client knows the handle.
    pub(super) fn publish(
        mut self,
        sandbox: Arc<Sandbox>,
        store: Store,
        known: bool,
    ) -> Result<Lease, FleetError> {
        let published = self
            .slots
            .table()
            .publish(&self.handle, sandbox.clone(), store);
        match published {
            Ok(()) => {
                self.published = true;
                let (slots, handle) = (self.slots.clone(), self.handle.clone());
                Ok(Lease::of(slots, sandbox, handle, known))
            }
            // The slot was closed meanwhile. No machine has booted in this sandbox, so dropping it removes all of it.
            Err(_unused) => Err(SandboxError::Stopped.into()),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.published {
            let removed = self.slots.table().give_back(&self.handle, Instant::now());
            drop(removed);
        }
    }
}
