//! Whatever programs of the guest send into the network, the guest's half survives, and answers at most once.

use arbitrary::Arbitrary;
use snowglobe_init::network::fuzz::{self, Act};

#[derive(Debug, Arbitrary)]
enum Input {
    Flows(Vec<Happens>),
    Question(Vec<u8>),
    Request(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Happens {
    Packet(Vec<u8>),
    Segment([u8; 2], u8, u8, Vec<u8>),
    Connected(u8),
    Refused(u8, bool),
    Taken(u8),
    Ended(u8),
    Later(u8),
}

impl From<Happens> for Act {
    fn from(happens: Happens) -> Self {
        match happens {
            Happens::Packet(packet) => Self::Packet(packet),
            Happens::Segment(ports, flags, sequence, payload) => {
                Self::Segment(ports, flags, sequence, payload)
            }
            Happens::Connected(flow) => Self::Connected(flow),
            Happens::Refused(flow, silent) => Self::Refused(flow, silent),
            Happens::Taken(flow) => Self::Taken(flow),
            Happens::Ended(flow) => Self::Ended(flow),
            Happens::Later(seconds) => Self::Later(seconds),
        }
    }
}

pub(crate) fn play(bytes: &[u8]) {
    match crate::made(bytes) {
        Some(Input::Flows(happens)) => fuzz::flows(happens.into_iter().map(Act::from).collect()),
        Some(Input::Question(datagram)) => fuzz::question(&datagram),
        Some(Input::Request(head)) => fuzz::request(&head),
        None => {}
    }
}
