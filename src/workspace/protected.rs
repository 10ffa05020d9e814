//! The rules that protect a shared workspace while the sandbox lives, and the changes that they refused. Pure, but for a lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use snowglobe_runner::protection::{Effect, Protection, Refusal};

use crate::recent::{Event, Recent, Since};

/// Effects by the ids of their rules.
pub type Effects = BTreeMap<String, Effect>;

/// Refused changes since a point of time.
pub type Refusals = Since<Refusal>;

impl Event for Refusal {
    fn is_same(&self, other: &Self) -> bool {
        (&self.rule, &self.what) == (&other.rule, &other.what)
    }

    fn repeat(&mut self, other: Self) {
        self.count += other.count;
        self.asks = other.asks;
    }

    fn count(&self) -> u64 {
        self.count
    }
}

/// The rules of a sandbox's workspace.
#[derive(Debug)]
pub struct Protected(Mutex<State>);

#[derive(Debug)]
struct State {
    protection: Protection,
    /// The effects before a person allowed something for one command.
    before_once: BTreeMap<String, Option<Effect>>,
    refused: Recent<Refusal>,
}

impl Protected {
    /// The rules that a sandbox starts with.
    pub fn new(protection: Protection) -> Self {
        Self(Mutex::new(State {
            protection,
            before_once: BTreeMap::new(),
            refused: Recent::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules as they are now.
    pub fn now(&self) -> Protection {
        self.lock().protection.clone()
    }

    /// The rules with other effects; `once`: until [`Self::without_once`].
    pub fn changed(&self, effects: &Effects, once: bool) -> Change {
        let state = self.lock();
        let (mut rules, mut before_once) =
            (state.protection.rules.clone(), state.before_once.clone());
        for (rule, effect) in effects {
            let before = rules.insert(rule.clone(), *effect);
            match once {
                true => drop(before_once.entry(rule.clone()).or_insert(before)),
                false => drop(before_once.remove(rule)),
            }
        }
        Change { rules, before_once }
    }

    /// The rules without what was allowed for one command.
    pub fn without_once(&self) -> Change {
        let state = self.lock();
        let mut rules = state.protection.rules.clone();
        for (rule, before) in &state.before_once {
            match before {
                Some(effect) => drop(rules.insert(rule.clone(), *effect)),
                None => drop(rules.remove(rule)),
            }
        }
        Change {
            rules,
            before_once: BTreeMap::new(),
        }
    }

    /// Makes a change count.
    pub fn set(&self, change: Change) {
        let mut state = self.lock();
        state.protection.rules = change.rules;
        state.before_once = change.before_once;
    }

    /// Adds what the rules refused.
    pub fn add(&self, refused: Vec<Refusal>, lost: u64) {
        let mut state = self.lock();
        for refusal in refused {
            state.refused.add(refusal);
        }
        state.refused.add_lost(lost);
    }

    /// From where on [`Self::since`] tells.
    pub fn cursor(&self) -> u64 {
        self.lock().refused.cursor()
    }

    /// What was added since a cursor.
    pub fn since(&self, cursor: u64) -> Refusals {
        self.lock().refused.since(cursor)
    }
}

/// Other rules, which don't count yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The effect of each rule.
    pub rules: Effects,
    before_once: BTreeMap<String, Option<Effect>>,
}

#[cfg(test)]
mod tests {
    use super::Effect::{Allow, Ask, Deny};
    use super::*;

    fn effects(list: &[(&str, Effect)]) -> Effects {
        list.iter()
            .map(|(id, effect)| ((*id).to_owned(), *effect))
            .collect()
    }

    #[test]
    fn what_was_allowed_once_goes_back_to_what_was_before() {
        let protected = Protected::new(Protection {
            rules: effects(&[("vim", Ask), ("claude", Ask)]),
            ..Protection::default()
        });
        let change = |list: &[(&str, Effect)], once| {
            let change = protected.changed(&effects(list), once);
            protected.set(change);
            protected.now().rules
        };
        let now = change(&[("vim", Allow), ("mcp", Allow)], true);
        assert_eq!(
            now,
            effects(&[("claude", Ask), ("mcp", Allow), ("vim", Allow)])
        );
        // Allowed once more, and then one of them for longer.
        change(&[("vim", Allow)], true);
        change(&[("mcp", Allow), ("claude", Deny)], false);
        protected.set(protected.without_once());
        let left = effects(&[("claude", Deny), ("mcp", Allow), ("vim", Ask)]);
        assert_eq!(protected.now().rules, left);
        protected.set(protected.without_once());
        assert_eq!(protected.now().rules, left);
    }
}
