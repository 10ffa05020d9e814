//! The headers of tar archives, with a bound on everything that a header states. The guest unpacks archives, and the host
//! reads some.

use tar::Header;

/// The size of an archive's blocks, in bytes.
pub const BLOCK: usize = 512;

/// The longest path, in bytes: the kernel's limit.
pub const MAX_PATH: usize = 4095;

/// The longest pax or long-name record; extended attributes are at most 64 KiB each.
pub const MAX_RECORD: u64 = 1 << 20;

/// The most bytes of records before one entry.
pub const MAX_RECORDS: u64 = 4 * MAX_RECORD;

/// The header in a block; `None` if its checksum is wrong. Pure.
pub fn header(block: &[u8; BLOCK]) -> Option<Header> {
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let sum = |value: fn(u8) -> i64| {
        let spaces = 8 * i64::from(b' ');
        let rest = block[..148].iter().chain(&block[156..]);
        spaces + rest.map(|byte| value(*byte)).sum::<i64>()
    };
    let expected = header.cksum().map(i64::from).ok()?;
    // Some old programs sum signed bytes.
    let right = expected == sum(i64::from) || expected == sum(|byte| i64::from(byte.cast_signed()));
    right.then_some(header)
}

/// The records of a pax header, `LENGTH KEY=VALUE\n`, whose values may be any bytes. An error is the last item. Pure.
pub fn pax(mut records: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), String>> {
    std::iter::from_fn(move || {
        if records.is_empty() {
            return None;
        }
        let Some((key, value, rest)) = record(records) else {
            let start = String::from_utf8_lossy(&records[..records.len().min(40)]).into_owned();
            records = &[];
            let problem = format!("the extended header has no well-formed record at {start:?}");
            return Some(Err(problem));
        };
        records = rest;
        Some(Ok((key, value)))
    })
}

fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&records[..space])?).ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

/// A decimal number and nothing else. Pure.
pub fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_may_hold_any_bytes() {
        let text = b"11 path=a\n\n12 x=\n=\n 1 \n";
        let found: Result<Vec<_>, _> = pax(text).collect();
        let expected: [(&[u8], &[u8]); 2] = [(b"path", b"a\n"), (b"x", b"\n=\n 1 ")];
        assert_eq!(found.unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_records_or_an_error(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut taken = 0;
            for found in pax(&text) {
                let Ok((key, value)) = found else { break };
                taken += key.len() + value.len();
            }
            prop_assert!(taken <= text.len());
        }

        #[test]
        fn a_checksum_speaks_of_every_byte(at in 0..BLOCK, more in 1..=255_u8) {
            let mut made = Header::new_gnu();
            made.set_size(7);
            made.set_cksum();
            let mut block = *made.as_bytes();
            prop_assert!(header(&block).is_some());
            block[at] = block[at].wrapping_add(more);
            // The checksum's own field may say the same in another way.
            prop_assert!(header(&block).is_none() || (148..156).contains(&at));
        }
    }
}
