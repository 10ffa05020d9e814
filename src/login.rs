//! The SSH keys that stay, for the user's own ssh and for editors: they would ask about new ones at each boot.
//!
//! ```text
//! <data>/ssh/id_ed25519         the user's private key for all kept sandboxes
//!           /NAME.host_ed25519  the host key of the sandbox NAME
//!           /NAME.known_hosts   its public part, as ssh reads it
//!           /NAME.conf          its hosts, for an `Include` in the user's own configuration
//! ```
//!
//! A key is made by the first process that needs it, once: it appears whole, and never replaces another one.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;

use crate::guest::{KeyError, generate_key};
use crate::names::SandboxName;
use crate::{files, presence, private};

/// What the file of a sandbox's hosts ends with.
pub const HOSTS: &str = ".conf";

const KNOWN_HOSTS: &str = ".known_hosts";

const HOST_KEY: &str = ".host_ed25519";

/// The file of the user's private key.
const USER: &str = "id_ed25519";

/// The name of the sandbox that a file of this name belongs to.
pub(crate) fn sandbox_of(file: &str) -> Option<&str> {
    let endings = [HOSTS, KNOWN_HOSTS, HOST_KEY];
    endings
        .into_iter()
        .find_map(|ending| file.strip_suffix(ending))
}

/// Whether a file is that of a sandbox's hosts.
pub(crate) fn is_hosts(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(HOSTS))
}

/// Why a lasting key, or a file beside it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A file or directory.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that holds no key.
    #[error("read the key {path}: {why}; remove the file, and a new key is made")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A new key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The keys of a sandbox that is kept.
#[derive(Debug, Clone)]
pub struct LoginKeys {
    /// The user's public key, one line.
    pub user: String,
    /// The sandbox's host key.
    pub host: PrivateKey,
}

/// The directory of lasting keys.
#[derive(Debug, Clone)]
pub struct Login {
    dir: PathBuf,
}

impl Login {
    /// That of a data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("ssh"),
        }
    }

    /// Its path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The user's private key.
    pub fn user_file(&self) -> PathBuf {
        self.dir.join(USER)
    }

    /// The user's public key, one line; makes the key if it is not there.
    pub fn user(&self) -> Result<String, LoginError> {
        let key = key(&self.user_file())?;
        Ok(key.public_key().to_openssh().map_err(KeyError::from)?)
    }

    /// What ssh knows of a sandbox's host key.
    pub fn known_hosts(&self, name: &SandboxName) -> PathBuf {
        self.dir.join(format!("{name}{KNOWN_HOSTS}"))
    }

    /// A sandbox's hosts.
    pub fn hosts(&self, name: &SandboxName) -> PathBuf {
        self.dir.join(format!("{name}{HOSTS}"))
    }

    /// Whether any sandbox's hosts are there.
    pub fn any_hosts(&self) -> io::Result<bool> {
        let all = match presence::is_name(&self.dir)? {
            true => files::list(&self.dir)?,
            false => Vec::new(),
        };
        Ok(all.iter().any(|file| is_hosts(Path::new(file))))
    }

    /// Removes a sandbox's keys and hosts.
    pub fn remove(&self, name: &SandboxName) -> io::Result<()> {
        for ending in [HOSTS, KNOWN_HOSTS, HOST_KEY] {
            files::remove_file(&self.dir.join(format!("{name}{ending}")))?;
        }
        Ok(())
    }

    /// The keys of a sandbox; makes those that are not there.
    pub fn keys(&self, name: &SandboxName) -> Result<LoginKeys, LoginError> {
        let host = key(&self.dir.join(format!("{name}{HOST_KEY}")))?;
        let line = host.public_key().to_openssh().map_err(KeyError::from)?;
        self.know(name, &line)?;
        Ok(LoginKeys {
            user: self.user()?,
            host,
        })
    }

    /// Has ssh know that a sandbox's host key is this one, a line.
    pub fn know(&self, name: &SandboxName, key: &str) -> Result<(), LoginError> {
        let line = format!("{} {}\n", host(name), key.trim());
        self.write(&self.known_hosts(name), &line)?;
        Ok(())
    }

    /// Writes a file beside the keys; false if it has that text already.
    pub fn write(&self, path: &Path, text: &str) -> Result<bool, LoginError> {
        if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(false);
        }
        let write = || {
            private::dir(&self.dir)?;
            files::replace(path, text.as_bytes())
        };
        write().map_err(fail("write", path))?;
        Ok(true)
    }
}

/// The name of a sandbox's host in the user's ssh configuration.
pub fn host(name: &SandboxName) -> String {
    format!("snowglobe-{name}")
}

fn fail(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoginError {
    let path = path.to_owned();
    move |source| LoginError::File {
        operation,
        path,
        source,
    }
}

/// The key in a file; makes one if the file is not there.
fn key(path: &Path) -> Result<PrivateKey, LoginError> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let text = generate_key()?
        .to_openssh(LineEnding::LF)
        .map_err(KeyError::from)?;
    make(path, text.as_bytes()).map_err(fail("make the key", path))?;
    read(path)?.ok_or_else(|| fail("read the key", path)(io::ErrorKind::NotFound.into()))
}

fn read(path: &Path) -> Result<Option<PrivateKey>, LoginError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fail("read the key", path)(source)),
    };
    let key = PrivateKey::from_openssh(text).map_err(|error| LoginError::Unreadable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    // A copy of a data directory may have lost the mode, and ssh then refuses the key.
    let mode = fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o077 != 0 {
        fs::set_permissions(path, PermissionsExt::from_mode(private::FILE))
            .map_err(fail("close", path))?;
    }
    Ok(Some(key))
}

/// Makes a file, whole, unless another process has made it meanwhile.
fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    private::dir(dir)?;
    match files::written(dir, content)?.persist_noclobber(path) {
        Ok(_) => files::sync_dir(dir),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_need_a_key_at_once_all_get_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let login = Login::of(&dir.path().join("data"));
        let name: SandboxName = "a".parse().unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let tasks: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| login.keys(&name).unwrap()))
                .collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        for keys in &all {
            assert_eq!(keys.user, all[0].user);
            assert_eq!(keys.host.public_key(), all[0].host.public_key());
        }
        // Another sandbox has another host key and the same login.
        let other = login.keys(&"b".parse().unwrap()).unwrap();
        assert_eq!(other.user, all[0].user);
        assert_ne!(other.host.public_key(), all[0].host.public_key());
        let known = fs::read_to_string(login.known_hosts(&name)).unwrap();
        let line = all[0].host.public_key().to_openssh().unwrap();
        assert_eq!(known, format!("snowglobe-a {line}\n"));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(login.dir()), 0o700);
        for entry in login.dir().read_dir().unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
        assert!(!login.any_hosts().unwrap());
        login.write(&login.hosts(&name), "Host x\n").unwrap();
        assert!(login.any_hosts().unwrap());
        // Each file but the user's key belongs to one sandbox, and goes with it.
        let names = || {
            let mut all = files::list(login.dir()).unwrap();
            all.retain(|file| sandbox_of(file) != Some("b"));
            all.sort();
            all
        };
        assert_eq!(names().len(), 4);
        assert!(
            names()
                .iter()
                .all(|file| matches!(sandbox_of(file), Some("a")) || file == USER)
        );
        login.remove(&name).unwrap();
        login.remove(&name).unwrap();
        assert_eq!(names(), [USER]);
    }

    #[test]
    fn a_file_that_holds_no_key_is_named_and_left_and_an_open_one_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let login = Login::of(dir.path());
        let name: SandboxName = "a".parse().unwrap();
        login.keys(&name).unwrap();
        let file = login.user_file();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        login.keys(&name).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "").unwrap();
        let error = login.keys(&name).unwrap_err().to_string();
        assert!(
            error.contains("id_ed25519") && error.contains("remove the file"),
            "{error}"
        );
        assert_eq!(fs::read(&file).unwrap(), b"");
    }
}
