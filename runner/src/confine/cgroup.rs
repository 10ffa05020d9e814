//! A bound on what a VM's processes take of the host, where a control group can be made for them.
//!
//! That is where this process may make groups beside or below its own: as root, or in what systemd has delegated to
//! the user. Elsewhere there is none, and the VM's own size is the only bound.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";

/// What an engine may take beside the guest's own memory: its code, its buffers, what it keeps of files.
const BESIDE_THE_GUEST_MIB: u64 = 512;

/// Threads and processes; an engine has a few per processor and per disk.
const MAX_THREADS: u32 = 512;

/// A control group, removed when this is dropped; all in it must have ended by then.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group that holds as much as a guest of that memory needs.
    pub(crate) fn create(guest_mib: u32) -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let own = own(&groups)
            .ok_or_else(|| io::Error::other("this process is in no unified control group"))?;
        let own = Path::new(ROOT).join(own.trim_start_matches('/'));
        let name = format!("snowglobe-{}", std::process::id());
        let mut refused = io::Error::other("there is no control group above");
        // Where a group has processes of its own, those below it get no bounds: hence the second one.
        for parent in own.ancestors().take(2).filter(|dir| dir.starts_with(ROOT)) {
            match Self::within(parent, &name, guest_mib) {
                Ok(made) => return Ok(made),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn within(parent: &Path, name: &str, guest_mib: u32) -> io::Result<Self> {
        // Refused where they are on already or can't be; whether they are is seen below.
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory +pids");
        let path = parent.join(name);
        fs::create_dir(&path)?;
        let group = Self(path);
        let bytes = (u64::from(guest_mib) + BESIDE_THE_GUEST_MIB) << 20;
        group.set("memory.max", &bytes.to_string())?;
        group.set("pids.max", &MAX_THREADS.to_string())?;
        Ok(group)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let set = || {
            let path = self.0.join(file);
            fs::File::options()
                .write(true)
                .open(path)
                .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        };
        set().map_err(|error| io::Error::new(error.kind(), format!("set {file}: {error}")))
    }

    /// Takes a process in, with all it starts from then on.
    pub(crate) fn add(&self, process: u32) -> io::Result<()> {
        self.set("cgroup.procs", &process.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The path of this process's group in the unified hierarchy. Pure.
fn own(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_the_one_of_number_0() {
        let mixed = "9:name=systemd:/a\n4:memory:/b\n0::/user.slice/session.scope\n";
        assert_eq!(own(mixed), Some("/user.slice/session.scope"));
        assert_eq!(own("4:memory:/b\n"), None);
    }
}
