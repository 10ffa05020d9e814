//! Imports images from files and layouts of the host.

use std::path::{Path, PathBuf};

use crate::image::content::{Content, RunConfig};
use crate::image::error::ImageError;
use crate::image::file_error::file_error;
use crate::image::key::ImageKey;
use crate::image::name::ImageName;
use crate::image::platform::Processor;
use crate::image::reference::ImageRef;
use crate::image::source::archive;
use crate::image::source::import_error::ImportError;
use crate::image::source::recipe::Recipe;
use crate::image::store::blobs::Blobs;
use crate::image::store::free_space;
use crate::image::store::image_store::{ImageInfo, ImageStore};
use crate::image::store::record::{Source, Stamp};
use crate::image::store::store_error::StoreError;
use crate::image::unpacker::Unpacker;
use crate::progress::Progress;

impl ImageStore {
    /// Refuses a name that an image or a recipe has. Blocking.
    fn check_new_name(&self, name: &ImageName) -> Result<(), ImageError> {
        if Recipe::find(name).is_ok() {
            return Err(ImageError::BuiltInName { name: name.clone() });
        }
        let key = ImageKey::from(name);
        let origin = match self.record(&key) {
            Ok(Some(record)) => record.source.to_string(),
            // It is not clear what would be replaced.
            Err(StoreError::DamagedRecord { .. }) => "a record that can't be read".to_owned(),
            Err(error) => return Err(error.into()),
            Ok(None) if self.has_record(&key)? => "another version of Snowglobe".to_owned(),
            Ok(None) => return Ok(()),
        };
        Err(ImageError::NameTaken {
            name: name.clone(),
            origin,
        })
    }

    /// Makes an image of a file: the archive of a root, or a saved image. An image of the same name is replaced once the
    /// new disk is finished; its old disk stays as long as anything needs it.
    pub async fn import(
        &self,
        name: &ImageName,
        path: &Path,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        self.import_from(name, (path, None), true, unpacker, progress)
            .await
    }

    /// Makes an image of a file; without `force` only if no image has the name. The reference says what the file must be;
    /// without it, its content decides.
    pub(crate) async fn import_from(
        &self,
        name: &ImageName,
        from: (&Path, Option<&ImageRef>),
        force: bool,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let new = (!force).then(|| name.clone());
        if let Some(new) = new.clone() {
            // At once, rather than after another process that makes the same image.
            self.blocking(move |store| store.check_new_name(&new))
                .await?;
        }
        self.import_as(&ImageKey::from(name), from, new, unpacker, progress)
            .await
    }

    /// Imports a file under a key; with `new`, only if no image has this name.
    pub(crate) async fn import_as(
        &self,
        key: &ImageKey,
        (path, reference): (&Path, Option<&ImageRef>),
        new: Option<ImageName>,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        progress.say(format!("reading {}", path.display()));
        let path = path.to_owned();
        let (path, stamp) = self
            .blocking(move |store| prepare(&path, store.blobs()))
            .await?;
        let _kept = self.keep_blobs().await?;
        let build = self.begin(key, "importing", progress).await?;
        if let Some(new) = new {
            // From here until the record is written no other process makes an image of this name.
            self.blocking(move |store| store.check_new_name(&new))
                .await?;
        }
        let (file, reference, processor, steps) = (
            path.clone(),
            reference.cloned(),
            unpacker.processor().await,
            progress.clone(),
        );
        let content = self
            .blocking(move |store| import_file(&file, reference, processor, store.blobs(), &steps));
        let content = content.await?;
        let source = Source::File { path, stamp };
        let made = self.install(key, source, content, unpacker, progress).await;
        drop(build);
        made
    }
}

/// Checks the free space, and notes the state of the file before it is read: a change after that counts as a change.
fn prepare(path: &Path, blobs: &Blobs) -> Result<(PathBuf, Stamp), ImageError> {
    let path = path.canonicalize().map_err(file_error("read", path))?;
    if let Ok(meta) = path.metadata()
        && meta.is_file()
    {
        let doing = format!("import {}", path.display());
        free_space::require(&doing, meta.len(), blobs.dir())?;
    }
    let stamp = Stamp::of(&path).unwrap_or_default();
    Ok((path, stamp))
}

fn import_file(
    path: &Path,
    reference: Option<ImageRef>,
    processor: Processor,
    blobs: &Blobs,
    progress: &Progress,
) -> Result<Content, ImportError> {
    match reference {
        Some(ImageRef::OciLayout { name, .. }) => {
            archive::import_layout(path, name.as_deref(), processor, blobs, progress)
        }
        Some(ImageRef::DockerArchive(_)) => archive::import_saved(path, processor, blobs, progress),
        Some(ImageRef::Tar(_)) => {
            archive::import_root(path, &RunConfig::default(), blobs, progress)
        }
        Some(ImageRef::Name(_) | ImageRef::Registry(_)) | None => {
            archive::import_any(path, processor, blobs, progress)
        }
    }
}
