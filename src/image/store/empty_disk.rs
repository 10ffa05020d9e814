//! The empty root disk: an ext4 file system of 64 GiB, made by `images/disk/build`. It is part of this program, so the
//! host needs no tools for file systems.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::private;

/// A sparse file in a GNU tar archive, which stores no holes.
const TEMPLATE: &[u8] = include_bytes!("../../../images/disk/ext4-64g.tar.zst");

/// The size of every root disk as the guest sees it, in bytes.
#[cfg(test)]
pub(crate) const DISK_BYTES: u64 = 64 << 30;

/// Writes an empty, sparse root disk to a new file.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(TEMPLATE)?);
    let mut entry = archive
        .entries()?
        .next()
        .ok_or(io::ErrorKind::UnexpectedEof)??;
    entry.set_preserve_mtime(false);
    // `unpack` would replace an existing file.
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    entry.unpack(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(private::FILE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    fn tool(name: &str, args: &[&str], disk: &Path) -> String {
        let out = Command::new(format!("/usr/sbin/{name}"))
            .args(args)
            .arg(disk)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "{name}: {text}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        text
    }

    #[test]
    fn the_template_is_a_clean_sparse_ext4() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("root.raw");
        create(&disk).unwrap();
        let meta = disk.metadata().unwrap();
        assert_eq!(meta.len(), DISK_BYTES);
        assert!(
            meta.blocks() * 512 < 8 << 20,
            "takes {} blocks",
            meta.blocks()
        );
        assert!(meta.mode() & 0o200 != 0);
        tool("e2fsck", &["-fn"], &disk);
        let text = tool("dumpe2fs", &["-h"], &disk);
        let line = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key));
            found
                .unwrap_or_else(|| panic!("no {key} in {text}"))
                .trim()
                .to_owned()
        };
        assert_eq!(line("Filesystem volume name:"), "snowglobe");
        assert_eq!(line("Inode size:"), "256");
        assert_eq!(line("Reserved block count:"), "0");
        assert_eq!(line("Errors behavior:"), "Remount read-only");
        assert_eq!(line("Total journal size:"), "64M");
        let features = line("Filesystem features:");
        for feature in ["has_journal", "dir_index", "extent", "flex_bg"] {
            assert!(features.contains(feature), "{features}");
        }
        for feature in ["metadata_csum", "uninit_bg", "needs_recovery"] {
            assert!(!features.contains(feature), "{features}");
        }
    }

    #[test]
    fn an_existing_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("root.raw");
        std::fs::write(&disk, "precious").unwrap();
        assert_eq!(
            create(&disk).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(&disk).unwrap(), b"precious");
    }
}
