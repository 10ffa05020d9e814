//! Whether the file system has room for an image, before it is brought in: half an image is of no use to anybody, and a
//! full disk harms what runs.

use std::path::Path;

use crate::image::ImageError;
use crate::image::error::io_error;

/// What is left for others, in bytes.
const RESERVE: u64 = 256 << 20;

/// Refuses what would not find room at `dir`; `doing` says what is done to what.
pub(crate) fn check(doing: &str, needs: u64, dir: &Path) -> Result<(), ImageError> {
    let stat = rustix::fs::statvfs(dir);
    let stat = stat.map_err(|errno| io_error("look for room in", dir)(errno.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    match fits(needs, free) {
        true => Ok(()),
        false => Err(ImageError::NoRoom {
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
    fn what_finds_no_room_is_refused_with_the_way_out() {
        assert!(fits(0, RESERVE) && fits(5, RESERVE + 5));
        assert!(!fits(0, RESERVE - 1) && !fits(6, RESERVE + 5) && !fits(u64::MAX, u64::MAX));
        let dir = tempfile::tempdir().unwrap();
        check("pull x", 0, dir.path()).unwrap();
        let error = check("pull x", u64::MAX / 2, dir.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("pull x: it takes at least") && error.contains("prune"),
            "{error}"
        );
        assert!(check("pull x", 0, &dir.path().join("none")).is_err());
    }
}
