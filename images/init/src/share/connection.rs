//! The kernel's connection of a FUSE file system, which it gives up on request.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
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
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    if let Some(number) = device_number(&mounts, path) {
        // Nothing else can be done.
        fs::write(list.join(number).join("abort"), "1").ok();
    }
}

/// The number of the file system that is mounted at `path`, which names its connection. Pure: nothing asks the file system.
fn device_number(mounts: &[u8], path: &Path) -> Option<String> {
    let path = listed(path);
    let mut lines = mounts.split(|byte| *byte == b'\n').rev();
    let line = lines.find(|line| {
        let place = line.split(|byte| *byte == b' ').nth(4);
        place == Some(path.as_slice())
    })?;
    let number = line.split(|byte| *byte == b' ').nth(2)?;
    let (_, minor) = std::str::from_utf8(number).ok()?.split_once(':')?;
    Some(minor.to_owned())
}

/// A path as the kernel lists it: without blanks.
fn listed(path: &Path) -> Vec<u8> {
    let mut listed = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => listed.extend(format!("\\{byte:03o}").bytes()),
            byte => listed.push(*byte),
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_without_asking_the_file_system() {
        let mounts = b"22 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
                       40 22 0:37 / /workspace rw,nosuid - fuse.snowglobe workspace rw\n\
                       41 22 0:38 / /my\\040repo/.git rw,nosuid - fuse.snowglobe repository rw\n";
        assert_eq!(
            device_number(mounts, Path::new("/workspace")),
            Some("37".into())
        );
        assert_eq!(
            device_number(mounts, Path::new("/my repo/.git")),
            Some("38".into())
        );
        assert_eq!(device_number(mounts, Path::new("/else")), None);
    }
}
