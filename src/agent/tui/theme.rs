//! Colours and signs that this terminal has.

use anstyle::{Ansi256Color, RgbColor};
use ratatui_core::style::{Color, Modifier, Style};

/// How many colours a terminal has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Depth {
    /// None: only bold, dim, underlined and reversed text.
    #[default]
    None,
    /// The 16 of the user's palette.
    Basic,
    /// 256.
    Indexed,
    /// All.
    True,
}

/// How things look. Roles use the user's own palette; only highlighted code has colours of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) depth: Depth,
    /// Whether the background is light.
    pub(super) light: bool,
    /// Whether signs outside of ASCII are shown right.
    pub(super) unicode: bool,
}

/// Signs, in Unicode or in ASCII.
#[derive(Debug)]
pub(super) struct Signs {
    pub(super) prompt: &'static str,
    pub(super) call: &'static str,
    pub(super) result: &'static str,
    pub(super) dot: &'static str,
    pub(super) done: &'static str,
    pub(super) active: &'static str,
    pub(super) pending: &'static str,
    pub(super) spinner: &'static [&'static str],
}

const UNICODE: Signs = Signs {
    prompt: "❯ ",
    call: "● ",
    result: "└ ",
    dot: " · ",
    done: "✔ ",
    active: "▸ ",
    pending: "○ ",
    spinner: &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"],
};

const ASCII: Signs = Signs {
    prompt: "> ",
    call: "* ",
    result: "` ",
    dot: " - ",
    done: "x ",
    active: "> ",
    pending: "- ",
    spinner: &["|", "/", "-", "\\"],
};

impl Theme {
    /// What the environment says of the terminal.
    pub(super) fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let term = variable("TERM").unwrap_or_default();
        let colours = variable("COLORTERM").unwrap_or_default();
        let is_true = matches!(&colours[..], "truecolor" | "24bit") || term.ends_with("-direct");
        let depth = match () {
            () if variable("NO_COLOR").is_some() => Depth::None,
            () if is_true => Depth::True,
            () if term.contains("256color") => Depth::Indexed,
            () => Depth::Basic,
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(variable);
        let locale = locale.unwrap_or_default().to_lowercase();
        Self {
            depth,
            light: false,
            // The fonts of the Linux console have few characters.
            unicode: locale.replace('-', "").contains("utf8") && term != "linux",
        }
    }

    pub(super) fn signs(&self) -> &'static Signs {
        match self.unicode {
            true => &UNICODE,
            false => &ASCII,
        }
    }

    fn role(self, dark: Color, light: Color) -> Style {
        match (self.depth, self.light) {
            (Depth::None, _) => Style::new(),
            (_, false) => Style::new().fg(dark),
            (_, true) => Style::new().fg(light),
        }
    }

    /// What matters less.
    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Names and signs to find one's way by.
    pub(super) fn accent(self) -> Style {
        self.role(Color::Cyan, Color::Blue)
    }

    /// Success, and lines that were added.
    pub(super) fn good(self) -> Style {
        self.role(Color::Green, Color::Green)
    }

    /// Failure, and lines that were removed.
    pub(super) fn bad(self) -> Style {
        self.role(Color::Red, Color::Red)
    }

    /// What needs attention.
    pub(super) fn warn(self) -> Style {
        self.role(Color::Yellow, Color::Magenta)
    }

    /// A colour of highlighted code, as near as the terminal has it.
    pub(super) fn colour(self, (r, g, b): (u8, u8, u8)) -> Option<Color> {
        let xterm = || anstyle_lossy::color_to_xterm(RgbColor(r, g, b).into());
        match self.depth {
            Depth::None => None,
            Depth::Basic => Some(basic(r, g, b)),
            Depth::Indexed => Some(Ansi256Color::into(xterm())),
            Depth::True => Some(Color::Rgb(r, g, b)),
        }
    }
}

/// The colour of the palette with the same hue; colours without one are the terminal's own, on whatever background.
fn basic(r: u8, g: u8, b: u8) -> Color {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most - least < 40 {
        return Color::Reset;
    }
    let bit = |value: u8, bit: u8| bit * u8::from(value - least > (most - least) / 2);
    // The palette numbers colours by their red, green and blue bits.
    Color::from(
        match Ansi256Color(bit(r, 1) + bit(g, 2) + bit(b, 4)).into_ansi() {
            Some(colour) => anstyle::Color::Ansi(colour),
            None => return Color::Reset,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Theme {
        Theme::from_env(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_says_what_the_terminal_has() {
        let plain = of(&[("TERM", "xterm")]);
        assert_eq!((plain.depth, plain.unicode), (Depth::Basic, false));
        let full = of(&[
            ("TERM", "xterm-256color"),
            ("COLORTERM", "truecolor"),
            ("LANG", "en_US.UTF-8"),
        ]);
        assert_eq!((full.depth, full.unicode), (Depth::True, true));
        assert_eq!(of(&[("TERM", "tmux-256color")]).depth, Depth::Indexed);
        let none = of(&[("TERM", "xterm-256color"), ("NO_COLOR", "1")]);
        assert_eq!(none.depth, Depth::None);
        assert_eq!(none.accent(), Style::new());
        assert_eq!(none.colour((255, 0, 0)), None);
        let overruled = of(&[("LC_ALL", "C"), ("LANG", "de_DE.utf8")]);
        assert!(!overruled.unicode);
        assert!(!of(&[("TERM", "linux"), ("LANG", "C.UTF-8")]).unicode);
    }

    #[test]
    fn a_colour_is_the_nearest_that_there_is() {
        let indexed = of(&[("TERM", "xterm-256color")]);
        assert_eq!(indexed.colour((255, 0, 0)), Some(Color::Indexed(196)));
        assert_eq!(indexed.colour((118, 118, 118)), Some(Color::Indexed(243)));
        assert_eq!(basic(200, 30, 30), Color::Red);
        assert_eq!(basic(30, 180, 200), Color::Cyan);
        assert_eq!(basic(190, 190, 200), Color::Reset);
    }
}
