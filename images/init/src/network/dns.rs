//! The guest's resolver: questions, and answers whose addresses stand for names.

use std::net::Ipv4Addr;

use simple_dns::rdata::{A, RData};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE, header_buffer,
};

/// How long an answer may be kept, in seconds. An address stands for its name for much longer.
const TTL: u32 = 60;

/// A question about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// In small letters, without the dot at its end.
    pub(super) name: String,
    /// Whether addresses of IPv4 are asked for. All other questions have an empty answer.
    pub(super) v4: bool,
    packet: Vec<u8>,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name has this address.
    Address(Ipv4Addr),
    /// The name has nothing of the kind that was asked for.
    Empty,
    /// There is no such name.
    NoSuchName,
    /// The host could not tell.
    Failed,
}

/// What answers a datagram that is no [`Question`]: that it is not supported, if it is a query at all. An asker that
/// hears nothing waits for seconds.
pub(super) fn not_supported(datagram: &[u8]) -> Option<Vec<u8>> {
    if header_buffer::has_flags(datagram, PacketFlag::RESPONSE).ok()? {
        return None;
    }
    let mut reply = Packet::new_reply(header_buffer::id(datagram).ok()?);
    *reply.opcode_mut() = header_buffer::opcode(datagram).ok()?;
    *reply.rcode_mut() = RCODE::NotImplemented;
    reply.build_bytes_vec().ok()
}

impl Question {
    /// Understands a datagram.
    pub(super) fn parse(datagram: &[u8]) -> Option<Self> {
        let packet = Packet::parse(datagram).ok()?;
        let question = packet.questions.first()?;
        let is_question = !packet.has_flags(PacketFlag::RESPONSE) && packet.questions.len() == 1;
        let internet = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
        let mut name = Vec::new();
        for label in question.qname.as_bytes() {
            // A dot within a label would make it two.
            if label.contains(&b'.') || !label.is_ascii() {
                return None;
            }
            name.push(String::from_utf8(label.to_ascii_lowercase()).ok()?);
        }
        (is_question && internet).then(|| Self {
            name: name.join("."),
            v4: matches!(question.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY),
            packet: datagram.to_vec(),
        })
    }

    /// The datagram that answers it.
    pub(super) fn answered(&self, answer: Answer) -> Option<Vec<u8>> {
        let asked = Packet::parse(&self.packet).ok()?;
        let mut reply = Packet::new_reply(asked.id());
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if asked.has_flags(PacketFlag::RECURSION_DESIRED) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        *reply.rcode_mut() = match answer {
            Answer::Address(_) | Answer::Empty => RCODE::NoError,
            Answer::NoSuchName => RCODE::NameError,
            Answer::Failed => RCODE::ServerFailure,
        };
        reply.questions = asked.questions.clone();
        if let Answer::Address(address) = answer {
            let name: Name<'_> = asked.questions.first()?.qname.clone();
            let data = RData::A(A::from(address));
            reply
                .answers
                .push(ResourceRecord::new(name, CLASS::IN, TTL, data));
        }
        reply.build_bytes_vec_compressed().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::Question as Asked;

    use super::*;

    fn question(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new_unchecked(name);
        packet.questions.push(Asked::new(
            name,
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_question_is_answered_with_its_number_and_name() {
        let asked = Question::parse(&question("PyPI.org", TYPE::A)).unwrap();
        assert_eq!((asked.name.as_str(), asked.v4), ("pypi.org", true));
        let address = Ipv4Addr::new(198, 18, 4, 1);
        let answer = asked.answered(Answer::Address(address)).unwrap();
        let answer = Packet::parse(&answer).unwrap();
        assert_eq!((answer.id(), answer.rcode()), (77, RCODE::NoError));
        assert!(
            matches!(&answer.answers[0].rdata, RData::A(a) if Ipv4Addr::from(a.address) == address)
        );
        let nothing = asked.answered(Answer::NoSuchName).unwrap();
        assert_eq!(Packet::parse(&nothing).unwrap().rcode(), RCODE::NameError);
    }

    #[test]
    fn only_addresses_of_ipv4_are_ever_answered() {
        for kind in [
            TYPE::AAAA,
            TYPE::TXT,
            TYPE::MX,
            TYPE::SRV,
            TYPE::PTR,
            TYPE::NS,
        ] {
            let asked = Question::parse(&question("example.org", kind)).unwrap();
            assert!(!asked.v4);
            let answer = asked.answered(Answer::Empty).unwrap();
            let answer = Packet::parse(&answer).unwrap();
            assert!(answer.answers.is_empty() && answer.rcode() == RCODE::NoError);
        }
    }

    #[test]
    fn a_query_of_any_kind_is_answered() {
        let mut query = question("example.org", TYPE::A);
        let kind = query.len() - 4;
        // A type of the public network that the parser does not know, one that nobody knows, and another class.
        for changed in [[1, 0, 0, 1], [0xff, 0x42, 0, 1], [0, 1, 0, 3]] {
            query[kind..].copy_from_slice(&changed);
            assert_eq!(Question::parse(&query), None);
            let answer = not_supported(&query).unwrap();
            let answer = Packet::parse(&answer).unwrap();
            assert_eq!((answer.id(), answer.rcode()), (77, RCODE::NotImplemented));
        }
        // Two resolvers must not answer each other's answers.
        let answer = not_supported(&query).unwrap();
        assert_eq!(not_supported(&answer), None);
        assert_eq!(not_supported(&query[..11]), None);
    }

    proptest! {
        #[test]
        fn any_datagram_is_a_question_or_none(datagram in prop::collection::vec(any::<u8>(), 0..600)) {
            match Question::parse(&datagram) {
                Some(question) => drop(question.answered(Answer::Empty)),
                None => drop(not_supported(&datagram)),
            }
        }
    }
}
