//! What can be imported: the tar archive of a root file system (`docker export`), or a saved image with its layers
//! (`docker save`, `podman save`, an OCI archive).
//!
//! A saved image is told by its table of contents: `manifest.json` naming layers that are there, or `oci-layout`
//! with an `index.json`. Its blobs are read where they lie; nothing is unpacked on the host.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::io_error;
use super::{Compression, ImageError, LayerSource};
use crate::progress::Progress;

/// What an archive holds.
#[derive(Debug)]
pub struct Archive {
    /// The layers, in order.
    pub layers: Vec<LayerSource>,
    /// The environment its commands expect.
    pub env: Vec<(String, String)>,
}

/// More than any real table of contents has.
const MAX_JSON: u64 = 16 << 20;

/// How many lists of manifests may be nested.
const MAX_DEPTH: u32 = 4;

impl Archive {
    /// Finds out what the file at `path` holds. Blocking.
    pub fn open(path: &Path, progress: &Progress) -> Result<Self, ImageError> {
        if !path.metadata().map_err(io_error("read", path))?.is_file() {
            let problem = "it is no regular file; save the archive to one first".to_owned();
            return Err(ImageError::BadArchive {
                path: path.to_owned(),
                problem,
            });
        }
        if let Some(saved) = Saved::open(path)? {
            return saved.read(progress);
        }
        let layer = LayerSource::file(path, false, progress)?;
        if layer.compression() != Compression::Plain && is_saved_compressed(&layer)? {
            let problem =
                "it is a saved image that is compressed as a whole; decompress it first".to_owned();
            return Err(ImageError::BadArchive {
                path: path.to_owned(),
                problem,
            });
        }
        Ok(Self {
            layers: vec![layer],
            env: Vec::new(),
        })
    }
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

/// A saved image: where each of its files is in the archive.
struct Saved<'a> {
    path: &'a Path,
    file: File,
    files: HashMap<String, (u64, u64)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest: which, shows in what it has.
#[derive(Deserialize)]
struct OciNode {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ImageConfig {
    architecture: Option<String>,
    config: Option<RunConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    env: Option<Vec<String>>,
}

/// This machine's architecture by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The file that holds the blob of a digest: `sha256:HEX` at `blobs/sha256/HEX`.
fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

impl<'a> Saved<'a> {
    /// The saved image at `path`, if it is one.
    fn open(path: &'a Path) -> Result<Option<Self>, ImageError> {
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
        let saved = Self { path, file, files };
        Ok((saved.docker().is_some() || saved.is_oci()).then_some(saved))
    }

    fn is_oci(&self) -> bool {
        self.files.contains_key("oci-layout") && self.files.contains_key("index.json")
    }

    fn docker(&self) -> Option<Vec<DockerManifest>> {
        let images: Vec<DockerManifest> = self.json("manifest.json").ok()?;
        let there = |image: &DockerManifest| {
            self.files.contains_key(&image.config)
                && image
                    .layers
                    .iter()
                    .all(|layer| self.files.contains_key(layer))
        };
        images.first().is_some_and(there).then_some(images)
    }

    fn bad(&self, problem: impl Into<String>) -> ImageError {
        ImageError::BadArchive {
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    fn place(&self, name: &str) -> Result<(u64, u64), ImageError> {
        self.files
            .get(name)
            .copied()
            .ok_or_else(|| self.bad(format!("it is a saved image without its part {name}")))
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        let (offset, bytes) = self.place(name)?;
        if bytes > MAX_JSON {
            return Err(self.bad(format!(
                "its part {name} has {bytes} bytes; that is too much"
            )));
        }
        let mut file = &self.file;
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(offset))
            .map_err(io_error("read", self.path))?;
        file.take(bytes)
            .read_to_end(&mut text)
            .map_err(io_error("read", self.path))?;
        serde_json::from_slice(&text)
            .map_err(|e| self.bad(format!("its part {name} can't be understood ({e})")))
    }

    /// The names of the configuration's and the layers' files.
    fn parts(&self) -> Result<(String, Vec<String>), ImageError> {
        if let Some(images) = self.docker() {
            return match <[DockerManifest; 1]>::try_from(images) {
                Ok([image]) => Ok((image.config, image.layers)),
                Err(images) => {
                    Err(self.bad(format!("it holds {} images; save one alone", images.len())))
                }
            };
        }
        let mut node: OciNode = self.json("index.json")?;
        for _ in 0..MAX_DEPTH {
            if let Some(config) = &node.config {
                return Ok((
                    blob(&config.digest),
                    node.layers
                        .iter()
                        .map(|layer| blob(&layer.digest))
                        .collect(),
                ));
            }
            let fits = |descriptor: &&Descriptor| {
                let platform = descriptor.platform.as_ref();
                platform.is_none_or(|platform| {
                    platform.architecture == architecture() && platform.os == "linux"
                })
            };
            let chosen: Vec<&Descriptor> = node.manifests.iter().filter(fits).collect();
            match chosen[..] {
                [one] => node = self.json(&blob(&one.digest))?,
                [] => {
                    return Err(self.bad(format!("it holds no image for linux/{}", architecture())));
                }
                _ => {
                    return Err(
                        self.bad(format!("it holds {} images; save one alone", chosen.len()))
                    );
                }
            }
        }
        Err(self.bad("its lists of manifests are nested too deeply"))
    }

    fn read(&self, progress: &Progress) -> Result<Archive, ImageError> {
        let (config, names) = self.parts()?;
        let config: ImageConfig = self.json(&config)?;
        if let Some(other) = config.architecture.filter(|name| name != architecture()) {
            return Err(self.bad(format!(
                "it is an image for {other}; this machine is {}",
                architecture()
            )));
        }
        if names.is_empty() {
            return Err(self.bad("it is an image without a single layer"));
        }
        let layers = names
            .iter()
            .map(|name| self.layer(name, progress))
            .collect::<Result<_, _>>()?;
        let env = config
            .config
            .and_then(|config| config.env)
            .unwrap_or_default();
        let pair = |line: String| {
            line.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        Ok(Archive {
            layers,
            env: env.into_iter().filter_map(pair).collect(),
        })
    }

    fn layer(&self, name: &str, progress: &Progress) -> Result<LayerSource, ImageError> {
        let (offset, bytes) = self.place(name)?;
        let layer = LayerSource::part(self.path, offset, bytes, true, progress)?;
        match name.strip_prefix("blobs/sha256/") {
            Some(hex) if layer.digest() != format!("sha256:{hex}") => Err(self.bad(format!(
                "its part {name} is damaged: its digest is {}",
                layer.digest()
            ))),
            _ => Ok(layer),
        }
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
