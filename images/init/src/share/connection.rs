//! The kernel's connection of a FUSE file system, which it gives up on request.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

/// Where the kernel lists its connections.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Has the kernel end the file system at `path`: programs that wait for it get an error, and later ones, too.
pub(super) fn give_up(path: &Path, why: &io::Error) {
    tracing::error!(path = %path.display(), error = %why, "the directory of the host is lost");
    let list = Path::new(CONNECTIONS);
    // It is mounted already if it was done before.
    mount("fusectl", list, "fusectl", MountFlags::empty(), c"").ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(number) = device_number(&mounts, path) {
        // Nothing else can be done.
        fs::write(list.join(number).join("abort"), "1").ok();
    }
}

/// The number of the file system that is mounted at `path`, which names its connection. Pure: nothing asks the file system.
fn device_number(mounts: &str, path: &Path) -> Option<String> {
    let line = mounts.lines().rev().find(|line| {
        let place = line.split(' ').nth(4);
        place.is_some_and(|place| Path::new(place) == path)
    })?;
    let (_, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some(minor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_without_asking_the_file_system() {
        let mounts = "22 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
                      40 22 0:37 / /workspace rw,nosuid - fuse.snowglobe workspace rw\n";
        assert_eq!(
            device_number(mounts, Path::new("/workspace")),
            Some("37".into())
        );
        assert_eq!(device_number(mounts, Path::new("/else")), None);
    }
}
