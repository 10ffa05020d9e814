//! The project's file, `snowglobe.toml`: where it is looked for, and how it is read.
//!
//! The file comes with the repository, and the guest can write it through the workspace. So it is looked for in the
//! working directory and upwards, but not beyond the repository, the file system, and directories that are home or
//! that other users own or may write ([`find`]). It is opened once, without following links, and must be a regular
//! file of the user's or root's. Whether its content counts is decided in [`super::consent`].

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, stat};
use rustix::io::Errno;

use super::ConfigError;

/// The name of the project's file.
pub const PROJECT_FILE: &str = "snowglobe.toml";

/// The files in which a project names servers for clients.
pub const MCP_FILES: [&str; 2] = [".mcp.json", "mcp.json"];

/// The longest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A project's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFile {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// The project that `cwd` is in: the root of its repository, or the nearest directory there that has a project's file;
/// `cwd` itself outside of repositories. The search ends where that for the project's file does, so no other user can
/// widen what a sandbox shares.
pub fn root(cwd: &Path, home: Option<&Path>) -> PathBuf {
    let Ok(start) = stat(cwd) else {
        return cwd.to_owned();
    };
    let inside = |dir: &&Path| {
        *dir == cwd || (home != Some(*dir) && stat(*dir).is_ok_and(|seen| continues(&start, &seen)))
    };
    let mut nearest = None;
    for dir in cwd.ancestors().take_while(inside) {
        if nearest.is_none() && dir.join(PROJECT_FILE).symlink_metadata().is_ok() {
            nearest = Some(dir);
        }
        if is_repository(dir) {
            return nearest.unwrap_or(dir).to_owned();
        }
    }
    cwd.to_owned()
}

/// Whether a directory is a repository's root. In a worktree `.git` is a file.
fn is_repository(dir: &Path) -> bool {
    dir.join(".git").symlink_metadata().is_ok()
}

/// Looks for the project's file from `cwd` upwards; the search ends before `home`.
pub fn find(cwd: &Path, home: Option<&Path>) -> Result<Option<ProjectFile>, ConfigError> {
    let unreadable = |path: &Path, errno: Errno| ConfigError::Unreadable {
        path: path.to_owned(),
        source: errno.into(),
    };
    let start = stat(cwd).map_err(|errno| unreadable(cwd, errno))?;
    for dir in cwd.ancestors() {
        if dir != cwd {
            let seen = stat(dir).map_err(|errno| unreadable(dir, errno))?;
            if home == Some(dir) || !continues(&start, &seen) {
                return Ok(None);
            }
        }
        let path = dir.join(PROJECT_FILE);
        if let Some(text) = read(&path)? {
            return Ok(Some(ProjectFile { path, text }));
        }
        if is_repository(dir) {
            return Ok(None);
        }
    }
    Ok(None)
}

/// The file of that name in a project's directory.
pub fn find_in(project: &Path, name: &str) -> Result<Option<ProjectFile>, ConfigError> {
    let path = project.join(name);
    Ok(read(&path)?.map(|text| ProjectFile { path, text }))
}

/// Whether the search may go on in a parent: on the same file system, of the same owner, and not writable for other
/// users.
fn continues(start: &Stat, parent: &Stat) -> bool {
    let others_write = Mode::from_raw_mode(parent.st_mode).contains(Mode::WOTH);
    parent.st_dev == start.st_dev && parent.st_uid == start.st_uid && !others_write
}

/// The file's text; `None` if there is no such file. Anything but a plain file is an error.
fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let odd = |message: String| ConfigError::Malformed {
        path: path.to_owned(),
        message,
    };
    let failed = |errno: Errno| ConfigError::Unreadable {
        path: path.to_owned(),
        source: errno.into(),
    };
    // Without blocking: a fifo may never get a writer.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err(odd(
                "it is a symbolic link, which is not followed; expected a file of your own".into(),
            ));
        }
        Err(errno) => return Err(failed(errno)),
    };
    let seen = fstat(file.as_fd()).map_err(failed)?;
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return Err(odd("it is not a regular file; remove it".into()));
    }
    let own = rustix::process::geteuid().as_raw();
    if seen.st_uid != own && seen.st_uid != 0 {
        return Err(odd(format!(
            "it belongs to user {}, not to you (user {own}); remove it, or make it yours with chown",
            seen.st_uid
        )));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(odd(format!(
            "it is longer than {} KiB, which no such file needs to be",
            MAX_BYTES >> 10
        )));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| odd("it is not UTF-8 text".into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn found(cwd: &Path) -> Result<Option<PathBuf>, String> {
        find(cwd, None)
            .map(|file| file.map(|file| file.path))
            .map_err(|error| crate::describe(&error))
    }

    #[test]
    fn a_project_is_the_repository_or_what_is_nearer() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let deep = top.join("repository/part/deep");
        fs::create_dir_all(&deep).unwrap();
        let of = |cwd: &Path| root(cwd, None).strip_prefix(&top).unwrap().to_owned();
        assert_eq!(of(&deep), Path::new("repository/part/deep"));
        fs::write(top.join(PROJECT_FILE), "").unwrap();
        assert_eq!(
            of(&deep),
            Path::new("repository/part/deep"),
            "no file widens the share"
        );
        fs::create_dir(top.join("repository/.git")).unwrap();
        assert_eq!(of(&deep), Path::new("repository"));
        assert_eq!(of(&top.join("repository")), Path::new("repository"));
        fs::write(top.join("repository/part").join(PROJECT_FILE), "").unwrap();
        assert_eq!(of(&deep), Path::new("repository/part"));
        let home = top.join("repository");
        assert_eq!(root(&deep, Some(&home)), deep, "home is no project");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(root(&deep, None), deep, "others may write there");
    }

    /// `outer/repository/inner`, with a project's file in `outer`.
    fn nested() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("outer/repository/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(dir.path().join("outer").join(PROJECT_FILE), "cpus = 1").unwrap();
        (dir, inner)
    }

    #[test]
    fn the_search_ends_at_the_repository() {
        let (dir, inner) = nested();
        let outer = dir.path().join("outer");
        let file = outer.join(PROJECT_FILE);
        assert_eq!(found(&inner), Ok(Some(file.clone())));
        // A worktree's `.git` is a file.
        fs::write(outer.join("repository/.git"), "gitdir: elsewhere").unwrap();
        assert_eq!(found(&inner), Ok(None));
        let own = outer.join("repository").join(PROJECT_FILE);
        fs::write(&own, "").unwrap();
        assert_eq!(found(&inner), Ok(Some(own)));
    }

    #[test]
    fn the_search_ends_before_home_and_before_places_of_others() {
        let (dir, inner) = nested();
        let outer = dir.path().join("outer");
        assert_eq!(find(&inner, Some(&outer)).unwrap(), None);
        assert!(find(&inner, None).unwrap().is_some());
        fs::set_permissions(&outer, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(found(&inner), Ok(None));
    }

    #[test]
    fn what_is_no_plain_file_of_ones_own_is_an_error_and_ends_the_search() {
        let (dir, inner) = nested();
        let file = inner.join(PROJECT_FILE);
        let secret = dir.path().join("secret");
        fs::write(&secret, "[section\nroot:$6$hash").unwrap();
        let refused = |how: &str| {
            let error = found(&inner).unwrap_err();
            assert!(error.contains(how) && !error.contains("hash"), "{error}");
            let _ = fs::remove_file(&file);
        };
        symlink(&secret, &file).unwrap();
        refused("symbolic link");
        symlink("/no/such/file", &file).unwrap();
        refused("symbolic link");
        rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::RWXU, 0).unwrap();
        refused("not a regular file");
        fs::write(&file, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        refused("longer than 64 KiB");
        fs::write(&file, [b'#', 0xff]).unwrap();
        refused("not UTF-8");
        fs::create_dir(&file).unwrap();
        refused("not a regular file");
    }
}
