//! Pushing an image: its layers, its configuration, and last its manifest.

use futures_util::TryStreamExt;
use oci_client::Client;
use oci_client::errors::OciDistributionError;
use tokio_util::io::ReaderStream;

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
        let client = endpoint.pusher(self).await?;
        for (index, layer) in content.layers.iter().enumerate() {
            progress.say(format!(
                "pushing layer {} of {}",
                index + 1,
                content.layers.len()
            ));
            push_blob(&endpoint, &client, blobs, &layer.digest).await?;
        }
        push_blob(&endpoint, &client, blobs, &content.config).await?;
        let json = blobs.read(&content.manifest)?;
        let Node::Image(manifest) =
            Node::parse(&json).map_err(|problem| endpoint.wrong(problem))?
        else {
            return Err(endpoint.wrong("it is an index".into()).into());
        };
        let kind = manifest
            .media_type
            .unwrap_or_else(|| oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned());
        let kind = kind
            .parse()
            .map_err(|_| endpoint.wrong(format!("its media type is {kind:?}")))?;
        let pushed = client
            .push_manifest_raw(&endpoint.reference, json, kind)
            .await;
        pushed.map_err(|e| endpoint.explain(e))?;
        Ok(())
    }
}

async fn push_blob(
    endpoint: &Endpoint,
    client: &Client,
    blobs: &Blobs,
    digest: &Digest,
) -> Result<(), ImageError> {
    let there = client
        .blob_exists(&endpoint.reference, digest.as_str())
        .await;
    if there.unwrap_or(false) {
        return Ok(());
    }
    let path = blobs.path(digest);
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(io_error("read", &path))?;
    let stream =
        ReaderStream::with_capacity(file, 256 << 10).map_err(OciDistributionError::IoError);
    let pushed = client
        .push_blob_stream(
            &endpoint.reference,
            stream,
            digest.as_str(),
            blobs.size(digest),
        )
        .await;
    pushed.map_err(|e| endpoint.explain(e))?;
    Ok(())
}
