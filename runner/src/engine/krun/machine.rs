//! The machine's process: it confines itself, configures libkrun, and becomes the VM.
//!
//! A guest that breaks out of libkrun can do what this process may do. So that is little:
//! - its root directory holds the spec's files and directories, at their own paths, and nothing else;
//! - in its user namespace only the runner's user exists;
//! - it is alone in its PID namespace, so it sees and signals no other process;
//! - Landlock and a system call filter ([`crate::confine::calls`]) enforce the same independently.
//!
//! On a host without these namespaces the machine does not start, and the error says what to change.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::CapabilitySet;

use super::ffi::{Context, KrunError};
use super::order::{
    CONSOLE_FD, FIRST_SHARE_FD, HAND_OVER_FD, Order, SOCKET, SOCKET_DIRECTORY, STREAMS,
};
use crate::confine::calls::{Calls, FilterError};
use crate::confine::fence::{self, Fence, Right};
use crate::confine::{missing, namespaces, order, process};
use crate::engine::kernel_command_line;
use crate::role;

/// The device of the host's virtualization.
const KVM: &str = "/dev/kvm";

/// libkrun opens a file again by its descriptor here.
const OWN_FILES: &str = "/proc/self/fd";

/// Why the machine can't be built.
#[derive(Debug, thiserror::Error)]
enum MachineError {
    /// The order is not understood.
    #[error("understand the order: {0}")]
    Order(#[from] serde_json::Error),
    /// The host refuses a step of the confinement.
    #[error("{operation}: {source}; {remedy}")]
    Isolation {
        operation: String,
        source: io::Error,
        remedy: &'static str,
    },
    /// There is no Landlock fence.
    #[error("enter a Landlock fence: {0}")]
    Fence(String),
    /// There is no system call filter.
    #[error("filter system calls: {0}")]
    Calls(#[from] FilterError),
    /// libkrun refuses a call.
    #[error(transparent)]
    Krun(#[from] KrunError),
}

fn isolation(operation: impl Into<String>) -> impl FnOnce(io::Error) -> MachineError {
    let operation = operation.into();
    |source| MachineError::Isolation {
        operation,
        source,
        remedy: "allow user namespaces (sysctl user.max_user_namespaces, \
                 kernel.apparmor_restrict_unprivileged_userns), or set engine = \"qemu\"",
    }
}

/// Becomes the machine; returns only on failure.
pub(crate) fn run() -> ExitCode {
    process::print_warnings(role::KRUN);
    let error = match order::read::<Order>() {
        Ok(order) => match prepare(&order) {
            Ok(context) => context.enter().into(),
            Err(error) => error,
        },
        Err(error) => error.into(),
    };
    complain!("{}: {error}", role::KRUN);
    ExitCode::FAILURE
}

/// All steps before the guest runs.
fn prepare(order: &Order) -> Result<Context, MachineError> {
    // SAFETY: this process inherits the console at this number, and nothing else uses it.
    let console = unsafe { OwnedFd::from_raw_fd(CONSOLE_FD) };
    process::raise_open_files().map_err(isolation("raise the limit of open files"))?;
    let spec = &order.spec;
    // SAFETY: this process inherits the socket at this number, and nothing else uses it.
    let hand_over = unsafe { OwnedFd::from_raw_fd(HAND_OVER_FD) };
    if !namespaces::are_own() {
        let refused = io::Error::other("the kernel refuses it");
        return Err(isolation("enter a user namespace")(refused));
    }
    // If this fails, the host's /proc stays, but only the directory of this process's descriptors gets into its root.
    if let Err(why) = namespaces::mount_own_proc() {
        missing::report(role::KRUN, &namespaces::without_own_proc(&why.into()));
    }
    let socket = enter_new_root(&places(order))?;
    send(&hand_over, &socket).map_err(isolation("hand over the link's directory"))?;
    drop((hand_over, socket));
    drop_capabilities().map_err(isolation("drop capabilities"))?;

    let context = Context::new()?;
    let cpus = u8::try_from(spec.cpus).unwrap_or(u8::MAX);
    context.set_size(cpus, spec.memory_mib)?;
    context.set_kernel(
        &spec.kernel,
        &spec.initramfs,
        &kernel_command_line(spec, None),
    )?;
    for (number, disk) in spec.disks.iter().enumerate() {
        let name = format!("disk{number}");
        context.add_disk(&name, &disk.path, disk.format, disk.read_only)?;
    }
    let sockets = Path::new(SOCKET_DIRECTORY);
    context.add_vsock()?;
    context.add_vsock_port(spec.link_port, &sockets.join(SOCKET))?;
    if let Some(streams) = &spec.streams {
        context.add_vsock_port(streams.port, &sockets.join(STREAMS))?;
    }
    for (share, number) in spec.shares.iter().zip(FIRST_SHARE_FD..) {
        let socket = Path::new(OWN_FILES).join(number.to_string());
        context.add_vsock_service(share.port, &socket)?;
    }
    context.add_serial(console)?;

    fence(order)
        .enter()
        .map_err(|why| MachineError::Fence(why.to_string()))?;
    if let Some(fence) = fence::missing() {
        missing::report(role::KRUN, &fence);
    }
    Calls::of_machine().enforce()?;
    Ok(context)
}

/// A file or directory of the host that the machine gets, at the same path.
struct Place {
    path: PathBuf,
    right: Right,
}

/// The files of the host that the machine needs; a directory is before the places in it.
fn places(order: &Order) -> Vec<Place> {
    let spec = &order.spec;
    let place = |path: &Path, right| Place {
        path: path.to_owned(),
        right,
    };
    let mut places = vec![
        place(Path::new(KVM), Right::Device),
        place(Path::new(OWN_FILES), Right::Read),
        place(&spec.kernel, Right::Read),
        place(&spec.initramfs, Right::Read),
    ];
    for disk in &spec.disks {
        let right = if disk.read_only {
            Right::Read
        } else {
            Right::Write
        };
        places.push(place(&disk.path, right));
        places.extend(disk.backing.iter().map(|path| place(path, Right::Read)));
    }
    places.sort_by(|a, b| a.path.cmp(&b.path));
    places.dedup_by(|a, b| a.path == b.path);
    places
}

fn fence(order: &Order) -> Fence {
    let fence = Fence::default().allow(SOCKET_DIRECTORY, Right::Make);
    places(order)
        .iter()
        .fold(fence, |fence, place| fence.allow(&place.path, place.right))
}

/// Makes a root directory for this process, with the places and a directory for the link's socket; gives the latter.
fn enter_new_root(places: &[Place]) -> Result<OwnedFd, MachineError> {
    let step = |what: &str| isolation(what.to_owned());
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|error| step("keep mounts to itself")(error.into()))?;
    // Any directory will do: only this process sees the mount.
    let root = Path::new("/tmp");
    // The places may be below it, so they are opened before they are hidden.
    let opened = places
        .iter()
        .map(open_tree)
        .collect::<Result<Vec<_>, _>>()?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(
        "root",
        root,
        "tmpfs",
        flags,
        c"mode=755,size=64k,nr_inodes=1k",
    )
    .map_err(|error| step("make a root directory")(error.into()))?;
    for (place, tree) in places.iter().zip(opened) {
        attach(root, place, &tree)?;
    }
    let enter = || -> rustix::io::Result<OwnedFd> {
        let link = root.join(SOCKET_DIRECTORY.trim_start_matches('/'));
        rustix::fs::mkdir(&link, rustix::fs::Mode::RWXU)?;
        // Room for the socket only, whatever the guest does.
        rustix::mount::mount(
            "link",
            &link,
            "tmpfs",
            flags,
            c"mode=700,size=4k,nr_inodes=4",
        )?;
        let socket = rustix::fs::open(
            &link,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        rustix::process::chdir(root)?;
        namespaces::pivot_to_working_directory()?;
        rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"")?;
        Ok(socket)
    };
    enter().map_err(|error| step("enter its root directory")(error.into()))
}

/// Sends the runner a descriptor.
fn send(to: &OwnedFd, descriptor: &OwnedFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sent = [std::os::fd::AsFd::as_fd(descriptor)];
    ancillary.push(SendAncillaryMessage::ScmRights(&sent));
    rustix::net::sendmsg(
        to,
        &[io::IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// A separate mount of a place.
fn open_tree(place: &Place) -> Result<OwnedFd, MachineError> {
    use rustix::mount::OpenTreeFlags;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(rustix::fs::CWD, &place.path, flags)
        .map_err(|error| isolation(format!("take {}", place.path.display()))(error.into()))
}

/// Mounts a place in the new root, at the same path.
fn attach(root: &Path, place: &Place, tree: &OwnedFd) -> Result<(), MachineError> {
    let failed = || isolation(format!("show {} to the machine", place.path.display()));
    let target = root.join(place.path.strip_prefix("/").unwrap_or(&place.path));
    let stat = rustix::fs::fstat(tree).map_err(|error| failed()(error.into()))?;
    let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let make = || -> io::Result<()> {
        if target.symlink_metadata().is_ok() {
            return Ok(());
        }
        if directory {
            return fs::create_dir_all(&target);
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(&target)?.set_permissions(fs::Permissions::from_mode(0o600))
    };
    make().map_err(failed())?;
    rustix::mount::move_mount(
        tree,
        "",
        rustix::fs::CWD,
        &target,
        rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|error| failed()(error.into()))?;
    if place.right == Right::Read && place.path != Path::new(OWN_FILES) {
        let kept = rustix::fs::statvfs(&target)
            .map_err(|error| failed()(error.into()))?
            .f_flag;
        // Keep the restrictions of the host's mount: a user namespace may not remove them.
        // The flags of a mount are all in the lower half.
        let kept = u32::try_from(kept.bits() & u64::from(u32::MAX)).unwrap_or_default();
        let flags = MountFlags::from_bits_truncate(kept)
            & (MountFlags::NOSUID
                | MountFlags::NODEV
                | MountFlags::NOEXEC
                | MountFlags::NOATIME
                | MountFlags::NODIRATIME
                | MountFlags::RELATIME);
        rustix::mount::mount_remount(&target, flags | MountFlags::BIND | MountFlags::RDONLY, c"")
            .map_err(|error| failed()(error.into()))?;
    }
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    Ok(namespaces::keep_only(CapabilitySet::empty())?)
}
