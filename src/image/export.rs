//! Saves images: into an OCI layout, or as a file for `docker load`, `podman load` and `skopeo`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use oci_client::manifest::{
    ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageIndex, Platform,
};
use serde_json::json;

use crate::image::content::Content;
use crate::image::error::ImageError;
use crate::image::file_error::file_error;
use crate::image::file_slice::FileSlice;
use crate::image::key::ImageKey;
use crate::image::manifest::{MAX_JSON, Manifest, REF_NAME};
use crate::image::platform::architecture;
use crate::image::source::layout_dir::LayoutDir;
use crate::image::source::saved_image::blob_path;
use crate::image::store::blobs::Blobs;
use crate::image::store::image_store::ImageStore;
use crate::progress::Progress;

/// The place where an image is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SaveTarget {
    /// An OCI layout. Other images in it stay.
    Layout {
        /// The directory, which is made if it is missing.
        dir: PathBuf,
        /// The name of the image in the layout.
        name: String,
    },
    /// A single file.
    Archive(PathBuf),
}

const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

impl ImageStore {
    /// Saves an image. An image of the same name, or the file, is replaced.
    pub(crate) async fn save(
        &self,
        key: &ImageKey,
        target: SaveTarget,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let _kept = self.keep_blobs().await?;
        let (key, progress) = (key.clone(), progress.clone());
        self.blocking(move |store| {
            let (content, blobs) = (store.require(&key)?.record.content, store.blobs());
            match target {
                SaveTarget::Layout { dir, name } => {
                    to_layout(&content, blobs, &dir, &name, &progress)
                }
                SaveTarget::Archive(path) => {
                    to_archive(&content, blobs, &path, key.as_str(), &progress)
                }
            }
        })
        .await
    }
}

/// The entry of an image in an index.
fn index_entry(
    content: &Content,
    blobs: &Blobs,
    name: &str,
) -> Result<ImageIndexEntry, ImageError> {
    let json = blobs.read(&content.manifest)?;
    let kind = match Manifest::parse(&json) {
        Ok(Manifest::Image(manifest)) => manifest.media_type,
        _ => None,
    };
    let platform: Platform =
        serde_json::from_value(json!({"os": "linux", "architecture": architecture()}))
            .map_err(|e| index_error(&e))?;
    Ok(ImageIndexEntry {
        media_type: kind.unwrap_or_else(|| OCI_IMAGE_MEDIA_TYPE.to_owned()),
        digest: content.manifest.to_string(),
        size: i64::try_from(json.len()).unwrap_or(i64::MAX),
        platform: Some(platform),
        annotations: Some([(REF_NAME.to_owned(), name.to_owned())].into()),
        artifact_type: None,
    })
}

fn index_error(error: &serde_json::Error) -> ImageError {
    ImageError::LayoutIndex {
        path: "index.json".into(),
        problem: format!("it can't be written ({error})"),
    }
}

fn new_index(manifests: Vec<ImageIndexEntry>) -> OciImageIndex {
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
    let dir = LayoutDir::make(dir)?;
    let blob_dir = dir.below(&["blobs", "sha256"], true)?;
    let mut index = match dir.file("index.json")? {
        Some(file) => read_index(&file)?,
        None => new_index(Vec::new()),
    };
    for digest in content.blobs() {
        let there = blob_dir.file(digest.hex())?;
        if there.is_some_and(|file| Some(file.bytes()) == blobs.size(digest)) {
            continue;
        }
        progress.say(format!("writing {}", digest.short()));
        let blob = blobs.path(digest);
        let mut file = File::open(&blob).map_err(file_error("read", &blob))?;
        blob_dir.replace(digest.hex(), &mut file)?;
    }
    dir.replace("oci-layout", &mut LAYOUT.as_bytes())?;
    index.manifests.retain(|entry| {
        entry
            .annotations
            .as_ref()
            .and_then(|all| all.get(REF_NAME))
            .is_none_or(|other| other != name)
    });
    index.manifests.push(index_entry(content, blobs, name)?);
    let text = serde_json::to_vec_pretty(&index).map_err(|e| index_error(&e))?;
    Ok(dir.replace("index.json", &mut text.as_slice())?)
}

fn read_index(file: &FileSlice) -> Result<OciImageIndex, ImageError> {
    let damaged = |problem| ImageError::LayoutIndex {
        path: file.path().to_owned(),
        problem,
    };
    if file.bytes() > MAX_JSON {
        return Err(damaged(format!("it has more than {MAX_JSON} bytes")));
    }
    serde_json::from_reader(BufReader::new(file.reader()?))
        .map_err(|e| damaged(format!("it is no layout's index ({e})")))
}

fn to_archive(
    content: &Content,
    blobs: &Blobs,
    path: &Path,
    name: &str,
    progress: &Progress,
) -> Result<(), ImageError> {
    let error = |operation| file_error(operation, path);
    // Written under a random name, so that a link at the target is replaced, not followed.
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(error("write"))?;
    let mut archive = tar::Builder::new(temporary);
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
        progress.say(format!("writing {}", digest.short()));
        let blob = blobs.path(digest);
        let file = File::open(&blob).map_err(file_error("read", &blob))?;
        let size = file.metadata().map_err(file_error("read", &blob))?.len();
        let appended = archive.append_data(&mut header(size), blob_path(digest), file);
        appended.map_err(error("write"))?;
    }
    // Docker accepts only tags, not digests.
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
        "Config": blob_path(&content.config),
        "RepoTags": tags,
        "Layers": content.layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Vec<_>>(),
    }]);
    let index = new_index(vec![index_entry(content, blobs, name)?]);
    let table = serde_json::to_vec(&index).map_err(|e| index_error(&e))?;
    for (name, text) in [
        ("oci-layout", LAYOUT.as_bytes()),
        ("index.json", &table),
        ("manifest.json", docker.to_string().as_bytes()),
    ] {
        archive
            .append_data(&mut header(text.len() as u64), name, text)
            .map_err(error("write"))?;
    }
    let done = archive.into_inner().and_then(|temporary| {
        temporary.as_file().sync_all()?;
        Ok(temporary.persist(path)?)
    });
    Ok(done.map(drop).map_err(error("write"))?)
}
