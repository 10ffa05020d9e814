//! Tar archives: raw bytes, bytes with corrected checksums, or generated entries.

use arbitrary::Arbitrary;
use tempfile::TempDir;

const BLOCK: usize = 512;

/// The directory for the targets' files: in memory.
pub(crate) const PLACE: &str = "/dev/shm";

/// A directory for one input.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("snowglobe-fuzz-")
        .tempdir_in(PLACE)
        .expect("there is room")
}

/// The archives that the bytes generate, to be unpacked in order.
pub(crate) fn archives(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (kind, rest) = bytes.split_first()?;
    Some(match kind % 3 {
        0 => vec![rest.to_vec()],
        1 => vec![mended(rest.to_vec())],
        _ => {
            let archives: [Vec<Entry>; 2] = crate::made(rest)?;
            archives.iter().map(|entries| written(entries)).collect()
        }
    })
}

/// The archive with a correct checksum in each header.
fn mended(mut archive: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + BLOCK) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        at += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let size = header.entry_size().unwrap_or(0).min(1 << 30) as usize;
        at += size.next_multiple_of(BLOCK);
    }
    archive
}

/// The archive of these entries, with its end.
pub(crate) fn written(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    entries
        .iter()
        .take(24)
        .for_each(|entry| entry.write(&mut out));
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

#[derive(Arbitrary, Debug)]
pub(crate) struct Entry {
    path: Vec<Part>,
    absolute: bool,
    kind: u8,
    link: Vec<Part>,
    link_absolute: bool,
    mode: u16,
    owner: u16,
    data: Vec<u8>,
    /// The size that the header claims beyond the real data.
    claimed: Option<u64>,
    pax: Vec<(u8, Vec<u8>)>,
}

/// Few names, so that entries collide.
#[derive(Arbitrary, Debug)]
enum Part {
    A,
    B,
    C,
    Up,
    Dot,
    Outside,
    Whiteout,
    Opaque,
    Other(Vec<u8>),
}

fn join(parts: &[Part], absolute: bool) -> Vec<u8> {
    let mut path = Vec::new();
    for part in parts.iter().take(8) {
        if absolute || !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(match part {
            Part::A => b"a",
            Part::B => b"b",
            Part::C => b"c",
            Part::Up => b"..",
            Part::Dot => b".",
            Part::Outside => b"outside",
            Part::Whiteout => b".wh.a",
            Part::Opaque => b".wh..wh..opq",
            Part::Other(bytes) => bytes,
        });
    }
    path
}

const KINDS: &[u8] = b"0000555221xxgSLKV7346\0\0A";
const KEYS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "uid",
    "mtime",
    "SCHILY.xattr.user.x",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.map",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.name",
    "GNU.sparse.numbytes",
];

fn one_of<T: Copy>(all: &[T], number: u8) -> T {
    all[usize::from(number) % all.len()]
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = one_of(KINDS, self.kind);
        let pax = self.pax.iter();
        let records: Vec<u8> = pax
            .flat_map(|(key, value)| record(one_of(KEYS, *key), value))
            .collect();
        if !self.pax.is_empty() && kind != b'x' {
            self.block(out, b"pax", b'x', &records, None);
        }
        let data = match kind {
            b'x' | b'g' => &records,
            _ => &self.data,
        };
        let path = join(&self.path, self.absolute);
        self.block(out, &path, kind, data, self.claimed);
    }

    fn block(&self, out: &mut Vec<u8>, path: &[u8], kind: u8, data: &[u8], claimed: Option<u64>) {
        let mut header = tar::Header::new_gnu();
        let bytes = header.as_mut_bytes();
        let path = &path[..path.len().min(100)];
        bytes[..path.len()].copy_from_slice(path);
        bytes[156] = kind;
        let link = join(&self.link, self.link_absolute);
        let link = &link[..link.len().min(100)];
        bytes[157..157 + link.len()].copy_from_slice(link);
        header.set_mode(self.mode.into());
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        header.set_mtime(0);
        header.set_size(claimed.unwrap_or(data.len() as u64));
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
}

/// A pax record, whose length counts its own digits.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..)
        .find(|digits| (rest + digits).to_string().len() == *digits)
        .unwrap_or(1);
    let head = format!("{} {key}=", rest + digits);
    [head.as_bytes(), value, b"\n"].concat()
}
