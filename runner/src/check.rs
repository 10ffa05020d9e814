//! Checks a spec before anything is started.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use snowglobe_runner::{Disk, EngineSpec, Share, VmSpec};

use crate::error::StartError;
use crate::share::STAGE as SHARE_STAGE;

/// The guest kernel's maximum.
const MAX_CPUS: u32 = 64;

/// The kernel and init need this much.
const MIN_MEMORY_MIB: u32 = 128;

/// The maximum length of a tag.
const MAX_TAG: usize = 36;

/// The kernel's command line holds 2048 bytes, of which the machine needs some for its devices.
const MAX_KERNEL_ARGS: usize = 1200;

/// The machine has 7 device slots; the serial port, the random number generator and the balloon take three.
const MAX_DISKS: usize = 4;

/// A share takes no slot: it is a port of the serial device, or of vsock. Each has a process.
const MAX_SHARES: usize = 4;

type Checked = Result<(), StartError>;

fn refuse(message: impl Into<String>) -> Checked {
    Err(StartError::new("spec", message))
}

/// Checks the values of a spec; `passed` is the number of descriptors that the parent passed on. Pure.
pub(crate) fn words(spec: &VmSpec, passed: usize) -> Checked {
    numbers(spec)?;
    descriptors(spec, passed)?;
    names(spec)?;
    paths(spec)?;
    spec.shares.iter().try_for_each(git_of)
}

/// Checks that the spec's files exist and can be used.
pub(crate) fn files(spec: &VmSpec) -> Checked {
    kernel(&spec.kernel)?;
    readable("initramfs", &spec.initramfs)?;
    spec.disks.iter().try_for_each(disk)?;
    spec.shares.iter().try_for_each(share)?;
    match &spec.engine {
        EngineSpec::Qemu { .. } if std::env::consts::ARCH != "x86_64" => Err(StartError::new(
            "qemu",
            "only x86-64 guests are built so far, and this host has another processor architecture",
        )),
        EngineSpec::Krun if std::env::consts::ARCH != "x86_64" => Err(StartError::new(
            "krun",
            "only x86-64 guests are built so far, and this host has another processor architecture",
        )),
        EngineSpec::Qemu { .. } | EngineSpec::Krun => Ok(()),
    }
}

/// Checks that the VM's files belong to the user, so that no other user can replace them meanwhile; read-only files may
/// belong to root. A missing file is no error here. Shares are not checked: a guest can do to them only what the user
/// may.
pub(crate) fn owners(spec: &VmSpec) -> Checked {
    let directory = |path: &Path| path.parent().map(Path::to_owned);
    let written = spec.disks.iter().filter(|disk| !disk.read_only);
    let own = [
        ("link_socket's directory", directory(&spec.link_socket)),
        ("console_log's directory", directory(&spec.console_log)),
        (
            "the streams' directory",
            spec.streams
                .as_ref()
                .and_then(|port| directory(&port.socket)),
        ),
    ]
    .into_iter()
    .chain(written.map(|disk| ("a disk", Some(disk.path.clone()))))
    .chain(
        spec.remove
            .iter()
            .chain(&spec.remove_if_orphaned)
            .map(|path| ("a path to remove", Some(path.clone()))),
    );
    own.filter_map(|(what, path)| Some((what, path?)))
        .try_for_each(|(what, path)| owner(what, &path, false))?;
    let read = spec.disks.iter().filter(|disk| disk.read_only);
    [("kernel", &spec.kernel), ("initramfs", &spec.initramfs)]
        .into_iter()
        .chain(read.map(|disk| ("a disk", &disk.path)))
        .chain(
            spec.disks
                .iter()
                .flat_map(|disk| &disk.backing)
                .map(|path| ("a disk's backing file", path)),
        )
        .try_for_each(|(what, path)| owner(what, path, true))
}

fn owner(what: &str, path: &Path, or_root: bool) -> Checked {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Its owner is unknown: it may exist.
        Err(error) => return refuse(format!("{what} is {}: {error}", path.display())),
    };
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() == us || (or_root && metadata.uid() == 0) {
        return Ok(());
    }
    refuse(format!(
        "{what} is {}, which belongs to user {} and not to user {us}, who runs the VM; \
         use a file of your own, or chown it",
        path.display(),
        metadata.uid()
    ))
}

/// The numbers. Pure.
fn numbers(spec: &VmSpec) -> Checked {
    if !(1..=MAX_CPUS).contains(&spec.cpus) {
        return refuse(format!(
            "cpus is {}; it must be from 1 to {MAX_CPUS}",
            spec.cpus
        ));
    }
    if spec.memory_mib < MIN_MEMORY_MIB {
        return refuse(format!(
            "memory_mib is {}; a guest needs at least {MIN_MEMORY_MIB}",
            spec.memory_mib
        ));
    }
    for (what, count, most) in [
        ("disks", spec.disks.len(), MAX_DISKS),
        ("shares", spec.shares.len(), MAX_SHARES),
    ] {
        if count > most {
            return refuse(format!("there are more than {most} {what}"));
        }
    }
    let ports = [spec.link_port].into_iter();
    let ports = ports.chain(spec.streams.iter().map(|port| port.port));
    let mut ports: Vec<u32> = ports.collect();
    for share in &spec.shares {
        if ports.contains(&share.port) {
            return refuse(format!(
                "the share {} has the vsock port {}, which something else has",
                share.tag, share.port
            ));
        }
        ports.push(share.port);
    }
    Ok(())
}

/// The descriptors. Pure.
fn descriptors(spec: &VmSpec, passed: usize) -> Checked {
    let mut opened = spec.shares.iter().filter_map(|share| share.opened);
    match opened.find(|opened| *opened >= passed) {
        Some(opened) => refuse(format!(
            "a share is descriptor {opened} of those that the parent passed on, and it passed on {passed}"
        )),
        None => Ok(()),
    }
}

/// The names. Pure.
fn names(spec: &VmSpec) -> Checked {
    let plain = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let tags = spec
        .shares
        .iter()
        .map(|share| ("a share's tag", &share.tag));
    let streams = spec
        .streams
        .iter()
        .map(|port| ("the streams' name", &port.name));
    for (what, name) in [("name", &spec.name), ("link_name", &spec.link_name)]
        .into_iter()
        .chain(streams)
        .chain(tags)
    {
        if !plain(name) {
            return refuse(format!(
                "{what} is {name:?}; it must consist of A-Z a-z 0-9 . _ -"
            ));
        }
    }
    for (n, share) in spec.shares.iter().enumerate() {
        if share.tag.len() > MAX_TAG {
            return refuse(format!(
                "the share's tag {} is longer than {MAX_TAG} bytes",
                share.tag
            ));
        }
        if spec.shares[..n].iter().any(|other| other.tag == share.tag) {
            return refuse(format!("two shares have the tag {}", share.tag));
        }
    }
    let length: usize = spec.kernel_args.iter().map(|arg| arg.len() + 1).sum();
    if length > MAX_KERNEL_ARGS
        || spec
            .kernel_args
            .iter()
            .any(|arg| arg.chars().any(char::is_control))
    {
        return refuse(format!(
            "kernel_args are longer than {MAX_KERNEL_ARGS} bytes, or hold control characters"
        ));
    }
    Ok(())
}

/// What is said of git in a share. Pure.
fn git_of(share: &Share) -> Checked {
    let worktree = share
        .repository
        .iter()
        .filter_map(|it| it.worktree.as_ref());
    for name in worktree {
        if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
            return refuse(format!("the worktree {name:?} has no name of a directory"));
        }
    }
    for path in &share.hooks {
        let plain =
            |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
        if !Path::new(path).components().all(plain) {
            return refuse(format!("the hooks {path:?} are not in the share"));
        }
    }
    Ok(())
}

/// The paths as such. Pure.
fn paths(spec: &VmSpec) -> Checked {
    let listed = [
        ("kernel", &spec.kernel),
        ("initramfs", &spec.initramfs),
        ("link_socket", &spec.link_socket),
    ];
    let disks = spec.disks.iter().map(|disk| ("a disk", &disk.path));
    let shares = spec.shares.iter().map(|share| ("a share", &share.path));
    let removed = spec
        .remove
        .iter()
        .chain(&spec.remove_if_orphaned)
        .map(|path| ("a path to remove", path));
    let all = listed
        .into_iter()
        .chain([("console_log", &spec.console_log)])
        .chain(
            spec.streams
                .iter()
                .map(|port| ("the streams' socket", &port.socket)),
        )
        .chain(disks)
        .chain(shares)
        .chain(removed);
    for (what, path) in all {
        if !path.is_absolute() || path.parent().is_none() {
            return refuse(format!(
                "{what} is {}; it must be an absolute path",
                path.display()
            ));
        }
    }
    Ok(())
}

fn open(stage: &'static str, path: &Path, write: bool) -> Result<File, StartError> {
    let opened = File::options().read(true).write(write).open(path);
    opened.map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("{} does not exist", path.display()),
            io::ErrorKind::PermissionDenied if write => {
                format!("{} may not be read and written", path.display())
            }
            io::ErrorKind::PermissionDenied => format!("{} may not be read", path.display()),
            _ => format!("open {}: {error}", path.display()),
        };
        StartError::new(stage, message)
    })
}

fn readable(stage: &'static str, path: &Path) -> Checked {
    open(stage, path, false).map(drop)
}

fn kernel(path: &Path) -> Checked {
    let mut magic = [0; 4];
    let read = open("kernel", path, false)?.read_exact(&mut magic);
    match (read, &magic) {
        (Ok(()), b"\x7fELF") => Ok(()),
        (Ok(()), b"\x28\xb5\x2f\xfd") => Err(StartError::new(
            "kernel",
            format!(
                "{} is compressed; unpack it with zstd first",
                path.display()
            ),
        )),
        _ => Err(StartError::new(
            "kernel",
            format!("{} is not an ELF file", path.display()),
        )),
    }
}

fn disk(disk: &Disk) -> Checked {
    let file = open("disk", &disk.path, !disk.read_only)?;
    let kind = file
        .metadata()
        .map_err(StartError::io("disk", disk.path.display()))?
        .file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    Err(StartError::new(
        "disk",
        format!("{} is not a file", disk.path.display()),
    ))
}

fn share(share: &Share) -> Checked {
    let path = share.path.display();
    if share.opened.is_some() {
        // The descriptor is used, whatever its path leads to now.
        return Ok(());
    }
    match std::fs::metadata(&share.path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(StartError::new(
            SHARE_STAGE,
            format!("{path} is not a directory"),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StartError::new(
            SHARE_STAGE,
            format!("{path} does not exist"),
        )),
        Err(error) => Err(StartError::new(SHARE_STAGE, format!("{path}: {error}"))),
    }
}
