//! The project's file, `snowglobe.toml`: where it is looked for, and when what it says counts.
//!
//! The file comes with the repository, and the guest can write it through the workspace. So it holds wishes:
//!
//! - it is looked for in the working directory and upwards, but not beyond the repository, the file system, and
//!   directories that are home or that other users own or may write ([`find`]);
//! - it is opened once, without following links, and must be a regular file of the user's or root's;
//! - what it asks for counts where it stays within the user's own bounds ([`excess`], pure), or once a person has
//!   allowed this very content in this very place ([`Consent`]). Else the machine starts as if it were not there,
//!   and [`Ignored`] says why.
//!
//! Deliberately absent: anything that lets a project's file widen what is shared. The workspace is the working
//! directory, unless the user says otherwise.

use std::fmt;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::config::{ConfigError, Raw, WorkspaceMode};

/// The project's file.
pub const PROJECT_FILE: &str = "snowglobe.toml";

/// A longer file is refused, in bytes.
const LONGEST: u64 = 64 << 10;

/// A project's file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFile {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// Looks for the project's file from `cwd` upwards; `home` ends the search before it is looked at.
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
        // A worktree has a file of that name.
        if dir.join(".git").symlink_metadata().is_ok() {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Whether the search may go on into a parent: on the same file system, of the same owner, and not a place where
/// other users can put a file.
fn continues(start: &Stat, parent: &Stat) -> bool {
    let others_write = Mode::from_raw_mode(parent.st_mode).contains(Mode::WOTH);
    parent.st_dev == start.st_dev && parent.st_uid == start.st_uid && !others_write
}

/// The file's text; `None` where there is no such file. Whatever else is there is an error.
fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let odd = |message: String| ConfigError::Malformed {
        path: path.to_owned(),
        message,
    };
    let failed = |errno: Errno| ConfigError::Unreadable {
        path: path.to_owned(),
        source: errno.into(),
    };
    // Without blocking: a fifo has a writer some day, or never.
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
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > LONGEST {
        return Err(odd(format!(
            "it is longer than {} KiB, which no such file needs to be",
            LONGEST >> 10
        )));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| odd("it is not UTF-8 text".into()))
}

/// What the user grants a project's file without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// Open files per command.
    pub nofile: u64,
    /// Whether `/workspace` may be the host's directory.
    pub mount: bool,
}

/// What a project's file asks for beyond these bounds, each a fragment for a person; empty where all of it is
/// granted. `fetches` says whether an image of that reference would have to be fetched or built first.
pub fn excess(asked: &Raw, bounds: &Bounds, fetches: impl Fn(&str) -> bool) -> Vec<String> {
    let mut beyond = Vec::new();
    if let Some(image) = asked.image.as_deref().filter(|image| fetches(image)) {
        // It may come from anywhere, and be of any length.
        let image: String = image.escape_debug().take(120).collect();
        beyond.push(format!(
            "image = \"{image}\", which is not on this machine and would be fetched"
        ));
    }
    let mut limit = |key: &str, asked: Option<u64>, granted: u64, unit: &str| {
        if let Some(asked) = asked.filter(|asked| *asked > granted) {
            beyond.push(format!(
                "{key} = {asked}, more than the {granted}{unit} that a project gets unasked"
            ));
        }
    };
    limit("cpus", asked.cpus.map(u64::from), bounds.cpus.into(), "");
    let (memory, disk) = (
        asked.memory_mib.map(u64::from),
        asked.disk_gib.map(u64::from),
    );
    limit("memory_mib", memory, bounds.memory_mib.into(), " MiB");
    limit("disk_gib", disk, bounds.disk_gib.into(), " GiB");
    limit("nofile", asked.nofile, bounds.nofile, "");
    if asked.workspace_mode == Some(WorkspaceMode::Mount) && !bounds.mount {
        beyond.push("workspace_mode = \"mount\", where you share nothing".to_owned());
    }
    beyond
}

/// Directories of the system: neither they nor what is below them is a project.
const SYSTEM: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run",
    "/sbin", "/sys", "/var/lib", "/var/log",
];

/// Directories that hold others' projects, or programs: what is below them may be one, they themselves are not.
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

/// Whether a directory may be the workspace. One that the user `named` may be anything but a place of `own` files.
pub fn shareable(
    workspace: &Path,
    named: bool,
    home: Option<&Path>,
    own: &[&Path],
) -> Result<(), ConfigError> {
    for own in own {
        let real = real(own);
        if real.starts_with(workspace) || workspace.starts_with(&real) {
            return Err(ConfigError::OwnFiles {
                path: workspace.to_owned(),
                own: own.to_path_buf(),
            });
        }
    }
    match no_project(workspace, home).filter(|_| !named) {
        Some(why) => Err(ConfigError::Workspace {
            path: workspace.to_owned(),
            why,
        }),
        None => Ok(()),
    }
}

/// Where a path leads that may not be there yet: what is there of it without links, then the rest.
fn real(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
    match there {
        Some((dir, real)) => real.join(path.strip_prefix(dir).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}

/// Why a directory is shared only when it is named.
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

/// A project's file that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Where it is.
    pub path: PathBuf,
    /// What it asks for beyond the user's bounds.
    pub asks: Vec<String>,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is not in force, since nobody has allowed it yet: it asks for {}. The sandbox has your own settings. \
             To allow this content of it, a person runs `snowglobe allow` there and starts the sandbox anew",
            self.path.display(),
            self.asks.join("; ")
        )
    }
}

/// What a person has allowed, kept below the data directory: an empty file each, named by a hash of place and
/// content. So a changed file has to be allowed again.
#[derive(Debug)]
pub struct Consent {
    dir: PathBuf,
}

impl Consent {
    /// The user's, below their data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("allowed"),
        }
    }

    fn mark(&self, file: &ProjectFile) -> PathBuf {
        let mut hash = Sha256::new();
        let path = file.path.as_os_str().as_encoded_bytes();
        // The length keeps a path and a text apart.
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update(&file.text);
        self.dir.join(hex::encode(hash.finalize()))
    }

    /// Whether this content was allowed in this place.
    pub fn given(&self, file: &ProjectFile) -> Result<bool, ConfigError> {
        let mark = self.mark(file);
        mark.try_exists()
            .map_err(|source| ConfigError::Unreadable { path: mark, source })
    }

    /// Allows it.
    pub fn give(&self, file: &ProjectFile) -> std::io::Result<()> {
        crate::private::dir(&self.dir)?;
        std::fs::write(self.mark(file), b"")
    }

    /// Takes that back; gives whether it was allowed.
    pub fn withdraw(&self, file: &ProjectFile) -> std::io::Result<bool> {
        match std::fs::remove_file(self.mark(file)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn found(cwd: &Path) -> Result<Option<PathBuf>, String> {
        find(cwd, None)
            .map(|file| file.map(|file| file.path))
            .map_err(|error| crate::describe(&error))
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
        fs::write(&file, vec![b'#'; LONGEST as usize + 1]).unwrap();
        refused("longer than 64 KiB");
        fs::write(&file, [b'#', 0xff]).unwrap();
        refused("not UTF-8");
        fs::create_dir(&file).unwrap();
        refused("not a regular file");
    }

    #[test]
    fn consent_is_to_a_content_in_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let consent = Consent::new(dir.path());
        let file = |path: &str, text: &str| ProjectFile {
            path: path.into(),
            text: text.into(),
        };
        let one = file("/a/snowglobe.toml", "cpus = 64");
        assert!(!consent.given(&one).unwrap());
        consent.give(&one).unwrap();
        assert!(consent.given(&one).unwrap());
        for other in [
            file("/a/snowglobe.toml", "cpus = 63"),
            file("/b/snowglobe.toml", "cpus = 64"),
            file("/a/snowglobe.tomlcpus", " = 64"),
        ] {
            assert!(!consent.given(&other).unwrap());
        }
        assert!(consent.withdraw(&one).unwrap());
        assert!(!consent.given(&one).unwrap() && !consent.withdraw(&one).unwrap());
        // What can't be read is no consent.
        fs::remove_dir(dir.path().join("allowed")).unwrap();
        symlink("allowed", dir.path().join("allowed")).unwrap();
        assert!(consent.given(&one).is_err());
    }

    const BOUNDS: Bounds = Bounds {
        cpus: 4,
        memory_mib: 2048,
        disk_gib: 16,
        nofile: 1000,
        mount: false,
    };

    #[test]
    fn what_goes_beyond_the_bounds_is_said() {
        let asked = Raw {
            image: Some("evil.example/\u{202e}data:tag".into()),
            cpus: Some(5),
            workspace_mode: Some(WorkspaceMode::Mount),
            ..Raw::default()
        };
        let asks = excess(&asked, &BOUNDS, |_| true);
        assert_eq!(asks.len(), 3);
        assert!(asks[0].contains("evil.example/\\u{202e}data"), "{asks:?}");
        assert!(asks[1].contains("cpus = 5, more than the 4"), "{asks:?}");
    }

    proptest! {
        #[test]
        fn nothing_is_asked_exactly_within_the_bounds(
            cpus in 0_u32..10, memory_mib in 0_u32..5000, disk_gib in 0_u32..40, nofile in 0_u64..3000,
            mount: bool, fetches: bool,
        ) {
            let asked = Raw {
                image: Some("image".into()),
                cpus: Some(cpus),
                memory_mib: Some(memory_mib),
                disk_gib: Some(disk_gib),
                nofile: Some(nofile),
                workspace_mode: Some(if mount { WorkspaceMode::Mount } else { WorkspaceMode::None }),
                ..Raw::default()
            };
            let within = cpus <= 4 && memory_mib <= 2048 && disk_gib <= 16 && nofile <= 1000 && !mount && !fetches;
            prop_assert_eq!(excess(&asked, &BOUNDS, |_| fetches).is_empty(), within);
        }
    }

    #[test]
    fn only_projects_are_shared_unnamed_and_own_files_never() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let data = home.join("data");
        let project = home.join("project");
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&project).unwrap();
        let check = |workspace: &Path, named: bool| {
            shareable(workspace, named, Some(&home), &[&data]).map_err(|e| e.to_string())
        };
        assert_eq!(check(&project, false), Ok(()));
        for place in [&home, &data, &data.join("images"), dir.path()] {
            for named in [false, true] {
                let error = check(place, named).unwrap_err();
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
            let check = |named| {
                shareable(Path::new(place), named, None, &[]).map_err(|error| error.to_string())
            };
            let error = check(false).unwrap_err();
            assert!(error.contains("--workspace"), "{error}");
            assert_eq!(check(true), Ok(()), "{place}");
        }
        for place in [
            "/usr/src/project",
            "/opt/app",
            "/workspace",
            "/home/me/project",
        ] {
            assert_eq!(check(Path::new(place), false), Ok(()), "{place}");
        }
        assert!(
            check(&home.join(".ssh"), false)
                .unwrap_err()
                .contains("keys")
        );
        // Own directories that are not there yet, found through a link.
        let link = dir.path().join("link");
        symlink(&home, &link).unwrap();
        let own = link.join("share/snowglobe");
        assert!(shareable(&home, true, None, &[&own]).is_err());
        assert!(shareable(&project, true, None, &[&own]).is_ok());
    }
}
