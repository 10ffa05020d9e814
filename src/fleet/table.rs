//! The slots of a fleet by handle, and what each step does to them. Pure: no step waits or works on the disk.
//!
//! ```text
//!              reserve                publish
//!   no sandbox ──────▶ being made ─────────────▶ has a sandbox
//!       ▲                  │                          │
//!       └──────────────────┴──────────────────────────┘
//!                give back              stop
//! ```
//!
//! Invariants: a sandbox that is being made counts towards the limit, so calls at the same time can't exceed it; a slot
//! has one sandbox at most, and only one call at a time makes it. A slot that is removed comes back to the caller, who
//! drops it without the table's lock: that removes snapshots from the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::policy;

/// What a slot lost with a stopped sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The system.
    System,
    /// The system and all snapshots.
    All,
}

/// The sandbox of a slot.
#[derive(Debug)]
pub(super) enum Content<S> {
    /// None: it was stopped.
    Empty,
    /// A call makes it; the token fires when that call is done.
    Making(CancellationToken),
    /// This one.
    Ready(S),
}

#[derive(Debug)]
pub(super) struct Slot<S, T> {
    pub(super) content: Content<S>,
    /// The snapshots of all sandboxes that this slot has had; none before the first was made.
    pub(super) store: Option<T>,
    /// A loss that no result has reported yet.
    lost: Option<Lost>,
    /// How many calls use the sandbox now, or make it.
    uses: usize,
    /// When the last use ended, or the sandbox was stopped.
    since: Instant,
    /// Whether the guest is being asked for running jobs, before the sandbox is stopped.
    checking: bool,
}

impl<S, T> Slot<S, T> {
    fn state(&self) -> policy::SlotState {
        policy::SlotState {
            has_sandbox: matches!(self.content, Content::Ready(_)),
            uses: self.uses,
            since: self.since,
            checking: self.checking,
        }
    }
}

/// Why a call gets no sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// All sandboxes that there may be are in use or being made.
    Full,
    /// No slot has the handle.
    Unknown,
    /// The fleet is being stopped.
    Closed,
}

/// What a call for a slot's sandbox gets.
#[derive(Debug)]
pub(super) enum Found<S, T> {
    /// The sandbox, in use from here on.
    Ready(S),
    /// Another call makes it, until this token fires.
    Making(CancellationToken),
    /// The duty to make it, with snapshots in this store: to publish it, or else to give the place back. The token is to
    /// fire after that.
    Reserved(Option<T>, CancellationToken),
}

/// A sandbox without calls, whose guest is to be asked for jobs.
#[derive(Debug)]
pub(super) struct Idle<S> {
    pub(super) handle: String,
    /// When the last use ended.
    pub(super) since: Instant,
    pub(super) sandbox: S,
}

/// All slots of a fleet; `S`: a sandbox, `T`: a store of snapshots.
#[derive(Debug)]
pub(super) struct Table<S, T> {
    slots: HashMap<String, Slot<S, T>>,
    /// How many sandboxes there may be.
    limit: usize,
    closed: bool,
}

impl<S: Clone, T: Clone> Table<S, T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: HashMap::new(),
            limit,
            closed: false,
        }
    }

    /// How many sandboxes there are, with those that are being made.
    pub(super) fn count(&self) -> usize {
        let taken = |slot: &&Slot<S, T>| !matches!(slot.content, Content::Empty);
        self.slots.values().filter(taken).count()
    }

    /// Every sandbox that is there now.
    pub(super) fn all(&self) -> Vec<S> {
        let ready = self.slots.values().filter_map(|slot| match &slot.content {
            Content::Ready(sandbox) => Some(sandbox.clone()),
            Content::Making(_) | Content::Empty => None,
        });
        ready.collect()
    }

    fn check_room(&self) -> Result<(), Refused> {
        match (self.closed, self.count() >= self.limit) {
            (true, _) => Err(Refused::Closed),
            (false, true) => Err(Refused::Full),
            (false, false) => Ok(()),
        }
    }

    /// Reserves a sandbox in a new slot, as [`Found::Reserved`].
    pub(super) fn reserve_new(
        &mut self,
        handle: String,
        lost: Option<Lost>,
        now: Instant,
    ) -> Result<CancellationToken, Refused> {
        self.check_room()?;
        let done = CancellationToken::new();
        let slot = Slot {
            content: Content::Making(done.clone()),
            store: None,
            lost,
            uses: 1,
            since: now,
            checking: false,
        };
        self.slots.insert(handle, slot);
        Ok(done)
    }

    /// The sandbox of a slot; a place for a new one if it was stopped.
    pub(super) fn find(&mut self, handle: &str) -> Result<Found<S, T>, Refused> {
        let room = self.check_room();
        let slot = self.slots.get_mut(handle).ok_or(Refused::Unknown)?;
        let found = match &slot.content {
            Content::Making(done) => return Ok(Found::Making(done.clone())),
            Content::Ready(sandbox) => Found::Ready(sandbox.clone()),
            Content::Empty => {
                room?;
                let done = CancellationToken::new();
                slot.content = Content::Making(done.clone());
                Found::Reserved(slot.store.clone(), done)
            }
        };
        slot.uses += 1;
        Ok(found)
    }

    /// Puts a sandbox into the place reserved for it, in use by the call that made it. Gives both back if the slot is gone.
    pub(super) fn publish(&mut self, handle: &str, sandbox: S, store: T) -> Result<(), (S, T)> {
        match self.slots.get_mut(handle) {
            Some(slot) if matches!(slot.content, Content::Making(_)) => {
                slot.content = Content::Ready(sandbox);
                slot.store = Some(store);
                Ok(())
            }
            _ => Err((sandbox, store)),
        }
    }

    /// Gives back a place for a sandbox that was not made. A slot that never had one is removed.
    pub(super) fn give_back(&mut self, handle: &str, now: Instant) -> Option<Slot<S, T>> {
        let slot = self.slots.get_mut(handle)?;
        if !matches!(slot.content, Content::Making(_)) {
            return None;
        }
        slot.content = Content::Empty;
        slot.uses = slot.uses.saturating_sub(1);
        slot.since = now;
        match slot.store {
            Some(_) => None,
            None => self.slots.remove(handle),
        }
    }

    /// A call no longer uses the slot's sandbox.
    pub(super) fn release(&mut self, handle: &str, now: Instant) {
        if let Some(slot) = self.slots.get_mut(handle) {
            slot.uses = slot.uses.saturating_sub(1);
            slot.since = now;
        }
    }

    /// The sandbox of a slot, if it has one now.
    pub(super) fn peek(&self, handle: &str) -> Option<S> {
        match &self.slots.get(handle)?.content {
            Content::Ready(sandbox) => Some(sandbox.clone()),
            Content::Making(_) | Content::Empty => None,
        }
    }

    /// The loss that no result has reported yet.
    pub(super) fn take_loss(&mut self, handle: &str) -> Option<Lost> {
        self.slots.get_mut(handle)?.lost.take()
    }

    /// Removes a slot.
    pub(super) fn close(&mut self, handle: &str) -> Option<Slot<S, T>> {
        self.slots.remove(handle)
    }

    /// Removes all slots, for good.
    pub(super) fn close_all(&mut self) -> Vec<Slot<S, T>> {
        self.closed = true;
        self.slots.drain().map(|(_, slot)| slot).collect()
    }

    /// The sandboxes that have been without calls for `idle`; none is given again before [`Table::checked`].
    pub(super) fn check_idle(&mut self, now: Instant, idle: Duration) -> Vec<Idle<S>> {
        let mut found = Vec::new();
        for (handle, slot) in &mut self.slots {
            if policy::is_idle(slot.state(), now, idle)
                && let Content::Ready(sandbox) = &slot.content
            {
                slot.checking = true;
                found.push(Idle {
                    handle: handle.clone(),
                    since: slot.since,
                    sandbox: sandbox.clone(),
                });
            }
        }
        found
    }

    /// Ends a check. Without jobs, and without a call meanwhile, the sandbox is taken out of its slot, to be stopped.
    pub(super) fn checked(
        &mut self,
        idle: &Idle<S>,
        has_jobs: bool,
        lost: Option<Lost>,
        now: Instant,
    ) -> Option<S> {
        let slot = self.slots.get_mut(&idle.handle)?;
        slot.checking = false;
        if has_jobs || slot.uses > 0 || slot.since != idle.since {
            return None;
        }
        let Content::Ready(sandbox) = std::mem::replace(&mut slot.content, Content::Empty) else {
            return None;
        };
        slot.lost = slot.lost.or(lost);
        slot.since = now;
        Some(sandbox)
    }

    /// Removes slots without a sandbox that have been so for `kept`, and the oldest of more than `most`.
    pub(super) fn expire(&mut self, now: Instant, kept: Duration, most: usize) -> Vec<Slot<S, T>> {
        let states = self.slots.iter();
        let states = states.map(|(handle, slot)| (handle.as_str(), slot.state()));
        let expired = policy::expired(states, now, kept, most);
        let removed = expired
            .iter()
            .filter_map(|handle| self.slots.remove(handle));
        removed.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 3;
    const IDLE: Duration = Duration::from_secs(10);
    const KEPT: Duration = Duration::from_secs(40);
    const MOST: usize = 2;

    /// A step of some call or of the fleet's own task; numbers choose among what there is to choose from.
    #[derive(Debug, Clone)]
    enum Step {
        New,
        Find(usize),
        Publish(usize),
        GiveBack(usize),
        Release(usize),
        Close(usize),
        Wait(u64),
        CheckIdle,
        Checked(usize, bool),
        Expire,
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = 0..64_usize;
        prop_oneof![
            3 => Just(Step::New),
            6 => n.clone().prop_map(Step::Find),
            6 => n.clone().prop_map(Step::Publish),
            3 => n.clone().prop_map(Step::GiveBack),
            6 => n.clone().prop_map(Step::Release),
            1 => n.clone().prop_map(Step::Close),
            4 => (0..30_u64).prop_map(Step::Wait),
            3 => Just(Step::CheckIdle),
            4 => (n, any::<bool>()).prop_map(|(n, jobs)| Step::Checked(n, jobs)),
            1 => Just(Step::Expire),
        ]
    }

    fn take<T>(all: &mut Vec<T>, n: usize) -> Option<T> {
        (!all.is_empty()).then(|| all.swap_remove(n % all.len()))
    }

    /// The calls and checks under way, and what they should find.
    struct World {
        table: Table<u32, u32>,
        now: Instant,
        next: u32,
        handles: Vec<String>,
        /// Calls that make a sandbox: the handle, and the token that is to fire.
        making: Vec<(String, CancellationToken)>,
        /// Calls that use a sandbox.
        using: Vec<(String, u32)>,
        checks: Vec<Idle<u32>>,
        /// The sandbox that each handle should have.
        expected: BTreeMap<String, u32>,
    }

    impl World {
        fn new() -> Self {
            Self {
                table: Table::new(LIMIT),
                now: Instant::now(),
                next: 0,
                handles: Vec::new(),
                making: Vec::new(),
                using: Vec::new(),
                checks: Vec::new(),
                expected: BTreeMap::new(),
            }
        }

        fn fresh(&mut self) -> u32 {
            self.next += 1;
            self.next
        }

        fn handle(&self, n: usize) -> Option<String> {
            let all = &self.handles;
            (!all.is_empty()).then(|| all[n % all.len()].clone())
        }

        fn find(&mut self, handle: String) {
            match self.table.find(&handle) {
                Ok(Found::Ready(sandbox)) => {
                    assert_eq!(Some(&sandbox), self.expected.get(&handle));
                    self.using.push((handle, sandbox));
                }
                Ok(Found::Making(done)) => {
                    assert!(!done.is_cancelled(), "whoever makes it is at work");
                    assert!(self.making.iter().any(|(making, _)| *making == handle));
                }
                Ok(Found::Reserved(store, done)) => {
                    assert!(store.is_some(), "it had a sandbox before");
                    assert!(!self.expected.contains_key(&handle));
                    assert!(self.making.iter().all(|(making, _)| *making != handle));
                    self.making.push((handle, done));
                }
                Err(Refused::Full) => assert_eq!(self.table.count(), LIMIT),
                Err(refused) => assert_eq!(refused, Refused::Unknown),
            }
        }

        fn publish(&mut self, n: usize) {
            let Some((handle, done)) = take(&mut self.making, n) else {
                return;
            };
            let there = self.table.slots.contains_key(&handle);
            let (sandbox, store) = (self.fresh(), self.fresh());
            match self.table.publish(&handle, sandbox, store) {
                Ok(()) => {
                    assert!(there && self.expected.insert(handle.clone(), sandbox).is_none());
                    self.using.push((handle, sandbox));
                }
                Err(back) => assert!(!there && back == (sandbox, store)),
            }
            done.cancel();
        }

        fn give_back(&mut self, n: usize) {
            if let Some((handle, done)) = take(&mut self.making, n) {
                self.table.give_back(&handle, self.now);
                done.cancel();
            }
        }

        fn checked(&mut self, n: usize, has_jobs: bool) {
            let Some(idle) = take(&mut self.checks, n) else {
                return;
            };
            let stopped = self
                .table
                .checked(&idle, has_jobs, Some(Lost::System), self.now);
            if let Some(sandbox) = stopped {
                assert!(!has_jobs);
                assert_eq!(self.expected.remove(&idle.handle), Some(sandbox));
                let used = |(_, using): &(String, u32)| *using == sandbox;
                assert!(!self.using.iter().any(used), "a call uses it");
            }
        }

        fn take(&mut self, step: &Step) {
            match step {
                Step::New => {
                    let handle = self.fresh().to_string();
                    match self.table.reserve_new(handle.clone(), None, self.now) {
                        Ok(done) => {
                            self.handles.push(handle.clone());
                            self.making.push((handle, done));
                        }
                        Err(refused) => {
                            assert_eq!((refused, self.table.count()), (Refused::Full, LIMIT));
                        }
                    }
                }
                Step::Find(n) => {
                    if let Some(handle) = self.handle(*n) {
                        self.find(handle);
                    }
                }
                Step::Publish(n) => self.publish(*n),
                Step::GiveBack(n) => self.give_back(*n),
                Step::Release(n) => {
                    if let Some((handle, _)) = take(&mut self.using, *n) {
                        self.table.release(&handle, self.now);
                    }
                }
                Step::Close(n) => {
                    if let Some(handle) = self.handle(*n) {
                        self.table.close(&handle);
                        self.expected.remove(&handle);
                    }
                }
                Step::Wait(seconds) => self.now += Duration::from_secs(*seconds),
                Step::CheckIdle => {
                    let found = self.table.check_idle(self.now, IDLE);
                    for idle in &found {
                        assert!(self.checks.iter().all(|other| other.handle != idle.handle));
                    }
                    self.checks.extend(found);
                }
                Step::Checked(n, has_jobs) => self.checked(*n, *has_jobs),
                Step::Expire => {
                    for slot in self.table.expire(self.now, KEPT, MOST) {
                        assert!(matches!(slot.content, Content::Empty) && slot.uses == 0);
                    }
                }
            }
        }

        fn check(&self) {
            assert!(self.table.count() <= LIMIT, "too many sandboxes");
            let in_table = |handle: &String| self.table.slots.contains_key(handle);
            let making = self.making.iter().filter(|(handle, _)| in_table(handle));
            let making = making.count();
            assert_eq!(self.table.count(), making + self.expected.len());
            for (handle, sandbox) in &self.expected {
                assert_eq!(self.table.peek(handle), Some(*sandbox));
            }
            for (handle, slot) in &self.table.slots {
                let uses = self.using.iter().filter(|(used, _)| used == handle).count()
                    + self
                        .making
                        .iter()
                        .filter(|(made, _)| made == handle)
                        .count();
                assert_eq!(slot.uses, uses, "the slot {handle}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_limit_holds_and_each_slot_has_one_sandbox(
            steps in prop::collection::vec(step(), 0..120)
        ) {
            let mut world = World::new();
            for step in &steps {
                world.take(step);
                world.check();
            }
            // However the calls end, no place stays reserved.
            while !world.making.is_empty() {
                world.give_back(0);
            }
            while !world.using.is_empty() {
                world.take(&Step::Release(0));
            }
            world.check();
            prop_assert_eq!(world.table.count(), world.expected.len());
            prop_assert!(world.table.slots.values().all(|slot| slot.uses == 0));
            // Nor is one given after the end.
            world.table.close_all();
            let refused = world.table.reserve_new("new".into(), None, world.now);
            prop_assert_eq!(refused.err(), Some(Refused::Closed));
            prop_assert_eq!(world.table.count(), 0);
        }
    }
}
