//! How the file server serves a share.

use std::fs::File;
use std::time::Duration;

use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode};
use virtiofsd::soft_idmap::cmdline::IdMap;

/// Descriptors that the guest's open files must leave: one per memory region of the protocol, and some.
const OWN_FDS: u64 = 700;

/// For how long the guest may believe what it has seen of a file, so for how long a change on the host may be
/// overlooked.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// How a share is served from `root`, whose every file is `guest_id`'s in the guest.
pub(super) fn config(guest_id: u32, root: &str, proc_self_fd: File, open_files: u64) -> Config {
    Config {
        root_dir: root.to_owned(),
        proc_sfd_rawfd: Some(proc_self_fd),
        cache_policy: CachePolicy::Auto,
        entry_timeout: BELIEVED_FOR,
        attr_timeout: BELIEVED_FOR,
        readdirplus: true,
        // The host may write to the same files; a guest that holds back its own writes would lose some of either.
        writeback: false,
        xattr: true,
        // Spares a question to the host before every write.
        killpriv_v2: true,
        // Handles need a capability that only root has, and reach out of the directory.
        inode_file_handles: InodeFileHandlesMode::Never,
        announce_submounts: false,
        guest_fd_limit: open_files.saturating_sub(OWN_FDS).max(64),
        uid_map: Some(squash(guest_id, rustix::process::geteuid().as_raw())),
        gid_map: Some(squash(guest_id, rustix::process::getegid().as_raw())),
        ..Config::default()
    }
}

/// Every host id seems `guest_id` in the guest; every guest id is `host_id` here.
fn squash(guest_id: u32, host_id: u32) -> Vec<IdMap> {
    // All ids there are: the highest number means "none".
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
