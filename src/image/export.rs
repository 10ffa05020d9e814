//! Giving images away: as an OCI layout, or as one file that `docker load`, `podman load` and `skopeo` take.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use oci_client::manifest::{
    ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageIndex, Platform,
};
use serde_json::json;

use crate::image::content::{Content, MAX_JSON, Node};
use crate::image::error::io_error;
use crate::image::file_slice::Part;
use crate::image::platform::architecture;
use crate::image::source::archive::REF_NAME;
use crate::image::source::build::blocking;
use crate::image::source::layout_dir::Directory;
use crate::image::store::blobs::Blobs;
use crate::image::{ImageError, ImageKey, ImageStore};
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
    let dir = Directory::make(dir)?;
    let place = dir.below(&["blobs", "sha256"], true)?;
    let mut known = match dir.file("index.json")? {
        Some(part) => read_index(&part)?,
        None => index(Vec::new()),
    };
    for digest in content.blobs() {
        let there = place.file(digest.hex())?;
        if there.is_some_and(|part| Some(part.bytes()) == blobs.size(digest)) {
            continue;
        }
        progress.say(format!("writing {}", &digest.hex()[..12]));
        let blob = blobs.path(digest);
        let mut file = File::open(&blob).map_err(io_error("read", &blob))?;
        place.replace(digest.hex(), &mut file)?;
    }
    dir.replace("oci-layout", &mut LAYOUT.as_bytes())?;
    known.manifests.retain(|entry| {
        entry
            .annotations
            .as_ref()
            .and_then(|all| all.get(REF_NAME))
            .is_none_or(|other| other != name)
    });
    known.manifests.push(entry(content, blobs, name)?);
    let text = serde_json::to_vec_pretty(&known).map_err(ImageError::unpack)?;
    dir.replace("index.json", &mut text.as_slice())
}

fn read_index(part: &Part) -> Result<OciImageIndex, ImageError> {
    let damaged = |problem| ImageError::Damaged {
        path: part.path().to_owned(),
        problem,
    };
    if part.bytes() > MAX_JSON {
        return Err(damaged(format!("it has more than {MAX_JSON} bytes")));
    }
    serde_json::from_reader(BufReader::new(part.reader()?))
        .map_err(|e| damaged(format!("it is no layout's index ({e})")))
}

fn to_archive(
    content: &Content,
    blobs: &Blobs,
    path: &Path,
    name: &str,
    progress: &Progress,
) -> Result<(), ImageError> {
    let error = |operation| io_error(operation, path);
    // By a name that nobody can guess, so that no link is followed.
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let part = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(error("write"))?;
    let mut archive = tar::Builder::new(part);
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
    let of = |digest: &crate::image::store::blobs::Digest| format!("blobs/sha256/{}", digest.hex());
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
    let done = archive.into_inner().and_then(|part| {
        part.as_file().sync_all()?;
        Ok(part.persist(path)?)
    });
    done.map(drop).map_err(error("write"))
}
