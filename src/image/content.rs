//! The content of an image: digests of its manifest, its configuration and its layers, and how to run it. Pure.

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::image::platform::architecture;

/// The version of the rules by which layers become a disk. Disks of another version are not used.
const DISK_FORMAT: u32 = 1;

/// The content of an image whose blobs are all in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    /// The manifest.
    pub(crate) manifest: Digest,
    /// The configuration.
    pub(crate) config: Digest,
    /// The layers, lowest first.
    pub(crate) layers: Vec<LayerBlob>,
    /// Whether the image was made of the archive of a root: then `.wh.` files are files.
    pub(crate) plain_root: bool,
    /// What the configuration says about running it.
    pub(crate) run: RunConfig,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerBlob {
    /// The digest of the blob, which may be compressed.
    pub(crate) digest: Digest,
    /// The size of the blob.
    pub(crate) bytes: u64,
    /// The digest of the decompressed tar archive.
    pub(crate) diff_id: Digest,
}

/// What the configuration of an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunConfig {
    /// The environment of its commands.
    pub(crate) env: Vec<(String, String)>,
    /// The directory in which its commands start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workdir: Option<String>,
    /// The user of its commands: `USER[:GROUP]`, names or numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The program that a container of it would run. It is only shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) entrypoint: Vec<String>,
    /// The arguments of the entrypoint. They are only shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) cmd: Vec<String>,
}

impl Content {
    /// The key of its disk: images with the same chain of layers, unpacked in the same way for the same architecture,
    /// share a disk.
    pub(crate) fn disk_key(&self) -> String {
        let mut chain = String::new();
        for layer in &self.layers {
            chain = if chain.is_empty() {
                layer.diff_id.as_str().to_owned()
            } else {
                Digest::of(format!("{chain} {}", layer.diff_id).as_bytes()).into()
            };
        }
        let kind = if self.plain_root { "root" } else { "layers" };
        let key = format!("{DISK_FORMAT} {} {kind} {chain}", architecture());
        Digest::of(key.as_bytes()).half().to_owned()
    }

    /// The digests of all its blobs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        [&self.manifest, &self.config]
            .into_iter()
            .chain(self.layers.iter().map(|layer| &layer.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> LayerBlob {
        LayerBlob {
            digest: Digest::of(&[n, n]),
            bytes: 7,
            diff_id: Digest::of(&[n]),
        }
    }

    #[test]
    fn a_disk_is_keyed_by_its_chain() {
        let content = |layers: Vec<u8>, plain_root| Content {
            manifest: Digest::of(b"m"),
            config: Digest::of(b"c"),
            layers: layers.into_iter().map(layer).collect(),
            plain_root,
            run: RunConfig::default(),
        };
        let key = content(vec![1, 2], false).disk_key();
        assert_eq!(key.len(), 32);
        let mut other = content(vec![1, 2], false);
        other.config = Digest::of(b"another");
        other.layers[0].digest = Digest::of(b"compressed in another way");
        assert_eq!(other.disk_key(), key);
        for different in [
            content(vec![2, 1], false),
            content(vec![1], false),
            content(vec![1, 2], true),
            content(vec![], false),
        ] {
            assert_ne!(different.disk_key(), key);
        }
    }
}
