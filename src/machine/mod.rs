//! One booted VM with its guest.
//!
//! A [`Machine`] lives until its VM ends. If its connection to the guest breaks, the next call makes a new one. Dropping
//! the machine kills the VM; [`Machine::stop`] also waits until its files are gone. A guest that breaks the rules of its
//! link has its VM ended at once, also between calls.

mod builder;
mod console;
mod feed;
mod shares;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use russh::keys::PrivateKey;
use snowglobe_init::boot::{
    BootConfig, GitIdentity, ImageUser, Link, Root, SECOND_DISK, STAGE_PREFIX, Workspace,
};
use snowglobe_init::wire::Request;
use snowglobe_init::wire::network::{STREAMS_NAME, STREAMS_PORT};
use snowglobe_runner::protection::Protection;
use snowglobe_runner::{Disk, DiskFormat, EngineSpec, Isolation, Port, VmSpec};

use crate::blocking::blocking;
use crate::config::HostConfig;
use crate::files;
use crate::guest::{self, Guest, GuestError, KeyError, VmKeys};
use crate::image::ImageError;
use crate::progress::Progress;
use crate::rundir::RunDirError;
use crate::vmm::{self, Vm, VmEnd, VmmError, artefacts, host::Host};
use crate::workspace::{Repository, SharedDir};

pub use builder::VmUnpacker;
pub use streams::{Connection, Network};

/// The name of the virtio-serial port that carries the guest link.
const LINK_NAME: &str = "snowglobe.link";

/// The vsock port that carries the guest link on engines with vsock.
const LINK_PORT: u32 = 1024;

/// How long reconnecting may take.
const RECONNECT: Duration = Duration::from_secs(20);

/// How long to wait before connecting again to a vsock port without a listener.
const LISTENING_SOON: Duration = Duration::from_millis(5);

/// The console's file in a VM's directory.
pub(crate) const CONSOLE_LOG: &str = "console.log";

/// Why a machine could not be booted or reached.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The guest did not come up.
    #[error("boot the sandbox at stage `{stage}`: {problem}")]
    Boot {
        /// The last stage it reached.
        stage: String,
        /// What happened.
        problem: String,
    },
    /// The VM has ended.
    #[error("reach the VM: it ended ({0})")]
    Ended(VmEnd),
    /// The guest refused, or broke the rules of its link.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The VM could not be started or asked.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// Keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The runtime directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of the machine's own.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// The parts every VM on this host is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The program that holds a VM.
    pub runner: PathBuf,
    /// PID 1 of the guest.
    pub init: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// What runs the VM.
    pub engine: EngineSpec,
    /// What to do if a fence is not available.
    pub isolation: Isolation,
}

impl Parts {
    /// The programs of this host, and the engine that the configuration chooses.
    pub async fn find(host: &HostConfig) -> Result<Self, MachineError> {
        let host = host.clone();
        // The kernel may have to be unpacked, and the host's engines tried.
        blocking(move || {
            Ok(Self {
                runner: artefacts::runner().map_err(VmmError::from)?,
                init: artefacts::init().map_err(VmmError::from)?,
                kernel: artefacts::kernel(&host.dirs.cache).map_err(VmmError::from)?,
                isolation: host.isolation.into(),
                engine: vmm::choose(&host, &Host::detect(&host.dirs.cache))?,
            })
        })
        .await
    }
}

/// What to boot.
#[derive(Debug)]
pub struct Plan {
    /// The guest's host name, and the VM's in messages.
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The disk.
    pub disk: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The files below the disk, newest first.
    pub backing: Vec<PathBuf>,
    /// Whether the disk is filled instead of booted from.
    pub build: bool,
    /// A second disk, read-only for the guest.
    pub feed: Option<PathBuf>,
    /// A second disk with the workspace: its file, and the files below it.
    pub workspace_disk: Option<(PathBuf, Vec<PathBuf>)>,
    /// The host directory shared as the workspace.
    pub workspace: Option<SharedDir>,
    /// Its repository, if that lies outside of it and is shared, too.
    pub repository: Option<Repository>,
    /// What of the workspace the guest may see and change.
    pub protection: Protection,
    /// Where the workspace is in the guest; none: there is no workspace.
    pub workspace_path: Option<String>,
    /// Open files per command.
    pub nofile: u64,
    /// How much of the disk may be used, in bytes.
    pub disk_bytes: Option<u64>,
    /// Environment of every command.
    pub env: Vec<(String, String)>,
    /// The image's own user, whose id the user `sandbox` gets.
    pub image_user: Option<ImageUser>,
    /// Where commands start by default, if not in the workspace.
    pub workdir: Option<String>,
    /// The identity for commits in the guest.
    pub git_identity: Option<GitIdentity>,
    /// Public keys that may log in for shells and file transfer.
    pub login_keys: Vec<String>,
    /// The host key; absent: a new one.
    pub host_key: Option<PrivateKey>,
    /// An existing directory for the VM's own files.
    pub run_dir: PathBuf,
    /// The path for the link's socket.
    pub link_socket: PathBuf,
    /// What answers the guest's questions about the network; none: the machine has no streams.
    pub network: Option<Network>,
    /// What else is removed when the VM ends.
    pub remove: Vec<PathBuf>,
    /// What is removed, too, if the VM's owner was killed.
    pub remove_if_orphaned: Vec<PathBuf>,
    /// How long the boot may take.
    pub timeout: Duration,
}

/// A booted VM.
#[derive(Debug)]
pub struct Machine {
    /// The VM.
    pub vm: Arc<Vm>,
    /// The VM's keys.
    pub keys: VmKeys,
    /// How long it took from the start to the first answer.
    pub boot_time: Duration,
    link_socket: PathBuf,
    link: Link,
    streams: Option<Connection>,
    guest: tokio::sync::Mutex<Arc<Guest>>,
}

impl Plan {
    /// The path for the streams' socket.
    fn streams_socket(&self) -> PathBuf {
        self.link_socket.with_extension("streams")
    }

    /// Removes what the runner would have removed, were there one.
    async fn give_up(&self) {
        let (run_dir, files) = (self.run_dir.clone(), self.remove.clone());
        blocking(move || {
            files::remove_dir(&run_dir).ok();
            for path in &files {
                files::remove_file(path).ok();
            }
        })
        .await;
    }
}

impl Machine {
    /// Boots; returns when the guest answers.
    pub async fn boot(
        parts: &Parts,
        plan: Plan,
        progress: &Progress,
    ) -> Result<Self, MachineError> {
        let started = Instant::now();
        let keys = match plan.host_key.clone() {
            Some(host) => VmKeys::with_host(host)?,
            None => VmKeys::generate()?,
        };
        progress.say("starting the VM");
        let link = link(&parts.engine);
        let spec = match spec(parts, &plan, &keys, &link).await {
            Ok(spec) => spec,
            Err(error) => {
                plan.give_up().await;
                return Err(error);
            }
        };
        let vm = Vm::start(&parts.runner, &spec, shares::opened(&plan)?).await?;
        let vm = Arc::new(vm);
        progress.say("booting the guest");
        let _shown = console::log(plan.run_dir.join(CONSOLE_LOG));
        let guest = tokio::select! {
            guest = tokio::time::timeout(plan.timeout, connect(&plan.link_socket, &link, &keys)) => guest,
            end = vm.ended() => {
                return Err(MachineError::Boot { stage: stage(&end.console), problem: end.to_string() });
            }
            reason = vm.stalled() => {
                return Err(MachineError::Boot { stage: "disk".into(), problem: format!("{reason}; make room there") });
            }
        };
        let guest = match guest {
            Ok(Ok(guest)) => guest,
            Ok(Err(GuestError::Violation(violation))) => {
                return Err(MachineError::Boot {
                    stage: "guest link".into(),
                    problem: format!("the guest {violation}, so its VM was ended"),
                });
            }
            // During a boot the link breaks because the VM ended, so report how it ended.
            Ok(Err(error)) => {
                let ended = tokio::time::timeout(Duration::from_secs(2), vm.ended()).await;
                return Err(match ended {
                    Ok(end) => MachineError::Boot {
                        stage: stage(&end.console),
                        problem: end.to_string(),
                    },
                    Err(_) => error.into(),
                });
            }
            Err(_) => return Err(too_slow(&vm, plan.timeout).await),
        };
        let boot_time = started.elapsed();
        progress.say(format!(
            "the guest is up after {:.1} s",
            boot_time.as_secs_f64()
        ));
        end_with_violation(&vm, &guest);
        let streams = plan.network.clone();
        let streams = streams.map(|network| Connection::start(plan.streams_socket(), network));
        if let Some(streams) = &streams {
            streams.ready().await;
        }
        Ok(Self {
            vm,
            keys,
            boot_time,
            link_socket: plan.link_socket,
            link,
            streams,
            guest: tokio::sync::Mutex::new(Arc::new(guest)),
        })
    }

    /// The guest; reconnects if the connection was lost. Takes at most [`RECONNECT`], however many callers wait.
    pub async fn guest(&self) -> Result<Arc<Guest>, MachineError> {
        tokio::time::timeout(RECONNECT, self.connected())
            .await
            .unwrap_or_else(|_| Err(GuestError::Lost.into()))
    }

    async fn connected(&self) -> Result<Arc<Guest>, MachineError> {
        let mut guest = self.guest.lock().await;
        if !guest.is_lost() {
            return Ok(guest.clone());
        }
        if let Some(end) = self.vm.end() {
            return Err(MachineError::Ended(end));
        }
        tracing::info!("the guest link was lost; connecting anew");
        match connect(&self.link_socket, &self.link, &self.keys).await {
            Ok(again) => {
                end_with_violation(&self.vm, &again);
                *guest = Arc::new(again);
                Ok(guest.clone())
            }
            Err(GuestError::Violation(violation)) => {
                self.vm.stop_because(untrusted(&violation)).await;
                Err(GuestError::Violation(violation).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The streams beside the guest link, if it has them.
    pub fn streams(&self) -> Option<&Connection> {
        self.streams.as_ref()
    }

    /// Whether its engine copies the newest layer to freeze the disk.
    pub fn copies_disk(&self) -> bool {
        matches!(self.link, Link::Vsock { .. })
    }

    /// Kills the VM and waits until its files are gone. Idempotent.
    pub async fn stop(&self) {
        self.vm.stop().await;
    }
}

/// Ends the VM as soon as its guest breaks the rules of its link.
fn end_with_violation(vm: &Arc<Vm>, guest: &Guest) {
    let (vm, violated) = (Arc::downgrade(vm), guest.violated());
    tokio::spawn(async move {
        if let Some(violation) = violated.await
            && let Some(vm) = vm.upgrade()
        {
            vm.stop_because(untrusted(&violation)).await;
        }
    });
}

/// Why a VM was ended whose guest broke the rules.
fn untrusted(violation: &guest::Violation) -> String {
    format!(
        "it was ended because its guest {violation}; something in it has taken the place of init"
    )
}

/// The device that carries the guest link.
fn link(engine: &EngineSpec) -> Link {
    match engine {
        EngineSpec::Qemu { .. } => Link::VirtioSerial {
            name: LINK_NAME.into(),
        },
        EngineSpec::Krun => Link::Vsock { port: LINK_PORT },
    }
}

async fn connect(
    socket: &std::path::Path,
    link: &Link,
    keys: &VmKeys,
) -> Result<Guest, GuestError> {
    let stream = loop {
        let stream = match guest::connect(socket).await {
            Ok(stream) => guest::synchronize(stream).await,
            Err(error) => Err(error),
        };
        match stream {
            // A serial port buffers what is sent before the guest listens; a vsock port refuses the connection.
            Err(error)
                if matches!(link, Link::Vsock { .. })
                    && !matches!(error, GuestError::Violation(_)) =>
            {
                tokio::time::sleep(LISTENING_SOON).await;
            }
            stream => break stream?,
        }
    };
    let guest = Guest::login(stream, &keys.identity(), "root").await?;
    // Files in the workspace have the host's times: to a guest whose clock is behind they come from the future.
    let renew = Request::Renew {
        clock_ns: clock_ns(),
        entropy: entropy(),
    };
    guest.ask(&renew).await?;
    Ok(guest)
}

/// The host's clock, in nanoseconds since the Unix epoch.
fn clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// The last stage of the boot that the console shows.
fn stage(console: &[String]) -> String {
    let named = console
        .iter()
        .rev()
        .find_map(|line| Some(line.split_once(STAGE_PREFIX)?.1.trim().to_owned()));
    named.unwrap_or_else(|| "kernel".into())
}

async fn too_slow(vm: &Vm, timeout: Duration) -> MachineError {
    let lines = match vm
        .request(snowglobe_runner::Action::Console { lines: 60 })
        .await
    {
        Ok(snowglobe_runner::Answer::Console { lines }) => lines,
        _ => Vec::new(),
    };
    let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
    MachineError::Boot {
        stage: stage(&lines),
        problem: format!(
            "the guest did not answer within {} s (boot_timeout_s); last lines of the console:\n  {last}",
            timeout.as_secs()
        ),
    }
}

async fn spec(
    parts: &Parts,
    plan: &Plan,
    keys: &VmKeys,
    link: &Link,
) -> Result<VmSpec, MachineError> {
    let initramfs = plan.run_dir.join("initramfs.cpio");
    let device = "/dev/vda".to_owned();
    let boot = BootConfig {
        hostname: plan.name.clone(),
        root: if plan.build {
            Root::Build { device }
        } else {
            Root::Disk { device }
        },
        link: link.clone(),
        workspace: plan.workspace_path.clone().map(|path| Workspace {
            share: plan
                .workspace
                .as_ref()
                .map(|_| shares::WORKSPACE.link(link)),
            disk: plan.workspace_disk.as_ref().map(|_| SECOND_DISK.into()),
            path,
            repository: shares::of_guest(plan, link),
        }),
        host_key: keys.host_pem()?,
        control_keys: vec![keys.control_public()?],
        login_keys: plan.login_keys.clone(),
        clock_ns: clock_ns(),
        entropy: entropy(),
        nofile: plan.nofile,
        disk_bytes: plan.disk_bytes,
        env: plan.env.clone(),
        image_user: plan.image_user.clone(),
        workdir: plan.workdir.clone(),
        git_identity: plan.git_identity.clone(),
    };
    let (file, init) = (initramfs.clone(), parts.init.clone());
    blocking(move || {
        vmm::initramfs::write(&file, &init, &boot).map_err(|source| MachineError::File {
            operation: "write the initramfs",
            path: file,
            source,
        })
    })
    .await?;
    let mut remove = vec![plan.run_dir.clone(), plan.link_socket.clone()];
    remove.extend(plan.remove.clone());
    let streams = plan.network.as_ref().map(|_| Port {
        socket: plan.streams_socket(),
        name: STREAMS_NAME.into(),
        port: STREAMS_PORT,
    });
    remove.extend(streams.iter().map(|port| port.socket.clone()));
    Ok(VmSpec {
        name: plan.name.clone(),
        engine: parts.engine.clone(),
        isolation: parts.isolation,
        cpus: plan.cpus,
        memory_mib: plan.memory_mib,
        kernel: parts.kernel.clone(),
        initramfs,
        kernel_args: Vec::new(),
        disks: std::iter::once(Disk {
            path: plan.disk.clone(),
            format: plan.format,
            read_only: false,
            backing: plan.backing.clone(),
            flushes: false,
        })
        .chain(plan.feed.iter().map(|path| Disk {
            path: path.clone(),
            format: DiskFormat::Raw,
            read_only: true,
            backing: Vec::new(),
            flushes: false,
        }))
        .chain(plan.workspace_disk.iter().map(|(path, backing)| Disk {
            path: path.clone(),
            format: DiskFormat::Qcow2,
            read_only: false,
            backing: backing.clone(),
            flushes: true,
        }))
        .collect(),
        shares: shares::of_runner(plan),
        link_socket: plan.link_socket.clone(),
        link_name: LINK_NAME.into(),
        link_port: LINK_PORT,
        streams,
        console_log: plan.run_dir.join(CONSOLE_LOG),
        boot_timeout_s: plan.timeout.as_secs(),
        max_layer_bytes: plan.disk_bytes.map(layer_bound),
        remove,
        remove_if_orphaned: plan.remove_if_orphaned.clone(),
    })
}

/// How large a layer may grow, in bytes, if so many bytes of its disk may be used: freed space is reclaimed in whole
/// clusters only, and tables of the layer and the file system take room, too.
fn layer_bound(disk_bytes: u64) -> u64 {
    disk_bytes.saturating_mul(2).saturating_add(4 << 30)
}

/// Fresh random bytes for a guest, base64.
fn entropy() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_on_the_console_is_named() {
        let console = [
            "x",
            "snowglobe-init: stage mounts",
            "snowglobe-init: stage root disk",
            "oops",
        ]
        .map(String::from);
        assert_eq!(stage(&console), "root disk");
        assert_eq!(stage(&[]), "kernel");
    }
}
