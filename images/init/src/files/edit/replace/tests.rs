use proptest::prelude::*;

use super::*;
use crate::files::encoding::detect_whole;

fn replaced(content: &[u8], old: &str, new: &str, all: bool) -> Result<Vec<u8>, String> {
    let encoding = detect_whole(content).encoding().unwrap_or(Encoding::UTF_8);
    replace(encoding, content, old, new, all)
        .map(|replaced| replaced.bytes)
        .map_err(|unclear| unclear.to_string())
}

fn text(content: &str, old: &str, new: &str) -> Result<String, String> {
    replaced(content.as_bytes(), old, new, false).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn one_place_or_all_of_them() {
    assert_eq!(text("a b c", "b", "x").unwrap(), "a x c");
    assert_eq!(replaced(b"b b", "b", "bb", true).unwrap(), b"bb bb");
    assert_eq!(replaced(b"aaaaa", "aa", "b", true).unwrap(), b"bba");
    assert_eq!(text("a\nb\n", "a\n", "").unwrap(), "b\n");
    let refused = text("b\n\nb\nb", "b", "x").unwrap_err();
    assert!(refused.contains("3 times, at lines 1, 3, 4;"), "{refused}");
    let refused = text("x\naaa", "aa", "b").unwrap_err();
    assert!(
        refused.contains("overlapping itself from line 2"),
        "{refused}"
    );
    for (old, new) in [("", "b"), ("a", "a"), ("\u{feff}", "x")] {
        assert!(text("a", old, new).is_err());
    }
}

#[test]
fn every_line_keeps_its_own_end() {
    for (content, old, new, expected) in [
        ("a\r\nb\r\n", "a\nb", "x\ny\nz", "x\r\ny\r\nz\r\n"),
        ("a\r\nb\nc\r\n", "a\nb\nc", "x\nb\ny", "x\r\nb\ny\r\n"),
        ("a\r\nb\nc\n", "b\n", "x\ny\n", "a\r\nx\ny\nc\n"),
        ("a\r\nb\nc\r\n", "b\n", "b\nnew\n", "a\r\nb\nnew\r\nc\r\n"),
        ("a\nb\n", "a\r\nb", "x\r\nb\r\nc", "x\nb\nc\n"),
        ("a\rb\rc\r", "b\n", "x\ny\n", "a\rx\ry\rc\r"),
        ("a\rb\rc\r", "a\rb", "x\rb", "x\rb\rc\r"),
        ("a\r\r\nb\r\r\n", "a\nb", "a\nc", "a\r\r\nc\r\r\n"),
        ("1%\r2%\n", "2%", "3%\r4%", "1%\r3%\r4%\n"),
        ("a\r\nb\r\nc\r\n", "a\nb\nc", "c", "c\r\n"),
        ("a\nb\r\nc\n", "a\nb", "a b", "a b\r\nc\n"),
        ("one", "one", "one\r\ntwo", "one\r\ntwo"),
        // Only the ends differ: they are meant.
        ("a\r\nb\r\n", "a\r\nb", "a\nb", "a\nb\r\n"),
        ("a\nb\n", "a\n", "a\r\n", "a\r\nb\n"),
        // The same text twice, but for the end that is sent.
        ("x\r\ny\nx\ny\n", "x\r\ny", "z\r\ny", "z\r\ny\nx\ny\n"),
    ] {
        assert_eq!(
            text(content, old, new).as_deref(),
            Ok(expected),
            "{content:?}"
        );
    }
    let refused = text("x\r\ny\nx\ny\n", "x\ny", "z").unwrap_err();
    assert!(refused.contains("2 times, at lines 1, 3;"), "{refused}");
    assert_eq!(
        replaced(b"a\r\na\na", "a\n", "b\n", true).unwrap(),
        b"b\r\nb\nb"
    );
    assert_eq!(
        replaced(b"a\r\nb\r\n", "\r\n", "\n", true).unwrap(),
        b"a\nb\n"
    );
    let refused = text("a\nb\n", "a\r\n", "a\n").unwrap_err();
    assert!(refused.contains("with these line ends"), "{refused}");
}

#[test]
fn the_last_line_need_not_end() {
    for (content, old, new, expected) in [
        ("a\nlast", "last\n", "new\n", "a\nnew"),
        ("a\nlast", "last\n", "last\nmore\n", "a\nlast\nmore"),
        ("a\r\nlast", "a\nlast\n", "b\nlast\n", "b\r\nlast"),
        ("a\nlast", "last\n", "", "a\n"),
        ("a\nlast\n", "last", "new", "a\nnew\n"),
        ("a\nlast\n", "last\n", "new", "a\nnew"),
        ("first\nb\n", "first\n", "", "b\n"),
    ] {
        assert_eq!(
            text(content, old, new).as_deref(),
            Ok(expected),
            "{content:?}"
        );
    }
    let refused = text("}\n}", "}\n", "]\n").unwrap_err();
    assert!(refused.contains("2 times, at lines 1, 2;"), "{refused}");
    assert_eq!(replaced(b"}\n}", "}\n", "]\n", true).unwrap(), b"]\n]");
}

#[test]
fn a_byte_order_mark_stays() {
    let content = "\u{feff}first\r\nb\r\n";
    for old in ["first\nb", "\u{feff}first\nb"] {
        for new in ["x\nb", "\u{feff}x\nb"] {
            assert_eq!(text(content, old, new).unwrap(), "\u{feff}x\r\nb\r\n");
        }
    }
    assert_eq!(
        text("first\n", "\u{feff}first", "\u{feff}x").unwrap(),
        "x\n"
    );
}

#[test]
fn other_encodings_stay_what_they_are() {
    let latin = b"caf\xe9 one\r\nna\xefve two\r\n";
    assert_eq!(
        replaced(latin, "café one\nnaïve", "thé one\nnaïve", false).unwrap(),
        b"th\xe9 one\r\nna\xefve two\r\n"
    );
    let refused = replaced(latin, "one", "→", false).unwrap_err();
    assert!(
        refused.contains("windows-1252 (Latin-1), which has no character '→' (U+2192)"),
        "{refused}"
    );
    let wide = |text: &str| -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        [0xff, 0xfe].into_iter().chain(units).collect()
    };
    assert_eq!(
        replaced(&wide("año\r\n世界 😀\r\n"), "世界", "→\nx", false).unwrap(),
        wide("año\r\n→\r\nx 😀\r\n")
    );
    let japanese = encoding_rs::SHIFT_JIS
        .encode("これは日本語の表です。\nもう一行の日本語。\n")
        .0;
    let expected = encoding_rs::SHIFT_JIS
        .encode("これは日本語の能力です。\nもう一行の日本語。\n")
        .0;
    assert_eq!(
        replaced(&japanese, "表です", "能力です", false).unwrap(),
        expected.as_ref()
    );
}

#[test]
fn bytes_that_are_no_text_stay() {
    let damaged = b"\xc3\xa9t\xc3\xa9 \xff one\ntwo \xfe\n\xc3\xa9\n";
    assert_eq!(
        replaced(damaged, "two", "2", false).unwrap(),
        b"\xc3\xa9t\xc3\xa9 \xff one\n2 \xfe\n\xc3\xa9\n"
    );
    // What a reader is shown of them may be around the change.
    assert_eq!(
        replaced(
            damaged,
            "été \u{fffd} one\ntwo",
            "été \u{fffd} 1\ntwo",
            false
        )
        .unwrap(),
        b"\xc3\xa9t\xc3\xa9 \xff 1\ntwo \xfe\n\xc3\xa9\n"
    );
    assert_eq!(
        replaced(damaged, " \u{fffd} one", "", false).unwrap(),
        b"\xc3\xa9t\xc3\xa9\ntwo \xfe\n\xc3\xa9\n"
    );
    let refused = replaced(damaged, " \u{fffd} one", " a\u{fffd}b", false).unwrap_err();
    assert!(refused.contains("U+FFFD"), "{refused}");
    assert_eq!(
        replaced(b"\x7fELF\0\xff text\0", "text", "TEXT", false).unwrap(),
        b"\x7fELF\0\xff TEXT\0"
    );
}

/// Lines that differ, with any ends.
fn file() -> impl Strategy<Value = Vec<String>> {
    let end = prop::sample::select(vec!["\n", "\r\n", "\r\r\n"]);
    let line = ("[a-c\té世]{0,4}", end).prop_map(|(text, end)| text + end);
    (prop::collection::vec(line, 1..12), any::<bool>()).prop_map(|(mut lines, unended)| {
        for (number, line) in lines.iter_mut().enumerate() {
            // No line ends as another does.
            line.insert_str(0, &format!("{number:02}:"));
        }
        if unended && let Some(last) = lines.last_mut() {
            let text = last.trim_end_matches(['\r', '\n']).len();
            last.truncate(text);
        }
        lines
    })
}

fn bare(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

proptest! {
    /// Some lines of a file, copied as a reader is shown them, are found where they are, and all other bytes stay.
    #[test]
    fn what_is_shown_is_what_matches(
        lines in file(),
        window in (0_usize..12, 1_usize..6),
        changed in 0_usize..6,
        crlf in any::<bool>(),
        ended in any::<bool>(),
        wide in any::<bool>(),
        bom in any::<bool>(),
    ) {
        let bom = bom || wide;
        let start = window.0 % lines.len();
        let end = lines.len().min(start + window.1);
        let changed = start + changed % (end - start);
        let shown = |change: bool| {
            let lines: Vec<String> = (start..end)
                .map(|at| match change && at == changed {
                    true => format!("{}!new", bare(&lines[at])),
                    false => bare(&lines[at]).to_owned(),
                })
                .collect();
            let by = if crlf { "\r\n" } else { "\n" };
            lines.join(by) + if ended { by } else { "" }
        };
        let mut expected = lines.clone();
        let text = bare(&expected[changed]).len();
        expected[changed].insert_str(text, "!new");
        let bytes = |lines: &[String]| -> Vec<u8> {
            let text = format!("{}{}", if bom { "\u{feff}" } else { "" }, lines.concat());
            match wide {
                true => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                false => text.into_bytes(),
            }
        };
        // One line without its end may be the beginning of another.
        let (old, new) = (shown(false), shown(true));
        match replaced(&bytes(&lines), &old, &new, false) {
            Ok(done) => prop_assert_eq!(done, bytes(&expected)),
            Err(refused) => prop_assert!(
                !ended && refused.contains("times"),
                "{:?}: {}", old, refused
            ),
        }
    }

    /// Any text that is there once is replaced there, and all bytes around it stay.
    #[test]
    fn bytes_around_a_change_stay(
        before in prop::collection::vec(any::<u8>(), 0..40),
        after in prop::collection::vec(any::<u8>(), 0..40),
        new in "[a-zé→\n]{0,10}",
    ) {
        let content = [before.as_slice(), b"<needle>", &after].concat();
        match replace(Encoding::UTF_8, &content, "<needle>", &new, false) {
            Ok(done) => {
                prop_assert!(done.bytes.starts_with(&before) && done.bytes.ends_with(&after));
            }
            // Two halves of a character must not meet.
            Err(refused) => prop_assert!(refused == Unclear::Entangled && new.is_empty()),
        }
    }
}
