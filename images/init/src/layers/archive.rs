//! The tar stream: from blocks to entries.

use std::io::{self, BufRead, BufReader, Read};

use rustix::fs::{self, FileType, Timespec};
use tar::Header;

use super::entry::{Entry, Kind, clean};
use super::pax::Pax;
use super::sparse::Sparse;
use super::{LayerError, lossy};
use crate::headers::{self, BLOCK, MAX_PATH, MAX_RECORD, MAX_RECORDS};

/// How much of the stream is held: also the largest single write.
const BUFFER: usize = 512 << 10;

/// A header field that some writers leave blank, which is zero.
pub(super) fn field<T: Default>(raw: &[u8], parsed: io::Result<T>) -> Result<T, String> {
    if raw.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    parsed.map_err(|error| error.to_string())
}

/// The tar stream: what was read, and how much of the current entry is left.
pub(super) struct Source<R> {
    pub(super) reader: BufReader<R>,
    pub(super) at: u64,
    /// Data of the current entry still to come.
    pub(super) data: u64,
    /// Zeros behind that data, up to a whole block.
    pub(super) padding: u64,
    /// The last entry's name, for messages.
    pub(super) last: Vec<u8>,
}

impl<R: Read> Source<R> {
    pub(super) fn new(tar: R) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, tar),
            at: 0,
            data: 0,
            padding: 0,
            last: Vec::new(),
        }
    }

    pub(super) fn place(&self) -> String {
        match (self.last.is_empty(), self.data > 0) {
            (true, _) => "before the first entry".into(),
            (_, true) => format!("inside {:?}", lossy(&self.last)),
            (_, false) => format!("after {:?}", lossy(&self.last)),
        }
    }

    pub(super) fn truncated(&self) -> LayerError {
        LayerError::Truncated {
            at: self.at,
            place: self.place(),
        }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> LayerError {
        LayerError::Damaged {
            at: self.at.saturating_sub(BLOCK as u64),
            place: self.place(),
            what: what.into(),
        }
    }

    /// What is buffered, empty at the end of the stream.
    pub(super) fn buffered(&mut self) -> Result<&[u8], LayerError> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read { at: self.at, error }),
            }
        }
        Ok(self.reader.buffer())
    }

    pub(super) fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
        self.at += amount as u64;
    }

    /// Passes up to `length` bytes of the current entry's data to `sink`, and all of them unless it fails.
    pub(super) fn copy(
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
    pub(super) fn skip(&mut self) -> Result<(), LayerError> {
        self.copy(self.data, |_| Ok(()))?;
        let padding = std::mem::take(&mut self.padding);
        self.copy(padding, |_| Ok(()))
    }

    pub(super) fn block(&mut self) -> Result<[u8; BLOCK], LayerError> {
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
    pub(super) fn record(&mut self) -> Result<Vec<u8>, LayerError> {
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
    pub(super) fn long_name(&mut self) -> Result<Vec<u8>, LayerError> {
        let mut name = self.record()?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// The next header that is not all zeros.
    pub(super) fn header(&mut self) -> Result<Option<Header>, LayerError> {
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
    pub(super) fn sniff(&mut self) -> Result<(), LayerError> {
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
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
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

    pub(super) fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            let rest = self.buffered()?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }

    /// Merges a header with what was said about it before.
    pub(super) fn entry(
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
}
