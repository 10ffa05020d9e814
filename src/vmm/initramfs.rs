//! The initramfs of one VM: init and its boot configuration.

use std::io::{self, Write};
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};
use snowglobe_init::boot::{BOOT_CONFIG_PATH, BootConfig, INIT_PATH};

/// Writes the archive to `path`, readable by its owner only: it holds the guest's private host key.
pub fn write(path: &Path, init: &Path, config: &BootConfig) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let init = std::fs::read(init)?;
    let config = serde_json::to_vec(config)?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut archive = io::BufWriter::new(file);
    for dir in ["dev", "proc", "sys", "newroot", "snowglobe"] {
        archive = entry(archive, dir, ModeFileType::Directory, 0o755, &[])?;
    }
    // The kernel opens it before init runs; without it early output is lost.
    archive = device(archive, "dev/console", 5, 1)?;
    archive = entry(
        archive,
        INIT_PATH.trim_start_matches('/'),
        ModeFileType::Regular,
        0o755,
        &init,
    )?;
    archive = entry(
        archive,
        BOOT_CONFIG_PATH.trim_start_matches('/'),
        ModeFileType::Regular,
        0o600,
        &config,
    )?;
    trailer(archive)?.flush()
}

fn entry<W: Write>(
    archive: W,
    name: &str,
    kind: ModeFileType,
    mode: u32,
    data: &[u8],
) -> io::Result<W> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut writer = Builder::new(name)
        .mode(mode)
        .set_mode_file_type(kind)
        .nlink(1)
        .write(archive, length);
    writer.write_all(data)?;
    writer.finish()
}

fn device<W: Write>(archive: W, name: &str, major: u32, minor: u32) -> io::Result<W> {
    Builder::new(name)
        .mode(0o600)
        .set_mode_file_type(ModeFileType::Char)
        .rdev_major(major)
        .rdev_minor(minor)
        .write(archive, 0)
        .finish()
}
