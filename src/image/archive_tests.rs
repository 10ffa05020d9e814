//! Saved images, as several programs write them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use super::*;
use crate::image::tests::tar_of;

/// A saved image as `docker save` writes it, or as an OCI archive; with `tamper` the first layer is another than its name says.
fn saved(docker: bool, layers: &[&[u8]], tamper: bool) -> Vec<u8> {
    let hex = |bytes: &[u8]| Digest::of(bytes).hex().to_owned();
    let diff_ids = layers.iter().map(|layer| match zstd::decode_all(*layer) {
        Ok(tar) => Digest::of(&tar),
        Err(_) => Digest::of(layer),
    });
    let diff_ids: Vec<_> = diff_ids.collect();
    let config = serde_json::json!({
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
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
            .zip(layers)
            .map(|(hex, bytes)| serde_json::json!({"mediaType": "x", "size": bytes.len(), "digest": format!("sha256:{hex}")}))
            .collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "layers": blobs, "config":
            {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": format!("sha256:{}", hex(&config))}});
        let manifest = manifest.to_string().into_bytes();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"mediaType": "x", "size": 1, "digest": "sha256:00", "platform": {"architecture": "unknown", "os": "unknown"}},
            {"mediaType": "x", "size": manifest.len(), "digest": format!("sha256:{}", hex(&manifest))},
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
    let blobs = Blobs::new(dir.path()).unwrap();
    let (one, two) = (
        tar_of(&[("a", b"1")]),
        zstd::encode_all(tar_of(&[("b", b"2")]).as_slice(), 1).unwrap(),
    );
    for docker in [true, false] {
        fs::write(&path, saved(docker, &[&one, &two], false)).unwrap();
        let content = take(&path, &blobs, &Progress::none()).unwrap();
        let layers = LayerSource::of(&content, &blobs).unwrap();
        let kinds: Vec<_> = layers
            .iter()
            .map(|layer| (layer.compression(), layer.whiteouts))
            .collect();
        assert_eq!(
            kinds,
            [(Compression::Plain, true), (Compression::Zstd, true)]
        );
        let mut bytes = Vec::new();
        layers[0]
            .open(&Progress::none(), "")
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert!(bytes == one);
        let env =
            [("PATH", "/bin"), ("GREETING", "a=b")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(content.run.env, env);

        fs::write(&path, saved(docker, &[&one], true)).unwrap();
        let error = take(
            &path,
            &Blobs::new(&dir.path().join("other")).unwrap(),
            &Progress::none(),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("is damaged"), "{error}");
        // An image made from scratch with nothing in it is one.
        fs::write(&path, saved(docker, &[], false)).unwrap();
        assert!(
            take(&path, &blobs, &Progress::none())
                .unwrap()
                .layers
                .is_empty()
        );
        let packed = zstd::encode_all(saved(docker, &[&one], false).as_slice(), 1).unwrap();
        fs::write(&path, packed).unwrap();
        let error = take(&path, &blobs, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("decompress it first"), "{error}");
        let error = take_saved(&path, &blobs, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("no saved image"), "{error}");
    }
    // A root with such a file is a root.
    fs::write(
        &path,
        tar_of(&[("manifest.json", b"{\"name\": \"my web app\"}")]),
    )
    .unwrap();
    let content = take(&path, &blobs, &Progress::none()).unwrap();
    assert!(content.plain_root && content.layers.len() == 1);
    assert!(!LayerSource::of(&content, &blobs).unwrap()[0].whiteouts);
}

#[test]
fn a_root_in_xz_becomes_a_layer_that_others_can_use() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(dir.path()).unwrap();
    let (path, tar) = (
        dir.path().join("root.tar.xz"),
        tar_of(&[("etc/motd", b"hello")]),
    );
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&tar).unwrap();
    fs::write(&path, xz.finish().unwrap()).unwrap();
    let content = take(&path, &blobs, &Progress::none()).unwrap();
    assert_eq!(content.layers[0].diff_id, Digest::of(&tar));
    let layer = &LayerSource::of(&content, &blobs).unwrap()[0];
    assert_eq!(layer.compression(), Compression::Zstd);
    let mut bytes = Vec::new();
    layer
        .open(&Progress::none(), "")
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert!(bytes == tar);
}
