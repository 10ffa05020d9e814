//! The kind of a file's content, recognized by its beginning.

use crate::files::encoding::{Content, detect, detect_whole};

/// The image types that clients accept.
const IMAGES: &[&str] = &["image/png", "image/jpeg", "image/gif", "image/webp"];

/// The kind of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Text(Content),
    /// An image of this media type, by its first bytes only.
    Image(&'static str),
    /// Other content, with a description.
    Other(&'static str),
}

/// The kind of content that begins with `head`; `whole` means that `head` is all of it. UTF-8 and UTF-16 are text,
/// whatever they begin with. In other encodings the first bytes of a known format win, unless they are printable.
pub(super) fn file_kind(head: &[u8], whole: bool) -> FileKind {
    let content = match whole {
        true => detect_whole(head),
        false => detect(head, false),
    };
    let unicode = content
        .encoding()
        .is_some_and(|encoding| encoding.is_utf16() || encoding.is_utf8());
    let printable = head.iter().take(4).all(|byte| (b' '..=b'~').contains(byte));
    if content != Content::Binary && (unicode || printable) {
        return FileKind::Text(content);
    }
    match infer::get(head).map(|kind| kind.mime_type()) {
        Some(kind) if IMAGES.contains(&kind) => FileKind::Image(kind),
        Some(kind) => FileKind::Other(kind),
        None if content != Content::Binary => FileKind::Text(content),
        None => FileKind::Other("binary data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_whatever_it_begins_with() {
        for text in [
            "GIF89a is how such a file begins",
            "BZhang wrote",
            "BM",
            "%PDF-1.4 is a header",
            "PK\u{3}\u{4}",
            "RIFF of the week",
            "\u{7f}ELF",
            "II*",
            "",
        ] {
            let ascii = FileKind::Text(Content::Ascii);
            assert_eq!(file_kind(text.as_bytes(), true), ascii, "{text:?}");
            let western = [text.as_bytes(), b" caf\xe9\n"].concat();
            if !text.contains(char::is_control) {
                assert!(
                    matches!(file_kind(&western, true), FileKind::Text(_)),
                    "{text:?}"
                );
            }
        }
        let mut cut = vec![b'a'; (64 << 10) - 1];
        cut.push(0xc3);
        assert!(matches!(file_kind(&cut, false), FileKind::Text(_)));
    }

    #[test]
    fn other_content_is_named() {
        for (content, kind) in [
            (
                b"\x89PNG\r\n\x1a\nnot an image".as_slice(),
                FileKind::Image("image/png"),
            ),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", FileKind::Image("image/jpeg")),
            (b"GIF89a\x01\0\x01\0", FileKind::Image("image/gif")),
            (b"RIFF\x24\0\0\0WEBPVP8 ", FileKind::Image("image/webp")),
            (
                b"\x1f\x8b\x08\0\0\0\0\0",
                FileKind::Other("application/gzip"),
            ),
            (
                b"\x7fELF\x02\x01\x01\0".repeat(8).as_slice(),
                FileKind::Other("application/x-executable"),
            ),
            (b"a\0b", FileKind::Other("binary data")),
        ] {
            assert_eq!(file_kind(content, true), kind);
        }
    }
}
