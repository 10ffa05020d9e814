//! What programs of the guest send, for the fuzzer: packets, questions to the resolver, requests to the proxy.

use std::time::{Duration, Instant};

use etherparse::PacketBuilder;

use super::dns::{Answer, Question};
use super::flows::{Action, Flows};
use super::packet::{self, Kind, Unreachable};
use super::proxy;

/// One thing that happens to the table of flows.
#[derive(Debug, Clone)]
pub enum Act {
    /// A packet comes.
    Packet(Vec<u8>),
    /// A segment comes: its ports, its flags (SYN, ACK, FIN, RST), its sequence number, its payload.
    Segment([u8; 2], u8, u8, Vec<u8>),
    /// The host has connected the flow of a number.
    Connected(u8),
    /// The host has refused it.
    Refused(u8, bool),
    /// The kernel has taken it.
    Taken(u8),
    /// It has ended.
    Ended(u8),
    /// So many seconds pass.
    Later(u8),
}

/// Plays what happens. Panics if a packet that goes on is none, or an answer could be answered for ever.
pub fn flows(acts: Vec<Act>) {
    let (mut flows, mut now) = (Flows::new((4000, 6000)), Instant::now());
    for act in acts {
        let number = |low: u8| 1024 + u16::from(low);
        let answer = match act {
            Act::Packet(mut packet) => played(&mut flows, &mut packet, now),
            Act::Segment(ports, flags, sequence, payload) => {
                let mut packet = segment(ports, flags, sequence, &payload);
                played(&mut flows, &mut packet, now)
            }
            Act::Connected(flow) => flows.connected(number(flow)),
            Act::Refused(flow, silent) => {
                flows.refused(number(flow), (!silent).then_some(Unreachable::Host))
            }
            Act::Taken(flow) => {
                flows.taken(number(flow));
                None
            }
            Act::Ended(flow) => {
                flows.ended(number(flow), now);
                None
            }
            Act::Later(seconds) => {
                now += Duration::from_secs(seconds.into());
                flows.sweep(now);
                None
            }
        };
        flows.forgotten();
        if let Some(answer) = answer.filter(|answer| !answer.is_empty()) {
            let is_last = match packet::understand(&answer) {
                Kind::Tcp(_) | Kind::Unanswered => true,
                Kind::Udp { .. } | Kind::Other { .. } => false,
            };
            assert!(is_last, "{answer:?} has an answer");
        }
    }
}

fn played(flows: &mut Flows, packet: &mut [u8], now: Instant) -> Option<Vec<u8>> {
    let before = packet::understand(packet);
    match flows.packet(packet, now) {
        Action::Answer(answer) => Some(answer),
        Action::Write => {
            let (Kind::Tcp(before), Kind::Tcp(after)) = (before, packet::understand(packet)) else {
                panic!("it is no segment any more: {packet:?}");
            };
            assert_eq!(
                (before.sequence, before.length, before.rst),
                (after.sequence, after.length, after.rst)
            );
            None
        }
        Action::Resolve { payload, .. } => {
            question(&packet[payload..]);
            None
        }
        Action::Connect { .. } | Action::Drop => None,
    }
}

fn segment([from, to]: [u8; 2], flags: u8, sequence: u8, payload: &[u8]) -> Vec<u8> {
    let has = |flag: u8| flags & flag != 0;
    let target = if has(16) {
        [198, 18, 0, 2]
    } else {
        [10, 0, 0, to % 4]
    };
    let mut tcp = PacketBuilder::ipv4([10, 0, 0, 1], target, 64).tcp(
        1024 + u16::from(from),
        1024 + u16::from(to),
        sequence.into(),
        1000,
    );
    if has(1) {
        tcp = tcp.syn();
    }
    if has(2) {
        tcp = tcp.ack(1);
    }
    if has(4) {
        tcp = tcp.fin();
    }
    if has(8) {
        tcp = tcp.rst();
    }
    let mut packet = Vec::new();
    // A payload that is too long makes no packet.
    tcp.write(&mut packet, payload).ok();
    packet
}

/// Panics if a question's name has no right form, or its answer is none of a question.
pub fn question(datagram: &[u8]) {
    let Some(question) = Question::parse(datagram) else {
        return;
    };
    assert!(question.name.len() <= 255 && question.name.is_ascii());
    let address = Answer::Address([198, 18, 4, 0].into());
    for answer in [address, Answer::Empty, Answer::NoSuchName, Answer::Failed] {
        if let Some(answer) = question.answered(answer) {
            assert_eq!(answer[..2], datagram[..2]);
            // An answer is never taken for a question.
            assert_eq!(Question::parse(&answer), None);
        }
    }
}

/// Panics if what a request to the proxy asks for has no right form.
pub fn request(head: &[u8]) {
    if let Ok(Some((host, length))) = proxy::wanted(head) {
        assert!(!host.is_empty() && host.len() <= head.len());
        assert!(length <= 2 * head.len() + 64);
    }
}
