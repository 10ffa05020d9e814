//! The errors of images that are imported from files.

use std::path::{Path, PathBuf};

use crate::image::file_error::FileError;
use crate::image::file_slice::FileSliceError;
use crate::image::layer::LayerError;
use crate::image::source::layout_dir::LayoutDirError;
use crate::image::store::blob_error::BlobError;

/// Why an image can't be imported from a file.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no regular file.
    #[error(transparent)]
    Slice(#[from] FileSliceError),
    /// A part of a layout can't be read.
    #[error(transparent)]
    LayoutDir(#[from] LayoutDirError),
    /// A layer can't be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A blob can't be written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file holds no image that can be imported.
    #[error("import {path}: {problem}")]
    Invalid {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl ImportError {
    /// The file at `path` holds no image that can be imported.
    pub(crate) fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}
