//! Gets the image that a reference means: from the store, or else from its registry or file.

use crate::image::error::ImageError;
use crate::image::file_error::FileError;
use crate::image::key::ImageKey;
use crate::image::name::ImageName;
use crate::image::reference::{ImageRef, RegistryRef};
use crate::image::source::recipe::Recipe;
use crate::image::source::registry::pull::Pulled;
use crate::image::source::registry::settings::Registries;
use crate::image::store::build_dir::BuildDir;
use crate::image::store::image_store::{ImageInfo, ImageStore};
use crate::image::store::record::{Source, Stamp};
use crate::image::unpacker::Unpacker;
use crate::progress::Progress;
use crate::text::did_you_mean;

impl ImageStore {
    /// The key of a reference. A single word is a name if there is such an image or recipe, else it means the hub.
    /// Blocking.
    ///
    /// If the record can't be looked for, this fails: the hub must not be asked for an image that may be here.
    pub(crate) fn resolve(&self, reference: &ImageRef) -> Result<ImageKey, FileError> {
        let key = ImageKey::of(reference);
        let ImageRef::Name(name) = reference else {
            return Ok(key);
        };
        if Recipe::find(name).is_ok() || self.has_record(&key)? {
            return Ok(key);
        }
        Ok(RegistryRef::of_hub(name).map_or(key, |hub| ImageKey::of(&ImageRef::Registry(hub))))
    }

    async fn key_of(&self, reference: &ImageRef) -> Result<ImageKey, FileError> {
        let reference = reference.clone();
        self.blocking(move |store| store.resolve(&reference)).await
    }

    /// The image of this key, without blocking; see [`ImageStore::find`].
    pub(crate) async fn look_up(&self, key: &ImageKey) -> Result<Option<ImageInfo>, ImageError> {
        let key = key.clone();
        Ok(self.blocking(move |store| store.find(&key)).await?)
    }

    /// The image that a reference means; pulled or imported if it is not in the store. An image that is there needs no
    /// network. A file that changed since its import is imported again.
    pub(crate) async fn ensure(
        &self,
        reference: &ImageRef,
        registries: &Registries,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let key = self.key_of(reference).await?;
        let current = self.blocking(move |store| {
            let found = store.find(&key)?;
            Ok::<_, ImageError>(found.filter(is_current))
        });
        match current.await? {
            Some(image) => Ok(image),
            None => self.pull(reference, registries, unpacker, progress).await,
        }
    }

    /// The image that a reference means now: its registry is asked, or its file read, even if the image is in the store.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        registries: &Registries,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let key = self.key_of(reference).await?;
        let registry = match reference {
            ImageRef::Registry(registry) => registry.clone(),
            ImageRef::Name(name) => {
                match RegistryRef::of_hub(name).filter(|hub| hub.to_string() == key.as_str()) {
                    Some(hub) => {
                        self.say_asking(name, &hub, progress).await;
                        hub
                    }
                    None => {
                        return Ok(self.blocking(move |store| store.require(&key)).await?);
                    }
                }
            }
            ImageRef::OciLayout { dir: path, .. }
            | ImageRef::DockerArchive(path)
            | ImageRef::Tar(path) => {
                let from = (path.as_path(), Some(reference));
                return self.import_as(&key, from, None, unpacker, progress).await;
            }
        };
        let pulled = self
            .pull_registry(&key, &registry, registries, unpacker, progress)
            .await;
        match (pulled, reference) {
            (Err(source), ImageRef::Name(name)) => Err(ImageError::NeitherHereNorOnHub {
                name: name.clone(),
                hub: registry.to_string(),
                known: self
                    .blocking(|store| store.known())
                    .await
                    .unwrap_or_default(),
                source: source.into(),
            }),
            (pulled, _) => pulled,
        }
    }

    /// Says that a single word goes to the hub, since it may be a typing error for an image that is here.
    async fn say_asking(&self, name: &ImageName, hub: &RegistryRef, progress: &Progress) {
        let known = self.blocking(|store| store.known()).await;
        let mut known: Vec<String> = known
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect();
        known.extend(Recipe::ALL.iter().map(|recipe| recipe.name.to_owned()));
        let meant = did_you_mean(name.as_str(), known.iter().map(String::as_str));
        let asking = format!("no image `{name}` is here: {meant}asking for {hub}");
        if !meant.is_empty() {
            tracing::warn!("{asking}");
        }
        progress.say(asking);
    }

    async fn pull_registry(
        &self,
        key: &ImageKey,
        reference: &RegistryRef,
        registries: &Registries,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let _kept = self.keep_blobs().await?;
        let build = self.begin(key, "pulling", progress).await?;
        let here = self.look_up(key).await?;
        if build.waited()
            && let Some(image) = here
        {
            return Ok(image);
        }
        let is_here = |manifest: &_| {
            here.as_ref()
                .is_some_and(|image| image.record.content.manifest == *manifest)
        };
        let pulled = registries
            .pull(
                reference,
                self.blobs(),
                unpacker.processor().await,
                is_here,
                progress,
            )
            .await?;
        match (pulled, here) {
            (Some(Pulled { content, digest }), _) => {
                let source = Source::Registry {
                    reference: reference.to_string(),
                    digest,
                };
                self.install(key, source, content, unpacker, progress).await
            }
            (None, Some(image)) => Ok(image),
            (None, None) => Err(self.blocking_not_found(key).await),
        }
    }

    async fn blocking_not_found(&self, key: &ImageKey) -> ImageError {
        let key = key.clone();
        self.blocking(move |store| store.not_found(&key))
            .await
            .into()
    }

    /// Takes the exclusive right to make the image of this key.
    pub(crate) async fn begin(
        &self,
        key: &ImageKey,
        doing: &str,
        progress: &Progress,
    ) -> Result<BuildDir, FileError> {
        let say_waiting = || {
            progress.say(format!(
                "waiting for another snowglobe to finish {doing} `{key}`"
            ));
        };
        self.build_dir(&key.file(), say_waiting).await
    }
}

/// Whether an image is still what its source was, as far as that is known without a network. Blocking.
fn is_current(image: &ImageInfo) -> bool {
    match &image.record.source {
        // An image stays when its file is removed, and an image with a name of its own stays as it was imported.
        Source::File { path, stamp } if image.record.key.as_str().contains(':') => {
            Stamp::of(path).is_none_or(|now| now == *stamp)
        }
        _ => true,
    }
}
