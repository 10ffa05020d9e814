//! The newest events of a kind, numbered, so that each of several readers gets what came since it last looked. Pure.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many events are kept.
const KEPT: usize = 100;

/// An event that may repeat.
pub trait Event: Clone {
    /// Whether another one is the same again.
    fn is_same(&self, other: &Self) -> bool;
    /// Counts one that is the same.
    fn repeat(&mut self, other: Self);
    /// How often it happened.
    fn count(&self) -> u64;
}

/// Events since a point of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since<T> {
    /// The events, oldest first; equal ones are one.
    pub events: Vec<T>,
    /// How many others are no longer kept.
    pub lost: u64,
    /// Where to go on.
    pub next: u64,
}

/// The newest events, numbered.
#[derive(Debug)]
pub struct Recent<T> {
    /// Each with the number of its first.
    newest: VecDeque<(u64, T)>,
    /// How many there were.
    next: u64,
    /// What was read: equal events after it are told anew.
    read: u64,
    /// The number after the last one that is no longer kept.
    lost: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            newest: VecDeque::new(),
            next: 0,
            read: 0,
            lost: 0,
        }
    }
}

impl<T: Event> Recent<T> {
    /// Adds an event, or several equal ones that were counted already.
    pub fn add(&mut self, event: T) {
        let first = self.next;
        self.next += event.count();
        let mut newest = self.newest.iter_mut();
        let same = newest.find(|(number, kept)| *number >= self.read && kept.is_same(&event));
        if let Some((_, kept)) = same {
            kept.repeat(event);
            return;
        }
        if self.newest.len() == KEPT
            && let Some((number, gone)) = self.newest.pop_front()
        {
            self.lost = self.lost.max(number + gone.count());
        }
        self.newest.push_back((first, event));
    }

    /// Counts events of which nothing else is known.
    pub fn add_lost(&mut self, count: u64) {
        if count > 0 {
            self.next += count;
            self.lost = self.next;
        }
    }

    /// Where the next event will be.
    pub fn cursor(&mut self) -> u64 {
        self.read = self.next;
        self.next
    }

    /// The events since a cursor.
    pub fn since(&mut self, cursor: u64) -> Since<T> {
        let since = self.newest.iter().filter(|(first, _)| *first >= cursor);
        let events: Vec<T> = since.map(|(_, event)| event.clone()).collect();
        let told: u64 = events.iter().map(Event::count).sum();
        let lost = match self.lost > cursor {
            true => (self.next - cursor.min(self.next)).saturating_sub(told),
            false => 0,
        };
        Since {
            events,
            lost,
            next: self.cursor(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Named(&'static str, u64);

    impl Event for Named {
        fn is_same(&self, other: &Self) -> bool {
            self.0 == other.0
        }

        fn repeat(&mut self, other: Self) {
            self.1 += other.1;
        }

        fn count(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn a_reader_gets_what_came_since_and_equal_ones_once() {
        let mut recent = Recent::default();
        recent.add(Named("before", 1));
        let cursor = recent.cursor();
        for name in ["a", "b", "a", "before"] {
            recent.add(Named(name, 1));
        }
        recent.add(Named("b", 5));
        let since = recent.since(cursor);
        assert_eq!(
            since.events,
            [Named("a", 2), Named("b", 6), Named("before", 1)]
        );
        assert_eq!((since.lost, recent.since(since.next).events.len()), (0, 0));
        recent.add(Named("a", 1));
        assert_eq!(recent.since(since.next).events, [Named("a", 1)]);
    }

    #[test]
    fn a_flood_leaves_the_newest_and_a_count() {
        let mut recent = Recent::default();
        let cursor = recent.cursor();
        let names: Vec<&'static str> = (0..1000).map(|n| &*format!("{n}").leak()).collect();
        for name in names {
            recent.add(Named(name, 1));
        }
        recent.add_lost(7);
        let since = recent.since(cursor);
        assert_eq!((since.events.len(), since.lost), (KEPT, 907));
        assert_eq!(since.events[99].0, "999");
        assert_eq!(recent.since(since.next).lost, 0);
    }
}
