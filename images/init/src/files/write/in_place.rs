//! Writing to a file itself: over the old content, or at its end.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::attributes::NEW_MODE;
use crate::reason::plain;

/// The longest old content that is held to be restored, in bytes.
const RESTORED: u64 = 16 << 20;

/// Reserves room on the disk for this range. The file's length stays the same.
fn reserve(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, bytes) {
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(e.into()),
        // Some file systems can't reserve room. Writing then fails if there is none.
        _ => Ok(()),
    }
}

/// Writes over the old content.
pub(super) fn in_place(
    file: &File,
    old: &Metadata,
    content: &[u8],
    mode: Option<u32>,
) -> io::Result<()> {
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let (length, new) = (old.len(), content.len() as u64);
    if let Err(e) = reserve(file, 0, new) {
        file.set_len(length).ok();
        return Err(io::Error::new(
            e.kind(),
            format!("{}; the old content is as it was", plain(&e)),
        ));
    }
    let mut before = Vec::new();
    let held = length <= RESTORED && file.take(length).read_to_end(&mut before).is_ok();
    let written = file
        .write_all_at(content, 0)
        .and_then(|()| file.set_len(new));
    if let Err(e) = written {
        let restored = held
            && file.write_all_at(&before, 0).is_ok()
            && file.set_len(before.len() as u64).is_ok();
        let what = match restored {
            true => "the old content was put back",
            false => "the file has parts of the old and the new content now",
        };
        let message = format!("{}; {what}", plain(&e));
        return Err(io::Error::new(e.kind(), message));
    }
    // Writing clears the set-uid and set-gid bits.
    let mode = mode.unwrap_or(old.mode() & 0o7777);
    if file.metadata()?.mode() & 0o7777 != mode {
        // Best effort: the content is written, and users may lack the right to set these bits.
        file.set_permissions(Permissions::from_mode(mode)).ok();
    }
    Ok(())
}

/// Appends to a file, or makes it.
pub(super) fn append(target: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).mode(NEW_MODE);
    options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    let (mut file, made) = match options.clone().create_new(true).open(target) {
        Ok(file) => (file, true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (options.open(target)?, false),
        // The user may not write the directory, but perhaps the file.
        Err(e) => match options.open(target) {
            Ok(file) => (file, false),
            Err(_) => return Err(e),
        },
    };
    if let Some(mode) = mode.or(made.then_some(NEW_MODE)) {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    reserve(&file, file.metadata()?.len(), content.len() as u64)?;
    let mut added = 0;
    while added < content.len() {
        match file.write(&content[added..]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(more) => added += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if added == 0 => return Err(e),
            Err(e) => {
                let message = format!(
                    "{}; the first {added} of {} bytes were added",
                    plain(&e),
                    content.len()
                );
                return Err(io::Error::new(e.kind(), message));
            }
        }
    }
    Ok(())
}
