//! Listing a directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::kind;
use crate::wire::DirEntry;

/// The entries of a directory, sorted by name.
pub(super) fn list(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // The entry was removed meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        entries.push(DirEntry {
            name: entry.file_name().to_string_lossy().into_owned(),
            kind: kind(meta.file_type()).into(),
            size: meta.len(),
            mode: meta.mode() & 0o7777,
            target: fs::read_link(entry.path())
                .ok()
                .map(|target| target.to_string_lossy().into_owned()),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
