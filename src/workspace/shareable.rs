//! Which host directories may be shared. Pure, except for resolving links.
//!
//! A directory that is no project (home, a directory of the system) is shared only if the user names it; one that
//! contains Snowglobe's own files, or lies within them, never.

use std::path::{Path, PathBuf};

use super::WorkspaceError;

/// Directories of the system: neither these nor directories below them are projects.
const SYSTEM: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run",
    "/sbin", "/sys", "/var/lib", "/var/log",
];

/// Directories that contain projects or programs: directories below them may be projects, they themselves are not.
const SHARED: &[&str] = &[
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/usr/src",
    "/var",
    "/var/tmp",
];

/// Directories in a home that hold keys.
const SECRET: &[&str] = &[".aws", ".docker", ".gnupg", ".kube", ".ssh"];

/// Checks that a directory may be the workspace. If the user `named` it, only the directories of `own` files are refused.
pub(super) fn check(
    workspace: &Path,
    named: bool,
    home: Option<&Path>,
    own: &[&Path],
) -> Result<(), WorkspaceError> {
    for own in own {
        let real = real(own);
        if real.starts_with(workspace) || workspace.starts_with(&real) {
            return Err(WorkspaceError::OwnFiles {
                path: workspace.to_owned(),
                own: own.to_path_buf(),
            });
        }
    }
    match no_project(workspace, home).filter(|_| !named) {
        Some(why) => Err(WorkspaceError::NoProject {
            path: workspace.to_owned(),
            why,
        }),
        None => Ok(()),
    }
}

/// A path without links; of a path that does not exist yet, the part that exists.
fn real(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
    match there {
        Some((dir, real)) => real.join(path.strip_prefix(dir).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}

/// Why a directory is shared only if the user names it.
fn no_project(dir: &Path, home: Option<&Path>) -> Option<&'static str> {
    if SYSTEM.iter().any(|system| dir.starts_with(system)) {
        return Some("it belongs to the system");
    }
    if SHARED.iter().any(|shared| dir == Path::new(shared)) {
        return Some("it is no project's directory");
    }
    let home = home?;
    if home.starts_with(dir) {
        return Some("it holds your whole home directory");
    }
    let within = dir.strip_prefix(home).ok()?;
    SECRET
        .iter()
        .any(|secret| within.starts_with(secret))
        .then_some("it holds your keys")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_projects_are_shared_unnamed_and_own_files_never() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let data = home.join("data");
        let project = home.join("project");
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&project).unwrap();
        let share = |workspace: &Path, named: bool| {
            check(workspace, named, Some(&home), &[&data]).map_err(|e| e.to_string())
        };
        assert_eq!(share(&project, false), Ok(()));
        for place in [&home, &data, &data.join("images"), dir.path()] {
            for named in [false, true] {
                let error = share(place, named).unwrap_err();
                assert!(error.contains("own files"), "{error}");
            }
        }
        for place in [
            "/etc",
            "/etc/ssh",
            "/usr",
            "/var/lib/x",
            "/tmp",
            "/root",
            "/home",
        ] {
            let share = |named| {
                check(Path::new(place), named, None, &[]).map_err(|error| error.to_string())
            };
            let error = share(false).unwrap_err();
            assert!(error.contains("--workspace"), "{error}");
            assert_eq!(share(true), Ok(()), "{place}");
        }
        for place in [
            "/usr/src/project",
            "/opt/app",
            "/workspace",
            "/home/me/project",
        ] {
            assert_eq!(share(Path::new(place), false), Ok(()), "{place}");
        }
        assert!(
            share(&home.join(".ssh"), false)
                .unwrap_err()
                .contains("keys")
        );
        // Own directories that are not there yet, found through a link.
        let link = dir.path().join("link");
        symlink(&home, &link).unwrap();
        let own = link.join("share/snowglobe");
        assert!(check(&home, true, None, &[&own]).is_err());
        assert!(check(&project, true, None, &[&own]).is_ok());
    }
}
