//! Manifests and indexes of images, as registries and layouts hold them. Pure.

use oci_client::manifest::{OciDescriptor, OciImageIndex, OciImageManifest};
use serde::Deserialize;

use crate::image::digest::{Digest, DigestError};

/// The largest manifest, index or configuration that is read, in bytes. Real ones are far smaller.
pub(crate) const MAX_JSON: u64 = 8 << 20;

/// The most layers an image may have. Container tools stop at 127.
const MAX_LAYERS: usize = 1000;

/// The annotation with the name of an image in a layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The fields that distinguish an index from a manifest. The others are skipped: a JSON value takes thirty times the
/// size of its text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<serde_json::Number>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// The index of several images, or the manifest of one.
pub(crate) enum Manifest {
    /// The images of an index.
    Index(OciImageIndex),
    /// The manifest of one image.
    Image(Box<OciImageManifest>),
}

impl Manifest {
    /// Parses an index or a manifest, and refuses other kinds. The error is a sentence: `its manifest …`.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let shape: Shape =
            serde_json::from_slice(json).map_err(|e| format!("its manifest is no JSON ({e})"))?;
        let broken = |e: serde_json::Error| format!("its manifest can't be understood ({e})");
        if shape.schema_version == Some(serde_json::Number::from(1)) {
            return Err(
                "it is in the schema 1 of old registries; push it again with a current tool".into(),
            );
        }
        if shape.manifests.is_some() {
            return serde_json::from_slice(json)
                .map(Self::Index)
                .map_err(broken);
        }
        let manifest: Box<OciImageManifest> = serde_json::from_slice(json).map_err(broken)?;
        let kind = manifest.config.media_type.as_str();
        // Old archives have no media type for the configuration.
        if !kind.is_empty()
            && !kind.contains("container.image")
            && !kind.contains("oci.image.config")
        {
            return Err(format!("it is no container image but a {kind}"));
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(format!(
                "it has {} layers; at most {MAX_LAYERS} are possible",
                manifest.layers.len()
            ));
        }
        Ok(Self::Image(manifest))
    }
}

/// The digest and the size in a descriptor.
pub(crate) fn digest_and_size(descriptor: &OciDescriptor) -> Result<(Digest, u64), String> {
    let size = u64::try_from(descriptor.size)
        .map_err(|_| format!("{} has a negative size", descriptor.digest))?;
    let digest = descriptor.digest.parse();
    let digest = digest.map_err(|error: DigestError| error.to_string())?;
    Ok((digest, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_kinds_are_refused() {
        let chart = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"x","size":1},"layers":[]}"#;
        for (json, said) in [
            (chart, "helm"),
            ("{\"schemaVersion\":1}", "schema 1"),
            ("{}", "can't be understood"),
            ("<", "no JSON"),
        ] {
            let Err(error) = Manifest::parse(json.as_bytes()) else {
                panic!("{json}")
            };
            assert!(error.contains(said), "{error}");
        }
    }
}
