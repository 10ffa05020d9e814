//! The tar stream: from blocks to entries.

use std::io::{self, BufRead, BufReader, Read};

use rustix::fs::{self, FileType, Timespec};
use tar::Header;

use super::entry::{Entry, Kind, clean};
use super::error::{LayerError, lossy};
use super::pax::Pax;
use super::sparse::Sparse;
use crate::headers::{self, BLOCK, MAX_PATH, MAX_RECORD, MAX_RECORDS};

/// The size of the stream's buffer in bytes, which is also the largest single write.
const BUFFER: usize = 512 << 10;

/// A number in a header. Some writers leave the field blank for zero.
fn field<T: Default>(raw: &[u8], parsed: io::Result<T>) -> Result<T, String> {
    if raw.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    parsed.map_err(|error| error.to_string())
}

/// A tar archive that is read from start to end.
pub(super) struct TarStream<R> {
    reader: BufReader<R>,
    /// How many bytes were read.
    at: u64,
    /// How many bytes of the current entry's data are left.
    pub(super) data: u64,
    /// How many zeros follow the data, up to a whole block.
    padding: u64,
    /// The last entry's name, for messages.
    last: Vec<u8>,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(tar: R) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, tar),
            at: 0,
            data: 0,
            padding: 0,
            last: Vec::new(),
        }
    }

    /// The position in the archive, for messages.
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

    /// The buffered bytes; empty at the end of the stream.
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

    /// Passes the next `length` bytes of the current entry's data to `sink`, in pieces.
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

    /// Skips the rest of the current entry.
    fn skip(&mut self) -> Result<(), LayerError> {
        self.copy(self.data, |_| Ok(()))?;
        let padding = std::mem::take(&mut self.padding);
        self.copy(padding, |_| Ok(()))
    }

    /// The next block.
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

    /// The data of the current entry, which describes the next one.
    fn record(&mut self) -> Result<Vec<u8>, LayerError> {
        if self.data > MAX_RECORD {
            return Err(self.damaged(format!(
                "a record of {} bytes; at most {MAX_RECORD} are possible",
                self.data
            )));
        }
        let mut record = Vec::new();
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

    /// The next header; `None` for a block of zeros, which is the archive's end mark.
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

    /// Recognizes a compressed archive, the usual mistake.
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

    /// The next entry. `None` after the archive's end mark; the stream has then been read to its end.
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
            // Links, nodes and directories have no data, even if they state a size (as in Go's and GNU's tar).
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

    /// Reads the stream to its end.
    fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            let rest = self.buffered()?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }

    /// The entry of a header and of the records before it.
    fn entry(
        &mut self,
        header: &Header,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, LayerError> {
        let name = long_name
            .or(pax.sparse_name.take())
            .or(pax.path.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |why: String| LayerError::refused(&name, why);
        let path = clean(&name).map_err(refuse)?;
        self.last.clone_from(&name);
        let old = header.as_old();
        let uid = owner(pax.uid, &old.uid, header.uid(), "owner").map_err(refuse)?;
        let gid = owner(pax.gid, &old.gid, header.gid(), "group").map_err(refuse)?;
        let mode =
            field(&old.mode, header.mode()).map_err(|why| refuse(format!("its mode: {why}")))?;
        let seconds =
            field(&old.mtime, header.mtime()).map_err(|why| refuse(format!("its time: {why}")))?;
        let mtime = pax.mtime.unwrap_or(Timespec {
            tv_sec: seconds.cast_signed(),
            tv_nsec: 0,
        });
        let kind = self.kind(header, &name, &mut pax, long_link)?;
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

    /// The kind of an entry, with what only this kind has.
    fn kind(
        &mut self,
        header: &Header,
        name: &[u8],
        pax: &mut Pax,
        long_link: Option<Vec<u8>>,
    ) -> Result<Kind, LayerError> {
        let refuse = |why: String| LayerError::refused(name, why);
        let pax_link = pax.link.take();
        let link = || link_target(header, long_link.or(pax_link)).map_err(refuse);
        let device = || device(header).map_err(|why| refuse(format!("its device number: {why}")));
        Ok(match header.as_old().linkflag[0] {
            // Before directories had a type of their own they were files with a slash at the end.
            0 | b'0' if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' if pax.sparse_major == Some(1) => {
                let size = pax.sparse_size.unwrap_or(self.data);
                let map = Sparse::before_data(size, name, || match self.data < BLOCK as u64 {
                    true => Ok(None),
                    false => self.block().map(Some),
                });
                Kind::File(Some(map?))
            }
            0 | b'0' | b'7' => Kind::File(pax.sparse_pieces.take().map(|pieces| Sparse {
                pieces,
                size: pax.sparse_size.unwrap_or(self.data),
            })),
            b'S' => {
                let data = self.data;
                let map = Sparse::of_header(header, name, || self.block());
                // The map's blocks do not count as data.
                self.data = data;
                Kind::File(Some(map?))
            }
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
        })
    }
}

/// A user or group id: from the extended header, or from the header's field.
fn owner(
    extended: Option<u64>,
    raw: &[u8],
    parsed: io::Result<u64>,
    what: &str,
) -> Result<u32, String> {
    let id = extended.map_or_else(|| field(raw, parsed), Ok);
    let id = id.map_err(|why| format!("its {what}: {why}"))?;
    // The highest number means "no change" to the kernel.
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| format!("its {what} is {id}; at most 2^32 - 2 is possible"))
}

/// The target of a link: from a record before the header, or from the header's field.
fn link_target(header: &Header, recorded: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    let target = recorded
        .or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned()))
        .filter(|target| !target.is_empty())
        .ok_or("it is a link without a target")?;
    if target.contains(&0) || target.len() > MAX_PATH {
        return Err(format!(
            "its target must have at most {MAX_PATH} bytes and no NUL"
        ));
    }
    Ok(target)
}

fn device(header: &Header) -> io::Result<fs::Dev> {
    Ok(fs::makedev(
        header.device_major()?.unwrap_or_default(),
        header.device_minor()?.unwrap_or_default(),
    ))
}
