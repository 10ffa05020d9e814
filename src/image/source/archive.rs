//! Images from files: the tar archive of a root file system (`docker export`), or a saved image. All functions block.

use std::io::BufReader;
use std::path::Path;

use crate::image::compression::Compression;
use crate::image::content::{Content, RunConfig};
use crate::image::file_error::file_error;
use crate::image::file_slice::FileSlice;
use crate::image::layer::LayerSource;
use crate::image::platform::Processor;
use crate::image::source::import_error::ImportError;
use crate::image::source::saved_image::SavedImage;
use crate::image::store::blobs::Blobs;
use crate::image::tar_index::TarIndex;
use crate::progress::Progress;

/// Imports a saved image or the archive of a root, whichever the file is.
pub(crate) fn import_any(
    path: &Path,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImportError> {
    let whole = FileSlice::whole(path)?;
    if let Some(saved) = SavedImage::archive(&whole)? {
        return saved.import(None, processor, blobs, progress);
    }
    let layer = LayerSource::root(whole)?;
    if layer.compression() != Compression::Plain && is_saved_compressed(&layer)? {
        return Err(ImportError::invalid(
            path,
            "it is a saved image that is compressed as a whole; decompress it first",
        ));
    }
    import_layer(&layer, &RunConfig::default(), blobs, progress)
}

/// Imports a saved image; refuses other files.
pub(crate) fn import_saved(
    path: &Path,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImportError> {
    match SavedImage::archive(&FileSlice::whole(path)?)? {
        Some(saved) => saved.import(None, processor, blobs, progress),
        None => Err(ImportError::invalid(
            path,
            "it is no saved image (`docker save`); the archive of a root is named tar:FILE",
        )),
    }
}

/// Imports the archive of a root file system, whatever files are in it.
pub(crate) fn import_root(
    path: &Path,
    run: &RunConfig,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImportError> {
    let layer = LayerSource::root(FileSlice::whole(path)?)?;
    import_layer(&layer, run, blobs, progress)
}

/// Imports the image with this name from an OCI layout, or its only image.
pub(crate) fn import_layout(
    dir: &Path,
    name: Option<&str>,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImportError> {
    SavedImage::layout(dir)?.import(name, processor, blobs, progress)
}

fn import_layer(
    root: &LayerSource,
    run: &RunConfig,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImportError> {
    let diff_id = root.diff_id(progress)?;
    let layer = match root.compression() {
        // There is no media type for xz, so other tools could not read such a layer.
        Compression::Xz => {
            let message = format!("compressing {} again", root.file_name());
            let tar = BufReader::new(root.open(progress, &message)?);
            let mut packed = zstd::stream::read::Encoder::new(tar, 3)
                .map_err(file_error("compress", root.slice().path()))?;
            let (digest, bytes) = blobs.put_stream(&mut packed)?;
            (digest, bytes, Compression::Zstd)
        }
        compression => {
            let digest = root.digest(progress)?;
            blobs.copy(&digest, root.slice())?;
            (digest, root.bytes(), compression)
        }
    };
    Ok(Content::of_root(blobs, layer, &diff_id, run)?)
}

/// Whether the first file of a compressed archive has a name of those in saved images.
fn is_saved_compressed(layer: &LayerSource) -> Result<bool, ImportError> {
    let Ok(Some(first)) = TarIndex::new(layer.open(&Progress::none(), "")?).first() else {
        return Ok(false);
    };
    Ok(["blobs/", "oci-layout", "index.json", "manifest.json"]
        .iter()
        .any(|start| first.name.starts_with(start)))
}

#[cfg(test)]
mod tests;
