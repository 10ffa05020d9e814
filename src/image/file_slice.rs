//! A part of a file. One that somebody else may write is opened once, so that what is checked is what is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::image::ImageError;
use crate::image::error::io_error;

/// A part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The open file; nothing for one of the store's own, of which an image has many.
    file: Option<Arc<File>>,
    path: PathBuf,
    offset: u64,
    bytes: u64,
}

impl Part {
    /// All of an open file of that size, which is called `path` in messages.
    pub(crate) fn open(file: File, path: &Path, bytes: u64) -> Self {
        Self {
            file: Some(file.into()),
            ..Self::own(path, bytes)
        }
    }

    /// All of a file of the store's own, which nobody exchanges.
    pub(crate) fn own(path: &Path, bytes: u64) -> Self {
        Self {
            file: None,
            path: path.to_owned(),
            offset: 0,
            bytes,
        }
    }

    /// All of the regular file of that name.
    pub(crate) fn whole(path: &Path) -> Result<Self, ImageError> {
        // Without waiting: a fifo has no writer.
        let opened = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = opened.map_err(io_error("read", path))?;
        if !meta.is_file() {
            return Err(ImageError::BadArchive {
                path: path.to_owned(),
                problem:
                    "it is no regular file; save the archive to one first, or name a layout oci:DIR"
                        .into(),
            });
        }
        Ok(Self::open(file, path, meta.len()))
    }

    /// A part of this one; of what lies beyond its end there is nothing.
    pub(crate) fn within(&self, offset: u64, bytes: u64) -> Self {
        let offset = offset.min(self.bytes);
        Self {
            offset: self.offset + offset,
            bytes: bytes.min(self.bytes - offset),
            ..self.clone()
        }
    }

    /// The file's name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes it has.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it from its beginning.
    pub(crate) fn reader(&self) -> Result<Reader, ImageError> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => Arc::new(File::open(&self.path).map_err(io_error("read", &self.path))?),
        };
        Ok(Reader {
            file,
            offset: self.offset,
            bytes: self.bytes,
            at: 0,
        })
    }
}

/// Reads a part. Several may read the same one.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Arc<File>,
    offset: u64,
    bytes: u64,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let at = self.offset + self.at;
        let read = self.file.read_at(&mut buffer[..length], at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_it_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789").unwrap();
        let whole = Part::whole(file.path()).unwrap();
        let read = |part: &Part, from: u64| {
            let mut text = String::new();
            let mut reader = part.reader().unwrap();
            reader.seek(SeekFrom::Start(from)).unwrap();
            reader.read_to_string(&mut text).unwrap();
            text
        };
        let part = whole.within(2, 5);
        assert_eq!(
            (read(&whole, 0).as_str(), read(&part, 0).as_str()),
            ("0123456789", "23456")
        );
        assert_eq!(read(&part.within(3, 9), 0), "56");
        assert_eq!(read(&part.within(9, 9), 0), "");
        assert_eq!(
            (read(&part, 4), read(&part, 5), read(&part, 90)),
            ("6".into(), "".into(), "".into())
        );
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(read(&part, 0), "23456", "it is open");
    }

    #[test]
    fn only_a_regular_file_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [dir.path(), &fifo, Path::new("/dev/null")] {
            let error = Part::whole(path).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
    }
}
