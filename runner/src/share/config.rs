//! The configuration of the file server.

use std::fs::File;
use std::time::Duration;

use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode};
use virtiofsd::soft_idmap::cmdline::IdMap;

/// Descriptors that stay free for the server itself: one for each memory region of the protocol, and some more.
const OWN_FDS: u64 = 700;

/// The time for which the guest caches names and attributes, and so may miss a change on the host.
const CACHED_FOR: Duration = Duration::from_secs(1);

/// The configuration of a share at `root`, whose files belong to `guest_id` in the guest.
pub(super) fn config(guest_id: u32, root: &str, proc_self_fd: File, open_files: u64) -> Config {
    Config {
        root_dir: root.to_owned(),
        proc_sfd_rawfd: Some(proc_self_fd),
        cache_policy: CachePolicy::Auto,
        entry_timeout: CACHED_FOR,
        attr_timeout: CACHED_FOR,
        readdirplus: true,
        // The host may write to the same files: a cache of the guest's writes would lose some of them.
        writeback: false,
        xattr: true,
        // Saves a request to the host before every write.
        killpriv_v2: true,
        // File handles need a capability that only root has, and lead out of the directory.
        inode_file_handles: InodeFileHandlesMode::Never,
        announce_submounts: false,
        guest_fd_limit: open_files.saturating_sub(OWN_FDS).max(64),
        uid_map: Some(squash(guest_id, rustix::process::geteuid().as_raw())),
        gid_map: Some(squash(guest_id, rustix::process::getegid().as_raw())),
        ..Config::default()
    }
}

/// Maps every host id to `guest_id`, and every guest id to `host_id`.
fn squash(guest_id: u32, host_id: u32) -> Vec<IdMap> {
    // All ids; the highest number means "none".
    let count = u32::MAX;
    vec![
        IdMap::SquashHost {
            from_host: 0,
            to_guest: guest_id,
            count,
        },
        IdMap::SquashGuest {
            from_guest: 0,
            to_host: host_id,
            count,
        },
    ]
}

#[cfg(test)]
mod tests {
    use virtiofsd::soft_idmap::{GuestUid, HostUid, IdMap};

    use super::*;

    #[test]
    fn every_id_becomes_the_one_of_the_other_side() {
        let map: IdMap<GuestUid, HostUid> = squash(1000, 77).try_into().unwrap();
        for id in [0, 1, 77, 1000, 65534, u32::MAX - 1] {
            assert_eq!(
                map.map_host(id.into()).unwrap(),
                GuestUid::from(1000),
                "{id}"
            );
            assert_eq!(map.map_guest(id.into()).unwrap(), HostUid::from(77), "{id}");
        }
    }
}
