use etherparse::{PacketBuilder, SlicedPacket};
use proptest::prelude::*;

use super::*;

fn address(v6: bool, low: u8, port: u16) -> SocketAddr {
    match v6 {
        false => SocketAddr::from(([10, 0, 0, low], port)),
        true => SocketAddr::from((
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low.into()),
            port,
        )),
    }
}

fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
        _ => panic!("mixed"),
    };
    let tcp = ip.tcp(from.port(), to.port(), sequence, 1000);
    let tcp = if syn { tcp.syn() } else { tcp.ack(7) };
    let mut packet = Vec::new();
    tcp.write(&mut packet, payload).unwrap();
    packet
}

fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    match packet::understand(packet) {
        Kind::Tcp(segment) => (segment.from, segment.to),
        other => panic!("{other:?}"),
    }
}

/// Whether both checksums are right.
fn is_valid(packet: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP")
    };
    let header = tcp.to_header();
    match sliced.net.unwrap() {
        etherparse::NetSlice::Ipv4(v4) => {
            let ip = v4.header().to_header();
            ip.header_checksum == ip.calc_header_checksum()
                && header.checksum == header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap()
        }
        etherparse::NetSlice::Ipv6(v6) => {
            let ip = v6.header().to_header();
            header.checksum == header.calc_checksum_ipv6(&ip, tcp.payload()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Both ways, a segment arrives where it should, with right checksums and unchanged content.
    #[test]
    fn segments_go_there_and_back(
        v6 in any::<bool>(), port in 1..=u16::MAX, target in 1..=u16::MAX, first in any::<u32>(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let now = Instant::now();
        let mut flows = Flows::new((4000, 6000));
        let (program, server) = (address(v6, 1, port), address(v6, 2, target));
        let mut packet = segment(program, server, first, true, &[]);
        let Action::Connect { flow, from, to } = flows.packet(&mut packet, now) else { panic!() };
        prop_assert_eq!((from, to), (program, server));
        // Repeated while it is held.
        let mut again = segment(program, server, first, true, &[]);
        prop_assert_eq!(flows.packet(&mut again, now), Action::Drop);
        let held = flows.connected(flow).unwrap();
        prop_assert!(is_valid(&held));
        let (peer, own) = ends(&held);
        prop_assert_eq!(peer.port(), flow);
        prop_assert_eq!(own.port(), if v6 { 6000 } else { 4000 });
        flows.taken(flow);
        let mut back = segment(own, peer, 5, false, &payload);
        prop_assert_eq!(flows.packet(&mut back, now), Action::Write);
        prop_assert!(is_valid(&back) && back.ends_with(&payload));
        prop_assert_eq!(ends(&back), (server, program));
        let mut out = segment(program, server, first.wrapping_add(1), false, &payload);
        prop_assert_eq!(flows.packet(&mut out, now), Action::Write);
        prop_assert!(is_valid(&out) && out.ends_with(&payload));
        prop_assert_eq!(ends(&out), (peer, own));
        // Forgotten some time after its end, and not before.
        let later = now + 2 * UNTAKEN;
        let mut out = segment(program, server, first.wrapping_add(1), false, &payload);
        prop_assert_eq!(flows.packet(&mut out, later), Action::Write);
        flows.ended(flow, later);
        let mut out = segment(program, server, first.wrapping_add(1), false, &payload);
        prop_assert!(matches!(flows.packet(&mut out, later + 2 * LINGER), Action::Answer(_)));
        prop_assert_eq!(flows.len(), 0);
    }

    /// No packet does harm.
    #[test]
    fn any_packet_has_an_action(mut packet in prop::collection::vec(any::<u8>(), 0..200), version in 0..4) {
        if let Some(first) = packet.first_mut() {
            *first = match version { 0 => 0x45, 1 => 0x60, 2 => 0x4f, _ => *first };
        }
        Flows::new((1, 2)).packet(&mut packet, Instant::now());
    }
}

#[test]
fn a_refusal_is_a_reset_or_a_message() {
    let now = Instant::now();
    let mut flows = Flows::new((4000, 6000));
    for v6 in [false, true] {
        let (program, server) = (address(v6, 1, 5555), address(v6, 2, 443));
        for why in [None, Some(Unreachable::Host)] {
            let mut packet = segment(program, server, 9, true, &[]);
            let Action::Connect { flow, .. } = flows.packet(&mut packet, now) else {
                panic!()
            };
            let answer = flows.refused(flow, why).unwrap();
            match why {
                None => {
                    assert!(is_valid(&answer));
                    assert_eq!(ends(&answer), (server, program));
                    let Kind::Tcp(reset) = packet::understand(&answer) else {
                        panic!()
                    };
                    assert!(reset.rst && reset.acknowledged == 10);
                }
                Some(_) => assert_eq!(packet::understand(&answer), Kind::Unanswered),
            }
            assert_eq!(flows.len(), 0);
            assert_eq!(flows.connected(flow), None);
        }
    }
}

#[test]
fn datagrams_are_questions_for_the_resolver_or_refused() {
    let mut flows = Flows::new((4000, 6000));
    for v6 in [false, true] {
        let (program, server) = (address(v6, 1, 5555), address(v6, 2, 53));
        let mut question = packet::datagram(program, server, b"question");
        let Action::Resolve { from, to, payload } = flows.packet(&mut question, Instant::now())
        else {
            panic!()
        };
        assert_eq!(
            (from, to, &question[payload..]),
            (program, server, &b"question"[..])
        );
        let mut quic = packet::datagram(program, address(v6, 2, 443), b"hello");
        let Action::Answer(answer) = flows.packet(&mut quic, Instant::now()) else {
            panic!()
        };
        assert!(!answer.is_empty());
        // An error is never answered by an error.
        let mut answer = answer;
        assert_eq!(flows.packet(&mut answer, Instant::now()), Action::Drop);
    }
}

#[test]
fn used_ports_are_used_again_for_another_connection() {
    let now = Instant::now();
    let mut flows = Flows::new((4000, 6000));
    let (program, server) = (address(false, 1, 5555), address(false, 2, 443));
    let mut first = segment(program, server, 1, true, &[]);
    let Action::Connect { flow: one, .. } = flows.packet(&mut first, now) else {
        panic!()
    };
    flows.connected(one).unwrap();
    let mut second = segment(program, server, 2, true, &[]);
    let Action::Connect { flow: two, .. } = flows.packet(&mut second, now) else {
        panic!()
    };
    assert_ne!(one, two);
    assert_eq!(flows.len(), 1);
    // Nothing of the first one reaches the second one.
    flows.ended(one, now);
    assert!(flows.connected(one).is_none() && flows.connected(two).is_some());
}

/// The flow of a first segment.
fn asked(flows: &mut Flows, port: u16, sequence: u32, now: Instant) -> Option<u16> {
    let (program, server) = (address(false, 1, port), address(false, 2, 443));
    match flows.packet(&mut segment(program, server, sequence, true, &[]), now) {
        Action::Connect { flow, .. } => Some(flow),
        _ => None,
    }
}

#[test]
fn an_answer_for_a_program_that_gave_up_reaches_no_other() {
    let now = Instant::now();
    let mut flows = Flows::new((4000, 6000));
    let given_up = asked(&mut flows, 1, 1, now).unwrap();
    assert!(asked(&mut flows, 1, 2, now).is_some_and(|flow| flow != given_up));
    assert!(flows.forgotten().is_empty());
    // Its number is not another's before the host has answered, however many there are.
    for round in 0..u16::MAX {
        let flow = asked(&mut flows, 2, round.into(), now).unwrap();
        assert_ne!(flow, given_up);
        flows.refused(flow, None).unwrap();
    }
    flows.forgotten();
    assert_eq!(flows.connected(given_up), None);
    assert_eq!(flows.forgotten(), [given_up]);
}

#[test]
fn a_stream_that_the_kernel_never_takes_is_forgotten() {
    let now = Instant::now();
    let mut flows = Flows::new((4000, 6000));
    let flow = asked(&mut flows, 1, 1, now).unwrap();
    flows.connected(flow).unwrap();
    flows.sweep(now + 2 * UNTAKEN);
    assert_eq!(flows.forgotten(), [flow]);
    assert!(flows.is_empty());
}

#[test]
fn flows_that_have_ended_make_room_for_others() {
    let now = Instant::now();
    let mut flows = Flows::new((4000, 6000));
    for port in 0..3 * u16::try_from(MAX_FLOWS).unwrap() {
        let flow = asked(&mut flows, port, 1, now).unwrap();
        flows.connected(flow).unwrap();
        flows.taken(flow);
        if port > 0 {
            flows.ended(flow, now);
        }
    }
    assert_eq!(flows.len(), MAX_FLOWS);
    let mut out = segment(address(false, 1, 0), address(false, 2, 443), 2, false, &[]);
    assert_eq!(flows.packet(&mut out, now), Action::Write);
}
