//! `--json`: a subcommand's result on standard output, for programs. What is said to a person goes to standard error.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::shown;

/// Whether the result is wanted as JSON.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct AsJson {
    /// Print the result as JSON
    // A subcommand's actions have it, too.
    #[arg(long, global = true)]
    json: bool,
}

impl AsJson {
    pub(super) fn wanted(self) -> bool {
        self.json
    }

    /// Prints a result if it is wanted as JSON; gives whether it is.
    pub(super) fn print(self, result: &impl Serialize) -> anyhow::Result<bool> {
        if self.json {
            writeln!(shown::out(), "{}", shown::json(result)?)?;
        }
        Ok(self.json)
    }
}
