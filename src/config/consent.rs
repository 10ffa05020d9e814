//! Whether the content of a project's file counts.
//!
//! It counts if it stays within the user's own bounds ([`excess`], pure), or once a person has allowed this very
//! content in this very place ([`Consent`]). Else the sandbox starts as if the file were not there, and [`Ignored`]
//! says why.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ConfigError;
use super::defaults::{DEFAULT_DISK_GIB, DEFAULT_MEMORY_MIB, DEFAULT_NOFILE, default_cpus};
use super::keys::Raw;
use super::project::ProjectFile;
use crate::workspace::Mode;

/// What a project's file may set without the user's consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Virtual processors.
    pub(super) cpus: u32,
    /// Memory in MiB.
    pub(super) memory_mib: u32,
    /// Disk in GiB.
    pub(super) disk_gib: u32,
    /// Open files per command.
    pub(super) nofile: u64,
    /// What `/workspace` may be: the host's directory, or at most a copy of it, or nothing of it.
    pub(super) mode: Mode,
    /// Whether the sandbox may change it.
    pub(super) write: bool,
}

impl Bounds {
    /// The user's own settings, else the defaults or half of this host.
    pub(super) fn of(user: &Raw) -> Self {
        let host = rustix::system::sysinfo();
        let unit = u64::from(host.mem_unit.max(1));
        let half_mib = (host.totalram as u64).saturating_mul(unit) >> 21;
        let half_mib = u32::try_from(half_mib).unwrap_or(u32::MAX);
        let half_cores = std::thread::available_parallelism().map_or(1, |n| n.get() / 2);
        let half_cores = u32::try_from(half_cores).unwrap_or(u32::MAX);
        Self {
            cpus: user.cpus.unwrap_or_else(|| default_cpus().max(half_cores)),
            memory_mib: user
                .memory_mib
                .unwrap_or_else(|| DEFAULT_MEMORY_MIB.max(half_mib)),
            disk_gib: user.disk_gib.unwrap_or(DEFAULT_DISK_GIB),
            nofile: user.nofile.unwrap_or(DEFAULT_NOFILE),
            mode: user.workspace_mode.unwrap_or_default(),
            write: user.workspace_read_only != Some(true),
        }
    }
}

/// What a project's file asks for beyond these bounds, each a fragment for a person. `fetches` tells whether an image
/// would have to be fetched or built first.
pub(super) fn excess(asked: &Raw, bounds: &Bounds, fetches: impl Fn(&str) -> bool) -> Vec<String> {
    let mut beyond = Vec::new();
    if let Some(image) = asked.image.as_deref().filter(|image| fetches(image)) {
        // The text is of unknown origin and length.
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
    match (asked.workspace_mode, bounds.mode) {
        (Some(Mode::Mount), Mode::None) => {
            beyond.push("workspace_mode = \"mount\", where you share nothing".to_owned());
        }
        (Some(Mode::Mount), Mode::Copy) => {
            beyond.push("workspace_mode = \"mount\", where you give a copy".to_owned());
        }
        (Some(Mode::Copy), Mode::None) => {
            beyond.push("workspace_mode = \"copy\", where you share nothing".to_owned());
        }
        _ => {}
    }
    if asked.workspace_read_only == Some(false) && !bounds.write {
        beyond.push("workspace_read_only = false, where you let nothing be changed".to_owned());
    }
    beyond
}

/// A project's file that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its path.
    pub path: PathBuf,
    /// What it asks for beyond the user's bounds.
    pub asks: Vec<String>,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not count, since it was not allowed yet: it asks for {}. The sandbox has your own settings. \
             To allow this content of it, a person runs `snowglobe allow` there and starts the sandbox anew",
            self.path.display(),
            self.asks.join("; ")
        )
    }
}

/// The files that a person has allowed, kept below the data directory: an empty file for each, named by a hash of its
/// path and content. So a changed file has to be allowed again.
#[derive(Debug)]
pub struct Consent {
    dir: PathBuf,
}

impl Consent {
    /// The consent that is kept below this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("allowed"),
        }
    }

    fn mark(&self, file: &ProjectFile) -> PathBuf {
        let mut hash = Sha256::new();
        let path = file.path.as_os_str().as_encoded_bytes();
        // The length separates the path from the text.
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update(&file.text);
        self.dir.join(hex::encode(hash.finalize()))
    }

    /// Whether this file was allowed with this content.
    pub fn given(&self, file: &ProjectFile) -> Result<bool, ConfigError> {
        let mark = self.mark(file);
        mark.try_exists()
            .map_err(|source| ConfigError::Unreadable { path: mark, source })
    }

    /// Allows the file.
    pub fn give(&self, file: &ProjectFile) -> std::io::Result<()> {
        crate::private::dir(&self.dir)?;
        let mut mark = crate::private::file();
        mark.write(true)
            .create(true)
            .truncate(true)
            .open(self.mark(file))?;
        Ok(())
    }

    /// Withdraws consent; tells whether there was any.
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
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

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
        // A mark that can't be read is no consent.
        fs::remove_dir(dir.path().join("allowed")).unwrap();
        symlink("allowed", dir.path().join("allowed")).unwrap();
        assert!(consent.given(&one).is_err());
    }

    const BOUNDS: Bounds = Bounds {
        cpus: 4,
        memory_mib: 2048,
        disk_gib: 16,
        nofile: 1000,
        mode: Mode::None,
        write: false,
    };

    #[test]
    fn what_goes_beyond_the_bounds_is_said() {
        let asked = Raw {
            image: Some("evil.example/\u{202e}data:tag".into()),
            cpus: Some(5),
            workspace_mode: Some(Mode::Mount),
            ..Raw::default()
        };
        let asks = excess(&asked, &BOUNDS, |_| true);
        assert_eq!(asks.len(), 3);
        assert!(asks[0].contains("evil.example/\\u{202e}data"), "{asks:?}");
        assert!(asks[1].contains("cpus = 5, more than the 4"), "{asks:?}");
    }

    /// What a project asks for, what the user has, and whether that is within.
    const MODES: [(Mode, Mode, bool); 9] = [
        (Mode::Mount, Mode::Mount, true),
        (Mode::Mount, Mode::Copy, false),
        (Mode::Mount, Mode::None, false),
        (Mode::Copy, Mode::Mount, true),
        (Mode::Copy, Mode::Copy, true),
        (Mode::Copy, Mode::None, false),
        (Mode::None, Mode::Mount, true),
        (Mode::None, Mode::Copy, true),
        (Mode::None, Mode::None, true),
    ];

    proptest! {
        #[test]
        fn nothing_is_asked_exactly_within_the_bounds(
            cpus in 0_u32..10, memory_mib in 0_u32..5000, disk_gib in 0_u32..40, nofile in 0_u64..3000,
            modes in prop::sample::select(&MODES[..]), write: bool, fetches: bool,
        ) {
            let asked = Raw {
                image: Some("image".into()),
                cpus: Some(cpus),
                memory_mib: Some(memory_mib),
                disk_gib: Some(disk_gib),
                nofile: Some(nofile),
                workspace_mode: Some(modes.0),
                workspace_read_only: Some(!write),
                ..Raw::default()
            };
            let within = cpus <= 4 && memory_mib <= 2048 && disk_gib <= 16 && nofile <= 1000 && modes.2 && !write && !fetches;
            let bounds = Bounds { mode: modes.1, ..BOUNDS };
            prop_assert_eq!(excess(&asked, &bounds, |_| fetches).is_empty(), within);
        }
    }
}
