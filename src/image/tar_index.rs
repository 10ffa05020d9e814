//! What lies where in a tar archive: the names of its entries, and where their data is.
//!
//! The host asks this of saved images only, and unpacks nothing; so it needs little of a header, and takes little
//! memory whatever one claims: a name of at most [`MAX_PATH`] bytes, records of at most [`MAX_RECORDS`].

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use snowglobe_init::headers::{self, BLOCK, MAX_PATH, MAX_RECORD, MAX_RECORDS};

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name, without a leading `./`.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Where its data begins.
    pub(crate) at: u64,
    /// How many bytes that has.
    pub(crate) bytes: u64,
}

/// What an entry is, as far as saved images have such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file whose data is in one piece.
    File,
    /// A symbolic link, and what it names.
    Link(String),
    /// Anything else.
    Other,
}

/// The entries of an archive, in order, read one by one.
#[derive(Debug)]
pub(crate) struct Table<R> {
    archive: R,
    at: u64,
    /// Where the next header is.
    next: u64,
}

fn bad(problem: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem.into())
}

/// What records say of the entry after them.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    /// Whether its data is not the file as it is.
    sparse: bool,
    /// How much was read for that.
    records: u64,
}

impl Said {
    fn take_pax(&mut self, records: &[u8]) -> io::Result<()> {
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

impl<R: Read> Table<R> {
    /// The table of an archive that begins here.
    pub(crate) fn new(archive: R) -> Self {
        Self {
            archive,
            at: 0,
            next: 0,
        }
    }

    /// The first entry; nothing where there is none.
    pub(crate) fn first(mut self) -> io::Result<Option<Entry>> {
        // Only what precedes it is passed over, which is read.
        self.entry(|archive, bytes| {
            let passed = io::copy(&mut archive.by_ref().take(bytes), &mut io::sink())?;
            (passed == bytes)
                .then_some(())
                .ok_or_else(|| ErrorKind::UnexpectedEof.into())
        })
    }

    fn entry(
        &mut self,
        mut pass: impl FnMut(&mut R, u64) -> io::Result<()>,
    ) -> io::Result<Option<Entry>> {
        let mut said = Said::default();
        loop {
            pass(&mut self.archive, self.next - self.at)?;
            let Some(block) = self.block()? else {
                // Some archives end without the blocks that say so.
                return match said.records {
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
                _ => said.bytes.unwrap_or(claimed),
            };
            self.next = bytes
                .checked_next_multiple_of(BLOCK as u64)
                .and_then(|bytes| self.at.checked_add(bytes))
                .ok_or_else(|| bad("an entry is too large"))?;
            match kind {
                b'L' => said.name = Some(self.text(bytes, &mut said.records)?),
                b'K' => said.link = Some(self.text(bytes, &mut said.records)?),
                b'x' | b'X' => {
                    let records = self.record(bytes, MAX_RECORD, &mut said.records)?;
                    said.take_pax(&records)?;
                }
                b'g' | b'V' => said.records += 1,
                b'S' => {
                    let pieces = self.pass_pieces(&header)?;
                    self.next = self
                        .next
                        .checked_add(pieces)
                        .ok_or_else(|| bad("it is too large"))?;
                    return Ok(Some(self.named(&header, said, bytes)));
                }
                _ => return Ok(Some(self.named(&header, said, bytes))),
            }
        }
    }

    /// The next block; nothing at the archive's end.
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

    /// The data of a record about the next entry.
    fn record(&mut self, bytes: u64, most: u64, sum: &mut u64) -> io::Result<Vec<u8>> {
        if bytes > most {
            return Err(bad(format!(
                "it says {bytes} bytes about one entry's name; at most {most} are possible"
            )));
        }
        *sum += bytes + 1;
        if *sum > MAX_RECORDS {
            return Err(bad(format!(
                "it has more than {MAX_RECORDS} bytes of records about one entry"
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

    /// A long name, which ends in a zero.
    fn text(&mut self, bytes: u64, sum: &mut u64) -> io::Result<Vec<u8>> {
        let mut name = self.record(bytes, MAX_PATH as u64 + 1, sum)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Passes over the blocks that go on with a sparse file's map; gives how many bytes they have.
    fn pass_pieces(&mut self, header: &tar::Header) -> io::Result<u64> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        let mut passed = 0;
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.archive.read_exact(block.as_mut_bytes())?;
            passed += BLOCK as u64;
            more = block.is_extended();
        }
        self.at += passed;
        Ok(passed)
    }

    fn named(&self, header: &tar::Header, said: Said, bytes: u64) -> Entry {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let link = said
            .link
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let name = said
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        Entry {
            name: text(name).trim_start_matches("./").to_owned(),
            kind: match header.as_old().linkflag[0] {
                0 | b'0' | b'7' if !said.sparse => Kind::File,
                b'2' => Kind::Link(text(link.unwrap_or_default())),
                _ => Kind::Other,
            },
            at: self.at,
            bytes,
        }
    }
}

impl<R: Read + Seek> Iterator for Table<R> {
    type Item = io::Result<Entry>;

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

    fn entries(archive: &[u8]) -> io::Result<Vec<Entry>> {
        Table::new(Cursor::new(archive)).collect()
    }

    #[test]
    fn names_of_any_length_and_places_are_found() {
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
                let at = entry.at as usize;
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
        assert_eq!(found[3].kind, Kind::Link(long));
        assert_eq!(
            Table::new(archive.as_slice()).first().unwrap().unwrap(),
            found[0]
        );
    }

    /// A header that claims to be followed by `bytes` bytes about the next entry.
    fn claim(kind: u8, bytes: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[156] = kind;
        header.set_size(bytes);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// A stream without an end: whoever reads all that a header claims never comes back.
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
    fn whatever_a_header_claims_little_is_read() {
        for kind in *b"LKxX" {
            let archive = Endless(Cursor::new(claim(kind, 2 << 30)), 0);
            let error = Table::new(archive).first().unwrap_err().to_string();
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
        let error = Table::new(many.as_slice()).first().unwrap_err().to_string();
        assert!(error.contains("records about one entry"), "{error}");
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
        assert_eq!(kinds, [Kind::Other, Kind::File]);
        assert!(entries(&claim(b'0', u64::MAX >> 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table_or_an_error(
            kinds in prop::collection::vec((prop::sample::select(b"0LKxgVS257".to_vec()), 0..2000_u64, 0..2000_usize), 0..8),
        ) {
            let mut archive = Vec::new();
            for (kind, claimed, given) in kinds {
                archive.extend(claim(kind, claimed));
                archive.resize(archive.len() + given.next_multiple_of(BLOCK), 0x31);
            }
            let _ = entries(&archive);
            let _ = Table::new(archive.as_slice()).first();
        }
    }
}
