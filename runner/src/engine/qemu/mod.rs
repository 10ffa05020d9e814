//! The engine `qemu`: its command line, its process, and its control protocol.
//!
//! QEMU inherits these descriptors, from 3 on: the control protocol, the console, the listening socket of the guest
//! link, and a connection to each share's server. So it opens no socket, and no files of the VM but the kernel, the
//! initramfs and the disks.
//!
//! Every user of the host can read a command line, so it has no path of the VM. QEMU gets the paths over its control
//! protocol before it builds the machine:
//!
//! ```text
//! greeting --> negotiating --> building (a command at a time) --> running <--> switching
//! ```
//!
//! Disks are written through the host's page cache and never flushed there while the VM runs: a crash of the *host*
//! may lose what a running VM wrote, and loses the VM too. The runner flushes what outlives a VM: a layer when it is
//! frozen, a kept disk when the VM ends.

mod qmp;
mod tsc;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit};
use serde_json::{Value, json};
use snowglobe_runner::{Accel, Disk, DiskFormat, VmSpec};

use self::qmp::{Message, Qmp};
use super::{Engine, Frozen, Notice, Process, kernel_command_line, socket_pair};
use crate::confine::fence::{Fence, Right};
use crate::confine::namespaces::Confinement;
use crate::confine::permission;
use crate::confine::spawn::{self, Inherited, Program};
use crate::error::StartError;

const QMP_FD: u32 = 3;
const CONSOLE_FD: u32 = 4;
const LINK_FD: u32 = 5;
const FIRST_SHARE_FD: u32 = 6;

/// The machine: no PCI, no firmware tables, no device that the guest kernel does not use.
const MACHINE: &str =
    "microvm,acpi=off,pcie=off,usb=off,rtc=on,x-option-roms=off,memory-backend=mem";

/// Removes two devices with KVM, which has its own clock for the guest. Under translation, Linux would wait for that timer
/// for ever.
const WITHOUT_ON_KVM: &str = ",pit=off,pic=off";

/// The machine's device slots, in the order in which the guest finds their devices. Slot 3 is left out: it shares
/// interrupt 8 with the clock, and the guest's kernel would then ignore the clock.
const SLOTS: [u8; 7] = [7, 6, 5, 4, 2, 1, 0];

/// The time limit for adding a layer to a disk.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);

/// The error of a write beyond [`VmSpec::max_layer_bytes`].
const TOO_LARGE: &str = "File too large";

/// QEMU's own system call filter.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct Qemu {
    process: Process,
    qmp: Qmp,
    phase: Phase,
    /// The remaining commands before the guest runs, in order.
    build_commands: VecDeque<BuildCommand>,
    /// QEMU's name of the first disk's newest layer.
    node: String,
    layers: u32,
    guest_ended_it: bool,
    binary: PathBuf,
}

/// The last command to QEMU, whose answer is awaited.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// None; its greeting is awaited.
    Greeting,
    /// Accept commands.
    Negotiating(u64),
    /// Build a part of the machine, in this stage. After the last part the guest runs.
    Building(u64, &'static str),
    /// None; the guest runs.
    Running,
    /// Switch the first disk to a new layer of this name.
    Switching(u64, String),
}

/// A command that builds a part of the machine.
#[derive(Debug, PartialEq)]
struct BuildCommand {
    /// The stage of the error when QEMU refuses it.
    stage: &'static str,
    command: &'static str,
    arguments: Value,
}

impl Qemu {
    /// Starts QEMU.
    pub(crate) fn start(
        spec: &VmSpec,
        binary: &Path,
        accel: Accel,
        link: UnixListener,
        shares: Vec<UnixStream>,
    ) -> Result<Self, StartError> {
        let sockets = || -> io::Result<_> { Ok((UnixStream::pair()?, socket_pair()?)) };
        let ((qmp, their_qmp), (console, their_console)) =
            sockets().map_err(StartError::io("qemu", "make its sockets"))?;

        let khz = if accel == Accel::Tcg {
            tsc::khz()
        } else {
            None
        };
        let mut fds = vec![OwnedFd::from(their_qmp), their_console.into(), link.into()];
        fds.extend(shares.into_iter().map(OwnedFd::from));

        let (fence, missing) = fence(spec, binary, accel).for_child();
        let mut started = spawn::spawn(
            &Program::At(binary),
            &arguments(spec, accel),
            confinement(spec),
            Inherited {
                fence,
                fds,
                ..Inherited::default()
            },
        )
        .map_err(|error| cannot_run(binary, &error))?;
        started.missing_fences.extend(missing);
        let finish = || -> io::Result<Qmp> {
            bound_files(started.child.pid(), spec)?;
            Qmp::new(qmp)
        };
        let qmp = match finish() {
            Ok(qmp) => qmp,
            Err(error) => {
                started.child.end();
                return Err(StartError::new(
                    "qemu",
                    format!("bound its files and prepare its control socket: {error}"),
                ));
            }
        };
        let node = "disk0".to_owned();
        let binary = binary.to_owned();
        Ok(Self {
            process: Process::new(started, console),
            qmp,
            phase: Phase::Greeting,
            build_commands: build_commands(spec, khz).into(),
            node,
            layers: 0,
            guest_ended_it: false,
            binary,
        })
    }

    fn ask(&mut self, command: &str, arguments: Value) -> io::Result<u64> {
        self.qmp.send(command, arguments)
    }

    fn answered(&mut self, id: u64, result: Result<Value, String>) -> io::Result<Option<Notice>> {
        match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Negotiating(asked) if asked == id => match result {
                Ok(_) => self.build_next(),
                Err(why) => Err(io::Error::other(format!(
                    "qemu refuses its control protocol: {why}"
                ))),
            },
            Phase::Building(asked, stage) if asked == id => match result {
                Ok(_) => self.build_next(),
                Err(why) => Ok(Some(Notice::Refused(refusal(stage, &why)))),
            },
            Phase::Switching(asked, node) if asked == id => {
                if result.is_ok() {
                    self.node = node;
                }
                Ok(Some(Notice::Frozen(result.map(|_| Frozen::Below))))
            }
            other => {
                self.phase = other;
                Ok(None)
            }
        }
    }
}

impl Qemu {
    /// Sends the next command; after the last one the guest runs.
    fn build_next(&mut self) -> io::Result<Option<Notice>> {
        let Some(order) = self.build_commands.pop_front() else {
            return Ok(Some(Notice::Ready));
        };
        let id = self.ask(order.command, order.arguments)?;
        self.phase = Phase::Building(id, order.stage);
        Ok(None)
    }
}

impl Engine for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    fn control(&self) -> BorrowedFd<'_> {
        self.qmp.as_fd()
    }

    fn notices(&mut self) -> io::Result<Vec<Notice>> {
        let mut notices = Vec::new();
        for message in self.qmp.receive()? {
            match message {
                Message::Greeting if self.phase == Phase::Greeting => {
                    self.phase = Phase::Negotiating(self.ask("qmp_capabilities", json!({}))?);
                }
                Message::Answer { id, result } => notices.extend(self.answered(id, result)?),
                Message::Shutdown(reason) => {
                    self.guest_ended_it = reason.starts_with("guest-") && reason != "guest-panic"
                }
                Message::BlockError { reason, .. } if reason == TOO_LARGE => {
                    notices.push(Notice::Full);
                }
                Message::BlockError { reason, no_space } => {
                    notices.push(Notice::Stalled(match no_space {
                        true => "the host's disk is full".to_owned(),
                        false => format!("the host's disk can't be written ({reason})"),
                    }))
                }
                Message::Greeting | Message::Other => {}
            }
        }
        Ok(notices)
    }

    fn freeze_disk(&mut self, layer: &Path) -> Result<(), String> {
        if self.phase != Phase::Running {
            return Err("the VM is still starting, or another layer is being added".into());
        }
        let node = format!("disk0-{}", self.layers + 1);
        let arguments = json!({
            "node-name": self.node,
            "snapshot-file": layer,
            "snapshot-node-name": node,
            "format": "qcow2",
            "mode": "absolute-paths",
        });
        let id = self
            .ask("blockdev-snapshot-sync", arguments)
            .map_err(|error| format!("ask qemu: {error}"))?;
        self.layers += 1;
        self.phase = Phase::Switching(id, node);
        Ok(())
    }

    fn freeze_limit(&self) -> Option<Duration> {
        Some(FREEZE_LIMIT)
    }

    fn try_resume(&mut self) -> io::Result<bool> {
        self.ask("cont", json!({}))?;
        Ok(true)
    }

    fn guest_ended_it(&self) -> bool {
        self.guest_ended_it
    }

    fn explain(&self, messages: &[String]) -> StartError {
        explain(&self.binary, messages)
    }
}

/// Bounds the size of every file that QEMU writes. The guest's memory is such a file.
fn bound_files(qemu: Pid, spec: &VmSpec) -> io::Result<()> {
    let Some(bytes) = spec.max_layer_bytes else {
        return Ok(());
    };
    let maximum = Some(bytes.max(u64::from(spec.memory_mib) << 20));
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    rustix::process::prlimit(Some(qemu), Resource::Fsize, limit)?;
    Ok(())
}

/// QEMU's user: unprivileged, unless root needs a capability to open the files.
fn confinement(spec: &VmSpec) -> Confinement {
    let read = [&spec.kernel, &spec.initramfs]
        .into_iter()
        .all(|path| permission::readable(path));
    if read
        && spec.disks.iter().all(|disk| {
            if disk.read_only {
                permission::readable(&disk.path)
            } else {
                permission::writable(&disk.path)
            }
        })
    {
        Confinement::Unprivileged
    } else {
        Confinement::RootOpensFiles
    }
}

/// The directories of programs, libraries and QEMU's firmware.
const PROGRAMS: &[&str] = &["/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store"];

/// Other files that QEMU reads when it starts.
const START_FILES: &[&str] = &["/etc/ld.so.cache", "/etc/qemu", "/dev/urandom"];

/// QEMU tests here whether the host supports file locks.
const LOCK_PROBE: &str = "/dev/null";

/// The files that QEMU may open: programs and libraries, and the files of the spec.
fn fence(spec: &VmSpec, binary: &Path, accel: Accel) -> Fence {
    let mut fence = Fence::default()
        .allow(&spec.kernel, Right::Read)
        .allow(&spec.initramfs, Right::Read);
    for path in PROGRAMS {
        fence = fence.allow(path, Right::Run);
    }
    for path in START_FILES {
        fence = fence.allow(path, Right::Read);
    }
    fence = fence.allow(LOCK_PROBE, Right::Write);
    // A QEMU in another directory has its libraries and firmware beside it.
    let home = binary.canonicalize().ok();
    if let Some(prefix) = home.as_deref().and_then(|path| path.parent()?.parent())
        && prefix.parent().is_some()
    {
        fence = fence.allow(prefix, Right::Run);
    }
    if accel == Accel::Kvm {
        fence = fence.allow("/dev/kvm", Right::Device);
    }
    for disk in &spec.disks {
        let right = if disk.read_only {
            Right::Read
        } else {
            Right::Write
        };
        fence = fence.allow(&disk.path, right);
        for path in &disk.backing {
            fence = fence.allow(path, Right::Read);
        }
        // New layers are made beside the newest one.
        if let (false, DiskFormat::Qcow2, Some(directory)) =
            (disk.read_only, disk.format, disk.path.parent())
        {
            fence = fence.allow(directory, Right::Make);
        }
    }
    fence
}

fn cannot_run(binary: &Path, error: &io::Error) -> StartError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; install the package qemu-system-x86",
        _ => "",
    };
    StartError::new("qemu", format!("run {}: {error}{hint}", binary.display()))
}

/// The error in the last message of a QEMU that did not start.
fn explain(binary: &Path, messages: &[String]) -> StartError {
    let said = messages.iter().rev().find(|line| !line.trim().is_empty());
    let Some(said) = said else {
        return StartError::new(
            "qemu",
            format!("{} ended without a message", binary.display()),
        );
    };
    // Messages are "PROGRAM: MESSAGE".
    let said = said
        .split_once(": ")
        .map_or(said.as_str(), |(_, what)| what);
    let all = messages.join("\n");
    if all.contains("vhost-user") || all.contains("vhost_") {
        return StartError::new("workspace share", said);
    }
    if all.contains("is not a valid machine") || all.contains("unsupported machine type") {
        return StartError::new(
            "qemu",
            format!(
                "{said}; this QEMU lacks the machine `microvm`: version 7.2 or newer is needed"
            ),
        );
    }
    StartError::new("qemu", said)
}

/// The error of a command that QEMU refused.
fn refusal(stage: &'static str, why: &str) -> StartError {
    match why.contains("Failed to get") && why.contains("lock") {
        true => StartError::new(
            stage,
            format!(
                "{why}; another VM uses this disk: stop it, or give each VM an overlay of its own"
            ),
        ),
        false => StartError::new(stage, why),
    }
}

/// The commands that name files of the host; the last one starts the guest. Pure.
fn build_commands(spec: &VmSpec, tsc_khz: Option<u64>) -> Vec<BuildCommand> {
    let order = |stage, command, arguments| BuildCommand {
        stage,
        command,
        arguments,
    };
    let property = |name: &str, value: Value| {
        let arguments = json!({ "path": "/machine", "property": name, "value": value });
        order("qemu", "qom-set", arguments)
    };
    let mut orders = vec![
        property("kernel", json!(spec.kernel)),
        property("initrd", json!(spec.initramfs)),
        property(
            "append",
            kernel_command_line(spec, tsc_khz.map(known_clocks).as_deref()).into(),
        ),
    ];
    let disks = spec.disks.iter().enumerate();
    orders.extend(
        disks.map(|(number, disk)| order("disk", "blockdev-add", block_node(number, disk))),
    );
    orders.push(order("qemu", "x-exit-preconfig", json!({})));
    orders
}

/// The command line, without paths of the VM. Pure.
fn arguments(spec: &VmSpec, accel: Accel) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut arg = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        args.push(name.into());
        args.push(value.as_ref().into());
    };
    let (accel, cpu, without) = match accel {
        Accel::Tcg => ("tcg,thread=multi", "max", ""),
        Accel::Kvm => ("kvm", "host", WITHOUT_ON_KVM),
        Accel::Hvf => ("hvf", "host", ""),
    };
    let memory = spec.memory_mib;
    arg("-name", &spec.name);
    arg("-sandbox", &SANDBOX);
    arg(
        "-object",
        &format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
    );
    arg("-machine", &format!("{MACHINE}{without}"));
    arg("-accel", &accel);
    arg("-cpu", &cpu);
    arg("-m", &format!("{memory}M"));
    arg("-smp", &spec.cpus.to_string());
    arg("-display", &"none");

    arg("-chardev", &format!("socket,id=qmp,fd={QMP_FD}"));
    arg("-mon", &"chardev=qmp,mode=control");
    arg("-chardev", &format!("socket,id=console,fd={CONSOLE_FD}"));
    arg("-serial", &"chardev:console");
    let mut slots = SLOTS.iter();
    let mut slot = || {
        slots
            .next()
            .map(|slot| format!(",bus=virtio-mmio-bus.{slot}"))
            .unwrap_or_default()
    };
    arg("-device", &format!("virtio-serial-device{}", slot()));
    arg(
        "-chardev",
        &format!("socket,id=link,fd={LINK_FD},server=on,wait=off"),
    );
    arg(
        "-device",
        &format!("virtserialport,chardev=link,name={}", spec.link_name),
    );
    arg("-object", &"rng-builtin,id=rng");
    arg("-device", &format!("virtio-rng-device,rng=rng{}", slot()));
    arg(
        "-device",
        &format!("virtio-balloon-device,free-page-reporting=on{}", slot()),
    );
    for (number, disk) in spec.disks.iter().enumerate() {
        arg(
            "-device",
            &format!(
                "virtio-blk-device,drive=disk{number}{}{}",
                error_policy(disk),
                slot()
            ),
        );
    }
    for (number, (share, fd)) in spec.shares.iter().zip(FIRST_SHARE_FD..).enumerate() {
        arg("-chardev", &format!("socket,id=share{number},fd={fd}"));
        arg(
            "-device",
            &format!(
                "vhost-user-fs-device,chardev=share{number},tag={},queue-size=1024{}",
                share.tag,
                slot()
            ),
        );
    }
    let words = ["-nodefaults", "-no-user-config", "-no-reboot", "-preconfig"];
    args.extend(words.map(OsString::from));
    args
}

/// Clock rates that a guest under translation need not measure: measuring takes half of the kernel's boot.
///
/// `noreplace-smp` keeps it from patching 8,000 lock prefixes, which is slow under translation and gains nothing. QEMU's
/// APIC timer counts nanoseconds. The delay loop counts the time stamp counter in each of 250 ticks a second.
fn known_clocks(tsc_khz: u64) -> String {
    format!(
        "noreplace-smp tsc=reliable tsc_early_khz={tsc_khz} lpj={} lapic_timer_khz=1000000",
        tsc_khz * 4
    )
}

/// After a failed write QEMU stops the guest, which would otherwise lose its file system.
fn error_policy(disk: &Disk) -> &'static str {
    match disk.read_only {
        true => "",
        false => ",werror=stop,rerror=report",
    }
}

fn block_node(number: usize, disk: &Disk) -> Value {
    let driver = match disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let mut node = json!({
        "driver": driver,
        "node-name": format!("disk{number}"),
        "read-only": disk.read_only,
        "cache": { "direct": false, "no-flush": !disk.read_only },
        "file": { "driver": "file", "filename": disk.path },
    });
    if !disk.read_only {
        node["discard"] = "unmap".into();
        node["detect-zeroes"] = "unmap".into();
    }
    node
}

#[cfg(test)]
mod tests {
    use snowglobe_runner::{Engine, Share};

    use super::*;

    fn spec() -> VmSpec {
        VmSpec {
            isolation: snowglobe_runner::Isolation::Best,
            name: "test".into(),
            engine: Engine::Qemu {
                binary: "/usr/bin/qemu".into(),
                accel: Accel::Tcg,
            },
            cpus: 2,
            memory_mib: 512,
            kernel: "/k/a,b".into(),
            initramfs: "/i".into(),
            kernel_args: vec!["foo=1".into()],
            disks: vec![
                Disk {
                    path: "/d/\"a\",b".into(),
                    format: DiskFormat::Qcow2,
                    read_only: false,
                    backing: Vec::new(),
                },
                Disk {
                    path: "/base".into(),
                    format: DiskFormat::Raw,
                    read_only: true,
                    backing: Vec::new(),
                },
            ],
            shares: vec![Share {
                tag: "workspace".into(),
                path: "/w".into(),
                opened: None,
                guest_id: 1000,
            }],
            link_socket: "/s".into(),
            link_name: "link".into(),
            link_port: 0,
            console_log: "/c".into(),
            max_layer_bytes: None,
            remove: Vec::new(),
            remove_if_orphaned: Vec::new(),
        }
    }

    fn line(accel: Accel, khz: Option<u64>) -> String {
        let args = arguments(&spec(), accel);
        let mut lines: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let kernel = kernel_command_line(&spec(), khz.map(known_clocks).as_deref());
        lines.push(&kernel);
        lines.join("\n") + "\n"
    }

    #[test]
    fn exactly_one_accelerator_with_its_processor() {
        let tcg = line(Accel::Tcg, Some(2_100_000));
        assert!(
            tcg.contains("-accel\ntcg,thread=multi\n-cpu\nmax\n"),
            "{tcg}"
        );
        assert!(
            tcg.contains("tsc_early_khz=2100000 lpj=8400000 lapic_timer_khz=1000000 foo=1\n"),
            "{tcg}"
        );
        let kvm = line(Accel::Kvm, None);
        assert!(kvm.contains("-accel\nkvm\n-cpu\nhost\n"), "{kvm}");
        assert!(
            !kvm.contains("tsc") && kvm.matches("-accel").count() == 1,
            "{kvm}"
        );
        assert!(
            kvm.contains(",pit=off,pic=off\n") && !tcg.contains("pit=off"),
            "{kvm}"
        );
    }

    #[test]
    fn every_device_has_a_slot_and_none_the_clocks() {
        let line = line(Accel::Tcg, None);
        let devices = line.lines().filter(|line| line.contains("-device,"));
        let mut places: Vec<_> = devices
            .map(|device| {
                device
                    .split_once("bus=")
                    .unwrap_or_else(|| panic!("{device}"))
                    .1
            })
            .collect();
        assert!(
            places.len() >= 4 && !places.contains(&"virtio-mmio-bus.3"),
            "{line}"
        );
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), line.matches(",bus=").count(), "{line}");
    }

    #[test]
    fn paths_are_in_commands_and_not_on_the_command_line() {
        let args = arguments(&spec(), Accel::Tcg);
        let line: String = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let paths = ["/k/a,b", "/i", "/d/\"a\",b", "/base", "/w", "/s", "/c"];
        assert!(!paths.iter().any(|path| line.contains(path)), "{line}");
        let commands = build_commands(&spec(), None);
        let sent: Vec<_> = commands
            .iter()
            .map(|order| (order.stage, order.command))
            .collect();
        let (set, add) = (("qemu", "qom-set"), ("disk", "blockdev-add"));
        let run = ("qemu", "x-exit-preconfig");
        assert_eq!(sent, [set, set, set, add, add, run]);
        assert_eq!(commands[0].arguments["value"], "/k/a,b");
        assert_eq!(commands[3].arguments["file"]["filename"], "/d/\"a\",b");
    }

    #[test]
    fn a_read_only_disk_is_never_written() {
        let node = block_node(1, &spec().disks[1]);
        assert_eq!(node["read-only"], true);
        assert_eq!(node["cache"]["no-flush"], false);
        assert_eq!(node["discard"], Value::Null);
    }

    #[test]
    fn a_last_message_becomes_a_stage_and_advice() {
        let words = |text: &str| explain(Path::new("/q"), &[format!("qemu-system-x86_64: {text}")]);
        let locked = refusal("disk", r#"Failed to get "write" lock"#);
        assert_eq!(locked.stage, "disk");
        assert!(locked.message.contains("another VM"), "{}", locked.message);
        let missing = refusal("disk", "Could not open '/x': No such file");
        assert_eq!(missing.message, "Could not open '/x': No such file");
        assert_eq!(words("something new").message, "something new");
        assert_eq!(
            explain(Path::new("/q"), &[]).message,
            "/q ended without a message"
        );
    }
}
