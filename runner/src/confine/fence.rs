//! Landlock: which files a process may open and change, whatever its user may.
//!
//! A fence is a list of places with what may be done there; everything else is closed. The kernel checks it when a
//! file is opened, made, moved or removed, so what was opened before stays open. Kernels before 5.13, and some that
//! are configured so, have no Landlock; then there is no fence, and that is said.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest interface whose rights are asked for; older kernels know fewer.
const KNOWN: ABI = ABI::V5;

/// What may be done at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// To read files.
    Read,
    /// To read and run files.
    Run,
    /// To read and write files, not to make any.
    Write,
    /// To make and write files, sockets among them.
    Make,
    /// To use a device.
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

/// Enters a fence by its descriptor. No allocation happens in here: it runs between fork and exec.
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

/// What the kernel's Landlock lacks of what a fence asks for, in words; nothing where it has all of it.
pub(crate) fn lack() -> Option<String> {
    // SAFETY: with this flag the call takes no pointer, and gives a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    lack_of(version)
}

/// The newest version of the interface that a fence uses all of.
const WHOLE: i64 = 6;

/// Each version with what came with it.
const CAME: [(i64, &str); 3] = [
    (3, "cutting files short"),
    (5, "what devices are told"),
    (WHOLE, "signals and abstract sockets"),
];

/// Pure.
fn lack_of(version: i64) -> Option<String> {
    if version <= 0 {
        return Some("Landlock: the kernel does not have it, or it is not enabled".into());
    }
    let open: Vec<_> = CAME
        .iter()
        .filter(|(came, _)| version < *came)
        .map(|(_, what)| *what)
        .collect();
    (!open.is_empty()).then(|| {
        format!(
            "all of Landlock: the kernel has version {version} of {WHOLE}, which is silent of {}",
            open.join(", ")
        )
    })
}

/// Places and what may be done there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fence(Vec<(PathBuf, Right)>);

impl Fence {
    /// Opens one more place.
    pub(crate) fn allow(mut self, path: impl AsRef<Path>, right: Right) -> Self {
        self.0.push((path.as_ref().to_owned(), right));
        self
    }

    /// Closes everything else to this process, for good.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        let status = self.ruleset()?.restrict_self()?;
        match status.ruleset {
            RulesetStatus::NotEnforced => {
                Err("the kernel does not have it, or it is not enabled".into())
            }
            RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
        }
    }

    /// The fence as a descriptor, for a child that enters it by itself; nothing where the kernel has no Landlock.
    pub(crate) fn descriptor(&self) -> Result<Option<OwnedFd>, Error> {
        Ok(self.ruleset()?.into())
    }

    fn ruleset(&self) -> Result<RulesetCreated, Error> {
        let mut ruleset = Ruleset::default()
            // A kernel without this right lets no file move from one directory to another.
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?
            .create()?;
        for (path, right) in &self.0 {
            // What isn't there can't be opened either.
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

    /// What `within` finds when only it is behind the fence: the fence is the calling thread's alone.
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
    fn what_is_not_named_is_closed() {
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
    fn what_an_older_kernel_leaves_open_is_named() {
        let lack = |version| lack_of(version).unwrap_or_default();
        assert!(lack(-1).contains("not enabled") && lack(0).contains("not enabled"));
        assert!(lack(2).contains("version 2 of 6, which is silent of cutting files short, what"));
        assert!(!lack(4).contains("cutting") && lack(4).contains("devices"));
        assert!(lack(6).is_empty() && lack(9).is_empty());
    }
}
