//! The records of a pax extended header.

use rustix::fs::Timespec;

use super::error::lossy;
use crate::headers::{self, number};

/// The pax records that matter here.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timespec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_pieces: Option<Vec<(u64, u64)>>,
}

impl Pax {
    /// Merges the records of one extended header.
    pub(super) fn merge(&mut self, records: &[u8]) -> Result<(), String> {
        for record in headers::pax(records) {
            let (key, value) = record?;
            self.set(key, value)
                .ok_or_else(|| format!("the extended header's {:?} is malformed", lossy(key)))?;
        }
        Ok(())
    }

    /// Sets one record. An empty value removes an earlier record, except for an extended attribute, which may be empty.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        fn unless_empty<T>(value: &[u8], parse: fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
            (!value.is_empty())
                .then(|| parse(value))
                .map_or(Some(None), |parsed| parsed.map(Some))
        }
        let bytes = |value: &[u8]| (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes(value),
            b"linkpath" => self.link = bytes(value),
            b"size" => self.size = unless_empty(value, number)?,
            b"uid" => self.uid = unless_empty(value, number)?,
            b"gid" => self.gid = unless_empty(value, number)?,
            b"mtime" => self.mtime = unless_empty(value, pax_time)?,
            b"GNU.sparse.major" => self.sparse_major = Some(number(value)?),
            b"GNU.sparse.name" => self.sparse_name = bytes(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(number(value)?),
            b"GNU.sparse.offset" => {
                let pieces = self.sparse_pieces.get_or_insert_default();
                pieces.push((number(value)?, 0));
            }
            b"GNU.sparse.numbytes" => self.sparse_pieces.as_mut()?.last_mut()?.1 = number(value)?,
            b"GNU.sparse.map" => {
                let numbers = value
                    .split(|byte| *byte == b',')
                    .map(number)
                    .collect::<Option<Vec<_>>>()?;
                let (pairs, rest) = numbers.as_chunks::<2>();
                rest.is_empty().then_some(())?;
                self.sparse_pieces = Some(pairs.iter().map(|pair| (pair[0], pair[1])).collect());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return None;
                    }
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// `SECONDS[.FRACTION]`, possibly negative.
fn pax_time(text: &[u8]) -> Option<Timespec> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut halves = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(halves.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = halves.next() {
        let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
        nanos = number(&digits.copied().collect::<Vec<_>>())?.cast_signed();
    }
    let (tv_sec, tv_nsec) = match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    };
    Some(Timespec { tv_sec, tv_nsec })
}
