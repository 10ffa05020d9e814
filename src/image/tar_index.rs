//! The index of a tar archive: the names of its entries, and the offsets of their data.
//!
//! The host reads it only of saved images, and unpacks nothing. Whatever a header claims, memory is bounded: a name has
//! at most [`MAX_PATH`] bytes, the records of an entry at most [`MAX_RECORDS`].

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use snowglobe_init::headers::{self, BLOCK, MAX_PATH, MAX_RECORD, MAX_RECORDS};

/// An entry of a tar archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarEntry {
    /// Its name, without a leading `./`.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) kind: EntryKind,
    /// The offset of its data.
    pub(crate) offset: u64,
    /// The length of its data.
    pub(crate) bytes: u64,
}

/// The kinds of entries that saved images have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A file whose data is in one piece.
    File,
    /// A symbolic link with its target.
    Link(String),
    /// Anything else.
    Other,
}

/// Reads the entries of an archive in order, one by one.
#[derive(Debug)]
pub(crate) struct TarIndex<R> {
    archive: R,
    at: u64,
    /// The offset of the next header.
    next: u64,
}

fn bad(problem: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem.into())
}

/// The values that records before a header set for its entry.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    /// Whether the data is only the parts of a sparse file.
    sparse: bool,
    /// The bytes of all its records.
    records: u64,
}

impl Extensions {
    fn add_pax(&mut self, records: &[u8]) -> io::Result<()> {
        for record in headers::pax(records) {
            match record.map_err(bad)? {
                (b"path", value) => self.name = Some(value.to_vec()),
                (b"linkpath", value) => self.link = Some(value.to_vec()),
                (b"size", value) => self.bytes = headers::number(value),
                (key, _) if key.starts_with(b"GNU.sparse") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<R: Read> TarIndex<R> {
    /// The index of an archive that begins at the current position.
    pub(crate) fn new(archive: R) -> Self {
        Self {
            archive,
            at: 0,
            next: 0,
        }
    }

    /// The first entry; `None` if there is none.
    pub(crate) fn first(mut self) -> io::Result<Option<TarEntry>> {
        // The stream may not be able to seek, so the bytes before the entry are read.
        self.entry(|archive, bytes| {
            let skipped = io::copy(&mut archive.by_ref().take(bytes), &mut io::sink())?;
            (skipped == bytes)
                .then_some(())
                .ok_or_else(|| ErrorKind::UnexpectedEof.into())
        })
    }

    fn entry(
        &mut self,
        mut skip: impl FnMut(&mut R, u64) -> io::Result<()>,
    ) -> io::Result<Option<TarEntry>> {
        let mut extensions = Extensions::default();
        loop {
            skip(&mut self.archive, self.next - self.at)?;
            let Some(block) = self.block()? else {
                // Some archives lack the two zero blocks at the end.
                return match extensions.records {
                    0 => Ok(None),
                    _ => Err(ErrorKind::UnexpectedEof.into()),
                };
            };
            self.at = self.next + BLOCK as u64;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = headers::header(&block).ok_or_else(|| bad("a checksum is wrong"))?;
            let kind = header.as_old().linkflag[0];
            let claimed = header.entry_size()?;
            let bytes = match kind {
                b'1'..=b'6' => 0,
                b'L' | b'K' | b'x' | b'X' | b'g' | b'V' => claimed,
                _ => extensions.bytes.unwrap_or(claimed),
            };
            self.next = bytes
                .checked_next_multiple_of(BLOCK as u64)
                .and_then(|bytes| self.at.checked_add(bytes))
                .ok_or_else(|| bad("an entry is too large"))?;
            match kind {
                b'L' => extensions.name = Some(self.text(bytes, &mut extensions.records)?),
                b'K' => extensions.link = Some(self.text(bytes, &mut extensions.records)?),
                b'x' | b'X' => {
                    let records = self.record(bytes, MAX_RECORD, &mut extensions.records)?;
                    extensions.add_pax(&records)?;
                }
                b'g' | b'V' => extensions.records += 1,
                b'S' => {
                    let map = self.skip_sparse_map(&header)?;
                    self.next = self
                        .next
                        .checked_add(map)
                        .ok_or_else(|| bad("it is too large"))?;
                    return Ok(Some(self.finish_entry(&header, extensions, bytes)));
                }
                _ => return Ok(Some(self.finish_entry(&header, extensions, bytes))),
            }
        }
    }

    /// The next block; `None` at the end of the archive.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut start = Vec::with_capacity(BLOCK);
        self.archive
            .by_ref()
            .take(BLOCK as u64)
            .read_to_end(&mut start)?;
        match <[u8; BLOCK]>::try_from(start) {
            Ok(block) => Ok(Some(block)),
            Err(start) if start.is_empty() => Ok(None),
            Err(_) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The data of a record for the next entry.
    fn record(&mut self, bytes: u64, most: u64, sum: &mut u64) -> io::Result<Vec<u8>> {
        if bytes > most {
            return Err(bad(format!(
                "it has {bytes} bytes of records for the name of one entry; at most {most} are possible"
            )));
        }
        *sum += bytes + 1;
        if *sum > MAX_RECORDS {
            return Err(bad(format!(
                "it has more than {MAX_RECORDS} bytes of records for one entry"
            )));
        }
        let mut record = Vec::new();
        self.archive.by_ref().take(bytes).read_to_end(&mut record)?;
        self.at += record.len() as u64;
        if record.len() as u64 == bytes {
            Ok(record)
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }

    /// A long name, without the zeros at its end.
    fn text(&mut self, bytes: u64, sum: &mut u64) -> io::Result<Vec<u8>> {
        let mut name = self.record(bytes, MAX_PATH as u64 + 1, sum)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Skips the blocks that continue the map of a sparse file. Returns their length.
    fn skip_sparse_map(&mut self, header: &tar::Header) -> io::Result<u64> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        let mut skipped = 0;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.archive.read_exact(block.as_mut_bytes())?;
            skipped += BLOCK as u64;
            more = block.is_extended();
        }
        self.at += skipped;
        Ok(skipped)
    }

    fn finish_entry(&self, header: &tar::Header, extensions: Extensions, bytes: u64) -> TarEntry {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let name = extensions
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        TarEntry {
            name: text(name).trim_start_matches("./").to_owned(),
            kind: match header.as_old().linkflag[0] {
                0 | b'0' | b'7' if !extensions.sparse => EntryKind::File,
                b'2' => EntryKind::Link(text(link.unwrap_or_default())),
                _ => EntryKind::Other,
            },
            offset: self.at,
            bytes,
        }
    }
}

impl<R: Read + Seek> Iterator for TarIndex<R> {
    type Item = io::Result<TarEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let to = |archive: &mut R, bytes: u64| {
            let bytes = i64::try_from(bytes).map_err(|_| bad("an entry is too large"))?;
            archive.seek(SeekFrom::Current(bytes)).map(drop)
        };
        self.entry(to).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn entries(archive: &[u8]) -> io::Result<Vec<TarEntry>> {
        TarIndex::new(Cursor::new(archive)).collect()
    }

    #[test]
    fn names_of_any_length_and_offsets_are_found() {
        let long = "d/".repeat(200) + "file";
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [("./short", "1"), (long.as_str(), "22"), ("last", "")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "link", &long).unwrap();
        builder
            .append_pax_extensions([("path", b"by/pax".as_slice()), ("size", b"3")])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_cksum();
        let mut archive = builder.into_inner().unwrap();
        archive.truncate(archive.len() - 1024);
        archive.extend_from_slice(header.as_bytes());
        let mut data = b"333".to_vec();
        data.resize(512, 0);
        archive.extend_from_slice(&data);
        let found = entries(&archive).unwrap();
        let said: Vec<_> = found
            .iter()
            .map(|entry| {
                let at = entry.offset as usize;
                (entry.name.as_str(), &archive[at..at + entry.bytes as usize])
            })
            .collect();
        let expected: [(&str, &[u8]); 5] = [
            ("short", b"1"),
            (&long, b"22"),
            ("last", b""),
            ("link", b""),
            ("by/pax", b"333"),
        ];
        assert_eq!(said, expected);
        assert_eq!(found[3].kind, EntryKind::Link(long));
        assert_eq!(
            TarIndex::new(archive.as_slice()).first().unwrap().unwrap(),
            found[0]
        );
    }

    /// A header with a record of `bytes` bytes for the next entry.
    fn claim(kind: u8, bytes: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[156] = kind;
        header.set_size(bytes);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// An endless stream: a reader that trusts the size in a header never returns.
    struct Endless(Cursor<Vec<u8>>, u64);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += buffer.len() as u64;
            assert!(
                self.1 < 8 << 20,
                "more than 8 MiB are read of an archive's header"
            );
            match self.0.read(buffer)? {
                0 => {
                    buffer.fill(b'a');
                    Ok(buffer.len())
                }
                n => Ok(n),
            }
        }
    }

    #[test]
    fn little_is_read_whatever_a_header_claims() {
        for kind in *b"LKxX" {
            let archive = Endless(Cursor::new(claim(kind, 2 << 30)), 0);
            let error = TarIndex::new(archive).first().unwrap_err().to_string();
            assert!(error.contains("2147483648 bytes"), "{error}");
        }
        let mut many = Vec::new();
        for _ in 0..100 {
            many.extend(claim(b'x', MAX_RECORD));
            let value = "b".repeat(MAX_RECORD as usize - 10);
            many.extend(format!("{MAX_RECORD} x={value}").into_bytes());
            many.resize(many.len().next_multiple_of(BLOCK) - 1, b'c');
            many.push(b'\n');
        }
        let error = TarIndex::new(many.as_slice())
            .first()
            .unwrap_err()
            .to_string();
        assert!(error.contains("records for one entry"), "{error}");
        let mut sparse = claim(b'S', 0);
        sparse[482] = 1;
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&sparse);
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        assert!(entries(&archive).is_err(), "its map is cut short");
        archive.extend([0; BLOCK]);
        archive.extend(claim(b'0', 0));
        let kinds: Vec<_> = entries(&archive)
            .unwrap()
            .into_iter()
            .map(|entry| entry.kind)
            .collect();
        assert_eq!(kinds, [EntryKind::Other, EntryKind::File]);
        assert!(entries(&claim(b'0', u64::MAX >> 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_index_or_an_error(
            kinds in prop::collection::vec((prop::sample::select(b"0LKxgVS257".to_vec()), 0..2000_u64, 0..2000_usize), 0..8),
        ) {
            let mut archive = Vec::new();
            for (kind, claimed, given) in kinds {
                archive.extend(claim(kind, claimed));
                archive.resize(archive.len() + given.next_multiple_of(BLOCK), 0x31);
            }
            let _ = entries(&archive);
            let _ = TarIndex::new(archive.as_slice()).first();
        }
    }
}
