//! Joining a sandbox that another process of the same user runs.

use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::guest::{self, Guest, GuestError, Identity, KeyError};
use crate::rundir::{self, RunDirError, Running};

/// How long the sandbox may take to boot once it is joined.
const BOOT: Duration = Duration::from_secs(120);

/// How often to look whether it has.
const POLL: Duration = Duration::from_millis(100);

/// Why a running sandbox cannot be joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The directories of running sandboxes.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A file in its directory.
    #[error("read {file} of the running sandbox {id}")]
    File {
        /// The file's name.
        file: &'static str,
        /// The sandbox's id.
        id: rundir::Id,
        /// Why.
        source: std::io::Error,
    },
    /// A key in its directory.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The connection.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// It did not boot.
    #[error("join the running sandbox {id}: it did not boot within {seconds} s")]
    NotBooted {
        /// The sandbox's id.
        id: rundir::Id,
        /// How long it had.
        seconds: u64,
    },
}

/// The newest running sandbox of that name and directory.
pub(crate) fn find(config: &Config) -> Result<Option<Running>, ClientError> {
    let running = rundir::running(&config.host.dirs.runtime)?;
    let (name, directory) = (config.sandbox.name.as_str(), &config.sandbox.project_dir);
    Ok(running
        .into_iter()
        .find(|running| running.info.name == name && running.info.workspace == *directory))
}

/// Logs in to the guest of a running sandbox, which boots if it has not yet.
pub(crate) async fn join(running: &Running) -> Result<Guest, ClientError> {
    let stream = connect(&running.ssh_socket()).await?;
    // The first connection makes the guest boot, and only then its host key is known.
    let identity = identity(running).await?;
    Ok(Guest::login(stream, &identity, "snowglobe").await?)
}

/// A stream to a socket of a running sandbox.
pub(crate) async fn connect(socket: &Path) -> Result<tokio::net::UnixStream, ClientError> {
    Ok(guest::connect(socket).await?)
}

/// The keys of the VM that runs, once there is one.
async fn identity(running: &Running) -> Result<Identity, ClientError> {
    let read = |file| {
        let text = running.read(file);
        text.map_err(|source| ClientError::File {
            file,
            id: running.id.clone(),
            source,
        })
    };
    let deadline = tokio::time::Instant::now() + BOOT;
    while tokio::time::Instant::now() < deadline {
        if let Some((_, host_key)) = read("known_hosts")?.trim().split_once(' ') {
            return Ok(Identity::decode(&read("control_ed25519")?, host_key)?);
        }
        tokio::time::sleep(POLL).await;
    }
    Err(ClientError::NotBooted {
        id: running.id.clone(),
        seconds: BOOT.as_secs(),
    })
}
