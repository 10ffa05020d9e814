//! The disk that hands layers to the guest that unpacks them: one sparse file, read-only for the guest, into which the
//! host decompresses the archives one after the other. It is ten times as fast as the guest link, whose encryption is
//! expensive in a translated guest.
//!
//! The guest reads an archive only once it is complete. A gap around each archive is wider than the guest kernel's
//! read-ahead, so that no old content gets into the guest's page cache.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::blocking::blocking_here;
use crate::image::{LayerSource, MAX_UNPACKED};
use crate::private;

/// The gap before, between and after archives, in bytes.
const GAP: u64 = 64 << 20;

/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// The file; removed on drop.
#[derive(Debug)]
pub(super) struct Feed {
    /// Its path.
    pub(super) path: PathBuf,
}

/// An archive's place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its first byte.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) bytes: u64,
}

/// The archives in order, each as soon as it is complete. Dropping this ends the decompression.
pub(super) struct Pieces(mpsc::UnboundedReceiver<io::Result<Piece>>);

impl Pieces {
    /// The next archive.
    pub(super) async fn next(&mut self) -> io::Result<Piece> {
        let ended = || io::Error::other("decompressing the layers ended early");
        self.0.recv().await.unwrap_or_else(|| Err(ended()))
    }
}

impl Feed {
    /// An empty one beside the disk that is filled.
    pub(super) fn create(disk: &Path) -> io::Result<Self> {
        let path = disk.with_extension("feed");
        private::file().write(true).create_new(true).open(&path)?;
        Ok(Self { path })
    }

    /// Decompresses the layers on a thread of its own. The file has its final size when this returns.
    pub(super) fn start(&self, layers: &[LayerSource]) -> Pieces {
        let (sender, pieces) = mpsc::unbounded_channel();
        let (layers, path) = (layers.to_vec(), self.path.clone());
        let open = || {
            let file = File::options().write(true).open(&self.path)?;
            file.set_len(MAX_UNPACKED + GAP * (layers.len() as u64 + 2))?;
            Ok(file)
        };
        match open() {
            Ok(file) => {
                std::thread::spawn(move || write_all(&layers, &file, &path, &sender));
            }
            Err(error) => {
                sender.send(Err(error)).ok();
            }
        }
        Pieces(pieces)
    }
}

fn write_all(
    layers: &[LayerSource],
    file: &File,
    path: &Path,
    sender: &mpsc::UnboundedSender<io::Result<Piece>>,
) {
    let mut offset = GAP;
    for layer in layers {
        let written = write(layer, file, offset, sender).map_err(|error| match error {
            Failed::Read(error) => error,
            Failed::Write(error) => {
                io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
            }
        });
        let failed = written.is_err();
        let bytes = *written.as_ref().unwrap_or(&0);
        if sender
            .send(written.map(|bytes| Piece { offset, bytes }))
            .is_err()
            || failed
        {
            return;
        }
        offset = (offset + bytes).next_multiple_of(GAP) + GAP;
    }
}

/// What went wrong with a layer.
enum Failed {
    /// It can't be read.
    Read(io::Error),
    /// The file can't be written.
    Write(io::Error),
}

fn write(
    layer: &LayerSource,
    file: &File,
    offset: u64,
    sender: &mpsc::UnboundedSender<io::Result<Piece>>,
) -> Result<u64, Failed> {
    let mut input = layer
        .open(&crate::progress::Progress::none(), "")
        .map_err(|error| Failed::Read(io::Error::other(error)))?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        if sender.is_closed() {
            return Err(Failed::Read(io::ErrorKind::Interrupted.into()));
        }
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok(done),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failed::Read(error)),
        };
        // The file is sparse: zeros are not written, so a layer of zeros takes no room.
        if buffer[..read].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buffer[..read], offset + done)
                .map_err(Failed::Write)?;
        }
        done += read as u64;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        blocking_here(|| std::fs::remove_file(&self.path)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn archives_lie_apart_and_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let contents = [vec![1; 3_000_000], vec![0; 2_000_000], b"short".to_vec()];
        let mut layers = Vec::new();
        for (n, content) in contents.iter().enumerate() {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, content).unwrap();
            layers.push(LayerSource::of_file(&path));
        }
        let feed = Feed::create(&dir.path().join("root.raw")).unwrap();
        let mut pieces = feed.start(&layers);
        let file = File::open(&feed.path).unwrap();
        let mut end = 0;
        for content in &contents {
            let piece = pieces.next().await.unwrap();
            assert!(piece.offset >= end + GAP && piece.offset % 512 == 0);
            end = piece.offset + piece.bytes;
            let mut found = vec![7; content.len()];
            file.read_exact_at(&mut found, piece.offset).unwrap();
            assert!(found == *content && piece.bytes == content.len() as u64);
        }
        assert!(file.metadata().unwrap().len() >= end + GAP);
        assert!(pieces.next().await.is_err());
        drop(feed);
        assert!(!dir.path().join("root.feed").exists());
    }
}
