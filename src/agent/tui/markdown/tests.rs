use proptest::prelude::*;

use super::*;
use crate::agent::tui::theme::{Depth, Theme};

const PAGE: Page = Page {
    columns: 40,
    theme: Theme {
        depth: Depth::Basic,
        light: false,
        unicode: true,
    },
};

fn plain(lines: &[Line<'static>]) -> Vec<String> {
    let lines = lines.iter().map(ToString::to_string);
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// What leaves the stream, if the text comes in pieces of so many characters.
fn streamed(text: &str, piece: usize) -> Vec<String> {
    let (mut stream, mut out) = (Stream::default(), Vec::new());
    let chars: Vec<char> = text.chars().collect();
    for piece in chars.chunks(piece.max(1)) {
        stream.push(&piece.iter().collect::<String>(), PAGE, &mut out);
        while stream.advance(PAGE, &mut out) {}
        stream.live(PAGE);
    }
    stream.finish(PAGE, &mut out);
    plain(&out)
}

const SAMPLE: &str = "# Title\n\nSome *text* with `code` and a [link](https://x.y/z),\nlong enough to be broken.\n\n\
    - one\n- two\n  with more\n  1. inner\n- three\n\n> quoted\n> more\n\n```rust\nfn main() {\n    x();\n}\n```\n\
    After.\n\n| a | b |\n|---|---|\n| 1 | two words |\n\n---\nEnd <b>html</b>\n";

#[test]
fn a_page_has_all_kinds_of_blocks() {
    let shown = streamed(SAMPLE, 1_000);
    let expected = "Title\n\nSome text with code and a link\n(https://x.y/z), long enough to be\nbroken.\n\n\
        - one\n- two with more\n    1. inner\n- three\n\n> quoted more\n\n  fn main() {\n      x();\n  }\n\nAfter.\n\n\
        ┌───┬───────────┐\n│ a │ b         │\n├───┼───────────┤\n│ 1 │ two words │\n└───┴───────────┘\n\n---\n\nEnd <b>html</b>";
    assert_eq!(shown.join("\n"), expected);
}

#[test]
fn code_is_shown_line_by_line_and_lists_item_by_item() {
    let (mut stream, mut out) = (Stream::default(), Vec::new());
    stream.push("```\none\ntw", PAGE, &mut out);
    while stream.advance(PAGE, &mut out) {}
    assert_eq!(plain(&out), ["  one"]);
    assert_eq!(plain(&stream.live(PAGE)), ["  tw"]);
    stream.push("o\n```\n- a\n- b\n- c", PAGE, &mut out);
    while stream.advance(PAGE, &mut out) {}
    assert_eq!(plain(&out), ["  one", "  two", "", "- a"]);
    assert_eq!(plain(&stream.live(PAGE)), ["- b", "- c"]);
    stream.push("\n\nlast", PAGE, &mut out);
    stream.finish(PAGE, &mut out);
    assert_eq!(plain(&out)[3..], ["- a", "- b", "- c", "", "last"]);
}

#[test]
fn numbers_go_on_after_an_item_has_left() {
    let shown = streamed("1. a\n2. b\n3. c\n4. d", 3);
    assert_eq!(shown, ["1. a", "2. b", "3. c", "4. d"]);
}

#[test]
fn an_entity_does_not_bring_back_what_is_unfit() {
    let shown = streamed("a&#27;[31mb&#x202e;c", 100).concat();
    assert_eq!(shown, "a\\u{1b}[31mb\\u{202e}c");
}

#[test]
fn a_huge_block_leaves_in_pieces() {
    let (mut stream, mut out) = (Stream::default(), Vec::new());
    for text in ["word ".repeat(1 << 20), "x".repeat(5 << 20)] {
        stream.push(&text, PAGE, &mut out);
        while stream.advance(PAGE, &mut out) {}
        assert!(stream.tail.len() <= PIECE);
        assert!(stream.live(PAGE).len() < 400);
        assert!(out.len() > 100_000);
        out.clear();
    }
    stream.push("\n```\n", PAGE, &mut out);
    stream.push(&"code line\n".repeat(300_000), PAGE, &mut out);
    while stream.advance(PAGE, &mut out) {}
    assert!(out.len() > 300_000);
}

proptest! {
    #[test]
    fn pieces_make_no_difference(piece in 1usize..40) {
        prop_assert_eq!(streamed(SAMPLE, piece), streamed(SAMPLE, 10_000));
    }

    #[test]
    fn no_text_makes_it_fail_or_lets_anything_unfit_through(
        text in "([#*_`~>|\\-0-9. a-z\n\\[\\]()<!&;\\\\]|\u{1b}|\u{9b}|\t|\u{202e}|日|👩‍💻){0,120}", piece in 1usize..20,
    ) {
        for line in streamed(&text, piece) {
            prop_assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}
