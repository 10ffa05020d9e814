//! Which files this process could open without capabilities.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Permissions, as the last octal digit of a file mode.
const READ: u32 = 0o4;
const READ_WRITE: u32 = 0o6;
const ENTER: u32 = 0o1;
const ENTER_WRITE: u32 = 0o3;

/// Whether this process could read `path` without capabilities.
pub(crate) fn readable(path: &Path) -> bool {
    needs_no_capability(path, READ, ENTER)
}

/// Whether this process could read and write `path`, and make files beside it, without capabilities.
pub(crate) fn writable(path: &Path) -> bool {
    needs_no_capability(path, READ_WRITE, ENTER_WRITE)
}

/// Only root has capabilities: for other users the answer is always yes.
fn needs_no_capability(path: &Path, file: u32, parent: u32) -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let permits = |path: &Path, right| {
        path.metadata().is_ok_and(|entry| {
            mode_permits(entry.uid() == 0, entry.gid() == 0, entry.mode(), right)
        })
    };
    let Ok(real) = path.canonicalize() else {
        return true;
    };
    let mut directories = real.ancestors().skip(1);
    permits(&real, file)
        && directories.next().is_some_and(|dir| permits(dir, parent))
        && directories.all(|dir| permits(dir, ENTER))
}

/// Whether a mode gives `right` to the owner, else to a member of the group, else to others. Pure.
fn mode_permits(owner: bool, group: bool, mode: u32, right: u32) -> bool {
    let shift = if owner {
        6
    } else if group {
        3
    } else {
        0
    };
    (mode >> shift) & right == right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_then_group_then_others_decides() {
        assert!(mode_permits(true, true, 0o700, 0o1));
        assert!(!mode_permits(true, true, 0o077, 0o1));
        assert!(mode_permits(false, true, 0o710, 0o1));
        assert!(!mode_permits(false, false, 0o770, 0o1));
        assert!(mode_permits(false, false, 0o701, 0o1));
    }
}
