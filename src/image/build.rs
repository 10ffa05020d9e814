//! How an image comes about: imported from a file, or built by a recipe.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::archive::Archive;
use super::error::io_error;
use super::record::FORMAT;
use super::store::Building;
use super::{
    DiskId, DiskRecord, ImageError, ImageInfo, ImageName, ImageStore, Recipe, Source, Unpacker,
    template,
};
use crate::progress::Progress;

impl ImageStore {
    /// Makes an image of the tar archive at `path`: a root file system, or a saved image with its layers. What the
    /// name stood for is given up only when the new disk is finished, and lives on as long as anything needs it.
    /// Where the name holds just this archive already, nothing is done.
    pub async fn import(
        &self,
        name: &ImageName,
        path: &Path,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        progress.say(format!("reading {}", path.display()));
        let path = path.canonicalize().map_err(io_error("read", path))?;
        let archive = open_archive(&path, progress).await?;
        let building = self.begin(name, progress).await?;
        if let Some(image) = self.same(name, &archive) {
            return Ok(image);
        }
        self.fill(
            name,
            Source::File { path },
            archive,
            building,
            unpacker,
            progress,
        )
        .await
    }

    /// Builds an image anew by a recipe. Where another process was building it, its result is taken.
    pub async fn build_recipe(
        &self,
        recipe: &Recipe,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let name = recipe.image_name()?;
        let building = self.begin(&name, progress).await?;
        if building.waited
            && let Some(image) = self
                .find(&name)?
                .filter(|image| image.record.source == recipe.source())
        {
            return Ok(image);
        }
        self.cook(&name, recipe, building, unpacker, progress).await
    }

    /// The image of that name, built by the recipe of that name where there is none.
    pub async fn ensure(
        &self,
        name: &ImageName,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        if let Some(image) = self.find(name)? {
            return Ok(image);
        }
        let recipe = Recipe::find(name)?;
        let building = self.begin(name, progress).await?;
        match self.find(name)? {
            Some(image) => Ok(image),
            None => self.cook(name, recipe, building, unpacker, progress).await,
        }
    }

    async fn begin(&self, name: &ImageName, progress: &Progress) -> Result<Building, ImageError> {
        let say = || {
            progress.say(format!(
                "waiting for another snowglobe to finish building `{name}`"
            ))
        };
        self.building(name, say).await
    }

    async fn cook(
        &self,
        name: &ImageName,
        recipe: &Recipe,
        building: Building,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let tar = recipe.run(&building.dir, progress).await?;
        let mut archive = open_archive(&tar, progress).await?;
        archive.env = recipe.env();
        self.fill(name, recipe.source(), archive, building, unpacker, progress)
            .await
    }

    /// Unpacks an archive onto a fresh disk and makes the name stand for it.
    async fn fill(
        &self,
        name: &ImageName,
        source: Source,
        archive: Archive,
        building: Building,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let raw = building.dir.join("root.raw");
        progress.say("making an empty disk");
        let path = raw.clone();
        blocking(move || template::instantiate(&path).map_err(io_error("make the disk", &path)))
            .await?;
        let unpacked = unpacker.unpack(&raw, &archive.layers, progress).await;
        // A layer that broke is the reason, whatever the guest made of a stream that ended early.
        archive.layers.iter().try_for_each(|layer| layer.check())?;
        let unpacked = unpacked?;
        progress.say("writing the disk");
        let path = raw.clone();
        let bytes = blocking(move || seal(&path)).await?;
        let record = DiskRecord {
            format: FORMAT,
            disk: DiskId::new(),
            // Fractions of a second tell nobody anything.
            created: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
                .unwrap_or_default(),
            source,
            layers: archive
                .layers
                .iter()
                .map(|layer| layer.digest().to_owned())
                .collect(),
            bytes,
            entries: unpacked.entries,
            env: archive.env,
        };
        self.publish(name, &raw, &record)?;
        drop(building);
        // The disk the name stood for before.
        self.sweep_quietly();
        Ok(ImageInfo {
            name: name.clone(),
            record,
            users: Vec::new(),
        })
    }
}

async fn open_archive(path: &Path, progress: &Progress) -> Result<Archive, ImageError> {
    let (path, progress) = (path.to_owned(), progress.clone());
    blocking(move || Archive::open(&path, &progress)).await
}

/// Puts all of a disk on stable storage and makes it read-only; gives what it takes there.
fn seal(path: &Path) -> Result<u64, ImageError> {
    let seal = || {
        let file = File::options().write(true).open(path)?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o444))?;
        file.sync_all()?;
        Ok(file.metadata()?.blocks() * 512)
    };
    seal().map_err(io_error("write", path))
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::unpack(error)),
    }
}
