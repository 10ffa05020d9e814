//! What is told of requests and connections: to the log, to the notes of `exec`, to the counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use jiff::Timestamp;
use snowglobe_init::streams::{End, Reason, Refusal};
use snowglobe_init::wire::network::{MAX_COMMAND, Program};

use super::super::audit::{Decision, Event, Record};
use super::Broker;
use super::counts::Connection;
use super::refusals::Refused;
use crate::shown;

/// The longest name of a program that is kept, in bytes.
const MAX_NAME: usize = 64;

/// The longest host that is kept, in bytes: names have at most 253.
const MAX_HOST: usize = 300;

/// The longest other text that is kept, in bytes.
const MAX_TEXT: usize = 500;

/// What is asked for, and by which program. All texts are safe to show.
#[derive(Debug)]
pub(super) struct Asked {
    event: Event,
    host: String,
    port: Option<u16>,
    program: Option<Program>,
    began: Instant,
}

impl Asked {
    pub(super) fn new(event: Event, host: &str, port: Option<u16>, by: Option<Program>) -> Self {
        let program = by.map(|by| Program {
            pid: by.pid,
            name: clean(&by.name, MAX_NAME),
            command: clean(&by.command, MAX_COMMAND),
        });
        Self {
            event,
            host: clean(host, MAX_HOST),
            port,
            program,
            began: Instant::now(),
        }
    }

    fn record(&self, event: Event, decision: Decision) -> Record {
        Record {
            time: Timestamp::now(),
            event,
            decision,
            program: self.program.clone(),
            host: self.host.clone(),
            port: self.port,
            address: None,
            request: None,
            rule: None,
            reason: None,
            up: 0,
            down: 0,
            seconds: self.began.elapsed().as_secs_f64(),
            count: 1,
        }
    }
}

/// A text of the guest's or a server's, safe to show and not too long.
fn clean(text: &str, most: usize) -> String {
    // What is shown of a character is never shorter than it.
    let mut cut = text.len().min(most);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut shown = shown::line(&text[..cut]).into_owned();
    while shown.len() > most {
        shown.pop();
    }
    shown
}

impl Broker {
    /// Tells of a request that is refused, or that fails.
    pub(super) fn tell(&self, asked: &Asked, refusal: &Refusal) {
        let record = asked.record(asked.event, Decision::Failed);
        self.tell_as(asked, refusal, record);
    }

    fn tell_as(&self, asked: &Asked, refusal: &Refusal, record: Record) {
        let why = clean(&refusal.text, MAX_TEXT);
        let denied = matches!(refusal.reason, Reason::Denied | Reason::Busy);
        let decision = match denied {
            true => Decision::Refused,
            false => Decision::Failed,
        };
        let reason = Some(why.clone());
        self.log(Record {
            decision,
            reason,
            ..record
        });
        if denied {
            self.totals.refused.fetch_add(1, Relaxed);
            self.kept().add(Refused {
                at: Timestamp::now(),
                program: asked.program.clone(),
                host: asked.host.clone(),
                port: asked.port,
                why,
                count: 1,
            });
        }
    }

    fn log(&self, record: Record) {
        if let Some(audit) = &self.settings.audit {
            audit.add(record);
        }
    }
}

/// A connection that was made, of which is told.
#[derive(Debug, Clone)]
pub struct Report {
    pub(super) broker: Arc<Broker>,
    pub(super) asked: Arc<Asked>,
    pub(super) address: Option<SocketAddr>,
    pub(super) rule: String,
}

impl Report {
    fn record(&self, event: Event, decision: Decision) -> Record {
        Record {
            address: self.address,
            rule: Some(self.rule.clone()),
            ..self.asked.record(event, decision)
        }
    }

    /// Tells of a request on this connection, such as `GET /x`, and by which rule it is allowed, or why it is not. The
    /// text must hold no secret. `bytes` are those of its body and of the answer's.
    pub fn request(&self, request: &str, outcome: Result<&str, &Refusal>, bytes: (u64, u64)) {
        let (up, down) = bytes;
        let record = Record {
            up,
            down,
            request: Some(clean(request, MAX_TEXT)),
            rule: outcome.ok().map(str::to_owned),
            ..self.record(Event::Request, Decision::Allowed)
        };
        match outcome {
            Ok(_) => self.broker.log(record),
            Err(refusal) => self.broker.tell_as(&self.asked, refusal, record),
        }
    }

    pub(super) fn opened(&self) {
        let record = self.record(Event::Connect, Decision::Allowed);
        self.broker.log(record);
    }

    /// Tells how the connection ended.
    pub(super) fn closed(&self, ended: &End, counts: &Connection) {
        let (up, down) = counts.bytes();
        let record = |decision, reason| Record {
            up,
            down,
            reason,
            ..self.record(Event::Close, decision)
        };
        match ended {
            End::Both => self.broker.log(record(Decision::Allowed, None)),
            End::Stream => {
                let reason = Some("the guest reset it".to_owned());
                self.broker.log(record(Decision::Allowed, reason));
            }
            End::Tcp(error) => {
                let reason = Some(clean(&error.to_string(), MAX_TEXT));
                self.broker.log(record(Decision::Failed, reason));
            }
            End::Refused(refusal) => {
                let record = record(Decision::Refused, None);
                self.broker.tell_as(&self.asked, refusal, record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn kept_texts_are_short_and_safe(text in "\\PC{0,20}|[\\x00-\\xff\u{202e}]{0,40}", most in 0..50_usize) {
            let kept = clean(&text, most);
            prop_assert!(kept.len() <= most);
            let unsafe_one = kept.find(|c: char| c.is_control() || c == '\u{202e}');
            prop_assert_eq!(unsafe_one, None);
        }
    }
}
