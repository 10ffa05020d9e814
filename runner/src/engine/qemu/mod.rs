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
//! greeting --> negotiating --> building (a command at a time) --> running <--> switching, merging
//! ```
//!
//! Disks are written through the host's page cache and never flushed there while the VM runs: a crash of the *host*
//! may lose what a running VM wrote, and loses the VM too. The runner flushes what outlives a VM: a layer when it is
//! frozen, a kept disk when the VM ends.

mod explain;
mod files;
mod machine;
mod qmp;
mod tsc;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use snowglobe_runner::{Accel, VmSpec};

use self::explain::{cannot_run, explain, refusal};
use self::files::{bound_files, confinement, fence};
use self::machine::{BuildCommand, arguments, build_commands, node_name};
use self::qmp::{Message, Qmp};
use super::{Engine, Frozen, Notice, Process, socket_pair};
use crate::confine::calls::Calls;
use crate::confine::spawn::{self, Inherited, Program};
use crate::error::StartError;
use crate::share::Socket;
use crate::vm::link::Sockets;

/// The time limit for adding a layer to a disk.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);

/// The error of a write beyond [`VmSpec::max_layer_bytes`].
const TOO_LARGE: &str = "File too large";

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct Qemu {
    process: Process,
    qmp: Qmp,
    phase: Phase,
    /// The remaining commands before the guest runs, in order.
    build_commands: VecDeque<BuildCommand>,
    /// QEMU's name of each disk's newest layer.
    nodes: Vec<String>,
    /// The number of layers that were added.
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
    /// Switch the disk of this index to a new layer of this name.
    Switching(u64, usize, String),
    /// Merge layers of a disk; an event tells the end.
    Merging(u64),
}

impl Qemu {
    /// Starts QEMU.
    pub(crate) fn start(
        spec: &VmSpec,
        binary: &Path,
        accel: Accel,
        sockets: Sockets,
        shares: &[Socket],
    ) -> Result<Self, StartError> {
        let pairs = || -> io::Result<_> { Ok((UnixStream::pair()?, socket_pair()?)) };
        let ((qmp, their_qmp), (console, their_console)) =
            pairs().map_err(StartError::io("qemu", "make its sockets"))?;

        let khz = if accel == Accel::Tcg {
            tsc::khz()
        } else {
            None
        };
        let mut fds = vec![OwnedFd::from(their_qmp), their_console.into()];
        fds.push(sockets.link.into());
        for share in shares {
            let connected = share.connect();
            fds.push(
                connected
                    .map_err(StartError::io("qemu", "connect to a share"))?
                    .into(),
            );
        }
        fds.extend(sockets.streams.map(OwnedFd::from));

        let (fence, missing) = fence(spec, binary, accel).for_child();
        let mut started = spawn::spawn(
            &Program::At(binary),
            &arguments(spec, accel),
            confinement(spec),
            Inherited {
                fence,
                calls: Some(Calls::of_qemu()),
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
        let nodes = (0..spec.disks.len()).map(node_name).collect();
        let binary = binary.to_owned();
        Ok(Self {
            process: Process::new(started, console),
            qmp,
            phase: Phase::Greeting,
            build_commands: build_commands(spec, khz).into(),
            nodes,
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
            Phase::Switching(asked, disk, node) if asked == id => {
                if result.is_ok() {
                    self.nodes[disk] = node;
                }
                Ok(Some(Notice::Frozen(result.map(|_| Frozen::Below))))
            }
            Phase::Merging(asked) if asked == id => match result {
                Ok(_) => {
                    self.phase = Phase::Merging(asked);
                    Ok(None)
                }
                Err(why) => Ok(Some(Notice::Merged(Err(why)))),
            },
            other => {
                self.phase = other;
                Ok(None)
            }
        }
    }

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
                Message::JobEnded(result) if matches!(self.phase, Phase::Merging(_)) => {
                    self.phase = Phase::Running;
                    notices.push(Notice::Merged(result));
                }
                Message::Greeting | Message::JobEnded(_) | Message::Other => {}
            }
        }
        Ok(notices)
    }

    fn freeze_disk(&mut self, disk: usize, layer: &Path) -> Result<(), String> {
        if self.phase != Phase::Running {
            return Err("the VM is still starting, or another layer is being added".into());
        }
        let newest = self.nodes.get(disk).ok_or("there is no such disk")?;
        let node = format!("{}-{}", node_name(disk), self.layers + 1);
        let arguments = json!({
            "node-name": newest,
            "snapshot-file": layer,
            "snapshot-node-name": node,
            "format": "qcow2",
            "mode": "absolute-paths",
        });
        let id = self
            .ask("blockdev-snapshot-sync", arguments)
            .map_err(|error| format!("ask qemu: {error}"))?;
        self.layers += 1;
        self.phase = Phase::Switching(id, disk, node);
        Ok(())
    }

    fn merge_disk(&mut self, disk: usize, onto: &Path) -> Result<(), String> {
        if self.phase != Phase::Running {
            return Err("the VM is still starting, or its layers are being changed".into());
        }
        let newest = self.nodes.get(disk).ok_or("there is no such disk")?;
        let arguments = json!({
            "job-id": "merge",
            "device": newest,
            "base": onto,
            "backing-file": onto,
        });
        let id = self
            .ask("block-stream", arguments)
            .map_err(|error| format!("ask qemu: {error}"))?;
        self.phase = Phase::Merging(id);
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
