//! The front end on a terminal.
//!
//! Finished lines go to the terminal's own scrollback; only the live part below them is drawn anew, at most
//! 60 times a second, and at once after a key. Nothing here waits for a model, a server or a disk.
//!
//! - [`app`]: the state, and what the loop's reports do to it; [`keys`] and [`commands`]: what a person does to it;
//! - [`editor`], [`history`], [`complete`], [`picker`], [`question`]: its parts;
//! - [`markdown`], [`render`], [`highlight`], [`blocks`]: what becomes [`lines`] in the colours of [`theme`];
//! - [`picture`]: images as the terminal's graphics;
//! - [`view`] and [`footer`]: the live part, from the state;
//! - [`screen`]: the bytes that bring both to the terminal; [`terminal`]: the terminal itself;
//! - [`front`]: the loop that reads keys and reports, and draws.

mod app;
mod blocks;
mod commands;
mod complete;
mod editor;
mod footer;
mod front;
mod highlight;
mod history;
mod keys;
mod lines;
mod markdown;
mod picker;
mod picture;
mod question;
mod render;
mod screen;
mod terminal;
mod theme;
mod view;

#[cfg(test)]
mod tests;

use std::io;

use super::event::Handle;
use crate::network::rules::Mode;

/// What the terminal front end is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The project's directory.
    pub(crate) project: std::path::PathBuf,
    /// Where Snowglobe's data is; the history of prompts is below it.
    pub(crate) data_dir: std::path::PathBuf,
    /// The first prompt, if it was given on the command line.
    pub(crate) prompt: Option<String>,
    /// Whether the person picks a session to go on with first.
    pub(crate) resume: bool,
    /// The flags that make `snowglobe shell` join the same sandbox; `None` where no shell can join it.
    pub(crate) shell: Option<Vec<String>>,
    /// How much of the network the sandbox reaches at its start.
    pub(crate) network: Mode,
}

/// Runs the terminal front end until the person leaves or the loop ends, or a signal comes, whose number it gives. Dropped,
/// it leaves the terminal as it was.
pub(crate) async fn run(options: Options, handle: Handle) -> io::Result<Option<u8>> {
    let variable = |name: &str| std::env::var(name).ok();
    if variable("TERM").is_none_or(|term| term == "dumb") {
        let said = "this terminal moves no cursor (`TERM`); `snowglobe agent -p PROMPT` needs none";
        return Err(io::Error::other(said));
    }
    let theme = theme::Theme::from_env(variable);
    front::Front::begin(options, handle, theme)?.run().await
}
