//! What an image is made of: its manifest, its configuration, its layers. All of it blobs.

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
    OciImageIndex, OciImageManifest,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::ImageError;
use crate::image::layer::Compression;
use crate::image::platform::{architecture, normal};
use crate::image::store::blobs::{Blobs, Digest};

/// More than any real manifest or configuration has.
pub const MAX_JSON: u64 = 8 << 20;

/// The most layers an image may have; container tools stop at 127.
const MAX_LAYERS: usize = 1000;

/// The version of what this program makes of layers: another one unpacks them anew.
const DISK_FORMAT: u32 = 1;

/// An image whose blobs are all there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Its manifest.
    pub manifest: Digest,
    /// Its configuration.
    pub config: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<LayerBlob>,
    /// Whether it was the archive of a root: then `.wh.` files are files.
    pub plain_root: bool,
    /// What its configuration says of running it.
    pub run: RunConfig,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerBlob {
    /// The blob, compressed as it may be.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// The digest of the tar archive in it.
    pub diff_id: Digest,
}

/// What an image's configuration says of running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// The environment its commands expect.
    pub env: Vec<(String, String)>,
    /// The directory they expect to start in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Who they expect to be: `USER[:GROUP]`, names or numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What a container of it would run; shown, not run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Arguments of that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
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

/// What tells an index from a manifest. What else there is isn't kept: as JSON values it takes thirty times its size.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<serde_json::Number>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// An index, or the manifest of one image. Other kinds are refused by name.
pub enum Node {
    /// Several images.
    Index(OciImageIndex),
    /// One.
    Image(Box<OciImageManifest>),
}

impl Node {
    /// Reads one. The problem is for a person: `its manifest …`.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
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
        // Archives made long ago say nothing of their configuration's type.
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

/// The digest and the size that a descriptor names.
pub fn described(descriptor: &OciDescriptor) -> Result<(Digest, u64), String> {
    let size = u64::try_from(descriptor.size)
        .map_err(|_| format!("{} has a negative size", descriptor.digest))?;
    Ok((descriptor.digest.parse()?, size))
}

impl Content {
    /// The image of a manifest that is among the blobs, with its configuration.
    pub fn read(blobs: &Blobs, manifest: &Digest) -> Result<Self, ImageError> {
        let wrong = |problem: String| ImageError::WrongBlob {
            digest: manifest.clone(),
            problem,
        };
        let Node::Image(parsed) = Node::parse(&blobs.read(manifest)?).map_err(wrong)? else {
            return Err(wrong("it is an index, not an image".into()));
        };
        let (config, _) = described(&parsed.config).map_err(wrong)?;
        let read: ConfigFile = serde_json::from_slice(&blobs.read(&config)?)
            .map_err(|e| wrong(format!("its configuration can't be understood ({e})")))?;
        let platform = (
            read.os.as_deref().unwrap_or("linux"),
            normal(read.architecture.as_deref().unwrap_or(architecture())),
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
                "it has {} layers, and its configuration speaks of {}",
                parsed.layers.len(),
                diff_ids.len()
            )));
        }
        let layer = |(descriptor, diff_id): (&OciDescriptor, Digest)| {
            let (digest, bytes) = described(descriptor).map_err(wrong)?;
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
                .collect::<Result<_, ImageError>>()?,
            plain_root: false,
            run: read.config.unwrap_or_default().into(),
        })
    }

    /// The image of a configuration as it is and layers among the blobs: writes a manifest around them.
    pub fn wrap(
        blobs: &Blobs,
        config: &[u8],
        layers: &[(Digest, u64, Compression)],
    ) -> Result<Self, ImageError> {
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

    /// The image of a root file system's archive among the blobs.
    pub fn of_root(
        blobs: &Blobs,
        layer: (Digest, u64, Compression),
        diff_id: &Digest,
        run: &RunConfig,
    ) -> Result<Self, ImageError> {
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

    /// What the disk made of it is found by: the chain of its layers, how they are taken, and for which machine.
    pub fn key(&self) -> String {
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
        hex::encode(&Sha256::digest(key)[..16])
    }

    /// Every blob it needs.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
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

    #[test]
    fn a_disk_is_keyed_by_its_chain() {
        let content = |layers: Vec<u8>, plain_root| Content {
            manifest: Digest::of(b"m"),
            config: Digest::of(b"c"),
            layers: layers.into_iter().map(layer).collect(),
            plain_root,
            run: RunConfig::default(),
        };
        let key = content(vec![1, 2], false).key();
        assert_eq!(key.len(), 32);
        let mut other = content(vec![1, 2], false);
        other.config = Digest::of(b"another");
        other.layers[0].digest = Digest::of(b"compressed in another way");
        assert_eq!(other.key(), key);
        for different in [
            content(vec![2, 1], false),
            content(vec![1], false),
            content(vec![1, 2], true),
            content(vec![], false),
        ] {
            assert_ne!(different.key(), key);
        }
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        let chart = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"x","size":1},"layers":[]}"#;
        for (json, said) in [
            (chart, "helm"),
            ("{\"schemaVersion\":1}", "schema 1"),
            ("{}", "can't be understood"),
            ("<", "no JSON"),
        ] {
            let Err(error) = Node::parse(json.as_bytes()) else {
                panic!("{json}")
            };
            assert!(error.contains(said), "{error}");
        }
    }
}
