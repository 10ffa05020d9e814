//! What the guest may still write, so that it does not fill the host's disk.
//!
//! A full disk of the host harms all its programs. So writes fail in the guest as on a full disk while less than a
//! [reserve](reserve) is left. The host is asked again after half of what was left above that, so a guest that writes by itself
//! can't use the reserve.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::fs::StatVfs;
use rustix::io::Errno;

use super::known::lock;

/// The most that stays free on the host's disk, in bytes, and the most of a small disk, as its part.
const RESERVE: u64 = 256 << 20;
const PART: u64 = 20;

/// The most that is written before the host is asked again, in bytes.
const MOST: u64 = 64 << 20;

/// The room on the host's disk.
#[derive(Debug)]
pub(super) struct Room {
    directory: OwnedFd,
    /// What may be written without asking the host.
    granted: Mutex<u64>,
}

impl Room {
    /// The room on the disk of `directory`.
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self {
            directory,
            granted: Mutex::new(0),
        }
    }

    /// Takes room for `bytes`; an error if there is not enough.
    pub(super) fn take(&self, bytes: u64) -> io::Result<()> {
        let mut granted = lock(&self.granted);
        if *granted < bytes {
            let disk = rustix::fs::fstatvfs(&self.directory)?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            *granted = grant(free, reserve(&disk), bytes).ok_or(Errno::NOSPC)?;
        }
        *granted -= bytes;
        Ok(())
    }
}

/// What stays free on a disk, in bytes.
fn reserve(disk: &StatVfs) -> u64 {
    let size = disk.f_blocks.saturating_mul(disk.f_frsize);
    RESERVE.min(size / PART)
}

/// What may be written, `bytes` or more, where so much is free. Pure.
fn grant(free: u64, reserve: u64, bytes: u64) -> Option<u64> {
    let room = free.checked_sub(reserve)?;
    match room >= bytes {
        true => Some((room / 2).min(MOST).max(bytes)),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is written, in whatever pieces, the reserve stays.
        #[test]
        fn the_reserve_is_never_written_to(
            room in 0_u64..1 << 30,
            pieces in prop::collection::vec(1_u64..40 << 20, 0..200),
        ) {
            let (mut free, mut granted) = (RESERVE + room, 0);
            for piece in pieces {
                if granted < piece {
                    match grant(free, RESERVE, piece) {
                        Some(more) => granted = more,
                        None => {
                            prop_assert!(free < RESERVE + piece);
                            continue;
                        }
                    }
                }
                granted -= piece;
                free -= piece;
                prop_assert!(free >= RESERVE);
            }
        }
    }

    #[test]
    fn no_more_is_taken_than_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::new(std::fs::File::open(directory.path()).unwrap().into());
        room.take(4096).unwrap();
        let error = room.take(u64::MAX / 2).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        room.take(4096).unwrap();
    }
}
