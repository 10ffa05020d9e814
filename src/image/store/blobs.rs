//! Blobs: manifests, configurations and layers, each kept once, under its digest.
//!
//! ```text
//! <images>/blobs/sha256/<hex>   a whole blob, checked, read-only
//!         /partial/<hex>        a blob that comes in: locked by whoever writes it, kept for whoever goes on with it
//! ```
//!
//! A blob appears by a rename, after its size and digest were found right and it is on stable storage. What is wrong
//! never gets there: it is thrown away.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::files::{list, remove_file, sync_dir, try_lock};
use crate::image::ImageError;
use crate::image::content::MAX_JSON;
use crate::image::error::io_error;
use crate::image::file_slice::Part;
use crate::image::reference::is_digest;
use crate::{presence, private};

/// A blob's digest: `sha256:HEX`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    pub(crate) fn finish(hash: Sha256) -> Self {
        Self(format!("sha256:{}", hex::encode(hash.finalize())))
    }

    /// `sha256:HEX`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_digest(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{text:?} is no digest that is supported: sha256: and 64 digits"
        ))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where blobs are kept. Several processes may use the same place.
#[derive(Debug, Clone)]
pub struct Blobs {
    whole: PathBuf,
    partial: PathBuf,
}

/// Reading a partial blob in pieces of this size.
const PIECE: usize = 256 << 10;

impl Blobs {
    pub(crate) fn new(images: &Path) -> Result<Self, ImageError> {
        let blobs = Self {
            whole: images.join("blobs/sha256"),
            partial: images.join("partial"),
        };
        for path in [&blobs.whole, &blobs.partial] {
            private::dir(path).map_err(io_error("make the directory", path))?;
        }
        Ok(blobs)
    }

    /// The directory they are in.
    pub(crate) fn dir(&self) -> &Path {
        &self.whole
    }

    /// How much of a blob is still to come.
    pub(crate) fn missing(&self, digest: &Digest, size: u64) -> u64 {
        match self.size(digest) == Some(size) {
            true => 0,
            false => size.saturating_sub(self.partial_size(digest).unwrap_or(0)),
        }
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.whole.join(digest.hex())
    }

    /// The size of a blob that is there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        Some(self.path(digest).metadata().ok()?.len())
    }

    /// Puts a small blob there.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        if self.size(&digest) != Some(bytes.len() as u64) {
            crate::files::replace(&path, bytes).map_err(io_error("write", &path))?;
        }
        Ok(digest)
    }

    /// Reads a manifest or a configuration, checked anew. A blob larger than one of these is not read.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut bytes));
        read.map_err(io_error("read", &path))?;
        if bytes.len() as u64 > MAX_JSON {
            return Err(ImageError::WrongBlob {
                digest: digest.clone(),
                problem: format!(
                    "it has more than {MAX_JSON} bytes, so it is no manifest and no configuration"
                ),
            });
        }
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        remove_file(&path).map_err(io_error("remove", &path))?;
        Err(ImageError::Damaged {
            path,
            problem: "its content is not what its name says, so it was removed".into(),
        })
    }

    /// Copies a layer in from a part of a file of this host. Blocking.
    pub(crate) fn copy(&self, digest: &Digest, part: &Part) -> Result<(), ImageError> {
        let bytes = part.bytes();
        loop {
            if self.size(digest) == Some(bytes) {
                return Ok(());
            }
            let Some(mut partial) = self.begin(digest, bytes)? else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let at = partial.done;
            let mut input = part.within(at, bytes - at).reader()?;
            let mut buffer = vec![0; PIECE];
            loop {
                match input
                    .read(&mut buffer)
                    .map_err(io_error("read", part.path()))?
                {
                    0 => break,
                    n => partial.write(&buffer[..n])?,
                }
            }
            return partial.finish();
        }
    }

    /// Takes in everything that a stream gives. Blocking.
    pub fn absorb(&self, input: &mut impl Read) -> Result<(Digest, u64), ImageError> {
        let error = |operation| io_error(operation, &self.partial);
        let mut file =
            tempfile::NamedTempFile::new_in(&self.partial).map_err(error("write into"))?;
        // Whoever clears away what was left behind must see that somebody is at it.
        file.as_file().lock().map_err(error("lock a file in"))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            match input
                .read(&mut buffer)
                .map_err(error("read what goes into"))?
            {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    file.write_all(&buffer[..n]).map_err(error("write into"))?;
                    bytes += n as u64;
                }
            }
        }
        let digest = Digest::finish(hash);
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

    /// How much is there of a blob that came in only in part.
    pub(crate) fn partial_size(&self, digest: &Digest) -> Option<u64> {
        Some(self.partial.join(digest.hex()).metadata().ok()?.len())
    }

    /// The right to bring a blob in, with what is there of it already; nothing while somebody else has it.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Option<Partial>, ImageError> {
        let path = self.partial.join(digest.hex());
        let error = |operation| io_error(operation, &path);
        let open = private::file()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let mut file = open.map_err(error("write"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(source)) => return Err(error("lock")(source)),
        }
        // Whoever had it may just have moved it away: then this is no partial blob any more.
        let ours = file.metadata().map_err(error("read"))?.ino();
        if fs::metadata(&path).map(|meta| meta.ino()).ok() != Some(ours) {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        let mut done = 0;
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer).map_err(error("read"))? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    done += n as u64;
                }
            }
        }
        let mut partial = Partial {
            whole: self.path(digest),
            path,
            file,
            digest: digest.clone(),
            size,
            done,
            hash,
        };
        if done > size {
            partial.restart()?;
        }
        Ok(Some(partial))
    }

    /// Every whole blob with its size.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, u64)>, ImageError> {
        let files = list(&self.whole).map_err(io_error("list", &self.whole))?;
        let digests = files
            .iter()
            .filter_map(|hex| format!("sha256:{hex}").parse().ok());
        let mut all = Vec::new();
        for digest in digests {
            let path = self.path(&digest);
            let size = presence::size(&path).map_err(io_error("look at", &path))?;
            all.extend(size.map(|size| (digest, size)));
        }
        Ok(all)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        let path = self.path(digest);
        remove_file(&path).map_err(io_error("remove", &path))
    }

    /// What came in only in part, but what comes in just now: held, so that nobody goes on with it.
    pub(crate) fn partial(&self) -> Result<Vec<(PathBuf, File)>, ImageError> {
        let mut all = Vec::new();
        for file in list(&self.partial).map_err(io_error("list", &self.partial))? {
            let path = self.partial.join(file);
            let held = try_lock(&path).map_err(io_error("lock", &path))?;
            all.extend(held.map(|held| (path, held)));
        }
        Ok(all)
    }

    /// Removes what came in only in part; gives how many bytes that frees.
    pub(crate) fn remove_partial(partial: Vec<(PathBuf, File)>) -> Result<u64, ImageError> {
        let mut freed = 0;
        for (path, held) in partial {
            freed += held.metadata().map_or(0, |meta| meta.len());
            remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(freed)
    }
}

/// A blob that comes in.
#[derive(Debug)]
pub struct Partial {
    whole: PathBuf,
    path: PathBuf,
    file: File,
    digest: Digest,
    size: u64,
    done: u64,
    hash: Sha256,
}

impl Partial {
    /// How much of it is there.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Adds what comes next. More than there should be is refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.done + bytes.len() as u64 > self.size {
            self.restart()?;
            return Err(self.wrong(format!(
                "it is longer than the {} bytes it should have",
                self.size
            )));
        }
        self.file
            .write_all(bytes)
            .map_err(io_error("write", &self.path))?;
        self.hash.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what is there.
    pub fn restart(&mut self) -> Result<(), ImageError> {
        let restart = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()
        };
        restart(&mut self.file).map_err(io_error("write", &self.path))?;
        self.done = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Makes it a whole blob if it is what it should be; throws it away if it is not.
    pub fn finish(mut self) -> Result<(), ImageError> {
        if self.done < self.size {
            let problem = format!("it ended after {} of {} bytes", self.done, self.size);
            return Err(self.wrong(problem));
        }
        let found = Digest::finish(std::mem::take(&mut self.hash));
        if found != self.digest {
            self.restart()?;
            return Err(self.wrong(format!("its content has the digest {found}")));
        }
        let publish = || {
            self.file
                .set_permissions(PermissionsExt::from_mode(private::COMPLETE))?;
            self.file.sync_all()?;
            fs::rename(&self.path, &self.whole)?;
            sync_dir(self.whole.parent().unwrap_or(Path::new(".")))
        };
        publish().map_err(io_error("write", &self.whole))
    }

    fn wrong(&self, problem: String) -> ImageError {
        ImageError::WrongBlob {
            digest: self.digest.clone(),
            problem,
        }
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
    fn a_blob_that_was_cut_off_goes_on_where_it_was() {
        let (_dir, blobs) = blobs();
        let digest = Digest::of(b"hello, world");
        let mut partial = blobs.begin(&digest, 12).unwrap().unwrap();
        partial.write(b"hello").unwrap();
        assert!(
            blobs.begin(&digest, 12).unwrap().is_none(),
            "somebody else is at it"
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
        assert!(blobs.partial().unwrap().is_empty());
        blobs.remove(&digest).unwrap();
        assert_eq!(blobs.size(&digest), None);
    }

    #[test]
    fn what_is_wrong_never_gets_there() {
        let (dir, blobs) = blobs();
        let digest = Digest::of(b"right");
        for (bytes, said) in [
            (&b"wrong"[..], "has the digest sha256:"),
            (b"right and more", "longer than the 5"),
        ] {
            let mut partial = blobs.begin(&digest, 5).unwrap().unwrap();
            assert_eq!(partial.done(), 0, "what was wrong is not gone on with");
            let error = partial.write(bytes).and_then(|()| partial.finish());
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains(digest.as_str()),
                "{error}"
            );
        }
        let file = dir.path().join("file");
        fs::write(&file, "xxwrongxx").unwrap();
        let part = || Part::whole(&file).unwrap().within(2, 5);
        assert!(blobs.copy(&digest, &part()).is_err());
        assert!(blobs.all().unwrap().is_empty());
        fs::write(&file, "xxrightxx").unwrap();
        blobs.copy(&digest, &part()).unwrap();
        assert_eq!(blobs.read(&digest).unwrap(), b"right");
    }

    #[test]
    fn a_blob_that_rotted_is_found_when_read_and_removed() {
        let (_dir, blobs) = blobs();
        let digest = blobs.put(b"content").unwrap();
        fs::write(blobs.path(&digest), "rotten!").unwrap();
        let error = blobs.read(&digest).unwrap_err().to_string();
        assert!(error.contains("not what its name says"), "{error}");
        assert_eq!(blobs.put(b"content").unwrap(), digest);
        assert_eq!(blobs.read(&digest).unwrap(), b"content");
    }
}
