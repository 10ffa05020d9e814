//! Layers of any kind end in a result, and touch nothing outside the root.
#![no_main]

use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// Two layers, one over the other: raw bytes, or entries whose checksums hold.
#[derive(Arbitrary, Debug)]
enum Layer {
    Raw(Vec<u8>),
    Entries(Vec<Entry>),
}

#[derive(Arbitrary, Debug)]
struct Entry {
    path: Vec<Part>,
    absolute: bool,
    kind: u8,
    link: Vec<Part>,
    link_absolute: bool,
    mode: u16,
    owner: u16,
    data: Vec<u8>,
    /// What the header claims beyond the data that is there.
    claimed: Option<u16>,
    pax: Vec<(u8, Vec<u8>)>,
}

/// Few names, so that entries meet.
#[derive(Arbitrary, Debug)]
enum Part {
    A,
    B,
    C,
    Up,
    Dot,
    Outside,
    Whiteout,
    Opaque,
    Other(Vec<u8>),
}

fn join(parts: &[Part], absolute: bool) -> Vec<u8> {
    let mut path = Vec::new();
    for part in parts.iter().take(8) {
        if absolute || !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(match part {
            Part::A => b"a",
            Part::B => b"b",
            Part::C => b"c",
            Part::Up => b"..",
            Part::Dot => b".",
            Part::Outside => b"outside",
            Part::Whiteout => b".wh.a",
            Part::Opaque => b".wh..wh..opq",
            Part::Other(bytes) => bytes,
        });
    }
    path
}

const KINDS: &[u8] = b"0000555221xxgSLKV7346\0\0A";
const KEYS: &[&str] = &[
    "path", "linkpath", "size", "uid", "mtime", "SCHILY.xattr.user.x", "GNU.sparse.major", "GNU.sparse.minor",
    "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.name", "GNU.sparse.numbytes",
];

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = KINDS[usize::from(self.kind) % KINDS.len()];
        let records: Vec<u8> = self.pax.iter().flat_map(|(key, value)| record(KEYS[usize::from(*key) % KEYS.len()], value)).collect();
        if !self.pax.is_empty() && kind != b'x' {
            block(out, b"pax", b'x', &[], 0o644, 0, &records, None);
        }
        let data = if kind == b'x' || kind == b'g' { &records } else { &self.data };
        let path = join(&self.path, self.absolute);
        block(out, &path, kind, &join(&self.link, self.link_absolute), self.mode, self.owner, data, self.claimed);
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap_or(1);
    [format!("{} {key}=", rest + digits).as_bytes(), value, b"\n"].concat()
}

#[allow(clippy::too_many_arguments)]
fn block(out: &mut Vec<u8>, path: &[u8], kind: u8, link: &[u8], mode: u16, owner: u16, data: &[u8], claimed: Option<u16>) {
    let mut header = tar::Header::new_gnu();
    let bytes = header.as_mut_bytes();
    let path = &path[..path.len().min(100)];
    bytes[..path.len()].copy_from_slice(path);
    bytes[156] = kind;
    let link = &link[..link.len().min(100)];
    bytes[157..157 + link.len()].copy_from_slice(link);
    header.set_mode(u32::from(mode));
    header.set_uid(u64::from(owner));
    header.set_gid(u64::from(owner));
    header.set_mtime(0);
    header.set_size(claimed.map_or(data.len() as u64, u64::from));
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn bytes(layer: &Layer) -> Vec<u8> {
    match layer {
        Layer::Raw(bytes) => bytes.clone(),
        Layer::Entries(entries) => {
            let mut out = Vec::new();
            entries.iter().take(24).for_each(|entry| entry.write(&mut out));
            out.resize(out.len() + 1024, 0);
            out
        }
    }
}

fn check_outside(dir: &Path) {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["outside", "root"]);
    let inside: Vec<_> = std::fs::read_dir(dir.join("outside")).unwrap().collect();
    assert_eq!(inside.len(), 1);
    assert_eq!(std::fs::read(dir.join("outside/a")).unwrap(), b"secret");
}

fuzz_target!(|layers: (Layer, Layer, bool)| {
    let dir = tempfile::Builder::new().prefix("snowglobe-fuzz-").tempdir_in("/dev/shm").unwrap();
    for part in ["root", "outside"] {
        std::fs::create_dir(dir.path().join(part)).unwrap();
    }
    std::fs::write(dir.path().join("outside/a"), "secret").unwrap();
    let root = dir.path().join("root");
    for layer in [&layers.0, &layers.1] {
        let _ = snowglobe_init::layers::apply(&root, bytes(layer).as_slice(), layers.2);
    }
    let _ = snowglobe_init::layers::finish(&root);
    check_outside(dir.path());
});
