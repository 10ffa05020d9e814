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
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::fence::{Fence, Right};
use crate::process;

/// Enters the sandbox around `share`, with one thread running; gives the directory's path within.
pub(super) fn enter(share: &Path) -> io::Result<String> {
    let root = match own_root(share) {
        Ok(()) => "/".to_owned(),
        Err(why) => {
            eprintln!("share: warning: no mount namespace of its own ({why})");
            let path = share
                .to_str()
                .ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
            path.to_owned()
        }
    };
    if let Err(why) = Fence::default().allow(&root, Right::All).enter() {
        eprintln!("share: warning: no Landlock ({why})");
    }
    drop_capabilities()?;
    Ok(root)
}

fn own_root(share: &Path) -> io::Result<()> {
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
    rustix::mount::mount_bind_recursive(share, share)?;
    rustix::process::chdir(share)?;
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
