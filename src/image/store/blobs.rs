//! Blobs: manifests, configurations and layers, each kept once, under its digest.
//!
//! ```text
//! <images>/blobs/sha256/<hex>   a whole blob, checked, read-only
//!         /partial/<hex>        a blob that is being written, or whose download broke off (`PartialBlob`)
//! ```
//!
//! A blob appears by a rename, once its size and digest are checked and it is on stable storage. Wrong content never
//! becomes a blob. All methods block.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::files::{self, Abandoned, list, remove_file, sync_dir};
use crate::image::digest::Digest;
use crate::image::file_error::{FileError, file_error};
use crate::image::file_slice::FileSlice;
use crate::image::manifest::MAX_JSON;
use crate::image::store::blob_error::BlobError;
use crate::image::store::partial_blob::PartialBlob;
use crate::{presence, private};

/// Files are copied and hashed in pieces of this size, in bytes.
const PIECE: usize = 256 << 10;

/// The directories of blobs. Several processes may use the same ones.
#[derive(Debug, Clone)]
pub struct Blobs {
    whole: PathBuf,
    partial: PathBuf,
}

impl Blobs {
    /// The blobs below the store's directory, for looking: missing directories stay missing.
    pub(crate) fn at(images: &Path) -> Self {
        Self {
            whole: images.join("blobs/sha256"),
            partial: images.join("partial"),
        }
    }

    /// The blobs below the store's directory. Missing directories are made.
    pub(crate) fn new(images: &Path) -> Result<Self, FileError> {
        let blobs = Self::at(images);
        for path in [&blobs.whole, &blobs.partial] {
            private::dir(path).map_err(file_error("make the directory", path))?;
        }
        Ok(blobs)
    }

    /// The directory of whole blobs.
    pub(crate) fn dir(&self) -> &Path {
        &self.whole
    }

    /// The bytes of a blob that are still to be fetched.
    pub(crate) fn missing(&self, digest: &Digest, size: u64) -> u64 {
        match self.size(digest) == Some(size) {
            true => 0,
            false => size.saturating_sub(self.partial_size(digest).unwrap_or(0)),
        }
    }

    /// The path of a blob, whether it is there or not.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.whole.join(digest.hex())
    }

    /// The size of a blob; `None` if it is not there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        Some(self.path(digest).metadata().ok()?.len())
    }

    /// Writes a small blob. A process that is killed meanwhile leaves nothing among the whole blobs.
    pub(crate) fn put(&self, mut bytes: &[u8]) -> Result<Digest, FileError> {
        let digest = Digest::of(bytes);
        match self.size(&digest) == Some(bytes.len() as u64) {
            true => Ok(digest),
            false => Ok(self.put_stream(&mut bytes)?.0),
        }
    }

    /// Reads a manifest or a configuration, and checks its digest again. Larger blobs are refused.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut bytes));
        read.map_err(file_error("read", &path))?;
        if bytes.len() as u64 > MAX_JSON {
            let problem = format!(
                "it has more than {MAX_JSON} bytes, so it is no manifest and no configuration"
            );
            return Err(BlobError::Wrong {
                digest: digest.clone(),
                problem,
            });
        }
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        remove_file(&path).map_err(file_error("remove", &path))?;
        Err(BlobError::Damaged(path))
    }

    /// Copies a layer from a slice of a file.
    pub(crate) fn copy(&self, digest: &Digest, slice: &FileSlice) -> Result<(), BlobError> {
        let bytes = slice.bytes();
        loop {
            if self.size(digest) == Some(bytes) {
                return Ok(());
            }
            let Some(mut partial) = self.begin(digest, bytes)? else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let at = partial.done();
            let mut input = slice.within(at, bytes - at).reader()?;
            let mut buffer = vec![0; PIECE];
            loop {
                match input
                    .read(&mut buffer)
                    .map_err(file_error("read", slice.path()))?
                {
                    0 => break,
                    n => partial.write(&buffer[..n])?,
                }
            }
            return partial.finish();
        }
    }

    /// Writes everything that a stream gives as a blob. Returns its digest and size.
    pub(crate) fn put_stream(&self, input: &mut impl Read) -> Result<(Digest, u64), FileError> {
        let error = |operation| file_error(operation, &self.partial);
        let mut file = files::temporary(&self.partial).map_err(error("write into"))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            match input
                .read(&mut buffer)
                .map_err(error("read what is written into"))?
            {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    file.write_all(&buffer[..n]).map_err(error("write into"))?;
                    bytes += n as u64;
                }
            }
        }
        let digest = Digest::from_hash(hash);
        let publish = || {
            file.as_file()
                .set_permissions(PermissionsExt::from_mode(private::COMPLETE))?;
            file.as_file().sync_all()?;
            file.persist(self.path(&digest))?;
            sync_dir(&self.whole)
        };
        publish().map_err(error("write into"))?;
        Ok((digest, bytes))
    }

    /// The size of a partial blob; `None` if there is none.
    pub(crate) fn partial_size(&self, digest: &Digest) -> Option<u64> {
        Some(self.partial.join(digest.hex()).metadata().ok()?.len())
    }

    /// Begins or continues a partial blob; `None` while another process writes it.
    pub(crate) fn begin(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<Option<PartialBlob>, FileError> {
        let path = self.partial.join(digest.hex());
        let error = |operation| file_error(operation, &path);
        let open = private::file()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = open.map_err(error("write"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(source)) => return Err(error("lock")(source)),
        }
        // The last writer may have renamed it meanwhile: then this file is the whole blob, not a partial one.
        if !files::leads_to(&path, &file).map_err(error("read"))? {
            return Ok(None);
        }
        Ok(Some(PartialBlob::resume(
            file,
            path,
            self.path(digest),
            digest.clone(),
            size,
        )?))
    }

    /// Every whole blob with its size.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, u64)>, FileError> {
        if !presence::is_name(&self.whole).map_err(file_error("look for", &self.whole))? {
            return Ok(Vec::new());
        }
        let files = list(&self.whole).map_err(file_error("list", &self.whole))?;
        let digests = files
            .iter()
            .filter_map(|hex| format!("sha256:{hex}").parse().ok());
        let mut all = Vec::new();
        for digest in digests {
            let path = self.path(&digest);
            let size = presence::size(&path).map_err(file_error("look at", &path))?;
            all.extend(size.map(|size| (digest, size)));
        }
        Ok(all)
    }

    /// Removes a whole blob.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), FileError> {
        let path = self.path(digest);
        remove_file(&path).map_err(file_error("remove", &path))
    }

    /// The partial blobs that no process writes.
    pub(crate) fn abandoned(&self) -> Result<Vec<Abandoned>, FileError> {
        list(&self.partial)
            .and_then(|all| files::abandoned(&self.partial, &all))
            .map_err(file_error("list", &self.partial))
    }

    /// Removes abandoned partial blobs. Returns the bytes that this frees.
    pub(crate) fn remove_abandoned(&self, partials: Vec<Abandoned>) -> Result<u64, FileError> {
        files::remove_abandoned(partials).map_err(file_error("clear", &self.partial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path()).unwrap();
        (dir, blobs)
    }

    #[test]
    fn an_interrupted_blob_is_continued() {
        let (_dir, blobs) = blobs();
        let digest = Digest::of(b"hello, world");
        let mut partial = blobs.begin(&digest, 12).unwrap().unwrap();
        partial.write(b"hello").unwrap();
        assert!(
            blobs.begin(&digest, 12).unwrap().is_none(),
            "another writer has it"
        );
        let error = partial.finish().unwrap_err().to_string();
        assert!(error.contains("after 5 of 12 bytes"), "{error}");
        assert_eq!(blobs.size(&digest), None);
        let mut partial = blobs.begin(&digest, 12).unwrap().unwrap();
        assert_eq!(partial.done(), 5);
        partial.write(b", world").unwrap();
        partial.finish().unwrap();
        assert_eq!(blobs.read(&digest).unwrap(), b"hello, world");
        assert_eq!(blobs.all().unwrap(), [(digest.clone(), 12)]);
        assert!(blobs.abandoned().unwrap().is_empty());
        blobs.remove(&digest).unwrap();
        assert_eq!(blobs.size(&digest), None);
    }

    #[test]
    fn wrong_content_never_becomes_a_blob() {
        let (dir, blobs) = blobs();
        let digest = Digest::of(b"right");
        for (bytes, said) in [
            (&b"wrong"[..], "has the digest sha256:"),
            (b"right and more", "longer than the 5"),
        ] {
            let mut partial = blobs.begin(&digest, 5).unwrap().unwrap();
            assert_eq!(partial.done(), 0, "wrong bytes are discarded");
            let error = partial.write(bytes).and_then(|()| partial.finish());
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains(digest.as_str()),
                "{error}"
            );
        }
        let file = dir.path().join("file");
        fs::write(&file, "xxwrongxx").unwrap();
        let slice = || FileSlice::whole(&file).unwrap().within(2, 5);
        assert!(blobs.copy(&digest, &slice()).is_err());
        assert!(blobs.all().unwrap().is_empty());
        fs::write(&file, "xxrightxx").unwrap();
        blobs.copy(&digest, &slice()).unwrap();
        assert_eq!(blobs.read(&digest).unwrap(), b"right");
    }

    #[test]
    fn a_damaged_blob_is_noticed_when_it_is_read_and_removed() {
        let (_dir, blobs) = blobs();
        let digest = blobs.put(b"content").unwrap();
        fs::write(blobs.path(&digest), "rotten!").unwrap();
        let error = blobs.read(&digest).unwrap_err().to_string();
        assert!(error.contains("not what its name says"), "{error}");
        assert_eq!(blobs.put(b"content").unwrap(), digest);
        assert_eq!(blobs.read(&digest).unwrap(), b"content");
    }
}
