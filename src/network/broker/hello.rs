//! TLS's ClientHello: the server name in it. Pure.

use rustls::server::Acceptor;
use rustls::{Error, PeerIncompatible};

use super::wrong::Wrong;

/// The type of records with handshake messages.
pub(super) const HANDSHAKE: u8 = 22;

/// The types of the other records.
pub(super) const CHANGE_CIPHER: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const DATA: u8 = 23;

/// The length of a record's head.
pub(super) const HEAD: usize = 5;

/// The extension with an encrypted ClientHello.
const ENCRYPTED: u16 = 0xfe0d;

const LACKS_SIGNATURES: PeerIncompatible = PeerIncompatible::SignatureAlgorithmsExtensionRequired;

/// The extension with algorithms of signatures, with one algorithm.
const SIGNATURES: [u8; 8] = [0, 13, 0, 4, 0, 2, 4, 1];

/// The longest body of a record.
const MAX_RECORD: usize = 1 << 14;

/// Has the parser read the bytes after those that it has taken. Gives the server name, which may be none, once the
/// ClientHello is complete.
pub(super) fn read(
    parser: &mut Acceptor,
    held: &[u8],
    taken: usize,
) -> Result<Option<Option<String>>, Wrong> {
    let mut new = &held[taken..];
    while !new.is_empty() {
        let taken = parser
            .read_tls(&mut new)
            .map_err(|error| Wrong::Bad(error.to_string()))?;
        match parser.accept() {
            Ok(Some(accepted)) => {
                return Ok(Some(
                    accepted.client_hello().server_name().map(str::to_owned),
                ));
            }
            Ok(None) if taken > 0 => {}
            Ok(None) => return Err(Wrong::Long),
            // The parser has no other objection. TLS 1.2 leaves the extension to the client, and busybox leaves it out.
            Err((Error::PeerIncompatible(LACKS_SIGNATURES), _)) => {
                let mended = with_signatures(held)
                    .ok_or_else(|| Wrong::Bad("the ClientHello is out of shape".into()))?;
                return read(&mut Acceptor::default(), &mended, 0);
            }
            Err((error, _)) => return Err(Wrong::Bad(error.to_string())),
        }
    }
    Ok(None)
}

/// Whether the server name is the one that is allowed.
pub(super) fn check(asked: Option<&str>, name: &str) -> Result<(), Wrong> {
    match asked {
        Some(asked) if asked.eq_ignore_ascii_case(name) => Ok(()),
        Some(asked) => Err(Wrong::Other {
            name: name.to_owned(),
            asked: asked.to_owned(),
        }),
        None => Err(Wrong::NoServerName(name.to_owned())),
    }
}

/// The length of the records that the ClientHello is in, with their heads. Another one behind it in the same record
/// would not be seen.
pub(super) fn records_length(bytes: &[u8]) -> Result<usize, Wrong> {
    let wanted = message_length(bytes);
    let (mut at, mut got) = (0, 0);
    while got < wanted
        && let Some(length) = record(bytes.get(at..).unwrap_or_default())
    {
        at += HEAD + length;
        got += length;
    }
    match got == wanted && at <= bytes.len() {
        true => Ok(at),
        false => Err(Wrong::Bad("a record has more than the ClientHello".into())),
    }
}

/// Whether the ClientHello, which the parser has understood, has an encrypted one in it. The parser does not tell.
pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    let message = message(bytes);
    // What can't be read is taken for the worst.
    extensions(&message).is_none_or(|kinds| kinds.contains(&ENCRYPTED))
}

/// The length of the first record's body, if it holds a handshake message and is there.
fn record(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [HANDSHAKE, _, _, high, low, ..] => Some(usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

/// The bodies of the records, one after another.
fn message(bytes: &[u8]) -> Vec<u8> {
    let (mut at, mut message) = (0, Vec::with_capacity(bytes.len()));
    while let Some(length) = record(&bytes[at..]) {
        let end = (at + HEAD + length).min(bytes.len());
        message.extend_from_slice(&bytes[at + HEAD..end]);
        at = end;
    }
    message
}

/// The length of the first handshake message, with its head.
fn message_length(bytes: &[u8]) -> usize {
    match message(bytes)[..] {
        [_, a, b, c, ..] => 4 + usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c),
        _ => usize::MAX,
    }
}

/// The first ClientHello, with algorithms of signatures as its first extension. It must have none.
fn with_signatures(bytes: &[u8]) -> Option<Vec<u8>> {
    let message = message(bytes);
    let (fixed, extensions) = parts(&message)?;
    let extensions = [&SIGNATURES, extensions].concat();
    let length = u16::try_from(extensions.len()).ok()?;
    let body = [fixed, &length.to_be_bytes(), &extensions].concat();
    let [0, length @ ..] = u32::try_from(body.len()).ok()?.to_be_bytes() else {
        return None;
    };
    let mut records = Vec::with_capacity(bytes.len() + SIGNATURES.len() + HEAD);
    for piece in [&message[..1], &length, &body].concat().chunks(MAX_RECORD) {
        records.extend([HANDSHAKE, 3, 1]);
        records.extend(u16::try_from(piece.len()).ok()?.to_be_bytes());
        records.extend(piece);
    }
    Some(records)
}

/// The types of a ClientHello's extensions.
fn extensions(message: &[u8]) -> Option<Vec<u16>> {
    let (_, mut extensions) = parts(message)?;
    let mut kinds = Vec::new();
    while let [high, low, after @ ..] = extensions {
        kinds.push(u16::from_be_bytes([*high, *low]));
        extensions = after;
        field(&mut extensions, 2)?;
    }
    Some(kinds)
}

/// The fields of a ClientHello before its extensions, and its extensions.
fn parts(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = message.get(1..)?;
    let body = field(&mut rest, 3)?;
    let mut rest = body.get(2 + 32..)?;
    field(&mut rest, 1)?;
    field(&mut rest, 2)?;
    field(&mut rest, 1)?;
    let fixed = &body[..body.len() - rest.len()];
    let extensions = match rest.is_empty() {
        true => rest,
        false => field(&mut rest, 2)?,
    };
    rest.is_empty().then_some((fixed, extensions))
}

/// Takes a field that begins with its length, in so many bytes.
fn field<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(width)?;
    let length = length
        .iter()
        .fold(0, |length, byte| length * 256 + usize::from(*byte));
    let (field, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(field)
}
