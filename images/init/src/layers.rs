//! Applies the layers of an image, in order, to the new root of a building guest.
//!
//! A layer is an uncompressed tar stream (v7, ustar, pax or GNU). Headers are decoded by the `tar` crate; what
//! strings them together is here, because pax values may be binary (a capability with a newline in it), sizes may
//! stand in a pax record only, and a stream that ends between two entries must not pass for a whole one.
//!
//! Invariants:
//!
//! - Nothing outside the root is read or written. A name is cleaned as text first: absolute means relative to the
//!   root, `a/../b` is `b`, and a name that climbs above the root is refused (as Docker does; containerd clamps it).
//!   Its parent is then resolved by the kernel with the root as the end of the world (`RESOLVE_IN_ROOT`), so links
//!   inside the root are followed within it. The last component is never followed.
//! - A later entry wins over what stands at its name, except that a directory over a directory keeps the content
//!   and takes the new owner, mode, times and extended attributes.
//! - Whiteouts hide lower layers only: what the same layer brings stays, in whatever order it comes.
//! - The root directory itself keeps its owner and mode (as with containerd): archives made of a private
//!   temporary directory would otherwise lock everyone but root out.
//!
//! Deliberately absent: pax global headers (skipped, as the OCI tools do), access times, textual `SCHILY.acl.*`
//! (ACLs come as extended attributes), metadata of hard links (it is that of the file they name), user names
//! (owners are numeric), multi-volume and incremental archives (refused).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::headers::{self, BLOCK, MAX_PATH, MAX_RECORD, MAX_RECORDS, number};

/// The most entries one layer may have.
pub const MAX_ENTRIES: u64 = 5_000_000;
/// The most pieces a sparse file may have.
const MAX_PIECES: u64 = 1 << 20;
/// How deep a tree that is removed may be.
const MAX_DEPTH: usize = 512;
/// How many dangling links are followed to make one parent.
const MAX_LINKS: usize = 40;
/// How many parent directories are kept open.
const OPEN_PARENTS: usize = 32;
/// How much of the stream is held: also the largest single write.
const BUFFER: usize = 512 << 10;

/// What a layer brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Why a layer could not be applied.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LayerError {
    #[error("read the layer after {at} bytes: {error}")]
    Read { at: u64, error: io::Error },
    #[error("read the layer: it is {what}; an uncompressed tar archive was expected")]
    NotTar { what: &'static str },
    #[error(
        "read the layer: the stream ended after {at} bytes, {place}; it must go on to the archive's end mark: \
         send the whole archive again"
    )]
    Truncated { at: u64, place: String },
    #[error("read the layer's header at byte {at}, {place}: {what}")]
    Damaged {
        at: u64,
        place: String,
        what: String,
    },
    #[error("unpack the layer: it has more than {limit} entries, the most a layer may have")]
    TooMany { limit: u64 },
    #[error("unpack {path:?}: {why}")]
    Refused { path: String, why: String },
    #[error("{step} {path:?}: {errno}")]
    System {
        step: String,
        path: String,
        errno: Errno,
    },
}

impl LayerError {
    /// Whether the disk is full (of bytes or of inodes).
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::System { errno, .. } if matches!(*errno, Errno::NOSPC | Errno::DQUOT))
    }

    fn refused(path: &[u8], why: impl Into<String>) -> Self {
        Self::Refused {
            path: lossy(path),
            why: why.into(),
        }
    }
}

/// Makes a [`LayerError::System`] of an errno.
fn at(step: impl Into<String>, path: &[u8]) -> impl FnOnce(Errno) -> LayerError {
    move |errno| LayerError::System {
        step: step.into(),
        path: lossy(path),
        errno,
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Applies one uncompressed tar stream on top of `root`; never leaves it.
///
/// The stream is read to its very end, whatever follows the archive's end mark. With `whiteouts`, `.wh.NAME` and
/// `.wh..wh..opq` remove what lower layers brought; without, they are files like any other.
pub fn apply(root: &Path, tar: impl Read, whiteouts: bool) -> Result<Applied, LayerError> {
    apply_up_to(MAX_ENTRIES, root, tar, whiteouts)
}

fn apply_up_to(
    limit: u64,
    root: &Path,
    tar: impl Read,
    whiteouts: bool,
) -> Result<Applied, LayerError> {
    let mut source = Source::new(tar);
    let mut layer = Layer::new(Tree::open(root)?, whiteouts);
    while let Some(entry) = source.next_entry()? {
        if layer.applied.entries == limit {
            return Err(LayerError::TooMany { limit });
        }
        layer.applied.entries += 1;
        layer.put(entry, &mut source)?;
    }
    layer.finish()
}

/// Makes an unpacked root bootable: the mount points and directories that every guest needs, where missing.
///
/// What is there is followed and kept as it is: a `/tmp` that links elsewhere gets the directory it links to.
pub fn finish(root: &Path) -> Result<(), LayerError> {
    const NEEDED: [(&str, u32, u32); 7] = [
        ("proc", 0o555, 0),
        ("sys", 0o555, 0),
        ("dev", 0o755, 0),
        ("run", 0o755, 0),
        ("tmp", 0o1777, 0),
        ("etc", 0o755, 0),
        ("workspace", 0o755, 1000),
    ];
    let mut tree = Tree::open(root)?;
    for (name, mode, owner) in NEEDED {
        let make = Make {
            mode,
            owner,
            replace: false,
        };
        tree.ensure(name.as_bytes(), make, 0)?;
    }
    Ok(())
}

// --- The stream: from blocks to entries ---

/// One entry, its names cleaned, its header and extended headers merged.
struct Entry {
    /// Relative to the root; empty for the root itself.
    path: Vec<u8>,
    kind: Kind,
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

enum Kind {
    /// `None`: the entry's data is the file. `Some`: it is the pieces of a sparse file.
    File(Option<Sparse>),
    Directory,
    Symlink(Vec<u8>),
    /// The target, cleaned.
    HardLink(Vec<u8>),
    Node(FileType, fs::Dev),
}

struct Sparse {
    pieces: Vec<(u64, u64)>,
    size: u64,
}

impl Sparse {
    /// Checks that the pieces are in order, inside the file, and make up `data` bytes.
    fn check(&self, data: u64) -> Result<(), &'static str> {
        let (mut end, mut total) = (0u64, 0u64);
        for &(offset, length) in &self.pieces {
            if offset < end {
                return Err("its pieces overlap or are out of order");
            }
            end = offset
                .checked_add(length)
                .ok_or("a piece ends beyond 2^64 bytes")?;
            total += length;
        }
        if end > self.size {
            return Err("a piece lies behind the end of the file");
        }
        if total != data {
            return Err("its pieces don't add up to the data that comes with it");
        }
        Ok(())
    }
}

/// The pax records that matter here.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_pieces: Option<Vec<(u64, u64)>>,
}

impl Pax {
    /// Merges the records of one extended header.
    fn merge(&mut self, records: &[u8]) -> Result<(), String> {
        for record in headers::pax(records) {
            let (key, value) = record?;
            self.set(key, value)
                .ok_or_else(|| format!("the extended header's {:?} is malformed", lossy(key)))?;
        }
        Ok(())
    }

    /// An empty value takes a record back, except that of an extended attribute, which may well be empty.
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

/// `SECONDS[.FRACTION]`, maybe before 1970.
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

/// A header field that some writers leave blank, which is zero.
fn field<T: Default>(raw: &[u8], parsed: io::Result<T>) -> Result<T, String> {
    if raw.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    parsed.map_err(|error| error.to_string())
}

/// A name as the path below the root it means; empty for the root.
fn clean(name: &[u8]) -> Result<Vec<u8>, String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.contains(&0) {
        return Err("the name contains a NUL byte".into());
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts
                    .pop()
                    .ok_or("the name climbs out of the root; every name must stay below it")?;
            }
            _ if part.len() > 255 => {
                return Err(format!(
                    "a part of the name has {} bytes; at most 255 are possible",
                    part.len()
                ));
            }
            _ => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > MAX_PATH {
        return Err(format!(
            "the path has {} bytes; at most {MAX_PATH} are possible",
            path.len()
        ));
    }
    Ok(path)
}

/// Splits a cleaned path into its parent and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The tar stream: what was read, and how much of the current entry is left.
struct Source<R> {
    reader: BufReader<R>,
    at: u64,
    /// Data of the current entry still to come.
    data: u64,
    /// Zeros behind that data, up to a whole block.
    padding: u64,
    /// The last entry's name, for messages.
    last: Vec<u8>,
}

impl<R: Read> Source<R> {
    fn new(tar: R) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, tar),
            at: 0,
            data: 0,
            padding: 0,
            last: Vec::new(),
        }
    }

    fn place(&self) -> String {
        match (self.last.is_empty(), self.data > 0) {
            (true, _) => "before the first entry".into(),
            (_, true) => format!("inside {:?}", lossy(&self.last)),
            (_, false) => format!("after {:?}", lossy(&self.last)),
        }
    }

    fn truncated(&self) -> LayerError {
        LayerError::Truncated {
            at: self.at,
            place: self.place(),
        }
    }

    fn damaged(&self, what: impl Into<String>) -> LayerError {
        LayerError::Damaged {
            at: self.at.saturating_sub(BLOCK as u64),
            place: self.place(),
            what: what.into(),
        }
    }

    /// What is buffered, empty at the end of the stream.
    fn buffered(&mut self) -> Result<&[u8], LayerError> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read { at: self.at, error }),
            }
        }
        Ok(self.reader.buffer())
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
        self.at += amount as u64;
    }

    /// Passes up to `length` bytes of the current entry's data to `sink`, and all of them unless it fails.
    fn copy(
        &mut self,
        mut length: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        while length > 0 {
            let chunk = self.buffered()?;
            let part = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            if part == 0 {
                return Err(self.truncated());
            }
            sink(&chunk[..part])?;
            self.consume(part);
            length -= part as u64;
            self.data = self.data.saturating_sub(part as u64);
        }
        Ok(())
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<(), LayerError> {
        self.copy(self.data, |_| Ok(()))?;
        let padding = std::mem::take(&mut self.padding);
        self.copy(padding, |_| Ok(()))
    }

    fn block(&mut self) -> Result<[u8; BLOCK], LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        self.copy(BLOCK as u64, |chunk| {
            block[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
            Ok(())
        })
        .map(|()| block)
    }

    /// The data of the current entry, which is a record about the next one.
    fn record(&mut self) -> Result<Vec<u8>, LayerError> {
        if self.data > MAX_RECORD {
            return Err(self.damaged(format!(
                "a record of {} bytes; at most {MAX_RECORD} are possible",
                self.data
            )));
        }
        let mut record = Vec::with_capacity(self.data as usize);
        self.copy(self.data, |chunk| {
            record.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(record)
    }

    /// A GNU long name: a C string.
    fn long_name(&mut self) -> Result<Vec<u8>, LayerError> {
        let mut name = self.record()?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// The next header that is not all zeros.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let first = self.at == 0;
        if first {
            self.sniff()?;
        }
        let block = self.block()?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let Some(header) = headers::header(&block) else {
            return Err(if first {
                LayerError::NotTar {
                    what: "no tar archive (its first block has no valid checksum)",
                }
            } else {
                self.damaged("its checksum is wrong: the archive is damaged")
            });
        };
        Ok(Some(header))
    }

    /// Names the usual mistakes.
    fn sniff(&mut self) -> Result<(), LayerError> {
        let what = match self.buffered()? {
            [0x1f, 0x8b, ..] => "compressed with gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed with zstd",
            [0xfd, b'7', b'z', b'X', b'Z', ..] => "compressed with xz",
            [b'B', b'Z', b'h', ..] => "compressed with bzip2",
            _ => return Ok(()),
        };
        Err(LayerError::NotTar { what })
    }

    /// The next entry, or `None` behind the archive's end mark, when the stream has been read to its end.
    fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link, mut pending) = (None, None, false);
        let mut records = 0;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if pending {
                    return Err(
                        self.damaged("an extended header describes an entry that is not there")
                    );
                }
                self.drain()?;
                return Ok(None);
            };
            let kind = header.as_old().linkflag[0];
            let size = field(&header.as_old().size, header.entry_size())
                .map_err(|what| self.damaged(format!("its size: {what}")))?;
            let about_next = matches!(kind, b'L' | b'K' | b'x' | b'X' | b'g' | b'V');
            // Links, nodes and directories have no data, whatever their size says (as in Go's and GNU's tar).
            self.data = match kind {
                b'1'..=b'6' => 0,
                _ if about_next => size,
                _ => pax.size.unwrap_or(size),
            };
            self.padding = self.data.wrapping_neg() % BLOCK as u64;
            records += if about_next {
                self.data.min(MAX_RECORD) + 1
            } else {
                0
            };
            if records > MAX_RECORDS {
                return Err(self.damaged(format!(
                    "more than {MAX_RECORDS} bytes of records about one entry"
                )));
            }
            match kind {
                b'L' => long_name = Some(self.long_name()?),
                b'K' => long_link = Some(self.long_name()?),
                b'x' | b'X' => {
                    let records = self.record()?;
                    pax.merge(&records).map_err(|what| self.damaged(what))?;
                }
                b'g' | b'V' => continue,
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
            pending = true;
        }
    }

    fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            let rest = self.buffered()?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }

    /// Merges a header with what was said about it before.
    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, LayerError> {
        let name = long_name
            .or(pax.sparse_name)
            .or(pax.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |why: String| LayerError::refused(&name, why);
        let path = clean(&name).map_err(refuse)?;
        self.last.clone_from(&name);
        let old = header.as_old();
        let owner = |own: Option<u64>, raw: &[u8], parsed: io::Result<u64>, what: &str| {
            let id = own.map_or_else(|| field(raw, parsed), Ok);
            let id = id.map_err(|why| refuse(format!("its {what}: {why}")))?;
            // The highest number means "no change" to the kernel.
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| refuse(format!("its {what} is {id}; at most 2^32 - 2 is possible")))
        };
        let uid = owner(pax.uid, &old.uid, header.uid(), "owner")?;
        let gid = owner(pax.gid, &old.gid, header.gid(), "group")?;
        let mode =
            field(&old.mode, header.mode()).map_err(|why| refuse(format!("its mode: {why}")))?;
        let seconds =
            field(&old.mtime, header.mtime()).map_err(|why| refuse(format!("its time: {why}")))?;
        let mtime = pax.mtime.unwrap_or(Timespec {
            tv_sec: seconds.cast_signed(),
            tv_nsec: 0,
        });
        let link = || {
            let target = long_link
                .or(pax.link)
                .or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned()))
                .filter(|target| !target.is_empty())
                .ok_or_else(|| refuse("it is a link without a target".into()))?;
            if target.contains(&0) || target.len() > MAX_PATH {
                return Err(refuse(format!(
                    "its target must have at most {MAX_PATH} bytes and no NUL"
                )));
            }
            Ok(target)
        };
        let device = || -> Result<fs::Dev, LayerError> {
            let part = |part: io::Result<Option<u32>>| {
                part.map(Option::unwrap_or_default)
                    .map_err(|why| refuse(format!("its device number: {why}")))
            };
            Ok(fs::makedev(
                part(header.device_major())?,
                part(header.device_minor())?,
            ))
        };
        let kind = match old.linkflag[0] {
            // Before directories had a type of their own they were files with a slash at the end.
            0 | b'0' if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' if pax.sparse_major == Some(1) => {
                let size = pax.sparse_size.unwrap_or(self.data);
                Kind::File(Some(self.leading_map(size)?))
            }
            0 | b'0' | b'7' => Kind::File(pax.sparse_pieces.map(|pieces| Sparse {
                pieces,
                size: pax.sparse_size.unwrap_or(self.data),
            })),
            b'S' => Kind::File(Some(self.header_map(header)?)),
            b'1' => {
                let target = link()?;
                Kind::HardLink(clean(&target).map_err(|why| {
                    refuse(format!("its hard link target {:?}: {why}", lossy(&target)))
                })?)
            }
            b'2' => Kind::Symlink(link()?),
            b'3' => Kind::Node(FileType::CharacterDevice, device()?),
            b'4' => Kind::Node(FileType::BlockDevice, device()?),
            b'5' => Kind::Directory,
            b'6' => Kind::Node(FileType::Fifo, 0),
            other => {
                return Err(refuse(format!(
                    "its type {:?} is unknown here; expected are files, directories, links, devices and fifos",
                    char::from(other)
                )));
            }
        };
        if let Kind::File(Some(sparse)) = &kind {
            sparse
                .check(self.data)
                .map_err(|why| refuse(format!("it is sparse, but {why}")))?;
        }
        Ok(Entry {
            path,
            kind,
            uid,
            gid,
            mode: mode & 0o7777,
            mtime,
            xattrs: pax.xattrs,
        })
    }

    /// The map of an old GNU sparse file: in its header, and in blocks between the header and the data.
    fn header_map(&mut self, header: &Header) -> Result<Sparse, LayerError> {
        let data = self.data;
        let broken =
            |error: io::Error| LayerError::refused(&self.last, format!("its map: {error}"));
        let gnu = header
            .as_gnu()
            .ok_or_else(|| broken(io::Error::other("only GNU archives have such files")))?;
        let mut sparse = Sparse {
            pieces: Vec::new(),
            size: gnu.real_size().map_err(broken)?,
        };
        let mut add = |piece: &GnuSparseHeader| -> io::Result<()> {
            if !piece.is_empty() {
                sparse.pieces.push((piece.offset()?, piece.length()?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add).map_err(broken)?;
        let mut extended = gnu.is_extended();
        let mut blocks = 0;
        while extended {
            blocks += 1;
            if blocks * 21 > MAX_PIECES {
                return Err(LayerError::refused(
                    &self.last,
                    format!("it is sparse with more than {MAX_PIECES} pieces"),
                ));
            }
            let mut more = GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(&self.block()?);
            more.sparse()
                .iter()
                .try_for_each(&mut add)
                .map_err(|error| LayerError::refused(&self.last, format!("its map: {error}")))?;
            extended = more.is_extended();
        }
        // Those blocks are no part of the data.
        self.data = data;
        Ok(sparse)
    }

    /// The map of a pax sparse file of version 1: decimal lines before the data, padded to whole blocks.
    fn leading_map(&mut self, size: u64) -> Result<Sparse, LayerError> {
        let (mut line, mut numbers) = (Vec::new(), Vec::new());
        let mut wanted = 1;
        while (numbers.len() as u64) < wanted {
            if self.data < BLOCK as u64 {
                return Err(LayerError::refused(
                    &self.last,
                    "it is sparse, but its map is longer than its data",
                ));
            }
            for byte in self.block()? {
                if (numbers.len() as u64) == wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let value = number(&line)
                    .filter(|value| !numbers.is_empty() || *value <= MAX_PIECES)
                    .ok_or_else(|| {
                        LayerError::refused(&self.last, "it is sparse, but its map is malformed")
                    })?;
                if numbers.is_empty() {
                    wanted = 1 + 2 * value;
                }
                numbers.push(value);
                line.clear();
            }
        }
        let (pairs, _) = numbers[1..].as_chunks::<2>();
        Ok(Sparse {
            pieces: pairs.iter().map(|pair| (pair[0], pair[1])).collect(),
            size,
        })
    }
}

// --- The root: paths that can't leave it ---

/// A directory's identity: device and inode.
type DirId = (u64, u64);

/// An open directory below the root.
struct Dir {
    fd: OwnedFd,
    id: DirId,
    /// New things in here take its group.
    setgid: bool,
    /// New things in here take ACLs from it.
    default_acl: bool,
}

#[derive(Clone, Copy)]
struct Make {
    mode: u32,
    owner: u32,
    /// Replace what stands in the way and is no directory.
    replace: bool,
}

/// Parents that an entry needs and no entry describes.
const PARENT: Make = Make {
    mode: 0o755,
    owner: 0,
    replace: true,
};

struct Tree {
    root: OwnedFd,
    /// The last used parents, the latest last. Valid until a directory or a link is removed.
    open: Vec<(Vec<u8>, Rc<Dir>)>,
}

impl Tree {
    fn open(root: &Path) -> Result<Self, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = root.as_os_str().as_encoded_bytes();
        Ok(Self {
            root: fs::open(root, flags, Mode::empty()).map_err(at("open the root", name))?,
            open: Vec::new(),
        })
    }

    /// Opens a directory; links are followed within the root.
    fn resolve(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match fs::openat2(&self.root, path, flags, Mode::empty(), within) {
                // The kernel could not tell that `..` stayed inside while something was renamed.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// The directory at `path`, or `None` where there is none.
    fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>, LayerError> {
        if let Some(index) = self.open.iter().rposition(|(known, _)| known == path) {
            let found = Rc::clone(&self.open[index].1);
            let last = self.open.len() - 1;
            if index < last {
                self.open[index..].rotate_left(1);
            }
            return Ok(Some(found));
        }
        let fd = match self.resolve(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(at("open the directory", path)(errno)),
        };
        let stat = fs::fstat(&fd).map_err(at("look at the directory", path))?;
        let acl = fs::fgetxattr(&fd, "system.posix_acl_default", &mut [0u8; 0][..]);
        let dir = Rc::new(Dir {
            id: (stat.st_dev, stat.st_ino),
            setgid: stat.st_mode & 0o2000 != 0,
            default_acl: acl.is_ok(),
            fd,
        });
        if self.open.len() == OPEN_PARENTS {
            self.open.remove(0);
        }
        self.open.push((path.to_vec(), Rc::clone(&dir)));
        Ok(Some(dir))
    }

    /// The directory at `path`, made with its parents where missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>, LayerError> {
        if let Some(dir) = self.find(path)? {
            return Ok(dir);
        }
        self.ensure(path, PARENT, 0)?;
        self.find(path)?
            .ok_or_else(|| LayerError::refused(path, "its directory vanished while it was made"))
    }

    /// Makes the directory at `path` and its parents, where missing. A link that leads nowhere is followed too:
    /// what it names is made.
    fn ensure(&mut self, path: &[u8], make: Make, links: usize) -> Result<(), LayerError> {
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(index, _)| index)
            .chain([path.len()]);
        let mut parent = self.resolve(b"").map_err(at("open the root", path))?;
        for end in ends {
            let (prefix, (_, name)) = (&path[..end], split(&path[..end]));
            if matches!(name, b"" | b"." | b"..") && end < path.len() {
                // Part of a link's target: the kernel knows what it means there.
                if !prefix.is_empty() {
                    parent = self.resolve(prefix).map_err(at("follow", prefix))?;
                }
                continue;
            }
            let last = if end == path.len() {
                make
            } else {
                Make {
                    mode: 0o755,
                    owner: 0,
                    ..make
                }
            };
            let missing = match self.resolve(prefix) {
                Ok(found) => {
                    parent = found;
                    continue;
                }
                Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => errno,
                Err(errno) => return Err(at("open the directory", prefix)(errno)),
            };
            self.make(&parent, prefix, missing, last, links)?;
            parent = self
                .resolve(prefix)
                .map_err(at("open the directory", prefix))?;
        }
        Ok(())
    }

    /// Makes one directory, where `missing` says what was wrong with what is there.
    fn make(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        missing: Errno,
        make: Make,
        links: usize,
    ) -> Result<(), LayerError> {
        let (above, name) = split(path);
        let mode = Mode::from_raw_mode(make.mode);
        match fs::mkdirat(parent, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) if missing == Errno::NOENT => {
                if links == MAX_LINKS {
                    return Err(LayerError::refused(path, "its links go round in circles"));
                }
                let target = fs::readlinkat(parent, name, Vec::new())
                    .map_err(at("read the link", path))?
                    .into_bytes();
                let target = match target.strip_prefix(b"/") {
                    Some(absolute) => absolute.to_vec(),
                    None if above.is_empty() => target,
                    None => [above, &target].join(&b'/'),
                };
                let target = target.strip_suffix(b"/").unwrap_or(&target);
                return self.ensure(target, make, links + 1);
            }
            Err(Errno::EXIST) if make.replace => {
                fs::unlinkat(parent, name, AtFlags::empty())
                    .map_err(at("replace what is no directory at", path))?;
                self.open.clear();
                fs::mkdirat(parent, name, mode).map_err(at("make the directory", path))?;
            }
            Err(Errno::EXIST) => {
                return Err(LayerError::refused(
                    path,
                    "it is no directory, and the guest needs one there",
                ));
            }
            Err(errno) => return Err(at("make the directory", path)(errno)),
        }
        let (uid, gid) = (Uid::from_raw(make.owner), Gid::from_raw(make.owner));
        fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(at("set the owner of", path))?;
        fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(at("set the mode of", path))
    }
}

// --- The layer: entries onto the root ---

/// A directory's metadata that waits for its content: times, which content changes, and ACLs, which content inherits.
struct Later {
    path: Vec<u8>,
    mtime: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    reset: bool,
}

/// The names that this layer brought, by directory, so that whiteouts spare them.
#[derive(Default)]
struct Brought(HashMap<DirId, HashSet<Vec<u8>>>);

impl Brought {
    fn has(&self, dir: DirId, name: &[u8]) -> bool {
        self.0.get(&dir).is_some_and(|names| names.contains(name))
    }
}

struct Layer {
    tree: Tree,
    /// `None`: this layer has no whiteouts.
    brought: Option<Brought>,
    later: Vec<Later>,
    applied: Applied,
    umask: Option<u32>,
    me: (u32, u32),
}

impl Layer {
    fn new(tree: Tree, whiteouts: bool) -> Self {
        Self {
            tree,
            brought: whiteouts.then(Brought::default),
            later: Vec::new(),
            applied: Applied::default(),
            umask: umask(),
            me: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        }
    }

    fn put<R: Read>(&mut self, entry: Entry, source: &mut Source<R>) -> Result<(), LayerError> {
        let (above, name) = split(&entry.path);
        if name.is_empty() {
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(LayerError::refused(
                    b"/",
                    "the root must be a directory, and the layer has something else for it",
                )),
            };
        }
        if self.brought.is_some() && self.hide(&entry.path, above, name)? {
            return Ok(());
        }
        let parent = self.tree.parent(above)?;
        if let Some(Brought(brought)) = &mut self.brought {
            let names = brought.entry(parent.id).or_default();
            if !names.contains(name) {
                names.insert(name.to_vec());
            }
        }
        match &entry.kind {
            Kind::File(sparse) => self.file(&parent, name, &entry, sparse.as_ref(), source),
            Kind::HardLink(target) => self.hard_link(&parent, name, &entry.path, target),
            Kind::Symlink(target) => {
                self.create(&parent, name, &entry.path, || {
                    fs::symlinkat(target.as_slice(), &parent.fd, name)
                })?;
                self.describe(&parent, name, &entry)
            }
            Kind::Node(kind, device) => {
                let mode = Mode::from_raw_mode(entry.mode);
                self.create(&parent, name, &entry.path, || {
                    fs::mknodat(&parent.fd, name, *kind, mode, *device)
                })?;
                self.describe(&parent, name, &entry)
            }
            Kind::Directory => self.directory(&parent, entry),
        }
    }

    /// Creates something under a name; what stands there gives way.
    fn create<T>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        create: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                create().map_err(at("create", path))
            }
            result => result.map_err(at("create", path)),
        }
    }

    fn remove(&mut self, parent: &Dir, name: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let failed = || at("remove what was at", path);
        let there = fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
        if matches!(
            FileType::from_raw_mode(there.st_mode),
            FileType::Directory | FileType::Symlink
        ) {
            // Known parents may have been reached through it.
            self.tree.open.clear();
        }
        prune(parent.fd.as_fd(), name, &|_, _| false, parent.id, 0)
            .map(drop)
            .map_err(failed())
    }

    /// Whether the kernel gives new things in `parent` this owner anyway.
    fn owned(&self, parent: &Dir, entry: &Entry) -> bool {
        (entry.uid, entry.gid) == self.me && !parent.setgid
    }

    /// Whether the kernel gives new things in `parent` this mode anyway.
    fn permitted(&self, parent: &Dir, entry: &Entry) -> bool {
        let plain = entry.mode & 0o7000 == 0 && !parent.setgid && !parent.default_acl;
        plain && self.umask.is_some_and(|umask| entry.mode & umask == 0)
    }

    fn file<R: Read>(
        &mut self,
        parent: &Dir,
        name: &[u8],
        entry: &Entry,
        sparse: Option<&Sparse>,
        source: &mut Source<R>,
    ) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut file = self
            .create(parent, name, path, || {
                fs::openat(&parent.fd, name, flags, mode)
            })
            .map(File::from)?;
        let write =
            |error: io::Error| at("write", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        self.applied.bytes += source.data;
        match sparse {
            None => source.copy(source.data, |chunk| file.write_all(chunk).map_err(write))?,
            Some(sparse) => {
                for &(mut offset, length) in &sparse.pieces {
                    source.copy(length, |chunk| {
                        file.write_all_at(chunk, offset).map_err(write)?;
                        offset += chunk.len() as u64;
                        Ok(())
                    })?;
                }
                file.set_len(sparse.size).map_err(write)?;
            }
        }
        if !self.owned(parent, entry) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fs::fchown(&file, Some(uid), Some(gid)).map_err(at("set the owner of", path))?;
        }
        if !self.permitted(parent, entry) {
            fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(at("set the mode of", path))?;
        }
        set_xattrs(file.as_fd(), path, &entry.xattrs, parent.default_acl)?;
        fs::futimens(&file, &modified(entry.mtime)).map_err(at("set the time of", path))
    }

    fn hard_link(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        target: &[u8],
    ) -> Result<(), LayerError> {
        let (above, linked) = split(target);
        let nothing = || {
            let target = lossy(target);
            let why = format!(
                "its hard link target {target:?} does not exist; a file of this layer or a lower one was expected"
            );
            LayerError::refused(path, why)
        };
        let from = self.tree.find(above)?.ok_or_else(nothing)?;
        let link = || fs::linkat(&from.fd, linked, &parent.fd, name, AtFlags::empty());
        let look = |dir: &Dir, name: &[u8]| -> Result<Stat, Errno> {
            fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
        };
        let failed = |errno| match errno {
            Errno::NOENT => nothing(),
            errno => at(format!("link {:?} as", lossy(target)), path)(errno),
        };
        match link() {
            Err(Errno::EXIST) => {
                let old = look(&from, linked).map_err(failed)?;
                let new = look(parent, name).map_err(at("look at", path))?;
                if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino) {
                    return Ok(());
                }
                self.remove(parent, name, path)?;
                link().map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    /// Gives a link, device or fifo just created its owner, mode, attributes and time.
    fn describe(&self, parent: &Dir, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        if !self.owned(parent, entry) {
            set_owner(parent, name, entry)?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) && !self.permitted(parent, entry) {
            fs::chmodat(
                &parent.fd,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )
            .map_err(at("set the mode of", path))?;
        }
        if !entry.xattrs.is_empty() || parent.default_acl {
            // Neither can be opened, so they are named through the parent.
            let place = format!("/proc/self/fd/{}/", parent.fd.as_raw_fd());
            let place = [place.as_bytes(), name].concat();
            set_xattrs(place.as_slice(), path, &entry.xattrs, parent.default_acl)?;
        }
        let times = modified(entry.mtime);
        fs::utimensat(&parent.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("set the time of", path))
    }

    fn directory(&mut self, parent: &Dir, entry: Entry) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let (_, name) = split(path);
        let mode = Mode::from_raw_mode(entry.mode);
        let make = || fs::mkdirat(&parent.fd, name, mode);
        let mut reset = parent.default_acl;
        let (mut own, mut permit) = (!self.owned(parent, &entry), !self.permitted(parent, &entry));
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(at("look at", path))?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    reset = true;
                    own = (there.st_uid, there.st_gid) != (entry.uid, entry.gid);
                    permit = own || there.st_mode & 0o7777 != entry.mode;
                    if (there.st_mode ^ entry.mode) & 0o2000 != 0 {
                        // What is known of it as a parent is wrong now.
                        self.tree.open.clear();
                    }
                } else {
                    self.remove(parent, name, path)?;
                    make().map_err(at("make the directory", path))?;
                }
            }
            Err(errno) => return Err(at("make the directory", path)(errno)),
        }
        if own {
            set_owner(parent, name, &entry)?;
        }
        if permit {
            fs::chmodat(&parent.fd, name, mode, AtFlags::empty())
                .map_err(at("set the mode of", path))?;
        }
        self.later.push(Later {
            path: entry.path,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
            reset,
        });
        Ok(())
    }

    /// Does what a whiteout says; `false` if the entry is none.
    fn hide(&mut self, path: &[u8], above: &[u8], name: &[u8]) -> Result<bool, LayerError> {
        let opaque = name == b".wh..wh..opq";
        let private = |part: &[u8]| part.starts_with(b".wh..wh.");
        if !opaque && path.split(|byte| *byte == b'/').any(private) {
            // What AUFS kept for itself.
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(b".wh.") else {
            return Ok(false);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::refused(
                path,
                "a whiteout must name what it hides: .wh.NAME",
            ));
        }
        let Some(parent) = self.tree.find(above)? else {
            return Ok(true);
        };
        let brought = self.brought.take().unwrap_or_default();
        self.tree.open.clear();
        let has = |dir: DirId, name: &[u8]| brought.has(dir, name);
        let hide = |name: &[u8]| {
            prune(parent.fd.as_fd(), name, &has, parent.id, 0)
                .map(drop)
                .map_err(at("hide what is below", path))
        };
        let result = if opaque {
            names(parent.fd.as_fd())
                .map_err(at("list the directory of", path))
                .and_then(|names| names.iter().try_for_each(|name| hide(name)))
        } else {
            hide(hidden)
        };
        self.brought = Some(brought);
        result.map(|()| true)
    }

    /// Gives the directories what waited for their content.
    fn finish(mut self) -> Result<Applied, LayerError> {
        for Later {
            path,
            mtime,
            xattrs,
            reset,
        } in std::mem::take(&mut self.later)
        {
            let (above, name) = split(&path);
            let Some(parent) = self.tree.find(above)? else {
                continue;
            };
            // A later entry may have replaced it.
            match fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(at("look at", &path)(errno)),
            }
            if reset || !xattrs.is_empty() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = fs::openat(&parent.fd, name, flags, Mode::empty())
                    .map_err(at("open the directory", &path))?;
                set_xattrs(dir.as_fd(), &path, &xattrs, reset)?;
            }
            let times = modified(mtime);
            fs::utimensat(&parent.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(at("set the time of", &path))?;
        }
        Ok(self.applied)
    }
}

fn set_owner(parent: &Dir, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    fs::chownat(&parent.fd, name, Some(uid), Some(gid), flags)
        .map_err(at("set the owner of", &entry.path))
}

fn modified(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        last_modification: mtime,
    }
}

/// The process's umask, if it can be known without changing it.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// The names in a directory.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a name and what is below it, except what `spared` names and what holds that. Returns whether it is gone.
fn prune(
    dir: BorrowedFd<'_>,
    name: &[u8],
    spared: &dyn Fn(DirId, &[u8]) -> bool,
    id: DirId,
    depth: usize,
) -> Result<bool, Errno> {
    let spare = spared(id, name);
    if !spare {
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = match fs::openat(dir, name, flags, Mode::empty()) {
        Ok(below) => below,
        Err(Errno::NOTDIR | Errno::LOOP) if spare => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let stat = fs::fstat(&below)?;
    let mut gone = !spare;
    for child in names(below.as_fd())? {
        gone &= prune(
            below.as_fd(),
            &child,
            spared,
            (stat.st_dev, stat.st_ino),
            depth + 1,
        )?;
    }
    if gone {
        fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(gone)
}

/// Something that has extended attributes: an open file, or a path whose last part is not followed.
trait Attributed {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno>;
    fn unset(&self, name: &[u8]) -> Result<(), Errno>;
}

impl Attributed for BorrowedFd<'_> {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        fs::flistxattr(self, buffer)
    }
    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        fs::fsetxattr(self, name, value, XattrFlags::empty())
    }
    fn unset(&self, name: &[u8]) -> Result<(), Errno> {
        fs::fremovexattr(self, name)
    }
}

impl Attributed for &[u8] {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        fs::llistxattr(*self, buffer)
    }
    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        fs::lsetxattr(*self, name, value, XattrFlags::empty())
    }
    fn unset(&self, name: &[u8]) -> Result<(), Errno> {
        fs::lremovexattr(*self, name)
    }
}

/// Sets extended attributes; with `reset`, removes those that are there and not wanted (left by a lower layer, or
/// inherited from the parent).
fn set_xattrs(
    on: impl Attributed,
    path: &[u8],
    wanted: &[(Vec<u8>, Vec<u8>)],
    reset: bool,
) -> Result<(), LayerError> {
    if reset {
        let mut buffer = vec![0; 64 << 10];
        let length = match on.list(&mut buffer) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(at("list the extended attributes of", path)(errno)),
        };
        let there = buffer[..length].split(|byte| *byte == 0);
        // Labels belong to the system that runs, not to the layer.
        let stale = there.filter(|name| !name.is_empty() && *name != b"security.selinux");
        for name in stale.filter(|name| wanted.iter().all(|(wanted, _)| wanted != name)) {
            let step = || format!("remove the extended attribute {:?} of", lossy(name));
            on.unset(name).map_err(|errno| at(step(), path)(errno))?;
        }
    }
    for (name, value) in wanted {
        match on.set(name, value) {
            Ok(()) => {}
            // Such as an NFS server's own ACLs: no disk holds them.
            Err(Errno::OPNOTSUPP)
                if name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_") => {}
            Err(errno) => {
                let step = format!("set the extended attribute {:?} of", lossy(name));
                return Err(at(step, path)(errno));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};
    use tempfile::TempDir;

    /// A root, and next to it what no layer may touch.
    struct Place {
        dir: TempDir,
    }

    impl Place {
        fn new() -> Self {
            assert!(
                rustix::process::geteuid().is_root(),
                "these tests set owners and make devices: run them as root"
            );
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("root")).unwrap();
            std::fs::create_dir(dir.path().join("outside")).unwrap();
            std::fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
            Self { dir }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("root")
        }

        fn outside(&self) -> String {
            self.dir
                .path()
                .join("outside")
                .to_str()
                .unwrap()
                .to_string()
        }

        fn at(&self, path: &str) -> PathBuf {
            self.root().join(path)
        }

        fn apply(&self, layer: &Archive) -> Applied {
            apply(&self.root(), &*layer.ended(), true).unwrap_or_else(|e| panic!("failed to {e}"))
        }

        /// The error's message; whatever happened, nothing outside has changed.
        fn refuse(&self, layer: &Archive) -> String {
            let result = apply(&self.root(), &*layer.ended(), true);
            self.assert_confined();
            result.map_or_else(|error| error.to_string(), |applied| format!("{applied:?}"))
        }

        fn assert_confined(&self) {
            let outside = self.dir.path().join("outside");
            assert_eq!(list(&outside), ["secret"]);
            let secret = outside.join("secret");
            assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
            assert_eq!(std::fs::metadata(&secret).unwrap().nlink(), 1);
            assert_eq!(list(self.dir.path()), ["outside", "root"]);
        }

        fn read(&self, path: &str) -> String {
            std::fs::read_to_string(self.at(path)).unwrap()
        }

        fn meta(&self, path: &str) -> std::fs::Metadata {
            std::fs::symlink_metadata(self.at(path)).unwrap()
        }

        fn has(&self, path: &str) -> bool {
            std::fs::symlink_metadata(self.at(path)).is_ok()
        }

        fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
            let mut value = vec![0; 4096];
            let length = fs::lgetxattr(self.at(path), name, &mut value[..]).ok()?;
            value.truncate(length);
            Some(value)
        }
    }

    fn list(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// An archive in the making, with no check that would keep a hostile name out.
    #[derive(Default, Clone)]
    struct Archive(Vec<u8>);

    impl Archive {
        fn with(
            mut self,
            kind: u8,
            name: impl AsRef<[u8]>,
            link: &str,
            data: &[u8],
            change: impl FnOnce(&mut Header),
        ) -> Self {
            let name = name.as_ref();
            let as_is: fn(&mut Header) = |_| {};
            let long = b"././@LongLink".as_slice();
            if name.len() > 100 {
                self = self.with(b'L', long, "", &[name, b"\0"].concat(), as_is);
            }
            if link.len() > 100 {
                self = self.with(b'K', long, "", link.as_bytes(), as_is);
            }
            let mut header = Header::new_gnu();
            let old = header.as_old_mut();
            let short = &name[..name.len().min(100)];
            old.name[..short.len()].copy_from_slice(short);
            let short = &link.as_bytes()[..link.len().min(100)];
            old.linkname[..short.len()].copy_from_slice(short);
            old.linkflag[0] = kind;
            header.set_size(data.len() as u64);
            header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1_000_000_000);
            change(&mut header);
            header.set_cksum();
            self.0.extend_from_slice(header.as_bytes());
            self.0.extend_from_slice(data);
            self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
            self
        }

        fn file(self, name: &str, data: &str) -> Self {
            self.with(b'0', name, "", data.as_bytes(), |_| {})
        }

        fn dir(self, name: &str) -> Self {
            self.with(b'5', name, "", b"", |_| {})
        }

        fn symlink(self, name: &str, target: &str) -> Self {
            self.with(b'2', name, target, b"", |_| {})
        }

        fn link(self, name: &str, target: &str) -> Self {
            self.with(b'1', name, target, b"", |_| {})
        }

        fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
            let mut builder = tar::Builder::new(Vec::new());
            builder
                .append_pax_extensions(records.iter().copied())
                .unwrap();
            let bytes = builder.into_inner().unwrap();
            self.0.extend_from_slice(&bytes[..bytes.len() - 2 * BLOCK]);
            self
        }

        fn ended(&self) -> Vec<u8> {
            [self.0.as_slice(), &[0; 2 * BLOCK]].concat()
        }
    }

    fn tar() -> Archive {
        Archive::default()
    }

    #[test]
    fn every_kind_with_its_metadata() {
        let place = Place::new();
        let applied = place.apply(
            &tar()
                .dir("usr/")
                .with(b'0', "usr/su", "", b"setuid", |h| {
                    h.set_mode(0o4755);
                    h.set_uid(1000);
                    h.set_gid(3_000_000_000);
                })
                .with(b'0', "usr/closed", "", b"", |h| h.set_mode(0))
                .with(b'5', "spool", "", b"", |h| {
                    h.set_mode(0o3770);
                    h.set_gid(8);
                })
                .file("spool/child", "in a setgid directory")
                .with(b'2', "link", "usr/su", b"", |h| h.set_uid(7))
                .link("hard", "usr/su")
                .with(b'3', "null", "", b"", |h| {
                    h.set_mode(0o666);
                    h.set_device_major(1).unwrap();
                    h.set_device_minor(3).unwrap();
                })
                .with(b'4', "disk", "", b"", |h| {
                    h.set_device_major(254).unwrap();
                    h.set_device_minor(300).unwrap();
                })
                .with(b'6', "fifo", "", b"", |h| h.set_mode(0o622))
                .with(0, "old", "", b"v7", |_| {})
                .with(0, "olddir/", "", b"", |h| h.set_mode(0o711))
                .file("made/up/parent", "x"),
        );
        assert_eq!(applied.entries, 13);
        assert_eq!(applied.bytes, 6 + 21 + 2 + 1);
        let su = place.meta("usr/su");
        assert_eq!(su.mode() & 0o7777, 0o4755);
        assert_eq!((su.uid(), su.gid()), (1000, 3_000_000_000));
        assert_eq!((su.mtime(), su.nlink()), (1_000_000_000, 2));
        assert_eq!(place.meta("hard").ino(), su.ino());
        assert_eq!(place.meta("usr/closed").mode() & 0o7777, 0);
        let spool = place.meta("spool");
        assert_eq!((spool.mode() & 0o7777, spool.gid()), (0o3770, 8));
        assert_eq!(
            spool.mtime(),
            1_000_000_000,
            "set after the content was made"
        );
        assert_eq!(place.meta("spool/child").gid(), 0);
        assert_eq!(
            std::fs::read_link(place.at("link")).unwrap(),
            Path::new("usr/su")
        );
        assert_eq!(place.meta("link").uid(), 7);
        assert_eq!(place.meta("link").mtime(), 1_000_000_000);
        let null = place.meta("null");
        assert!(null.file_type().is_char_device());
        assert_eq!((null.rdev(), null.mode() & 0o7777), (0x103, 0o666));
        let disk = place.meta("disk");
        assert!(disk.file_type().is_block_device());
        assert_eq!(disk.rdev(), fs::makedev(254, 300));
        let fifo = place.meta("fifo");
        assert!(fifo.file_type().is_fifo());
        assert_eq!((fifo.mode() & 0o7777, fifo.mtime()), (0o622, 1_000_000_000));
        assert_eq!(place.read("old"), "v7");
        assert!(place.meta("olddir").is_dir());
        assert_eq!(place.meta("olddir").mode() & 0o7777, 0o711);
        assert_eq!(place.meta("made/up").mode() & 0o7777, 0o755);
    }

    #[test]
    fn long_and_odd_names() {
        let place = Place::new();
        let long = format!(
            "{}/{}/{}",
            "a".repeat(200),
            "b".repeat(255),
            "c".repeat(120)
        );
        let target = "t".repeat(300);
        let pax_name = format!("{}/pax", "p".repeat(150));
        place.apply(
            &tar()
                .file(&long, "gnu")
                .symlink("to", &target)
                .pax(&[
                    ("path", pax_name.as_bytes()),
                    ("mtime", b"-1.25"),
                    ("uid", b"4000000000"),
                ])
                .file("ignored", "pax")
                .file("./with space\n", "odd")
                .with(b'0', b"\xff\xfe", "", b"bytes", |_| {})
                .file("plain", "back to the header"),
        );
        assert_eq!(place.read(&long), "gnu");
        assert_eq!(
            std::fs::read_link(place.at("to")).unwrap(),
            Path::new(&target)
        );
        let pax = place.meta(&pax_name);
        assert_eq!((pax.mtime(), pax.mtime_nsec()), (-2, 750_000_000));
        assert_eq!(pax.uid(), 4_000_000_000);
        assert_eq!(place.read("with space\n"), "odd");
        let odd = place.root().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
        assert_eq!(std::fs::read(odd).unwrap(), b"bytes");
        assert!(!place.has("ignored"));
        assert_eq!(place.meta("plain").uid(), 0);
    }

    #[test]
    fn attributes_may_hold_any_bytes() {
        let place = Place::new();
        // Version 2, permitted 0x0a0a: newlines in the middle of a value.
        let capability =
            b"\x00\x00\x00\x02\x0a\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        // user::rwx user:10:r-- group::r-x mask::r-x other::---
        let acl = [
            2u32.to_le_bytes().as_slice(),
            b"\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\x0a\x00\x00\x00",
            b"\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff",
            b"\x20\x00\x00\x00\xff\xff\xff\xff",
        ]
        .concat();
        let layer = tar()
            .pax(&[
                ("SCHILY.xattr.security.capability", capability),
                ("SCHILY.xattr.user.lines", b"10 path=/x\n\n"),
                ("SCHILY.xattr.user.none", b""),
                ("SCHILY.xattr.system.nfs4_acl", b"no disk holds this"),
                ("size", b"4"),
            ])
            .with(b'0', "ping", "", b"ping", |h| {
                h.set_uid(1);
                h.set_mode(0o755);
                // A size the field can't hold stands in the record only.
                h.set_size(0);
            })
            .pax(&[
                ("SCHILY.xattr.system.posix_acl_access", &acl),
                ("SCHILY.xattr.system.posix_acl_default", &acl),
                ("SCHILY.xattr.user.old", b"1"),
            ])
            .with(b'5', "shared", "", b"", |h| h.set_mode(0o750))
            .file("shared/file", "inherits nothing")
            .pax(&[("SCHILY.xattr.trusted.mark", b"on a link")])
            .symlink("link", "nowhere");
        place.apply(&layer);
        assert_eq!(place.read("ping"), "ping");
        let get = |path: &str, name: &str| place.xattr(path, name);
        assert_eq!(get("ping", "security.capability").unwrap(), capability);
        assert_eq!(get("ping", "user.lines").unwrap(), b"10 path=/x\n\n");
        assert_eq!(get("ping", "user.none").unwrap(), b"");
        assert_eq!(get("shared", "system.posix_acl_default").unwrap(), acl);
        assert_eq!(get("shared", "system.posix_acl_access").unwrap(), acl);
        assert_eq!(place.meta("shared").mode() & 0o7777, 0o750);
        assert_eq!(get("shared/file", "system.posix_acl_access"), None);
        assert_eq!(place.meta("shared/file").mode() & 0o7777, 0o644);
        assert_eq!(get("link", "trusted.mark").unwrap(), b"on a link");
        // The next layer finds the default ACL there; then it takes the directory's attributes back.
        place.apply(&tar().file("shared/later", "").dir("shared/sub"));
        assert_eq!(get("shared/later", "system.posix_acl_access"), None);
        assert_eq!(get("shared/sub", "system.posix_acl_default"), None);
        assert_eq!(place.meta("shared/sub").mode() & 0o7777, 0o755);
        place.apply(&tar().dir("shared"));
        assert_eq!(get("shared", "system.posix_acl_default"), None);
        assert_eq!(get("shared", "user.old"), None);

        let bad = tar().pax(&[("SCHILY.xattr.nonsense", b"1")]).file("x", "");
        let message = place.refuse(&bad);
        assert!(
            message.starts_with("set the extended attribute \"nonsense\" of \"x\""),
            "{message}"
        );
    }

    #[test]
    fn hard_links_reach_lower_layers() {
        let place = Place::new();
        place.apply(&tar().file("usr/bin/tool", "tool").symlink("bin", "usr/bin"));
        place.apply(
            &tar()
                .file("alias", "in the way")
                .link("alias", "/bin/tool")
                .link("alias", "usr/bin/tool"),
        );
        assert_eq!(place.meta("alias").ino(), place.meta("usr/bin/tool").ino());
        assert_eq!(place.meta("alias").nlink(), 2);
        // Replacing one name leaves the other.
        place.apply(&tar().file("alias", "new"));
        assert_eq!(place.read("usr/bin/tool"), "tool");
        let message = place.refuse(&tar().link("broken", "usr/bin/none"));
        assert!(
            message.contains("\"broken\"") && message.contains("does not exist"),
            "{message}"
        );
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        let lower = tar()
            .file("keep", "lower")
            .file("gone", "lower")
            .file("tree/deep/file", "lower")
            .file("tree/other", "lower")
            .file("opaque/old", "lower")
            .file("opaque/sub/old", "lower")
            .file("again", "lower")
            .symlink("alias", "opaque");
        let new = tar()
            .dir("opaque")
            .file("opaque/new", "upper")
            .file("opaque/sub/new", "upper")
            .file("tree/deep/mine", "upper")
            .file("again", "upper");
        let hide = tar()
            .file(".wh.gone", "")
            .file("alias/.wh..wh..opq", "")
            .file(".wh.tree", "")
            .file(".wh.again", "")
            .file(".wh.never-there", "")
            .file("nowhere/.wh.x", "")
            .file("nowhere/.wh..wh..opq", "")
            .file(".wh..wh.plnk/7.8", "AUFS");
        for order in [[&new, &hide], [&hide, &new]] {
            let place = Place::new();
            place.apply(&lower);
            place.apply(&Archive(order.map(|part| part.0.clone()).concat()));
            assert_eq!(
                list(&place.root()),
                ["again", "alias", "keep", "opaque", "tree"]
            );
            assert_eq!(list(&place.at("opaque")), ["new", "sub"]);
            assert_eq!(list(&place.at("opaque/sub")), ["new"]);
            assert_eq!(list(&place.at("tree")), ["deep"]);
            assert_eq!(list(&place.at("tree/deep")), ["mine"]);
            assert_eq!(place.read("again"), "upper");
        }
        for bad in [".wh.", ".wh..", ".wh...", "keep/../.wh..."] {
            let message = Place::new().refuse(&tar().file(bad, ""));
            assert!(message.contains("must name what it hides"), "{message}");
        }
        let plain = Place::new();
        apply(&plain.root(), &*hide.ended(), false).unwrap();
        assert!(plain.has(".wh.gone") && plain.has("alias/.wh..wh..opq"));
    }

    #[test]
    fn later_entries_replace_earlier_ones() {
        let place = Place::new();
        place.apply(
            &tar()
                .file("file", "")
                .file("dir/child", "")
                .file("kept/child", "")
                .dir("real")
                .symlink("lib", "real")
                .with(b'6', "pipe", "", b"", |_| {}),
        );
        place.apply(
            &tar()
                .dir("file")
                .file("file/child", "below what was a file")
                .file("dir", "was a directory")
                .with(b'5', "kept", "", b"", |h| {
                    h.set_mode(0o700);
                    h.set_uid(5);
                })
                .dir("lib")
                .file("lib/x", "")
                .file("pipe", "not written into the fifo"),
        );
        assert_eq!(place.read("file/child"), "below what was a file");
        assert_eq!(place.read("dir"), "was a directory");
        assert!(place.has("kept/child"));
        assert_eq!(
            (place.meta("kept").mode() & 0o7777, place.meta("kept").uid()),
            (0o700, 5)
        );
        assert!(place.meta("lib").is_dir() && !place.has("real/x"));
        assert_eq!(place.read("pipe"), "not written into the fifo");
        // Within one layer, with the replaced directory known as a parent.
        place.apply(
            &tar()
                .file("w/a", "1")
                .symlink("w", "elsewhere")
                .file("w/b", "2")
                .file("kept", "now a file")
                .file("kept/below", "and a directory again"),
        );
        assert_eq!(list(&place.at("elsewhere")), ["b"]);
        assert_eq!(place.read("kept/below"), "and a directory again");
    }

    #[test]
    fn nothing_leaves_the_root() {
        for name in ["../x", "a/../../x", "/../x", "../outside/secret", ".."] {
            let message = Place::new().refuse(&tar().file(name, "x"));
            assert!(message.contains("climbs out of the root"), "{message}");
        }
        let place = Place::new();
        let out = place.outside();
        place.apply(
            &tar()
                .file("/etc/x", "below the root")
                .symlink("a", &out)
                .file("a/b", "below the root too")
                .symlink("up", "../../../outside")
                .file("up/c", "still below")
                .symlink("s", &format!("{out}/secret"))
                .file("s", "replaces the link")
                .symlink("d", &out)
                .dir("d")
                .file("d/secret", "replaces the link")
                .symlink("h", &out)
                .file("h/.wh.secret", "")
                .file("h/.wh..wh..opq", "")
                .symlink("round/about", "missing/../there")
                .file("round/about/x", "made"),
        );
        place.assert_confined();
        assert_eq!(place.read("etc/x"), "below the root");
        assert_eq!(
            place.read(&format!("{}/b", &out[1..])),
            "below the root too"
        );
        assert_eq!(place.read("outside/c"), "still below");
        assert_eq!(place.read("round/there/x"), "made");
        for target in [
            "../outside/secret",
            "h/secret",
            &format!("{out}/secret"),
            "",
        ] {
            place.refuse(&tar().link("stolen", target));
        }
        let loops = tar().symlink("x", "y").symlink("y", "x").file("x/z", "");
        assert!(place.refuse(&loops).contains("\"x\""));
        let magic = tar().symlink("p", "/proc/self/root").file("p/q", "");
        place.apply(&magic);
        assert!(place.has("proc/self/root/q"));
    }

    #[test]
    fn bad_names_and_fields_are_refused() {
        let cases: Vec<(Archive, &str)> = vec![
            (tar().file("", "x"), "the name is empty"),
            (tar().pax(&[("path", b"a\0b")]).file("x", ""), "a NUL byte"),
            (tar().file(&"n".repeat(256), ""), "at most 255"),
            (tar().file(&"n/".repeat(2100), ""), "at most 4095"),
            (tar().file("./.", "x"), "the root must be a directory"),
            (tar().symlink("l", ""), "without a target"),
            (tar().with(b'Z', "z", "", b"", |_| {}), "'Z' is unknown"),
            (
                tar().pax(&[("uid", b"4294967295")]).file("x", ""),
                "its owner is 4294967295",
            ),
            (
                tar().pax(&[("mtime", b"soon")]).file("x", ""),
                "\"mtime\" is malformed",
            ),
            (
                tar().with(b'x', "h", "", b"nonsense", |_| {}).file("x", ""),
                "no well-formed record",
            ),
            (tar().pax(&[("path", b"x")]), "an entry that is not there"),
        ];
        for (archive, expected) in cases {
            let message = Place::new().refuse(&archive);
            assert!(message.contains(expected), "{expected}: {message}");
        }
        let place = Place::new();
        let three = tar().file("1", "").file("2", "").file("3", "").ended();
        let error = apply_up_to(2, &place.root(), &*three, true).unwrap_err();
        assert!(error.to_string().contains("more than 2 entries"), "{error}");
        apply_up_to(3, &place.root(), &*three, true).unwrap();
        let error = apply(&place.at("none"), io::empty(), true).unwrap_err();
        assert!(error.to_string().starts_with("open the root"), "{error}");
    }

    #[test]
    fn streams_that_end_early_or_are_no_tar() {
        let place = Place::new();
        let whole = tar().file("a", "some data").dir("d").file("d/b", "more");
        for length in 0..=whole.0.len() {
            let error = apply(&place.root(), &whole.0[..length], true).unwrap_err();
            assert!(
                matches!(error, LayerError::Truncated { .. }),
                "{length}: {error}"
            );
        }
        // One block of zeros is an end; what follows is read and ignored.
        let end = [whole.0.as_slice(), &[0; BLOCK]].concat();
        apply(&place.root(), &*end, true).unwrap();
        let mut trailing = &*[end.as_slice(), &[0; BLOCK], &[b'?'; 100_000]].concat();
        apply(&place.root(), &mut trailing, true).unwrap();
        assert!(trailing.is_empty());
        assert_eq!(
            apply(&place.root(), &[0u8; 1024][..], true).unwrap(),
            Applied::default()
        );
        for (bytes, expected) in [
            (&b"\x1f\x8b\x08"[..], "compressed with gzip"),
            (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
            (&[b'<'; 4096], "no tar archive"),
        ] {
            let error = apply(&place.root(), bytes, true).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("an uncompressed tar"),
                "{error}"
            );
        }
        let mut damaged = whole.ended();
        damaged[2 * BLOCK + 3] ^= 1;
        let error = apply(&place.root(), &*damaged, true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("at byte 1024, after \"a\"") && error.contains("checksum"),
            "{error}"
        );
    }

    /// Damage of all sorts, with checksums that hold, must end in a result, and nowhere else.
    #[test]
    fn damage_is_survived() {
        let place = Place::new();
        let layer = tar()
            .pax(&[("SCHILY.xattr.user.a", b"1"), ("path", b"long/name")])
            .file("a", "data")
            .symlink("l", "long")
            .link("l/hard", "long/name")
            .pax(&[
                ("GNU.sparse.map", b"0,1,600,3"),
                ("GNU.sparse.size", b"603"),
            ])
            .file("sparse", "1234")
            .dir("d")
            .file("d/.wh.x", "")
            .ended();
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..2000 {
            let mut bytes = layer.clone();
            for _ in 0..=next(3) {
                let index = next(bytes.len() - 1024);
                bytes[index] = next(256) as u8;
                let block = index - index % BLOCK;
                let mut header = Header::new_old();
                let range = block..block + BLOCK;
                header.as_mut_bytes().copy_from_slice(&bytes[range.clone()]);
                if header.as_bytes()[124] != 0 {
                    header.set_cksum();
                    bytes[range].copy_from_slice(header.as_bytes());
                }
            }
            let _ = apply(&place.root(), &*bytes, true);
        }
        place.assert_confined();
    }

    #[test]
    fn finish_follows_what_is_there() {
        let place = Place::new();
        place.apply(
            &tar()
                .symlink("tmp", "var/tmp")
                .symlink("etc", "/usr/etc/")
                .dir("usr/etc")
                .with(b'5', "run", "", b"", |h| h.set_mode(0o700)),
        );
        for _ in 0..2 {
            finish(&place.root()).unwrap();
            assert_eq!(place.meta("var/tmp").mode() & 0o7777, 0o1777);
            assert_eq!(place.meta("var").mode() & 0o7777, 0o755);
            assert!(place.meta("tmp").is_symlink() && place.meta("etc").is_symlink());
            assert_eq!(place.meta("run").mode() & 0o7777, 0o700);
            let workspace = place.meta("workspace");
            assert_eq!((workspace.uid(), workspace.gid()), (1000, 1000));
            assert!(place.has("proc") && place.has("sys") && place.has("dev"));
        }
        place.apply(&tar().file("sys", "a file"));
        let error = finish(&place.root()).unwrap_err().to_string();
        assert!(error.contains("\"sys\": it is no directory"), "{error}");
        place.assert_confined();
    }

    /// What two unpackings must agree on, by path.
    fn survey(dir: &Path, below: &Path, into: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir.join(below))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        entries.sort();
        for name in entries {
            let path = below.join(name);
            let full = dir.join(&path);
            let meta = std::fs::symlink_metadata(&full).unwrap();
            let content = if meta.is_file() {
                std::fs::read(&full).unwrap()
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&full).unwrap();
                target.as_os_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            let mut list = vec![0; 4096];
            let length = fs::llistxattr(&full, &mut list[..]).unwrap();
            let xattrs: Vec<_> = list[..length]
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(|name| {
                    let mut value = vec![0; 4096];
                    let length = fs::lgetxattr(&full, name, &mut value[..]).unwrap();
                    (lossy(name), value[..length].to_vec())
                })
                .collect();
            let hash = content
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
                });
            into.push(format!(
                "{path:?} mode {:o} owner {}:{} time {}.{:09} links {} device {} size {} {hash:x} blocks {} {xattrs:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                if meta.is_dir() { 0 } else { meta.nlink() },
                meta.rdev(),
                if meta.is_dir() { 0 } else { meta.size() },
                if meta.size() > 100_000 { meta.blocks() / 64 } else { 0 },
            ));
            if meta.is_dir() {
                survey(dir, &path, into);
            }
        }
    }

    /// Packs `tree` with GNU tar, unpacks it with GNU tar and with [`apply`], and compares.
    fn agrees_with_gnu_tar(tree: &Path, options: &[&str]) {
        let place = Place::new();
        let archive = place.dir.path().join("archive");
        let run = |command: &mut Command| {
            let output = command.stderr(Stdio::piped()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let mut xattrs = vec!["--numeric-owner"];
        if options.contains(&"--format=posix") {
            xattrs.extend(["--xattrs", "--xattrs-include=*"]);
        }
        run(Command::new("tar")
            .args(&xattrs)
            .args(options)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(tree)
            .arg("."));
        let reference = place.dir.path().join("reference");
        std::fs::create_dir(&reference).unwrap();
        run(Command::new("tar")
            .args(&xattrs)
            .arg("-xpf")
            .arg(&archive)
            .arg("-C")
            .arg(&reference));
        let applied = apply(&place.root(), File::open(&archive).unwrap(), false)
            .unwrap_or_else(|error| panic!("failed to {error}"));
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        survey(&reference, Path::new(""), &mut wanted);
        survey(&place.root(), Path::new(""), &mut found);
        for (wanted, found) in wanted.iter().zip(&found) {
            assert_eq!(wanted, found, "{options:?}");
        }
        assert_eq!(wanted.len(), found.len());
        assert_eq!(
            applied.entries,
            wanted.len() as u64 + 1,
            "the root is one more"
        );
    }

    #[test]
    fn a_real_tree_as_gnu_tar_unpacks_it() {
        agrees_with_gnu_tar(Path::new("/etc"), &["--format=gnu"]);
        agrees_with_gnu_tar(Path::new("/etc"), &["--format=posix"]);
    }

    #[test]
    fn a_tree_of_rarities_as_gnu_tar_unpacks_it() {
        let place = Place::new();
        let root = place.root();
        place.apply(
            &tar()
                .file(&format!("{}/{}", "d".repeat(120), "f".repeat(250)), "long")
                .file("line\nbreak", "odd")
                .with(b'0', b"\xff", "", b"bytes", |h| h.set_mode(0o6711))
                .pax(&[
                    ("mtime", b"-7.5"),
                    ("SCHILY.xattr.user.x", b"\0\n=\xff"),
                    (
                        "SCHILY.xattr.security.capability",
                        b"\x01\x00\x00\x02\x0a\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
                    ),
                ])
                .with(b'0', "cap", "", b"cap", |h| h.set_uid(2_500_000))
                .link("hard", "cap")
                .with(b'6', "fifo", "", b"", |_| {})
                .with(b'3', "zero", "", b"", |h| {
                    h.set_device_major(1).unwrap();
                    h.set_device_minor(5).unwrap();
                })
                .with(b'5', "sticky", "", b"", |h| h.set_mode(0o1777)),
        );
        symlink("x".repeat(200), root.join("long link")).unwrap();
        for (name, pieces) in [("one", 1u64), ("many", 200), ("hollow", 0)] {
            let file = File::create(root.join(name)).unwrap();
            for piece in 0..pieces {
                file.write_all_at(&[b'p'; 5000], piece * 100_000 + 40_960)
                    .unwrap();
            }
            file.set_len(30_000_001).unwrap();
        }
        for options in [
            &["--format=gnu"][..],
            &["--format=posix"],
            &["--format=gnu", "-S"],
            &["--format=posix", "-S", "--sparse-version=0.0"],
            &["--format=posix", "-S", "--sparse-version=0.1"],
            &["--format=posix", "-S", "--sparse-version=1.0"],
        ] {
            agrees_with_gnu_tar(&root, options);
        }
    }
}
