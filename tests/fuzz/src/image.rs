//! Generated saved images: digests of parts are correct, except where a part is meant to be wrong.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use arbitrary::Arbitrary;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::tree::{self, Entry};

/// A compression.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

impl Packing {
    pub(crate) fn of(number: u8) -> Self {
        match number % 4 {
            0 => Self::Plain,
            1 => Self::Gzip,
            2 => Self::Zstd,
            _ => Self::Xz,
        }
    }

    pub(crate) fn pack(self, bytes: Vec<u8>) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut read = |reader: &mut dyn std::io::Read| {
            reader
                .read_to_end(&mut packed)
                .expect("it can be compressed")
        };
        match self {
            Self::Plain => return bytes,
            Self::Gzip => {
                let fast = flate2::Compression::fast();
                read(&mut flate2::read::GzEncoder::new(bytes.as_slice(), fast))
            }
            Self::Zstd => {
                return zstd::encode_all(bytes.as_slice(), 1).expect("it can be compressed");
            }
            Self::Xz => read(&mut liblzma::read::XzEncoder::new(bytes.as_slice(), 0)),
        };
        packed
    }
}

/// A saved image.
#[derive(Arbitrary, Debug)]
pub(crate) struct Image {
    layers: Vec<Layer>,
    config: Config,
    config_lie: Lie,
    machines: Vec<Machine>,
    nested: u8,
    docker: bool,
    oci: bool,
    tag: Option<String>,
    kind: Option<String>,
    /// Unusual files in the places of parts.
    tricks: Vec<(u8, Trick)>,
}

#[derive(Arbitrary, Debug)]
struct Layer {
    entries: Vec<Entry>,
    packing: Packing,
    lie: Lie,
    diff_lie: Lie,
    kind: Option<String>,
}

/// The description of a part.
#[derive(Arbitrary, Debug)]
enum Lie {
    No,
    Size(i64),
    Digest(String),
    Path(String),
    Json(String),
}

#[derive(Arbitrary, Debug)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
    env: Vec<String>,
    user: Option<String>,
    workdir: Option<String>,
    entrypoint: Option<Vec<String>>,
    /// Another text in place of the description.
    text: Option<String>,
}

#[derive(Arbitrary, Debug)]
struct Machine {
    os: u8,
    architecture: u8,
    variant: Option<String>,
    name: Option<String>,
}

#[derive(Arbitrary, Debug)]
enum Trick {
    Link,
    LinkInside,
    Directory,
    Fifo,
    Missing,
    Empty,
    Cut(u16),
    Other(Vec<u8>),
}

/// A part's name and its bytes.
type Parts = Vec<(String, Vec<u8>)>;

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Adds a blob; returns its descriptor.
fn blob(parts: &mut Parts, bytes: Vec<u8>, kind: &str, lie: &Lie) -> Value {
    let hex = digest(&bytes);
    let mut described =
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()});
    match lie {
        Lie::No => {}
        Lie::Size(size) => described["size"] = (*size).into(),
        Lie::Digest(text) => described["digest"] = text.as_str().into(),
        Lie::Path(path) => described["digest"] = format!("sha256:../{path}").into(),
        Lie::Json(text) => described = serde_json::from_str(text).unwrap_or(Value::Null),
    }
    parts.push((format!("blobs/sha256/{hex}"), bytes));
    described
}

fn name_of(described: &Value) -> String {
    let digest = described["digest"].as_str().unwrap_or_default();
    digest.replacen("sha256:", "blobs/sha256/", 1)
}

impl Image {
    /// The parts of the image.
    fn parts(&self) -> Parts {
        let mut parts = Parts::new();
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in self.layers.iter().take(4) {
            let tar = tree::written(&layer.entries);
            diff_ids.push(match &layer.diff_lie {
                Lie::No => format!("sha256:{}", digest(&tar)),
                Lie::Size(size) => format!("sha256:{size:064x}"),
                Lie::Digest(text) | Lie::Path(text) | Lie::Json(text) => text.clone(),
            });
            let kind = layer.kind.as_deref();
            let kind = kind.unwrap_or("application/vnd.oci.image.layer.v1.tar");
            layers.push(blob(&mut parts, layer.packing.pack(tar), kind, &layer.lie));
        }
        let config = self.config.text(&diff_ids);
        let kind = self.kind.as_deref();
        let kind = kind.unwrap_or("application/vnd.oci.image.config.v1+json");
        let config = blob(&mut parts, config.into_bytes(), kind, &self.config_lie);
        if self.docker {
            let names: Vec<String> = layers.iter().map(name_of).collect();
            let tags = self.tag.as_ref().map(|tag| [tag]);
            let table = json!([{"Config": name_of(&config), "Layers": names, "RepoTags": tags}]);
            parts.push(("manifest.json".into(), table.to_string().into_bytes()));
        }
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let manifest = manifest.to_string().into_bytes();
        let mut entry = blob(
            &mut parts,
            manifest,
            "application/vnd.oci.image.manifest.v1+json",
            &Lie::No,
        );
        let mut index = self.index(&entry);
        for _ in 0..self.nested % 8 {
            let kind = "application/vnd.oci.image.index.v1+json";
            entry = blob(&mut parts, index.to_string().into_bytes(), kind, &Lie::No);
            index = self.index(&entry);
        }
        if self.oci {
            parts.push(("index.json".into(), index.to_string().into_bytes()));
            parts.push(("oci-layout".into(), b"{}".to_vec()));
        }
        parts
    }

    /// An index of one manifest, for several machines.
    fn index(&self, described: &Value) -> Value {
        let mut all = vec![described.clone()];
        for machine in self.machines.iter().take(4) {
            let mut entry = described.clone();
            let os = ["linux", "windows", "unknown"][usize::from(machine.os % 3)];
            let processor = ["amd64", "arm64", "unknown"][usize::from(machine.architecture % 3)];
            entry["platform"] =
                json!({"os": os, "architecture": processor, "variant": machine.variant});
            if let Some(name) = &machine.name {
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            }
            all.push(entry);
        }
        json!({"schemaVersion": 2, "manifests": all})
    }

    /// The image as an archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (number, (name, bytes)) in self.parts().into_iter().enumerate() {
            let mut header = tar::Header::new_gnu();
            let mut bytes = bytes.as_slice();
            match self.trick(number) {
                None | Some(Trick::Fifo | Trick::Directory) => {}
                Some(Trick::Missing) => continue,
                Some(Trick::Empty) => bytes = &[],
                Some(Trick::Cut(at)) => bytes = &bytes[..bytes.len().min(usize::from(*at))],
                Some(Trick::Other(other)) => bytes = other,
                Some(Trick::Link | Trick::LinkInside) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    let _ = header.set_link_name("../../outside/secret");
                    bytes = &[];
                }
            }
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, bytes)
                .expect("it can be written");
        }
        archive.into_inner().expect("it can be written")
    }

    /// The image as a layout, in a new directory.
    pub(crate) fn lay(&self, dir: &Path) {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("there is room");
        for (number, (name, bytes)) in self.parts().into_iter().enumerate() {
            let path = dir.join(name);
            let _ = fs::remove_file(&path);
            let made = match self.trick(number) {
                None => fs::write(path, bytes),
                Some(Trick::Missing) => Ok(()),
                Some(Trick::Empty) => fs::write(path, ""),
                Some(Trick::Cut(at)) => {
                    fs::write(path, &bytes[..bytes.len().min(usize::from(*at))])
                }
                Some(Trick::Other(other)) => fs::write(path, other),
                Some(Trick::Link) => symlink(dir.with_file_name("outside").join("secret"), path),
                Some(Trick::LinkInside) => symlink("oci-layout", path),
                Some(Trick::Directory) => fs::create_dir(path),
                Some(Trick::Fifo) => {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
                    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).map_err(Into::into)
                }
            };
            // If two parts have one name, the directory may already exist.
            let _ = made;
        }
    }

    fn trick(&self, number: usize) -> Option<&Trick> {
        let found = |(part, _): &&(u8, Trick)| usize::from(*part % 16) == number;
        self.tricks.iter().find(found).map(|(_, trick)| trick)
    }
}

impl Config {
    fn text(&self, diff_ids: &[String]) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        let own = match cfg!(target_arch = "aarch64") {
            true => "arm64",
            false => "amd64",
        };
        json!({
            "os": self.os.as_deref().unwrap_or("linux"),
            "architecture": self.architecture.as_deref().unwrap_or(own),
            "config": {
                "Env": self.env,
                "User": self.user,
                "WorkingDir": self.workdir,
                "Entrypoint": self.entrypoint,
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
    }
}
