//! Why a request to the guest failed.

use std::path::PathBuf;

use snowglobe_init::wire::{Report, VERSION, Version, WireError};

use super::Violation;

/// The longest message of the guest that is passed on, in characters.
const LONGEST_MESSAGE: usize = 8_000;

/// Why a request to the guest failed.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The link's socket could not be reached.
    #[error("reach the guest link at {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The link broke.
    #[error("reach the guest: the link is gone")]
    Lost,
    /// The guest broke a rule of the link, so the link was dropped.
    #[error("trust the guest: it {0}")]
    Violation(Violation),
    /// The guest does not answer.
    #[error(
        "get the guest's answer to `{operation}` within {seconds} s: it is stuck or far too busy; wait, or call \
         `reboot` for a fresh one"
    )]
    NoAnswer {
        /// What was asked.
        operation: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The guest at the other end is not the one that was booted.
    #[error("trust the guest: its host key is not the one it was booted with")]
    WrongHostKey,
    /// The guest's init is of another release.
    #[error(
        "speak with the guest: its init speaks {} of the guest link, and this snowglobe speaks version {VERSION}; call \
         `reboot` for a machine with this release's init (if that does not help, install snowglobe and snowglobe-init \
         from one release), and save snapshots of running machines anew",
        stated(.0)
    )]
    OtherVersion(Option<Version>),
    /// The guest refused our key.
    #[error("log in to the guest as `{user}`: it refused the key")]
    Refused {
        /// The user name.
        user: String,
    },
    /// SSH itself failed.
    #[error("speak SSH with the guest: {0}")]
    Ssh(russh::Error),
    /// The guest's answer can't be understood.
    #[error("understand the guest's answer to `{operation}`: {message}")]
    Protocol {
        /// What was asked.
        operation: &'static str,
        /// What is wrong with the answer.
        message: String,
    },
    /// The guest refused, and says why.
    #[error(transparent)]
    Guest(#[from] WireError),
}

fn stated(version: &Option<Version>) -> String {
    match version {
        Some(version) => format!("version {version}"),
        None => "no known version".to_owned(),
    }
}

impl From<russh::Error> for GuestError {
    fn from(error: russh::Error) -> Self {
        match error {
            russh::Error::UnknownKey => Self::WrongHostKey,
            russh::Error::Disconnect
            | russh::Error::HUP
            | russh::Error::SendError
            | russh::Error::IO(_) => Self::Lost,
            other => Self::Ssh(other),
        }
    }
}

impl GuestError {
    /// Whether the connection is lost.
    pub fn is_lost(&self) -> bool {
        !matches!(
            self,
            Self::Guest(_) | Self::Protocol { .. } | Self::NoAnswer { .. }
        )
    }

    /// A guest's refusal, cut to a bounded length.
    pub(super) fn refusal(mut error: WireError) -> Self {
        shorten(&mut error.message);
        Self::Guest(error)
    }
}

fn shorten(message: &mut String) {
    if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
}

/// An answer of the wrong kind.
pub fn unexpected(operation: &'static str, report: &Report) -> GuestError {
    let mut message = format!("unexpected report {report:?}");
    shorten(&mut message);
    GuestError::Protocol { operation, message }
}
