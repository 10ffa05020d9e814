//! A question to a person before something is done that can't be undone.

use std::io::{BufRead, IsTerminal};

use clap::Args;

use crate::shown::{self, Stream};

/// Whether a person is asked.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Yes {
    /// Ask no question
    #[arg(short, long)]
    yes: bool,
}

impl Yes {
    /// Whether a person has agreed already.
    pub(super) fn given(self) -> bool {
        self.yes
    }

    /// Whether a person agrees. Without `--yes` this asks on the terminal, and fails without one. `doing` is what would
    /// be done, such as `allow it`.
    pub(super) fn confirmed(self, question: &str, doing: &str) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() {
            anyhow::bail!(
                "ask whether to {doing}: standard input is no terminal; pass --yes to {doing} without a question"
            );
        }
        Ok(agrees(question)?)
    }
}

/// Whether a person on the terminal agrees.
pub(super) fn agrees(question: &str) -> std::io::Result<bool> {
    shown::raw(
        Stream::Error,
        format!("{} [y/N] ", shown::line(question)).as_bytes(),
    )?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        // After ctrl-D the terminal is still on the question's line.
        shown::raw(Stream::Error, b"\n")?;
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
