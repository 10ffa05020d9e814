//! The three programs beside `snowglobe`: the runner, the guest's init, and the guest kernel.
//!
//! The kernel is part of this program and unpacked once into the cache, named by its content, so that a new
//! version never meets an old file. Runner and init are files of their own: in `libexec/snowglobe` beside
//! `bin` when installed, or where cargo puts them.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::files;

/// The guest kernel, compressed.
#[cfg(target_arch = "x86_64")]
const KERNEL: &[u8] = include_bytes!("../../images/kernel/vmlinux-x86_64.zst");

/// The kernel's lock file, with the SHA-256 of the unpacked kernel.
#[cfg(target_arch = "x86_64")]
const LOCK: &str = include_str!("../../images/kernel/vmlinux-x86_64.lock");

/// Why a part of Snowglobe is missing.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// A program is not there.
    #[error(
        "find {name}: looked in {looked}; install Snowglobe with `make install`, or set SNOWGLOBE_LIBEXEC"
    )]
    Missing {
        /// Its name.
        name: &'static str,
        /// Where it was looked for.
        looked: String,
    },
    /// The kernel could not be unpacked.
    #[error("unpack the guest kernel to {path}")]
    Unpack {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

fn find(name: &'static str) -> Result<PathBuf, ArtefactError> {
    let mut candidates = Vec::new();
    if let Some(dir) = std::env::var_os("SNOWGLOBE_LIBEXEC") {
        candidates.push(Path::new(&dir).join(name));
    } else if let Ok(exe) = std::env::current_exe().and_then(|exe| exe.canonicalize()) {
        let dir = exe.parent().unwrap_or(Path::new("/")).to_owned();
        candidates.push(dir.join("../libexec/snowglobe").join(name));
        // Tests and examples are one directory deeper than the program.
        candidates.extend(["", ".."].map(|up| dir.join(up).join(name)));
    }
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.canonicalize().unwrap_or_else(|_| path.clone())),
        None => {
            let looked: Vec<String> = candidates
                .iter()
                .filter_map(|p| p.parent())
                .map(|p| p.display().to_string())
                .collect();
            Err(ArtefactError::Missing {
                name,
                looked: looked.join(", "),
            })
        }
    }
}

/// The program that holds a VM.
pub fn runner() -> Result<PathBuf, ArtefactError> {
    find("snowglobe-runner")
}

/// PID 1 of the guest, a static program (linked by `.ci/rustc`).
pub fn init() -> Result<PathBuf, ArtefactError> {
    find("snowglobe-init")
}

fn kernel_sha256() -> &'static str {
    let quoted = LOCK
        .lines()
        .find_map(|line| line.strip_prefix("elf_sha256 = "));
    quoted.unwrap_or_default().trim_matches('"')
}

/// The path of the guest kernel in `cache`, unpacked or not.
pub fn kernel_path(cache: &Path) -> PathBuf {
    // Not hashed: that would read 4 MB at every start.
    let hash = kernel_sha256().get(..16).unwrap_or("unknown");
    cache.join(format!("vmlinux-{hash}"))
}

/// The guest kernel as an ELF file, unpacked into `cache` at the first call.
pub fn kernel(cache: &Path) -> Result<PathBuf, ArtefactError> {
    let path = kernel_path(cache);
    if path.exists() {
        return Ok(path);
    }
    let unpack = || -> std::io::Result<()> {
        std::fs::create_dir_all(cache)?;
        let mut file = files::temporary(cache)?;
        zstd::stream::copy_decode(KERNEL, &mut file)?;
        file.flush()?;
        file.persist(&path)?;
        Ok(())
    };
    unpack().map_err(|source| ArtefactError::Unpack {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    #[test]
    fn the_kernel_is_the_one_its_lock_names() {
        let cache = tempfile::tempdir().unwrap();
        let elf = std::fs::read(kernel(cache.path()).unwrap()).unwrap();
        let sum = sha2::Sha256::digest(&elf);
        assert_eq!(hex::encode(sum), kernel_sha256());
    }
}
