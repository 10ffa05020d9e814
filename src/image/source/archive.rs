//! Images that lie on this host: the tar archive of a root file system (`docker export`), a saved image
//! (`docker save`, `podman save`, an OCI archive), an OCI layout. Their blobs are taken into the store.
//!
//! A saved image is told by its table of contents: `manifest.json` naming layers that are there, or `oci-layout`
//! with an `index.json`. Nothing but its JSON is interpreted on the host. What a table names is looked for in the
//! archive alone, or as a blob of the layout ([`Directory`]): in a layout Docker's table is not read, since it names
//! paths.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_client::manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::image::content::{Content, MAX_JSON, Node, RunConfig, described};
use crate::image::error::io_error;
use crate::image::file_slice::Part;
use crate::image::platform::{Processor, architecture, best, choose, fitting};
use crate::image::source::layout_dir::Directory;
use crate::image::store::blobs::{Blobs, Digest};
use crate::image::tar_index::{Kind, Table};
use crate::image::{Compression, ImageError, LayerSource};
use crate::progress::Progress;

/// How many lists of manifests may be nested.
const MAX_DEPTH: u32 = 4;

/// The most entries of an archive that may be a saved image: eight times what one of a thousand layers has.
const MAX_PARTS: usize = 1 << 15;

/// The longest name of a saved image's part; with SHA-512 it has 141 bytes.
const MAX_NAME: usize = 255;

/// The annotation by which layouts name their images.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Takes in what an archive holds: a saved image, or a root file system. Blocking.
pub(crate) fn take(
    path: &Path,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    let whole = Part::whole(path)?;
    if let Some(saved) = Saved::archive(&whole)? {
        return saved.take(None, processor, blobs, progress);
    }
    let layer = LayerSource::root(whole)?;
    if layer.compression() != Compression::Plain && is_saved_compressed(&layer)? {
        return Err(bad(
            path,
            "it is a saved image that is compressed as a whole; decompress it first",
        ));
    }
    take_layer(layer, &RunConfig::default(), blobs, progress)
}

/// Takes in a saved image, and nothing else. Blocking.
pub(crate) fn take_saved(
    path: &Path,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    match Saved::archive(&Part::whole(path)?)? {
        Some(saved) => saved.take(None, processor, blobs, progress),
        None => Err(bad(
            path,
            "it is no saved image (`docker save`); the archive of a root is named tar:FILE",
        )),
    }
}

/// Takes in the archive of a root file system, and nothing else. Blocking.
pub(crate) fn take_root(
    path: &Path,
    run: RunConfig,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    take_layer(
        LayerSource::root(Part::whole(path)?)?,
        &run,
        blobs,
        progress,
    )
}

fn take_layer(
    root: LayerSource,
    run: &RunConfig,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    let diff_id = root.diff_id(progress)?;
    let layer = match root.compression() {
        // No media type speaks of it, so nobody else could use such a layer.
        Compression::Xz => {
            let message = format!("compressing {} anew", root.file_name());
            let tar = std::io::BufReader::new(root.open(progress, &message)?);
            let mut packed = zstd::stream::read::Encoder::new(tar, 3)
                .map_err(io_error("compress", root.part().path()))?;
            let (digest, bytes) = blobs.absorb(&mut packed)?;
            (digest, bytes, Compression::Zstd)
        }
        compression => {
            let digest = root.digest(progress)?;
            blobs.copy(&digest, root.part())?;
            (digest, root.bytes(), compression)
        }
    };
    Content::of_root(blobs, layer, &diff_id, run)
}

/// Takes in an image of an OCI layout: the one of that name, or the only one. Blocking.
pub(crate) fn take_layout(
    dir: &Path,
    name: Option<&str>,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImageError> {
    let saved = Saved {
        path: dir.to_owned(),
        files: Files::Layout(Directory::open(dir)?),
    };
    if !saved.is_oci()? {
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

/// Whether the first file of a compressed archive is one that saved images have.
fn is_saved_compressed(layer: &LayerSource) -> Result<bool, ImageError> {
    let Ok(Some(first)) = Table::new(layer.open(&Progress::none(), "")?).first() else {
        return Ok(false);
    };
    Ok(["blobs/", "oci-layout", "index.json", "manifest.json"]
        .iter()
        .any(|start| first.name.starts_with(start)))
}

/// A saved image: an archive and where its files are in it, or a layout's directory.
struct Saved {
    path: PathBuf,
    files: Files,
}

enum Files {
    Archive {
        whole: Part,
        places: HashMap<String, (u64, u64)>,
    },
    Layout(Directory),
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
    /// The saved image in an archive, if it is one.
    fn archive(whole: &Part) -> Result<Option<Self>, ImageError> {
        let mut start = [0; 262];
        // Most of what isn't a plain tar archive need not be read for this.
        if whole.reader()?.read_exact(&mut start).is_err() || &start[257..] != b"ustar" {
            return Ok(None);
        }
        let mut places = HashMap::new();
        for (number, entry) in Table::new(whole.reader()?).enumerate() {
            // What is wrong with the archive is said by whoever takes it for a root.
            let Ok(entry) = entry else { return Ok(None) };
            if number == MAX_PARTS {
                return Ok(None);
            }
            let name = entry.name;
            match entry.kind {
                _ if name.len() > MAX_NAME => {}
                Kind::File => {
                    places.insert(name, (entry.at, entry.bytes));
                }
                // Old `docker save` has the same layer once and links to it.
                Kind::Link(target) if name.ends_with("/layer.tar") => {
                    let place = places.get(target.trim_start_matches("../")).copied();
                    places.extend(place.map(|place| (name, place)));
                }
                Kind::Link(_) | Kind::Other => {}
            }
        }
        let saved = Self {
            path: whole.path().to_owned(),
            files: Files::Archive {
                whole: whole.clone(),
                places,
            },
        };
        Ok((saved.docker().is_some() || saved.is_oci()?).then_some(saved))
    }

    fn is_oci(&self) -> Result<bool, ImageError> {
        Ok(self.found("oci-layout")?.is_some() && self.found("index.json")?.is_some())
    }

    /// Docker's table, where each part that it names is there. It names paths, so no directory is asked for one.
    fn docker(&self) -> Option<Vec<DockerManifest>> {
        let Files::Archive { places, .. } = &self.files else {
            return None;
        };
        let images: Vec<DockerManifest> = self.json("manifest.json").ok()?;
        let there = |image: &DockerManifest| {
            places.contains_key(&image.config)
                && image.layers.iter().all(|layer| places.contains_key(layer))
        };
        images.first().is_some_and(there).then_some(images)
    }

    fn bad(&self, problem: impl Into<String>) -> ImageError {
        bad(&self.path, problem)
    }

    /// A part of it, if it is there.
    fn found(&self, name: &str) -> Result<Option<Part>, ImageError> {
        match &self.files {
            Files::Archive { whole, places } => {
                let place = places.get(name).copied();
                Ok(place.map(|(at, bytes)| whole.within(at, bytes)))
            }
            Files::Layout(dir) => dir.file(name),
        }
    }

    /// A part of it.
    fn part(&self, name: &str) -> Result<Part, ImageError> {
        let missing = || self.bad(format!("it is a saved image without its part {name}"));
        self.found(name)?.ok_or_else(missing)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let part = self.part(name)?;
        let mut text = Vec::new();
        // A file may grow meanwhile; its part doesn't.
        let read = part.reader()?.take(MAX_JSON + 1).read_to_end(&mut text);
        read.map_err(io_error("read", part.path()))?;
        if text.len() as u64 > MAX_JSON {
            return Err(self.bad(format!(
                "its part {name} has {} bytes; at most {MAX_JSON} are taken",
                part.bytes()
            )));
        }
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
            let bytes = self.part(name)?.bytes();
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
        let part = self.part(name)?;
        let bytes = part.bytes();
        let layer = LayerSource::new(part, true)?;
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
        match blobs.copy(&digest, layer.part()) {
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
