//! Recognizing text and its encoding.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{DecoderResult, GB18030, GBK, ISO_2022_JP, UTF_16BE, UTF_16LE, WINDOWS_1252};

use super::{Encoding, Form, UTF8_BOM, WINDOW};

/// One in this many characters may be one that texts do not have.
const ODD: usize = 200;

/// The kind of a piece of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// ASCII only, or empty. Later content decides the encoding.
    Ascii,
    /// Text in this encoding.
    Text(Encoding),
    /// Not text in any encoding.
    Binary,
}

impl Content {
    /// The encoding to decode it with; `None` for binary content.
    pub(crate) fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Ascii => Some(Encoding::UTF_8),
            Self::Text(encoding) => Some(encoding),
            Self::Binary => None,
        }
    }
}

/// The kind of the beginning of a file; `whole` means that it is all of the file.
pub(crate) fn detect(head: &[u8], whole: bool) -> Content {
    let encoded = |form, bom| Content::Text(Encoding { form, bom });
    let zero = memchr::memchr(0, head).is_some();
    if head.starts_with(UTF8_BOM) && !zero {
        return encoded(Form::Utf8, true);
    }
    for (mark, form) in [(b"\xff\xfe", Form::Utf16Le), (b"\xfe\xff", Form::Utf16Be)] {
        if let Some(text) = head.strip_prefix(mark)
            && utf16(text, form, whole).is_some_and(|text| is_text(&text))
        {
            return encoded(form, true);
        }
    }
    if !zero {
        let verdict = detect_later(head, whole);
        // ISO-2022-JP consists of ASCII bytes.
        let japanese = verdict == Content::Ascii
            && memchr::memmem::find(head, b"\x1b$").is_some()
            && decoded(ISO_2022_JP, head, whole).is_some_and(|text| is_text(&text));
        return if japanese {
            encoded(Form::Legacy(ISO_2022_JP), false)
        } else {
            verdict
        };
    }
    if is_list(head, whole) {
        return Content::Binary;
    }
    let evident = |form| utf16(head, form, whole).is_some_and(|text| is_evident(&text));
    match (evident(Form::Utf16Le), evident(Form::Utf16Be)) {
        (true, false) => encoded(Form::Utf16Le, false),
        (false, true) => encoded(Form::Utf16Be, false),
        _ => Content::Binary,
    }
}

/// The kind of a complete content.
pub(crate) fn detect_whole(bytes: &[u8]) -> Content {
    let head = &bytes[..bytes.len().min(WINDOW)];
    let verdict = detect(head, head.len() == bytes.len());
    if verdict != Content::Ascii {
        return verdict;
    }
    let ascii = encoding_rs::Encoding::ascii_valid_up_to(bytes);
    if ascii == bytes.len() {
        return verdict;
    }
    let start = ascii / WINDOW * WINDOW;
    let end = bytes.len().min(start + WINDOW);
    match detect_later(&bytes[start..end], end == bytes.len()) {
        // Text with binary content after it counts as text.
        Content::Binary => Content::Text(Encoding::UTF_8),
        verdict => verdict,
    }
}

/// The kind of a later piece, which has no byte order mark and starts at a character.
pub(super) fn detect_later(piece: &[u8], whole: bool) -> Content {
    let text = |form| Content::Text(Encoding { form, bom: false });
    if memchr::memchr(0, piece).is_some() {
        return Content::Binary;
    }
    if piece.is_ascii() {
        return Content::Ascii;
    }
    if is_utf8(piece, whole) {
        return text(Form::Utf8);
    }
    legacy(piece, whole).map_or(Content::Binary, |encoding| text(Form::Legacy(encoding)))
}

/// Whether it is UTF-8: all of it, or so much of it that the rest must be damage.
fn is_utf8(piece: &[u8], whole: bool) -> bool {
    if std::str::from_utf8(piece).is_ok() {
        return true;
    }
    let (mut valid, mut invalid) = (0, 0);
    let mut chunks = piece.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        valid += chunk.valid().bytes().filter(|byte| *byte >= 0x80).count();
        let cut = chunks.peek().is_none()
            && !whole
            && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if !cut {
            invalid += chunk.invalid().len();
        }
    }
    // Text in another encoding contains valid UTF-8 by accident only, and little of it.
    valid >= 2 * invalid
}

/// The text, if it is valid except for a cut at the end.
fn utf16(bytes: &[u8], form: Form, whole: bool) -> Option<String> {
    let encoding = match form {
        Form::Utf16Le => UTF_16LE,
        _ => UTF_16BE,
    };
    decoded(encoding, bytes, whole)
}

/// The text, if all of it is valid; if not `whole`, its last character may be cut.
fn decoded(encoding: &'static encoding_rs::Encoding, bytes: &[u8], whole: bool) -> Option<String> {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let room = decoder.max_utf8_buffer_length_without_replacement(bytes.len())?;
    let mut text = String::with_capacity(room);
    let (result, _) = decoder.decode_to_string_without_replacement(bytes, &mut text, whole);
    (result == DecoderResult::InputEmpty).then_some(text)
}

/// The encoding other than UTF-8 and UTF-16 in which the piece is text.
fn legacy(piece: &[u8], whole: bool) -> Option<&'static encoding_rs::Encoding> {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(piece, whole);
    let guess = match detector.guess(None, Utf8Detection::Deny) {
        // GB18030 contains GBK and can encode every character.
        guess if guess == GBK => GB18030,
        guess => guess,
    };
    let text = |encoding| decoded(encoding, piece, whole).filter(|text| is_text(text));
    let (guessed, western) = (text(guess), text(WINDOWS_1252));
    match (guessed, western) {
        // If both give the same text, the more common name is more useful.
        (Some(guessed), Some(western)) if guessed == western => Some(WINDOWS_1252),
        (Some(_), _) => Some(guess),
        (None, Some(_)) => Some(WINDOWS_1252),
        (None, None) => None,
    }
}

/// Whether decoded text looks like text: few control characters, and letters where it has more than ASCII.
fn is_text(text: &str) -> bool {
    let (mut all, mut odd, mut foreign, mut letters) = (0, 0, 0, 0);
    for char in text.chars() {
        all += 1;
        odd += usize::from(is_odd(char));
        if !char.is_ascii() {
            foreign += 1;
            letters += usize::from(char.is_alphanumeric());
        }
    }
    // In a short text, all characters beyond ASCII may be signs.
    odd * ODD <= all && (letters * 2 >= foreign || foreign * 5 <= all + 8)
}

/// Whether decoded text is evidence of UTF-16 without a byte order mark: it contains ASCII, and almost only letters,
/// digits, spaces and punctuation.
fn is_evident(text: &str) -> bool {
    let (mut all, mut ascii, mut usual) = (0, 0, 0);
    for char in text.chars() {
        if char == '\0' {
            return false;
        }
        all += 1;
        ascii += usize::from(char.is_ascii());
        usual += usize::from(
            char.is_alphanumeric()
                || char.is_whitespace()
                || char.is_ascii_punctuation()
                || ('\u{2010}'..='\u{2027}').contains(&char)
                || ('\u{3000}'..='\u{303f}').contains(&char),
        );
    }
    all >= 4 && ascii * 32 >= all && usual * 10 >= all * 9 && is_text(text)
}

/// Whether it is a list of UTF-8 texts with zero bytes between them, as from `find -print0`.
fn is_list(bytes: &[u8], whole: bool) -> bool {
    let wide = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .any(|unit| !unit.contains(&0));
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    wide && is_utf8(&text, whole) && !String::from_utf8_lossy(&text).chars().any(is_odd)
}

/// Whether texts hardly ever have this character: an unusual control character, or one without an assigned meaning.
fn is_odd(char: char) -> bool {
    let usual = matches!(
        char,
        '\t' | '\n' | '\r' | '\x07' | '\x08' | '\x0b' | '\x0c' | '\x1a' | '\x1b'
    );
    (char.is_control() && !usual)
        || ('\u{e000}'..='\u{f8ff}').contains(&char)
        || ('\u{fff0}'..='\u{ffff}').contains(&char)
}

#[cfg(test)]
mod tests {
    use encoding_rs::{
        BIG5, EUC_JP, EUC_KR, KOI8_U, SHIFT_JIS, WINDOWS_1250, WINDOWS_1251, WINDOWS_1253,
    };
    use proptest::prelude::*;

    use super::*;

    const FRENCH: &str = "/* Auteur : Gaëtan Lefèvre, décembre */\nint côté = 3; // à vérifier\n";
    const CZECH: &str =
        "Příliš žluťoučký kůň úpěl ďábelské ódy. Dnes je hezký den a zítra bude ještě hezčí.\n";
    const RUSSIAN: &str =
        "Съешь же ещё этих мягких французских булок, да выпей чаю. Всё это очень вкусно.\n";
    const GREEK: &str =
        "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Καλημέρα σε όλον τον κόσμο και καλή εβδομάδα.\n";
    const JAPANESE: &str = "これは日本語のテキストです。文字コードを正しく判定できますか。\n";
    const KOREAN: &str = "이것은 한국어 텍스트입니다. 인코딩을 올바르게 감지할 수 있습니까?\n";
    const SIMPLIFIED: &str = "这是一个简体中文的文本文件，用来检查编码的识别是否正确。\n";
    const TRADITIONAL: &str = "這是一個繁體中文的文字檔案，用來檢查編碼的識別是否正確。\n";

    fn legacy_of(encoding: &'static encoding_rs::Encoding) -> Encoding {
        Encoding {
            form: Form::Legacy(encoding),
            bom: false,
        }
    }

    fn samples() -> Vec<(Encoding, String)> {
        let utf16 = |form, bom| Encoding { form, bom };
        [
            (legacy_of(WINDOWS_1252), FRENCH),
            (legacy_of(WINDOWS_1250), CZECH),
            (legacy_of(WINDOWS_1251), RUSSIAN),
            (legacy_of(KOI8_U), RUSSIAN),
            (legacy_of(WINDOWS_1253), GREEK),
            (legacy_of(SHIFT_JIS), JAPANESE),
            (legacy_of(EUC_JP), JAPANESE),
            (legacy_of(EUC_KR), KOREAN),
            (legacy_of(GB18030), SIMPLIFIED),
            (legacy_of(BIG5), TRADITIONAL),
            (utf16(Form::Utf16Le, true), JAPANESE),
            (utf16(Form::Utf16Be, true), RUSSIAN),
            (utf16(Form::Utf16Le, false), FRENCH),
            (utf16(Form::Utf16Be, false), RUSSIAN),
            (utf16(Form::Utf8, true), FRENCH),
            (utf16(Form::Utf8, false), KOREAN),
        ]
        .map(|(encoding, text)| (encoding, text.repeat(4)))
        .to_vec()
    }

    fn bytes_of(encoding: Encoding, text: &str) -> Vec<u8> {
        let mark: &[u8] = match (encoding.bom, encoding.form) {
            (false, _) => b"",
            (_, Form::Utf16Le) => b"\xff\xfe",
            (_, Form::Utf16Be) => b"\xfe\xff",
            _ => UTF8_BOM,
        };
        [mark, &encoding.encode(text).unwrap()].concat()
    }

    #[test]
    fn usual_encodings_are_told_apart() {
        for (encoding, text) in samples() {
            let bytes = bytes_of(encoding, &text);
            assert_eq!(detect_whole(&bytes), Content::Text(encoding), "{text}");
            assert_eq!(encoding.decode(&bytes), text);
        }
        let mail = ISO_2022_JP.encode(JAPANESE).0;
        assert_eq!(detect_whole(&mail), Content::Text(legacy_of(ISO_2022_JP)));
    }

    #[test]
    fn a_single_character_is_enough() {
        let western = Content::Text(legacy_of(WINDOWS_1252));
        for bytes in [
            b"caf\xe9\n".as_slice(),
            b"J\xf6rg",
            b"/* (c) M\xfcller */\nint main(void) { return 0; }\n",
            b"price: 5 \x80\n",
            b"\xa9 1999",
            b"20 \xb0C",
            b"it\x92s",
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(detect_whole(bytes), western, "{shown}");
        }
    }

    #[test]
    fn what_comes_late_counts_too() {
        let mut bytes = b"int x;\n".repeat(WINDOW);
        assert_eq!(detect_whole(&bytes), Content::Ascii);
        bytes.extend(b"// caf\xe9\n");
        assert_eq!(detect_whole(&bytes), Content::Text(legacy_of(WINDOWS_1252)));
        bytes.extend(b"\0");
        assert_eq!(detect_whole(&bytes), Content::Text(Encoding::UTF_8));
    }

    #[test]
    fn a_damaged_byte_is_no_other_encoding() {
        for text in [FRENCH, RUSSIAN, JAPANESE, "a → b\n"] {
            let mut bytes = text.as_bytes().to_vec();
            for stray in [0xff, 0xe9, 0x80] {
                bytes.insert(0, stray);
                assert_eq!(detect_whole(&bytes), Content::Text(Encoding::UTF_8));
                bytes.remove(0);
            }
        }
    }

    #[test]
    fn binary_stays_binary() {
        for bytes in [
            b"a\0b".as_slice(),
            b"text with a \0 in it, and caf\xc3\xa9\n",
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\xe7",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            b"\xff\xd8\xff\xe0\0\x10JFIF\0",
            b"\xff\xfe\0\0a\0\0\0",
            b"one\0two\0three\0",
            b"caf\xc3\xa9\0two\0three\0four\0five",
            b"\x01\0\x02\0\x03\0\x04\0\x05\0",
        ] {
            assert_eq!(detect_whole(bytes), Content::Binary, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn utf8_is_always_utf8(text in "[^\0]{1,300}") {
            // U+FEFF at the start is a byte order mark.
            prop_assume!(!text.starts_with('\u{feff}') && !text.contains("\x1b$"));
            let expected = if text.is_ascii() { Content::Ascii } else { Content::Text(Encoding::UTF_8) };
            prop_assert_eq!(detect_whole(text.as_bytes()), expected);
        }

        #[test]
        fn random_bytes_are_binary(bytes in prop::collection::vec(any::<u8>(), 300..2000)) {
            prop_assert_eq!(detect_whole(&bytes), Content::Binary);
        }

        /// A window may end anywhere, inside a character too.
        #[test]
        fn a_cut_changes_no_verdict(
            (encoding, text) in prop::sample::select(samples()),
            cut in 0_usize..40,
        ) {
            let bytes = bytes_of(encoding, &text);
            prop_assert_eq!(
                detect(&bytes[..bytes.len() - cut], false),
                Content::Text(encoding)
            );
        }
    }
}
