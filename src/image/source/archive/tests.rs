//! Tests of archives and saved images, as several programs write them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use super::*;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_JSON, REF_NAME};
use crate::image::platform::architecture;
use crate::image::source::saved_image::MAX_ENTRIES;
use crate::image::tests::tar_of;

/// A saved image as `docker save` writes it, or as an OCI archive. With `tamper`, the first layer has another content than
/// its digest says.
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
fn a_saved_image_is_imported_layer_by_layer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved.tar");
    let blobs = Blobs::new(dir.path()).unwrap();
    let (one, two) = (
        tar_of(&[("a", b"1")]),
        zstd::encode_all(tar_of(&[("b", b"2")]).as_slice(), 1).unwrap(),
    );
    for docker in [true, false] {
        fs::write(&path, saved(docker, &[&one, &two], false)).unwrap();
        let content = import_any(&path, Processor::host(), &blobs, &Progress::none()).unwrap();
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
        let error = import_any(
            &path,
            Processor::host(),
            &Blobs::new(&dir.path().join("other")).unwrap(),
            &Progress::none(),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("is damaged"), "{error}");
        // An image without layers is valid.
        fs::write(&path, saved(docker, &[], false)).unwrap();
        assert!(
            import_any(&path, Processor::host(), &blobs, &Progress::none())
                .unwrap()
                .layers
                .is_empty()
        );
        let packed = zstd::encode_all(saved(docker, &[&one], false).as_slice(), 1).unwrap();
        fs::write(&path, packed).unwrap();
        let error = import_any(&path, Processor::host(), &blobs, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("decompress it first"), "{error}");
        let error = import_saved(&path, Processor::host(), &blobs, &Progress::none())
            .unwrap_err()
            .to_string();
        assert!(error.contains("no saved image"), "{error}");
    }
    // A root that has such a file is no saved image.
    fs::write(
        &path,
        tar_of(&[("manifest.json", b"{\"name\": \"my web app\"}")]),
    )
    .unwrap();
    let content = import_any(&path, Processor::host(), &blobs, &Progress::none()).unwrap();
    assert!(content.plain_root && content.layers.len() == 1);
    assert!(!LayerSource::of(&content, &blobs).unwrap()[0].whiteouts);
}

#[test]
fn a_root_in_xz_is_compressed_again() {
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
    let content = import_any(&path, Processor::host(), &blobs, &Progress::none()).unwrap();
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

#[test]
fn the_best_variant_is_imported_and_of_several_images_none() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let one = tar_of(&[("a", b"1")]);
    tar::Archive::new(saved(false, &[&one], false).as_slice())
        .unpack(&layout)
        .unwrap();
    let blobs = Blobs::new(dir.path()).unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let here = &index["manifests"][1];
    let entry = |variant: &str, there: bool, name: &str| {
        let mut entry = here.clone();
        if !there {
            entry["digest"] = serde_json::json!(Digest::of(variant.as_bytes()));
        }
        entry["platform"] =
            serde_json::json!({"os": "linux", "architecture": architecture(), "variant": variant});
        entry["annotations"] = serde_json::json!({REF_NAME: name});
        entry
    };
    let write = |entries: &[serde_json::Value]| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
    };
    let taken = |name| import_layout(&layout, name, Processor::host(), &blobs, &Progress::none());
    let base = if architecture() == "arm64" {
        "v8"
    } else {
        "v1"
    };
    // The first variant runs on no processor, and its blobs are missing.
    write(&[entry("v99", false, "x"), entry(base, true, "x")]);
    assert_eq!(taken(None).unwrap().layers.len(), 1);
    assert_eq!(taken(Some("x")).unwrap().layers.len(), 1);
    write(&[entry(base, true, "x"), entry(base, true, "y")]);
    let error = taken(None).unwrap_err().to_string();
    assert!(error.contains("holds 2 images"), "{error}");
    assert_eq!(taken(Some("y")).unwrap().layers.len(), 1);
    write(&[entry("v99", false, "x")]);
    let error = taken(None).unwrap_err().to_string();
    assert!(error.contains("/v99"), "{error}");

    // `docker save` of two variants of one image, and of two images.
    let config = |variant: &str| {
        let config = serde_json::json!({"os": "linux", "architecture": architecture(), "variant": variant,
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&one)]}});
        fs::write(layout.join(format!("{variant}.json")), config.to_string()).unwrap();
        format!("{variant}.json")
    };
    let layer = format!("blobs/sha256/{}", Digest::of(&one).hex());
    let image = |variant: &str, tag: &str| serde_json::json!({"Config": config(variant), "RepoTags": [tag], "Layers": [layer]});
    for (second, works) in [("x:1", true), ("y:1", false)] {
        let images = serde_json::json!([image("v99", "x:1"), image(base, second)]);
        fs::write(layout.join("manifest.json"), images.to_string()).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", &layout).unwrap();
        let path = dir.path().join("saved.tar");
        fs::write(&path, archive.into_inner().unwrap()).unwrap();
        let taken = import_saved(&path, Processor::host(), &blobs, &Progress::none());
        assert_eq!(taken.is_ok(), works, "{second}");
    }
}

/// An OCI layout of one layer in a directory.
fn layout(dir: &Path, layer: &[u8]) {
    tar::Archive::new(saved(false, &[layer], false).as_slice())
        .unpack(dir)
        .unwrap();
}

#[test]
fn a_layout_names_nothing_outside() {
    use std::os::unix::fs::symlink;
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let secret = tar_of(&[("secret", b"of the host")]);
    fs::write(at("secret"), &secret).unwrap();
    let config = serde_json::json!({"os": "linux", "architecture": architecture(),
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&secret)]}});
    // Each makes a layout with a file outside of it, or with something that is no regular file.
    let hex = Digest::of(&secret).hex().to_owned();
    type Way<'a> = (&'a str, &'a dyn Fn(&Path));
    let blob = format!("blobs/sha256/{hex}");
    let relink = |dir: &Path, name: &str, to: &Path| {
        fs::rename(dir.join(name), dir.with_extension("moved")).unwrap();
        symlink(to, dir.join(name)).unwrap();
    };
    let docker = |dir: &Path, layer: &str| {
        layout(dir, &secret);
        fs::remove_file(dir.join(&blob)).unwrap();
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let table = serde_json::json!([{"Config": "config.json", "Layers": [layer]}]);
        fs::write(dir.join("manifest.json"), table.to_string()).unwrap();
    };
    let linked = |dir: &Path, name: &str| {
        layout(dir, &secret);
        let moved = dir.with_extension("moved");
        relink(dir, name, &moved);
    };
    let absolute = at("secret").to_str().unwrap().to_owned();
    let ways: [Way; 9] = [
        ("an absolute path", &|dir| docker(dir, &absolute)),
        ("a path upwards", &|dir| docker(dir, "../secret")),
        ("a linked layer", &|dir| linked(dir, &blob)),
        ("linked blobs", &|dir| linked(dir, "blobs")),
        ("linked digests", &|dir| linked(dir, "blobs/sha256")),
        ("a linked index", &|dir| linked(dir, "index.json")),
        ("a linked mark", &|dir| linked(dir, "oci-layout")),
        ("a directory for a layer", &|dir| {
            layout(dir, &secret);
            fs::remove_file(dir.join(&blob)).unwrap();
            fs::create_dir(dir.join(&blob)).unwrap();
        }),
        ("a fifo for a layer", &|dir| {
            layout(dir, &secret);
            fs::remove_file(dir.join(&blob)).unwrap();
            let mode = rustix::fs::Mode::RUSR;
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join(&blob), fifo, mode, 0).unwrap();
        }),
    ];
    for (number, (how, make)) in ways.into_iter().enumerate() {
        let dir = at(&format!("layout{number}"));
        make(&dir);
        let blobs = Blobs::new(&at(&format!("store{number}"))).unwrap();
        let taken = import_layout(&dir, None, Processor::host(), &blobs, &Progress::none());
        let error = taken.expect_err(how).to_string();
        let said = ["cp -rL", "no regular file", "without its part"];
        assert!(
            said.iter().any(|said| error.contains(said)),
            "{how}: {error}"
        );
        assert!(
            !blobs
                .all()
                .unwrap()
                .iter()
                .any(|(digest, _)| digest.hex() == hex),
            "{how}"
        );
    }
    layout(&at("good"), &secret);
    let blobs = Blobs::new(&at("store")).unwrap();
    symlink(at("good"), at("named")).unwrap();
    import_layout(
        &at("named"),
        None,
        Processor::host(),
        &blobs,
        &Progress::none(),
    )
    .unwrap();
}

#[test]
fn sizes_in_the_headers_of_an_archive_are_bounded() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.tar");
    let blobs = Blobs::new(dir.path()).unwrap();
    let claim = |kind: u8, bytes: u64| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[156] = kind;
        header.set_size(bytes);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let gzip = |start: &[u8], zeros: u64| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(start).unwrap();
        std::io::copy(&mut std::io::repeat(b'n').take(zeros), &mut out).unwrap();
        out.finish().unwrap()
    };
    for kind in *b"LKx" {
        let start = claim(kind, 2 << 30);
        for bomb in [
            gzip(&start, 32 << 20),
            [start.clone(), vec![b'n'; 1 << 20]].concat(),
        ] {
            fs::write(&path, bomb).unwrap();
            let error =
                import_any(&path, Processor::host(), &blobs, &Progress::none()).unwrap_err();
            assert!(error.to_string().contains("2147483648 bytes"), "{error}");
        }
    }
    // So many entries that their names alone take much memory.
    let mut many = tar::Builder::new(Vec::new());
    for number in 0..=MAX_ENTRIES {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        many.append_data(&mut header, format!("blobs/sha256/{number}"), &b""[..])
            .unwrap();
    }
    fs::write(&path, many.into_inner().unwrap()).unwrap();
    assert!(
        SavedImage::archive(&FileSlice::whole(&path).unwrap())
            .unwrap()
            .is_none()
    );
    // An index that is too large.
    let table = format!("[{}", " ".repeat(MAX_JSON as usize));
    let files = [("oci-layout", &b"{}"[..]), ("index.json", table.as_bytes())];
    fs::write(&path, tar_of(&files)).unwrap();
    let error = import_any(&path, Processor::host(), &blobs, &Progress::none()).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
    // A configuration that is as large as a layer.
    let large = blobs.put(&vec![b' '; MAX_JSON as usize + 1]).unwrap();
    let error = blobs.read(&large).unwrap_err().to_string();
    assert!(
        error.contains("no configuration") && blobs.size(&large).is_some(),
        "{error}"
    );
}
