//! How an image comes about: pulled, taken in from a file, or built by a recipe; then unpacked, unless a disk of the
//! same layers is there.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::image::content::Content;
use crate::image::error::io_error;
use crate::image::reference::RegistryRef;
use crate::image::source::archive;
use crate::image::source::registry::{Pulled, Registries};
use crate::image::store::image_store::Building;
use crate::image::store::record::{FORMAT, Stamp};
use crate::image::store::{empty_disk, free_space};
use crate::image::{
    DiskId, DiskRecord, ImageError, ImageInfo, ImageKey, ImageName, ImageRecord, ImageRef,
    ImageStore, LayerSource, Processor, Recipe, Source, Unpacker,
};
use crate::private;
use crate::progress::Progress;

impl ImageStore {
    /// The image that a reference means, made or pulled where it isn't here. What is here needs no network; a file
    /// that changed since is taken in again.
    pub async fn ensure(
        &self,
        reference: &ImageRef,
        registries: &Registries,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let key = self.resolve(reference)?;
        if let Some(image) = self.find(&key)?
            && is_current(&image)
        {
            return Ok(image);
        }
        self.pull(reference, registries, unpacker, progress).await
    }

    /// The image that a reference means now: asks its registry, or looks at its file, even where it is here.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        registries: &Registries,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let key = self.resolve(reference)?;
        let none = || ImageError::NotFound {
            name: key.clone(),
            known: self.known().unwrap_or_default(),
        };
        let registry = match reference {
            ImageRef::Registry(registry) => registry.clone(),
            ImageRef::Name(name) => {
                match RegistryRef::of_hub(name).filter(|hub| hub.to_string() == key.as_str()) {
                    Some(hub) => hub,
                    None => return self.find(&key)?.ok_or_else(none),
                }
            }
            ImageRef::OciLayout { dir: path, .. }
            | ImageRef::DockerArchive(path)
            | ImageRef::Tar(path) => {
                return self
                    .take(&key, path, reference.clone(), unpacker, progress)
                    .await;
            }
        };
        let pulled = self
            .pull_registry(&key, &registry, registries, unpacker, progress)
            .await;
        match (pulled, reference) {
            (Err(source), ImageRef::Name(name)) => Err(ImageError::NeitherHereNorThere {
                name: name.clone(),
                hub: registry.to_string(),
                known: self.known().unwrap_or_default(),
                source: source.into(),
            }),
            (pulled, _) => pulled,
        }
    }

    async fn pull_registry(
        &self,
        key: &ImageKey,
        reference: &RegistryRef,
        registries: &Registries,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let _fetching = self.fetching()?;
        let building = self.begin(key, "pulling", progress).await?;
        let here = self.find(key)?;
        if building.waited
            && let Some(image) = here
        {
            return Ok(image);
        }
        let same = |manifest: &_| {
            here.as_ref()
                .is_some_and(|image| image.record.content.manifest == *manifest)
        };
        match (
            registries
                .pull(
                    reference,
                    self.blobs(),
                    unpacker.processor(),
                    same,
                    progress,
                )
                .await?,
            &here,
        ) {
            (Some(Pulled { content, digest }), _) => {
                let source = Source::Registry {
                    reference: reference.to_string(),
                    digest,
                };
                self.realize(key, source, content, unpacker, progress).await
            }
            (None, Some(image)) => Ok(image.clone()),
            (None, None) => Err(ImageError::NotFound {
                name: key.clone(),
                known: self.known()?,
            }),
        }
    }

    /// Makes an image of a file: a root file system's archive, or a saved image with its layers. What the name stood
    /// for is given up only when the new disk is finished, and lives on as long as anything needs it.
    pub async fn import(
        &self,
        name: &ImageName,
        path: &Path,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let any = ImageRef::Name(name.clone());
        self.take(&ImageKey::from(name), path, any, unpacker, progress)
            .await
    }

    /// Makes an image of what a reference to this host's disk means, under a name.
    pub async fn import_reference(
        &self,
        name: &ImageName,
        reference: &ImageRef,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        match reference {
            ImageRef::OciLayout { dir: path, .. }
            | ImageRef::DockerArchive(path)
            | ImageRef::Tar(path) => {
                self.take(
                    &ImageKey::from(name),
                    path,
                    reference.clone(),
                    unpacker,
                    progress,
                )
                .await
            }
            _ => Err(ImageError::NotFound {
                name: ImageKey::of(reference),
                known: Vec::new(),
            }),
        }
    }

    async fn take(
        &self,
        key: &ImageKey,
        path: &Path,
        kind: ImageRef,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        progress.say(format!("reading {}", path.display()));
        let path = path.canonicalize().map_err(io_error("read", path))?;
        if let Ok(meta) = path.metadata()
            && meta.is_file()
        {
            let doing = format!("import {}", path.display());
            free_space::check(&doing, meta.len(), self.blobs().dir())?;
        }
        // Before it is read: what changes meanwhile counts as changed.
        let stamp = Stamp::of(&path).unwrap_or_default();
        let _fetching = self.fetching()?;
        let building = self.begin(key, "importing", progress).await?;
        let content = self
            .take_content(path.clone(), kind, unpacker.processor(), progress)
            .await?;
        let made = self
            .realize(
                key,
                Source::File { path, stamp },
                content,
                unpacker,
                progress,
            )
            .await;
        drop(building);
        made
    }

    async fn take_content(
        &self,
        path: PathBuf,
        kind: ImageRef,
        processor: Processor,
        progress: &Progress,
    ) -> Result<Content, ImageError> {
        let (blobs, progress) = (self.blobs().clone(), progress.clone());
        blocking(move || match kind {
            ImageRef::OciLayout { name, .. } => {
                archive::take_layout(&path, name.as_deref(), processor, &blobs, &progress)
            }
            ImageRef::DockerArchive(_) => archive::take_saved(&path, processor, &blobs, &progress),
            ImageRef::Tar(_) => archive::take_root(
                &path,
                crate::image::content::RunConfig::default(),
                &blobs,
                &progress,
            ),
            _ => archive::take(&path, processor, &blobs, &progress),
        })
        .await
    }

    /// Builds an image anew by a recipe, or of the archive that the recipe made before (`bash RECIPE ARCHIVE`).
    /// Where another process was building it, its result is taken.
    pub async fn build_recipe(
        &self,
        recipe: &Recipe,
        archive: Option<&Path>,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let key = ImageKey::from(&recipe.image_name()?);
        let _fetching = self.fetching()?;
        let building = self.begin(&key, "building", progress).await?;
        if building.waited
            && let Some(image) = self
                .find(&key)?
                .filter(|image| image.record.source == recipe.source())
        {
            return Ok(image);
        }
        let tar = match archive {
            Some(archive) => archive.to_owned(),
            None => recipe.run(&building.dir, progress).await?,
        };
        let (blobs, run, told) = (self.blobs().clone(), recipe.run_config(), progress.clone());
        let mut content = blocking(move || archive::take_root(&tar, run, &blobs, &told)).await?;
        // No recipe leaves files that mean deletions, so its disk is that of whoever pulls what was pushed of it.
        content.plain_root = false;
        self.realize(&key, recipe.source(), content, unpacker, progress)
            .await
    }

    /// The image of that recipe, built where there is none; see [`ImageStore::build_recipe`].
    pub async fn ensure_recipe(
        &self,
        recipe: &Recipe,
        archive: Option<&Path>,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        match self.find(&ImageKey::from(&recipe.image_name()?))? {
            Some(image) => Ok(image),
            None => self.build_recipe(recipe, archive, unpacker, progress).await,
        }
    }

    async fn begin(
        &self,
        key: &ImageKey,
        doing: &str,
        progress: &Progress,
    ) -> Result<Building, ImageError> {
        let say = || {
            progress.say(format!(
                "waiting for another snowglobe to finish {doing} `{key}`"
            ))
        };
        self.building(&key.file(), say).await
    }

    /// Makes the key stand for a disk of this content: one that is there, or a new one.
    async fn realize(
        &self,
        key: &ImageKey,
        source: Source,
        content: Content,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let disk_key = content.key();
        let record = ImageRecord {
            format: FORMAT,
            key: key.clone(),
            disk: DiskId::new(),
            // Fractions of a second tell nobody anything.
            created: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
                .unwrap_or_default(),
            source,
            content,
        };
        let mut building = None;
        let image = loop {
            // Until the record names it, only the lock keeps a disk from being swept.
            let held = self.lock()?;
            if let Some(disk) = self.disk_of(&disk_key)? {
                break self.publish(
                    &held,
                    ImageRecord {
                        disk: disk.disk,
                        ..record
                    },
                )?;
            }
            drop(held);
            let Some(building) = &building else {
                let say = || {
                    progress
                        .say("waiting for another snowglobe to finish unpacking the same layers")
                };
                building = Some(self.building(&format!("@disk-{disk_key}"), say).await?);
                continue;
            };
            let (raw, disk) = self
                .fill(&record.content, building, unpacker, progress)
                .await?;
            let held = self.lock()?;
            self.publish_disk(&held, &raw, &disk)?;
            break self.publish(
                &held,
                ImageRecord {
                    disk: disk.disk,
                    ..record
                },
            )?;
        };
        drop(building);
        // The disk the key stood for before.
        self.sweep_quietly();
        Ok(image)
    }

    /// Unpacks an image's layers onto a fresh disk.
    async fn fill(
        &self,
        content: &Content,
        building: &Building,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<(PathBuf, DiskRecord), ImageError> {
        let raw = building.dir.join("root.raw");
        let needs = content.layers.iter().map(|layer| layer.bytes);
        let needs = needs.fold(0u64, u64::saturating_add);
        free_space::check("unpack the image", needs, &building.dir)?;
        progress.say("making an empty disk");
        let path = raw.clone();
        blocking(move || empty_disk::instantiate(&path).map_err(io_error("make the disk", &path)))
            .await?;
        let layers = LayerSource::of(content, self.blobs())?;
        let unpacked = unpacker.unpack(&raw, &layers, progress).await;
        // A layer that broke is the reason, whatever the guest made of a stream that ended early.
        layers.iter().try_for_each(LayerSource::check)?;
        let unpacked = unpacked?;
        progress.say("writing the disk");
        let path = raw.clone();
        let bytes = blocking(move || seal(&path)).await?;
        let record = DiskRecord {
            format: FORMAT,
            disk: DiskId::new(),
            key: content.key(),
            bytes,
            entries: unpacked.entries,
            accounts: unpacked.accounts,
        };
        Ok((raw, record))
    }
}

/// Whether an image is what it came from still, as far as that can be told without a network.
fn is_current(image: &ImageInfo) -> bool {
    match &image.record.source {
        // A file that is gone doesn't take the image with it. An import under a name stays what it was.
        Source::File { path, stamp } if image.record.key.as_str().contains(':') => {
            Stamp::of(path).is_none_or(|now| now == *stamp)
        }
        _ => true,
    }
}

/// Puts all of a disk on stable storage and makes it read-only; gives what it takes there.
fn seal(path: &Path) -> Result<u64, ImageError> {
    let seal = || {
        let file = File::options().write(true).open(path)?;
        fs::set_permissions(path, PermissionsExt::from_mode(private::COMPLETE))?;
        file.sync_all()?;
        Ok(file.metadata()?.blocks() * 512)
    };
    seal().map_err(io_error("write", path))
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::unpack(error)),
    }
}
