//! A question to a person before something is done that can't be undone.

use std::io::{BufRead, IsTerminal};

use crate::shown::{self, Stream};

/// Asks on the terminal; fails without one. `doing` is what would be done, such as `allow it`.
pub(super) fn confirmed(question: &str, doing: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!(
            "ask whether to {doing}: standard input is no terminal; pass --yes to {doing} without a question"
        );
    }
    shown::raw(
        Stream::Error,
        format!("{} [y/N] ", shown::line(question)).as_bytes(),
    )?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
