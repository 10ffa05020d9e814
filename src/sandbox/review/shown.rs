//! What each actor was shown of the copy's changes: only that is applied for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use snowglobe_init::wire::tree::{EntryKind, unescape};

use super::super::guest_tree::GuestTree;
use super::compare::unread_file;
use crate::review::changes::Change;
use crate::review::entry::Entry;
use crate::review::report::Step;
use crate::timeline;

/// How many actors are told apart.
const ACTORS: usize = 1000;

/// What the guest had at each path that was shown.
pub(super) type Seen = BTreeMap<Vec<u8>, Option<Entry>>;

/// What each actor was shown last.
#[derive(Debug, Default)]
pub(in super::super) struct Shown(Mutex<HashMap<Option<String>, Seen>>);

impl Shown {
    fn all(&self) -> MutexGuard<'_, HashMap<Option<String>, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the present actor has been shown.
    pub(super) fn note(&self, seen: Seen) {
        let mut all = self.all();
        // A client chooses its name.
        if all.len() >= ACTORS {
            all.clear();
        }
        all.entry(timeline::current()).or_default().extend(seen);
    }

    /// What was shown at these paths is no change any more.
    pub(super) fn forget(&self, steps: &[Step]) {
        for seen in self.all().values_mut() {
            for step in steps {
                seen.remove(&unescape(&step.path));
            }
        }
    }

    /// What the present actor was shown.
    pub(super) fn now(&self) -> Seen {
        let seen = self.all().get(&timeline::current()).cloned();
        seen.unwrap_or_default()
    }
}

/// Whether a change is still as it was shown, if it was.
pub(super) fn is_as_shown(seen: &Seen, change: &Change, guest: &GuestTree) -> bool {
    seen.get(&change.path).is_none_or(|then| match then {
        // Its content was not read then.
        Some(unread) if unread.is_unread() => {
            let now = guest.get(&change.path);
            now.is_some_and(|now| now.kind == EntryKind::File && unread_file(now) == *unread)
        }
        then => *then == change.new,
    })
}
