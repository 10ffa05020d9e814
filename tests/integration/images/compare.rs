//! Compares Snowglobe's roots with those of `umoci unpack`, run as root on the same image: paths, modes, owners, times
//! of files, extended attributes, links, devices, contents.
//!
//! Both trees are read on this host: Snowglobe's root disk is mounted read-only. [`ours`] lists what Snowglobe
//! adds to every image; nothing else may differ.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::home::{Home, tool};
use super::layout::{self, Packed, digest, noise};
use crate::common::Place;

/// A root disk, mounted read-only.
struct Mounted(PathBuf);

impl Mounted {
    fn disk(disk: &Path, at: PathBuf) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "comparing owners needs root"
        );
        std::fs::create_dir_all(&at).unwrap();
        tool(
            "mount",
            &[
                "-o",
                "ro,noload,loop",
                disk.to_str().unwrap(),
                at.to_str().unwrap(),
            ],
        );
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tool("umount", &[self.0.to_str().unwrap()]);
    }
}

/// Everything about a path that two unpackings must agree on.
fn survey(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        let mut names: Vec<_> = std::fs::read_dir(root.join(&dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            let path = dir.join(name);
            let full = root.join(&path);
            let meta = full.symlink_metadata().unwrap();
            let kind = meta.file_type();
            let mut text = format!("mode {:o} owner {}:{}", meta.mode(), meta.uid(), meta.gid());
            if kind.is_dir() {
                left.push(path.clone());
            } else if kind.is_file() {
                text += &format!(
                    " size {} time {} content {}",
                    meta.size(),
                    meta.mtime(),
                    digest(&std::fs::read(&full).unwrap())
                );
            } else if kind.is_symlink() {
                text += &format!(" -> {:?}", std::fs::read_link(&full).unwrap());
            } else if kind.is_char_device() || kind.is_block_device() {
                text += &format!(" device {}", meta.rdev());
            }
            text += &format!(" xattrs {:?}", xattrs(&full));
            found.insert(path, text);
        }
    }
    // Hard links: each name with the first name of the same file.
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for (path, text) in &mut found {
        let meta = root.join(path).symlink_metadata().unwrap();
        if meta.is_file() && meta.nlink() > 1 {
            let first = first.entry(meta.ino()).or_insert_with(|| path.clone());
            *text += &format!(" links {} as {first:?}", meta.nlink());
        }
    }
    found
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut all: Vec<(String, Vec<u8>)> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (
                String::from_utf8_lossy(name).into_owned(),
                value[..length].to_vec(),
            )
        })
        .collect();
    all.sort();
    all
}

/// The paths that Snowglobe adds to every image or changes in it.
fn ours(path: &Path) -> bool {
    let made = [
        "lost+found",
        "workspace",
        "home",
        "home/sandbox",
        "home/sandbox/.bashrc",
        "home/sandbox/.profile",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "etc",
        "etc/passwd",
        "etc/group",
    ];
    made.iter()
        .any(|ours| path.as_os_str().as_bytes() == ours.as_bytes())
}

fn assert_same(disk: &Path, layout: &str, home: &Home) -> usize {
    let bundle = home.path("bundle");
    tool(
        "umoci",
        &["unpack", "--image", layout, bundle.to_str().unwrap()],
    );
    let theirs_root = bundle.join("rootfs");
    let mounted = Mounted::disk(disk, home.path("mounted"));
    let (mine, theirs) = (survey(&mounted.0), survey(&theirs_root));
    let mut differences = Vec::new();
    for path in mine
        .keys()
        .chain(theirs.keys())
        .collect::<std::collections::BTreeSet<_>>()
    {
        let (a, b) = (mine.get(path), theirs.get(path));
        // If the image has the path, too, only the attributes listed here may differ.
        let allowed = ours(path) && (b.is_none() || path.starts_with("etc"));
        if a != b && !allowed {
            differences.push(format!("{path:?}\n  ours   {a:?}\n  theirs {b:?}"));
        }
    }
    for file in ["etc/passwd", "etc/group"] {
        let Ok(theirs) = std::fs::read_to_string(theirs_root.join(file)) else {
            continue;
        };
        let mine = std::fs::read_to_string(mounted.0.join(file)).unwrap();
        let without: String = mine
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("sandbox:"))
            .collect();
        assert_eq!(without, theirs, "{file}");
    }
    differences.truncate(20);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    theirs.len()
}

/// A recipe's image, as `make image` built it.
fn assert_recipe_is_the_same(name: &'static str, least: usize) {
    let (place, home) = (Place::new(name), Home::new());
    let run = |arguments: &[&str]| {
        let output = place.command(arguments).as_std_mut().output().unwrap();
        assert!(output.status.success(), "{}", super::home::said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let known: serde_json::Value = serde_json::from_str(&run(&["image", "inspect", name])).unwrap();
    let id = known["disk"]["disk"].as_str().unwrap();
    let disk = Place::data_dir().join(format!("images/disks/{id}.raw"));
    let layout = format!("oci:{}:it", home.path("saved").display());
    run(&["image", "save", name, &layout]);
    // This umoci supports only gzip; the tar archive inside stays the same.
    let gzip = home.path("gzip").display().to_string();
    tool(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-compress-format",
            "gzip",
            "--dest-compress",
            &layout,
            &format!("dir:{gzip}"),
        ],
    );
    tool(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--quiet",
            &format!("dir:{gzip}"),
            &format!("oci:{}:it", home.path("again").display()),
        ],
    );
    let entries = assert_same(
        &disk,
        &format!("{}:it", home.path("again").display()),
        &home,
    );
    assert!(entries > least, "{entries}");
}

#[test]
fn the_minimal_root_is_what_umoci_unpacks() {
    assert_recipe_is_the_same("minimal", 250);
}

#[test]
fn the_debian_root_is_what_umoci_unpacks() {
    assert_recipe_is_the_same("debian", 10_000);
}

/// A tar archive of a tree, as GNU tar makes it.
fn packed(tree: &Path, options: &[&str]) -> Vec<u8> {
    let archive = tree.with_extension("tar");
    let mut arguments = vec!["--numeric-owner", "--sort=name"];
    if options.contains(&"--format=posix") {
        arguments.extend(["--xattrs", "--xattrs-include=*"]);
    }
    arguments.extend(options);
    let (file, dir) = (archive.display().to_string(), tree.display().to_string());
    arguments.extend(["-cf", &file, "-C", &dir, "."]);
    tool("tar", &arguments);
    std::fs::read(archive).unwrap()
}

fn shell(dir: &Path, script: &str) {
    std::fs::create_dir_all(dir).unwrap();
    tool(
        "bash",
        &[
            "-euc",
            &format!("umask 022; cd {}; {script}", dir.display()),
        ],
    );
}

// No attribute here is empty: umoci, like Go's tar, reads an empty attribute as a deleted one.
const FIRST: &str = r#"
mkdir -p usr/bin usr/lib etc dir/sub opaque/below shared gone deep 'with space'
head -c 300000 /dev/urandom > usr/lib/lib.so; ln usr/lib/lib.so usr/lib/lib.so.1; ln usr/lib/lib.so usr/bin/also
echo setuid > usr/bin/su; chmod 4755 usr/bin/su; echo setgid > usr/bin/wall; chmod 2755 usr/bin/wall
echo cap > usr/bin/ping; setcap cap_net_raw+ep usr/bin/ping
echo attr > etc/attr; setfattr -n user.note -v 'a value' etc/attr
echo owned > etc/owned; chown 2500000:1234567 etc/owned
ln -s /etc/owned etc/absolute; ln -s ../missing/thing etc/dangling; ln -s usr/bin bin
mknod null c 1 3; mknod disk b 8 1; mkfifo pipe; chmod 0600 pipe
mkdir sticky; chmod 1777 sticky; mkdir private; chmod 0700 private; chown 5:6 private; mkdir setgid; chmod 2775 setgid
name=$(printf 'n%.0s' $(seq 255)); echo long > "deep/$name"; path=deep
for i in $(seq 20); do path="$path/directory-with-a-long-name-$i"; done; mkdir -p "$path"; echo deep > "$path/file"
ln "$path/file" deep/link; ln -s "$path/file" deep/symlink
printf 'x' > $'line\nbreak'; printf 'y' > $'\xff\xfe'; printf 'z' > 'ünïcödé'; printf q > 'with space/a b'
truncate -s 5000000 sparse; printf data | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
printf tail | dd of=sparse bs=1 seek=4999000 conv=notrunc status=none; truncate -s 3000000 hollow
: > empty; echo one > replaced-by-dir; mkdir replaced-by-file; echo x > replaced-by-file/inside
echo old > opaque/old; echo old > opaque/below/old; echo keep > dir/keep; echo drop > dir/drop; echo sub > dir/sub/file
echo a > gone/a; echo b > gone/b; echo linked > shared/one; mkdir linkdir; echo l > linkdir/l; ln -s linkdir symlinked
touch -d '1999-12-31 23:59:59' etc/attr; touch -d '2040-01-01' empty; touch -d '1960-01-01' usr/bin/su
"#;

const SECOND: &str = r#"
mkdir -p dir opaque replaced-by-dir shared gone usr/lib
: > dir/.wh.drop; : > dir/.wh.sub; : > .wh.gone; rmdir gone; : > opaque/.wh..wh..opq; echo new > opaque/new
echo two > replaced-by-dir/two; echo file > replaced-by-file
mkdir -p usr/bin; echo 'another su' > usr/bin/su; chmod 0755 usr/bin/su
echo more > shared/two; chmod 0711 shared; chown 9:9 shared; chmod 0755 dir
: > .wh.symlinked
"#;

const THIRD: &str = r#"
mkdir -p gone dir/sub symlinked; echo c > gone/c; echo again > dir/sub/again; echo now > symlinked/a-directory
: > .wh.never-was; : > .wh.replaced-by-file; ln -s nowhere replaced-by-dir
: > usr-was-here
"#;

#[test]
fn the_worst_image_is_what_umoci_unpacks() {
    let home = Home::new();
    let trees = [("1", FIRST), ("2", SECOND), ("3", THIRD)].map(|(name, script)| {
        let tree = home.path(name);
        shell(&tree, script);
        tree
    });
    let mut layers = vec![
        (
            packed(&trees[0], &["--format=posix", "-S", "--sparse-version=1.0"]),
            Packed::Gzip,
        ),
        (packed(&trees[1], &["--format=gnu"]), Packed::Plain),
        (packed(&trees[2], &["--format=posix"]), Packed::Gzip),
    ];
    // A hard link to a file of a lower layer, absolute names and names that begin with ./, many small files.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    header.set_mode(0o644);
    builder
        .append_link(&mut header, "shared/linked-across", "shared/one")
        .unwrap();
    for n in 0..3000u32 {
        let mut header = tar::Header::new_gnu();
        let content = noise(n as usize % 700, u64::from(n));
        header.set_size(content.len() as u64);
        header.set_mode(0o600 + n % 64);
        header.set_uid(u64::from(n));
        header.set_mtime(1_600_000_000 + u64::from(n));
        builder
            .append_data(
                &mut header,
                format!("./many/{}/{n}", n % 17),
                content.as_slice(),
            )
            .unwrap();
    }
    layers.push((builder.into_inner().unwrap(), Packed::Gzip));
    let dir = home.path("worst");
    layout::write(&dir, &layers, serde_json::json!({}));
    home.works(&[
        "image",
        "import",
        "worst",
        &format!("oci:{}", dir.display()),
    ]);
    let entries = assert_same(
        &home.disk("worst"),
        &format!("{}:latest", dir.display()),
        &home,
    );
    assert!(entries > 3000, "{entries}");
}
