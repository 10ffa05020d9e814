//! Contents of files, for the host.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::OFlags;

use super::{PIECE, Tree};
use crate::wire::tree::{MAX_PATHS, UNREADABLE, unescape};
use crate::wire::{Report, WireError};

/// Sends the contents of regular files, each after its length.
pub(crate) fn fetch(
    root: &Path,
    paths: &[String],
    max_bytes: u64,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<Report, WireError> {
    if paths.len() > MAX_PATHS {
        let message = format!("fetch {} files; at most {MAX_PATHS} are", paths.len());
        return Err(WireError::invalid(message));
    }
    let tree = Tree::open(root)?;
    let mut left = max_bytes;
    for path in paths {
        let opened = open(&tree, &unescape(path)).filter(|(_, length)| *length <= left);
        let Some((mut file, length)) = opened else {
            if !send(UNREADABLE.to_le_bytes().to_vec()) {
                break;
            }
            continue;
        };
        left -= length;
        let mut piece = length.to_le_bytes().to_vec();
        let mut missing = length;
        loop {
            let room = missing.min((PIECE - piece.len().min(PIECE)) as u64);
            let read = (&mut file).take(room).read_to_end(&mut piece);
            let read = read.unwrap_or_default() as u64;
            missing -= read;
            if read < room {
                // The file became shorter: the length is sent already.
                let zeros = missing.min(PIECE as u64);
                piece.resize(piece.len() + usize::try_from(zeros).unwrap_or(PIECE), 0);
                missing -= zeros;
            }
            if !send(std::mem::take(&mut piece)) {
                return Ok(Report::Done);
            }
            if missing == 0 {
                break;
            }
        }
    }
    Ok(Report::Done)
}

/// A regular file and its length.
fn open(tree: &Tree, path: &[u8]) -> Option<(File, u64)> {
    let file = tree.at(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let file = File::from(file);
    let meta = file.metadata().ok()?;
    meta.is_file().then_some((file, meta.len()))
}
