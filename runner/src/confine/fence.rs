//! Landlock: which files a process may open and change, whatever its user may.
//!
//! A fence is a list of paths with a right each; all other files are closed. The kernel checks it when a file is opened,
//! made, moved or removed, so a descriptor that was opened before still works. Kernels before 5.13, and some that are
//! configured so, have no Landlock: then the fence is reported as missing.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest version whose rights a fence names; older kernels know fewer.
const KNOWN: ABI = ABI::V5;

/// What a process may do with a path and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Read files.
    Read,
    /// Read and run files.
    Run,
    /// Read and write files, but not make any.
    Write,
    /// Make, read and write files and sockets.
    Make,
    /// Use a device.
    Device,
    /// Everything.
    All,
}

impl Right {
    fn bits(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::WriteFile | AccessFs::Truncate;
        match self {
            Self::Read => read,
            Self::Run => read | AccessFs::Execute,
            Self::Write => read | write,
            Self::Make => {
                read | write | AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile
            }
            Self::Device => read | write | AccessFs::IoctlDev,
            Self::All => AccessFs::from_all(KNOWN),
        }
    }
}

type Error = Box<dyn std::error::Error>;

/// Why there is no fence.
const ABSENT: &str = "the kernel does not have it, or it is not enabled";

/// Enters a fence by its descriptor. Allocates nothing: it runs between fork and exec.
pub(crate) fn enter_descriptor(fence: &OwnedFd) -> rustix::io::Result<()> {
    // SAFETY: the call takes a descriptor, which is open, and no pointer.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fence.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(
            rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::NOSYS),
        ),
    }
}

/// The part of a fence that the kernel's Landlock can't hold, in words; `None` where it holds all.
pub(crate) fn missing() -> Option<String> {
    // SAFETY: with this flag the call takes no pointer and returns the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    missing_in(version)
}

/// The version that has every right of a fence.
const COMPLETE: i64 = 6;

/// Versions with the restriction that each added.
const ADDED: [(i64, &str); 3] = [
    (3, "truncating files"),
    (5, "device controls"),
    (COMPLETE, "signals and abstract sockets"),
];

/// Pure.
fn missing_in(version: i64) -> Option<String> {
    if version <= 0 {
        return Some(format!("Landlock: {ABSENT}"));
    }
    let open: Vec<_> = ADDED
        .iter()
        .filter(|(added, _)| version < *added)
        .map(|(_, what)| *what)
        .collect();
    (!open.is_empty()).then(|| {
        format!(
            "all of Landlock: the kernel has version {version} of {COMPLETE}, which does not restrict {}",
            open.join(", ")
        )
    })
}

/// Paths, with a right each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fence(Vec<(PathBuf, Right)>);

impl Fence {
    /// Allows `right` for one more path.
    pub(crate) fn allow(mut self, path: impl AsRef<Path>, right: Right) -> Self {
        self.0.push((path.as_ref().to_owned(), right));
        self
    }

    /// Confines this process to these paths, for good.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        let status = self.ruleset()?.restrict_self()?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err(ABSENT.into()),
            RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
        }
    }

    /// The fence as a descriptor, which a child enters; `None` where the kernel has no Landlock.
    fn descriptor(&self) -> Result<Option<OwnedFd>, Error> {
        Ok(self.ruleset()?.into())
    }

    /// The same, and the part of the fence that the kernel can't hold.
    pub(crate) fn for_child(&self) -> (Option<OwnedFd>, Option<String>) {
        match self.descriptor() {
            Ok(Some(fence)) => (Some(fence), missing()),
            Ok(None) => (None, Some(format!("Landlock: {ABSENT}"))),
            Err(why) => (None, Some(format!("Landlock: {why}"))),
        }
    }

    fn ruleset(&self) -> Result<RulesetCreated, Error> {
        let mut ruleset = Ruleset::default()
            // Without this right Landlock forbids every move from one directory to another.
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?
            .create()?;
        for (path, right) in &self.0 {
            // A path that does not exist needs no rule: it can't be opened.
            let Ok(fd) = PathFd::new(path) else { continue };
            let bits = if path.is_dir() {
                right.bits()
            } else {
                right.bits() & AccessFs::from_file(KNOWN)
            };
            ruleset = ruleset.add_rule(PathBeneath::new(fd, bits))?;
        }
        Ok(ruleset)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// Runs `within` on a thread of its own: a fence confines the thread that enters it.
    fn fenced<T: Send>(fence: &Fence, within: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let behind = scope.spawn(|| {
                fence.enter().expect("this kernel has Landlock");
                within()
            });
            behind.join().unwrap()
        })
    }

    #[test]
    fn a_path_without_a_right_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["read", "written", "closed"] {
            fs::write(at(name), name).unwrap();
        }
        fs::create_dir(at("made")).unwrap();
        fs::create_dir(at("shared")).unwrap();
        let fence = Fence::default()
            .allow(at("read"), Right::Read)
            .allow(at("written"), Right::Write)
            .allow(at("made"), Right::Make)
            .allow(at("shared"), Right::All)
            .allow(at("missing"), Right::All);
        fenced(&fence, || {
            assert!(File::open(at("read")).is_ok());
            assert!(File::options().write(true).open(at("read")).is_err());
            assert!(File::options().write(true).open(at("written")).is_ok());
            assert!(File::open(at("closed")).is_err());
            assert!(File::create(at("new")).is_err());
            assert!(fs::remove_file(at("read")).is_err());
            assert!(File::create(at("made/new")).is_ok());
            assert!(fs::create_dir(at("made/new-directory")).is_err());
            assert!(fs::create_dir(at("shared/new-directory")).is_ok());
            assert!(fs::rename(at("shared/new-directory"), at("shared/moved")).is_ok());
        });
        assert!(File::open(at("closed")).is_ok());
    }

    #[test]
    fn a_missing_restriction_of_an_older_kernel_is_named() {
        let missing = |version| missing_in(version).unwrap_or_default();
        assert!(missing(-1).contains("not enabled") && missing(0).contains("not enabled"));
        assert!(
            missing(2).contains("version 2 of 6, which does not restrict truncating files, device")
        );
        assert!(!missing(4).contains("truncating") && missing(4).contains("device"));
        assert!(missing(6).is_empty() && missing(9).is_empty());
    }
}
