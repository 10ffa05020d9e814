//! How the program ends: its exit statuses, those of `docker run` and of shells.
//!
//! | status | meaning |
//! | --- | --- |
//! | the command's own | a command of the sandbox ended |
//! | 2 | a wrong option or value |
//! | 124 | the command reached its time limit |
//! | 125 | Snowglobe failed |
//! | 126, 127 | the command's program can't be executed, or there is none |
//! | 128 + n | signal n ended the command, or this program |

use std::str::FromStr;

use snowglobe_init::signals;

use crate::config::ConfigError;
use crate::guest::GuestError;
use crate::image::{ImageError, ImageName, ImageRef};
use crate::names::NameError;
use crate::sandbox::{ErrorKind, SandboxError};
use crate::shown::{self, Stream, Unwritten};

/// A signal ended the program, by its number. A person who pressed ctrl-C needs no message.
#[derive(Debug, thiserror::Error)]
#[error("finish: interrupted by signal {0}")]
pub(super) struct Interrupted(pub(super) u8);

/// A wrong value of an option or argument that only the subcommand could judge.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misused(pub(super) String);

const MISUSED: u8 = 2;
const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NO_PROGRAM: u8 = 127;

/// The exit status for an error, and the message for it; none for a reader or a person who left.
pub fn ending(error: &anyhow::Error) -> (u8, Option<String>) {
    if let Some(Interrupted(signal)) = error.downcast_ref() {
        return (128 + signal, None);
    }
    if Unwritten::within(error.as_ref()).is_some_and(Unwritten::reader_gone) {
        return (signals::exit_status("PIPE"), None);
    }
    let message = format!("failed to {}", crate::describe(error.as_ref()));
    (status(error), Some(message))
}

/// Prints a line on standard output, for the examples: they have nothing to clean up, so a failure ends the process.
pub fn show(what: std::fmt::Arguments<'_>) {
    let line = format!("{what}\n");
    if let Err(error) = shown::raw(Stream::Output, line.as_bytes()) {
        let (status, message) = ending(&error.into());
        if let Some(message) = message {
            shown::complain(format_args!("{message}"));
        }
        std::process::exit(status.into());
    }
}

fn status(error: &anyhow::Error) -> u8 {
    let misused = error.is::<Misused>()
        || error.is::<NameError>()
        || error.is::<<ImageRef as FromStr>::Err>()
        || error.is::<<ImageName as FromStr>::Err>()
        || matches!(
            error.downcast_ref(),
            Some(ImageError::Name(_) | ImageError::Reference(_))
        )
        || matches!(
            error.downcast_ref(),
            Some(ConfigError::Value { .. } | ConfigError::Environment { .. })
        );
    if misused {
        return MISUSED;
    }
    let guest = match error.downcast_ref() {
        Some(SandboxError::Guest(error)) => Some(error),
        _ => error.downcast_ref::<GuestError>(),
    };
    match guest {
        Some(GuestError::Guest(refused)) => match refused.kind {
            ErrorKind::NoProgram => NO_PROGRAM,
            ErrorKind::NotExecutable => NOT_EXECUTABLE,
            _ => FAILED,
        },
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use snowglobe_init::wire::WireError;

    use super::*;

    #[test]
    fn each_kind_of_end_has_its_status() {
        let guest = |kind| GuestError::Guest(WireError::new(kind, "start it"));
        let value = ConfigError::Value {
            key: "cpus",
            value: "0".into(),
            expected: "expected 1 to 64".into(),
        };
        for (error, expected) in [
            (anyhow::Error::from(Misused("use it".into())), 2),
            (value.into(), 2),
            (
                "a/b"
                    .parse::<crate::names::SnapshotName>()
                    .unwrap_err()
                    .into(),
                2,
            ),
            (guest(ErrorKind::NoProgram).into(), 127),
            (
                SandboxError::from(guest(ErrorKind::NotExecutable)).into(),
                126,
            ),
            (guest(ErrorKind::NotFound).into(), 125),
            (io::Error::from(io::ErrorKind::BrokenPipe).into(), 125),
        ] {
            let (status, message) = ending(&error);
            assert_eq!(status, expected, "{error:?}");
            assert!(message.unwrap().starts_with("failed to "));
        }
        assert_eq!(ending(&Interrupted(2).into()), (130, None));
    }
}
