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
    /// Builds an image by a recipe, or from an archive that the recipe made before (`bash RECIPE ARCHIVE`). Without
    /// `force` nothing is built if this very recipe has built the image already, and an image from elsewhere is not
    /// replaced. If another process was building the image, its result is used.
    pub(crate) async fn build_recipe(
        &self,
        recipe: &'static Recipe,
        archive: Option<&Path>,
        force: bool,
        unpacker: &impl Unpacker,
        progress: &Progress,
    ) -> Result<Built, ImageError> {
        let key = ImageKey::from(&recipe.image_name()?);
        if !force && let Some(image) = self.built_before(&key, recipe).await? {
            return Ok(Built::Before(image));
        }
        let _kept = self.keep_blobs().await?;
        let build = self.begin(&key, "building", progress).await?;
        match self.built_before(&key, recipe).await {
            Ok(Some(image)) if build.waited() => return Ok(Built::Now(image)),
            Ok(Some(image)) if !force => return Ok(Built::Before(image)),
            Err(error) if !force => return Err(error),
            Ok(_) | Err(_) => {}
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
        let built = self.install(&key, recipe.source(), content, unpacker, progress);
        Ok(Built::Now(built.await?))
    }

    /// The image that this recipe has built; none if there is none, or an older recipe's. Fails if the image of that name
    /// is from elsewhere.
    async fn built_before(
        &self,
        key: &ImageKey,
        recipe: &'static Recipe,
    ) -> Result<Option<ImageInfo>, ImageError> {
        let Some(image) = self.look_up(key).await? else {
            return Ok(None);
        };
        match &image.record.source {
            source if *source == recipe.source() => Ok(Some(image)),
            Source::Recipe { .. } => Ok(None),
            origin => Err(ImageError::NotTheRecipes {
                name: key.clone(),
                origin: origin.to_string(),
            }),
        }
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
