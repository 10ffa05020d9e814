//! The server's first answer to a ClientHello: whether it asks for a second one.

use std::sync::Arc;

use tokio::sync::watch;

use super::hello::HANDSHAKE;

/// The message `ServerHello`.
const SERVER_HELLO: u8 = 2;

/// The random bytes of a ServerHello that asks for another ClientHello (RFC 8446, section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Where the random bytes begin: after the heads of the record and of the message, and the version.
const RANDOM: usize = 5 + 4 + 2;

/// What the server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Pending,
    /// Another ClientHello must follow, or may.
    Retry,
    /// No other ClientHello follows that the server would take.
    Settled,
}

/// What both directions know of the answer.
#[derive(Debug)]
pub(super) struct Answered(watch::Sender<Told>);

impl Default for Answered {
    fn default() -> Self {
        Self(watch::Sender::new(Told::Pending))
    }
}

impl Answered {
    pub(super) fn is_pending(&self) -> bool {
        *self.0.borrow() == Told::Pending
    }

    pub(super) fn is_settled(&self) -> bool {
        *self.0.borrow() == Told::Settled
    }

    /// Waits until the server has answered.
    pub(super) async fn wait(&self) {
        // The sender lives as long as this.
        self.0
            .subscribe()
            .wait_for(|told| *told != Told::Pending)
            .await
            .ok();
    }
}

/// Watches the server's first bytes.
#[derive(Debug)]
pub(super) struct Answer {
    answered: Arc<Answered>,
    head: Vec<u8>,
    done: bool,
}

impl Answer {
    pub(super) fn new(answered: Arc<Answered>, done: bool) -> Self {
        Self {
            answered,
            head: Vec::new(),
            done,
        }
    }

    /// Looks at bytes before they go on to the guest.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        if self.done {
            return;
        }
        let missing = RANDOM + RETRY.len() - self.head.len();
        self.head
            .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        let told = told(&self.head);
        if told != Told::Pending {
            self.done = true;
            self.answered.0.send_replace(told);
        }
    }
}

fn told(head: &[u8]) -> Told {
    match head {
        [HANDSHAKE, _, _, high, low, ..]
            if usize::from(u16::from_be_bytes([*high, *low])) < RANDOM - 5 + RETRY.len() =>
        {
            // In pieces, or no ServerHello: the second ClientHello, if there is one, is looked at.
            Told::Retry
        }
        [HANDSHAKE, _, _, _, _, SERVER_HELLO, ..] => match head.get(RANDOM..RANDOM + RETRY.len()) {
            Some(random) if random == RETRY => Told::Retry,
            Some(_) => Told::Settled,
            None => Told::Pending,
        },
        []
        | [HANDSHAKE]
        | [HANDSHAKE, _]
        | [HANDSHAKE, _, _]
        | [HANDSHAKE, _, _, _]
        | [HANDSHAKE, _, _, _, _] => Told::Pending,
        _ => Told::Settled,
    }
}
