//! Lines of styled text: made of untrusted text, and broken to a width.

use std::borrow::Cow;

use ratatui_core::buffer::CellWidth;
use ratatui_core::style::Style;
use ratatui_core::text::{Line, Span};
use unicode_segmentation::UnicodeSegmentation;

use super::theme::Theme;
use crate::shown;

/// How much of a line that is cut is looked at.
const LONGEST: usize = 4_000;

/// What lines are made for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Page {
    pub(super) columns: usize,
    pub(super) theme: Theme,
}

/// Untrusted text as part of a line. A tab becomes four spaces: a terminal would jump over cells that are then stale.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    match text.contains('\t') {
        true => Cow::Owned(shown::line(&text.replace('\t', "    ")).into_owned()),
        false => shown::line(text),
    }
}

/// A span of untrusted text.
pub(super) fn span(text: &str, style: Style) -> Span<'static> {
    Span::styled(safe(text).into_owned(), style)
}

/// A line of untrusted text.
pub(super) fn line(text: &str, style: Style) -> Line<'static> {
    Line::from(span(text, style))
}

/// A span of untrusted text, cut to a width.
pub(super) fn cut_span(text: &str, style: Style, to: usize) -> Span<'static> {
    Span::styled(cut(&safe(bounded(text, LONGEST)), to).into_owned(), style)
}

/// The last characters of a text.
pub(super) fn end(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes)..=text.len();
    &text[from.find(|from| text.is_char_boundary(*from)).unwrap_or(0)..]
}

/// The cells that a text takes that [`safe`] has made.
pub(super) fn width(text: &str) -> usize {
    text.graphemes(true)
        .map(|grapheme| usize::from(grapheme.cell_width()))
        .sum()
}

/// The beginning of a text that fits, with a sign if something was cut.
pub(super) fn cut(text: &str, to: usize) -> Cow<'_, str> {
    let mut used = 0;
    let mut fits = 0;
    for (at, grapheme) in text.grapheme_indices(true) {
        used += usize::from(grapheme.cell_width());
        if used > to {
            return Cow::Owned(format!("{}…", &text[..fits]));
        }
        if used < to {
            fits = at + grapheme.len();
        }
    }
    Cow::Borrowed(text)
}

/// The first characters of a text, so that nothing untrusted is unbounded.
pub(super) fn bounded(text: &str, bytes: usize) -> &str {
    let mut end = (0..=bytes.min(text.len())).rev();
    &text[..end.find(|end| text.is_char_boundary(*end)).unwrap_or(0)]
}

/// One grapheme on its way into a row.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    style: Style,
    width: usize,
}

/// Where rows end: the indices after the last piece of each. A row ends after a space or a wide character where it can,
/// and takes at least one piece. With `hang`, spaces that do not fit stay at its end, where nobody sees them.
pub(super) fn breaks<'a>(
    pieces: impl Iterator<Item = (&'a str, usize)>,
    columns: usize,
    hang: bool,
) -> Vec<usize> {
    let mut ends = Vec::new();
    // The present row: its beginning, its width, and where it may end, with the width until there.
    let (mut start, mut used, mut chance) = (0, 0, None);
    let mut count = 0;
    for (at, (text, width)) in pieces.enumerate() {
        count = at + 1;
        while used + width > columns && at > start && !(hang && text == " ") {
            let (end, before) = match chance {
                Some((end, before)) if text != " " => (end, before),
                _ => (at, used),
            };
            ends.push(end);
            (start, used, chance) = (end, used - before, None);
        }
        used += width;
        if text == " " || width > 1 {
            chance = Some((at + 1, used));
        }
    }
    if count > start || count == 0 {
        ends.push(count);
    }
    ends
}

/// Breaks a line to a width. `first` comes before the first row, `rest` before all others.
pub(super) fn wrap(
    line: &Line<'static>,
    columns: usize,
    first: &[Span<'static>],
    rest: &[Span<'static>],
) -> Vec<Line<'static>> {
    let taken = |prefix: &[Span<'static>]| -> usize {
        prefix.iter().map(|span| width(&span.content)).sum()
    };
    let columns = columns.saturating_sub(taken(first).max(taken(rest))).max(1);
    let pieces: Vec<Piece<'_>> = line
        .spans
        .iter()
        .flat_map(|span| {
            let style = line.style.patch(span.style);
            span.content.graphemes(true).map(move |text| Piece {
                text,
                style,
                width: usize::from(text.cell_width()),
            })
        })
        .collect();
    let mut rows = Vec::new();
    let mut from = 0;
    let cells = pieces.iter().map(|piece| (piece.text, piece.width));
    for end in breaks(cells, columns, true) {
        let prefix = if from == 0 { first } else { rest };
        let mut row = Line::from(prefix.to_vec());
        let mut piece = &pieces[from..end];
        let mut taken: usize = piece.iter().map(|piece| piece.width).sum();
        while let [before @ .., last] = piece
            && last.text == " "
            && (end < pieces.len() || taken > columns)
        {
            taken -= last.width;
            piece = before;
        }
        for run in piece.chunk_by(|a, b| a.style == b.style) {
            let text: String = run.iter().map(|piece| piece.text).collect();
            row.spans.push(Span::styled(text, run[0].style));
        }
        rows.push(row);
        from = end;
    }
    rows
}

/// Untrusted text as rows: a sign is before the first one, and room for it before the others.
pub(super) fn text(
    text: &str,
    style: Style,
    sign: Span<'static>,
    page: Page,
) -> impl Iterator<Item = Line<'static>> {
    let room = Span::raw(" ".repeat(width(&sign.content)));
    text.lines().enumerate().flat_map(move |(at, text)| {
        let first = if at == 0 { &sign } else { &room };
        let (first, rest) = (std::slice::from_ref(first), std::slice::from_ref(&room));
        wrap(&line(text, style), page.columns, first, rest)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrapped(text: &str, columns: usize) -> Vec<String> {
        let rows = wrap(&Line::from(text.to_owned()), columns, &[], &[]);
        rows.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rows_end_at_words_and_between_wide_characters() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("日本語テキスト", 5), ["日本", "語テ", "キス", "ト"]);
        assert_eq!(wrapped("👩‍💻👩‍💻", 2), ["👩‍💻", "👩‍💻"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("日本", 1), ["日", "本"]);
        let hung = wrap(
            &Line::from("one two three"),
            8,
            &[Span::raw("- ")],
            &[Span::raw("  ")],
        );
        let hung: Vec<String> = hung.iter().map(ToString::to_string).collect();
        assert_eq!(hung, ["- one", "  two", "  three"]);
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("longer", 5), "long…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("ab", 0), "…");
        assert_eq!(bounded("aé", 2), "a");
    }

    proptest! {
        #[test]
        fn no_row_is_too_wide_and_nothing_but_spaces_is_lost(text in "[a-z 日本é👍]{0,60}", columns in 2usize..20) {
            let rows = wrapped(&text, columns);
            for row in &rows {
                prop_assert!(width(row) <= columns, "{row:?}");
            }
            let bare = |text: &str| text.replace(' ', "");
            prop_assert_eq!(bare(&rows.concat()), bare(&text));
        }

        #[test]
        fn nothing_a_terminal_obeys_becomes_a_span(text in any::<String>()) {
            let shown = span(&text, Style::new()).content.into_owned();
            prop_assert!(!shown.contains(char::is_control));
        }
    }
}
