//! Which files can be opened without capabilities.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Rights as a file mode's last octal digit has them.
const READ: u32 = 0o4;
const READ_WRITE: u32 = 0o6;
const PASS: u32 = 0o1;
const PASS_WRITE: u32 = 0o3;

/// Whether this process, had it no capability, could still read `path`.
pub(crate) fn readable(path: &Path) -> bool {
    needs_no_capability(path, READ, PASS)
}

/// Whether this process, had it no capability, could still read and write `path`, and make files beside it.
pub(crate) fn writable(path: &Path) -> bool {
    needs_no_capability(path, READ_WRITE, PASS_WRITE)
}

/// Only root's rights depend on capabilities: for anyone else the answer is yes, whatever the modes are.
fn needs_no_capability(path: &Path, file: u32, parent: u32) -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let grants = |path: &Path, right| {
        path.metadata()
            .is_ok_and(|entry| lets(entry.uid() == 0, entry.gid() == 0, entry.mode(), right))
    };
    let Ok(real) = path.canonicalize() else {
        return true;
    };
    let mut directories = real.ancestors().skip(1);
    grants(&real, file)
        && directories.next().is_some_and(|dir| grants(dir, parent))
        && directories.all(|dir| grants(dir, PASS))
}

/// Whether a mode gives `right` (as the last octal digit has it) to an owner, else a group member, else anyone.
fn lets(owner: bool, group: bool, mode: u32, right: u32) -> bool {
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
    fn the_first_class_that_fits_decides() {
        assert!(lets(true, true, 0o700, 0o1));
        assert!(!lets(true, true, 0o077, 0o1));
        assert!(lets(false, true, 0o710, 0o1));
        assert!(!lets(false, false, 0o770, 0o1));
        assert!(lets(false, false, 0o701, 0o1));
    }
}
