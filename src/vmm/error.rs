//! Why a VM could not be started or asked, and how one ended.

use std::path::PathBuf;
use std::time::Duration;

use super::artefacts::ArtefactError;

/// Why a VM could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The runner could not be started.
    #[error("start the runner {path}")]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The runner could not start the VM.
    #[error("start the VM at stage `{stage}`: {message}{}", tail(.console))]
    Failed {
        /// The stage that failed.
        stage: String,
        /// Why.
        message: String,
        /// The last lines of the console.
        console: Vec<String>,
    },
    /// The VM has ended.
    #[error("reach the VM: it ended ({})", .0.reason)]
    Ended(VmEnd),
    /// The runner refused a command.
    #[error("{0}")]
    Refused(String),
    /// The runner does not answer.
    #[error("get an answer of the VM's runner within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// No engine can run here.
    #[error("find an engine that can run here: {0}")]
    NoEngine(String),
    /// A part of Snowglobe itself is missing.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEnd {
    /// Whether the guest powered off by itself.
    pub clean: bool,
    /// How, in words.
    pub reason: String,
    /// The last lines of the console.
    pub console: Vec<String>,
}

impl std::fmt::Display for VmEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.reason, tail(&self.console))
    }
}

/// The end of a VM whose runner reported none.
pub(super) fn unknown_end() -> VmEnd {
    VmEnd {
        clean: false,
        reason: "its runner was killed".into(),
        console: Vec::new(),
    }
}

/// The console's last lines, for the end of a message.
fn tail(console: &[String]) -> String {
    if console.is_empty() {
        return String::new();
    }
    let last = &console[console.len().saturating_sub(12)..];
    format!("\nlast lines of the console:\n  {}", last.join("\n  "))
}
