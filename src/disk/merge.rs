//! Merging the newest layers of a chain into one file, without a machine.
//!
//! The layers are read and never changed, so whatever needs them still has them; a merge that breaks off leaves one file
//! that nothing names.

use std::io;
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::format::drivers::ShallowMapping;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, Storage, StorageOpenOptions};

use super::error::{StoreError, io_error};

/// Content is copied in pieces of this size, in bytes: a multiple of a cluster.
const PIECE: usize = 1 << 20;

/// Writes all that `layers` (oldest first) hold into `into`, an empty layer over what is below them. `size` is the disk's,
/// in bytes. Blocks.
pub(super) fn merge(layers: &[PathBuf], size: u64, into: &Path) -> Result<(), StoreError> {
    // The library's futures are not Send.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let merged = runtime.and_then(|runtime| runtime.block_on(copy(layers, size, into)));
    merged
        .and_then(|()| std::fs::File::open(into)?.sync_all())
        .map_err(io_error("merge disk layers into", into))
}

async fn copy(layers: &[PathBuf], size: u64, into: &Path) -> io::Result<()> {
    let mut newest_first = Vec::new();
    for layer in layers.iter().rev() {
        newest_first.push(open(layer, false).await?);
    }
    let target = open(into, true).await?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let (found, length) = find(&newest_first, at, size - at).await?;
        match found {
            Found::Nothing => {}
            Found::Zeroes => target.write_zeroes(at, length).await?,
            Found::Data(layer) => {
                let mut start = at;
                while start < at + length {
                    let left = usize::try_from(at + length - start).unwrap_or(PIECE);
                    let piece = &mut buffer[..left.min(PIECE)];
                    layer.read(&mut *piece, start).await?;
                    target.write(&*piece, start).await?;
                    start += piece.len() as u64;
                }
            }
        }
        at += length;
    }
    target.flush().await?;
    target.sync().await
}

/// What the newest layer that says something about a place says.
enum Found<'a> {
    /// No layer holds it.
    Nothing,
    /// It is zero, whatever is below.
    Zeroes,
    /// This layer holds its content.
    Data(&'a FormatAccess<File>),
}

/// What the layers say about the place `at`, and for how many bytes, at most `length`.
async fn find(
    newest_first: &[FormatAccess<File>],
    at: u64,
    mut length: u64,
) -> io::Result<(Found<'_>, u64)> {
    for layer in newest_first {
        let (mapping, mapped) = layer.get_shallow_mapping(at, length).await?;
        if mapped == 0 {
            return Err(io::Error::other(format!("a layer ends at {at}")));
        }
        length = length.min(mapped);
        match mapping {
            // Opened without what is below it, a layer shows its unallocated places as zeroes that it does not hold.
            ShallowMapping::Zero {
                explicit: false, ..
            } => {}
            ShallowMapping::Zero { .. } => return Ok((Found::Zeroes, length)),
            _ => return Ok((Found::Data(layer), length)),
        }
    }
    Ok((Found::Nothing, length))
}

/// Opens a layer alone, without the files that it names.
async fn open(path: &Path, write: bool) -> io::Result<FormatAccess<File>> {
    let options = StorageOpenOptions::new().write(write).filename(path);
    let file = <File as Storage>::open(options).await?;
    let mut layer = Qcow2::<File>::open_image(file, write).await?;
    layer.set_backing(None);
    layer.set_data_file(None);
    Ok(FormatAccess::new(layer))
}
