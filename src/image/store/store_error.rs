//! The errors of the store.

use std::path::PathBuf;

use crate::image::file_error::FileError;
use crate::image::key::ImageKey;
use crate::image::store::blob_error::BlobError;
use crate::image::store::disk_id::DiskId;
use crate::text::did_you_mean;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// There is no such image.
    #[error("find the image `{name}`: {}{}", meant_image(.name.as_str(), .known), known_images(.known))]
    NotFound {
        /// The key.
        name: ImageKey,
        /// The images that are in the store.
        known: Vec<ImageKey>,
    },
    /// The disk of an image or a snapshot is not in the store.
    #[error(
        "find the root disk {0}: it is no longer among the images, so what needs it can't be used any more"
    )]
    NoDisk(DiskId),
    /// A record can't be read.
    #[error(
        "use the image record {path}: {problem}; remove the image and build or import it again"
    )]
    DamagedRecord {
        /// The file of the record.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk of the image is in use.
    #[error("remove the image `{name}`: it is used by {}", .users.join(", "))]
    InUse {
        /// The key.
        name: ImageKey,
        /// Descriptions of the users.
        users: Vec<String>,
    },
    /// The snapshots that need disks are unknown.
    #[error("list the snapshots that need images")]
    Dependents(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A question about the image of the store that was probably meant; empty if none is near.
pub(crate) fn meant_image(unknown: &str, known: &[ImageKey]) -> String {
    did_you_mean(unknown, known.iter().map(ImageKey::as_str))
}

/// The images of the store in words.
pub(crate) fn known_images(known: &[ImageKey]) -> String {
    if known.is_empty() {
        return "there are none yet; `snowglobe image build` makes one".into();
    }
    let names: Vec<&str> = known.iter().map(ImageKey::as_str).collect();
    format!("there are {}", names.join(", "))
}
