//! How a command ended, in the words and fields of results. Pure.

use crate::sandbox::{Outcome, STOP_GRACE};

/// The exit status of a command that exited by itself, and the name of the signal that ended it.
pub(crate) fn exit_code_and_signal(outcome: &Outcome) -> (Option<u8>, Option<String>) {
    match outcome {
        Outcome::Exited { code } => (Some(*code), None),
        Outcome::Signaled { signal } => (None, Some(format!("SIG{signal}"))),
        Outcome::TimedOut | Outcome::OutOfMemory | Outcome::Cancelled => (None, None),
    }
}

/// How a command ended; `killed`: whether SIGTERM was not enough.
pub(crate) fn in_words(outcome: &Outcome, killed: bool) -> String {
    match outcome {
        Outcome::Exited { code } => format!("exit code {code}"),
        Outcome::Signaled { signal } => format!("killed by SIG{signal}"),
        Outcome::TimedOut => format!("its time was up: {}", stopped(killed)),
        Outcome::OutOfMemory => "killed because the VM ran out of memory".to_owned(),
        Outcome::Cancelled => stopped(killed),
    }
}

/// How a command ended that was told to end; `killed`: whether SIGTERM was not enough.
pub(crate) fn stopped(killed: bool) -> String {
    match killed {
        false => "ended by SIGTERM".to_owned(),
        true => format!(
            "killed, {} s after SIGTERM, which did not end all of it",
            STOP_GRACE.as_secs()
        ),
    }
}
