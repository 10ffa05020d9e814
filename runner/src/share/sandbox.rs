//! Shutting the server of a share off from the rest of the host.
//!
//! Three fences, each of which does without the others:
//! - the directory becomes the root of this process's own mount namespace, so there is no path out of it. An
//!   ordinary user needs a user namespace for that, which some hosts refuse;
//! - Landlock forbids to open or change anything outside the directory, where the kernel has it;
//! - no capability is left but, to root, those of treating other users' files as its own.
//!
//! What can't be had is said once on standard error. [`super::guard`] holds in any case.

use std::io;
use std::os::fd::OwnedFd;

use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::fence::{Fence, Right};
use crate::process;

/// Enters the sandbox around `share`, with one thread running; gives the directory's path within. No path outside is
/// looked up for that.
pub(super) fn enter(share: OwnedFd) -> io::Result<&'static str> {
    rustix::process::fchdir(&share)?;
    drop(share);
    let root = match own_root() {
        Ok(()) => "/",
        Err(why) => {
            eprintln!("share: warning: no mount namespace of its own ({why})");
            "."
        }
    };
    if let Err(why) = Fence::default().allow(root, Right::All).enter() {
        eprintln!("share: warning: no Landlock ({why})");
    }
    drop_capabilities()?;
    Ok(root)
}

/// Makes the working directory the root. A new mount namespace takes it along, where a descriptor would stay behind.
fn own_root() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS | process::ISOLATED;
    if rustix::process::geteuid().is_root() {
        // Without a user namespace: in one, root could not open what belongs to others.
        // SAFETY: no namespace flag shares or unshares file descriptors, which is what could break other code.
        unsafe { rustix::thread::unshare_unsafe(flags)? };
    } else {
        process::enter_user_namespace(flags)?;
    }
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
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
    // The old root ends up on top of the new one, from where it is taken.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    let kept = if rustix::process::geteuid().is_root() {
        CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER
    } else {
        CapabilitySet::empty()
    };
    let had = rustix::thread::capabilities(None)?.permitted;
    let kept = kept & had;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}
