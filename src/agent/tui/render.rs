//! A piece of Markdown as lines.

use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::{Line, Span};
use tui_markdown::{Options, StyleSheet, from_str_with_options};

use super::lines::{Page, span, wrap};
use super::theme::{Depth, Theme};

/// How the parts of a page look.
#[derive(Debug, Clone, Copy)]
struct Look(Theme);

impl StyleSheet for Look {
    fn heading(&self, level: u8) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if level < 3 {
            style.patch(self.0.accent())
        } else {
            style
        }
    }

    fn heading_marker(&self, _: u8) -> &str {
        ""
    }

    fn code(&self) -> Style {
        match self.0.depth {
            Depth::None => Style::new().add_modifier(Modifier::BOLD),
            _ => self.0.accent(),
        }
    }

    fn code_block_fence(&self) -> &str {
        ""
    }

    fn link(&self) -> Style {
        Style::new().add_modifier(Modifier::UNDERLINED)
    }

    fn blockquote(&self) -> Style {
        self.0.dim()
    }

    fn html(&self) -> Style {
        Style::new()
    }

    /// Two prices in a sentence are no formula.
    fn math_inline(&self) -> Style {
        Style::new()
    }

    fn table_header(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn table_border(&self) -> Style {
        self.0.dim()
    }

    fn list_marker(&self) -> Style {
        self.0.accent()
    }
}

/// The lines of a piece of Markdown.
pub(super) fn render(source: &str, page: Page) -> Vec<Line<'static>> {
    let columns = u16::try_from(page.columns).unwrap_or(u16::MAX);
    let options = Options::new(Look(page.theme)).table_width(columns);
    let mut rows = Vec::new();
    for shown in from_str_with_options(source, &options) {
        let spans = shown.spans.iter().map(|part| {
            let mut style = shown.style.patch(part.style);
            if page.theme.depth == Depth::None {
                (style.fg, style.bg) = (None, None);
            }
            span(&part.content, style)
        });
        let mut spans: Vec<Span<'static>> = spans.collect();
        let signs = spans
            .iter()
            .take_while(|span| is_sign(&span.content))
            .count();
        let mut first: Vec<Span<'static>> = spans.drain(..signs).collect();
        // The deepest nesting is not shown as such.
        if first.iter().map(Span::width).sum::<usize>() > page.columns / 2 {
            first.clear();
        }
        let rest = first.iter().map(|sign| match sign.content.trim() {
            ">" => sign.clone(),
            _ => Span::raw(" ".repeat(sign.width())),
        });
        let rest: Vec<Span<'static>> = rest.collect();
        rows.extend(wrap(&Line::from(spans), page.columns, &first, &rest));
    }
    rows
}

/// Whether a part of a line is the sign of a quote or of an item.
fn is_sign(part: &str) -> bool {
    let is_number = |number: &str| number.parse::<u64>().is_ok();
    match part.trim() {
        "" | ">" | "-" | "- [ ]" | "- [x]" => true,
        sign => sign.strip_suffix('.').is_some_and(is_number),
    }
}
