//! OCI layouts made for tests.

use std::io::Write;
use std::path::Path;

use sha2::Digest;

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

impl Packed {
    pub(crate) fn pack(self, tar: &[u8]) -> (Vec<u8>, &'static str) {
        match self {
            Self::Plain => (tar.to_vec(), ""),
            Self::Gzip => {
                let mut out =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(tar).unwrap();
                (out.finish().unwrap(), "+gzip")
            }
            Self::Zstd => (zstd::encode_all(tar, 1).unwrap(), "+zstd"),
        }
    }
}

/// Writes a layout with one image named `latest`; returns the layers' digests.
pub(crate) fn write(
    dir: &Path,
    layers: &[(Vec<u8>, Packed)],
    run: serde_json::Value,
) -> Vec<String> {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = digest(bytes);
        std::fs::write(blobs.join(&digest[7..]), bytes).unwrap();
        digest
    };
    let (mut descriptors, mut diff_ids, mut digests) = (Vec::new(), Vec::new(), Vec::new());
    for (tar, packed) in layers {
        let (bytes, suffix) = packed.pack(tar);
        let digest = put(&bytes);
        diff_ids.push(self::digest(tar));
        descriptors.push(serde_json::json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"), "digest": digest, "size": bytes.len()}));
        digests.push(digest);
    }
    let architecture = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let config = serde_json::json!({"architecture": architecture, "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config.as_bytes()), "size": config.len()},
        "layers": descriptors});
    let manifest = manifest.to_string();
    let digest = put(manifest.as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest, "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "latest"}}]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    digests
}

/// Bytes that don't compress.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(88_172_645_463_325_253);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(|| next().to_le_bytes())
        .flatten()
        .take(bytes)
        .collect()
}

/// A layer of files: path, mode, content.
pub(crate) fn files(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The layer of a small userland: busybox and a shell.
pub(crate) fn busybox() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let program = std::fs::read("/bin/busybox").unwrap();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    builder
        .append_data(&mut header, "bin/busybox", program.as_slice())
        .unwrap();
    for applet in [
        "sh", "id", "cat", "ls", "stat", "echo", "pwd", "env", "touch", "mkdir", "sleep", "uname",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    builder.into_inner().unwrap()
}
