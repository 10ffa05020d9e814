//! How the demo prints.

use std::io::IsTerminal;

use serde_json::Value;

/// How things are printed.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    terminal: bool,
    colours: bool,
}

impl Style {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            terminal,
            colours: terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    pub(crate) fn paint(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn title(self, text: &str) {
        snowglobe::show!("\n{}", self.paint("1", text));
    }

    pub(crate) fn output(self, text: &str) {
        for line in text.trim_end().lines() {
            snowglobe::show!("    {}", self.paint("2", line));
        }
    }

    /// Replaces the status line; only a terminal has one.
    pub(crate) fn status(self, text: &str) {
        if self.terminal {
            let shown: String = text.chars().take(70).collect();
            let line = format!("\r\u{1b}[2K{}", self.paint("36", &shown));
            // A status line that can't be shown is no reason to fail.
            snowglobe::shown::raw(snowglobe::shown::Stream::Output, line.as_bytes()).ok();
        }
    }
}

/// A call on one line.
pub(crate) fn call(tool: &str, arguments: &Value) -> String {
    let Some(arguments) = arguments.as_object() else {
        return tool.to_owned();
    };
    let mut line = tool.to_owned();
    for (name, value) in arguments {
        let value = match value {
            Value::String(text) if text.lines().count() > 1 && name == "content" => {
                format!("({} lines)", text.lines().count())
            }
            Value::String(text) if name == "command" => text.clone(),
            other => other.to_string(),
        };
        line.push_str(&format!("  {name}: {value}"));
    }
    line
}
