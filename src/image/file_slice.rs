//! A slice of a file. A file that another program may write is opened only once, so that the content that was checked
//! is the content that is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::image::file_error::{FileError, file_error};

/// A slice of a file.
#[derive(Debug, Clone)]
pub(crate) struct FileSlice {
    /// The open file; `None` for a file of the store, since an image may have more of them than may be open at once.
    file: Option<Arc<File>>,
    path: PathBuf,
    offset: u64,
    bytes: u64,
}

impl FileSlice {
    /// A whole open file of that size. Messages call it `path`.
    pub(crate) fn of_open(file: File, path: &Path, bytes: u64) -> Self {
        Self {
            file: Some(file.into()),
            ..Self::of_store(path, bytes)
        }
    }

    /// A whole file of the store, which no other program replaces.
    pub(crate) fn of_store(path: &Path, bytes: u64) -> Self {
        Self {
            file: None,
            path: path.to_owned(),
            offset: 0,
            bytes,
        }
    }

    /// A whole regular file.
    pub(crate) fn whole(path: &Path) -> Result<Self, FileSliceError> {
        // Opening a fifo without O_NONBLOCK would wait for a writer.
        let opened = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = opened.map_err(file_error("read", path))?;
        if !meta.is_file() {
            return Err(FileSliceError::NotRegular(path.to_owned()));
        }
        Ok(Self::of_open(file, path, meta.len()))
    }

    /// A slice of this slice, cut off at its end.
    pub(crate) fn within(&self, offset: u64, bytes: u64) -> Self {
        let offset = offset.min(self.bytes);
        Self {
            offset: self.offset + offset,
            bytes: bytes.min(self.bytes - offset),
            ..self.clone()
        }
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A reader from the beginning of the slice.
    pub(crate) fn reader(&self) -> Result<SliceReader, FileError> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => Arc::new(File::open(&self.path).map_err(file_error("read", &self.path))?),
        };
        Ok(SliceReader {
            file,
            offset: self.offset,
            bytes: self.bytes,
            at: 0,
        })
    }
}

/// Why a file can't be read as a slice.
#[derive(Debug, thiserror::Error)]
pub enum FileSliceError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is a directory, a fifo or a device.
    #[error(
        "import {0}: it is no regular file; save the archive to one first, or name a layout oci:DIR"
    )]
    NotRegular(PathBuf),
}

/// Reads a slice. Several readers may read the same slice at once.
#[derive(Debug)]
pub(crate) struct SliceReader {
    file: Arc<File>,
    offset: u64,
    bytes: u64,
    at: u64,
}

impl Read for SliceReader {
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

impl Seek for SliceReader {
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
    fn a_slice_ends_where_it_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789").unwrap();
        let whole = FileSlice::whole(file.path()).unwrap();
        let read = |slice: &FileSlice, from: u64| {
            let mut text = String::new();
            let mut reader = slice.reader().unwrap();
            reader.seek(SeekFrom::Start(from)).unwrap();
            reader.read_to_string(&mut text).unwrap();
            text
        };
        let slice = whole.within(2, 5);
        assert_eq!(
            (read(&whole, 0).as_str(), read(&slice, 0).as_str()),
            ("0123456789", "23456")
        );
        assert_eq!(read(&slice.within(3, 9), 0), "56");
        assert_eq!(read(&slice.within(9, 9), 0), "");
        assert_eq!(
            (read(&slice, 4), read(&slice, 5), read(&slice, 90)),
            ("6".into(), "".into(), "".into())
        );
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(read(&slice, 0), "23456", "it is open");
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
            let error = FileSlice::whole(path).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
    }
}
