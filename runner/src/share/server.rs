//! The process that serves a share.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as BackendError, VhostUserDaemon};
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::Order;
use super::guard::Guard;
use super::sandbox::{self, Inside};
use crate::{process, spawn};

/// The listening socket's number in this process.
const LISTENER_FD: i32 = 3;

/// Descriptors that the guest's open files must leave: one per memory region of the protocol, and some.
const OWN_FDS: u64 = 700;

/// For how long the guest may believe what it has seen of a file, so for how long a change on the host may be
/// overlooked.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// Serves until the engine hangs up.
pub(crate) fn serve() -> ExitCode {
    let served = spawn::order()
        .map_err(Into::into)
        .and_then(|order| try_serve(&order));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("share: {error}");
            ExitCode::FAILURE
        }
    }
}

type Error = Box<dyn std::error::Error>;

fn try_serve(order: &Order) -> Result<(), Error> {
    // SAFETY: the runner gave this process the listening socket as that number, and nothing else uses it.
    let mut listener = unsafe { Listener::from_raw_fd(LISTENER_FD) };
    process::hand_on_warnings("share");
    process::end_when_panicking();
    let open_files = process::raise_open_files()?;
    let Inside { root, own_files } = sandbox::enter()?;
    let config = config(order.share.guest_id, root, own_files.into(), open_files);
    let fs = Guard::new(PassthroughFs::new(config)?);
    let backend = VhostUserFsBackendBuilder::default().build(fs)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("share".into(), Arc::new(backend), memory)
        .map_err(|e| e.to_string())?;
    daemon.start(&mut listener).map_err(|e| e.to_string())?;
    match daemon.wait() {
        Ok(())
        | Err(BackendError::HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => {
            Ok(())
        }
        Err(error) => Err(error.to_string().into()),
    }
}

fn config(guest_id: u32, root: &str, proc_self_fd: File, open_files: u64) -> Config {
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
