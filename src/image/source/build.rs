//! Builds images by recipes.

use std::path::Path;

use crate::image::error::ImageError;
use crate::image::key::ImageKey;
use crate::image::source::archive;
use crate::image::source::recipe::Recipe;
use crate::image::store::image_store::{ImageInfo, ImageStore};
use crate::image::store::record::Source;
use crate::image::unpacker::Unpacker;
use crate::progress::Progress;

impl ImageStore {
    /// Builds an image by a recipe, or from an archive that the recipe made before (`bash RECIPE ARCHIVE`). If another
    /// process was building it, its result is used.
    pub(crate) async fn build_recipe(
        &self,
        recipe: &'static Recipe,
        archive: Option<&Path>,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<ImageInfo, ImageError> {
        let key = ImageKey::from(&recipe.image_name()?);
        let _kept = self.keep_blobs().await?;
        let build = self.begin(&key, "building", progress).await?;
        if build.waited()
            && let Some(image) = self
                .look_up(&key)
                .await?
                .filter(|image| image.record.source == recipe.source())
        {
            return Ok(image);
        }
        let tar = match archive {
            Some(archive) => archive.to_owned(),
            None => recipe.run(build.path(), progress).await?,
        };
        let steps = progress.clone();
        let content = self.blocking(move |store| {
            archive::import_root(&tar, &recipe.run_config(), store.blobs(), &steps)
        });
        let mut content = content.await?;
        // A recipe makes no `.wh.` files. So a pushed image that is pulled again has the same disk.
        content.plain_root = false;
        self.install(&key, recipe.source(), content, unpacker, progress)
            .await
    }

    /// Builds the image of a recipe, unless this very recipe has built it already. An image of that name from elsewhere is
    /// not replaced.
    pub(crate) async fn ensure_recipe(
        &self,
        recipe: &'static Recipe,
        archive: Option<&Path>,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<Built, ImageError> {
        let key = ImageKey::from(&recipe.image_name()?);
        match self.look_up(&key).await? {
            Some(image) if image.record.source == recipe.source() => {
                return Ok(Built::Before(image));
            }
            Some(image) if !matches!(image.record.source, Source::Recipe { .. }) => {
                return Err(ImageError::NotTheRecipes {
                    name: key,
                    origin: image.record.source.to_string(),
                });
            }
            // Another version of Snowglobe has built it.
            Some(_) | None => {}
        }
        let built = self.build_recipe(recipe, archive, unpacker, progress);
        Ok(Built::Now(built.await?))
    }
}

/// Whether a build has built anything.
#[derive(Debug)]
pub(crate) enum Built {
    /// It has.
    Now(ImageInfo),
    /// The same recipe built this image earlier.
    Before(ImageInfo),
}
