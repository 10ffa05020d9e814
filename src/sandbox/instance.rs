//! A running sandbox that others on this host can join: the user's own `ssh`, and `snowglobe` itself.
//!
//! ```text
//! <runtime>/<instance>/instance.json   who runs here (mode 0600, as all of it)
//!                     /ssh.sock        each connection is an SSH session in the guest
//!                     /mcp.sock        each connection is an MCP session with the same sandbox
//!                     /id_ed25519      the key that logs in as `root` or `sandbox`
//!                     /control_ed25519 the key by which `snowglobe` itself joins; written anew at each boot
//!                     /known_hosts     the guest's host key; written anew at each boot
//! ```
//!
//! The directory lives as long as its owner holds `lock`; a dead one's is passed over and removed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use serde::{Deserialize, Serialize};

use super::SandboxError;
use crate::guest::VmKeys;
use crate::presence;

/// The host name under which the user's ssh knows the guest.
pub const SSH_HOST: &str = "snowglobe";

/// What a running sandbox says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Info {
    /// Its instance's id.
    pub id: String,
    /// The sandbox's name.
    pub name: String,
    /// The workspace on the host.
    pub workspace: PathBuf,
    /// The process that owns it.
    pub pid: u32,
    /// The image it runs.
    pub image: String,
    /// Since when.
    pub started: jiff::Timestamp,
}

/// A running sandbox seen from another process.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its directory.
    pub dir: PathBuf,
    /// What it says about itself.
    pub info: Info,
}

impl Running {
    /// Where SSH sessions begin.
    pub fn ssh_socket(&self) -> PathBuf {
        self.dir.join("ssh.sock")
    }

    /// Where MCP sessions begin.
    pub fn mcp_socket(&self) -> PathBuf {
        self.dir.join("mcp.sock")
    }
}

/// This process's own directory.
#[derive(Debug)]
pub struct Instance {
    /// Where it is.
    pub dir: PathBuf,
    /// Its id.
    pub id: String,
    /// The public key that may log in, one line.
    pub login_key: String,
    _lock: File,
}

fn private_file(path: &Path, content: &[u8]) -> io::Result<()> {
    // A new file beside, renamed: readers see the old or the new one, never half of it.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?
        .write_all(content)?;
    fs::rename(new, path)
}

/// Makes the runtime directory, and refuses one that belongs to somebody else.
pub fn runtime_dir(path: &Path) -> Result<(), SandboxError> {
    let fail = |source| SandboxError::File {
        operation: "use the runtime directory",
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(fail)?;
    let meta = fs::symlink_metadata(path).map_err(fail)?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(fail(io::Error::other(
            "it belongs to somebody else; set SNOWGLOBE_RUNTIME_DIR",
        )));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(fail)?;
    }
    Ok(())
}

impl Instance {
    /// Makes the directory of a sandbox that starts in this process.
    pub fn create(config: &crate::config::Config) -> Result<Self, SandboxError> {
        runtime_dir(&config.runtime_dir)?;
        let id = format!("{:08x}", rand::random::<u32>());
        let dir = config.runtime_dir.join(&id);
        let fail = |source| SandboxError::File {
            operation: "make the directory",
            path: dir.clone(),
            source,
        };
        let key = crate::guest::generate_key()?;
        let make = || -> io::Result<File> {
            DirBuilder::new().mode(0o700).create(&dir)?;
            let lock = hold(&dir)?;
            let info = Info {
                id: id.clone(),
                name: config.name.clone(),
                workspace: config.workspace.clone(),
                pid: std::process::id(),
                image: config.image.clone(),
                started: jiff::Timestamp::now(),
            };
            private_file(
                &dir.join("id_ed25519"),
                key.to_openssh(LineEnding::LF)
                    .map_err(io::Error::other)?
                    .as_bytes(),
            )?;
            private_file(&dir.join("known_hosts"), b"")?;
            private_file(
                &dir.join("instance.json"),
                &serde_json::to_vec_pretty(&info)?,
            )?;
            Ok(lock)
        };
        let lock = make().map_err(fail)?;
        Ok(Self {
            login_key: public_line(&key)?,
            dir,
            id,
            _lock: lock,
        })
    }

    /// Writes down the keys of the VM that runs now; the host key last, since others wait for it.
    pub fn set_keys(&self, keys: &VmKeys) -> Result<(), SandboxError> {
        let known_host = format!("{SSH_HOST} {}\n", keys.host_public()?);
        for (file, content) in [
            ("control_ed25519", keys.control_pem()?),
            ("known_hosts", known_host),
        ] {
            let path = self.dir.join(file);
            private_file(&path, content.as_bytes()).map_err(|source| SandboxError::File {
                operation: "write",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// A socket path for a new VM's link.
    pub fn link_socket(&self) -> PathBuf {
        self.dir
            .join(format!("link-{:04x}.sock", rand::random::<u16>()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Shows for as long as the lock lives that a directory belongs to a living process; then [`running`] removes it.
pub(super) fn hold(dir: &Path) -> io::Result<File> {
    // Locked before it has its name: nobody meets an unlocked one and takes it for a dead one's.
    let lock = File::create(dir.join("lock.new"))?;
    lock.lock()?;
    fs::rename(dir.join("lock.new"), dir.join("lock"))?;
    Ok(lock)
}

fn public_line(key: &PrivateKey) -> Result<String, SandboxError> {
    key.public_key()
        .to_openssh()
        .map_err(|e| SandboxError::from(crate::guest::KeyError::from(e)))
}

/// Every sandbox that runs now, newest first. What the dead left is removed.
pub fn running(runtime_dir: &Path) -> Vec<Running> {
    let mut found = Vec::new();
    for entry in fs::read_dir(runtime_dir).into_iter().flatten().flatten() {
        let dir = entry.path();
        let lock = dir.join("lock");
        // One without a lock is in the making, or belongs to something else.
        match presence::is_name(&lock).and_then(|there| Ok((there, presence::is_held(&lock)?))) {
            Ok((true, true)) => {}
            Ok((true, false)) => {
                let _ = fs::remove_dir_all(&dir);
                continue;
            }
            Ok((false, _)) | Err(_) => continue,
        }
        let text = fs::read(dir.join("instance.json")).unwrap_or_default();
        if let Ok(info) = serde_json::from_slice(&text) {
            found.push(Running { dir, info });
        }
    }
    found.sort_by_key(|running: &Running| std::cmp::Reverse(running.info.started));
    found
}
