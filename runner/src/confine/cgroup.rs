//! A control group that bounds the memory and the threads of a VM's processes.
//!
//! It needs the right to make groups beside or below this process's own: as root, or where systemd has delegated a group
//! to the user. Elsewhere the VM's own size is the only bound.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The mount of the unified hierarchy.
const ROOT: &str = "/sys/fs/cgroup";

/// The memory that an engine may use besides the guest's: its code, its buffers, cached files.
const OVERHEAD_MIB: u64 = 512;

/// The most threads and processes; an engine has a few for each processor and each disk.
const MAX_THREADS: u32 = 512;

/// A control group. Dropping it removes the group; its processes must have ended before.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group with enough memory for a guest of `guest_mib`.
    pub(crate) fn create(guest_mib: u32) -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let own = own(&groups)
            .ok_or_else(|| io::Error::other("this process is in no unified control group"))?;
        let own = Path::new(ROOT).join(own.trim_start_matches('/'));
        let name = format!("snowglobe-{}", std::process::id());
        let mut refused = io::Error::other("there is no control group above");
        // A group with processes of its own can't bound groups below it: then make the group beside it.
        for parent in own.ancestors().take(2).filter(|dir| dir.starts_with(ROOT)) {
            match Self::within(parent, &name, guest_mib) {
                Ok(made) => return Ok(made),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn within(parent: &Path, name: &str, guest_mib: u32) -> io::Result<Self> {
        // An error is ignored here: without the controllers, setting the bounds below fails.
        fs::write(parent.join("cgroup.subtree_control"), "+memory +pids").ok();
        let path = parent.join(name);
        fs::create_dir(&path)?;
        let group = Self(path);
        let bytes = (u64::from(guest_mib) + OVERHEAD_MIB) << 20;
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

    /// Moves a process into the group; what it starts later is in the group too.
    pub(crate) fn add(&self, process: u32) -> io::Result<()> {
        self.set("cgroup.procs", &process.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
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
