//! Programs in the guest that watch files (inotify) hear of what the host changes.
//!
//! The kernel fires a watch only for what happens through its own calls. So init sets the modification time of a changed file,
//! to a value by which the host knows it; the host answers and changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

use crate::wire::share::TOUCHED;

/// How many files are touched for changes that come together. A program that watches more must look for itself, as after an
/// overflow of its watch.
const MOST: usize = 2000;

/// How long the answer counts to the question whether any program watches files.
const ASKED: Duration = Duration::from_millis(500);

/// Touches files below `root`, from a thread of its own: unlike those that carry messages it waits for replies.
pub(super) fn start(root: &Path, paths: Receiver<Vec<u8>>) -> io::Result<()> {
    let root = root.to_owned();
    std::thread::Builder::new()
        .name("share-touches".into())
        .spawn(move || run(&root, &paths))
        .map(drop)
}

fn run(root: &Path, paths: &Receiver<Vec<u8>>) {
    let mut asked: Option<(Instant, bool)> = None;
    while let Ok(first) = paths.recv() {
        let all: BTreeSet<Vec<u8>> = std::iter::once(first).chain(paths.try_iter()).collect();
        let watched = match asked {
            Some((when, watched)) if when.elapsed() < ASKED => watched,
            _ => any_watches(Path::new("/proc")),
        };
        asked = Some((Instant::now(), watched));
        if watched {
            all.iter().take(MOST).for_each(|path| touch(root, path));
        }
    }
}

/// Best effort: the file may be gone by now.
fn touch(root: &Path, path: &[u8]) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: TOUCHED.0,
            tv_nsec: TOUCHED.1.into(),
        },
    };
    let path = root.join(PathBuf::from(OsStr::from_bytes(path)));
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).ok();
}

/// Whether any process watches files.
fn any_watches(proc: &Path) -> bool {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let descriptors = processes
        .filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .flat_map(|entry| fs::read_dir(entry.path().join("fd")))
        .flatten()
        .flatten();
    let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| {
        matches!(
            target.as_os_str().as_bytes(),
            b"anon_inode:inotify" | b"inotify"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_of_any_process_is_found() {
        let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
        assert!(any_watches(Path::new("/proc")));
        drop(watch);
        assert!(!any_watches(Path::new("/no/such/directory")));
    }
}
