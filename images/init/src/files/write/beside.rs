//! Replacing a file atomically: a new file beside it, renamed over it.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::attributes::{NEW_MODE, attributes_as, own_as};

/// An existing file that may be written.
pub(super) struct Old {
    /// Absent if it is a running program.
    pub(super) file: Option<File>,
    pub(super) meta: Metadata,
}

impl Old {
    /// Opens it for writing. A file that may not be written is an error, even if its directory allows replacing it.
    pub(super) fn open(target: &Path) -> io::Result<Option<Self>> {
        let open = |read| {
            let mut options = File::options();
            // It was an ordinary file just before, but may have been exchanged for a pipe or a link.
            options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
            options.read(read).write(true).open(target)
        };
        match open(true).or_else(|_| open(false)) {
            Ok(file) => {
                let meta = file.metadata()?;
                Ok(Some(Self {
                    file: Some(file),
                    meta,
                }))
            }
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => Ok(Some(Self {
                file: None,
                meta: fs::metadata(target)?,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Why a new file can't replace this one.
    pub(super) fn why_not_beside(&self) -> Option<String> {
        let me = rustix::process::geteuid();
        if self.meta.nlink() > 1 {
            Some(format!("the file has {} hard links", self.meta.nlink()))
        } else if !me.is_root() && self.meta.uid() != me.as_raw() {
            Some("the file belongs to another user".to_owned())
        } else {
            None
        }
    }
}

/// Why a file could not be replaced.
pub(super) enum Unfit {
    /// The file has to be written in place, for this reason.
    Because(&'static str, io::Error),
    /// Writing it in place would fail, too.
    Failed(io::Error),
}

/// A new file. Dropping it removes it, unless it was renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Temporary {
    /// A new file in this directory. Its name does not contain the target's, which may have the greatest length.
    fn new(parent: &Path) -> io::Result<(Self, File)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let unique = now.unwrap_or_default().as_nanos();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".{unique:x}-{number:x}.snowglobe"));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let renamed = false;
        Ok((Self { path, renamed }, file))
    }
}

/// Writes a new file beside `target` and renames it over it. The new file takes over what `old` has besides its content.
pub(super) fn beside(
    target: &Path,
    content: &[u8],
    mode: Option<u32>,
    old: Option<&Old>,
) -> Result<(), Unfit> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    let (mut temporary, mut file) = Temporary::new(parent).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Unfit::Because("its directory can't be written", e)
        }
        _ => Unfit::Failed(e),
    })?;
    if let Some(old) = old {
        // In this order: each change may affect what the next one sets.
        if let Err(e) = own_as(&file, &old.meta) {
            return Err(Unfit::Because(
                "another file could not have its owner and group",
                e,
            ));
        }
        if let Some(from) = &old.file
            && let Err(e) = attributes_as(&file, from)
        {
            return Err(Unfit::Because(
                "another file could not have its extended attributes",
                e.into(),
            ));
        }
    }
    file.write_all(content).map_err(Unfit::Failed)?;
    let mode = mode
        .or_else(|| old.map(|old| old.meta.mode() & 0o7777))
        .unwrap_or(NEW_MODE);
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(Unfit::Failed)?;
    match fs::rename(&temporary.path, target) {
        Ok(()) => {
            temporary.renamed = true;
            Ok(())
        }
        Err(e) if old.is_none() => Err(Unfit::Failed(e)),
        Err(e) => match e.kind() {
            io::ErrorKind::PermissionDenied => Err(Unfit::Because(
                "its directory does not allow replacing it",
                e,
            )),
            io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
                Err(Unfit::Because("it is a mount point", e))
            }
            _ => Err(Unfit::Failed(e)),
        },
    }
}
