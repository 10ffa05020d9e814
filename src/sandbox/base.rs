//! What a sandbox is made of on this host: programs, the image's disk, an overlay on it; and filling new disks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use snowglobe_init::boot::{BUILD_ROOT, ImageUser};
use snowglobe_init::wire::{ReadRequest, ReadWant, Report, Request, User};
use snowglobe_runner::{Accel, DiskFormat, Engine};

use super::feed::{Feed, Pieces};
use super::machine::{Machine, Parts, Plan};
use super::runtime::RuntimeDir;
use super::store::{Base, Record};
use super::{SandboxError, instance};
use crate::config::Config;
use crate::guest::{Guest, Output, unexpected};
use crate::image::user::{self, Accounts};
use crate::image::{
    DiskId, ImageError, ImageHandle, ImageInfo, ImageRef, ImageStore, LayerSource, Processor,
    Reference, Unpacked, Unpacker,
};
use crate::private;
use crate::progress::Progress;
use crate::vmm::{self, artefacts, host::Host};
use crate::workspace::WorkspaceDir;

/// The most that is kept of an image's lists of users and groups.
const ACCOUNTS_BYTES: u64 = 256 << 10;

/// The image's disk, held against removal.
pub(super) type ImageHold = ImageHandle;

/// The programs that every VM needs.
pub(super) fn parts(config: &Config) -> Result<Parts, SandboxError> {
    Ok(Parts {
        runner: artefacts::runner().map_err(vmm::VmmError::from)?,
        init: artefacts::init().map_err(vmm::VmmError::from)?,
        kernel: artefacts::kernel(&config.cache_dir).map_err(vmm::VmmError::from)?,
        isolation: config.isolation.into(),
        engine: vmm::choose(config, &Host::detect(&config.cache_dir))?,
    })
}

/// The images of this host. What snapshots stand on stays.
pub fn image_store(config: &Config) -> Result<ImageStore, ImageError> {
    store_below(&config.data_dir)
}

/// Whether a reference means an image that is here, so that it needs no network.
pub fn image_is_here(data_dir: &Path, reference: &str) -> bool {
    let Ok(reference) = reference.parse::<ImageRef>() else {
        return false;
    };
    let found = store_below(data_dir).and_then(|store| store.find(&store.resolve(&reference)?));
    matches!(found, Ok(Some(_)))
}

fn store_below(data_dir: &Path) -> Result<ImageStore, ImageError> {
    let snapshots = data_dir.to_owned();
    let references = move || {
        let all = super::store::all_records(&snapshots)?;
        let refer = |(sandbox, record): (String, Record)| Reference {
            disk: record.base.disk,
            by: format!("the snapshot {} of the sandbox {sandbox}", record.name),
        };
        Ok(all.into_iter().map(refer).collect())
    };
    ImageStore::new(data_dir, Arc::new(references))
}

/// Who holds a disk, for a person.
fn holder(config: &Config) -> String {
    format!(
        "the sandbox {} (process {})",
        config.name,
        std::process::id()
    )
}

/// The disk of the configured image, which is pulled or taken in where it isn't here.
pub(super) async fn of_image(
    config: &Config,
    progress: &Progress,
) -> Result<(Base, ImageHold), SandboxError> {
    let reference: ImageRef = config.image.parse().map_err(ImageError::from)?;
    let store = image_store(config)?;
    let image = store
        .ensure(
            &reference,
            &config.registries,
            &VmUnpacker::new(config),
            progress,
        )
        .await?;
    let handle = store.open(&image.record.key, &holder(config))?;
    let base = Base {
        image: config.image.clone(),
        disk: handle.disk().to_owned(),
        user: image_user(&image),
        workdir: image.record.content.run.workdir,
        env: image.record.content.run.env,
    };
    if let Err(error) = store.make_room(config.image_store_bytes, &image.record.key) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not make room among the images"
        );
    }
    Ok((base, handle))
}

/// The user that an image names, if it isn't root.
fn image_user(image: &ImageInfo) -> Option<ImageUser> {
    let name = image.record.content.run.user.as_deref()?;
    match user::resolve(name, &image.disk.accounts) {
        Ok(user) => user.map(|user| ImageUser {
            uid: user.uid,
            gid: user.gid,
            name: user.name,
        }),
        Err(problem) => {
            tracing::warn!(image = %image.record.key, user = name, "the image's own user can't be had: {problem}; commands run as sandbox");
            None
        }
    }
}

/// Holds the disk that a snapshot stands on.
pub(super) fn hold(config: &Config, base: &Base) -> Result<ImageHold, SandboxError> {
    let id = DiskId::of_path(&base.disk).ok_or_else(|| SandboxError::File {
        operation: "use the image disk",
        path: base.disk.clone(),
        source: std::io::Error::other("it is not one of the store's"),
    })?;
    Ok(image_store(config)?.open_disk(&id, &holder(config))?)
}

/// Makes a copy-on-write layer over a disk, of the size (in bytes) of the lowest one.
pub(super) async fn make_overlay(
    under: &Path,
    format: DiskFormat,
    size: u64,
    overlay: &Path,
) -> Result<(), SandboxError> {
    let failed = |source| SandboxError::File {
        operation: "make the disk layer",
        path: overlay.to_owned(),
        source,
    };
    let backing = under
        .to_str()
        .ok_or_else(|| failed(std::io::Error::other("the path below it is not UTF-8")))?;
    let format = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let (backing, new) = (backing.to_owned(), overlay.to_owned());
    let made = tokio::task::spawn_blocking(move || format_overlay(backing, format, size, &new));
    made.await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(failed)
}

fn format_overlay(backing: String, format: &str, size: u64, overlay: &Path) -> std::io::Result<()> {
    use imago::file::File;
    use imago::{FormatCreateBuilder, Storage, StorageCreateOptions, qcow2::Qcow2};
    // The library's futures stay on one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let file = File::create_open(StorageCreateOptions::new().filename(overlay)).await?;
        let builder = Qcow2::<File>::create_builder(file)
            .size(size)
            .backing(backing, format.to_owned());
        let made = builder.create().await.and_then(|()| {
            std::fs::set_permissions(overlay, PermissionsExt::from_mode(private::FILE))
        });
        if made.is_err() {
            let _ = std::fs::remove_file(overlay);
        }
        made
    })
}

/// Unpacks layers in a microVM of this host.
#[derive(Debug)]
pub struct VmUnpacker<'a> {
    config: &'a Config,
}

impl<'a> VmUnpacker<'a> {
    /// An unpacker that boots VMs as `config` says.
    pub fn new(config: &'a Config) -> Self {
        Self { config }
    }

    async fn fill(
        &self,
        disk: &Path,
        layers: &[LayerSource],
        progress: &Progress,
    ) -> Result<Unpacked, SandboxError> {
        let parts = parts(self.config)?;
        let runtime = RuntimeDir::make(&self.config.runtime_dir)?;
        // Removes what was left by one that was killed before it had a runner, which would have.
        instance::running(runtime.path())?;
        let temporary = |source| SandboxError::File {
            operation: "make a directory in",
            path: runtime.path().to_owned(),
            source,
        };
        let dir = tempfile::Builder::new()
            .prefix(instance::BUILD)
            .tempdir_in(runtime.path())
            .map_err(temporary)?;
        let _held = instance::hold(dir.path(), instance::LOCK).map_err(temporary)?;
        let feed = Feed::create(disk).map_err(|source| SandboxError::File {
            operation: "make the disk that layers come on, for",
            path: disk.to_owned(),
            source,
        })?;
        let plan = Plan {
            name: "snowglobe-build".into(),
            cpus: 1,
            memory_mib: 512,
            disk: disk.to_owned(),
            format: DiskFormat::Raw,
            backing: Vec::new(),
            build: true,
            feed: Some(feed.path.clone()),
            workspace: None,
            workspace_dir: WorkspaceDir::default(),
            workspace_path: None,
            nofile: 65_536,
            disk_bytes: None,
            env: Vec::new(),
            image_user: None,
            workdir: None,
            git_identity: None,
            login_keys: Vec::new(),
            run_dir: dir.path().to_owned(),
            link_socket: dir.path().join("link.sock"),
            remove: Vec::new(),
            remove_if_orphaned: Vec::new(),
            timeout: self.config.boot_timeout,
        };
        // Layers are decompressed while the guest boots, and while it unpacks those before.
        let pieces = feed.start(layers);
        let machine = Machine::boot(&parts, plan, progress).await?;
        let filled = self.apply(&machine, layers, pieces, progress).await;
        if filled.is_ok() {
            // The guest has unmounted the disk by now; powering off also has the engine flush it.
            let guest = machine.guest().await?;
            let _ = guest.ask(&Request::PowerOff).await;
            let _ = tokio::time::timeout(Duration::from_secs(10), machine.vm.ended()).await;
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
    ) -> Result<Unpacked, SandboxError> {
        let guest = machine.guest().await?;
        let mut total = Unpacked::default();
        for (index, layer) in layers.iter().enumerate() {
            progress.say(match layers.len() {
                1 => "unpacking".to_owned(),
                count => format!("unpacking layer {} of {count}", index + 1),
            });
            let piece = pieces.next().await;
            // A stream that broke on the host is the reason behind whatever came of it.
            layer.check()?;
            let piece = piece.map_err(ImageError::unpack)?;
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

/// A small file of the new root; what isn't there is empty.
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
    /// The host's own where the hardware runs the guest. Where nothing can run it, the choice is of no matter yet.
    fn processor(&self) -> Processor {
        match vmm::choose(self.config, &Host::detect(&self.config.cache_dir)) {
            Ok(Engine::Qemu {
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
    ) -> Result<Unpacked, ImageError> {
        self.fill(disk, layers, progress)
            .await
            .map_err(ImageError::unpack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_layer_is_what_qemu_img_takes_it_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let base = at("base.raw");
        let size = 3 << 30;
        std::fs::File::create(&base)
            .and_then(|file| file.set_len(size))
            .unwrap();
        make_overlay(&base, DiskFormat::Raw, size, &at("one"))
            .await
            .unwrap();
        make_overlay(&at("one"), DiskFormat::Qcow2, size, &at("two"))
            .await
            .unwrap();
        let info = std::process::Command::new("qemu-img")
            .args(["info", "--backing-chain", "--output=json"])
            .arg(at("two"))
            .output()
            .unwrap();
        assert!(info.status.success(), "{info:?}");
        let chain: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        let names: Vec<_> = chain
            .as_array()
            .unwrap()
            .iter()
            .map(|image| {
                assert_eq!(image["virtual-size"], size);
                (
                    image["format"].as_str().unwrap(),
                    image["filename"].as_str().unwrap().into(),
                )
            })
            .collect();
        assert_eq!(
            names,
            [("qcow2", at("two")), ("qcow2", at("one")), ("raw", base)]
        );
        let check = std::process::Command::new("qemu-img")
            .arg("check")
            .arg(at("two"))
            .status();
        assert!(check.unwrap().success());
        let again = make_overlay(&at("one"), DiskFormat::Qcow2, size, &at("two")).await;
        assert!(
            again.is_err() && at("two").exists(),
            "a layer was written over"
        );
    }
}
