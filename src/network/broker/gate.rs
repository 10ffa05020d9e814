//! Holds the guest's first bytes until they name the host that is allowed: in TLS's server name, or in HTTP's `Host`.
//! Pure.
//!
//! A rule allows a name, and many names share one address. So a connection to an allowed name must not ask the server
//! for another one. The bytes then go on unchanged.
//!
//! What follows is not looked at: later requests of plain HTTP, and requests within TLS. That needs a part that takes the
//! whole connection, see [`Inspect`](super::Inspect).
//!
//! On ports 80 and 443 only TLS and HTTP pass. On other ports they are known by their first bytes, and anything else
//! passes; so does HTTP/2 without TLS there.
//!
//! A server may ask for a second ClientHello, which is plain, too. Until the server's first answer is known, records
//! that could hold one wait; after it either nothing more is held, or the second ClientHello is checked as the first.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use rustls::server::Acceptor;

use super::super::rules::Host;
use super::answer::{Answer, Answered};
use super::hello::{self, ALERT, CHANGE_CIPHER, DATA, HANDSHAKE, HEAD};
use super::request;
use super::wrong::{MOST, Wrong};

/// The longest method of HTTP that is known as one, in bytes.
const MAX_METHOD: usize = 20;

/// The gate of one connection.
pub(super) struct Gate {
    name: String,
    /// Whether only TLS and HTTP may pass.
    web: bool,
    /// Whether an encrypted ClientHello may pass.
    hidden: bool,
    /// Whether one has passed.
    hides: Arc<AtomicBool>,
    held: BytesMut,
    state: State,
    answered: Arc<Answered>,
}

enum State {
    /// What it is can't be said yet.
    Unknown,
    Tls(Hello),
    /// Records after the first ClientHello; so many bytes are left of the one under way.
    Records {
        left: usize,
    },
    Http,
    Open,
}

/// A ClientHello that is being read.
struct Hello {
    parser: Box<Acceptor>,
    /// How many of the held bytes the parser has taken.
    taken: usize,
    /// Whether it is the one that a server asked for.
    second: bool,
}

impl Hello {
    /// Has the parser read the bytes that are new. Gives the server name, which may be none, once it is complete.
    fn read(&mut self, held: &[u8]) -> Result<Option<Option<String>>, Wrong> {
        let taken = std::mem::replace(&mut self.taken, held.len());
        hello::read(&mut self.parser, held, taken)
    }
}

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Unclear,
    Tls,
    Http,
    Other,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({}, {} bytes held)", self.name, self.held.len())
    }
}

impl Gate {
    /// A gate for a connection to a host; `hidden` lets encrypted ClientHellos pass. A literal address has a rule of its
    /// own, so nothing is held.
    pub(super) fn new(host: &Host, port: u16, hidden: bool) -> Self {
        let (name, state) = match host {
            Host::Name(name) => (name.clone(), State::Unknown),
            Host::Address(_) => (String::new(), State::Open),
        };
        let web = matches!(port, 80 | 443);
        Self {
            name,
            web,
            hidden,
            hides: Arc::default(),
            held: BytesMut::new(),
            state,
            answered: Arc::default(),
        }
    }

    /// What watches the server's first bytes.
    pub(super) fn answer(&self) -> Answer {
        Answer::new(self.answered.clone(), matches!(self.state, State::Open))
    }

    /// Whether an encrypted ClientHello has passed.
    pub(super) fn hides(&self) -> Arc<AtomicBool> {
        self.hides.clone()
    }

    /// Whether bytes are held.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What must have been waited for before more bytes are taken, if anything.
    pub(super) fn awaits(&self) -> Option<Arc<Answered>> {
        let waits = matches!(self.state, State::Records { left: 0 })
            && self.holds()
            && self.answered.is_pending();
        waits.then(|| self.answered.clone())
    }

    /// Takes bytes of the guest's, or none after an answer that was awaited. Gives the bytes that may go on.
    pub(super) fn pass(&mut self, piece: BytesMut) -> Result<Bytes, Wrong> {
        if let State::Open = self.state {
            return Ok(piece.freeze());
        }
        self.held.unsplit(piece);
        let mut passed = BytesMut::new();
        while self.step(&mut passed)? {}
        match self.held.len() > MOST {
            true => Err(Wrong::Long),
            false => Ok(passed.freeze()),
        }
    }

    /// The guest has sent everything. Gives the bytes that may go on: a few that may have begun a request of HTTP, but
    /// did not, are another protocol's.
    pub(super) fn end(&mut self) -> Result<Bytes, Wrong> {
        match self.state {
            State::Unknown if !self.web => Ok(self.held.split().freeze()),
            _ if self.holds() => Err(Wrong::Cut),
            _ => Ok(Bytes::new()),
        }
    }

    /// One step; whether another one may be possible.
    fn step(&mut self, passed: &mut BytesMut) -> Result<bool, Wrong> {
        match &mut self.state {
            State::Unknown => {
                self.state = match kind(&self.held, self.web) {
                    Kind::Unclear => return Ok(false),
                    Kind::Tls => State::hello(false),
                    Kind::Http => State::Http,
                    Kind::Other => State::Open,
                };
                Ok(true)
            }
            State::Tls(hello) => {
                let Some(asked) = hello.read(&self.held)? else {
                    return Ok(false);
                };
                let second = hello.second;
                self.pass_hello(asked.as_deref(), passed)?;
                self.state = match second {
                    true => State::Open,
                    false => State::Records { left: 0 },
                };
                Ok(true)
            }
            State::Records { .. } => self.pass_records(passed),
            State::Http => {
                let complete = request::is_for(&self.held, &self.name, self.web)?;
                if complete {
                    self.state = State::Open;
                }
                Ok(complete)
            }
            State::Open => {
                passed.unsplit(self.held.split());
                Ok(false)
            }
        }
    }

    /// Checks a ClientHello that is complete.
    fn pass_hello(&mut self, asked: Option<&str>, passed: &mut BytesMut) -> Result<(), Wrong> {
        hello::check(asked, &self.name)?;
        if hello::is_encrypted(&self.held) {
            match self.hidden {
                true => self.hides.store(true, Relaxed),
                false => return Err(Wrong::Hidden),
            }
        }
        let length = hello::records_length(&self.held)?;
        passed.unsplit(self.held.split_to(length));
        Ok(())
    }

    /// Lets a record pass that can't hold a second ClientHello.
    fn pass_records(&mut self, passed: &mut BytesMut) -> Result<bool, Wrong> {
        let State::Records { left } = &mut self.state else {
            return Ok(true);
        };
        if self.answered.is_settled() {
            self.state = State::Open;
            return Ok(true);
        }
        let length = self.held.len().min(*left);
        *left -= length;
        passed.unsplit(self.held.split_to(length));
        let [kind, _, _, high, low, ..] = self.held[..] else {
            return Ok(false);
        };
        match kind {
            HANDSHAKE if self.answered.is_pending() => return Ok(false),
            HANDSHAKE => self.state = State::hello(true),
            CHANGE_CIPHER | ALERT | DATA => {
                *left = HEAD + usize::from(u16::from_be_bytes([high, low]));
            }
            _ => {
                let why = "no record of TLS follows the ClientHello";
                return Err(Wrong::Bad(why.into()));
            }
        }
        Ok(true)
    }
}

impl State {
    fn hello(second: bool) -> Self {
        Self::Tls(Hello {
            parser: Box::default(),
            taken: 0,
            second,
        })
    }
}

/// What the first bytes are. Servers skip line breaks before a request.
fn kind(held: &[u8], web: bool) -> Kind {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = held.iter().take_while(|byte| is_break(byte)).count();
    let held = &held[start..];
    match held {
        [] | [HANDSHAKE] => return Kind::Unclear,
        [HANDSHAKE, 3, ..] => return Kind::Tls,
        _ if web => return Kind::Http,
        _ => {}
    }
    let letters = held
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    match held.get(letters) {
        _ if letters == 0 || letters > MAX_METHOD => Kind::Other,
        None => Kind::Unclear,
        Some(b' ') => match memchr(b'\n', held) {
            None => Kind::Unclear,
            Some(end) if request::is_first_line(&held[..end]) => Kind::Http,
            Some(_) => Kind::Other,
        },
        Some(_) => Kind::Other,
    }
}
