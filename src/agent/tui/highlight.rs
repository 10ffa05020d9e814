//! Code in colours.
//!
//! The definitions of all languages take a while to load, so another thread loads them once code may come; until then
//! code is plain. A very long line, and what comes after very many, is plain, too: a grammar may need long for it.

use std::sync::OnceLock;

use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::Span;
use syntect::easy::HighlightLines;
use syntect::highlighting::{FontStyle, Theme as Colours, ThemeSet};
use syntect::parsing::SyntaxSet;

use super::lines::span;
use super::theme::{Depth, Theme};

/// The longest line that is highlighted, in bytes.
const LONGEST: usize = 1_000;

/// How many lines of a block are highlighted.
const MOST: usize = 2_000;

#[derive(Debug)]
struct Assets {
    syntaxes: SyntaxSet,
    dark: Colours,
    light: Colours,
}

static ASSETS: OnceLock<Option<Assets>> = OnceLock::new();

fn load() -> Option<Assets> {
    let mut themes = ThemeSet::load_defaults().themes;
    Some(Assets {
        syntaxes: SyntaxSet::load_defaults_newlines(),
        dark: themes.remove("base16-ocean.dark")?,
        light: themes.remove("InspiredGitHub")?,
    })
}

/// Loads the definitions on another thread, if that was not done.
pub(super) fn prepare() {
    if ASSETS.get().is_none() {
        std::thread::spawn(|| ASSETS.get_or_init(load));
    }
}

/// Loads the definitions, and waits for that.
#[cfg(test)]
pub(super) fn ready() {
    ASSETS.get_or_init(load);
}

/// A block of code, line by line.
pub(super) struct Code {
    lines: Option<HighlightLines<'static>>,
    done: usize,
    theme: Theme,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").finish_non_exhaustive()
    }
}

impl Code {
    /// A block in the language of that name or file name extension.
    pub(super) fn new(language: &str, theme: Theme) -> Self {
        let assets = ASSETS.get().and_then(Option::as_ref);
        let assets = assets.filter(|_| theme.depth != Depth::None);
        let lines = assets.and_then(|assets| {
            let syntax = assets.syntaxes.find_syntax_by_token(language)?;
            let colours = match theme.light {
                true => &assets.light,
                false => &assets.dark,
            };
            Some(HighlightLines::new(syntax, colours))
        });
        Self {
            lines,
            done: 0,
            theme,
        }
    }

    /// The next line, without its line break.
    pub(super) fn line(&mut self, text: &str) -> Vec<Span<'static>> {
        self.done += 1;
        let assets = ASSETS.get().and_then(Option::as_ref);
        if let (Some(lines), Some(assets)) = (&mut self.lines, assets)
            && text.len() <= LONGEST
            && self.done <= MOST
        {
            let whole = format!("{text}\n");
            if let Ok(parts) = lines.highlight_line(&whole, &assets.syntaxes) {
                let parts = parts.into_iter().map(|(style, part)| {
                    let part = part.trim_end_matches('\n');
                    let colour = style.foreground;
                    let mut shown = Style::new();
                    shown.fg = self.theme.colour((colour.r, colour.g, colour.b));
                    if style.font_style.contains(FontStyle::BOLD) {
                        shown = shown.add_modifier(Modifier::BOLD);
                    }
                    span(part, shown)
                });
                return parts.filter(|part| !part.content.is_empty()).collect();
            }
        }
        vec![span(text, Style::new())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_has_colours_where_the_terminal_has() {
        ready();
        let theme = |depth| Theme {
            depth,
            light: false,
            unicode: true,
        };
        let text = "let x = \"a\";";
        let shown = Code::new("rust", theme(Depth::True)).line(text);
        let whole: String = shown.iter().map(|span| span.content.as_ref()).collect();
        assert_eq!(whole, text);
        assert!(shown.len() > 2, "{shown:?}");
        assert_eq!(Code::new("rust", theme(Depth::None)).line(text).len(), 1);
        assert_eq!(Code::new("no such", theme(Depth::True)).line(text).len(), 1);
    }
}
