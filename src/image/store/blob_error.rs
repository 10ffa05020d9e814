//! The errors of blobs.

use std::path::PathBuf;

use crate::image::digest::Digest;
use crate::image::file_error::FileError;

/// Why a blob can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content is not what it should be.
    #[error("use the blob {digest}: {problem}")]
    Wrong {
        /// The digest of the blob.
        digest: Digest,
        /// What is wrong with the content.
        problem: String,
    },
    /// A blob of the store changed after it was checked. It was removed.
    #[error(
        "use the blob {0}: its content is not what its name says, so it was removed; remove the image and build or \
         import it again"
    )]
    Damaged(PathBuf),
}
