use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs;
use tar::Header;
use tempfile::TempDir;

use super::error::lossy;
use super::*;
use crate::headers::BLOCK;

/// A root, and next to it what no layer may touch.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests set owners and make devices: run them as root"
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> String {
        self.dir
            .path()
            .join("outside")
            .to_str()
            .unwrap()
            .to_string()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn apply(&self, layer: &Archive) -> Applied {
        apply(&self.root(), &*layer.ended(), true).unwrap_or_else(|e| panic!("failed to {e}"))
    }

    /// The error's message; whatever happened, nothing outside has changed.
    fn refuse(&self, layer: &Archive) -> String {
        let result = apply(&self.root(), &*layer.ended(), true);
        self.assert_confined();
        result.map_or_else(|error| error.to_string(), |applied| format!("{applied:?}"))
    }

    fn assert_confined(&self) {
        let outside = self.dir.path().join("outside");
        assert_eq!(list(&outside), ["secret"]);
        let secret = outside.join("secret");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
        assert_eq!(std::fs::metadata(&secret).unwrap().nlink(), 1);
        assert_eq!(list(self.dir.path()), ["outside", "root"]);
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap()
    }

    fn meta(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.at(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok()
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 4096];
        let length = fs::lgetxattr(self.at(path), name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }
}

fn list(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An archive in the making, with no check that would keep a hostile name out.
#[derive(Default, Clone)]
struct Archive(Vec<u8>);

impl Archive {
    fn with(
        mut self,
        kind: u8,
        name: impl AsRef<[u8]>,
        link: &str,
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let name = name.as_ref();
        let as_is: fn(&mut Header) = |_| {};
        let long = b"././@LongLink".as_slice();
        if name.len() > 100 {
            self = self.with(b'L', long, "", &[name, b"\0"].concat(), as_is);
        }
        if link.len() > 100 {
            self = self.with(b'K', long, "", link.as_bytes(), as_is);
        }
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        let short = &name[..name.len().min(100)];
        old.name[..short.len()].copy_from_slice(short);
        let short = &link.as_bytes()[..link.len().min(100)];
        old.linkname[..short.len()].copy_from_slice(short);
        old.linkflag[0] = kind;
        header.set_size(data.len() as u64);
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.with(b'0', name, "", data.as_bytes(), |_| {})
    }

    fn dir(self, name: &str) -> Self {
        self.with(b'5', name, "", b"", |_| {})
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.with(b'2', name, target, b"", |_| {})
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.with(b'1', name, target, b"", |_| {})
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        let bytes = builder.into_inner().unwrap();
        self.0.extend_from_slice(&bytes[..bytes.len() - 2 * BLOCK]);
        self
    }

    fn ended(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 2 * BLOCK]].concat()
    }
}

fn tar() -> Archive {
    Archive::default()
}

#[test]
fn every_kind_with_its_metadata() {
    let place = Place::new();
    let applied = place.apply(
        &tar()
            .dir("usr/")
            .with(b'0', "usr/su", "", b"setuid", |h| {
                h.set_mode(0o4755);
                h.set_uid(1000);
                h.set_gid(3_000_000_000);
            })
            .with(b'0', "usr/closed", "", b"", |h| h.set_mode(0))
            .with(b'5', "spool", "", b"", |h| {
                h.set_mode(0o3770);
                h.set_gid(8);
            })
            .file("spool/child", "in a setgid directory")
            .with(b'2', "link", "usr/su", b"", |h| h.set_uid(7))
            .link("hard", "usr/su")
            .with(b'3', "null", "", b"", |h| {
                h.set_mode(0o666);
                h.set_device_major(1).unwrap();
                h.set_device_minor(3).unwrap();
            })
            .with(b'4', "disk", "", b"", |h| {
                h.set_device_major(254).unwrap();
                h.set_device_minor(300).unwrap();
            })
            .with(b'6', "fifo", "", b"", |h| h.set_mode(0o622))
            .with(0, "old", "", b"v7", |_| {})
            .with(0, "olddir/", "", b"", |h| h.set_mode(0o711))
            .file("made/up/parent", "x"),
    );
    assert_eq!(applied.entries, 13);
    assert_eq!(applied.bytes, 6 + 21 + 2 + 1);
    let su = place.meta("usr/su");
    assert_eq!(su.mode() & 0o7777, 0o4755);
    assert_eq!((su.uid(), su.gid()), (1000, 3_000_000_000));
    assert_eq!((su.mtime(), su.nlink()), (1_000_000_000, 2));
    assert_eq!(place.meta("hard").ino(), su.ino());
    assert_eq!(place.meta("usr/closed").mode() & 0o7777, 0);
    let spool = place.meta("spool");
    assert_eq!((spool.mode() & 0o7777, spool.gid()), (0o3770, 8));
    assert_eq!(
        spool.mtime(),
        1_000_000_000,
        "set after the content was made"
    );
    assert_eq!(place.meta("spool/child").gid(), 0);
    assert_eq!(
        std::fs::read_link(place.at("link")).unwrap(),
        Path::new("usr/su")
    );
    assert_eq!(place.meta("link").uid(), 7);
    assert_eq!(place.meta("link").mtime(), 1_000_000_000);
    let null = place.meta("null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o7777), (0x103, 0o666));
    let disk = place.meta("disk");
    assert!(disk.file_type().is_block_device());
    assert_eq!(disk.rdev(), fs::makedev(254, 300));
    let fifo = place.meta("fifo");
    assert!(fifo.file_type().is_fifo());
    assert_eq!((fifo.mode() & 0o7777, fifo.mtime()), (0o622, 1_000_000_000));
    assert_eq!(place.read("old"), "v7");
    assert!(place.meta("olddir").is_dir());
    assert_eq!(place.meta("olddir").mode() & 0o7777, 0o711);
    assert_eq!(place.meta("made/up").mode() & 0o7777, 0o755);
}

#[test]
fn long_and_odd_names() {
    let place = Place::new();
    let long = format!(
        "{}/{}/{}",
        "a".repeat(200),
        "b".repeat(255),
        "c".repeat(120)
    );
    let target = "t".repeat(300);
    let pax_name = format!("{}/pax", "p".repeat(150));
    place.apply(
        &tar()
            .file(&long, "gnu")
            .symlink("to", &target)
            .pax(&[
                ("path", pax_name.as_bytes()),
                ("mtime", b"-1.25"),
                ("uid", b"4000000000"),
            ])
            .file("ignored", "pax")
            .file("./with space\n", "odd")
            .with(b'0', b"\xff\xfe", "", b"bytes", |_| {})
            .file("plain", "back to the header"),
    );
    assert_eq!(place.read(&long), "gnu");
    assert_eq!(
        std::fs::read_link(place.at("to")).unwrap(),
        Path::new(&target)
    );
    let pax = place.meta(&pax_name);
    assert_eq!((pax.mtime(), pax.mtime_nsec()), (-2, 750_000_000));
    assert_eq!(pax.uid(), 4_000_000_000);
    assert_eq!(place.read("with space\n"), "odd");
    let odd = place.root().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(std::fs::read(odd).unwrap(), b"bytes");
    assert!(!place.has("ignored"));
    assert_eq!(place.meta("plain").uid(), 0);
}

#[test]
fn attributes_may_hold_any_bytes() {
    let place = Place::new();
    // Version 2, permitted 0x0a0a: newlines in the middle of a value.
    let capability =
        b"\x00\x00\x00\x02\x0a\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    // user::rwx user:10:r-- group::r-x mask::r-x other::---
    let acl = [
        2u32.to_le_bytes().as_slice(),
        b"\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\x0a\x00\x00\x00",
        b"\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff",
        b"\x20\x00\x00\x00\xff\xff\xff\xff",
    ]
    .concat();
    let layer = tar()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.lines", b"10 path=/x\n\n"),
            ("SCHILY.xattr.user.none", b""),
            ("SCHILY.xattr.system.nfs4_acl", b"no disk holds this"),
            ("size", b"4"),
        ])
        .with(b'0', "ping", "", b"ping", |h| {
            h.set_uid(1);
            h.set_mode(0o755);
            // A size the field can't hold stands in the record only.
            h.set_size(0);
        })
        .pax(&[
            ("SCHILY.xattr.system.posix_acl_access", &acl),
            ("SCHILY.xattr.system.posix_acl_default", &acl),
            ("SCHILY.xattr.user.old", b"1"),
        ])
        .with(b'5', "shared", "", b"", |h| h.set_mode(0o750))
        .file("shared/file", "inherits nothing")
        .pax(&[("SCHILY.xattr.trusted.mark", b"on a link")])
        .symlink("link", "nowhere");
    place.apply(&layer);
    assert_eq!(place.read("ping"), "ping");
    let get = |path: &str, name: &str| place.xattr(path, name);
    assert_eq!(get("ping", "security.capability").unwrap(), capability);
    assert_eq!(get("ping", "user.lines").unwrap(), b"10 path=/x\n\n");
    assert_eq!(get("ping", "user.none").unwrap(), b"");
    assert_eq!(get("shared", "system.posix_acl_default").unwrap(), acl);
    assert_eq!(get("shared", "system.posix_acl_access").unwrap(), acl);
    assert_eq!(place.meta("shared").mode() & 0o7777, 0o750);
    assert_eq!(get("shared/file", "system.posix_acl_access"), None);
    assert_eq!(place.meta("shared/file").mode() & 0o7777, 0o644);
    assert_eq!(get("link", "trusted.mark").unwrap(), b"on a link");
    // The next layer finds the default ACL there; then it takes the directory's attributes back.
    place.apply(&tar().file("shared/later", "").dir("shared/sub"));
    assert_eq!(get("shared/later", "system.posix_acl_access"), None);
    assert_eq!(get("shared/sub", "system.posix_acl_default"), None);
    assert_eq!(place.meta("shared/sub").mode() & 0o7777, 0o755);
    place.apply(&tar().dir("shared"));
    assert_eq!(get("shared", "system.posix_acl_default"), None);
    assert_eq!(get("shared", "user.old"), None);

    let bad = tar().pax(&[("SCHILY.xattr.nonsense", b"1")]).file("x", "");
    let message = place.refuse(&bad);
    assert!(
        message.starts_with("set the extended attribute \"nonsense\" of \"x\""),
        "{message}"
    );
}

#[test]
fn hard_links_reach_lower_layers() {
    let place = Place::new();
    place.apply(&tar().file("usr/bin/tool", "tool").symlink("bin", "usr/bin"));
    place.apply(
        &tar()
            .file("alias", "in the way")
            .link("alias", "/bin/tool")
            .link("alias", "usr/bin/tool"),
    );
    assert_eq!(place.meta("alias").ino(), place.meta("usr/bin/tool").ino());
    assert_eq!(place.meta("alias").nlink(), 2);
    // Replacing one name leaves the other.
    place.apply(&tar().file("alias", "new"));
    assert_eq!(place.read("usr/bin/tool"), "tool");
    let message = place.refuse(&tar().link("broken", "usr/bin/none"));
    assert!(
        message.contains("\"broken\"") && message.contains("does not exist"),
        "{message}"
    );
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = tar()
        .file("keep", "lower")
        .file("gone", "lower")
        .file("tree/deep/file", "lower")
        .file("tree/other", "lower")
        .file("opaque/old", "lower")
        .file("opaque/sub/old", "lower")
        .file("again", "lower")
        .symlink("alias", "opaque");
    let new = tar()
        .dir("opaque")
        .file("opaque/new", "upper")
        .file("opaque/sub/new", "upper")
        .file("tree/deep/mine", "upper")
        .file("again", "upper");
    let hide = tar()
        .file(".wh.gone", "")
        .file("alias/.wh..wh..opq", "")
        .file(".wh.tree", "")
        .file(".wh.again", "")
        .file(".wh.never-there", "")
        .file("nowhere/.wh.x", "")
        .file("nowhere/.wh..wh..opq", "")
        .file(".wh..wh.plnk/7.8", "AUFS");
    for order in [[&new, &hide], [&hide, &new]] {
        let place = Place::new();
        place.apply(&lower);
        place.apply(&Archive(order.map(|part| part.0.clone()).concat()));
        assert_eq!(
            list(&place.root()),
            ["again", "alias", "keep", "opaque", "tree"]
        );
        assert_eq!(list(&place.at("opaque")), ["new", "sub"]);
        assert_eq!(list(&place.at("opaque/sub")), ["new"]);
        assert_eq!(list(&place.at("tree")), ["deep"]);
        assert_eq!(list(&place.at("tree/deep")), ["mine"]);
        assert_eq!(place.read("again"), "upper");
    }
    for bad in [".wh.", ".wh..", ".wh...", "keep/../.wh..."] {
        let message = Place::new().refuse(&tar().file(bad, ""));
        assert!(message.contains("must name what it hides"), "{message}");
    }
    let plain = Place::new();
    apply(&plain.root(), &*hide.ended(), false).unwrap();
    assert!(plain.has(".wh.gone") && plain.has("alias/.wh..wh..opq"));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let place = Place::new();
    place.apply(
        &tar()
            .file("file", "")
            .file("dir/child", "")
            .file("kept/child", "")
            .dir("real")
            .symlink("lib", "real")
            .with(b'6', "pipe", "", b"", |_| {}),
    );
    place.apply(
        &tar()
            .dir("file")
            .file("file/child", "below what was a file")
            .file("dir", "was a directory")
            .with(b'5', "kept", "", b"", |h| {
                h.set_mode(0o700);
                h.set_uid(5);
            })
            .dir("lib")
            .file("lib/x", "")
            .file("pipe", "not written into the fifo"),
    );
    assert_eq!(place.read("file/child"), "below what was a file");
    assert_eq!(place.read("dir"), "was a directory");
    assert!(place.has("kept/child"));
    assert_eq!(
        (place.meta("kept").mode() & 0o7777, place.meta("kept").uid()),
        (0o700, 5)
    );
    assert!(place.meta("lib").is_dir() && !place.has("real/x"));
    assert_eq!(place.read("pipe"), "not written into the fifo");
    // Within one layer, with the replaced directory known as a parent.
    place.apply(
        &tar()
            .file("w/a", "1")
            .symlink("w", "elsewhere")
            .file("w/b", "2")
            .file("kept", "now a file")
            .file("kept/below", "and a directory again"),
    );
    assert_eq!(list(&place.at("elsewhere")), ["b"]);
    assert_eq!(place.read("kept/below"), "and a directory again");
}

#[test]
fn nothing_leaves_the_root() {
    for name in ["../x", "a/../../x", "/../x", "../outside/secret", ".."] {
        let message = Place::new().refuse(&tar().file(name, "x"));
        assert!(message.contains("climbs out of the root"), "{message}");
    }
    let place = Place::new();
    let out = place.outside();
    place.apply(
        &tar()
            .file("/etc/x", "below the root")
            .symlink("a", &out)
            .file("a/b", "below the root too")
            .symlink("up", "../../../outside")
            .file("up/c", "still below")
            .symlink("s", &format!("{out}/secret"))
            .file("s", "replaces the link")
            .symlink("d", &out)
            .dir("d")
            .file("d/secret", "replaces the link")
            .symlink("h", &out)
            .file("h/.wh.secret", "")
            .file("h/.wh..wh..opq", "")
            .symlink("round/about", "missing/../there")
            .file("round/about/x", "made"),
    );
    place.assert_confined();
    assert_eq!(place.read("etc/x"), "below the root");
    assert_eq!(
        place.read(&format!("{}/b", &out[1..])),
        "below the root too"
    );
    assert_eq!(place.read("outside/c"), "still below");
    assert_eq!(place.read("round/there/x"), "made");
    for target in [
        "../outside/secret",
        "h/secret",
        &format!("{out}/secret"),
        "",
    ] {
        place.refuse(&tar().link("stolen", target));
    }
    let loops = tar().symlink("x", "y").symlink("y", "x").file("x/z", "");
    assert!(place.refuse(&loops).contains("\"x\""));
    let magic = tar().symlink("p", "/proc/self/root").file("p/q", "");
    place.apply(&magic);
    assert!(place.has("proc/self/root/q"));
}

#[test]
fn bad_names_and_fields_are_refused() {
    let cases: Vec<(Archive, &str)> = vec![
        (tar().file("", "x"), "the name is empty"),
        (tar().pax(&[("path", b"a\0b")]).file("x", ""), "a NUL byte"),
        (tar().file(&"n".repeat(256), ""), "at most 255"),
        (tar().file(&"n/".repeat(2100), ""), "at most 4095"),
        (tar().file("./.", "x"), "the root must be a directory"),
        (tar().symlink("l", ""), "without a target"),
        (tar().with(b'Z', "z", "", b"", |_| {}), "'Z' is unknown"),
        (
            tar().pax(&[("uid", b"4294967295")]).file("x", ""),
            "its owner is 4294967295",
        ),
        (
            tar().pax(&[("mtime", b"soon")]).file("x", ""),
            "\"mtime\" is malformed",
        ),
        (
            tar().with(b'x', "h", "", b"nonsense", |_| {}).file("x", ""),
            "no well-formed record",
        ),
        (tar().pax(&[("path", b"x")]), "an entry that is not there"),
    ];
    for (archive, expected) in cases {
        let message = Place::new().refuse(&archive);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let place = Place::new();
    let three = tar().file("1", "").file("2", "").file("3", "").ended();
    let error = apply_up_to(2, &place.root(), &*three, true).unwrap_err();
    assert!(error.to_string().contains("more than 2 entries"), "{error}");
    apply_up_to(3, &place.root(), &*three, true).unwrap();
    let error = apply(&place.at("none"), std::io::empty(), true).unwrap_err();
    assert!(error.to_string().starts_with("open the root"), "{error}");
}

/// Fails where sums are checked for overflow, as in the fuzz targets.
#[test]
fn what_a_header_claims_is_not_counted() {
    let place = Place::new();
    let layer = tar()
        .file("a", "data")
        .pax(&[("size", u64::MAX.to_string().as_bytes())])
        .file("b", "data")
        .ended();
    let error = apply(&place.root(), &*layer, true).unwrap_err();
    assert!(matches!(error, LayerError::Truncated { .. }), "{error}");
}

#[test]
fn streams_that_end_early_or_are_no_tar() {
    let place = Place::new();
    let whole = tar().file("a", "some data").dir("d").file("d/b", "more");
    for length in 0..=whole.0.len() {
        let error = apply(&place.root(), &whole.0[..length], true).unwrap_err();
        assert!(
            matches!(error, LayerError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    // One block of zeros is an end; what follows is read and ignored.
    let end = [whole.0.as_slice(), &[0; BLOCK]].concat();
    apply(&place.root(), &*end, true).unwrap();
    let mut trailing = &*[end.as_slice(), &[0; BLOCK], &[b'?'; 100_000]].concat();
    apply(&place.root(), &mut trailing, true).unwrap();
    assert!(trailing.is_empty());
    assert_eq!(
        apply(&place.root(), &[0u8; 1024][..], true).unwrap(),
        Applied::default()
    );
    for (bytes, expected) in [
        (&b"\x1f\x8b\x08"[..], "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (&[b'<'; 4096], "no tar archive"),
    ] {
        let error = apply(&place.root(), bytes, true).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("an uncompressed tar"),
            "{error}"
        );
    }
    let mut damaged = whole.ended();
    damaged[2 * BLOCK + 3] ^= 1;
    let error = apply(&place.root(), &*damaged, true)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("at byte 1024, after \"a\"") && error.contains("checksum"),
        "{error}"
    );
}

/// Damage of all sorts, with checksums that hold, must end in a result, and nowhere else.
#[test]
fn damage_is_survived() {
    let place = Place::new();
    let layer = tar()
        .pax(&[("SCHILY.xattr.user.a", b"1"), ("path", b"long/name")])
        .file("a", "data")
        .symlink("l", "long")
        .link("l/hard", "long/name")
        .pax(&[
            ("GNU.sparse.map", b"0,1,600,3"),
            ("GNU.sparse.size", b"603"),
        ])
        .file("sparse", "1234")
        .dir("d")
        .file("d/.wh.x", "")
        .ended();
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..2000 {
        let mut bytes = layer.clone();
        for _ in 0..=next(3) {
            let index = next(bytes.len() - 1024);
            bytes[index] = next(256) as u8;
            let block = index - index % BLOCK;
            let mut header = Header::new_old();
            let range = block..block + BLOCK;
            header.as_mut_bytes().copy_from_slice(&bytes[range.clone()]);
            if header.as_bytes()[124] != 0 {
                header.set_cksum();
                bytes[range].copy_from_slice(header.as_bytes());
            }
        }
        let _ = apply(&place.root(), &*bytes, true);
    }
    place.assert_confined();
}

#[test]
fn finish_follows_what_is_there() {
    let place = Place::new();
    place.apply(
        &tar()
            .symlink("tmp", "var/tmp")
            .symlink("etc", "/usr/etc/")
            .dir("usr/etc")
            .with(b'5', "run", "", b"", |h| h.set_mode(0o700)),
    );
    for _ in 0..2 {
        finish(&place.root()).unwrap();
        assert_eq!(place.meta("var/tmp").mode() & 0o7777, 0o1777);
        assert_eq!(place.meta("var").mode() & 0o7777, 0o755);
        assert!(place.meta("tmp").is_symlink() && place.meta("etc").is_symlink());
        assert_eq!(place.meta("run").mode() & 0o7777, 0o700);
        let workspace = place.meta("workspace");
        assert_eq!((workspace.uid(), workspace.gid()), (1000, 1000));
        assert!(place.has("proc") && place.has("sys") && place.has("dev"));
    }
    place.apply(&tar().file("sys", "a file"));
    let error = finish(&place.root()).unwrap_err().to_string();
    assert!(error.contains("\"sys\": it is no directory"), "{error}");
    place.assert_confined();
}

/// What two unpackings must agree on, by path.
fn survey(dir: &Path, below: &Path, into: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    entries.sort();
    for name in entries {
        let path = below.join(name);
        let full = dir.join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let content = if meta.is_file() {
            std::fs::read(&full).unwrap()
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&full).unwrap();
            target.as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let mut list = vec![0; 4096];
        let length = fs::llistxattr(&full, &mut list[..]).unwrap();
        let xattrs: Vec<_> = list[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let mut value = vec![0; 4096];
                let length = fs::lgetxattr(&full, name, &mut value[..]).unwrap();
                (lossy(name), value[..length].to_vec())
            })
            .collect();
        let hash = content
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
        into.push(format!(
            "{path:?} mode {:o} owner {}:{} time {}.{:09} links {} device {} size {} {hash:x} blocks {} {xattrs:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if meta.is_dir() { 0 } else { meta.nlink() },
            meta.rdev(),
            if meta.is_dir() { 0 } else { meta.size() },
            if meta.size() > 100_000 { meta.blocks() / 64 } else { 0 },
        ));
        if meta.is_dir() {
            survey(dir, &path, into);
        }
    }
}

/// Packs `tree` with GNU tar, unpacks it with GNU tar and with [`apply`], and compares.
fn agrees_with_gnu_tar(tree: &Path, options: &[&str]) {
    let place = Place::new();
    let archive = place.dir.path().join("archive");
    let run = |command: &mut Command| {
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let mut xattrs = vec!["--numeric-owner"];
    if options.contains(&"--format=posix") {
        xattrs.extend(["--xattrs", "--xattrs-include=*"]);
    }
    run(Command::new("tar")
        .args(&xattrs)
        .args(options)
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(tree)
        .arg("."));
    let reference = place.dir.path().join("reference");
    std::fs::create_dir(&reference).unwrap();
    run(Command::new("tar")
        .args(&xattrs)
        .arg("-xpf")
        .arg(&archive)
        .arg("-C")
        .arg(&reference));
    let applied = apply(&place.root(), File::open(&archive).unwrap(), false)
        .unwrap_or_else(|error| panic!("failed to {error}"));
    let (mut wanted, mut found) = (Vec::new(), Vec::new());
    survey(&reference, Path::new(""), &mut wanted);
    survey(&place.root(), Path::new(""), &mut found);
    for (wanted, found) in wanted.iter().zip(&found) {
        assert_eq!(wanted, found, "{options:?}");
    }
    assert_eq!(wanted.len(), found.len());
    assert_eq!(
        applied.entries,
        wanted.len() as u64 + 1,
        "the root is one more"
    );
}

#[test]
fn a_real_tree_as_gnu_tar_unpacks_it() {
    agrees_with_gnu_tar(Path::new("/etc"), &["--format=gnu"]);
    agrees_with_gnu_tar(Path::new("/etc"), &["--format=posix"]);
}

#[test]
fn a_tree_of_rarities_as_gnu_tar_unpacks_it() {
    let place = Place::new();
    let root = place.root();
    place.apply(
        &tar()
            .file(&format!("{}/{}", "d".repeat(120), "f".repeat(250)), "long")
            .file("line\nbreak", "odd")
            .with(b'0', b"\xff", "", b"bytes", |h| h.set_mode(0o6711))
            .pax(&[
                ("mtime", b"-7.5"),
                ("SCHILY.xattr.user.x", b"\0\n=\xff"),
                (
                    "SCHILY.xattr.security.capability",
                    b"\x01\x00\x00\x02\x0a\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
                ),
            ])
            .with(b'0', "cap", "", b"cap", |h| h.set_uid(2_500_000))
            .link("hard", "cap")
            .with(b'6', "fifo", "", b"", |_| {})
            .with(b'3', "zero", "", b"", |h| {
                h.set_device_major(1).unwrap();
                h.set_device_minor(5).unwrap();
            })
            .with(b'5', "sticky", "", b"", |h| h.set_mode(0o1777)),
    );
    symlink("x".repeat(200), root.join("long link")).unwrap();
    for (name, pieces) in [("one", 1u64), ("many", 200), ("hollow", 0)] {
        let file = File::create(root.join(name)).unwrap();
        for piece in 0..pieces {
            file.write_all_at(&[b'p'; 5000], piece * 100_000 + 40_960)
                .unwrap();
        }
        file.set_len(30_000_001).unwrap();
    }
    for options in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ] {
        agrees_with_gnu_tar(&root, options);
    }
}
