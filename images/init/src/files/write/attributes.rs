//! Extended attributes and the owner of a file that replaces another.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The mode of a new file.
pub(super) const NEW_MODE: u32 = 0o644;

/// The longest list of names, and the longest value, of extended attributes on Linux.
const XATTR_MAX: usize = 64 << 10;

/// Gives `file` the owner and group of the old file.
pub(super) fn own_as(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    // A shared file system may report success without doing it.
    let new = file.metadata()?;
    match (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        true => Ok(()),
        false => Err(Errno::PERM.into()),
    }
}

/// Gives `to` exactly the extended attributes of `from`, including ACLs.
pub(super) fn attributes_as(to: &File, from: &File) -> Result<(), Errno> {
    let (wanted, there) = (attribute_names(from)?, attribute_names(to)?);
    // The new file may have inherited ACLs from its directory.
    for name in there.iter().filter(|name| !wanted.contains(name)) {
        // The system sets labels.
        if !name.starts_with(b"security.") {
            rustix::fs::fremovexattr(to, name.as_slice())?;
        }
    }
    for name in &wanted {
        let value = attribute(from, name)?;
        if there.contains(name) && attribute(to, name)? == value {
            continue;
        }
        rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

pub(super) fn attribute(of: &File, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; XATTR_MAX];
    let length = rustix::fs::fgetxattr(of, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

fn attribute_names(of: &File) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; XATTR_MAX];
    match rustix::fs::flistxattr(of, names.as_mut_slice()) {
        Ok(length) => names.truncate(length),
        // The file system has no extended attributes.
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let names = names.split(|byte| *byte == 0);
    Ok(names
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}
