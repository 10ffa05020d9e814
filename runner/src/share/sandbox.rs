//! Confines the server of a share.
//!
//! Four fences, each independent of the others:
//! - the directory becomes the root of this process's own mount namespace, so no path leads out of it; the process is
//!   alone in its PID namespace, so it sees and signals no other. For an ordinary user this needs a user namespace,
//!   which some hosts refuse;
//! - Landlock, where the kernel has it, forbids to open or change anything outside the directory;
//! - no capability is left, except that root may still use other users' files as its own;
//! - the system call filter allows what a file server needs ([`crate::confine::calls`]).
//!
//! Missing fences are reported on standard error. [`super::guard`] works in any case.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use rustix::thread::CapabilitySet;

use crate::confine::calls::Calls;
use crate::confine::fence::{self, Fence, Right};
use crate::confine::{missing, namespaces};
use crate::role;

/// The file server opens a file again by its descriptor here.
const OWN_FILES: &str = "/proc/self/fd";

/// The share, as seen inside the sandbox.
pub(super) struct Inside {
    /// The path of its directory.
    pub(super) root: &'static str,
    /// [`OWN_FILES`]: no path leads from there to the rest of `/proc`.
    pub(super) own_files: OwnedFd,
}

/// Enters the sandbox around the share, which is the working directory, while no other thread runs.
pub(super) fn enter() -> io::Result<Inside> {
    let report = |fence: String| missing::report(role::SHARE, &fence);
    if namespaces::are_own()
        && let Err(why) = namespaces::mount_own_proc()
    {
        report(namespaces::without_own_proc(&why.into()));
    }
    let own_files = own_files()?;
    let root = match own_root() {
        Ok(()) => "/",
        Err(why) => {
            report(format!("a root directory of its own ({why})"));
            "."
        }
    };
    let entered = Fence::default().allow(root, Right::All).enter();
    if let Err(why) = entered {
        report(format!("Landlock: {why}"));
    } else if let Some(fence) = fence::missing() {
        report(fence);
    }
    drop_capabilities()?;
    if let Err(why) = Calls::of_share().enforce() {
        report(format!("a filter of system calls: {why}"));
    }
    Ok(Inside { root, own_files })
}

/// The directory of this process's descriptors, as a separate mount where possible: then `..` stays in it.
fn own_files() -> io::Result<OwnedFd> {
    let alone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let opened = match namespaces::are_own() {
        true => rustix::mount::open_tree(rustix::fs::CWD, OWN_FILES, alone),
        false => Err(rustix::io::Errno::PERM),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(opened.or_else(|_| rustix::fs::open(OWN_FILES, flags, Mode::empty()))?)
}

fn own_root() -> io::Result<()> {
    if !namespaces::are_own() {
        return Err(io::Error::other("there is no mount namespace for it"));
    }
    Ok(namespaces::enter_own_root()?)
}

fn drop_capabilities() -> io::Result<()> {
    let kept = if rustix::process::geteuid().is_root() {
        CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER
    } else {
        CapabilitySet::empty()
    };
    let had = rustix::thread::capabilities(None)?.permitted;
    let kept = kept & had;
    Ok(namespaces::keep_only(kept)?)
}
