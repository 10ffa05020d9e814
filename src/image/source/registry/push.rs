//! Pushes an image: its layers, its configuration, and last its manifest.

use oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;

use crate::blocking::blocking;
use crate::image::content::Content;
use crate::image::digest::Digest;
use crate::image::file_error::file_error;
use crate::image::manifest::Manifest;
use crate::image::reference::RegistryRef;
use crate::image::source::registry::endpoint::Endpoint;
use crate::image::source::registry::settings::Registries;
use crate::image::source::registry::transfer_error::TransferError;
use crate::image::store::blobs::Blobs;
use crate::progress::Progress;

impl Registries {
    /// Pushes an image of the store to its registry, never to a mirror.
    pub(crate) async fn push(
        &self,
        content: &Content,
        blobs: &Blobs,
        to: &RegistryRef,
        progress: &Progress,
    ) -> Result<(), TransferError> {
        progress.say(format!("asking {} to take {to}", to.registry()));
        let endpoint = Endpoint::new(self, to, to.registry().to_owned(), progress).await?;
        let endpoint = endpoint.for_pushing();
        for (index, layer) in content.layers.iter().enumerate() {
            progress.say(format!(
                "pushing layer {} of {}",
                index + 1,
                content.layers.len()
            ));
            push_blob(&endpoint, blobs, &layer.digest).await?;
        }
        push_blob(&endpoint, blobs, &content.config).await?;
        let (blobs, manifest) = (blobs.clone(), content.manifest.clone());
        let json = blocking(move || blobs.read(&manifest)).await?;
        let Manifest::Image(manifest) =
            Manifest::parse(&json).map_err(|problem| endpoint.wrong(problem))?
        else {
            return Err(endpoint.wrong("it is an index".into()).into());
        };
        let kind = manifest
            .media_type
            .unwrap_or_else(|| OCI_IMAGE_MEDIA_TYPE.to_owned());
        let reader = &endpoint.reader;
        let pushed = reader
            .push_manifest(endpoint.digest_or_tag(), &kind, json)
            .await;
        pushed.map_err(|e| endpoint.explain(e))?;
        Ok(())
    }
}

async fn push_blob(
    endpoint: &Endpoint,
    blobs: &Blobs,
    digest: &Digest,
) -> Result<(), TransferError> {
    let reader = &endpoint.reader;
    if reader.has_blob(digest.as_str()).await {
        return Ok(());
    }
    let path = blobs.path(digest);
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(file_error("read", &path))?;
    let meta = file.metadata().await;
    let size = meta.map_err(file_error("read", &path))?.len();
    let pushed = reader.push_blob(digest.as_str(), size, file).await;
    pushed.map_err(|e| endpoint.explain(e))?;
    Ok(())
}
