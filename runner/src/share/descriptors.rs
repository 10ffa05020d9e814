//! The open files of a share: as many as the process's limit allows, the ones used last.
//!
//! A file that was removed while the guest may have it open can't be opened again, so its descriptor is held until the
//! guest forgets the file.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::nodes::NodeId;

/// How many descriptors a share takes at most, whatever the limit is: each keeps an inode in the host's memory.
const MOST: u64 = 1 << 16;

/// Descriptors that are kept for other uses: the stream, the watch, and files that are open for one request only.
const OTHERS: u64 = 128;

/// The time after which a file is no longer open for writing: while it is, no program of the host can execute it.
const WRITTEN_FOR: Duration = Duration::from_millis(500);

/// The same for a file that its mode forbids to open for writing again, such as a new one of mode 0444.
const READ_ONLY_FOR: Duration = Duration::from_secs(60);

/// What an open file can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// To name it, no more.
    Path,
    Read,
    /// To read and write it; only to write, if it can't be read.
    Write,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) access: Access,
    /// Held while a directory is read, since that moves its position.
    pub(super) position: Mutex<()>,
}

impl Opened {
    pub(super) fn new(descriptor: OwnedFd, access: Access) -> Self {
        Self {
            file: File::from(descriptor),
            access,
            position: Mutex::new(()),
        }
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[derive(Debug)]
struct Kept {
    opened: Arc<Opened>,
    lasts: Duration,
    until: Instant,
}

/// The descriptors.
#[derive(Debug)]
pub(super) struct Descriptors {
    recent: LruCache<NodeId, Arc<Opened>>,
    /// Those open for writing, which are closed soon.
    written: HashMap<NodeId, Kept>,
    /// Those of removed files.
    removed: HashMap<NodeId, Arc<Opened>>,
    most_removed: usize,
}

impl Descriptors {
    /// None yet, within a limit of open files.
    pub(super) fn new(open_files: u64) -> Self {
        let share = usize::try_from(open_files.saturating_sub(OTHERS).min(MOST) / 2);
        let most = share.unwrap_or_default().max(16);
        Self {
            recent: LruCache::new(NonZeroUsize::new(most / 2).unwrap_or(NonZeroUsize::MIN)),
            written: HashMap::new(),
            removed: HashMap::new(),
            most_removed: most,
        }
    }

    /// The node's descriptor, if there is one for this access.
    pub(super) fn get(&mut self, id: NodeId, access: Access, now: Instant) -> Option<Arc<Opened>> {
        if let Some(opened) = self.removed.get(&id) {
            return (opened.access >= access).then(|| opened.clone());
        }
        if access == Access::Write {
            let kept = self.written.get_mut(&id)?;
            kept.until = now + kept.lasts;
            return Some(kept.opened.clone());
        }
        if let Some(opened) = self.recent.get(&id)
            && opened.access >= access
        {
            return Some(opened.clone());
        }
        let kept = self.written.get(&id)?;
        Some(kept.opened.clone())
    }

    /// Whether there is a descriptor to name it.
    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.recent.contains(&id) || self.removed.contains_key(&id)
    }

    /// Keeps a descriptor. `again` tells whether a file can be opened for writing once more.
    pub(super) fn put(&mut self, id: NodeId, opened: &Arc<Opened>, again: bool, now: Instant) {
        if opened.access < Access::Write {
            self.recent.put(id, opened.clone());
            return;
        }
        self.close_written(now);
        if self.written.len() >= self.recent.cap().get() {
            // Rare: that many files were written within half a second. Some are opened once more.
            let first = self.written.iter().min_by_key(|(_, kept)| kept.until);
            if let Some(first) = first.map(|(id, _)| *id) {
                self.written.remove(&first);
            }
        }
        let lasts = match again {
            true => WRITTEN_FOR,
            false => READ_ONLY_FOR,
        };
        let kept = Kept {
            opened: opened.clone(),
            lasts,
            until: now + lasts,
        };
        self.written.insert(id, kept);
    }

    /// Closes the files that were not written for a while. Gives the time until the next must be closed.
    pub(super) fn close_written(&mut self, now: Instant) -> Option<Duration> {
        self.written.retain(|_, kept| kept.until > now);
        let next = self.written.values().map(|kept| kept.until).min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Holds the descriptor of a file that is removed now. Gives whether there is room.
    pub(super) fn hold(&mut self, id: NodeId, opened: Arc<Opened>) -> bool {
        if self.removed.len() >= self.most_removed {
            return false;
        }
        self.written.remove(&id);
        self.recent.pop(&id);
        self.removed.insert(id, opened);
        true
    }

    /// The file is there after all, under another name.
    pub(super) fn release(&mut self, id: NodeId) {
        self.removed.remove(&id);
    }

    /// Closes what belongs to a node.
    pub(super) fn close(&mut self, id: NodeId) {
        self.written.remove(&id);
        self.recent.pop(&id);
        self.removed.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(access: Access) -> Arc<Opened> {
        let file = File::open("/dev/null").unwrap();
        Arc::new(Opened::new(file.into(), access))
    }

    #[test]
    fn no_more_are_open_than_the_limit_allows() {
        let mut descriptors = Descriptors::new(1024);
        let now = Instant::now();
        let file = opened(Access::Read);
        let written = opened(Access::Write);
        for id in 0..5000 {
            let now = now + Duration::from_micros(id);
            descriptors.put(id, &file, true, now);
            descriptors.put(id, &written, id % 2 == 0, now);
            descriptors.hold(10_000 + id, file.clone());
        }
        let kept = Arc::strong_count(&file) + Arc::strong_count(&written) - 2;
        assert!(kept <= 1024 - OTHERS as usize, "{kept}");
        assert!(descriptors.get(4999, Access::Read, now).is_some());
        let mut readable = |id: &u64| descriptors.get(*id, Access::Read, now).is_some();
        let kept = (0..5000).filter(|id| readable(id)).count();
        assert!(kept <= 1024 - OTHERS as usize, "{kept}");
    }

    #[test]
    fn a_file_is_not_open_for_writing_for_long() {
        let mut descriptors = Descriptors::new(1024);
        let now = Instant::now();
        descriptors.put(7, &opened(Access::Write), true, now);
        descriptors.put(8, &opened(Access::Write), false, now);
        let later = now + WRITTEN_FOR / 2;
        assert!(descriptors.get(7, Access::Write, later).is_some());
        assert!(descriptors.get(7, Access::Read, later).is_some());
        assert_eq!(
            descriptors.close_written(now + WRITTEN_FOR),
            Some(WRITTEN_FOR / 2)
        );
        let left = descriptors.close_written(later + WRITTEN_FOR);
        assert_eq!(left, Some(READ_ONLY_FOR - WRITTEN_FOR * 3 / 2));
        assert!(descriptors.get(7, Access::Write, later).is_none());
        assert!(descriptors.get(8, Access::Write, later).is_some());
    }

    #[test]
    fn a_removed_file_stays_open_until_it_is_forgotten() {
        let mut descriptors = Descriptors::new(1024);
        let now = Instant::now();
        assert!(descriptors.hold(7, opened(Access::Write)));
        for id in 100..5000 {
            descriptors.put(id, &opened(Access::Path), true, now);
        }
        assert!(descriptors.get(7, Access::Read, now).is_some());
        descriptors.close(7);
        assert!(descriptors.get(7, Access::Path, now).is_none());
    }
}
