//! Making a copy-on-write layer over a disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use snowglobe_runner::DiskFormat;

use super::error::{StoreError, io_error};
use crate::private;

/// Makes a copy-on-write layer over a disk, of the size (in bytes) of the lowest one. Blocks.
pub(super) fn make_overlay(
    under: &Path,
    format: DiskFormat,
    size: u64,
    overlay: &Path,
) -> Result<(), StoreError> {
    let format = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let made = match under.to_str() {
        Some(backing) => format_overlay(backing.to_owned(), format, size, overlay),
        None => Err(std::io::Error::other("the path below it is not UTF-8")),
    };
    made.map_err(io_error("make the disk layer", overlay))
}

fn format_overlay(backing: String, format: &str, size: u64, overlay: &Path) -> std::io::Result<()> {
    use imago::file::File;
    use imago::{FormatCreateBuilder, Storage, StorageCreateOptions, qcow2::Qcow2};
    // The library's futures are not Send.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let file = File::create_open(StorageCreateOptions::new().filename(overlay)).await?;
        let builder = Qcow2::<File>::create_builder(file)
            .size(size)
            .backing(backing, format.to_owned());
        let made = builder.create().await.and_then(|()| {
            std::fs::set_permissions(overlay, PermissionsExt::from_mode(private::FILE))
        });
        if made.is_err() {
            std::fs::remove_file(overlay).ok();
        }
        made
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_what_qemu_img_takes_it_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let base = at("base.raw");
        let size = 3 << 30;
        std::fs::File::create(&base)
            .and_then(|file| file.set_len(size))
            .unwrap();
        make_overlay(&base, DiskFormat::Raw, size, &at("one")).unwrap();
        make_overlay(&at("one"), DiskFormat::Qcow2, size, &at("two")).unwrap();
        let info = std::process::Command::new("qemu-img")
            .args(["info", "--backing-chain", "--output=json"])
            .arg(at("two"))
            .output()
            .unwrap();
        assert!(info.status.success(), "{info:?}");
        let chain: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        let names: Vec<_> = chain
            .as_array()
            .unwrap()
            .iter()
            .map(|image| {
                assert_eq!(image["virtual-size"], size);
                (
                    image["format"].as_str().unwrap(),
                    image["filename"].as_str().unwrap().into(),
                )
            })
            .collect();
        assert_eq!(
            names,
            [("qcow2", at("two")), ("qcow2", at("one")), ("raw", base)]
        );
        let check = std::process::Command::new("qemu-img")
            .arg("check")
            .arg(at("two"))
            .status();
        assert!(check.unwrap().success());
        let again = make_overlay(&at("one"), DiskFormat::Qcow2, size, &at("two"));
        assert!(
            again.is_err() && at("two").exists(),
            "a layer was written over"
        );
    }
}
