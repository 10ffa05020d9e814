//! The image that a sandbox starts from.

use std::sync::Arc;

use snowglobe_init::boot::ImageUser;

use super::SandboxError;
use crate::config::{HostConfig, SandboxSpec};
use crate::disk::{self, Base, Record};
use crate::image::user;
use crate::image::{DiskId, ImageError, ImageHandle, ImageInfo, ImageRef, ImageStore, Reference};
use crate::machine::VmUnpacker;
use crate::progress::Progress;

/// The images of this host. Disks that snapshots need are not removed.
pub fn image_store(host: &HostConfig) -> Result<ImageStore, ImageError> {
    let snapshots = host.dirs.data.clone();
    let references = move || {
        let all = disk::all_records(&snapshots)?;
        let refer = |(sandbox, record): (String, Record)| Reference {
            disk: record.base.disk,
            by: format!("the snapshot {} of the sandbox {sandbox}", record.name),
        };
        Ok(all.into_iter().map(refer).collect())
    };
    ImageStore::new(&host.dirs.data, Arc::new(references))
}

/// The user of a disk, in messages.
fn disk_user(spec: &SandboxSpec) -> String {
    format!("the sandbox {} (process {})", spec.name, std::process::id())
}

/// The disk of the configured image; the image is pulled or imported if it is not in the store.
pub(super) async fn of_image(
    host: &HostConfig,
    spec: &SandboxSpec,
    progress: &Progress,
) -> Result<(Base, ImageHandle), SandboxError> {
    let reference: ImageRef = spec.image.parse().map_err(ImageError::from)?;
    let store = image_store(host)?;
    let image = store
        .ensure(
            &reference,
            &host.registries,
            &VmUnpacker::new(host),
            progress,
        )
        .await?;
    let handle = store.open(&image.record.key, &disk_user(spec))?;
    let base = Base {
        image: spec.image.clone(),
        disk: handle.disk().to_owned(),
        user: image_user(&image),
        workdir: image.record.content.run.workdir,
        env: image.record.content.run.env,
    };
    if let Err(error) = store.make_room(host.image_store_bytes, &image.record.key) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not make room among the images"
        );
    }
    Ok((base, handle))
}

/// The image's own user, unless that is root.
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

/// Opens the image disk under a snapshot, which keeps it from being removed.
pub(super) fn hold(
    host: &HostConfig,
    spec: &SandboxSpec,
    base: &Base,
) -> Result<ImageHandle, SandboxError> {
    let id =
        DiskId::of_path(&base.disk).ok_or_else(|| SandboxError::ForeignDisk(base.disk.clone()))?;
    Ok(image_store(host)?.open_disk(&id, &disk_user(spec))?)
}
