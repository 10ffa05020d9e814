//! The newest refusals, for the notes of `exec`.

use std::collections::VecDeque;

use jiff::Timestamp;
use snowglobe_init::wire::network::Program;

/// How many refusals are kept.
const KEPT: usize = 100;

/// A name or connection that was refused, or a connection that was ended by a rule. All texts are safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// When, the last time.
    pub at: Timestamp,
    /// Which program, if the guest knew.
    pub program: Option<Program>,
    /// A name, or a literal address.
    pub host: String,
    /// The port; none if a name was to be resolved.
    pub port: Option<u16>,
    /// Why, in words.
    pub why: String,
    /// How often.
    pub count: u64,
}

/// Refusals since a point of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    /// The refusals, oldest first; equal ones are one.
    pub refused: Vec<Refused>,
    /// How many others are no longer kept.
    pub lost: u64,
    /// Where to go on.
    pub next: u64,
}

/// The newest refusals, numbered.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Each with the number of its first.
    newest: VecDeque<(u64, Refused)>,
    /// How many there were.
    next: u64,
    /// What was read: equal refusals after it are told anew.
    read: u64,
    /// The number after the last one that is no longer kept.
    lost: u64,
}

impl Kept {
    pub(super) fn add(&mut self, refused: Refused) {
        self.next += 1;
        let program = |of: &Refused| {
            of.program
                .as_ref()
                .map(|program| (program.pid, program.name.clone()))
        };
        let equal = |(first, kept): &&mut (u64, Refused)| {
            *first >= self.read
                && (&kept.host, kept.port, &kept.why) == (&refused.host, refused.port, &refused.why)
                && program(kept) == program(&refused)
        };
        if let Some((_, kept)) = self.newest.iter_mut().find(equal) {
            kept.count += 1;
            kept.at = refused.at;
            return;
        }
        if self.newest.len() == KEPT
            && let Some((first, gone)) = self.newest.pop_front()
        {
            self.lost = first + gone.count;
        }
        self.newest.push_back((self.next - 1, refused));
    }

    /// Where the next refusal will be.
    pub(super) fn cursor(&mut self) -> u64 {
        self.read = self.next;
        self.next
    }

    pub(super) fn since(&mut self, cursor: u64) -> Refusals {
        let since = self.newest.iter().filter(|(first, _)| *first >= cursor);
        let refused: Vec<Refused> = since.map(|(_, refused)| refused.clone()).collect();
        let told: u64 = refused.iter().map(|refused| refused.count).sum();
        let lost = match self.lost > cursor {
            true => (self.next - cursor.min(self.next)).saturating_sub(told),
            false => 0,
        };
        Refusals {
            refused,
            lost,
            next: self.cursor(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str) -> Refused {
        let (at, host) = (Timestamp::UNIX_EPOCH, host.to_owned());
        Refused {
            at,
            program: None,
            host,
            port: Some(443),
            why: "no rule allows it".into(),
            count: 1,
        }
    }

    #[test]
    fn a_reader_gets_what_came_since_and_equal_ones_once() {
        let mut kept = Kept::default();
        kept.add(refused("before.example"));
        let cursor = kept.cursor();
        for host in ["a.example", "b.example", "a.example", "before.example"] {
            kept.add(refused(host));
        }
        let since = kept.since(cursor);
        let told: Vec<_> = since
            .refused
            .iter()
            .map(|refused| (refused.host.as_str(), refused.count))
            .collect();
        assert_eq!(
            told,
            [("a.example", 2), ("b.example", 1), ("before.example", 1)]
        );
        assert_eq!((since.lost, kept.since(since.next).refused.len()), (0, 0));
        kept.add(refused("a.example"));
        assert_eq!(kept.since(since.next).refused[0].count, 1);
    }

    #[test]
    fn a_flood_leaves_the_newest_and_a_count() {
        let mut kept = Kept::default();
        let cursor = kept.cursor();
        for number in 0..1000 {
            kept.add(refused(&format!("{number}.example")));
        }
        let since = kept.since(cursor);
        assert_eq!((since.refused.len(), since.lost), (KEPT, 900));
        assert_eq!(since.refused[99].host, "999.example");
    }
}
