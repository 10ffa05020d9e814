//! Giving images away: as an OCI layout, or as one file that `docker load`, `podman load` and `skopeo` take.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use oci_client::manifest::{
    ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageIndex, Platform,
};
use serde_json::json;

use super::archive::REF_NAME;
use super::blobs::Blobs;
use super::build::blocking;
use super::content::{Content, Node};
use super::error::io_error;
use super::platform::architecture;
use super::{ImageError, ImageKey, ImageStore};
use crate::files::replace;
use crate::progress::Progress;

/// Where an image is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into an OCI layout, beside what it holds already.
    Layout {
        /// Its directory; made where it isn't there.
        dir: PathBuf,
        /// What the image is called in it.
        name: String,
    },
    /// As one file.
    Archive(PathBuf),
}

const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

impl ImageStore {
    /// Saves an image. What is there of that name is replaced.
    pub async fn save(
        &self,
        key: &ImageKey,
        target: Target,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let _fetching = self.fetching()?;
        let Some(image) = self.find(key)? else {
            return Err(ImageError::NotFound {
                name: key.clone(),
                known: self.known()?,
            });
        };
        let (content, blobs, name, progress) = (
            image.record.content,
            self.blobs().clone(),
            key.to_string(),
            progress.clone(),
        );
        blocking(move || match target {
            Target::Layout { dir, name } => to_layout(&content, &blobs, &dir, &name, &progress),
            Target::Archive(path) => to_archive(&content, &blobs, &path, &name, &progress),
        })
        .await
    }
}

/// The manifest as it stands in an index.
fn entry(content: &Content, blobs: &Blobs, name: &str) -> Result<ImageIndexEntry, ImageError> {
    let json = blobs.read(&content.manifest)?;
    let kind = match Node::parse(&json) {
        Ok(Node::Image(manifest)) => manifest.media_type,
        _ => None,
    };
    let platform: Platform =
        serde_json::from_value(json!({"os": "linux", "architecture": architecture()}))
            .map_err(ImageError::unpack)?;
    Ok(ImageIndexEntry {
        media_type: kind.unwrap_or_else(|| OCI_IMAGE_MEDIA_TYPE.to_owned()),
        digest: content.manifest.to_string(),
        size: json.len() as i64,
        platform: Some(platform),
        annotations: Some([(REF_NAME.to_owned(), name.to_owned())].into()),
        artifact_type: None,
    })
}

fn index(manifests: Vec<ImageIndexEntry>) -> OciImageIndex {
    OciImageIndex {
        schema_version: 2,
        media_type: Some(OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
        manifests,
        artifact_type: None,
        annotations: None,
    }
}

fn to_layout(
    content: &Content,
    blobs: &Blobs,
    dir: &Path,
    name: &str,
    progress: &Progress,
) -> Result<(), ImageError> {
    let place = dir.join("blobs/sha256");
    fs::create_dir_all(&place).map_err(io_error("make the directory", &place))?;
    let table = dir.join("index.json");
    let mut known = match fs::read(&table) {
        Ok(text) => {
            serde_json::from_slice::<OciImageIndex>(&text).map_err(|e| ImageError::Damaged {
                path: table.clone(),
                problem: format!("it is no layout's index ({e})"),
            })?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => index(Vec::new()),
        Err(error) => return Err(io_error("read", &table)(error)),
    };
    for digest in content.blobs() {
        let path = place.join(digest.hex());
        if path.metadata().ok().map(|meta| meta.len()) == blobs.size(digest) {
            continue;
        }
        progress.say(format!("writing {}", &digest.hex()[..12]));
        // By a name of its own first: what is cut short must not pass for whole.
        let part = place.join(format!("{}.part", digest.hex()));
        let copied = fs::copy(blobs.path(digest), &part).and_then(|_| fs::rename(&part, &path));
        copied.map_err(io_error("write", &path))?;
    }
    let layout = dir.join("oci-layout");
    replace(&layout, LAYOUT.as_bytes()).map_err(io_error("write", &layout))?;
    known.manifests.retain(|entry| {
        entry
            .annotations
            .as_ref()
            .and_then(|all| all.get(REF_NAME))
            .is_none_or(|other| other != name)
    });
    known.manifests.push(entry(content, blobs, name)?);
    let text = serde_json::to_vec_pretty(&known).map_err(ImageError::unpack)?;
    replace(&table, &text).map_err(io_error("write", &table))
}

fn to_archive(
    content: &Content,
    blobs: &Blobs,
    path: &Path,
    name: &str,
    progress: &Progress,
) -> Result<(), ImageError> {
    let part = path.with_extension("part");
    let error = |operation| io_error(operation, &part);
    let mut archive = tar::Builder::new(File::create(&part).map_err(error("write"))?);
    let header = |size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    let mut all: Vec<_> = content.blobs().collect();
    all.sort();
    all.dedup();
    for digest in all {
        progress.say(format!("writing {}", &digest.hex()[..12]));
        let blob = blobs.path(digest);
        let file = File::open(&blob).map_err(io_error("read", &blob))?;
        let size = file.metadata().map_err(io_error("read", &blob))?.len();
        let appended = archive.append_data(
            &mut header(size),
            format!("blobs/sha256/{}", digest.hex()),
            file,
        );
        appended.map_err(error("write"))?;
    }
    let of = |digest: &super::blobs::Digest| format!("blobs/sha256/{}", digest.hex());
    // Docker wants a tag it can parse, or none.
    let tags: Vec<&str> = if name.contains('@') {
        Vec::new()
    } else {
        vec![name]
    };
    let tags: Vec<String> = tags
        .iter()
        .map(|tag| {
            if tag.contains(':') {
                (*tag).to_owned()
            } else {
                format!("{tag}:latest")
            }
        })
        .collect();
    let docker = json!([{
        "Config": of(&content.config),
        "RepoTags": tags,
        "Layers": content.layers.iter().map(|layer| of(&layer.digest)).collect::<Vec<_>>(),
    }]);
    let table = serde_json::to_vec(&index(vec![entry(content, blobs, name)?]))
        .map_err(ImageError::unpack)?;
    for (name, text) in [
        ("oci-layout", LAYOUT.as_bytes()),
        ("index.json", &table),
        ("manifest.json", docker.to_string().as_bytes()),
    ] {
        archive
            .append_data(&mut header(text.len() as u64), name, text)
            .map_err(error("write"))?;
    }
    let done = archive
        .into_inner()
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&part, path));
    done.map_err(error("write"))
}
