//! QEMU's machine: the command line, and the commands that name files.

use std::ffi::OsString;

use serde_json::{Value, json};
use snowglobe_runner::{Accel, Disk, DiskFormat, VmSpec};

use crate::engine::kernel_command_line;

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

/// QEMU's own system call filter.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A command that builds a part of the machine.
#[derive(Debug, PartialEq)]
pub(super) struct BuildCommand {
    /// The stage of the error when QEMU refuses it.
    pub(super) stage: &'static str,
    pub(super) command: &'static str,
    pub(super) arguments: Value,
}

/// The commands that name files of the host; the last one starts the guest. Pure.
pub(super) fn build_commands(spec: &VmSpec, tsc_khz: Option<u64>) -> Vec<BuildCommand> {
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
pub(super) fn arguments(spec: &VmSpec, accel: Accel) -> Vec<OsString> {
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
    if let Some(port) = &spec.streams {
        // After those of the shares.
        let fd = (FIRST_SHARE_FD..)
            .nth(spec.shares.len())
            .unwrap_or_default();
        arg(
            "-chardev",
            &format!("socket,id=streams,fd={fd},server=on,wait=off"),
        );
        arg(
            "-device",
            &format!("virtserialport,chardev=streams,name={}", port.name),
        );
    }
    for (number, (share, fd)) in spec.shares.iter().zip(FIRST_SHARE_FD..).enumerate() {
        arg("-chardev", &format!("socket,id=share{number},fd={fd}"));
        arg(
            "-device",
            &format!("virtserialport,chardev=share{number},name={}", share.tag),
        );
    }
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

/// QEMU's name of a disk's lowest node, by the disk's index.
pub(super) fn node_name(disk: usize) -> String {
    format!("disk{disk}")
}

fn block_node(number: usize, disk: &Disk) -> Value {
    let driver = match disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let mut node = json!({
        "driver": driver,
        "node-name": node_name(number),
        "read-only": disk.read_only,
        "cache": { "direct": false, "no-flush": !disk.read_only && !disk.flushes },
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
    use snowglobe_runner::{EngineSpec, Port, Share};

    use super::*;

    fn spec() -> VmSpec {
        VmSpec {
            isolation: snowglobe_runner::Isolation::Best,
            name: "test".into(),
            engine: EngineSpec::Qemu {
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
                    flushes: false,
                },
                Disk {
                    path: "/base".into(),
                    format: DiskFormat::Raw,
                    read_only: true,
                    backing: Vec::new(),
                    flushes: false,
                },
            ],
            shares: vec![Share {
                tag: "workspace".into(),
                port: 1026,
                path: "/w".into(),
                opened: None,
                guest_id: 1000,
                protection: Default::default(),
                hooks: Vec::new(),
                repository: None,
            }],
            link_socket: "/s".into(),
            link_name: "link".into(),
            link_port: 0,
            streams: Some(Port {
                socket: "/t".into(),
                name: "streams".into(),
                port: 1,
            }),
            console_log: "/c".into(),
            boot_timeout_s: 0,
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
}
