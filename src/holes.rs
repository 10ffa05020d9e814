//! Files with holes: what is zero takes no room on the disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom as Sought;
use rustix::io::Errno;

/// The smallest hole, in bytes; file systems have none that is smaller.
const BLOCK: usize = 4096;

/// Writes a new file, and leaves holes where only zeros are written. Its length is right after [`Write::flush`].
#[derive(Debug)]
pub(crate) struct Holes<'a> {
    file: &'a File,
    at: u64,
    /// Behind this nothing but zeros was written.
    end: u64,
    length: u64,
}

impl<'a> Holes<'a> {
    /// A file that is empty.
    pub(crate) fn new(file: &'a File) -> Self {
        Self {
            file,
            at: 0,
            end: 0,
            length: 0,
        }
    }

    /// The bytes of the block at the present place.
    fn block<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let left = BLOCK - usize::try_from(self.at % BLOCK as u64).unwrap_or_default();
        &bytes[..left.min(bytes.len())]
    }
}

impl Write for Holes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block = self.block(bytes);
        let is_hole = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let length = if self.at >= self.end && is_hole(block) {
            block.len()
        } else {
            let rest = bytes[block.len()..].chunks(BLOCK);
            let data: usize = rest
                .take_while(|block| !is_hole(block))
                .map(<[u8]>::len)
                .sum();
            let data = &bytes[..block.len() + data];
            self.file.write_all_at(data, self.at)?;
            self.end = self.end.max(self.at + data.len() as u64);
            data.len()
        };
        self.at += length as u64;
        self.length = self.length.max(self.at);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.length > self.end {
            true => self.file.set_len(self.length),
            false => Ok(()),
        }
    }
}

impl Seek for Holes<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Copies a file with its holes to a new one.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut at = 0;
    while at < length {
        at = match rustix::fs::seek(from, Sought::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, Sought::Hole(at))?;
        for mut file in [from, to] {
            file.seek(SeekFrom::Start(at))?;
        }
        io::copy(&mut from.take(end - at), &mut &*to)?;
        at = end;
    }
    to.set_len(length)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    /// Pieces of a file: how long each is, and of which byte.
    fn pieces() -> impl Strategy<Value = Vec<(usize, u8)>> {
        prop::collection::vec((0..20_000_usize, 0..2_u8), 0..12)
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(pieces in pieces(), seeks in prop::collection::vec(any::<u16>(), 0..4)) {
            let written = tempfile::NamedTempFile::new().unwrap();
            let mut holes = Holes::new(written.as_file());
            let mut expected = io::Cursor::new(Vec::new());
            let mut seeks = seeks.into_iter();
            for (length, byte) in pieces {
                let bytes = vec![byte; length];
                holes.write_all(&bytes).unwrap();
                expected.write_all(&bytes).unwrap();
                if let Some(to) = seeks.next() {
                    holes.seek(SeekFrom::Start(to.into())).unwrap();
                    expected.seek(SeekFrom::Start(to.into())).unwrap();
                }
            }
            holes.flush().unwrap();
            prop_assert!(std::fs::read(written.path()).unwrap() == *expected.get_ref());
            let copied = tempfile::NamedTempFile::new().unwrap();
            copy(written.as_file(), copied.as_file()).unwrap();
            prop_assert!(std::fs::read(copied.path()).unwrap() == *expected.get_ref());
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let mut holes = Holes::new(written.as_file());
        holes.write_all(b"begin").unwrap();
        for _ in 0..64 {
            holes.write_all(&[0; 1 << 20]).unwrap();
        }
        holes.write_all(b"end").unwrap();
        holes.flush().unwrap();
        let copied = tempfile::NamedTempFile::new().unwrap();
        copy(written.as_file(), copied.as_file()).unwrap();
        for file in [&written, &copied] {
            let found = file.as_file().metadata().unwrap();
            assert_eq!(found.len(), (64 << 20) + 8);
            assert!(found.blocks() * 512 < 1 << 20, "{}", found.blocks());
        }
    }
}
