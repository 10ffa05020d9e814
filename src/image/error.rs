//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use crate::image::layer::MAX_UNPACKED;
use crate::image::reference::RefError;
use crate::image::source::registry::RegistryError;
use crate::image::store::blobs::Digest;
use crate::image::{DiskId, ImageKey, ImageName};
use crate::text::size;

/// Why something with an image could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A name that can't be an image's.
    #[error(
        "use the image name {0:?}: a name is 1 to 64 of the characters a-z 0-9 . _ - , \
         and begins with a letter or a digit"
    )]
    BadName(String),
    /// There is no such image.
    #[error("find the image `{name}`: {}", there_are(.known))]
    NotFound {
        /// The name.
        name: ImageKey,
        /// The names there are.
        known: Vec<ImageKey>,
    },
    /// A reference can't be one.
    #[error(transparent)]
    Reference(#[from] RefError),
    /// A registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A word is neither an image here nor one of the hub's.
    #[error("find the image `{name}`: {}; and as {hub} it can't be pulled", there_are(.known))]
    NeitherHereNorThere {
        /// The word.
        name: ImageName,
        /// The reference it may also be.
        hub: String,
        /// The names there are.
        known: Vec<ImageKey>,
        /// Why it can't be pulled.
        source: Box<ImageError>,
    },
    /// A blob is not what it should be.
    #[error("use the blob {digest}: {problem}")]
    WrongBlob {
        /// What it should be.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// Layers unpack to more than a disk is to hold.
    #[error(
        "unpack the image: its layers hold more than {}, the most an image may unpack to",
        size(MAX_UNPACKED)
    )]
    TooLarge,
    /// The file system has no room for it.
    #[error(
        "{doing}: it takes at least {}, and the file system of {} has {} left; make room (`snowglobe image prune --all`), \
         or keep images elsewhere (data_dir)",
        size(*.needs), .dir.display(), size(*.free)
    )]
    NoRoom {
        /// What was to be done to what.
        doing: String,
        /// How many bytes it takes.
        needs: u64,
        /// How many there are.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
    /// A disk that something stands on is gone.
    #[error(
        "find the root disk {0}: it is no longer among the images; what stands on it can't be used any more"
    )]
    NoDisk(DiskId),
    /// A record can't be made sense of.
    #[error(
        "use the image record {path}: {problem}; remove the image and build or import it again"
    )]
    Damaged {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something still needs the image's disk.
    #[error("remove the image `{name}`: it is used by {}", .users.join(", "))]
    InUse {
        /// The image.
        name: ImageKey,
        /// Who or what needs it, for a person.
        users: Vec<String>,
    },
    /// What stands on the images could not be found out.
    #[error("find out what stands on the images")]
    References(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is imported isn't a root file system.
    #[error("import {path}: {problem}")]
    BadArchive {
        /// What was to be imported.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What is imported can't be decoded to its end.
    #[error("decompress {path} ({compression}): it is damaged or cut short")]
    Decompress {
        /// What was to be decompressed.
        path: PathBuf,
        /// How it is compressed.
        compression: crate::image::Compression,
        /// Why it stopped.
        source: io::Error,
    },
    /// The VM that fills the disk failed.
    #[error("unpack the image in a microVM")]
    Unpack(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no such recipe.
    #[error(
        "find a recipe for `{name}`: there are {known}; anything else is imported: `snowglobe image import`"
    )]
    NoRecipe {
        /// What was asked for.
        name: ImageName,
        /// The recipes there are.
        known: String,
    },
    /// A recipe failed.
    #[error("build `{name}` by its recipe ({status}){}", last_lines(.log))]
    Recipe {
        /// The image.
        name: ImageName,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines it said.
        log: Vec<String>,
    },
    /// The disk said no.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    /// Wraps the failure of an [`crate::image::Unpacker`].
    pub fn unpack(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unpack(source.into())
    }
}

/// Names operation and path of what failed: for `map_err`.
pub(crate) fn io_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io {
        operation,
        path,
        source,
    }
}

fn there_are(known: &[ImageKey]) -> String {
    if known.is_empty() {
        return "there are none yet; `snowglobe image build` makes one".into();
    }
    let names: Vec<&str> = known.iter().map(ImageKey::as_str).collect();
    format!("there are {}", names.join(", "))
}

fn last_lines(log: &[String]) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!(": {}", log.join("\n"))
    }
}
