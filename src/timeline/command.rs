//! A command of the timeline, from its first line to its last.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use snowglobe_init::wire::{Outcome, Program, User};

use super::event::bounded;
use super::{Event, Timeline};

/// A command that has begun. One that is dropped before its end has an unknown end.
#[derive(Debug)]
pub(crate) struct Begun {
    timeline: Timeline,
    id: u64,
    began: Instant,
    told: bool,
}

impl Timeline {
    /// Adds the beginning of a command.
    pub(crate) fn command(&self, program: &Program, cwd: Option<&str>, user: &User) -> Begun {
        self.begin(&in_words(program), cwd, *user == User::Root)
    }

    /// Adds the beginning of something that runs like a command, such as an SSH session.
    pub(crate) fn begin(&self, command: &str, cwd: Option<&str>, root: bool) -> Begun {
        let id = new_id();
        self.add(Event::Command {
            id,
            command: bounded(command),
            cwd: cwd.map(bounded),
            root,
        });
        Begun {
            timeline: self.clone(),
            id,
            began: Instant::now(),
            told: false,
        }
    }
}

impl Begun {
    /// The command has ended.
    pub(crate) fn ended(self, outcome: &Outcome) {
        let event = Event::CommandEnded {
            id: self.id,
            outcome: outcome.clone(),
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.tell(event);
    }

    /// A session is over, which has no outcome.
    pub(crate) fn closed(self) {
        self.ended(&Outcome::Exited { code: 0 });
    }

    /// The command is a job now.
    pub(crate) fn detached(self, job: &str) {
        let event = Event::CommandDetached {
            id: self.id,
            job: bounded(job),
        };
        self.tell(event);
    }

    /// The command did not begin, or its end is not known.
    pub(crate) fn failed(self, error: &(dyn std::error::Error + 'static)) {
        let event = Event::CommandLost {
            id: self.id,
            why: bounded(&crate::describe(error)),
        };
        self.tell(event);
    }

    fn tell(mut self, event: Event) {
        self.told = true;
        self.timeline.add(event);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.told {
            self.timeline.add(Event::CommandLost {
                id: self.id,
                why: "its caller has gone".into(),
            });
        }
    }
}

/// A number that no other command of any process has: the present time in microseconds, or the number after the last one.
fn new_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default();
    let next = |last: u64| now.max(last + 1);
    let last = LAST.fetch_update(Relaxed, Relaxed, |last| Some(next(last)));
    next(last.unwrap_or_default())
}

/// A program as a shell line that starts it.
fn in_words(program: &Program) -> String {
    match program {
        Program::Shell(line) => line.as_os_str().to_string_lossy().into_owned(),
        Program::Argv(words) => {
            let words = words.iter().map(|word| word.as_os_str().to_string_lossy());
            shlex::try_join(words.collect::<Vec<_>>().iter().map(AsRef::as_ref))
                .unwrap_or_else(|_| "(words that no shell takes)".into())
        }
        Program::LoginShell => "(login shell)".into(),
    }
}
