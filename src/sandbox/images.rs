//! The image that a sandbox starts from.

use std::sync::Arc;

use snowglobe_init::boot::ImageUser;

use super::SandboxError;
use crate::blocking::blocking;
use crate::config::{HostConfig, SandboxSpec};
use crate::disk::{self, Base, Record};
use crate::image::{
    Dependent, DiskId, DiskLease, ImageError, ImageInfo, ImageRef, ImageStore, find_user,
};
use crate::machine::VmUnpacker;
use crate::progress::Progress;

/// The images of this host. Disks that snapshots need are not removed.
pub fn image_store(host: &HostConfig) -> Result<ImageStore, ImageError> {
    let snapshots = host.dirs.data.clone();
    let dependents = move || {
        let all = disk::all_records(&snapshots)?;
        let dependent = |(sandbox, record): (String, Record)| Dependent {
            disk: record.base.disk,
            description: format!("the snapshot {} of the sandbox {sandbox}", record.name),
        };
        let pinned = disk::pinned_disks(&snapshots)?;
        let of_session = |(sandbox, disk)| Dependent {
            disk,
            description: format!("a session of the sandbox {sandbox}"),
        };
        let all = all.into_iter().map(dependent);
        Ok(all.chain(pinned.into_iter().map(of_session)).collect())
    };
    Ok(ImageStore::open(&host.dirs.data, Arc::new(dependents))?)
}

/// Opens the store on a thread of its own: leftovers of killed processes are removed first.
async fn open_store(host: &HostConfig) -> Result<ImageStore, ImageError> {
    let host = host.clone();
    blocking(move || image_store(&host)).await
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
) -> Result<(Base, DiskLease), SandboxError> {
    let reference: ImageRef = spec.image.parse().map_err(ImageError::from)?;
    let store = open_store(host).await?;
    let image = store
        .ensure(
            &reference,
            &host.registries,
            &VmUnpacker::new(host),
            progress,
        )
        .await?;
    let (key, user, limit) = (
        image.record.key.clone(),
        disk_user(spec),
        host.image_store_bytes,
    );
    let lease = store.blocking(move |store| {
        let lease = store.lease(&key, &user)?;
        if let Err(error) = store.make_room(limit, &key) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "could not make room among the images");
        }
        Ok::<_, ImageError>(lease)
    });
    let lease = lease.await?;
    let base = Base {
        image: spec.image.clone(),
        disk: lease.disk().to_owned(),
        user: image_user(&image),
        workdir: image.record.content.run.workdir,
        env: image.record.content.run.env,
    };
    Ok((base, lease))
}

/// The image's own user, unless that is root.
fn image_user(image: &ImageInfo) -> Option<ImageUser> {
    let name = image.record.content.run.user.as_deref()?;
    match find_user(name, &image.disk.accounts) {
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
pub(super) async fn hold(
    host: &HostConfig,
    spec: &SandboxSpec,
    base: &Base,
) -> Result<DiskLease, SandboxError> {
    let id =
        DiskId::of_path(&base.disk).ok_or_else(|| SandboxError::ForeignDisk(base.disk.clone()))?;
    let (store, user) = (open_store(host).await?, disk_user(spec));
    let lease = store.blocking(move |store| store.lease_disk(&id, &user));
    Ok(lease.await.map_err(ImageError::from)?)
}
