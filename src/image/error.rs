//! The error of everything that is done with images.

use crate::image::file_error::FileError;
use crate::image::key::ImageKey;
use crate::image::layer::LayerError;
use crate::image::name::{ImageName, NameError};
use crate::image::reference::RefError;
use crate::image::source::import_error::ImportError;
use crate::image::source::layout_dir::LayoutDirError;
use crate::image::source::recipe::RecipeError;
use crate::image::source::registry::transfer_error::TransferError;
use crate::image::store::blob_error::BlobError;
use crate::image::store::free_space::SpaceError;
use crate::image::store::store_error::{StoreError, known_images, meant_image};
use crate::image::unpacker::UnpackError;

/// Why something with an image failed. Most variants are the error of one part.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// A name is no name of an image.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A text is no reference.
    #[error(transparent)]
    Reference(#[from] RefError),
    /// The name belongs to an image already, and it was not asked to replace that.
    #[error(
        "import `{name}`: there is an image of that name, from {origin}; take another name, or replace it with --force"
    )]
    NameTaken {
        /// The name.
        name: ImageName,
        /// The source of the image that is there.
        origin: String,
    },
    /// The name belongs to a recipe, and it was not asked to take it all the same.
    #[error(
        "import `{name}`: `snowglobe image build {name}` makes the image of that name; take another name, or put yours in \
         its place with --force"
    )]
    BuiltInName {
        /// The name.
        name: ImageName,
    },
    /// The image of a recipe's name was not made by the recipe.
    #[error(
        "build `{name}`: the image of that name is no recipe's, it comes from {origin}; nothing was built; --force puts the \
         recipe's in its place"
    )]
    NotTheRecipes {
        /// The name.
        name: ImageKey,
        /// The source of the image that is there.
        origin: String,
    },
    /// An image can't be pulled or pushed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A word is neither the name of an image in the store nor an image of the hub.
    #[error(
        "find the image `{name}`: {}{}; and as {hub} it can't be pulled",
        meant_image(.name.as_str(), .known), known_images(.known)
    )]
    NeitherHereNorOnHub {
        /// The word.
        name: ImageName,
        /// The reference to the hub.
        hub: String,
        /// The images that are in the store.
        known: Vec<ImageKey>,
        /// Why it can't be pulled.
        source: Box<ImageError>,
    },
    /// A file can't be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A recipe failed.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A blob can't be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A layer can't be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is not enough space.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The microVM that fills the disk failed.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// An image can't be written to a layout.
    #[error(transparent)]
    Layout(#[from] LayoutDirError),
    /// The index of a layout can't be used.
    #[error("save into the layout {path}: {problem}")]
    LayoutIndex {
        /// The path of the index.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
