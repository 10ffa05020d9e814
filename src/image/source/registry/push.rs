//! Pushing an image: its layers, its configuration, and last its manifest.

use super::Registries;
use super::endpoint::Endpoint;
use crate::image::ImageError;
use crate::image::content::{Content, Node};
use crate::image::error::io_error;
use crate::image::reference::RegistryRef;
use crate::image::store::blobs::{Blobs, Digest};
use crate::progress::Progress;

impl Registries {
    /// Pushes an image whose blobs are here, to its registry itself and never to a mirror.
    pub async fn push(
        &self,
        content: &Content,
        blobs: &Blobs,
        to: &RegistryRef,
        progress: &Progress,
    ) -> Result<(), ImageError> {
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
        let json = blobs.read(&content.manifest)?;
        let Node::Image(manifest) =
            Node::parse(&json).map_err(|problem| endpoint.wrong(problem))?
        else {
            return Err(endpoint.wrong("it is an index".into()).into());
        };
        let kind = manifest
            .media_type
            .unwrap_or_else(|| oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned());
        let reader = &endpoint.reader;
        let pushed = reader.give_manifest(endpoint.named(), &kind, json).await;
        pushed.map_err(|e| endpoint.explain(e))?;
        Ok(())
    }
}

async fn push_blob(endpoint: &Endpoint, blobs: &Blobs, digest: &Digest) -> Result<(), ImageError> {
    let reader = &endpoint.reader;
    if reader.has_blob(digest.as_str()).await {
        return Ok(());
    }
    let path = blobs.path(digest);
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(io_error("read", &path))?;
    let size = file
        .metadata()
        .await
        .map_err(io_error("read", &path))?
        .len();
    let pushed = reader.give_blob(digest.as_str(), size, file).await;
    pushed.map_err(|e| endpoint.explain(e))?;
    Ok(())
}
