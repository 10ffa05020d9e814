//! Checking a disk layer's header before a VM uses the layer.
//!
//! A layer is a qcow2 file that a VM has written. Its header names other files, such as the backing file, and an engine
//! opens them. So a guest that managed to change its layer's header could make the next VM's engine open any file of the
//! user's. A header must say exactly what Snowglobe wrote into it.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use snowglobe_runner::DiskFormat;

/// How much of the file is read, in bytes: the header fits into the first cluster.
const HEADER: usize = 64 << 10;

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");

/// The only version of the format that Snowglobe writes.
const VERSION: u32 = 3;

/// The size of a cluster, as a power of two: what this program and QEMU make, and a merge relies on.
const CLUSTER_BITS: u32 = 16;

/// The header's length without extensions, in bytes.
const SHORTEST: usize = 104;

/// The extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// The extension with names of features, for people.
const FEATURE_NAMES: u32 = 0x6803_f857;

/// The one incompatible feature that a layer may have: outdated reference counts.
const DIRTY: u64 = 1;

/// The backing file that a layer must name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Below<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// Its format.
    pub(super) format: DiskFormat,
    /// The size of the disk, in bytes.
    pub(super) size: u64,
}

/// Checks that the layer at `path` names `below` and no other file; the error says what is wrong.
pub(super) fn check(path: &Path, below: Below<'_>) -> Result<(), String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let file = File::options()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not an ordinary file"));
        }
        let mut header = vec![0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            match file.read_at(&mut header[filled..], filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        header.truncate(filled);
        Ok(header)
    };
    let header = read().map_err(|error| format!("can't be read ({error})"))?;
    says(&header, below).map_err(|what| format!("has a header that {what}"))
}

/// Checks the beginning of a layer. Pure.
fn says(header: &[u8], below: Below<'_>) -> Result<(), String> {
    let number = |at: usize| word(header, at).ok_or_else(|| "ends early".to_owned());
    let long =
        |at: usize| Ok::<u64, String>(u64::from(number(at)?) << 32 | u64::from(number(at + 4)?));
    let expect = |what: &str, found: u64, expected: u64| match found == expected {
        true => Ok(()),
        false => Err(format!("has {found:#x} as its {what}, not {expected:#x}")),
    };
    expect("magic number", number(0)?.into(), MAGIC.into())?;
    expect("version", number(4)?.into(), VERSION.into())?;
    expect("disk size", long(24)?, below.size)?;
    expect("cluster size", number(20)?.into(), CLUSTER_BITS.into())?;
    expect("encryption", number(32)?.into(), 0)?;
    expect("number of snapshots", number(60)?.into(), 0)?;
    expect("set of features", long(72)? & !DIRTY, 0)?;
    let length = number(100)? as usize;
    if !(SHORTEST..=HEADER).contains(&length) || !length.is_multiple_of(8) {
        return Err(format!("is {length} bytes long"));
    }
    let format = match below.format {
        DiskFormat::Raw => b"raw".as_slice(),
        DiskFormat::Qcow2 => b"qcow2",
    };
    if extensions(header, length)? != Some(format) {
        return Err("does not name the format of the file below it".into());
    }
    let (at, size) = (long(8)?, number(16)? as usize);
    let named = usize::try_from(at)
        .ok()
        .and_then(|at| header.get(at..at.checked_add(size)?));
    match named == Some(below.path.as_os_str().as_encoded_bytes()) {
        true => Ok(()),
        false => Err(format!(
            "names another file below it than {}",
            below.path.display()
        )),
    }
}

/// Reads the extensions from `at` on; gives the backing file's format.
fn extensions(header: &[u8], mut at: usize) -> Result<Option<&[u8]>, String> {
    let mut format = None;
    loop {
        let kind = word(header, at).ok_or("has extensions without an end")?;
        if kind == 0 {
            return Ok(format);
        }
        let length = word(header, at + 4).ok_or("has half an extension")? as usize;
        let content = header
            .get(at + 8..)
            .and_then(|rest| rest.get(..length))
            .ok_or("has half an extension")?;
        match kind {
            BACKING_FORMAT if format.is_none() => format = Some(content),
            FEATURE_NAMES => {}
            other => return Err(format!("has an extension {other:#x}")),
        }
        at += 8 + length.next_multiple_of(8);
    }
}

fn word(header: &[u8], at: usize) -> Option<u32> {
    let bytes = header.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::overlay::make_overlay;
    use super::*;

    const SIZE: u64 = 1 << 30;

    fn below(path: &Path) -> Below<'_> {
        Below {
            path,
            format: DiskFormat::Raw,
            size: SIZE,
        }
    }

    /// A layer that `qemu-img` makes with these options.
    fn made(dir: &Path, options: &[&str]) -> std::path::PathBuf {
        let layer = dir.join("layer");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .args(options)
            .arg(&layer)
            .arg(SIZE.to_string())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        layer
    }

    fn base(dir: &Path) -> std::path::PathBuf {
        let base = dir.join("base.raw");
        let file = File::create(&base).unwrap();
        file.set_len(SIZE).unwrap();
        base
    }

    #[test]
    fn a_layer_of_ours_and_of_qemus_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let base = base(dir.path());
        let ours = dir.path().join("ours");
        make_overlay(&base, DiskFormat::Raw, SIZE, &ours).unwrap();
        check(&ours, below(&base)).unwrap();
        let theirs = made(dir.path(), &["-b", base.to_str().unwrap(), "-F", "raw"]);
        check(&theirs, below(&base)).unwrap();
        let wrong = Below {
            format: DiskFormat::Qcow2,
            ..below(&base)
        };
        assert!(check(&theirs, wrong).unwrap_err().contains("format"));
        let wrong = Below {
            size: SIZE + 512,
            ..below(&base)
        };
        assert!(check(&theirs, wrong).unwrap_err().contains("disk size"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&theirs, &link).unwrap();
        check(&link, below(&base)).unwrap_err();
        check(dir.path(), below(&base)).unwrap_err();
    }

    #[test]
    fn a_layer_that_names_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = base(dir.path());
        let path = base.to_str().unwrap();
        let data = format!("data_file={}", dir.path().join("data").display());
        let json = format!(
            "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{path}\"}}}}"
        );
        let other = dir.path().join("./base.raw");
        for options in [
            &["-b", path, "-F", "raw", "-o", &data][..],
            &["-b", &json, "-F", "raw"],
            &["-b", other.to_str().unwrap(), "-F", "raw"],
            &["-b", path, "-F", "raw", "-o", "compression_type=zstd"],
            &["-b", path, "-F", "raw", "-o", "extended_l2=on"],
            &["-b", path, "-F", "raw", "-o", "compat=0.10"],
            &["-b", path, "-F", "raw", "-o", "cluster_size=4096"],
            &[],
        ] {
            let layer = made(dir.path(), options);
            let why = check(&layer, below(&base)).unwrap_err();
            assert!(why.starts_with("has a header that "), "{options:?}: {why}");
        }
        let layer = made(dir.path(), &["-b", path, "-F", "raw"]);
        let snapshot = Command::new("qemu-img")
            .args(["snapshot", "-c", "inner"])
            .arg(&layer)
            .status();
        assert!(snapshot.unwrap().success());
        assert!(
            check(&layer, below(&base))
                .unwrap_err()
                .contains("snapshots")
        );
    }

    proptest! {
        #[test]
        fn no_change_to_it_names_another_file(at in 0..0x230_usize, byte: u8, cut in 0..0x240_usize) {
            let path = Path::new("/data/base.raw");
            let mut header = vec![0; 0x240];
            header[..4].copy_from_slice(b"QFI\xfb");
            header[7] = 3;
            header[14..20].copy_from_slice(&[2, 0x10, 0, 0, 0, 14]);
            header[23] = 16;
            header[24..32].copy_from_slice(&SIZE.to_be_bytes());
            header[103] = 112;
            header[112..123].copy_from_slice(b"\xe2\x79\x2a\xca\0\0\0\x03raw");
            header[0x210..0x21e].copy_from_slice(b"/data/base.raw");
            prop_assert_eq!(says(&header, below(path)), Ok(()));
            header[at] = byte;
            header.truncate(header.len() - cut);
            if says(&header, below(path)).is_ok() {
                let (offset, size) = (word(&header, 12).unwrap() as usize, word(&header, 16).unwrap() as usize);
                prop_assert_eq!(&header[offset..offset + size], b"/data/base.raw");
                prop_assert_eq!(word(&header, 76).unwrap() & !1, 0);
            }
        }

        #[test]
        fn any_bytes_are_survived(header: Vec<u8>) {
            prop_assert!(says(&header, below(Path::new("/b"))).is_err());
        }
    }
}
