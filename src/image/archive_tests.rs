//! Saved images, as several programs write them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use super::*;
use crate::image::tests::tar_of;

/// A saved image as `docker save` writes it, or as an OCI archive; with `tamper` the first layer is another than its name says.
fn saved(docker: bool, layers: &[&[u8]], tamper: bool) -> Vec<u8> {
    use sha2::Digest;
    let hex = |bytes: &[u8]| crate::image::layer::hex(&sha2::Sha256::digest(bytes));
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "GREETING=a=b"]},
    });
    let config = config.to_string().into_bytes();
    let mut files = BTreeMap::new();
    files.insert(format!("blobs/sha256/{}", hex(&config)), config.clone());
    for bytes in layers {
        files.insert(format!("blobs/sha256/{}", hex(bytes)), bytes.to_vec());
    }
    let layer_digests: Vec<String> = layers.iter().map(|bytes| hex(bytes)).collect();
    if docker {
        let paths: Vec<String> = layer_digests
            .iter()
            .map(|hex| format!("blobs/sha256/{hex}"))
            .collect();
        let manifest = serde_json::json!([{
            "Config": format!("blobs/sha256/{}", hex(&config)), "RepoTags": ["x:latest"], "Layers": paths,
        }]);
        files.insert("manifest.json".into(), manifest.to_string().into_bytes());
    } else {
        let blobs: Vec<_> = layer_digests
            .iter()
            .map(|hex| serde_json::json!({"digest": format!("sha256:{hex}")}))
            .collect();
        let manifest = serde_json::json!({"config": {"digest": format!("sha256:{}", hex(&config))}, "layers": blobs});
        let manifest = manifest.to_string().into_bytes();
        let index = serde_json::json!({"manifests": [
            {"digest": "sha256:00", "platform": {"architecture": "unknown", "os": "unknown"}},
            {"digest": format!("sha256:{}", hex(&manifest))},
        ]});
        files.insert(format!("blobs/sha256/{}", hex(&manifest)), manifest);
        files.insert("index.json".into(), index.to_string().into_bytes());
        files.insert("oci-layout".into(), b"{}".to_vec());
    }
    if tamper {
        let path = format!("blobs/sha256/{}", layer_digests[0]);
        files.insert(path, tar_of(&[("evil", b"evil")]));
    }
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    tar_of(&files)
}

#[test]
fn a_saved_image_is_taken_by_its_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved.tar");
    let (one, two) = (
        tar_of(&[("a", b"1")]),
        zstd::encode_all(tar_of(&[("b", b"2")]).as_slice(), 1).unwrap(),
    );
    for docker in [true, false] {
        fs::write(&path, saved(docker, &[&one, &two], false)).unwrap();
        let archive = Archive::open(&path, &Progress::none()).unwrap();
        let kinds: Vec<_> = archive
            .layers
            .iter()
            .map(|layer| (layer.compression(), layer.whiteouts))
            .collect();
        assert_eq!(
            kinds,
            [(Compression::Plain, true), (Compression::Zstd, true)]
        );
        let mut bytes = Vec::new();
        archive.layers[0]
            .open(&Progress::none(), "")
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert!(bytes == one);
        let env =
            [("PATH", "/bin"), ("GREETING", "a=b")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(archive.env, env);

        fs::write(&path, saved(docker, &[&one], true)).unwrap();
        let error = Archive::open(&path, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is damaged"), "{error}");
        fs::write(&path, saved(docker, &[], false)).unwrap();
        let error = Archive::open(&path, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("without a single layer"), "{error}");
        let packed = zstd::encode_all(saved(docker, &[&one], false).as_slice(), 1).unwrap();
        fs::write(&path, packed).unwrap();
        let error = Archive::open(&path, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("decompress it first"), "{error}");
    }
    // A root with such a file is a root.
    fs::write(
        &path,
        tar_of(&[("manifest.json", b"{\"name\": \"my web app\"}")]),
    )
    .unwrap();
    let archive = Archive::open(&path, &Progress::none()).unwrap();
    assert_eq!(
        (archive.layers.len(), archive.layers[0].whiteouts),
        (1, false)
    );
}
