//! What a model is shown of a tool's result. Pure.
//!
//! A server's result may be of any size and kind. What a provider would refuse must not get into the conversation, as the
//! conversation could then never go on: so images are looked at, and everything else becomes text.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::ImageFormat;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

use super::super::message::{Call, CallResult, Content, Image};
use crate::text::{middle_cut, size};

/// The most text of a result, in bytes.
const TEXT: usize = 400_000;

/// The most images of a result.
const IMAGES: usize = 20;

/// The largest image, in bytes; providers accept no larger ones.
const IMAGE: usize = 5 << 20;

/// The largest width and height of an image; providers accept no larger ones.
const SIDE: u32 = 8000;

/// What a model is shown of a tool that said nothing.
const NOTHING: &str = "(no output)";

/// A result as a model is shown it.
pub(super) fn shown(call: &Call, result: CallToolResult) -> CallResult {
    let mut parts = Parts {
        content: Vec::new(),
        room: TEXT,
        images: 0,
        left_out: 0,
    };
    let says = |block: &ContentBlock| !matches!(block, ContentBlock::Image(_));
    if let Some(structured) = &result.structured_content
        && !result.content.iter().any(says)
    {
        parts.text(&structured.to_string());
    }
    for block in result.content {
        match block {
            ContentBlock::Text(text) => parts.text(&text.text),
            ContentBlock::Image(image) => parts.image(&image.mime_type, image.data),
            ContentBlock::Audio(audio) => parts.data("audio", &audio.mime_type, audio.data),
            ContentBlock::Resource(embedded) => match embedded.resource {
                ResourceContents::TextResourceContents { uri, text, .. } => {
                    parts.text(&format!("{uri}:\n{text}"));
                }
                ResourceContents::BlobResourceContents {
                    uri,
                    mime_type,
                    blob,
                    ..
                } => {
                    parts.text(&format!("{uri}:"));
                    parts.data("binary data", &mime_type.unwrap_or_default(), blob);
                }
                _ => parts.text("[a resource of an unknown kind]"),
            },
            ContentBlock::ResourceLink(link) => {
                let about = link.description.map(|about| format!(" ({about})"));
                let about = about.unwrap_or_default();
                parts.text(&format!("resource {}: {}{about}", link.uri, link.name));
            }
            _ => parts.text("[content of an unknown kind]"),
        }
    }
    if parts.left_out > 0 {
        let note = format!("[{} more parts of the result are left out]", parts.left_out);
        parts.content.push(Content::Text(note));
    }
    if parts.content.is_empty() {
        parts.content.push(Content::Text(NOTHING.to_owned()));
    }
    CallResult {
        content: parts.content,
        ..CallResult::text(call, "", result.is_error == Some(true))
    }
}

/// The parts of a result, with what is left of its bounds.
#[derive(Debug)]
struct Parts {
    content: Vec<Content>,
    room: usize,
    images: usize,
    left_out: usize,
}

impl Parts {
    fn text(&mut self, text: &str) {
        if self.room == 0 && !text.is_empty() {
            self.left_out += 1;
            return;
        }
        let text = middle_cut(text, self.room).into_owned();
        self.room = self.room.saturating_sub(text.len());
        self.content.push(Content::Text(text));
    }

    fn image(&mut self, stated: &str, data: String) {
        match checked(&data) {
            Ok(mime) if self.images < IMAGES => {
                self.images += 1;
                let mime = mime.to_owned();
                self.content.push(Content::Image(Image { mime, data }));
            }
            Ok(_) => self.left_out += 1,
            Err(why) => self.text(&format!("[an image ({stated}) is not shown: {why}]")),
        }
    }

    fn data(&mut self, what: &str, mime: &str, data: String) {
        if mime.starts_with("image/") {
            return self.image(mime, data);
        }
        let bytes = size(data.len() as u64 / 4 * 3);
        self.text(&format!("[{what} ({mime}, {bytes}) can't be shown]"));
    }
}

/// The media type of an image that every provider accepts, by its bytes; servers state wrong ones.
fn checked(data: &str) -> Result<&'static str, String> {
    if data.len() / 4 * 3 > IMAGE {
        return Err(format!("it is larger than {}", size(IMAGE as u64)));
    }
    let bytes = BASE64_STANDARD.decode(data);
    let bytes = bytes.map_err(|_| "it is no valid Base64")?;
    let mime = match image::guess_format(&bytes) {
        Ok(ImageFormat::Png) => "image/png",
        Ok(ImageFormat::Jpeg) => "image/jpeg",
        Ok(ImageFormat::Gif) => "image/gif",
        Ok(ImageFormat::WebP) => "image/webp",
        _ => return Err("only PNG, JPEG, GIF and WebP can be".to_owned()),
    };
    let reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format();
    match reader.map(image::ImageReader::into_dimensions) {
        Ok(Ok((width, height))) if width <= SIDE && height <= SIDE => Ok(mime),
        Ok(Ok((width, height))) => Err(format!(
            "it has {width}x{height} pixels, {SIDE}x{SIDE} can be"
        )),
        _ => Err("it is damaged".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn call() -> Call {
        Call {
            id: "1".to_owned(),
            name: "tool".to_owned(),
            arguments: json!({}),
        }
    }

    fn of(result: serde_json::Value) -> Vec<Content> {
        shown(&call(), serde_json::from_value(result).unwrap()).content
    }

    fn texts(content: &[Content]) -> Vec<&str> {
        content
            .iter()
            .filter_map(|part| match part {
                Content::Text(text) => Some(text.as_str()),
                Content::Image(_) => None,
            })
            .collect()
    }

    fn png(width: u32, height: u32) -> String {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = image::DynamicImage::new_luma8(width, height);
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        BASE64_STANDARD.encode(bytes.into_inner())
    }

    #[test]
    fn every_kind_of_content_is_shown_or_named() {
        let shown = of(json!({"content": [
            {"type": "text", "text": "one"},
            {"type": "audio", "mimeType": "audio/wav", "data": "AAAA"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
            {"type": "resource", "resource": {"uri": "file:///b", "mimeType": "application/zip", "blob": "AAAA"}},
            {"type": "resource_link", "uri": "file:///c", "name": "c", "description": "the third"},
        ], "structuredContent": {"ignored": true}}));
        assert_eq!(
            texts(&shown),
            [
                "one",
                "[audio (audio/wav, 3 bytes) can't be shown]",
                "file:///a:\ninside",
                "file:///b:",
                "[binary data (application/zip, 3 bytes) can't be shown]",
                "resource file:///c: c (the third)"
            ]
        );
        assert_eq!(
            texts(&of(json!({"content": [], "structuredContent": {"a": 1}}))),
            ["{\"a\":1}"]
        );
        assert_eq!(texts(&of(json!({"content": []}))), [NOTHING]);
    }

    #[test]
    fn images_are_what_providers_accept() {
        let image = |data: &str| json!({"type": "image", "mimeType": "image/jpeg", "data": data});
        let shown = of(json!({"content": [image(&png(3, 2))]}));
        assert!(matches!(&shown[0], Content::Image(image) if image.mime == "image/png"));
        for (data, why) in [
            ("not base64!", "Base64"),
            ("AAAAAAAA", "only PNG"),
            (&png(9000, 1), "9000x1"),
            (
                &BASE64_STANDARD.encode(&BASE64_STANDARD.decode(png(3, 2)).unwrap()[..12]),
                "damaged",
            ),
            (&"A".repeat(8 << 20), "larger"),
        ] {
            let shown = of(json!({"content": [image(data)]}));
            assert!(texts(&shown)[0].contains(why), "{shown:?}");
        }
        let many: Vec<_> = (0..25).map(|_| image(&png(1, 1))).collect();
        let shown = of(json!({ "content": many }));
        assert_eq!(
            (shown.len(), texts(&shown)),
            (21, vec!["[5 more parts of the result are left out]"])
        );
    }

    proptest! {
        #[test]
        fn a_result_is_bounded_however_it_is_divided(sizes in prop::collection::vec(0_usize..900_000, 1..8)) {
            let blocks: Vec<_> = sizes.iter().map(|size| json!({"type": "text", "text": "é".repeat(size / 2)})).collect();
            let shown = of(json!({ "content": blocks }));
            let all: usize = texts(&shown).iter().map(|text| text.len()).sum();
            prop_assert!(all <= TEXT + 200);
            let whole: usize = sizes.iter().map(|size| size / 2 * 2).sum();
            let fits = whole > TEXT || all == whole;
            prop_assert!(fits);
        }
    }
}
