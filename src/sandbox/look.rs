//! What can be seen of a sandbox without booting it: the console, the names in the workspace, that something changed.
//!
//! Names in the workspace are looked up on the host, where it is shared, and never through a link: the guest writes
//! there, and must not choose what of the host is looked at.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::{Sandbox, SandboxError};
use crate::config::Config;

/// How much of the console's end is shown, in bytes.
const CONSOLE: u64 = 256 << 10;

/// How many entries of a directory are looked at.
const LOOKED_AT: usize = 20_000;

/// How many names are given.
const MOST_NAMES: usize = 1000;

/// What a sandbox keeps for those who look on.
#[derive(Debug, Default)]
pub(super) struct View {
    changes: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    log: Option<PathBuf>,
    trouble: Option<String>,
    lacks: Vec<String>,
}

impl View {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshots, jobs or the machine are others than before.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A boot begins that writes its console there.
    pub(super) fn booting(&self, log: PathBuf) {
        self.seen().log = Some(log);
    }

    /// How a boot went.
    pub(super) fn booted<T>(&self, booted: Result<T, SandboxError>) -> Result<T, SandboxError> {
        self.changed();
        self.seen().trouble = booted
            .as_ref()
            .err()
            .map(|error| format!("failed to {}", crate::describe(error)));
        booted
    }

    /// Which fences do not hold around the machine.
    pub(super) fn fenced(&self, lacks: &[String]) {
        self.seen().lacks = lacks.to_vec();
    }

    /// What ended the machine.
    pub(super) fn died(&self, how: &str) {
        self.changed();
        self.seen().trouble = Some(format!("the VM ended: {how}"));
    }
}

/// What there is of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// What the machine that runs (or boots) printed, the newest 256 KiB of it; empty where none does.
    pub text: String,
    /// Why the last boot failed or the last machine ended, if one did and none has booted since.
    pub trouble: Option<String>,
}

/// Names in a directory of the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The first of them, sorted.
    pub first: Vec<Name>,
    /// Whether there are more.
    pub more: bool,
}

/// One name in a directory of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
}

impl Sandbox {
    /// A number that is another one whenever snapshots, jobs or the machine may have changed.
    pub fn changes(&self) -> u64 {
        self.view.changes.load(Ordering::Relaxed)
    }

    /// Which fences do not hold around the machine that booted last, and why.
    pub fn lacks(&self) -> Vec<String> {
        self.view.seen().lacks.clone()
    }

    /// The console, while the machine boots, too.
    pub fn console(&self) -> Console {
        let seen = self.view.seen();
        let text = seen.log.as_deref().and_then(end_of).unwrap_or_default();
        Console {
            text,
            trouble: seen.trouble.clone(),
        }
    }

    /// Something that is another when the console has more to show.
    pub fn console_stamp(&self) -> (u64, bool) {
        let seen = self.view.seen();
        let length = seen.log.as_deref().and_then(|log| log.metadata().ok());
        (length.map_or(0, |meta| meta.len()), seen.trouble.is_some())
    }

    /// The names in a directory of the workspace that begin with `begun`; none where the host does not have it. The
    /// guest may have put millions there, so only so many are looked at, and on a thread that may wait for the disk.
    pub async fn workspace_names(&self, dir: &str, begun: &str) -> Names {
        let Some(dir) = opened(&self.config, dir) else {
            return Names::default();
        };
        let begun = begun.to_owned();
        let looked = tokio::task::spawn_blocking(move || names(&dir, &begun));
        looked.await.unwrap_or_default()
    }

    /// See [`workspace_stamp`].
    pub fn workspace_stamp(&self, path: &str) -> Option<(u64, i64, i64, u64)> {
        workspace_stamp(&self.config, path)
    }
}

/// Something that is another when the file or directory of the workspace is changed; absent where it is not there, or
/// can't be seen from the host.
pub fn workspace_stamp(config: &Config, path: &str) -> Option<(u64, i64, i64, u64)> {
    let path = Path::new(path);
    let parent = path.parent().unwrap_or(Path::new(""));
    let dir = opened(config, parent.to_str()?)?;
    let stat = match path.file_name() {
        Some(name) => rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW),
        None => rustix::fs::fstat(&dir),
    };
    let stat = stat.ok()?;
    Some((
        stat.st_ino as u64,
        stat.st_mtime as i64,
        stat.st_mtime_nsec as i64,
        stat.st_size as u64,
    ))
}

fn names(dir: &OwnedFd, begun: &str) -> Names {
    let Ok(dir) = Dir::read_from(dir) else {
        return Names::default();
    };
    let mut found = BTreeSet::new();
    let mut more = false;
    for (count, entry) in dir.flatten().enumerate() {
        if count == LOOKED_AT {
            more = true;
            break;
        }
        let kind = entry.file_type();
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            continue;
        }
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." || !name.starts_with(begun) {
            continue;
        }
        found.insert(Name {
            name: name.to_owned(),
            directory: kind == FileType::Directory,
        });
        if found.len() > MOST_NAMES {
            found.pop_last();
            more = true;
        }
    }
    Names {
        first: found.into_iter().collect(),
        more,
    }
}

/// A directory of the workspace on the host, reached without following links.
fn opened(config: &Config, dir: &str) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = config.workspace_dir.dir()?;
    let mut at = rustix::fs::openat(root, ".", flags, Mode::empty()).ok()?;
    for part in dir.split('/').filter(|part| !part.is_empty()) {
        if matches!(part, "." | "..") {
            return None;
        }
        at = rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    }
    Some(at)
}

fn end_of(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(CONSOLE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_never_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MOST_NAMES + 5 {
            std::fs::write(dir.path().join(format!("f{number:05}")), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let open = || OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let all = names(&open(), "");
        assert_eq!((all.first.len(), all.more), (MOST_NAMES, true));
        assert_eq!(
            (all.first[0].name.as_str(), all.first[0].directory),
            ("d", true)
        );
        assert_eq!(all.first[1].name, "f00000", "the first ones by name");
        let some = names(&open(), "f0000");
        assert_eq!((some.first.len(), some.more), (10, false));
    }
}
