//! Images that lie on this host: the tar archive of a root file system (`docker export`), a saved image
//! (`docker save`, `podman save`, an OCI archive), an OCI layout. Their blobs are taken into the store.
//!
//! A saved image is told by its table of contents: `manifest.json` naming layers that are there, or `oci-layout`
//! with an `index.json`. Nothing but its JSON is interpreted on the host.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use oci_client::manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::blobs::{Blobs, Digest};
use super::content::{Content, MAX_JSON, Node, RunConfig, described};
use super::error::io_error;
use super::platform::{Processor, architecture, best, choose, fitting};
use super::{Compression, ImageError, LayerSource};
use crate::progress::Progress;

/// How many lists of manifests may be nested.
const MAX_DEPTH: u32 = 4;

/// The annotation by which layouts name their images.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Takes in what an archive holds: a saved image, or a root file system. Blocking.
pub(super) fn take(
    path: &Path,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    check_is_file(path)?;
    if let Some(saved) = Saved::archive(path)? {
        return saved.take(None, processor, blobs, progress);
    }
    let layer = LayerSource::root(path)?;
    if layer.compression() != Compression::Plain && is_saved_compressed(&layer)? {
        return Err(bad(
            path,
            "it is a saved image that is compressed as a whole; decompress it first",
        ));
    }
    take_root(path, RunConfig::default(), blobs, progress)
}

/// Takes in a saved image, and nothing else. Blocking.
pub(super) fn take_saved(
    path: &Path,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    check_is_file(path)?;
    match Saved::archive(path)? {
        Some(saved) => saved.take(None, processor, blobs, progress),
        None => Err(bad(
            path,
            "it is no saved image (`docker save`); the archive of a root is named tar:FILE",
        )),
    }
}

/// Takes in the archive of a root file system, and nothing else. Blocking.
pub(super) fn take_root(
    path: &Path,
    run: RunConfig,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    check_is_file(path)?;
    let root = LayerSource::root(path)?;
    let diff_id = root.diff_id(progress)?;
    let layer = match root.compression() {
        // No media type speaks of it, so nobody else could use such a layer.
        Compression::Xz => {
            let message = format!("compressing {} anew", root.file_name());
            let tar = LayerSource::root(path)?.open(progress, &message)?;
            let mut packed = zstd::stream::read::Encoder::new(std::io::BufReader::new(tar), 3)
                .map_err(io_error("compress", path))?;
            let (digest, bytes) = blobs.absorb(&mut packed)?;
            (digest, bytes, Compression::Zstd)
        }
        compression => {
            let digest = root.digest(progress)?;
            blobs.copy(&digest, path, 0, root.bytes())?;
            (digest, root.bytes(), compression)
        }
    };
    Content::of_root(blobs, layer, &diff_id, &run)
}

/// Takes in an image of an OCI layout: the one of that name, or the only one. Blocking.
pub(super) fn take_layout(
    dir: &Path,
    name: Option<&str>,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    let saved = Saved {
        path: dir.to_owned(),
        files: Files::Dir,
    };
    if !saved.is_oci() {
        return Err(bad(
            dir,
            "it is no OCI layout: it has no oci-layout or no index.json",
        ));
    }
    saved.take(name, processor, blobs, progress)
}

fn bad(path: &Path, problem: impl Into<String>) -> ImageError {
    ImageError::BadArchive {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn check_is_file(path: &Path) -> Result<(), ImageError> {
    if path.metadata().map_err(io_error("read", path))?.is_file() {
        return Ok(());
    }
    Err(bad(
        path,
        "it is no regular file; save the archive to one first, or name a layout oci:DIR",
    ))
}

/// Whether the first file of a compressed archive is one that saved images have.
fn is_saved_compressed(layer: &LayerSource) -> Result<bool, ImageError> {
    let mut archive = tar::Archive::new(layer.open(&Progress::none(), "")?);
    let Ok(mut entries) = archive.entries() else {
        return Ok(false);
    };
    let Some(Ok(first)) = entries.next() else {
        return Ok(false);
    };
    let name = first.path_bytes();
    let name = name.strip_prefix(b"./").unwrap_or(&name);
    Ok([
        b"blobs/".as_slice(),
        b"oci-layout",
        b"index.json",
        b"manifest.json",
    ]
    .iter()
    .any(|start| name.starts_with(start)))
}

/// A saved image: an archive and where its files are in it, or a layout's directory.
struct Saved {
    path: PathBuf,
    files: Files,
}

enum Files {
    Archive(HashMap<String, (u64, u64)>),
    Dir,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// For which machines an image is, as its configuration says.
#[derive(Deserialize)]
#[serde(default)]
struct ImagePlatform {
    os: String,
    architecture: String,
    variant: String,
}

impl Default for ImagePlatform {
    fn default() -> Self {
        Self {
            os: "linux".into(),
            architecture: architecture().into(),
            variant: String::new(),
        }
    }
}

/// The file that holds the blob of a digest: `sha256:HEX` at `blobs/sha256/HEX`.
fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Saved {
    /// The saved image in the archive at `path`, if it is one.
    fn archive(path: &Path) -> Result<Option<Self>, ImageError> {
        let file = File::open(path).map_err(io_error("read", path))?;
        let mut start = [0; 262];
        let mut reader = &file;
        // Most of what isn't a plain tar archive need not be read for this.
        if reader.read_exact(&mut start).is_err() || &start[257..] != b"ustar" {
            return Ok(None);
        }
        reader
            .seek(SeekFrom::Start(0))
            .map_err(io_error("read", path))?;
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        let Ok(entries) = archive.entries_with_seek() else {
            return Ok(None);
        };
        for entry in entries {
            // What is wrong with the archive is said by whoever takes it for a root.
            let Ok(entry) = entry else { return Ok(None) };
            let name = String::from_utf8_lossy(&entry.path_bytes())
                .trim_start_matches("./")
                .to_owned();
            if entry.header().entry_type().is_file() {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            } else if entry.header().entry_type().is_symlink() && name.ends_with("/layer.tar") {
                // Old `docker save` has the same layer once and links to it.
                let target = entry
                    .link_name_bytes()
                    .map(|link| String::from_utf8_lossy(&link[..]).into_owned());
                let target = target.map(|link| link.trim_start_matches("../").to_owned());
                if let Some(place) = target.and_then(|target| files.get(&target).copied()) {
                    files.insert(name, place);
                }
            }
        }
        let saved = Self {
            path: path.to_owned(),
            files: Files::Archive(files),
        };
        Ok((saved.docker().is_some() || saved.is_oci()).then_some(saved))
    }

    fn is_oci(&self) -> bool {
        self.place("oci-layout").is_ok() && self.place("index.json").is_ok()
    }

    fn docker(&self) -> Option<Vec<DockerManifest>> {
        let images: Vec<DockerManifest> = self.json("manifest.json").ok()?;
        let there = |image: &DockerManifest| {
            self.place(&image.config).is_ok()
                && image.layers.iter().all(|layer| self.place(layer).is_ok())
        };
        images.first().is_some_and(there).then_some(images)
    }

    fn bad(&self, problem: impl Into<String>) -> ImageError {
        bad(&self.path, problem)
    }

    /// Where a part of it is: a file, and what of it.
    fn place(&self, name: &str) -> Result<(PathBuf, u64, u64), ImageError> {
        let missing = || self.bad(format!("it is a saved image without its part {name}"));
        match &self.files {
            Files::Archive(files) => {
                let (offset, bytes) = files.get(name).copied().ok_or_else(missing)?;
                Ok((self.path.clone(), offset, bytes))
            }
            Files::Dir => {
                let path = self.path.join(name);
                let meta = path.metadata().ok().filter(std::fs::Metadata::is_file);
                Ok((path, 0, meta.ok_or_else(missing)?.len()))
            }
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (path, offset, bytes) = self.place(name)?;
        if bytes > MAX_JSON {
            return Err(self.bad(format!(
                "its part {name} has {bytes} bytes; that is too much"
            )));
        }
        let mut file = File::open(&path).map_err(io_error("read", &path))?;
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.take(bytes).read_to_end(&mut text))
            .map_err(io_error("read", &path))?;
        Ok(text)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.read(name)?)
            .map_err(|e| self.bad(format!("its part {name} can't be understood ({e})")))
    }

    fn take(
        &self,
        name: Option<&str>,
        processor: Processor,
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<Content, ImageError> {
        if let Some(images) = self.docker() {
            let image = self.chosen_docker(&images, processor)?;
            return self.take_docker(image, blobs, progress);
        }
        let (digest, manifest) = self.manifest(name, processor)?;
        let json = self.read(&blob(&digest))?;
        for layer in &manifest.layers {
            let (digest, bytes) = described(layer).map_err(|problem| self.bad(problem))?;
            self.take_layer(&blob(&digest), Some((&digest, bytes)), blobs, progress)?;
        }
        let (config, _) = described(&manifest.config).map_err(|problem| self.bad(problem))?;
        for (digest, part) in [(&config, self.read(&blob(&config))?), (&digest, json)] {
            if Digest::of(&part) != *digest {
                return Err(self.bad(format!("its part {} is damaged", blob(digest))));
            }
            blobs.put(&part)?;
        }
        Content::read(blobs, &digest)
    }

    /// The one image that `docker save` wrote, or the best of one image's for different machines.
    fn chosen_docker<'a>(
        &self,
        images: &'a [DockerManifest],
        processor: Processor,
    ) -> Result<&'a DockerManifest, ImageError> {
        if let [one] = images {
            return Ok(one);
        }
        let mut ranked = Vec::new();
        for image in images {
            let of: ImagePlatform = self.json(&image.config)?;
            let rank = processor.rank(&of.os, &of.architecture, &of.variant);
            ranked.extend(rank.map(|rank| (rank, image)));
        }
        let tags = images[0].repo_tags.as_deref().unwrap_or_default();
        let same = |image: &DockerManifest| image.repo_tags.as_deref() == Some(tags);
        let is_one = !tags.is_empty() && images.iter().all(same);
        match best(&ranked)[..] {
            [best] if is_one => Ok(best),
            _ => Err(self.bad(format!("it holds {} images; save one alone", images.len()))),
        }
    }

    fn take_docker(
        &self,
        image: &DockerManifest,
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<Content, ImageError> {
        let config = self.read(&image.config)?;
        let mut layers = Vec::new();
        for name in &image.layers {
            let known = name
                .strip_prefix("blobs/sha256/")
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            let (_, _, bytes) = self.place(name)?;
            layers.push(self.take_layer(
                name,
                known.as_ref().map(|digest| (digest, bytes)),
                blobs,
                progress,
            )?);
        }
        Content::wrap(blobs, &config, &layers)
    }

    /// Takes a layer in, checked against what is known of it.
    fn take_layer(
        &self,
        name: &str,
        known: Option<(&Digest, u64)>,
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<(Digest, u64, Compression), ImageError> {
        let (path, offset, bytes) = self.place(name)?;
        let layer = LayerSource::part(&path, offset, bytes, true)?;
        let digest = match known {
            Some((digest, size)) if size != bytes => {
                return Err(self.bad(format!(
                    "its part {name} is damaged: {digest} should have {size} bytes"
                )));
            }
            Some((digest, _)) => digest.clone(),
            None => layer.digest(progress)?,
        };
        progress.say(format!("taking in {}", &digest.hex()[..12]));
        match blobs.copy(&digest, &path, offset, bytes) {
            Err(ImageError::WrongBlob { problem, .. }) => {
                Err(self.bad(format!("its part {name} is damaged: {problem}")))
            }
            Err(error) => Err(error),
            Ok(()) => Ok((digest, bytes, layer.compression())),
        }
    }

    /// The manifest that is meant.
    fn manifest(
        &self,
        name: Option<&str>,
        processor: Processor,
    ) -> Result<(Digest, Box<OciImageManifest>), ImageError> {
        let mut index: OciImageIndex = self.json("index.json")?;
        if let Some(name) = name {
            let called = |entry: &ImageIndexEntry| {
                entry
                    .annotations
                    .as_ref()
                    .and_then(|all| all.get(REF_NAME))
                    .cloned()
            };
            let known: Vec<String> = index.manifests.iter().filter_map(called).collect();
            index
                .manifests
                .retain(|entry| called(entry).as_deref() == Some(name));
            if index.manifests.is_empty() {
                return Err(self.bad(format!(
                    "it holds no image named {name}; there are: {}",
                    known.join(", ")
                )));
            }
        }
        for _ in 0..MAX_DEPTH {
            let digest = self.chosen(&index, processor)?;
            match Node::parse(&self.read(&blob(&digest))?).map_err(|problem| self.bad(problem))? {
                Node::Image(manifest) => return Ok((digest, manifest)),
                Node::Index(next) => index = next,
            }
        }
        Err(self.bad("its lists of manifests are nested too deeply"))
    }

    /// Of a list of images the one that is meant: the best for this machine, where they are one image's, or the only one.
    fn chosen(&self, index: &OciImageIndex, processor: Processor) -> Result<Digest, ImageError> {
        let fitting = fitting(index, processor);
        let name = |entry: &ImageIndexEntry| {
            let notes = entry.annotations.as_ref()?;
            notes.get(REF_NAME).cloned()
        };
        let names: BTreeSet<_> = fitting.iter().map(|(_, entry)| name(entry)).collect();
        match best(&fitting)[..] {
            [best] if names.len() == 1 => best
                .digest
                .parse()
                .map_err(|problem: String| self.bad(problem)),
            [] => choose(index, processor).map_err(|problem| self.bad(problem)),
            _ => Err(self.bad(format!(
                "it holds {} images; save one alone, or name one of a layout: oci:DIR:NAME",
                fitting.len()
            ))),
        }
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
