use proptest::prelude::*;

use super::line::{ROW, WIDTH};
use super::*;

/// What is shown of a stream that comes in pieces.
fn in_pieces(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut terminal = Terminal::default();
    for piece in bytes.chunks(piece) {
        terminal.push(piece, &mut |piece| shown.extend_from_slice(piece));
        let held = &terminal.line;
        assert!(held.text.len() <= ROW && held.cells.len() <= 10 * ROW);
        assert!(terminal.held.len() <= MAX_STRING + 1);
    }
    terminal.finish(&mut |piece| shown.extend_from_slice(piece));
    shown
}

#[track_caller]
fn shows(came: &str, expected: &str) {
    assert_eq!(plain(came.as_bytes()), expected, "{came:?}");
}

#[test]
fn sequences_go_and_text_stays() {
    shows("\x1b[1;31merror\x1b[0m: \x1b]0;title\x07x", "error: x");
    shows("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link");
    shows("\u{9b}31mred\u{9d}0;title\u{9c}.", "red.");
    shows("\x1b(B\x1b)0\x1b#8text\x1b=\x1b>", "text");
    shows(
        "\x1bP1$r0m\x1b\\\x1b_Gf=100;AAAA\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\ok",
        "ok",
    );
    shows(
        "\x1b[?25l\x1b[38;2;1;2;3m\x1b[38:5:9mcolour\x1b[?25h\x1b[0 q",
        "colour",
    );
    shows("cut \x1b[3", "cut ");
    shows("cut \x1b", "cut ");
    shows("©\u{a0}Â", "©\u{a0}Â");
    shows("\u{202e}kept", "\u{202e}kept");
    shows("a\0b\x07c\x7fd\x0ee", "a␀bcde");
    shows("one\x0ctwo\x0b\nthree", "one\ntwo\n\nthree");
}

#[test]
fn a_sequence_without_an_end_hides_nothing() {
    for introducer in [
        "\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\u{9d}", "\u{90}", "\u{9f}",
    ] {
        shows(
            &format!("{introducer}0;title\nerror: no such file\n"),
            "0;title\nerror: no such file\n",
        );
        shows(
            &format!("{introducer}0;error: no such file"),
            "0;error: no such file",
        );
        shows(
            &format!("{introducer}0;error\x1b[31m: red\x1b[m\n"),
            "0;error: red\n",
        );
        shows(&format!("{introducer}0;a\u{9b}1mb\n"), "0;ab\n");
        shows(&format!("{introducer}{introducer}x\x1b"), "x");
    }
    shows("\x1b[31\nerror\n", "\nerror\n");
    shows("\x1b[错误：文件\n", "错误：文件\n");
    shows("\x1b\nerror", "\nerror");
    shows("\x1b(\nerror", "\nerror");
    shows("\x1b[1;\rerror\n", "error\n");
    let long = format!("\x1b]{}\x07end\n", "x".repeat(MAX_STRING + 10));
    assert!(plain(long.as_bytes()).ends_with("xxxend\n"));
    let long = format!("\x1b[{}m!\n", "1;".repeat(MAX_SEQUENCE));
    assert!(plain(long.as_bytes()).ends_with(";m!\n"));
}

#[test]
fn a_line_is_shown_in_its_last_state() {
    shows("10%\r20%\r100%\n", "100%\n");
    shows("downloading\rdone\n", "doneloading\n");
    shows("downloading\r\x1b[Kdone\n", "done\n");
    shows("downloading\x1b[2K\rdone\n", "done\n");
    shows("downloading\r           \rdone\r\n", "done\n");
    shows("50%\r", "50%");
    shows("dos\r\nlines\t\r\r\n", "dos\nlines\t\n");
    shows("a\x08ab\x08b _\x08u", "ab u");
    shows("12345\x08\x08\x08\x08\x08\x08\x08x", "x2345");
    shows("abc\x1b[2Dx\x1b[5Gy\x1b[1Gz", "zxc y");
    shows("\x1b[3Cx", "   x");
    shows("abcdef\x1b[3G\x1b[1K", "   def");
    shows("abcdef\x1b[3G\x1b[2P\x1b[1G\x1b[1@-", "-abef");
    shows("abcdef\x1b[3G\x1b[2Xx", "abx ef");
    shows("a\x1b[s123\x1b[ub", "ab23");
    shows("世界\rab", "ab界");
    shows("世界\ra", "a 界");
    shows("e\u{301}x\rE", "Ex");
    shows("e\u{301}x\x08y", "e\u{301}y");
    shows("a\tb\rxy", "xy      b");
    shows("12345678901\r\tx", "12345678x01");
    assert_eq!(plain(b"\x1b[999999Gy").len(), WIDTH + 1);
}

#[test]
fn no_complete_line_is_changed() {
    shows(
        "error: important\n\x1b[1A\x1b[2Kfine\n",
        "error: important\nfine\n",
    );
    shows(
        "make: error\n\x1b[H\x1b[2J\x1b[3Jdone\n",
        "make: error\ndone\n",
    );
    shows("half\x1b[2J\x1b[Hother", "half\nother");
    shows("half\x1bcother\x1b[?1049hmore", "half\nother\nmore");
    // Two bars of tqdm: the inner one moves far more often.
    let mut bars = "outer 0%".to_owned();
    for percent in 0..=100 {
        bars += &format!("\n\rinner {percent}%\x1b[A");
    }
    bars += "\router 100%\n\n";
    shows(&bars, "outer 0%\nouter 100%\ninner 100%\n");
    shows("a\nb\x1b[1F\x1b[Bc\x1b[Bd", "a\nc\nd");
}

#[test]
fn a_gigantic_line_of_bars_takes_little_memory() {
    let mut terminal = Terminal::default();
    let mut shown = 0;
    let piece = "50% [####    ]\r".repeat(1000);
    for _ in 0..300 {
        terminal.push(piece.as_bytes(), &mut |piece| shown += piece.len());
    }
    assert_eq!(shown, 0);
    assert!(terminal.line.cells.capacity() < 100);
    let mut last = Vec::new();
    assert!(terminal.finish(&mut |piece| last.extend_from_slice(piece)));
    assert_eq!(last, b"50% [####    ]");
}

/// Streams as ordinary and hostile programs write them.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[a-z 世é\u{301}]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..12),
        prop::sample::select(vec![
            "\r", "\n", "\r\n", "\t", "\x08", "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x07", "\x1b\\",
            "\u{9b}", "\u{9d}", "\u{9c}", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[A", "\x1b[3B",
            "\x1b[5C", "\x1b[2D", "\x1b[G", "\x1b[9P", "\x1b[9@", "\x1b[9X", "\x1b[J", "\x1b[H",
            "\x1b7", "\x1b8", "\x1b[m", ";1", "\u{2}",
        ])
        .prop_map(|piece: &str| piece.as_bytes().to_vec()),
        (1_usize..3 * ROW).prop_map(|length| vec![b'-'; length]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

#[test]
fn left_out_bytes_join_nothing() {
    for between in ["\x0e", "\x1b[m", "\u{82}", "\x7f"] {
        let bytes = [b"a\xc2".as_slice(), between.as_bytes(), b"\x80b"].concat();
        assert_eq!(plain(&bytes), "a\u{fffd}\u{fffd}b", "{between:?}");
    }
}

proptest! {
    #[test]
    fn pieces_make_no_difference(bytes in stream(), piece in 1_usize..300) {
        let whole = in_pieces(&bytes, bytes.len().max(1));
        prop_assert_eq!(in_pieces(&bytes, piece), whole);
    }

    #[test]
    fn output_without_controls_is_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..3 * ROW)) {
        let mut bytes = bytes;
        bytes.retain(|byte| (is_plain(*byte) || *byte == b'\n') && *byte != 0xc2);
        prop_assert_eq!(in_pieces(&bytes, 1000), bytes);
    }

    #[test]
    fn text_is_unchanged(text in "[^\\p{Cc}]{0,200}", lines in 1_usize..5) {
        let text = vec![text; lines].join("\n\t");
        prop_assert_eq!(plain(text.as_bytes()), text);
    }

    #[test]
    fn a_line_after_a_line_break_is_never_lost(before in stream(), after in "[a-z 世]{0,10}[a-z]") {
        let mut bytes = before;
        bytes.extend_from_slice(format!("\n{after}\n").as_bytes());
        let shown = String::from_utf8_lossy(&in_pieces(&bytes, 7)).into_owned();
        prop_assert!(shown.contains(&after), "{:?} in {:?}", after, shown);
    }

    #[test]
    fn no_control_character_is_left(bytes in stream()) {
        let shown = String::from_utf8_lossy(&in_pieces(&bytes, 50)).into_owned();
        let control = |char: char| char.is_control() && char != '\n' && char != '\t';
        prop_assert!(!shown.contains(control), "{:?}", shown);
    }

    #[test]
    fn a_stream_is_cleaned_exactly_if_the_guest_keeps_it(bytes in stream()) {
        let mut terminal = Terminal::default();
        terminal.push(&bytes, &mut |_| {});
        let mut before = 0;
        let kept = bytes.iter().any(|byte| {
            let kept = snowglobe_init::wire::is_control(before, *byte);
            before = *byte;
            kept
        });
        prop_assert_eq!(terminal.finish(&mut |_| {}), kept);
    }
}
