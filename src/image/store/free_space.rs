//! Checks the free space of a file system before an image is written: half an image is useless, and a full disk harms
//! running VMs.

use std::path::{Path, PathBuf};

use crate::files;
use crate::image::file_error::{FileError, file_error};
use crate::text::size;

/// The space that stays free for others, in bytes.
const RESERVE: u64 = 256 << 20;

/// Why there is not enough space.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The free space is unknown.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file system has not enough space.
    #[error(
        "{doing}: it takes at least {}, and the file system of {} has {} left; make room (`snowglobe image prune --all`), \
         or keep images elsewhere (data_dir)",
        size(*.needs), .dir.display(), size(*.free)
    )]
    Full {
        /// The operation: `pull NAME`.
        doing: String,
        /// The bytes that it needs.
        needs: u64,
        /// The bytes that are free.
        free: u64,
        /// The directory.
        dir: PathBuf,
    },
}

/// Refuses an operation that needs more space than is free at `dir`. `doing` names it in the message.
pub(crate) fn require(doing: &str, needs: u64, dir: &Path) -> Result<(), SpaceError> {
    let free = files::free_bytes(dir).map_err(file_error("look for free space in", dir))?;
    match fits(needs, free) {
        true => Ok(()),
        false => Err(SpaceError::Full {
            doing: doing.to_owned(),
            needs,
            free,
            dir: dir.to_owned(),
        }),
    }
}

fn fits(needs: u64, free: u64) -> bool {
    needs
        .checked_add(RESERVE)
        .is_some_and(|needs| needs <= free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_refused_with_a_remedy() {
        assert!(fits(0, RESERVE) && fits(5, RESERVE + 5));
        assert!(!fits(0, RESERVE - 1) && !fits(6, RESERVE + 5) && !fits(u64::MAX, u64::MAX));
        let dir = tempfile::tempdir().unwrap();
        require("pull x", 0, dir.path()).unwrap();
        let error = require("pull x", u64::MAX / 2, dir.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("pull x: it takes at least") && error.contains("prune"),
            "{error}"
        );
        assert!(require("pull x", 0, &dir.path().join("none")).is_err());
    }
}
