use proptest::prelude::*;

use super::*;

fn with(text: &str) -> Editor {
    let mut editor = Editor::default();
    for typed in text.chars() {
        editor.apply(Edit::Insert(typed));
    }
    editor
}

fn after(text: &str, edits: &[Edit]) -> String {
    let mut editor = with(text);
    for edit in edits {
        editor.apply(*edit);
    }
    let (text, cursor) = editor.raw();
    format!("{}|{}", &text[..cursor], &text[cursor..])
}

#[test]
fn keys_move_and_edit_by_grapheme_word_and_line() {
    use Edit::*;
    use To::*;
    let back = Remove(Left);
    assert_eq!(after("a👩‍💻e\u{301}", &[Go(Left), Go(Left)]), "a|👩‍💻e\u{301}");
    assert_eq!(after("a👩‍💻e\u{301}", &[back, back]), "a|");
    assert_eq!(after("one two-three", &[Go(WordLeft)]), "one two-|three");
    let words = [Go(WordLeft), Go(WordLeft), Go(WordRight)];
    assert_eq!(after("one two", &words), "one| two");
    assert_eq!(after("one\ntwo", &[Go(Home), Insert('x')]), "one\nx|two");
    let moved = [Kill(WordLeft), Go(Home), Yank];
    assert_eq!(after("one two", &moved), "two|one ");
    let lines = [Go(Start), Kill(End), Kill(End)];
    assert_eq!(after("one\ntwo", &lines), "|two");
    assert_eq!(after("one\ntwo", &[Kill(Home), Kill(Home)]), "one|");
    let nothing = [Go(Left), Go(Right), back, Remove(Right), Kill(WordLeft)];
    assert_eq!(after("", &nothing), "|");
    assert_eq!(after("日本", &[Go(Left), Remove(Right)]), "日|");
}

#[test]
fn rows_are_soft_and_the_cursor_is_where_it_is_shown() {
    let editor = with("one two three\n日本語");
    let (rows, cursor) = editor.layout(7);
    assert_eq!(rows, ["one two", " three", "日本語"]);
    assert_eq!(cursor, (6, 2));
    let mut editor = with("abcdef");
    assert_eq!(editor.layout(3), (vec!["abc".into(), "def".into()], (3, 1)));
    assert!(editor.vertical(3, false));
    assert_eq!(editor.layout(3).1, (2, 0));
    assert!(!editor.vertical(3, false));
    assert!(editor.vertical(3, true));
    assert_eq!(editor.layout(3).1, (3, 1));
    assert_eq!(with("").layout(1), (vec![String::new()], (0, 0)));
    assert_eq!(with("a\n").layout(9).1, (0, 1));
}

#[test]
fn a_paste_is_folded_shown_and_sent_whole() {
    let mut editor = with("a ");
    let long = "line\r\n".repeat(1_000);
    editor.paste(&long);
    editor.paste("short\rx");
    let (rows, _) = editor.layout(60);
    assert_eq!(rows, ["a [pasted 5,000 bytes, 1,000 lines]short", "x"]);
    assert_eq!(
        editor.whole(),
        format!("a {}short\nx", "line\n".repeat(1_000))
    );
    editor.apply(Edit::Go(To::Start));
    for _ in 0..3 {
        editor.apply(Edit::Go(To::Right));
    }
    editor.apply(Edit::Kill(To::Left));
    assert_eq!(editor.whole(), "a short\nx");
    editor.apply(Edit::Yank);
    assert_eq!(editor.take().len(), 5_009);
    assert!(editor.is_empty());
    editor.apply(Edit::Yank);
    assert_eq!(editor.take().len(), 5_000);
    editor.paste("\u{f0000}\u{1b}");
    assert_eq!(editor.whole(), "\u{fffd}\u{1b}");
    assert_eq!(editor.layout(20).0, ["\u{fffd}\\u{1b}"]);
}

proptest! {
    #[test]
    fn the_cursor_stays_between_graphemes(
        text in "[a-c \n日👩‍💻é]{0,40}",
        edits in prop::collection::vec(prop::sample::select(vec![
            Edit::Go(To::Left), Edit::Go(To::Right), Edit::Go(To::WordLeft), Edit::Go(To::WordRight), Edit::Go(To::Home),
            Edit::Go(To::End), Edit::Remove(To::Left), Edit::Remove(To::Right), Edit::Kill(To::Home), Edit::Kill(To::End),
            Edit::Kill(To::WordLeft), Edit::Kill(To::WordRight), Edit::Yank,
            Edit::Insert('x'), Edit::Insert('\u{301}'), Edit::Insert('\n'),
        ]), 0..40),
        columns in 1usize..12,
    ) {
        let mut editor = with(&text);
        for edit in &edits {
            editor.apply(*edit);
            editor.vertical(columns, edits.len() % 2 == 0);
            let (text, cursor) = editor.raw();
            prop_assert!(text.is_char_boundary(cursor));
            let (rows, (_, y)) = editor.layout(columns);
            prop_assert!(y < rows.len());
            let shown: String = rows.concat();
            prop_assert_eq!(shown, text.replace('\n', ""));
        }
    }
}
