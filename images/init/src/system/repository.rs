//! The repository of a workspace that is one of its worktrees.
//!
//! Git finds it by the path that the worktree's `.git` file says, so it is mounted at the host's path.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use super::error::{SystemError, failed};
use crate::boot::Repository;
use crate::share;

/// The name of its file system, as `mount` shows it.
const NAME: &str = "repository";

/// Lets other users than the owner of a directory reach what is in it.
const SEARCH: u32 = 0o001;

/// Mounts the repository, and makes the links that git follows between it and the worktree.
pub(super) fn mount(repository: &Repository) -> Result<(), SystemError> {
    let path = Path::new(&repository.path);
    let mounted = || -> io::Result<()> {
        make_reachable(path)?;
        // The kernel lists the mount by this path, which may differ if the image has links there.
        let path = fs::canonicalize(path)?;
        // Its threads run for as long as the machine.
        share::mount_share(&repository.share, NAME, &path).map(drop)
    };
    mounted().map_err(failed(format!(
        "mount the repository at {}",
        path.display()
    )))?;
    for (link, target) in &repository.links {
        // Best effort: something else may be there, and most of git works without.
        make_link(Path::new(link), target).ok();
    }
    Ok(())
}

/// Makes a directory and those above it, in which every user may get there. An image's own directory, such as root's home,
/// is opened to other users as far as that needs.
fn make_reachable(path: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    for directory in above {
        let mode = match fs::metadata(directory) {
            Ok(found) => found.permissions().mode(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(0o755).create(directory)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if mode & SEARCH == 0 {
            fs::set_permissions(directory, Permissions::from_mode(mode | SEARCH))?;
        }
    }
    Ok(())
}

fn make_link(link: &Path, target: &str) -> io::Result<()> {
    if let Some(directory) = link.parent() {
        make_reachable(directory)?;
    }
    // It fails if anything is there.
    symlink(target, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_directory_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("root");
        DirBuilder::new().mode(0o700).create(&home).unwrap();
        for _ in 0..2 {
            make_reachable(&home.join("a/b")).unwrap();
            let mode = fs::metadata(&home).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o701);
            assert!(home.join("a/b").is_dir());
        }
    }

    #[test]
    fn a_link_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("new/link");
        make_link(&link, "/workspace").unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/workspace"));
        assert!(make_link(&link, "/elsewhere").is_err());
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(make_link(&file, "/workspace").is_err());
        assert!(make_link(&file.join("below"), "/workspace").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
}
