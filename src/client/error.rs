//! Why a sandbox cannot be joined or started.

use std::path::PathBuf;

use crate::config::{self, Difference, Origin};
use crate::disk::StoreError;
use crate::guest::{GuestError, KeyError};
use crate::rundir::{self, RunDirError};

/// Why a sandbox cannot be joined or started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The directories of running sandboxes.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Its store of snapshots.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// The process that keeps it.
    #[error("talk to the process of the sandbox {id}")]
    Talk {
        /// The sandbox's id.
        id: rundir::Id,
        /// Why.
        source: std::io::Error,
    },
    /// It ended meanwhile.
    #[error("join the sandbox {id}: it was stopped meanwhile; try again")]
    Ended {
        /// The sandbox's id.
        id: rundir::Id,
    },
    /// Its process does not answer.
    #[error(
        "reach the process {pid} of the sandbox {id}: no answer within {seconds} s; `snowglobe stop` ends it"
    )]
    Silent {
        /// The sandbox's id.
        id: rundir::Id,
        /// The process.
        pid: u32,
        /// How long it had.
        seconds: u64,
    },
    /// What the process itself says.
    #[error("{error}")]
    Failed {
        /// For a person.
        error: String,
    },
    /// A flag or variable asks for what the running sandbox has not.
    #[error("{}", told(directory, difference))]
    Differs {
        /// The sandbox's directory.
        directory: PathBuf,
        /// What differs.
        difference: Box<Difference>,
    },
    /// Another release keeps it.
    #[error(
        "join the sandbox of {}: {program} keeps it, and this is snowglobe {}, which talks to it in another way; \
         `snowglobe stop` ends it, so that the next command starts it anew",
        directory.display(), env!("CARGO_PKG_VERSION")
    )]
    Release {
        /// The sandbox's directory.
        directory: PathBuf,
        /// The program.
        program: String,
    },
    /// The process could not be started.
    #[error("{operation}")]
    Start {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process starts it for too long.
    #[error(
        "start the sandbox: another process has been starting it for {seconds} s; `snowglobe ls` shows it"
    )]
    Busy {
        /// How long.
        seconds: u64,
    },
}

fn told(directory: &std::path::Path, difference: &Difference) -> String {
    let asked = &difference.asked;
    let by = match &asked.origin {
        Origin::Environment(name) => name.clone(),
        _ => format!("--{}", config::flag(&asked.key).replace('_', "-")),
    };
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "none".to_owned(),
        other => other.to_string(),
    };
    format!(
        "join the sandbox of {}: it runs with {} = {}, and {by} asks for {}; `snowglobe stop` ends it, so that the next \
         command starts it anew, and `--rm` starts another one for this command alone",
        directory.display(),
        asked.key,
        shown(&difference.has),
        shown(&asked.value),
    )
}
