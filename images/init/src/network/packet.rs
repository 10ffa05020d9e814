//! Packets of the TUN device: what they are, changed addresses, and answers that a network would give.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6,
};

/// How many hops an answer may take.
const HOPS: u8 = 64;

/// How much of a packet an ICMP message repeats: what IPv4's hosts need, and less than any link's maximum.
const REPEATED: usize = 128;

/// What a packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of a TCP connection.
    Tcp(Segment),
    /// A datagram; its payload is the rest of the packet from here on.
    Udp {
        from: SocketAddr,
        to: SocketAddr,
        payload: usize,
    },
    /// A question that wants an answer, such as a ping.
    Other { from: IpAddr, to: IpAddr },
    /// What gets no answer: errors, multicasts, fragments, nonsense.
    Unanswered,
}

/// What the table of flows needs of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    /// The length of the payload, in bytes.
    pub(super) length: usize,
    /// Where the TCP header begins.
    offset: usize,
}

/// What a packet is.
pub(super) fn understand(packet: &[u8]) -> Kind {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else {
        return Kind::Unanswered;
    };
    let (from, to) = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(v4)) if !v4.payload().fragmented => (
            IpAddr::V4(v4.header().source_addr()),
            IpAddr::V4(v4.header().destination_addr()),
        ),
        Some(etherparse::NetSlice::Ipv6(v6)) if !v6.payload().fragmented => (
            IpAddr::V6(v6.header().source_addr()),
            IpAddr::V6(v6.header().destination_addr()),
        ),
        _ => return Kind::Unanswered,
    };
    if to.is_multicast() || from.is_unspecified() || from.is_multicast() {
        return Kind::Unanswered;
    }
    let at = |part: &[u8]| part.as_ptr() as usize - packet.as_ptr() as usize;
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Kind::Tcp(Segment {
            from: SocketAddr::new(from, tcp.source_port()),
            to: SocketAddr::new(to, tcp.destination_port()),
            syn: tcp.syn(),
            ack: tcp.ack(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            sequence: tcp.sequence_number(),
            acknowledged: tcp.acknowledgment_number(),
            length: tcp.payload().len(),
            offset: at(tcp.slice()),
        }),
        Some(TransportSlice::Udp(udp)) => Kind::Udp {
            from: SocketAddr::new(from, udp.source_port()),
            to: SocketAddr::new(to, udp.destination_port()),
            payload: at(udp.payload()),
        },
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(_) => Kind::Other { from, to },
            _ => Kind::Unanswered,
        },
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(_) => Kind::Other { from, to },
            _ => Kind::Unanswered,
        },
        _ => Kind::Other { from, to },
    }
}

/// Gives a segment other addresses and ports. The checksums follow.
///
/// Both addresses must be of the packet's own family.
pub(super) fn readdress(packet: &mut [u8], segment: &Segment, from: SocketAddr, to: SocketAddr) {
    let mut change = Change::default();
    let ports = segment.offset;
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Change::default();
            for (at, octets) in [(12, from.octets()), (16, to.octets())] {
                header.replace(packet, at, &octets);
                change.and(&header);
                header.apply(packet, 10);
                header = Change::default();
            }
            true
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            change.replace(packet, 8, &from.octets());
            change.replace(packet, 24, &to.octets());
            true
        }
        _ => false,
    };
    if addresses {
        change.replace(packet, ports, &from.port().to_be_bytes());
        change.replace(packet, ports + 2, &to.port().to_be_bytes());
        change.apply(packet, ports + 16);
    }
}

/// The difference that new bytes make to a checksum (RFC 1624).
#[derive(Debug, Default)]
struct Change(u64);

impl Change {
    fn replace(&mut self, packet: &mut [u8], at: usize, new: &[u8]) {
        let Some(old) = packet.get_mut(at..at + new.len()) else {
            return;
        };
        for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
            self.0 += u64::from(!u16::from_be_bytes([old[0], old[1]]));
            self.0 += u64::from(u16::from_be_bytes([new[0], new[1]]));
        }
        old.copy_from_slice(new);
    }

    fn and(&mut self, other: &Self) {
        self.0 += other.0;
    }

    fn apply(&self, packet: &mut [u8], at: usize) {
        let Some([high, low]) = packet.get_mut(at..at + 2) else {
            return;
        };
        let mut sum = self.0 + u64::from(!u16::from_be_bytes([*high, *low]));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let folded = u16::try_from(sum).unwrap_or(0);
        [*high, *low] = (!folded).to_be_bytes();
    }
}

/// The reset that says that nothing listens there, or that a connection is not known.
pub(super) fn reset(segment: &Segment) -> Vec<u8> {
    let taken = u32::try_from(segment.length).unwrap_or(0)
        + u32::from(segment.syn)
        + u32::from(segment.fin);
    let ip = match (segment.to.ip(), segment.from.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            PacketBuilder::ipv4(source.octets(), target.octets(), HOPS)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            PacketBuilder::ipv6(source.octets(), target.octets(), HOPS)
        }
        _ => return Vec::new(),
    };
    let (from, to) = (segment.to.port(), segment.from.port());
    let tcp = match segment.ack {
        true => ip.tcp(from, to, segment.acknowledged, 0).rst(),
        false => {
            let next = segment.sequence.wrapping_add(taken);
            ip.tcp(from, to, 0, 0).rst().ack(next)
        }
    };
    written(|packet| tcp.write(packet, &[]).is_ok())
}

/// Why something can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// Nothing listens on that port.
    Port,
    /// There is no way there.
    Host,
    /// It is not allowed.
    Prohibited,
}

/// The message that something can't be reached, to the sender of a packet.
pub(super) fn unreachable(packet: &[u8], from: IpAddr, to: IpAddr, why: Unreachable) -> Vec<u8> {
    let repeated = &packet[..packet.len().min(REPEATED)];
    match (to, from) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let why = match why {
                Unreachable::Port => icmpv4::DestUnreachableHeader::Port,
                Unreachable::Host => icmpv4::DestUnreachableHeader::Host,
                Unreachable::Prohibited => icmpv4::DestUnreachableHeader::FilterProhibited,
            };
            let ip = PacketBuilder::ipv4(source.octets(), target.octets(), HOPS);
            let icmp = ip.icmpv4(Icmpv4Type::DestinationUnreachable(why));
            written(|answer| icmp.write(answer, repeated).is_ok())
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let why = match why {
                Unreachable::Port => icmpv6::DestUnreachableCode::Port,
                Unreachable::Host => icmpv6::DestUnreachableCode::Address,
                Unreachable::Prohibited => icmpv6::DestUnreachableCode::Prohibited,
            };
            let ip = PacketBuilder::ipv6(source.octets(), target.octets(), HOPS);
            let icmp = ip.icmpv6(Icmpv6Type::DestinationUnreachable(why));
            written(|answer| icmp.write(answer, repeated).is_ok())
        }
        _ => Vec::new(),
    }
}

/// A datagram.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            PacketBuilder::ipv4(source.octets(), target.octets(), HOPS)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            PacketBuilder::ipv6(source.octets(), target.octets(), HOPS)
        }
        _ => return Vec::new(),
    };
    let udp = ip.udp(from.port(), to.port());
    written(|packet| udp.write(packet, payload).is_ok())
}

/// A packet; an empty one if it can't be written.
fn written(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut packet = Vec::new();
    match write(&mut packet) {
        true => packet,
        false => Vec::new(),
    }
}
