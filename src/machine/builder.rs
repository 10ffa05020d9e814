//! Filling new disks: a machine that unpacks an image's layers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snowglobe_init::boot::BUILD_ROOT;
use snowglobe_init::wire::{ReadRequest, ReadWant, Report, Request, User};
use snowglobe_runner::protection::Protection;
use snowglobe_runner::{Accel, DiskFormat, EngineSpec};

use super::feed::{Feed, Pieces};
use super::{Machine, MachineError, Parts, Plan};
use crate::blocking::{blocking, blocking_here};
use crate::config::HostConfig;
use crate::files;
use crate::guest::{Guest, Output, unexpected};
use crate::image::{Accounts, ImageError, LayerSource, Processor, UnpackError, Unpacked, Unpacker};
use crate::presence;
use crate::progress::Progress;
use crate::rundir::{self, RuntimeDir};
use crate::vmm::{self, host::Host};

/// The most that is kept of an image's lists of users and groups, in bytes.
const ACCOUNTS_BYTES: u64 = 256 << 10;

/// Unpacks layers in a microVM.
#[derive(Debug)]
pub struct VmUnpacker<'a> {
    host: &'a HostConfig,
}

impl<'a> VmUnpacker<'a> {
    /// An unpacker that boots VMs with the engine that the configuration chooses.
    pub fn new(host: &'a HostConfig) -> Self {
        Self { host }
    }

    async fn fill(
        &self,
        disk: &Path,
        layers: &[LayerSource],
        progress: &Progress,
    ) -> Result<Unpacked, MachineError> {
        let parts = Parts::find(self.host).await?;
        let (runtime, beside) = (self.host.dirs.runtime.clone(), disk.to_owned());
        let files = blocking(move || BuildFiles::make(&runtime, &beside)).await?;
        let plan = Plan {
            name: "snowglobe-build".into(),
            cpus: 1,
            memory_mib: 512,
            disk: disk.to_owned(),
            format: DiskFormat::Raw,
            backing: Vec::new(),
            build: true,
            feed: Some(files.feed.path.clone()),
            workspace_disk: None,
            workspace: None,
            repository: None,
            protection: Protection::default(),
            workspace_path: None,
            nofile: 65_536,
            disk_bytes: None,
            env: Vec::new(),
            image_user: None,
            workdir: None,
            git_identity: None,
            login_keys: Vec::new(),
            host_key: None,
            run_dir: files.dir.clone(),
            link_socket: files.dir.join("link.sock"),
            network: None,
            remove: Vec::new(),
            remove_if_orphaned: Vec::new(),
            timeout: self.host.boot_timeout,
        };
        // Layers are decompressed while the guest boots and unpacks earlier ones.
        let pieces = files.feed.start(layers);
        let machine = Machine::boot(&parts, plan, progress).await?;
        // A stalled VM would wait until there is room on the host: fail instead, so that the user can make room.
        let filled = tokio::select! {
            filled = self.apply(&machine, layers, pieces, progress) => filled,
            reason = machine.vm.stalled() => Err(MachineError::File {
                operation: "unpack the image to",
                path: disk.to_owned(),
                source: std::io::Error::new(std::io::ErrorKind::StorageFull, reason),
            }),
        };
        if filled.is_ok() {
            // The guest has unmounted the disk by now; powering off also has the engine flush it.
            let guest = machine.guest().await?;
            guest.ask(&Request::PowerOff).await.ok();
            tokio::time::timeout(Duration::from_secs(10), machine.vm.ended())
                .await
                .ok();
        }
        machine.stop().await;
        filled
    }

    async fn apply(
        &self,
        machine: &Machine,
        layers: &[LayerSource],
        mut pieces: Pieces,
        progress: &Progress,
    ) -> Result<Unpacked, MachineError> {
        let guest = machine.guest().await?;
        let mut total = Unpacked::default();
        for (index, layer) in layers.iter().enumerate() {
            progress.say(match layers.len() {
                1 => "unpacking".to_owned(),
                count => format!("unpacking layer {} of {count}", index + 1),
            });
            let piece = pieces.next().await;
            // If the stream broke on the host, report that rather than its consequences.
            layer.check().map_err(ImageError::from)?;
            let piece = piece.map_err(|error| ImageError::from(UnpackError::new(error)))?;
            let request = Request::ApplyLayer {
                whiteouts: layer.whiteouts,
                offset: piece.offset,
                bytes: piece.bytes,
            };
            match guest.ask(&request).await? {
                Report::Layer { entries, bytes } => {
                    total.entries += entries;
                    total.bytes += bytes;
                }
                other => return Err(unexpected("apply a layer", &other).into()),
            }
        }
        total.accounts = Accounts {
            passwd: read_text(&guest, "etc/passwd").await,
            group: read_text(&guest, "etc/group").await,
        };
        progress.say("writing the disk");
        guest.ask(&Request::FinishRoot).await?;
        Ok(total)
    }
}

/// The files of a machine that fills a disk; removed when this is dropped.
struct BuildFiles {
    /// The machine's directory.
    dir: PathBuf,
    feed: Feed,
    _held: File,
}

impl BuildFiles {
    /// Makes them, for the disk at a path. Blocks.
    fn make(runtime: &Path, disk: &Path) -> Result<Self, MachineError> {
        let runtime = RuntimeDir::make(runtime)?;
        // Builders may have been killed before they had a runner, which removes their directories.
        rundir::sweep(&runtime);
        let temporary = |source| MachineError::File {
            operation: "make a directory in",
            path: runtime.path().to_owned(),
            source,
        };
        let feed = Feed::create(disk).map_err(|source| MachineError::File {
            operation: "make the disk that layers come on, for",
            path: disk.to_owned(),
            source,
        })?;
        let dir = tempfile::Builder::new()
            .prefix(rundir::BUILD)
            .tempdir_in(runtime.path())
            .map_err(temporary)?;
        let held = presence::hold(dir.path(), rundir::LOCK).map_err(temporary)?;
        Ok(Self {
            dir: dir.keep(),
            feed,
            _held: held,
        })
    }
}

impl Drop for BuildFiles {
    fn drop(&mut self) {
        if let Err(error) = blocking_here(|| files::remove_dir(&self.dir)) {
            tracing::debug!(dir = %self.dir.display(), %error, "could not be cleared away");
        }
    }
}

/// A small file of the new root; empty if it is not there.
async fn read_text(guest: &Guest, path: &str) -> String {
    let want = ReadWant::Bytes {
        offset: 0,
        limit: ACCOUNTS_BYTES,
    };
    let path = format!("{BUILD_ROOT}/{path}");
    let request = Request::Read(ReadRequest {
        path,
        user: User::Root,
        want,
    });
    let mut text = Vec::new();
    let mut collect = |output| {
        if let Output::Stdout(bytes) = output {
            text.extend_from_slice(&bytes);
        }
    };
    match guest
        .request(&request, bytes::Bytes::new(), &mut collect)
        .await
    {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

impl Unpacker for VmUnpacker<'_> {
    /// The host's own if the hardware runs the guest. If nothing can run it, the choice does not matter yet.
    async fn processor(&self) -> Processor {
        let host = self.host.clone();
        let engine = blocking(move || vmm::choose(&host, &Host::detect(&host.dirs.cache)));
        match engine.await {
            Ok(EngineSpec::Qemu {
                accel: Accel::Tcg, ..
            }) => Processor::translated(),
            Ok(_) | Err(_) => Processor::host(),
        }
    }

    async fn unpack(
        &self,
        disk: &Path,
        layers: &[LayerSource],
        progress: &Progress,
    ) -> Result<Unpacked, UnpackError> {
        self.fill(disk, layers, progress)
            .await
            .map_err(UnpackError::new)
    }
}
