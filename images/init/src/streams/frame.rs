//! Frames: their heads, what refuses a stream, and what no peer may send.

/// How many bytes of a new stream may be under way, or wait for its reader.
pub const WINDOW: usize = 128 << 10;

/// How many it may become while the stream has much to carry.
pub const MAX_WINDOW: usize = 512 << 10;

/// By how many bytes the windows of all streams together may have grown.
pub const GROWTH: usize = 32 << 20;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams with odd numbers.
    Guest,
    /// Opens streams with even numbers.
    Host,
}

/// What the peer may use.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Streams that the peer has opened and that have not ended. Further ones are refused.
    pub streams: usize,
}

/// The length of a head, in bytes.
pub(super) const HEAD: usize = 8;

/// The longest body, in bytes: with its head, a frame is what the guest's port takes at once.
pub(super) const MAX_BODY: usize = (32 << 10) - HEAD;

/// The longest request and answer, in bytes.
pub const MAX_REQUEST: usize = 8 << 10;

/// The longest text of a refusal, in bytes.
const MAX_REFUSAL: usize = 512;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Asks for a stream; the body is the request.
    Open = 1,
    /// Accepts it; the body is the answer.
    Opened = 2,
    /// Bytes of the stream.
    Data = 3,
    /// The sender has sent everything.
    Fin = 4,
    /// The sender refuses or resets the stream; the body is a [`Refusal`].
    Reset = 5,
    /// The sender's reader has taken so many bytes (`u32`, big endian).
    Window = 6,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Opened => "opened",
            Self::Data => "data",
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::Window => "window",
        }
    }
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The stream's number.
    pub(super) id: u32,
    pub(super) kind: Kind,
    /// The length of the body, in bytes.
    pub(super) length: usize,
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&self.id.to_be_bytes());
        head[4] = self.kind as u8;
        // Bodies are at most `MAX_BODY` long.
        let length = u16::try_from(self.length).unwrap_or(u16::MAX);
        head[6..].copy_from_slice(&length.to_be_bytes());
        head
    }

    /// Understands a head, and refuses one whose body could not be right.
    pub(super) fn decode(head: [u8; HEAD]) -> Result<Self, Violation> {
        let [a, b, c, d, kind, zero, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (kind, most) = match kind {
            1 => (Kind::Open, MAX_REQUEST),
            2 => (Kind::Opened, MAX_REQUEST),
            3 => (Kind::Data, MAX_BODY),
            4 => (Kind::Fin, 0),
            5 => (Kind::Reset, 1 + MAX_REFUSAL),
            6 => (Kind::Window, 4),
            kind => return Err(Violation::Kind(kind)),
        };
        if zero != 0 || length > most || (kind == Kind::Window && length != 4) {
            let kind = kind.name();
            return Err(Violation::Length { kind, length });
        }
        let id = u32::from_be_bytes([a, b, c, d]);
        Ok(Self { id, kind, length })
    }
}

/// Appends a frame with a body of these parts. Gives `true`: there was one.
pub(super) fn put(buffer: &mut Vec<u8>, id: u32, kind: Kind, parts: &[&[u8]]) -> bool {
    let length = parts.iter().map(|part| part.len()).sum();
    buffer.extend_from_slice(&Head { id, kind, length }.encode());
    for part in parts {
        buffer.extend_from_slice(part);
    }
    true
}

/// Why a stream was refused or reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A rule does not allow it.
    Denied = 1,
    /// Nothing listens there.
    Refused = 2,
    /// There is no way there.
    Unreachable = 3,
    /// No answer came in time.
    TimedOut = 4,
    /// There is no such name.
    NotFound = 5,
    /// The other end of a connection was reset.
    Reset = 6,
    /// There are too many streams.
    Busy = 7,
    /// Anything else.
    Failed = 8,
}

/// A stream is refused or reset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub text: String,
}

impl Refusal {
    /// A refusal with a text, of which at most 512 bytes are sent.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { reason, text }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut end = self.text.len().min(MAX_REFUSAL);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        [&[self.reason as u8], &self.text.as_bytes()[..end]].concat()
    }

    /// Whatever the peer sent is a refusal.
    pub(super) fn decode(body: &[u8]) -> Self {
        let reason = match body.first() {
            Some(1) => Reason::Denied,
            Some(2) => Reason::Refused,
            Some(3) => Reason::Unreachable,
            Some(4) => Reason::TimedOut,
            Some(5) => Reason::NotFound,
            Some(6) => Reason::Reset,
            Some(7) => Reason::Busy,
            _ => Reason::Failed,
        };
        let text = String::from_utf8_lossy(body.get(1..).unwrap_or_default());
        Self::new(reason, text)
    }
}

/// A rule that the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame of an unknown kind.
    #[error("understand a frame: kind {0} is unknown")]
    Kind(u8),
    /// A frame of the wrong length.
    #[error("understand a frame: {length} bytes are not the body of a frame `{kind}`")]
    Length {
        /// The frame's kind.
        kind: &'static str,
        /// The length of its body.
        length: usize,
    },
    /// A stream was opened whose number is not the peer's, or not above those before.
    #[error("open stream {0}: the number is not the peer's next")]
    Number(u32),
    /// A frame for a stream that was never opened, or that does not fit its state.
    #[error("take a frame `{kind}` for stream {id}: it is out of order")]
    Order {
        /// The stream.
        id: u32,
        /// The frame's kind.
        kind: &'static str,
    },
    /// More bytes than the window allows.
    #[error("take bytes of stream {0}: they are beyond its window")]
    Window(u32),
    /// Streams were opened faster than they could be refused.
    #[error("refuse streams: more than {0} wait to be refused")]
    Flood(usize),
}
