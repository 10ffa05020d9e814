//! ClientHellos, as a real client makes them and as a hostile one changes them; and the gate with all of them.

use bytes::BytesMut;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::super::answer::Answer;
use super::super::gate::Gate;
use super::super::wrong::Wrong;
use super::*;
use crate::network::rules::Host;

/// The bytes that a client sends first: to a name, or without one to an address.
pub(super) fn hello(to: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(to.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The ClientHello with an extension more.
pub(super) fn extended(hello: &[u8], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut message = hello[5..].to_vec();
    let session = 4 + 2 + 32;
    let suites = session + 1 + usize::from(message[session]);
    let compressions =
        suites + 2 + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
    let extensions = compressions + 1 + usize::from(message[compressions]);
    // The last extension must stay the last, if it is that of a session: none is here.
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(body);
    let length = (message.len() - extensions - 2) as u16;
    message[extensions..extensions + 2].copy_from_slice(&length.to_be_bytes());
    let length = (message.len() - 4) as u32;
    message[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    record(22, &message)
}

pub(super) fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// The ClientHello of busybox's `wget`, which has a server name and no other extension.
pub(super) fn bare(name: &str) -> Vec<u8> {
    let length = |length: usize| (length as u16).to_be_bytes();
    let list = [&[0][..], &length(name.len()), name.as_bytes()].concat();
    let name = [&length(list.len())[..], &list].concat();
    let extension = [&[0, 0][..], &length(name.len()), &name].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 4, 0xc0, 0x2f, 0, 0x3c, 1, 0],
        &length(extension.len()),
        &extension,
    ]
    .concat();
    record(22, &[&[1, 0][..], &length(body.len()), &body].concat())
}

/// An encrypted ClientHello, or what looks like one.
pub(super) fn encrypted() -> Vec<u8> {
    [
        &[0, 0, 1, 0, 1, 7, 0, 32][..],
        &[5; 32],
        &[0, 100],
        &[6; 100],
    ]
    .concat()
}

/// The ClientHello in records of so many bytes.
pub(super) fn fragmented(hello: &[u8], most: usize) -> Vec<u8> {
    hello[5..]
        .chunks(most)
        .flat_map(|piece| record(22, piece))
        .collect()
}

/// The beginning of a server's answer: one that asks for a second ClientHello, or not.
fn server_hello(retry: bool) -> Vec<u8> {
    let random = match retry {
        true => hex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"),
        false => vec![7; 32],
    };
    record(22, &[&[2, 0, 0, 60, 3, 3][..], &random, &[0; 26]].concat())
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// A gate that takes pieces: what passes, and what it ends with.
struct Passing {
    gate: Gate,
    answer: Answer,
    passed: Vec<u8>,
}

impl Passing {
    fn new(name: &str, port: u16) -> Self {
        let gate = Gate::new(&Host::parse(name).unwrap(), port, false);
        Self {
            answer: gate.answer(),
            gate,
            passed: Vec::new(),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let passed = self.gate.pass(BytesMut::from(bytes))?;
        self.passed.extend_from_slice(&passed);
        Ok(())
    }
}

/// Sends everything at once, and then in pieces cut at these places; both must do the same.
fn pass(name: &str, port: u16, bytes: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Wrong> {
    let whole = |pieces: Vec<&[u8]>| {
        let mut passing = Passing::new(name, port);
        pieces
            .into_iter()
            .try_for_each(|piece| passing.send(piece))?;
        let rest = passing.gate.end()?;
        Ok([&passing.passed[..], &rest].concat())
    };
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| cut % (bytes.len() + 1))
        .chain([0, bytes.len()])
        .collect();
    cuts.sort_unstable();
    let pieces = cuts.windows(2).map(|two| &bytes[two[0]..two[1]]).collect();
    let (at_once, in_pieces) = (whole(vec![bytes]), whole(pieces));
    assert_eq!(
        at_once.is_ok(),
        in_pieces.is_ok(),
        "{at_once:?} {in_pieces:?}"
    );
    at_once
}

const NAME: &str = "a.example";

#[test]
fn only_hellos_for_the_name_pass() {
    let right = hello(NAME);
    let mut upper = right.clone();
    let at = upper
        .windows(NAME.len())
        .position(|bytes| bytes == NAME.as_bytes())
        .unwrap();
    upper[at..at + NAME.len()].make_ascii_uppercase();
    for bytes in [
        &right,
        &upper,
        &fragmented(&right, 1),
        &fragmented(&right, 50),
        &extended(&right, 0x1a1a, b"grease"),
        &bare(NAME),
        &fragmented(&bare(NAME), 20),
    ] {
        for port in [80, 443, 8443] {
            assert_eq!(pass(NAME, port, bytes, &[1, 6, 90]).as_ref(), Ok(bytes));
        }
    }
    let other = hello("b.example");
    let two = [&right[..], &record(22, &[0; 0])].concat();
    let two_in_one = record(22, &[&right[5..], &other[5..]].concat());
    let (mut garbage, mut cut) = (right.clone(), right.clone());
    garbage[40..].fill(0xff);
    cut.truncate(100);
    for (bytes, expected) in [
        (other.clone(), "asks for `b.example`"),
        (fragmented(&other, 3), "asks for `b.example`"),
        (hello("xa.example"), "asks for `xa.example`"),
        (bare("b.example"), "asks for `b.example`"),
        (extended(&bare(NAME), 0xfe0d, &encrypted()), "hide a name"),
        (
            record(22, &[&bare(NAME)[5..], &other[5..]].concat()),
            "understand",
        ),
        (hello("151.101.0.1"), "no server name"),
        (extended(&right, 0xfe0d, &encrypted()), "hide a name"),
        (
            fragmented(&extended(&right, 0xfe0d, &encrypted()), 9),
            "hide a name",
        ),
        (
            extended(
                &right,
                0,
                &[
                    0, 12, 0, 0, 9, b'b', b'.', b'e', b'x', b'a', b'm', b'p', b'l', b'e',
                ],
            ),
            "understand",
        ),
        (two_in_one, "understand"),
        (two, "not complete"),
        (garbage, "understand"),
        (cut, "not complete"),
        (record(22, &[]).repeat(9000), "understand"),
        (
            record(22, &[1, 0, 0xff, 0xff])
                .into_iter()
                .chain(record(22, &[0; 16_000]))
                .chain(record(22, &[0; 16_000]))
                .collect(),
            "bytes of the connection",
        ),
    ] {
        for port in [80, 443, 8443] {
            let error = pass(NAME, port, &bytes, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}

#[test]
fn what_is_neither_passes_only_on_other_ports() {
    let others: [&[u8]; 12] = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"*1\r\n$4\r\nPING\r\n",
        b"EHLO me\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x04",
        b"get / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET key\r\n",
        b"AMQP\0\0\x09\x01",
        b"\xff",
        b"NICK a\r\n",
    ];
    for bytes in others {
        assert_eq!(
            pass(NAME, 6379, bytes, &[1, 2]).unwrap(),
            bytes,
            "{bytes:?}"
        );
        for port in [80, 443] {
            assert!(pass(NAME, port, bytes, &[]).is_err(), "{bytes:?}");
        }
    }
    let other = hello("b.example");
    assert_eq!(pass("151.101.0.1", 443, &other, &[5]).unwrap(), other);
}

#[test]
fn only_requests_for_the_name_pass() {
    for bytes in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST /x HTTP/1.1\r\nAccept: *\r\nhOsT:A.Example:8080 \r\n\r\nbody",
        "PROPFIND /x HTTP/1.0\nHost: a.example.\n\n",
        "\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        for port in [80, 8080] {
            assert_eq!(
                pass(NAME, port, bytes.as_bytes(), &[1, 3, 20, 30]).unwrap(),
                bytes.as_bytes(),
                "{bytes}"
            );
        }
    }
    for (bytes, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "asks for `b.example`",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
            "asks for `b.example`",
        ),
        (
            "GET / HTTP/1.1\r\nHost: b.example\r\nHost: a.example\r\n\r\n",
            "asks for `b.example`",
        ),
        (
            "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "asks for `http://b.example/`",
        ),
        (
            "GET http://a.example@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "asks for",
        ),
        (
            "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "asks for `b.example:443`",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "no `Host`"),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", "asks for"),
        (
            "\r\n\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "asks for `b.example`",
        ),
        ("GET / HTTP/1.1\r\nX: y\r\n Host: a.example\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", ""),
        (
            "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
            "asks for",
        ),
        ("GET / HTTP/1.9\r\nHost: b.example\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: a.example\r\n", "not complete"),
    ] {
        for port in [80, 8080] {
            let error = pass(NAME, port, bytes.as_bytes(), &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{bytes}: {error}");
        }
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(17 << 10));
    assert_eq!(pass(NAME, 8080, long.as_bytes(), &[]), Err(Wrong::Long));
}

#[test]
fn a_second_hello_is_checked_as_the_first() {
    let (right, other) = (hello(NAME), hello("b.example"));
    let early = [record(20, &[1]), record(23, &[9; 300])].concat();
    let started = |retry: Option<bool>| {
        let mut passing = Passing::new(NAME, 443);
        passing.send(&[&right[..], &early].concat()).unwrap();
        assert_eq!(passing.passed.len(), right.len() + early.len());
        if let Some(retry) = retry {
            server_hello(retry)
                .chunks(7)
                .for_each(|piece| passing.answer.see(piece));
        }
        passing
    };
    // Asked for: it is looked at.
    let mut passing = started(Some(true));
    passing.send(&fragmented(&right, 100)).unwrap();
    passing.send(&other).unwrap();
    assert!(passing.passed.ends_with(&other) && !passing.gate.holds());
    let mut passing = started(Some(true));
    assert!(
        passing
            .send(&fragmented(&other, 4))
            .unwrap_err()
            .to_string()
            .contains("b.example")
    );
    // Before the server has answered it waits.
    let mut passing = started(None);
    let passed = passing.passed.len();
    passing.send(&other).unwrap();
    assert!(passing.gate.awaits().is_some() && passing.passed.len() == passed);
    passing.answer.see(&server_hello(true));
    assert!(passing.gate.awaits().is_none() && passing.send(&[]).is_err());
    // Not asked for: the server takes none, and what follows is its own business.
    let mut passing = started(Some(false));
    passing.send(&record(22, &[16, 0, 0, 1, 0])).unwrap();
    assert!(!passing.gate.holds());
    let mut passing = started(None);
    passing.answer.see(&record(21, &[2, 40]));
    passing.send(&other).unwrap();
    assert!(!passing.gate.holds());
    // Neither a record nor anything else that TLS knows.
    assert!(started(None).send(b"GET / HTTP/1.1\r\n").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes pass unchanged and in order, or the connection ends; cuts and records change nothing.
    #[test]
    fn cuts_and_records_change_nothing(cuts in prop::collection::vec(any::<usize>(), 0..20), most in 1..400_usize, right in any::<bool>()) {
        let bytes = fragmented(&hello(if right { NAME } else { "b.example" }), most);
        let passed = pass(NAME, 443, &bytes, &cuts);
        prop_assert_eq!(passed.is_ok(), right);
        prop_assert!(!right || passed.as_ref() == Ok(&bytes));
    }

    /// No bytes do harm, and what passes is what was sent.
    #[test]
    fn any_bytes_pass_as_they_are_or_not_at_all(
        start in prop::sample::select(vec![&b""[..], b"\x16\x03\x01", b"GET ", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(any::<usize>(), 0..5),
        port in prop::sample::select(vec![80_u16, 443, 25]),
    ) {
        let bytes = [start, &bytes].concat();
        if let Ok(passed) = pass(NAME, port, &bytes, &cuts) {
            prop_assert_eq!(passed, bytes);
        }
    }

    /// A hello with any byte changed names the same host still, or does not pass; it never panics.
    #[test]
    fn changed_hellos_do_no_harm(at in any::<usize>(), to in any::<u8>()) {
        for mut bytes in [hello(NAME), bare(NAME)] {
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(passed) = pass(NAME, 443, &bytes, &[]) {
                prop_assert!(passed.to_ascii_lowercase().windows(NAME.len()).any(|part| part == NAME.as_bytes()));
            }
        }
    }
}
