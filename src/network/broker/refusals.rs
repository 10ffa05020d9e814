//! The newest refusals, for the notes of `exec`.

use jiff::Timestamp;
use snowglobe_init::wire::network::Program;

use crate::recent::{Event, Since};

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

impl Event for Refused {
    fn is_same(&self, other: &Self) -> bool {
        let program = |of: &Self| {
            let program = of.program.as_ref();
            program.map(|program| (program.pid, program.name.clone()))
        };
        (&self.host, self.port, &self.why) == (&other.host, other.port, &other.why)
            && program(self) == program(other)
    }

    fn repeat(&mut self, other: Self) {
        self.count += other.count;
        self.at = other.at;
    }

    fn count(&self) -> u64 {
        self.count
    }
}

/// Refusals since a point of time.
pub type Refusals = Since<Refused>;
