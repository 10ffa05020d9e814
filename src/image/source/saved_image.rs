//! Saved images: archives of `docker save` and `podman save`, OCI archives, OCI layouts.
//!
//! A saved image has either a `manifest.json` that names layers in it, or an `oci-layout` and an `index.json`. The host
//! interprets only its JSON. A name in it is looked up among the entries of the archive, or, in a layout, as the digest of
//! a blob ([`LayoutDir`]). In a layout, `manifest.json` is not read, since it names paths.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_client::manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::image::compression::Compression;
use crate::image::content::Content;
use crate::image::digest::{Digest, DigestError};
use crate::image::file_error::file_error;
use crate::image::file_slice::FileSlice;
use crate::image::layer::LayerSource;
use crate::image::manifest::{MAX_JSON, Manifest, REF_NAME, digest_and_size};
use crate::image::platform::{Processor, architecture, best, choose, runnable};
use crate::image::source::import_error::ImportError;
use crate::image::source::layout_dir::LayoutDir;
use crate::image::store::blob_error::BlobError;
use crate::image::store::blobs::Blobs;
use crate::image::tar_index::{EntryKind, TarIndex};
use crate::progress::Progress;

/// How deeply indexes may be nested.
const MAX_DEPTH: u32 = 4;

/// The most entries of an archive that may be a saved image: eight times the entries of one with 1,000 layers.
pub(crate) const MAX_ENTRIES: usize = 1 << 15;

/// The longest name of a file in a saved image, in bytes. With SHA-512 names have 141.
const MAX_NAME: usize = 255;

/// A saved image: an archive with the places of its files, or the directory of a layout.
pub(crate) struct SavedImage {
    path: PathBuf,
    files: Files,
}

enum Files {
    Archive {
        whole: FileSlice,
        /// Offset and length of each file.
        places: HashMap<String, (u64, u64)>,
    },
    Layout(LayoutDir),
}

/// An image in the `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// The platform in the configuration of an image.
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

/// The path of a blob in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl SavedImage {
    /// The OCI layout in a directory.
    pub(crate) fn layout(dir: &Path) -> Result<Self, ImportError> {
        let saved = Self {
            path: dir.to_owned(),
            files: Files::Layout(LayoutDir::open(dir)?),
        };
        match saved.is_oci()? {
            true => Ok(saved),
            false => Err(ImportError::invalid(
                dir,
                "it is no OCI layout: it has no oci-layout or no index.json",
            )),
        }
    }

    /// The saved image in an archive; `None` if the archive contains none.
    pub(crate) fn archive(whole: &FileSlice) -> Result<Option<Self>, ImportError> {
        let mut start = [0; 262];
        // Files that are no tar archive are recognized without reading them whole.
        if whole.reader()?.read_exact(&mut start).is_err() || &start[257..] != b"ustar" {
            return Ok(None);
        }
        let mut places = HashMap::new();
        for (number, entry) in TarIndex::new(whole.reader()?).enumerate() {
            // The import as a root reports what is wrong with the archive.
            let Ok(entry) = entry else { return Ok(None) };
            if number == MAX_ENTRIES {
                return Ok(None);
            }
            let name = entry.name;
            match entry.kind {
                _ if name.len() > MAX_NAME => {}
                EntryKind::File => {
                    places.insert(name, (entry.offset, entry.bytes));
                }
                // An old `docker save` stores a layer that occurs twice once, and links to it.
                EntryKind::Link(target) if name.ends_with("/layer.tar") => {
                    let place = places.get(target.trim_start_matches("../")).copied();
                    places.extend(place.map(|place| (name, place)));
                }
                EntryKind::Link(_) | EntryKind::Other => {}
            }
        }
        let saved = Self {
            path: whole.path().to_owned(),
            files: Files::Archive {
                whole: whole.clone(),
                places,
            },
        };
        Ok((saved.docker_images().is_some() || saved.is_oci()?).then_some(saved))
    }

    fn is_oci(&self) -> Result<bool, ImportError> {
        Ok(self.find("oci-layout")?.is_some() && self.find("index.json")?.is_some())
    }

    /// The images in the `manifest.json` of an archive; `None` if a part of the first one is missing. In a directory it is
    /// not read, since it names paths.
    fn docker_images(&self) -> Option<Vec<DockerImage>> {
        let Files::Archive { places, .. } = &self.files else {
            return None;
        };
        let images: Vec<DockerImage> = self.json("manifest.json").ok()?;
        let there = |image: &DockerImage| {
            places.contains_key(&image.config)
                && image.layers.iter().all(|layer| places.contains_key(layer))
        };
        images.first().is_some_and(there).then_some(images)
    }

    fn invalid(&self, problem: impl Into<String>) -> ImportError {
        ImportError::invalid(&self.path, problem)
    }

    /// A file of the saved image; `None` if it is missing.
    fn find(&self, name: &str) -> Result<Option<FileSlice>, ImportError> {
        match &self.files {
            Files::Archive { whole, places } => {
                let place = places.get(name).copied();
                Ok(place.map(|(at, bytes)| whole.within(at, bytes)))
            }
            Files::Layout(dir) => Ok(dir.file(name)?),
        }
    }

    /// A file of the saved image, which must be there.
    fn file(&self, name: &str) -> Result<FileSlice, ImportError> {
        let missing = || self.invalid(format!("it is a saved image without its part {name}"));
        self.find(name)?.ok_or_else(missing)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ImportError> {
        let file = self.file(name)?;
        let mut text = Vec::new();
        // The file may grow meanwhile, but the slice does not.
        let read = file.reader()?.take(MAX_JSON + 1).read_to_end(&mut text);
        read.map_err(file_error("read", file.path()))?;
        if text.len() as u64 > MAX_JSON {
            return Err(self.invalid(format!(
                "its part {name} has {} bytes; at most {MAX_JSON} are taken",
                file.bytes()
            )));
        }
        Ok(text)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImportError> {
        serde_json::from_slice(&self.read(name)?)
            .map_err(|e| self.invalid(format!("its part {name} can't be understood ({e})")))
    }

    pub(crate) fn import(
        &self,
        name: Option<&str>,
        processor: Processor,
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<Content, ImportError> {
        if let Some(images) = self.docker_images() {
            let image = self.choose_docker(&images, processor)?;
            return self.import_docker(image, blobs, progress);
        }
        let (digest, manifest) = self.manifest(name, processor)?;
        let json = self.read(&blob_path(&digest))?;
        for layer in &manifest.layers {
            let (digest, bytes) =
                digest_and_size(layer).map_err(|problem| self.invalid(problem))?;
            self.import_layer(&blob_path(&digest), Some((&digest, bytes)), blobs, progress)?;
        }
        let (config, _) =
            digest_and_size(&manifest.config).map_err(|problem| self.invalid(problem))?;
        for (digest, bytes) in [(&config, self.read(&blob_path(&config))?), (&digest, json)] {
            if Digest::of(&bytes) != *digest {
                return Err(self.invalid(format!("its part {} is damaged", blob_path(digest))));
            }
            blobs.put(&bytes)?;
        }
        Ok(Content::read(blobs, &digest)?)
    }

    /// The only image that `docker save` wrote, or the best variant of it for this processor.
    fn choose_docker<'a>(
        &self,
        images: &'a [DockerImage],
        processor: Processor,
    ) -> Result<&'a DockerImage, ImportError> {
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
        let has_same_tags = |image: &DockerImage| image.repo_tags.as_deref() == Some(tags);
        let is_one = !tags.is_empty() && images.iter().all(has_same_tags);
        match best(&ranked)[..] {
            [best] if is_one => Ok(best),
            _ => Err(self.invalid(format!("it holds {} images; save one alone", images.len()))),
        }
    }

    fn import_docker(
        &self,
        image: &DockerImage,
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<Content, ImportError> {
        let config = self.read(&image.config)?;
        let mut layers = Vec::new();
        for name in &image.layers {
            let known = name
                .strip_prefix("blobs/sha256/")
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            let bytes = self.file(name)?.bytes();
            layers.push(self.import_layer(
                name,
                known.as_ref().map(|digest| (digest, bytes)),
                blobs,
                progress,
            )?);
        }
        Ok(Content::wrap(blobs, &config, &layers)?)
    }

    /// Copies a layer into the store, and checks it if its digest and size are known.
    fn import_layer(
        &self,
        name: &str,
        known: Option<(&Digest, u64)>,
        blobs: &Blobs,
        progress: &Progress,
    ) -> Result<(Digest, u64, Compression), ImportError> {
        let file = self.file(name)?;
        let bytes = file.bytes();
        let layer = LayerSource::new(file, true)?;
        let digest = match known {
            Some((digest, size)) if size != bytes => {
                return Err(self.invalid(format!(
                    "its part {name} is damaged: {digest} should have {size} bytes"
                )));
            }
            Some((digest, _)) => digest.clone(),
            None => layer.digest(progress)?,
        };
        progress.say(format!("importing {}", digest.short()));
        match blobs.copy(&digest, layer.slice()) {
            Err(BlobError::Wrong { problem, .. }) => {
                Err(self.invalid(format!("its part {name} is damaged: {problem}")))
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok((digest, bytes, layer.compression())),
        }
    }

    /// The manifest of the image with this name, or of the only image.
    fn manifest(
        &self,
        name: Option<&str>,
        processor: Processor,
    ) -> Result<(Digest, Box<OciImageManifest>), ImportError> {
        let mut index: OciImageIndex = self.json("index.json")?;
        if let Some(name) = name {
            let name_of = |entry: &ImageIndexEntry| {
                entry
                    .annotations
                    .as_ref()
                    .and_then(|all| all.get(REF_NAME))
                    .cloned()
            };
            let known: Vec<String> = index.manifests.iter().filter_map(name_of).collect();
            index
                .manifests
                .retain(|entry| name_of(entry).as_deref() == Some(name));
            if index.manifests.is_empty() {
                return Err(self.invalid(format!(
                    "it holds no image named {name}; there are: {}",
                    known.join(", ")
                )));
            }
        }
        for _ in 0..MAX_DEPTH {
            let digest = self.choose(&index, processor)?;
            match Manifest::parse(&self.read(&blob_path(&digest))?)
                .map_err(|problem| self.invalid(problem))?
            {
                Manifest::Image(manifest) => return Ok((digest, manifest)),
                Manifest::Index(next) => index = next,
            }
        }
        Err(self.invalid("its lists of manifests are nested too deeply"))
    }

    /// The best variant for this processor, if all images of the index are variants of one.
    fn choose(&self, index: &OciImageIndex, processor: Processor) -> Result<Digest, ImportError> {
        let runnable = runnable(index, processor);
        let name = |entry: &ImageIndexEntry| {
            let notes = entry.annotations.as_ref()?;
            notes.get(REF_NAME).cloned()
        };
        let names: BTreeSet<_> = runnable.iter().map(|(_, entry)| name(entry)).collect();
        match best(&runnable)[..] {
            [best] if names.len() == 1 => best
                .digest
                .parse()
                .map_err(|error: DigestError| self.invalid(error.to_string())),
            [] => choose(index, processor).map_err(|problem| self.invalid(problem)),
            _ => Err(self.invalid(format!(
                "it holds {} images; save one alone, or name one of a layout: oci:DIR:NAME",
                runnable.len()
            ))),
        }
    }
}
