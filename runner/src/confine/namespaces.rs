//! The namespaces of a child, and what it does in them before it becomes its program.

use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The namespaces that every child is made in. The mount namespace follows once the child is in its directory: the
/// working directory moves into the new namespace, an open descriptor would not.
const NAMESPACES: i32 =
    libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// The user id of a host program inside its user namespace. It is not 0, so the program has no capabilities.
const NOBODY: u32 = 65534;

/// The user and the namespaces of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// In a user namespace of its own, as nobody: no capabilities at all. It opens the files that the runner's user
    /// may open.
    Unprivileged,
    /// As root, with the one capability of opening any file: for files in directories that root opens only by that
    /// capability.
    RootOpensFiles,
    /// This program again, which confines itself further: in a user namespace of its own, as this id, with all
    /// capabilities there.
    SelfInUserNamespace(u32),
    /// This program again, which confines itself further: as root, since it opens files of other users.
    SelfAsRoot,
}

impl Confinement {
    /// The flags of `clone` for its namespaces.
    pub(super) fn flags(self) -> i32 {
        match self {
            Self::Unprivileged | Self::SelfInUserNamespace(_) => libc::CLONE_NEWUSER | NAMESPACES,
            Self::RootOpensFiles | Self::SelfAsRoot => NAMESPACES,
        }
    }

    /// The id maps that the child writes in its user namespace; `None` without one.
    pub(super) fn id_maps(self) -> Option<IdMaps> {
        match self {
            Self::Unprivileged => Some(IdMaps::to(NOBODY)),
            Self::SelfInUserNamespace(id) => Some(IdMaps::to(id)),
            Self::RootOpensFiles | Self::SelfAsRoot => None,
        }
    }
}

/// The id maps of a user namespace.
pub(super) struct IdMaps {
    uid: String,
    gid: String,
}

impl IdMaps {
    /// Maps this process's ids to `inside`.
    fn to(inside: u32) -> Self {
        Self {
            uid: format!("{inside} {} 1", rustix::process::geteuid().as_raw()),
            gid: format!("{inside} {} 1", rustix::process::getegid().as_raw()),
        }
    }

    /// Writes them for this process, which is in the namespace. Allocates nothing.
    pub(super) fn write(&self) -> rustix::io::Result<()> {
        let put = |path: &std::ffi::CStr, text: &str| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty())?;
            rustix::io::write(&file, text.as_bytes()).map(drop)
        };
        put(c"/proc/self/setgroups", "deny")?;
        put(c"/proc/self/uid_map", &self.uid)?;
        put(c"/proc/self/gid_map", &self.gid)
    }
}

/// Whether this process was started in namespaces of its own.
pub(crate) fn are_own() -> bool {
    rustix::process::getpid() == Pid::INIT
}

/// Makes mounts private to this process's namespace, and mounts a `/proc` that shows this PID namespace only.
pub(crate) fn mount_own_proc() -> rustix::io::Result<()> {
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", all)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"proc", c"/proc", c"proc", flags, None)
}

/// Makes the working directory the root of this process's mount namespace, so that no path leads out of it.
pub(crate) fn enter_own_root() -> rustix::io::Result<()> {
    let tree = rustix::mount::open_tree(
        rustix::fs::CWD,
        ".",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, ".", whole)?;
    rustix::process::fchdir(&tree)?;
    pivot_to_working_directory()
}

/// Makes the working directory, which is a mount, the root directory, and unmounts the old root.
pub(crate) fn pivot_to_working_directory() -> rustix::io::Result<()> {
    // The old root is then mounted on top of the new one: unmounting `.` removes it.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// The missing fence, in words, where [`mount_own_proc`] fails.
pub(crate) fn without_own_proc(why: &io::Error) -> String {
    format!("a /proc of its own: the kernel refuses it ({why})")
}

/// Mounts an empty directory over the host's `/proc`.
pub(super) fn hide_proc() -> rustix::io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    rustix::mount::mount(c"none", c"/proc", c"tmpfs", flags, c"size=4k,mode=555")
}

/// Lets the program that this process becomes keep its capabilities in its user namespace.
pub(super) fn keep_capabilities() -> rustix::io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            inheritable: had.permitted,
            ..had
        },
    )?;
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if had.permitted.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

/// Removes every capability but `DAC_OVERRIDE` from the bounding set: no program can get it any more.
pub(super) fn drop_bounding_set() -> rustix::io::Result<()> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if capability == CapabilitySet::DAC_OVERRIDE {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no capability with this number or a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reduces this thread's capabilities to `kept`.
pub(crate) fn keep_only(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}
