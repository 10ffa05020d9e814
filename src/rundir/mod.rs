//! The directory of a running sandbox, through which other processes of the same user join it: the user's own `ssh`,
//! and `snowglobe` itself.
//!
//! ```text
//! <runtime>/<instance>/instance.json   the sandbox's name, workspace, image and process (mode 0600, as every file here)
//!                     /ssh.sock        each connection is an SSH session in the guest
//!                     /mcp.sock        each connection is an MCP session with the same sandbox
//!                     /control.sock    questions to the process that keeps the sandbox ([`crate::control`])
//!                     /login.pub       the public key of the user's own ssh ([`crate::login`])
//!                     /control_ed25519 the key by which `snowglobe` itself joins; written anew at each boot
//!                     /known_hosts     the guest's host key; written anew at each boot
//! ```
//!
//! A directory counts as long as its owner holds `lock`; a dead owner's is removed when the next machine starts.
//! An instance's id is its directory's name, eight hexadecimal digits, whatever a file in it says; other directories are no
//! instances.

mod runtime;

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::blocking::blocking_here;
use crate::config::Setting;
use crate::guest::{KeyError, VmKeys};
use crate::names::SandboxName;
use crate::{presence, private};

pub use runtime::RuntimeDir;

/// Why the runtime directory, or a sandbox's directory in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
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
    /// Keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The name of the guest in its `known_hosts`.
const HOST: &str = "snowglobe";

/// The file with the public key of the user's own ssh.
pub(crate) const LOGIN: &str = "login.pub";

/// The socket for SSH sessions.
pub(crate) const SSH_SOCKET: &str = "ssh.sock";

/// The socket for MCP sessions.
pub(crate) const MCP_SOCKET: &str = "mcp.sock";

/// The socket for questions to the process that keeps the sandbox. The others are there before it.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// What a client and the process that keeps a sandbox must agree on: the control socket's questions and answers, the
/// settings, and the files of an instance. Raise it with each change that another release would misunderstand. The
/// question `stop`, and the name, workspace and process in `instance.json`, are understood by all releases.
const PROTOCOL: u32 = 3;

/// [`PROTOCOL`] with the version of the guest link.
pub(crate) fn protocol() -> Box<str> {
    format!("{PROTOCOL}.{}", snowglobe_init::wire::VERSION).into()
}

/// How much of a file of an instance is read, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// The file in which an instance says what it is.
const INFO: &str = "instance.json";

/// The prefix of directories in which images are built.
pub(crate) const BUILD: &str = "build-";

/// The file whose lock shows that a directory's owner lives.
pub(crate) const LOCK: &str = "lock";

/// An instance's id: eight hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    fn new() -> Self {
        Self(format!("{:08x}", rand::random::<u32>()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match crate::text::is_hex(text, 8) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} is no instance's id: expected eight hexadecimal digits, as `snowglobe ls` prints them"
            )),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a running sandbox says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Info {
    /// The sandbox's name.
    pub name: String,
    /// The workspace on the host.
    pub workspace: PathBuf,
    /// The directory of its repository, if that is shared beside it.
    #[serde(default)]
    pub repository: Option<PathBuf>,
    /// What keeps git from working there as on the host.
    #[serde(default)]
    pub git_trouble: Option<String>,
    /// The process that owns it.
    pub pid: u32,
    /// The image it runs.
    #[serde(default)]
    pub image: String,
    /// When it started.
    #[serde(default)]
    pub started: jiff::Timestamp,
    /// The settings that it was started with; none if another release wrote them in another form.
    #[serde(default, deserialize_with = "if_understood")]
    pub settings: Vec<Setting>,
    /// The release of the program that owns it.
    #[serde(default)]
    pub program: Box<str>,
    /// What that program and its clients must agree on ([`protocol`]).
    #[serde(default)]
    pub protocol: Box<str>,
}

/// A sandbox of another release must be seen, so that it can be stopped.
fn if_understood<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Setting>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// A running sandbox seen from another process.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its id.
    pub id: Id,
    /// Its directory.
    pub dir: PathBuf,
    /// What it says about itself.
    pub info: Info,
}

impl Running {
    /// The socket for SSH sessions.
    pub fn ssh_socket(&self) -> PathBuf {
        self.dir.join(SSH_SOCKET)
    }

    /// The socket for MCP sessions.
    pub fn mcp_socket(&self) -> PathBuf {
        self.dir.join(MCP_SOCKET)
    }

    /// The socket for questions.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join(CONTROL_SOCKET)
    }

    /// Whether a process keeps it for others to join; else it belongs to one client alone.
    pub fn is_kept(&self) -> bool {
        self.control_socket().symlink_metadata().is_ok()
    }

    /// Whether its process lives.
    pub fn lives(&self) -> bool {
        presence::is_held(&self.dir.join(LOCK)).unwrap_or(true)
    }

    /// The text of a file in its directory.
    pub fn read(&self, file: &str) -> io::Result<String> {
        read(&self.dir.join(file))
    }
}

/// A small file's text; links are not followed.
fn read(path: &Path) -> io::Result<String> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// What a sandbox that starts says about itself.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// The sandbox's name.
    pub name: &'a SandboxName,
    /// The directory that it belongs to.
    pub workspace: &'a Path,
    /// The directory of its repository, if that is shared beside it.
    pub repository: Option<&'a Path>,
    /// What keeps git from working there as on the host.
    pub git_trouble: Option<String>,
    /// The image it runs.
    pub image: &'a str,
    /// The settings that it starts with.
    pub settings: Vec<Setting>,
}

/// The directory of this process's own sandbox.
#[derive(Debug)]
pub struct Instance {
    /// Its path.
    pub dir: PathBuf,
    /// Its id.
    pub id: Id,
    _lock: File,
}

fn private_file(path: &Path, content: &[u8]) -> io::Result<()> {
    // Write a new file, then rename it: readers see the old or the new content, never a part.
    let new = path.with_extension("new");
    fs::remove_file(&new).ok();
    private::file()
        .write(true)
        .create_new(true)
        .open(&new)?
        .write_all(content)?;
    fs::rename(new, path)
}

impl Instance {
    /// Makes the directory of a sandbox that starts in this process. Blocks.
    pub fn create(runtime_dir: &Path, about: About<'_>) -> Result<Self, RunDirError> {
        let runtime = RuntimeDir::make(runtime_dir)?;
        sweep(&runtime);
        let id = Id::new();
        let dir = runtime.path().join(id.as_str());
        let fail = |source| RunDirError::File {
            operation: "make the directory",
            path: dir.clone(),
            source,
        };
        let make = || -> io::Result<File> {
            private::new_dir(&dir)?;
            let lock = presence::hold(&dir, LOCK)?;
            let info = Info {
                name: about.name.to_string(),
                workspace: about.workspace.to_owned(),
                repository: about.repository.map(Path::to_owned),
                git_trouble: about.git_trouble,
                pid: std::process::id(),
                image: about.image.to_owned(),
                started: jiff::Timestamp::now(),
                settings: about.settings,
                program: env!("CARGO_PKG_VERSION").into(),
                protocol: protocol(),
            };
            private_file(&dir.join("known_hosts"), b"")?;
            private_file(&dir.join(INFO), &serde_json::to_vec_pretty(&info)?)?;
            Ok(lock)
        };
        let lock = make().map_err(|source| {
            // What was made of it is of no use; a directory that is another's by its id's chance has no room for a lock.
            fs::remove_dir_all(&dir).ok();
            fail(source)
        })?;
        Ok(Self {
            dir,
            id,
            _lock: lock,
        })
    }

    /// Writes the public key of the user's own ssh, one line. Blocks.
    pub fn set_login(&self, key: &str) -> Result<(), RunDirError> {
        self.write(LOGIN, key)
    }

    /// Replaces the values of some of the settings that other programs see. Blocks.
    pub(crate) fn set_settings(
        &self,
        values: Vec<(String, serde_json::Value)>,
    ) -> Result<(), RunDirError> {
        let path = self.dir.join(INFO);
        let replaced = || -> io::Result<()> {
            let mut info: Info = serde_json::from_str(&read(&path)?)?;
            for (key, value) in values {
                let known = info.settings.iter_mut().find(|one| one.key == key);
                if let Some(setting) = known {
                    setting.value = value;
                }
            }
            private_file(&path, &serde_json::to_vec_pretty(&info)?)
        };
        replaced().map_err(|source| RunDirError::File {
            operation: "write",
            path: path.clone(),
            source,
        })
    }

    fn write(&self, file: &str, content: &str) -> Result<(), RunDirError> {
        let path = self.dir.join(file);
        private_file(&path, content.as_bytes()).map_err(|source| RunDirError::File {
            operation: "write",
            path,
            source,
        })
    }

    /// Writes the keys of the running VM; the host key last, since clients wait for it. Blocks.
    pub fn set_keys(&self, keys: &VmKeys) -> Result<(), RunDirError> {
        let known_host = format!("{HOST} {}\n", keys.host_public()?);
        for (file, content) in [
            ("control_ed25519", keys.control_pem()?),
            ("known_hosts", known_host),
        ] {
            self.write(file, &content)?;
        }
        Ok(())
    }

    /// Whether clients still find the sandbox there: a session's end or a cleaner of temporary files may have removed it.
    pub(crate) fn is_found(&self) -> bool {
        let there = |name: &str| presence::is_name(&self.dir.join(name)).unwrap_or(true);
        [LOCK, INFO, CONTROL_SOCKET].into_iter().all(there)
    }

    /// Makes its files look used, so that no cleaner of temporary files takes them for old.
    pub(crate) fn refresh(&self) -> io::Result<()> {
        let now = fs::FileTimes::new()
            .set_accessed(std::time::SystemTime::now())
            .set_modified(std::time::SystemTime::now());
        for path in presence::entries(&self.dir)? {
            if path.symlink_metadata()?.is_file() {
                File::open(path)?.set_times(now)?;
            }
        }
        Ok(())
    }

    /// Removes the directory; nothing can join the sandbox any more. Blocks.
    pub fn remove(&self) {
        fs::remove_dir_all(&self.dir).ok();
    }

    /// A socket path for a new VM's link.
    pub fn link_socket(&self) -> PathBuf {
        self.dir
            .join(format!("link-{:04x}.sock", rand::random::<u16>()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        blocking_here(|| self.remove());
    }
}

/// Every running sandbox, newest first. Directories of dead owners stay: to look changes nothing. Blocks.
pub fn running(runtime_dir: &Path) -> Result<Vec<Running>, RunDirError> {
    let Some(runtime) = RuntimeDir::open(runtime_dir)? else {
        return Ok(Vec::new());
    };
    let names = runtime.directories();
    let names = names.map_err(|source| RunDirError::File {
        operation: "list",
        path: runtime.path().to_owned(),
        source,
    })?;
    let mut found: Vec<Running> = names
        .iter()
        .filter_map(|name| look(&runtime, name))
        .collect();
    found.sort_by_key(|running| std::cmp::Reverse(running.info.started));
    Ok(found)
}

/// Removes the directories of dead owners.
pub(crate) fn sweep(runtime: &RuntimeDir) {
    for name in runtime.directories().unwrap_or_default() {
        if name.parse::<Id>().is_err() && !name.starts_with(BUILD) {
            continue;
        }
        let lock = runtime.path().join(&name).join(LOCK);
        // A directory without a lock is being made. If the lock can't be read, the directory stays.
        if presence::is_name(&lock).unwrap_or(false)
            && matches!(presence::is_held(&lock), Ok(false))
        {
            runtime.remove(&name).ok();
        }
    }
}

/// The sandbox of a directory, if it lives.
fn look(runtime: &RuntimeDir, name: &str) -> Option<Running> {
    let id = name.parse::<Id>();
    let dir = runtime.path().join(name);
    let lock = dir.join(LOCK);
    // A directory without a lock is being made, or is no sandbox's.
    match presence::is_name(&lock).and_then(|there| Ok((there, presence::is_held(&lock)?))) {
        Ok((true, true)) => {}
        Ok(_) | Err(_) => return None,
    }
    let info = serde_json::from_str(&read(&dir.join(INFO)).ok()?).ok()?;
    Some(Running {
        id: id.ok()?,
        dir,
        info,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance(runtime: &Path, name: &str) -> File {
        let dir = runtime.join(name);
        private::new_dir(&dir).unwrap();
        let info = serde_json::json!({
            "id": "$(touch /tmp/owned)", "name": "n", "workspace": "/w", "pid": 1, "image": "i",
            "started": "2026-01-02T03:04:05Z",
        });
        fs::write(dir.join("instance.json"), info.to_string()).unwrap();
        presence::hold(&dir, LOCK).unwrap()
    }

    #[test]
    fn an_id_is_the_directorys_name_whatever_its_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::make(&dir.path().join("run")).unwrap();
        let names = ["0123abcd", "$(reboot)", "0123ABCD", "0123abcde", "a b"];
        let _held = names.map(|name| instance(runtime.path(), name));
        drop(instance(runtime.path(), "deadbeef"));
        let found = running(runtime.path()).unwrap();
        let ids: Vec<_> = found.iter().map(|running| running.id.as_str()).collect();
        assert_eq!(ids, ["0123abcd"]);
        assert!(
            runtime.path().join("deadbeef").exists(),
            "to look changes nothing"
        );
        sweep(&runtime);
        assert!(
            !runtime.path().join("deadbeef").exists(),
            "its owner is dead"
        );
        assert!(
            runtime.path().join("$(reboot)").exists(),
            "it is not ours to remove"
        );
    }

    #[test]
    fn a_sandbox_of_another_release_is_seen_and_so_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::make(&dir.path().join("run")).unwrap();
        let _held = instance(runtime.path(), "0123abcd");
        let info = serde_json::json!({
            "name": "n", "workspace": "/w", "pid": 7, "new": true,
            "settings": [{"key": "cpus", "value": 1, "origin": "the moon"}],
        });
        fs::write(
            runtime.path().join("0123abcd/instance.json"),
            info.to_string(),
        )
        .unwrap();
        let found = running(runtime.path()).unwrap();
        assert_eq!(found.len(), 1);
        let info = &found[0].info;
        assert!(info.pid == 7 && info.settings.is_empty() && info.protocol != protocol());
    }

    #[test]
    fn own_files_are_read_without_links_and_never_whole_if_long() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("long"), "x".repeat(LONGEST_FILE as usize + 9)).unwrap();
        assert_eq!(read(&at("long")).unwrap().len() as u64, LONGEST_FILE);
        std::os::unix::fs::symlink(at("long"), at("link")).unwrap();
        assert!(read(&at("link")).is_err());
    }

    proptest! {
        #[test]
        fn ids_hold_nothing_but_eight_digits(text in "[0-9a-fA-F]{7,9}|.{0,10}") {
            let is_id = text.parse::<Id>().is_ok();
            let digits = text.len() == 8 && text.chars().all(|c| "0123456789abcdef".contains(c));
            prop_assert_eq!(is_id, digits);
        }
    }
}
