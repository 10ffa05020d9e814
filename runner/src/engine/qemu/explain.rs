//! The errors in QEMU's messages, with what to do.

use std::io;
use std::path::Path;

use crate::error::StartError;

pub(super) fn cannot_run(binary: &Path, error: &io::Error) -> StartError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; install the package qemu-system-x86",
        _ => "",
    };
    StartError::new("qemu", format!("run {}: {error}{hint}", binary.display()))
}

/// The error in the last message of a QEMU that did not start.
pub(super) fn explain(binary: &Path, messages: &[String]) -> StartError {
    let said = messages.iter().rev().find(|line| !line.trim().is_empty());
    let Some(said) = said else {
        return StartError::new(
            "qemu",
            format!("{} ended without a message", binary.display()),
        );
    };
    // Messages are "PROGRAM: MESSAGE".
    let said = said
        .split_once(": ")
        .map_or(said.as_str(), |(_, what)| what);
    let all = messages.join("\n");
    if all.contains("vhost-user") || all.contains("vhost_") {
        return StartError::new("workspace share", said);
    }
    if all.contains("is not a valid machine") || all.contains("unsupported machine type") {
        return StartError::new(
            "qemu",
            format!(
                "{said}; this QEMU lacks the machine `microvm`: version 7.2 or newer is needed"
            ),
        );
    }
    StartError::new("qemu", said)
}

/// The error of a command that QEMU refused.
pub(super) fn refusal(stage: &'static str, why: &str) -> StartError {
    match why.contains("Failed to get") && why.contains("lock") {
        true => StartError::new(
            stage,
            format!(
                "{why}; another VM uses this disk: stop it, or give each VM an overlay of its own"
            ),
        ),
        false => StartError::new(stage, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_message_becomes_a_stage_and_advice() {
        let words = |text: &str| explain(Path::new("/q"), &[format!("qemu-system-x86_64: {text}")]);
        let locked = refusal("disk", r#"Failed to get "write" lock"#);
        assert_eq!(locked.stage, "disk");
        assert!(locked.message.contains("another VM"), "{}", locked.message);
        let missing = refusal("disk", "Could not open '/x': No such file");
        assert_eq!(missing.message, "Could not open '/x': No such file");
        assert_eq!(words("something new").message, "something new");
        assert_eq!(
            explain(Path::new("/q"), &[]).message,
            "/q ended without a message"
        );
    }
}
