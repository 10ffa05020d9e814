//! The encoding of a text: recognizing it, decoding and encoding.
//!
//! UTF-8 is recognized by its own rules, UTF-16 by its byte order mark or its zero bytes. For other content a detector
//! guesses the encoding. If the decoded result does not look like text, the content is binary. The first [`WINDOW`] of a
//! file with more than ASCII decides, so every reader of a file gets the same result.
//!
//! [`Encoding::decode`] never fails: bytes that are no text in the encoding become U+FFFD. An edit must therefore copy the
//! bytes that stay ([`Encoding::offsets`]) and encode the new text only.

mod detect;
mod reader;

use std::borrow::Cow;

use encoding_rs::{DecoderResult, ISO_2022_JP};

pub(crate) use detect::{Content, detect, detect_whole};
pub(crate) use reader::TextReader;

/// How many bytes of a file are inspected at once.
pub(crate) const WINDOW: usize = 64 << 10;

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// An encoding, and whether the text has a byte order mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    form: Form,
    bom: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Utf8,
    Utf16Le,
    Utf16Be,
    Legacy(&'static encoding_rs::Encoding),
}

/// A piece of decoded text, and how many bytes it stands for.
struct Piece<'a> {
    text: &'a str,
    bytes: usize,
    /// Whether the text is the same as the bytes.
    same: bool,
}

impl Encoding {
    /// UTF-8 without a byte order mark.
    pub(crate) const UTF_8: Self = Self {
        form: Form::Utf8,
        bom: false,
    };

    /// Whether it is UTF-8, with or without a byte order mark.
    pub(crate) fn is_utf8(self) -> bool {
        self.form == Form::Utf8
    }

    /// Whether it is UTF-16, where a line break has more than one byte.
    pub(crate) fn is_utf16(self) -> bool {
        matches!(self.form, Form::Utf16Le | Form::Utf16Be)
    }

    /// The encoding of text after the file's beginning.
    pub(crate) fn after_bom(self) -> Self {
        Self { bom: false, ..self }
    }

    /// Whether the file begins with a byte order mark, which is no part of the text.
    pub(crate) fn has_bom(self) -> bool {
        self.bom
    }

    /// Whether a part of a text can be encoded without the text before it.
    pub(crate) fn is_stateless(self) -> bool {
        self.form != Form::Legacy(ISO_2022_JP)
    }

    /// Its name for readers.
    pub(crate) fn name(self) -> String {
        let name = match self.label() {
            "windows-1252" => "windows-1252 (Latin-1)",
            "gb18030" => "GB18030 (GBK)",
            "KOI8-U" => "KOI8-U (KOI8-R)",
            name => name,
        };
        let bom = if self.bom {
            " with a byte order mark"
        } else {
            ""
        };
        format!("{name}{bom}")
    }

    /// Its name as `iconv` takes it.
    pub(crate) fn label(self) -> &'static str {
        match self.form {
            Form::Utf8 => "UTF-8",
            Form::Utf16Le => "UTF-16LE",
            Form::Utf16Be => "UTF-16BE",
            Form::Legacy(encoding) => encoding.name(),
        }
    }

    /// The text, without a byte order mark. Bytes that are no text in this encoding become U+FFFD.
    pub(crate) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        if self.form == Form::Utf8 {
            let bytes = &bytes[self.bom_length()..];
            // Replacing invalid bytes takes ten times as long as checking that there are none.
            return match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(bytes),
            };
        }
        let mut text = String::with_capacity(bytes.len());
        self.walk(bytes, &mut |piece| text.push_str(piece.text));
        Cow::Owned(text)
    }

    /// The offsets in `bytes` of the characters at these offsets of the decoded text. The offsets ascend. `None` if one of
    /// them is inside a sequence that the encoding writes as a whole.
    pub(crate) fn offsets(self, bytes: &[u8], wanted: &[usize]) -> Option<Vec<usize>> {
        let mut found = Vec::with_capacity(wanted.len());
        let (mut text, mut source) = (0, self.bom_length());
        let mut whole = true;
        self.walk(bytes, &mut |piece| {
            while let Some(at) = wanted.get(found.len())
                && *at < text + piece.text.len()
            {
                whole &= piece.same || *at == text;
                found.push(source + if piece.same { at - text } else { 0 });
            }
            text += piece.text.len();
            source += piece.bytes;
        });
        found.resize(wanted.len(), source);
        whole.then_some(found)
    }

    /// The bytes of a part of a text. An error is the first character that this encoding lacks.
    pub(crate) fn encode(self, text: &str) -> Result<Vec<u8>, char> {
        match self.form {
            Form::Utf8 => Ok(text.as_bytes().to_vec()),
            Form::Utf16Le => Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            Form::Utf16Be => Ok(text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
            Form::Legacy(encoding) => written(encoding, text).ok_or_else(|| {
                let lost = |char: &char| written(encoding, char.encode_utf8(&mut [0; 4])).is_none();
                text.chars()
                    .find(lost)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }),
        }
    }

    fn bom_length(self) -> usize {
        match self.form {
            _ if !self.bom => 0,
            Form::Utf8 => UTF8_BOM.len(),
            _ => 2,
        }
    }

    /// Decodes the text piece by piece.
    fn walk(self, bytes: &[u8], each: &mut dyn FnMut(Piece<'_>)) {
        let bytes = &bytes[self.bom_length()..];
        match self.form {
            Form::Utf8 => {
                for chunk in bytes.utf8_chunks() {
                    each(same(chunk.valid().as_bytes(), chunk.valid()));
                    if !chunk.invalid().is_empty() {
                        each(replaced(chunk.invalid().len()));
                    }
                }
            }
            Form::Utf16Le => walk_utf16(bytes, u16::from_le_bytes, each),
            Form::Utf16Be => walk_utf16(bytes, u16::from_be_bytes, each),
            Form::Legacy(encoding) => walk_legacy(encoding, bytes, each),
        }
    }
}

fn same<'a>(bytes: &[u8], text: &'a str) -> Piece<'a> {
    Piece {
        text,
        bytes: bytes.len(),
        same: true,
    }
}

fn replaced(bytes: usize) -> Piece<'static> {
    Piece {
        text: "\u{fffd}",
        bytes,
        same: false,
    }
}

fn walk_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16, each: &mut dyn FnMut(Piece<'_>)) {
    let (units, rest) = bytes.as_chunks::<2>();
    for char in char::decode_utf16(units.iter().map(|pair| unit(*pair))) {
        match char {
            Ok(char) => each(Piece {
                text: char.encode_utf8(&mut [0; 4]),
                bytes: char.len_utf16() * 2,
                same: false,
            }),
            Err(_) => each(replaced(2)),
        }
    }
    if !rest.is_empty() {
        each(replaced(rest.len()));
    }
}

/// Decodes ASCII in runs, and other characters one sequence at a time.
fn walk_legacy(
    encoding: &'static encoding_rs::Encoding,
    bytes: &[u8],
    each: &mut dyn FnMut(Piece<'_>),
) {
    let mut at = 0;
    while at < bytes.len() {
        let ascii = encoding_rs::Encoding::ascii_valid_up_to(&bytes[at..]);
        if ascii > 0 {
            let run = &bytes[at..at + ascii];
            each(same(run, std::str::from_utf8(run).unwrap_or_default()));
            at += ascii;
            continue;
        }
        let mut buffer = [0; 16];
        let (written, used) = sequence(encoding, &bytes[at..], &mut buffer);
        match std::str::from_utf8(&buffer[..written]) {
            Ok(text) if written > 0 => each(Piece {
                text,
                bytes: used,
                same: false,
            }),
            _ => each(replaced(used)),
        }
        at += used;
    }
}

/// Decodes the first sequence of `bytes`, which are not empty. Returns the length of its text (0 if it is malformed) and
/// the length of the sequence.
fn sequence(
    encoding: &'static encoding_rs::Encoding,
    bytes: &[u8],
    buffer: &mut [u8],
) -> (usize, usize) {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut used = 0;
    loop {
        let next = &bytes[used..bytes.len().min(used + 1)];
        let (result, read, written) =
            decoder.decode_to_utf8_without_replacement(next, buffer, next.is_empty());
        used += read;
        match result {
            DecoderResult::Malformed(_, after) => {
                return (0, used.saturating_sub(usize::from(after)).max(1));
            }
            _ if written > 0 => return (written, used),
            _ if next.is_empty() => return (0, used.max(1)),
            _ => {}
        }
    }
}

/// The bytes of the text, if they mean exactly this text.
fn written(encoding: &'static encoding_rs::Encoding, text: &str) -> Option<Vec<u8>> {
    let (bytes, _, replaced) = encoding.encode(text);
    let back = encoding.decode_without_bom_handling_and_without_replacement(&bytes)?;
    (!replaced && back == text).then(|| bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use encoding_rs::{
        BIG5, EUC_JP, EUC_KR, GB18030, KOI8_U, SHIFT_JIS, WINDOWS_1251, WINDOWS_1252,
    };
    use proptest::prelude::*;

    use super::*;

    fn any_encoding() -> impl Strategy<Value = Encoding> {
        let forms = [
            Form::Utf8,
            Form::Utf16Le,
            Form::Utf16Be,
            Form::Legacy(WINDOWS_1252),
            Form::Legacy(WINDOWS_1251),
            Form::Legacy(SHIFT_JIS),
            Form::Legacy(EUC_JP),
            Form::Legacy(EUC_KR),
            Form::Legacy(GB18030),
            Form::Legacy(BIG5),
            Form::Legacy(KOI8_U),
        ];
        prop::sample::select(forms.to_vec()).prop_map(|form| Encoding { form, bom: false })
    }

    #[test]
    fn what_an_encoding_lacks_is_named() {
        let western = Encoding {
            form: Form::Legacy(WINDOWS_1252),
            bom: false,
        };
        assert_eq!(western.encode("é€").unwrap(), b"\xe9\x80");
        assert_eq!(western.encode("aé→b世").unwrap_err(), '→');
        let japanese = Encoding {
            form: Form::Legacy(SHIFT_JIS),
            bom: false,
        };
        assert_eq!(japanese.encode("表").unwrap(), b"\x95\x5c");
        // The standard writes a yen sign as a backslash, which is another character.
        assert_eq!(japanese.encode("a¥").unwrap_err(), '¥');
    }

    #[test]
    fn every_malformed_sequence_is_one_replacement() {
        let japanese = Encoding {
            form: Form::Legacy(SHIFT_JIS),
            bom: false,
        };
        let bytes = b"a\x95\x5c\x81 \xfd\xffb\x95";
        let text = japanese.decode(bytes);
        assert_eq!(text, "a表\u{fffd} \u{fffd}\u{fffd}b\u{fffd}");
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        assert_eq!(
            japanese.offsets(bytes, &starts).unwrap(),
            [0, 1, 3, 4, 5, 6, 7, 8]
        );
    }

    proptest! {
        /// For any bytes, the offsets of all characters are known, and no byte is lost.
        #[test]
        fn characters_know_their_bytes(
            encoding in any_encoding(),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let text = encoding.decode(&bytes);
            let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            ends.push(text.len());
            // Big5 writes two characters as one sequence.
            if let Some(offsets) = encoding.offsets(&bytes, &ends) {
                prop_assert_eq!(*offsets.last().unwrap(), bytes.len());
                for (at, char) in text.chars().enumerate() {
                    let own = &bytes[offsets[at]..offsets[at + 1]];
                    prop_assert!(!own.is_empty());
                    prop_assert_eq!(encoding.decode(own).into_owned(), char.to_string());
                }
            } else {
                prop_assert_eq!(encoding.form, Form::Legacy(BIG5));
            }
        }

        /// Encoded text decodes to the same text, or the encoder refuses it.
        #[test]
        fn written_text_reads_the_same(encoding in any_encoding(), text in any::<String>()) {
            match encoding.encode(&text) {
                Ok(bytes) => prop_assert_eq!(encoding.decode(&bytes).into_owned(), text),
                Err(lacking) => prop_assert!(text.contains(lacking) && !encoding.is_utf8()),
            }
        }
    }
}
