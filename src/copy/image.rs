//! A tree of the host as an ext4 disk, written without a machine and without privileges.
//!
//! The disk has the same size and features as an image's (`images/disk/build`): no checksums of metadata, which take time
//! in a translated guest.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ferrosys::ext::{FeatureSet, FormatError, FormatOptions, FormatPlan, GrowReservation};
use ferrosys::ext::{JournalSize, ReservedRatio, Timestamp};
use ferrosys::{EntryKind, FileContent, FileRange, Metadata, SourceEntry};

use super::listed::{Kind, Listed, Source};
use super::listing::Listing;
use crate::holes::Holes;
use snowglobe_init::boot::WORKSPACE_TREE;

/// The disk's size in bytes; the file is sparse.
const SIZE: u64 = 64 << 30;

/// The journal's size in blocks of 4 KiB.
const JOURNAL: u32 = 16_384;

/// The features that the disk does without.
const WITHOUT: [&str; 5] = [
    "metadata_csum",
    "metadata_csum_seed",
    "64bit",
    "orphan_file",
    "resize_inode",
];

/// Who owns the files in the guest, and which time of the last change of status all of them have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guise {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) stamp_ns: i64,
}

/// The path of a file on the disk.
pub(super) fn on_disk(path: &[u8]) -> Vec<u8> {
    match path.is_empty() {
        true => [b"/", WORKSPACE_TREE.as_bytes()].concat(),
        false => [b"/", WORKSPACE_TREE.as_bytes(), b"/", path].concat(),
    }
}

fn time(nanoseconds: i64) -> Timestamp {
    let mut time = Timestamp::from_secs(nanoseconds.div_euclid(1_000_000_000));
    // Less than a second.
    time.nanos = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default();
    time
}

fn metadata(mode: u32, mtime_ns: i64, guise: Guise) -> Metadata {
    let mode = u16::try_from(mode & 0o777).unwrap_or(0o755);
    let (stamp, mtime) = (time(guise.stamp_ns), time(mtime_ns));
    Metadata::new(mode, mtime)
        .owned_by(guise.uid, guise.gid)
        .with_times(mtime, stamp, mtime)
}

fn entry(root: &Path, path: &[u8], listed: &Listed, guise: Guise) -> SourceEntry {
    let kind = match listed.kind {
        Kind::Directory => EntryKind::Directory,
        Kind::Link => EntryKind::Symlink(listed.target.clone()),
        Kind::File => EntryKind::File(match listed.source(root, path) {
            Source::Text(text) => FileContent::Owned(text.to_vec()),
            Source::File(place) => FileContent::Range(FileRange::at_path(place, 0, listed.size)),
        }),
    };
    let metadata = metadata(listed.mode, listed.mtime_ns, guise);
    SourceEntry::new(on_disk(path), kind, metadata)
}

/// Writes the disk to a new file. Fails if a file becomes shorter meanwhile.
pub(super) fn write(
    root: &Path,
    listing: &Listing,
    guise: Guise,
    to: &File,
) -> Result<(), FormatError> {
    let mut entries = vec![SourceEntry::new(
        on_disk(b""),
        EntryKind::Directory,
        metadata(0o755, guise.stamp_ns, guise),
    )];
    let listed = listing.entries.iter();
    entries.extend(listed.map(|(path, listed)| entry(root, path, listed, guise)));
    let plan = FormatPlan::new(entries, SIZE, options(guise))?;
    let mut to = BufWriter::with_capacity(1 << 20, Holes::new(to));
    plan.write_to(&mut to)?;
    to.flush()?;
    Ok(())
}

fn options(guise: Guise) -> FormatOptions {
    let mut feature = FeatureSet::default();
    for name in WITHOUT {
        feature = feature.with_feature(name, false).unwrap_or(feature);
    }
    // Nothing tells two disks apart but their content, and no machine mounts two of them.
    let mut options = FormatOptions::new([0x5e; 16], time(guise.stamp_ns), [0x5f; 16]);
    options.feature = feature;
    options.grow = GrowReservation::None;
    options.journal = JournalSize::Blocks(JOURNAL);
    options.reserved = ReservedRatio::from_hundredths_of_percent(0).unwrap_or(options.reserved);
    options
}
