//! Makes an image of its content: finds or makes its disk, then writes its record.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::image::content::Content;
use crate::image::error::ImageError;
use crate::image::file_error::{FileError, file_error};
use crate::image::key::ImageKey;
use crate::image::layer::LayerSource;
use crate::image::store::build_dir::BuildDir;
use crate::image::store::disk_id::DiskId;
use crate::image::store::image_store::{ImageInfo, ImageStore};
use crate::image::store::record::{DiskRecord, FORMAT, ImageRecord, Source};
use crate::image::store::{empty_disk, free_space};
use crate::image::unpacker::{Unpacked, Unpacker};
use crate::private;
use crate::progress::Progress;

impl ImageStore {
    /// Makes an image of content whose blobs are in the store. A disk with the same content is shared.
    pub(crate) async fn install(
        &self,
        key: &ImageKey,
        source: Source,
        content: Content,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let disk_key = content.disk_key();
        let record = ImageRecord {
            format: FORMAT,
            key: key.clone(),
            disk: DiskId::random(),
            // In whole seconds, as it is shown.
            created: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
                .unwrap_or_default(),
            source,
            content,
        };
        let image = match self.publish_with_disk(&disk_key, &record).await? {
            Some(image) => image,
            None => {
                let say_waiting = || {
                    let other = "waiting for another snowglobe to finish unpacking the same layers";
                    progress.say(other);
                };
                let build = self
                    .build_dir(&format!("@disk-{disk_key}"), say_waiting)
                    .await?;
                // Another process may have made the disk meanwhile.
                match self.publish_with_disk(&disk_key, &record).await? {
                    Some(image) => image,
                    None => {
                        let (raw, disk) = self
                            .make_disk(&record.content, &build, unpacker, progress)
                            .await?;
                        self.publish_new_disk(raw, disk, record).await?
                    }
                }
            }
        };
        // The image may have had another disk before.
        for disk in self.blocking(Self::sweep_or_warn).await {
            progress.say(format!("removed {disk}, which nothing needs now"));
        }
        Ok(image)
    }

    /// Writes the record if there is a disk with this content.
    async fn publish_with_disk(
        &self,
        disk_key: &str,
        record: &ImageRecord,
    ) -> Result<Option<ImageInfo>, ImageError> {
        let (disk_key, mut record) = (disk_key.to_owned(), record.clone());
        self.blocking(move |store| {
            // Until the record names the disk, only the lock protects it from a sweep.
            let held = store.lock()?;
            let Some(disk) = store.disk_with(&disk_key)? else {
                return Ok(None);
            };
            record.disk = disk.disk;
            Ok(Some(store.publish(&held, record)?))
        })
        .await
    }

    async fn publish_new_disk(
        &self,
        raw: PathBuf,
        disk: DiskRecord,
        mut record: ImageRecord,
    ) -> Result<ImageInfo, ImageError> {
        self.blocking(move |store| {
            let held = store.lock()?;
            store.publish_disk(&held, &raw, &disk)?;
            record.disk = disk.disk;
            Ok(store.publish(&held, record)?)
        })
        .await
    }

    /// Unpacks the layers onto a new disk in the build directory.
    async fn make_disk(
        &self,
        content: &Content,
        build: &BuildDir,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<(PathBuf, DiskRecord), ImageError> {
        let raw = build.path().join("root.raw");
        progress.say("making an empty disk");
        let (content, path, dir) = (content.clone(), raw.clone(), build.path().to_owned());
        let disk_key = content.disk_key();
        let layers = self.blocking(move |store| {
            let needs = content.layers.iter().map(|layer| layer.bytes);
            let needs = needs.fold(0u64, u64::saturating_add);
            free_space::require("unpack the image", needs, &dir)?;
            empty_disk::create(&path).map_err(file_error("make the disk", &path))?;
            Ok::<_, ImageError>(LayerSource::of(&content, store.blobs())?)
        });
        let layers = layers.await?;
        let unpacked = unpacker.unpack(&raw, &layers, progress).await;
        // A fault of a layer is the cause, whatever the guest reports about the stream that ended early.
        layers.iter().try_for_each(LayerSource::check)?;
        let Unpacked {
            entries, accounts, ..
        } = unpacked?;
        progress.say("writing the disk");
        let path = raw.clone();
        let bytes = self.blocking(move |_| finish_disk(&path)).await?;
        let record = DiskRecord {
            format: FORMAT,
            disk: DiskId::random(),
            key: disk_key,
            bytes,
            entries,
            accounts,
        };
        Ok((raw, record))
    }
}

/// Writes a disk to stable storage and makes it read-only. Returns the space it takes, in bytes.
fn finish_disk(path: &Path) -> Result<u64, FileError> {
    let finish = || {
        let file = File::options().write(true).open(path)?;
        fs::set_permissions(path, PermissionsExt::from_mode(private::COMPLETE))?;
        file.sync_all()?;
        Ok(file.metadata()?.blocks() * 512)
    };
    finish().map_err(file_error("write", path))
}
