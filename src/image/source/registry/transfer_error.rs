//! The errors of pulling and pushing.

use crate::image::file_error::FileError;
use crate::image::source::registry::error::RegistryError;
use crate::image::store::blob_error::BlobError;
use crate::image::store::free_space::SpaceError;

/// Why an image can't be pulled or pushed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The registry's part.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A blob is wrong, or can't be written or read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is not enough space.
    #[error(transparent)]
    Space(#[from] SpaceError),
}
