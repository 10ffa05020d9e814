//! Shutting the server of a share off from the rest of the host.
//!
//! Four fences, each of which does without the others:
//! - the directory becomes the root of this process's own mount namespace, so there is no path out of it; the process
//!   sees and signals no other, since it is alone in its PID namespace. An ordinary user needs a user namespace for
//!   that, which some hosts refuse;
//! - Landlock forbids to open or change anything outside the directory, where the kernel has it;
//! - no capability is left but, to root, those of treating other users' files as its own;
//! - of system calls only those are allowed that serving a share takes ([`crate::confine::calls`]).
//!
//! What can't be had is said on standard error. [`super::guard`] holds in any case.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::ARGUMENT;
use crate::confine::calls::Calls;
use crate::confine::fence::{self, Fence, Right};
use crate::confine::{process, spawn};

/// By which the file server opens again what it has found.
const OWN_FILES: &str = "/proc/self/fd";

/// The share as it is inside the sandbox.
pub(super) struct Inside {
    /// The path of its directory.
    pub(super) root: &'static str,
    /// [`OWN_FILES`], from which no path leads to the rest of `/proc`.
    pub(super) own_files: OwnedFd,
}

/// Enters the sandbox around the share, which is the working directory, with one thread running. No path outside is
/// looked up for that.
pub(super) fn enter() -> io::Result<Inside> {
    let lacks = |what: String| process::say_lack(ARGUMENT, &what);
    if spawn::is_apart()
        && let Err(why) = spawn::own_proc()
    {
        lacks(spawn::no_own_proc(&why.into()));
    }
    let own_files = own_files()?;
    let root = match own_root() {
        Ok(()) => "/",
        Err(why) => {
            lacks(format!("a root directory of its own ({why})"));
            "."
        }
    };
    let entered = Fence::default().allow(root, Right::All).enter();
    if let Err(why) = entered {
        lacks(format!("Landlock: {why}"));
    } else if let Some(lack) = fence::lack() {
        lacks(lack);
    }
    drop_capabilities()?;
    if let Err(why) = Calls::of_share().filter() {
        lacks(format!("a filter of system calls: {why}"));
    }
    Ok(Inside { root, own_files })
}

/// The directory of this process's files, as a mount of its own where there can be one: then `..` stays in it.
fn own_files() -> io::Result<OwnedFd> {
    let alone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let opened = match spawn::is_apart() {
        true => rustix::mount::open_tree(rustix::fs::CWD, OWN_FILES, alone),
        false => Err(rustix::io::Errno::PERM),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(opened.or_else(|_| rustix::fs::open(OWN_FILES, flags, Mode::empty()))?)
}

fn own_root() -> io::Result<()> {
    if !spawn::is_apart() {
        return Err(io::Error::other("there is no mount namespace for it"));
    }
    Ok(spawn::own_root()?)
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
