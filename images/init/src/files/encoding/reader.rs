//! Reading text in any encoding as UTF-8, with bounded memory.

use std::io::{self, Cursor, Read};

use encoding_rs::{UTF_16BE, UTF_16LE};
use encoding_rs_io::{DecodeReaderBytes, DecodeReaderBytesBuilder};

use super::detect::{Content, detect, detect_later};
use super::{Encoding, Form, WINDOW};

/// Reads a file's content as UTF-8. Binary content and damaged UTF-8 are read unchanged.
pub(crate) struct TextReader<R> {
    content: Content,
    state: State<R>,
}

/// The block that decided the encoding, and the rest of the content.
type Rest<R> = io::Chain<Cursor<Vec<u8>>, R>;

enum State<R> {
    /// Only ASCII was read, so the encoding is not known.
    Looking {
        source: R,
        block: Cursor<Vec<u8>>,
    },
    /// The content is read unchanged.
    Same(Rest<R>),
    Decoding(Box<DecodeReaderBytes<Rest<R>, Vec<u8>>>),
    /// A read failed before.
    Broken,
}

impl<R: Read> TextReader<R> {
    /// Reads the beginning and recognizes its encoding.
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let (block, whole) = next_block(&mut source)?;
        let content = detect(&block, whole);
        Ok(Self {
            content,
            state: state(content, block, source),
        })
    }

    /// The kind of content, as far as it was read.
    pub(crate) fn content(&self) -> Content {
        self.content
    }
}

fn next_block(source: &mut impl Read) -> io::Result<(Vec<u8>, bool)> {
    let mut block = Vec::with_capacity(WINDOW);
    let read = source.take(WINDOW as u64).read_to_end(&mut block)?;
    Ok((block, read < WINDOW))
}

fn state<R: Read>(content: Content, block: Vec<u8>, source: R) -> State<R> {
    let mut block = Cursor::new(block);
    let encoding = match content {
        Content::Ascii => return State::Looking { source, block },
        Content::Text(encoding) => encoding,
        Content::Binary => Encoding::UTF_8,
    };
    block.set_position(encoding.bom_length() as u64);
    let rest = block.chain(source);
    let form = match encoding.form {
        Form::Utf8 => return State::Same(rest),
        Form::Utf16Le => UTF_16LE,
        Form::Utf16Be => UTF_16BE,
        Form::Legacy(encoding) => encoding,
    };
    let decoding = DecodeReaderBytesBuilder::new()
        .encoding(Some(form))
        .bom_sniffing(false)
        .build(rest);
    State::Decoding(Box::new(decoding))
}

impl<R: Read> Read for TextReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.state {
                State::Same(rest) => return rest.read(buffer),
                State::Decoding(rest) => return rest.read(buffer),
                State::Broken => return Ok(0),
                State::Looking { block, .. } => {
                    let read = block.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        return Ok(read);
                    }
                }
            }
            let State::Looking { mut source, .. } =
                std::mem::replace(&mut self.state, State::Broken)
            else {
                return Ok(0);
            };
            let (block, whole) = next_block(&mut source)?;
            if block.is_empty() {
                return Ok(0);
            }
            self.content = match detect_later(&block, whole) {
                Content::Binary => Content::Text(Encoding::UTF_8),
                content => content,
            };
            self.state = state(self.content, block, source);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::detect_whole;
    use super::*;

    /// Reads few bytes at a time, as from a pipe.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(self.0.len()).min(1000);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn read(bytes: &[u8]) -> (Content, Vec<u8>) {
        let mut reader = TextReader::new(Slow(bytes)).unwrap();
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        (reader.content(), text)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Reading in pieces and decoding the whole file give the same text.
        #[test]
        fn pieces_make_no_difference(
            ascii in 0_usize..2 * WINDOW,
            text in "[a-zéüß\n]{0,300}",
            encoding in 0_usize..4,
        ) {
            let text = format!("{}{text}", "some text\n".repeat(ascii / 10));
            let utf16 = text.encode_utf16().flat_map(u16::to_le_bytes);
            let bytes: Vec<u8> = match encoding {
                0 => text.clone().into_bytes(),
                1 => encoding_rs::WINDOWS_1252.encode(&text).0.into_owned(),
                2 => [0xff, 0xfe].into_iter().chain(utf16).collect(),
                _ => [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            };
            let (content, read) = read(&bytes);
            prop_assert_eq!(content, detect_whole(&bytes));
            prop_assert_eq!(
                String::from_utf8(read).unwrap(),
                content.encoding().unwrap().decode(&bytes).into_owned()
            );
        }
    }

    #[test]
    fn binary_content_comes_as_it_is() {
        let bytes = b"\x7fELF\0\xff\xfe\x80".repeat(30_000);
        assert_eq!(read(&bytes), (Content::Binary, bytes));
    }
}
