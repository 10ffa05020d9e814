//! The contents of images as blobs: manifest and configuration are read and written here.

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
};
use serde::{Deserialize, Serialize};

use crate::image::compression::Compression;
use crate::image::content::{Content, LayerBlob, RunConfig};
use crate::image::digest::Digest;
use crate::image::manifest::{Manifest, digest_and_size};
use crate::image::platform::{architecture, normalized};
use crate::image::store::blob_error::BlobError;
use crate::image::store::blobs::Blobs;

#[derive(Deserialize)]
struct ImageConfig {
    architecture: Option<String>,
    os: Option<String>,
    config: Option<ConfigRun>,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigRun {
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
}

impl From<ConfigRun> for RunConfig {
    fn from(config: ConfigRun) -> Self {
        let pair = |line: String| {
            let (name, value) = line.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        };
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let env = config.env.unwrap_or_default();
        Self {
            env: env.into_iter().filter_map(pair).collect(),
            workdir: text(config.working_dir),
            user: text(config.user),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
        }
    }
}

impl Content {
    /// Reads the content of the image with this manifest. Manifest and configuration must be in the store. Blocking.
    pub(crate) fn read(blobs: &Blobs, manifest: &Digest) -> Result<Self, BlobError> {
        let wrong = |problem: String| BlobError::Wrong {
            digest: manifest.clone(),
            problem,
        };
        let Manifest::Image(parsed) = Manifest::parse(&blobs.read(manifest)?).map_err(wrong)?
        else {
            return Err(wrong("it is an index, not an image".into()));
        };
        let (config, _) = digest_and_size(&parsed.config).map_err(wrong)?;
        let read: ImageConfig = serde_json::from_slice(&blobs.read(&config)?)
            .map_err(|e| wrong(format!("its configuration can't be understood ({e})")))?;
        let platform = (
            read.os.as_deref().unwrap_or("linux"),
            normalized(read.architecture.as_deref().unwrap_or(architecture())),
        );
        if platform != ("linux", architecture()) {
            return Err(wrong(format!(
                "it is an image for {}/{}; this machine is linux/{}",
                platform.0,
                platform.1,
                architecture()
            )));
        }
        let diff_ids = read.rootfs.diff_ids;
        if diff_ids.len() != parsed.layers.len() {
            return Err(wrong(format!(
                "it has {} layers, but its configuration names {}",
                parsed.layers.len(),
                diff_ids.len()
            )));
        }
        let layer = |(descriptor, diff_id): (&OciDescriptor, Digest)| {
            let (digest, bytes) = digest_and_size(descriptor).map_err(wrong)?;
            Ok(LayerBlob {
                digest,
                bytes,
                diff_id,
            })
        };
        Ok(Self {
            manifest: manifest.clone(),
            config,
            layers: parsed
                .layers
                .iter()
                .zip(diff_ids)
                .map(layer)
                .collect::<Result<_, BlobError>>()?,
            plain_root: false,
            run: read.config.unwrap_or_default().into(),
        })
    }

    /// Writes a configuration, and a manifest for it and for layers that are in the store. Blocking.
    pub(crate) fn wrap(
        blobs: &Blobs,
        config: &[u8],
        layers: &[(Digest, u64, Compression)],
    ) -> Result<Self, BlobError> {
        let kind = |compression: Compression| match compression {
            Compression::Plain => IMAGE_LAYER_MEDIA_TYPE.to_owned(),
            other => format!("{IMAGE_LAYER_MEDIA_TYPE}+{}", other.suffix()),
        };
        let layers: Vec<_> = layers
            .iter()
            .map(|(digest, size, compression)| {
                serde_json::json!({"mediaType": kind(*compression), "digest": digest, "size": size})
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_MEDIA_TYPE,
            "config": {
                "mediaType": IMAGE_CONFIG_MEDIA_TYPE,
                "digest": blobs.put(config)?,
                "size": config.len(),
            },
            "layers": layers,
        });
        Self::read(blobs, &blobs.put(manifest.to_string().as_bytes())?)
    }

    /// Writes configuration and manifest of an image whose only layer is the archive of a root. Blocking.
    pub(crate) fn of_root(
        blobs: &Blobs,
        layer: (Digest, u64, Compression),
        diff_id: &Digest,
        run: &RunConfig,
    ) -> Result<Self, BlobError> {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let env: Vec<String> = run
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let config = ConfigRun {
            env: some(&env),
            working_dir: run.workdir.clone(),
            user: run.user.clone(),
            entrypoint: some(&run.entrypoint),
            cmd: some(&run.cmd),
        };
        let config = serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let mut content = Self::wrap(blobs, config.to_string().as_bytes(), &[layer])?;
        content.plain_root = true;
        Ok(content)
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
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(dir.path()).unwrap();
        let run = RunConfig {
            env: vec![("A".into(), "b=c".into())],
            workdir: Some("/srv".into()),
            user: Some("7:8".into()),
            entrypoint: vec!["/app".into()],
            cmd: vec!["-v".into()],
        };
        let LayerBlob {
            digest,
            bytes,
            diff_id,
        } = layer(1);
        let written =
            Content::of_root(&blobs, (digest, bytes, Compression::Zstd), &diff_id, &run).unwrap();
        assert_eq!((&written.run, &written.layers), (&run, &vec![layer(1)]));
        let read = Content::read(&blobs, &written.manifest).unwrap();
        assert_eq!(
            read,
            Content {
                plain_root: false,
                ..written
            }
        );
        let manifest = String::from_utf8(blobs.read(&read.manifest).unwrap()).unwrap();
        assert!(manifest.contains("layer.v1.tar+zstd"), "{manifest}");
    }
}
