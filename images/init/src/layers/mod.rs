//! Applies the layers of an image, in order, to the new root of a building guest.
//!
//! A layer is an uncompressed tar stream (v7, ustar, pax or GNU). The `tar` crate decodes the headers. The entries are
//! put together here, for three reasons: pax values may be binary (a capability with a newline in it), a size may be in
//! a pax record only, and a stream that ends between two entries must not pass for a complete one.
//!
//! Invariants:
//!
//! - Nothing outside the root is read or written. A name is first cleaned as text: an absolute name is relative to the
//!   root, `a/../b` is `b`, and a name that climbs above the root is refused (as Docker does; containerd clamps it).
//!   The kernel then resolves its parent below the root (`RESOLVE_IN_ROOT`), so links inside the root are followed
//!   within it. The last component is never followed.
//! - A later entry replaces the file at its name. A directory that meets a directory keeps the content and takes the
//!   new owner, mode, times and extended attributes.
//! - Whiteouts hide files of lower layers only. Files of the same layer stay, in any order of the entries.
//! - The root directory itself keeps its owner and mode (as with containerd). Otherwise an archive of a private
//!   temporary directory would lock out all users but root.
//!
//! Deliberately absent: pax global headers (skipped, as in the OCI tools), access times, textual `SCHILY.acl.*`
//! (ACLs come as extended attributes), metadata of hard links (they have that of their target), user names
//! (owners are numeric), multi-volume and incremental archives (refused).

mod archive;
mod attributes;
mod entry;
mod error;
mod layer;
mod pax;
mod remove;
mod sparse;
mod tree;

use std::io::Read;
use std::path::Path;

use archive::TarStream;
pub use error::LayerError;
pub use layer::Applied;
use layer::Layer;
use tree::{Make, Tree};

/// The most entries one layer may have.
pub(crate) const MAX_ENTRIES: u64 = 5_000_000;

/// Applies one uncompressed tar stream on top of `root`; never leaves it.
///
/// The stream is read to its end, past the archive's end mark. With `whiteouts`, `.wh.NAME` and `.wh..wh..opq` remove
/// files of lower layers; without, they are ordinary files.
pub fn apply(root: &Path, tar: impl Read, whiteouts: bool) -> Result<Applied, LayerError> {
    apply_up_to(MAX_ENTRIES, root, tar, whiteouts)
}

fn apply_up_to(
    limit: u64,
    root: &Path,
    tar: impl Read,
    whiteouts: bool,
) -> Result<Applied, LayerError> {
    let mut archive = TarStream::new(tar);
    let mut layer = Layer::new(Tree::open(root)?, whiteouts);
    while let Some(entry) = archive.next_entry()? {
        if layer.applied.entries == limit {
            return Err(LayerError::TooMany { limit });
        }
        layer.applied.entries += 1;
        layer.put(entry, &mut archive)?;
    }
    layer.finish()
}

/// Makes an unpacked root bootable: adds missing mount points and directories that every guest needs.
///
/// Existing links are followed and kept: if `/tmp` is a link, its target is made.
pub fn finish(root: &Path) -> Result<(), LayerError> {
    const NEEDED: [(&str, u32, u32); 7] = [
        ("proc", 0o555, 0),
        ("sys", 0o555, 0),
        ("dev", 0o755, 0),
        ("run", 0o755, 0),
        ("tmp", 0o1777, 0),
        ("etc", 0o755, 0),
        ("workspace", 0o755, 1000),
    ];
    let mut tree = Tree::open(root)?;
    for (name, mode, owner) in NEEDED {
        let make = Make {
            mode,
            owner,
            replace: false,
        };
        tree.ensure(name.as_bytes(), make, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
