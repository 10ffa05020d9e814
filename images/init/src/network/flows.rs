//! The table of TCP connections that leave the guest. Pure: packets and times in, what is to be done out.
//!
//! The guest's own kernel does TCP at both ends: a segment to anywhere gets another source, an address that nobody has
//! and a port that stands for the flow, and this machine's own address as its target, where one listener takes every
//! connection. Answers go the same way back. The first segment of a connection is held until the host has connected,
//! so a program sees a refusal as one.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::packet::{self, Kind, Segment, Unreachable};

/// This machine's address on the device.
pub(super) const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The address that stands for the other end.
pub(super) const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// This machine's address on the device, of IPv6.
pub(super) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd53, 0x6e6f, 0, 0, 0, 0, 0, 1);
/// The address of IPv6 that stands for the other end.
pub(super) const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd53, 0x6e6f, 0, 0, 0, 0, 0, 2);

/// How many flows there may be. The host's own bound on streams is lower.
const MAX_FLOWS: usize = 8192;

/// How long the segments of a connection that has ended are still carried.
const LINGER: Duration = Duration::from_secs(60);

/// How long a connection whose stream never began is kept: the kernel repeats its first segment in the meantime.
const UNTAKEN: Duration = Duration::from_secs(130);

/// The first port that stands for a flow.
const FIRST: u16 = 1024;

/// What is to be done with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Drop,
    /// It was changed, and goes back into the device.
    Write,
    /// This goes into the device instead.
    Answer(Vec<u8>),
    /// The host is to be asked for a connection.
    Connect {
        /// The flow.
        flow: u16,
        /// Where the program has its end.
        from: SocketAddr,
        /// Where the program wants to.
        to: SocketAddr,
    },
    /// A question for the resolver.
    Resolve {
        /// Who asks.
        from: SocketAddr,
        /// Who was asked.
        to: SocketAddr,
        /// Where the question begins in the packet.
        payload: usize,
    },
}

/// The connections.
#[derive(Debug)]
pub(super) struct Flows {
    by_number: HashMap<u16, Flow>,
    by_ends: HashMap<(SocketAddr, SocketAddr), u16>,
    next: u16,
    /// The ports where the kernel takes connections, of IPv4 and IPv6.
    listeners: (u16, u16),
    swept: Option<Instant>,
    /// The flows that have ended, the oldest first: they make room for others.
    ending: VecDeque<u16>,
    /// The numbers of flows that were forgotten since [`Flows::forgotten`] was called.
    forgotten: Vec<u16>,
}

#[derive(Debug)]
struct Flow {
    ends: (SocketAddr, SocketAddr),
    /// The first segment, until the host has answered.
    held: Option<Vec<u8>>,
    /// Whether the host's answer is awaited: until then nothing else gets the number.
    asked: bool,
    /// The sequence number of the first segment: another one is another connection.
    first: u32,
    /// When the flow is forgotten; none: while it is open.
    until: Option<Instant>,
}

impl Flows {
    pub(super) fn new(listeners: (u16, u16)) -> Self {
        Self {
            by_number: HashMap::new(),
            by_ends: HashMap::new(),
            next: FIRST,
            listeners,
            swept: None,
            ending: VecDeque::new(),
            forgotten: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// The flows that were forgotten since the last call. Nothing will take their streams.
    pub(super) fn forgotten(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.forgotten)
    }

    /// How many flows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// What is to be done with a packet of the device. It may be changed for that.
    pub(super) fn packet(&mut self, packet: &mut [u8], now: Instant) -> Action {
        self.sweep(now);
        match packet::understand(packet) {
            Kind::Tcp(segment) if is_peer(segment.to.ip()) => self.back(packet, &segment),
            Kind::Tcp(segment) => self.out(packet, &segment, now),
            Kind::Udp { from, to, payload } if to.port() == 53 => {
                Action::Resolve { from, to, payload }
            }
            Kind::Udp { from, to, .. } => {
                let answer = packet::unreachable(packet, from.ip(), to.ip(), Unreachable::Port);
                Action::Answer(answer)
            }
            Kind::Other { from, to } => {
                let answer = packet::unreachable(packet, from, to, Unreachable::Prohibited);
                Action::Answer(answer)
            }
            Kind::Unanswered => Action::Drop,
        }
    }

    /// A segment from this machine's listener to the program that connects.
    fn back(&mut self, packet: &mut [u8], segment: &Segment) -> Action {
        let Some(flow) = self.by_number.get(&segment.to.port()) else {
            return match segment.rst {
                true => Action::Drop,
                false => Action::Answer(packet::reset(segment)),
            };
        };
        let (program, target) = flow.ends;
        packet::readdress(packet, segment, target, program);
        Action::Write
    }

    /// A segment from a program to anywhere.
    fn out(&mut self, packet: &mut [u8], segment: &Segment, now: Instant) -> Action {
        let ends = (segment.from, segment.to);
        let known = self.by_ends.get(&ends).copied();
        let begins = segment.syn && !segment.ack && !segment.rst;
        if let Some(number) = known
            && let Some(flow) = self.by_number.get(&number)
        {
            if !begins || flow.first == segment.sequence {
                // The kernel repeats a first segment that has had no answer: no other connection.
                if flow.held.is_some() {
                    if segment.rst {
                        self.forget(number);
                    }
                    return Action::Drop;
                }
                self.forward(number, packet, segment);
                return Action::Write;
            }
            // The ports are used again.
            self.forget(number);
        }
        if !begins {
            return match segment.rst {
                true => Action::Drop,
                false => Action::Answer(packet::reset(segment)),
            };
        }
        match self.add(ends, packet, segment.sequence, now) {
            Some(flow) => Action::Connect {
                flow,
                from: segment.from,
                to: segment.to,
            },
            None => Action::Answer(packet::reset(segment)),
        }
    }

    fn add(
        &mut self,
        ends: (SocketAddr, SocketAddr),
        packet: &[u8],
        first: u32,
        now: Instant,
    ) -> Option<u16> {
        while self.by_number.len() >= MAX_FLOWS {
            let oldest = self.ending.pop_front()?;
            if self.has_ended(oldest) {
                self.forget(oldest);
            }
        }
        let after = |number: u16| number.checked_add(1).unwrap_or(FIRST);
        let mut number = self.next;
        while self.by_number.contains_key(&number) {
            number = after(number);
        }
        self.next = after(number);
        let flow = Flow {
            ends,
            held: Some(packet.to_vec()),
            asked: true,
            first,
            until: Some(now + UNTAKEN),
        };
        self.by_number.insert(number, flow);
        self.by_ends.insert(ends, number);
        Some(number)
    }

    /// Changes a segment so that this machine's listener takes it.
    fn forward(&self, number: u16, packet: &mut [u8], segment: &Segment) {
        let (peer, own) = match segment.to.ip() {
            IpAddr::V4(_) => (
                SocketAddr::from((PEER_V4, number)),
                SocketAddr::from((OWN_V4, self.listeners.0)),
            ),
            IpAddr::V6(_) => (
                SocketAddr::from((PEER_V6, number)),
                SocketAddr::from((OWN_V6, self.listeners.1)),
            ),
        };
        packet::readdress(packet, segment, peer, own);
    }

    /// The host has connected: the held segment, which goes into the device now. None if the program has given up.
    pub(super) fn connected(&mut self, number: u16) -> Option<Vec<u8>> {
        let mut held = self.answered(number)?;
        if let Kind::Tcp(segment) = packet::understand(&held) {
            self.forward(number, &mut held, &segment);
        }
        Some(held)
    }

    /// The first segment, now that the host has answered. None if the program has given up, which ends the flow.
    fn answered(&mut self, number: u16) -> Option<Vec<u8>> {
        let flow = self.by_number.get_mut(&number)?;
        if !std::mem::replace(&mut flow.asked, false) {
            return None;
        }
        let held = flow.held.take();
        if held.is_none() {
            self.forget(number);
        }
        held
    }

    /// The host has refused: the answer to the program. None if it has given up.
    pub(super) fn refused(&mut self, number: u16, why: Option<Unreachable>) -> Option<Vec<u8>> {
        let held = self.answered(number)?;
        let (from, to) = self.by_number.get(&number)?.ends;
        self.forget(number);
        match (why, packet::understand(&held)) {
            (Some(why), _) => Some(packet::unreachable(&held, from.ip(), to.ip(), why)),
            (None, Kind::Tcp(segment)) => Some(packet::reset(&segment)),
            _ => None,
        }
    }

    /// The kernel has taken the connection: it is open until [`Flows::ended`].
    pub(super) fn taken(&mut self, number: u16) {
        if let Some(flow) = self.by_number.get_mut(&number) {
            flow.until = None;
        }
    }

    /// The listener's end is closed; what its last segments need stays a while.
    pub(super) fn ended(&mut self, number: u16, now: Instant) {
        if let Some(flow) = self.by_number.get_mut(&number) {
            flow.until = Some(now + LINGER);
            self.ending.push_back(number);
        }
    }

    fn has_ended(&self, number: u16) -> bool {
        let flow = self.by_number.get(&number);
        flow.is_some_and(|flow| !flow.asked && flow.until.is_some())
    }

    /// Forgets a flow. Its number is used again only once the host has answered, whose answer is for this flow.
    fn forget(&mut self, number: u16) {
        let Some(flow) = self.by_number.get_mut(&number) else {
            return;
        };
        if self.by_ends.get(&flow.ends) == Some(&number) {
            self.by_ends.remove(&flow.ends);
        }
        match flow.asked {
            true => (flow.held, flow.until) = (None, None),
            false => {
                self.by_number.remove(&number);
                self.forgotten.push(number);
            }
        }
    }

    /// Forgets flows that have ended, at most once a second.
    pub(super) fn sweep(&mut self, now: Instant) {
        let soon = self
            .swept
            .is_some_and(|swept| now < swept + Duration::from_secs(1));
        if soon {
            return;
        }
        self.swept = Some(now);
        let over = self
            .by_number
            .iter()
            .filter(|(_, flow)| flow.until.is_some_and(|until| until <= now));
        let over: Vec<u16> = over.map(|(number, _)| *number).collect();
        over.into_iter().for_each(|number| self.forget(number));
        let mut ending = std::mem::take(&mut self.ending);
        ending.retain(|number| self.has_ended(*number));
        self.ending = ending;
    }
}

fn is_peer(address: IpAddr) -> bool {
    address == IpAddr::V4(PEER_V4) || address == IpAddr::V6(PEER_V6)
}

#[cfg(test)]
mod tests;
