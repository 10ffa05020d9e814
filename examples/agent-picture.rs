//! Draws `snowglobe agent --demo` as it is seen on a terminal, for the README.
//!
//! `cargo run --release --example agent-picture >examples/agent.svg`; needs the image `debian`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]

#[path = "../tests/integration/agent/pty.rs"]
mod pty;

use std::fmt::Write;

use anstyle_svg::Term;
use pty::Terminal;
use snowglobe::show;

const COLUMNS: u16 = 100;

fn main() {
    let program = std::env::current_exe().unwrap();
    let program = program.with_file_name("../snowglobe").canonicalize();
    let command = pty_process::blocking::Command::new(program.unwrap())
        .args(["agent", "--demo"])
        .env("TERM", "xterm-256color")
        .env("COLORTERM", "truecolor")
        .env("LANG", "C.UTF-8");
    // So many rows that nothing leaves the screen.
    let mut terminal = Terminal::start(command, COLUMNS, 200);
    let text = terminal.until("the end of the demo", |seen| {
        let text = seen.text();
        let ended = text.contains("all tests passed") && !text.contains("working");
        ended.then(|| coloured(seen.screen()))
    });
    terminal.write("\x04");
    // It removes what it made.
    assert!(terminal.ended().success());
    show!("{}", Term::new().render_svg(&text).trim_end());
}

/// The screen's text with its colours as escape sequences.
fn coloured(screen: &vt100::Screen) -> String {
    let mut text = String::new();
    for row in 0..screen.size().0.get() {
        let mut line = String::new();
        let mut last = String::new();
        for column in 0..COLUMNS {
            let Some(cell) = screen.cell(row, column) else {
                continue;
            };
            let style = style(cell);
            if style != last {
                write!(line, "\x1b[0{style}m").unwrap();
                last = style;
            }
            if !cell.is_wide_continuation() {
                line.push_str(match cell.contents() {
                    "" => " ",
                    contents => contents,
                });
            }
        }
        text.push_str(line.trim_end());
        text.push_str("\x1b[0m\n");
    }
    text.trim_end_matches("\x1b[0m\n").to_owned()
}

fn style(cell: &vt100::Cell) -> String {
    let mut style = String::new();
    for (is, code) in [
        (cell.bold(), ";1"),
        (cell.dim(), ";2"),
        (cell.italic(), ";3"),
        (cell.underline(), ";4"),
        (cell.inverse(), ";7"),
    ] {
        style.push_str(if is { code } else { "" });
    }
    for (color, ground) in [(cell.fgcolor(), 38), (cell.bgcolor(), 48)] {
        match color {
            vt100::Color::Default => {}
            vt100::Color::Idx(index) => write!(style, ";{ground};5;{index}").unwrap(),
            vt100::Color::Rgb(r, g, b) => write!(style, ";{ground};2;{r};{g};{b}").unwrap(),
        }
    }
    style
}
