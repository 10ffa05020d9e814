//! Images for a model: only a file that decodes is passed on, and never a larger one than providers of models accept.
//!
//! A provider that refuses one image refuses the whole conversation from then on. So the guest is not believed that a
//! file is an image: all of it is decoded here on the host, under strict limits ([`MAX_PIXELS`], one image at a time).
//! A guest that was taken over could leave such a check out, and without hardware virtualization decoding takes ten
//! times as long there.
//!
//! An image that is whole and not too large is passed on byte for byte. Any other is encoded anew: scaled down, as the
//! first picture of an animation, or as much as is left of a file that was cut off. A note says so.

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use image::codecs::gif::GifDecoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::text;

/// The longest side of an image that is passed on, in pixels. Providers refuse more than 8000, and more than 2000 in a
/// conversation with many images; they scale an image of more than about 1600 down themselves.
const MAX_SIDE: u32 = 2000;

/// The longest file that is passed on, in bytes: as base64 it is shorter than 5 MB.
const MAX_LENGTH: usize = 3_700_000;

/// The largest image that is decoded, in pixels, and the memory that this may take, in bytes.
const MAX_PIXELS: u64 = 50_000_000;
const MAX_MEMORY: u64 = 512 << 20;

/// How much of a decoder's error is shown, in characters.
const MAX_REASON: usize = 120;

/// The sides that are tried until an image is short enough.
const SIDES: [u32; 4] = [MAX_SIDE, 1400, 1000, 500];

/// The quality of an image that is encoded as JPEG.
const QUALITY: u8 = 85;

/// An image that can be passed on.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) bytes: Bytes,
    pub(super) media_type: &'static str,
    /// Media type and size of the file itself.
    pub(super) original: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
    /// How the picture differs from the file.
    pub(super) notes: Vec<String>,
}

/// Why an image is not passed on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is no image")]
    NoImage,
    #[error("it is no PNG, JPEG, GIF or WebP image; convert it with exec")]
    OtherFormat,
    #[error("it begins as {media_type} does, but can't be decoded: {reason}")]
    Broken {
        media_type: &'static str,
        reason: String,
    },
    #[error("it is {media_type} of {width}x{height} pixels")]
    Empty {
        media_type: &'static str,
        width: u32,
        height: u32,
    },
    #[error(
        "it is {media_type} of {width}x{height} pixels, and at most {} are decoded; make a smaller copy with exec",
        text::grouped(MAX_PIXELS)
    )]
    TooLarge {
        media_type: &'static str,
        width: u32,
        height: u32,
    },
    #[error("it could not be made smaller: {0}; make a smaller copy with exec")]
    Encode(String),
    #[error("it could not be made small enough; make a smaller copy with exec")]
    StillTooLong,
    #[error("its decoder broke on it")]
    Panicked,
}

impl Unfit {
    /// Some decoders describe an error only for programmers.
    fn broken(media_type: &'static str, error: &image::ImageError) -> Self {
        let text = error.to_string();
        let plain = text.lines().next().filter(|line| !line.contains('{'));
        let reason = plain.unwrap_or("it is damaged");
        Self::Broken {
            media_type,
            reason: reason.chars().take(MAX_REASON).collect(),
        }
    }
}

/// Makes an image fit to be passed on.
pub(super) fn fit(bytes: Bytes) -> Result<Picture, Unfit> {
    // Decoding a large image takes a few hundred megabytes, so it is done for one image at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let format = image::guess_format(&bytes).map_err(|_| Unfit::NoImage)?;
    let original = media_type(format).ok_or(Unfit::OtherFormat)?;
    let image = decode(&bytes, format, original)?;
    let mut picture = Picture {
        bytes,
        media_type: original,
        original,
        width: image.width(),
        height: image.height(),
        notes: Vec::new(),
    };
    if !is_complete(&picture.bytes, format) {
        let note = "the file's end is missing; shown is what can be decoded";
        picture.notes.push(note.to_owned());
    }
    if is_animated(&picture.bytes, format) {
        let note = "an animation, of which the first picture is shown";
        picture.notes.push(note.to_owned());
    }
    let too_large = picture.width.max(picture.height) > MAX_SIDE;
    if picture.notes.is_empty() && !too_large && picture.bytes.len() <= MAX_LENGTH {
        return Ok(picture);
    }
    reencode(picture, image, format)
}

fn media_type(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Png => Some("image/png"),
        ImageFormat::Jpeg => Some("image/jpeg"),
        ImageFormat::Gif => Some("image/gif"),
        ImageFormat::WebP => Some("image/webp"),
        _ => None,
    }
}

/// The whole image, upright. Its size is checked before anything is decoded.
fn decode(
    bytes: &[u8],
    format: ImageFormat,
    media_type: &'static str,
) -> Result<DynamicImage, Unfit> {
    let broken = |error| Unfit::broken(media_type, &error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Unfit::Empty {
            media_type,
            width,
            height,
        });
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Unfit::TooLarge {
            media_type,
            width,
            height,
        });
    }
    let orientation = decoder.orientation();
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    if let Ok(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

/// Whether the file has the end mark of its format: some decoders accept a file without it, but others refuse it.
fn is_complete(bytes: &[u8], format: ImageFormat) -> bool {
    // Some programs pad files with zeros.
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let used = &bytes[..end];
    match format {
        ImageFormat::Png => bytes
            .windows(8)
            .rev()
            .any(|chunk| chunk == b"IEND\xaeB`\x82"),
        ImageFormat::Jpeg => jpeg_ends(bytes).is_some(),
        ImageFormat::Gif => used.ends_with(b";"),
        _ => bytes
            .get(4..8)
            .and_then(|length| length.try_into().ok())
            .is_some_and(|length| bytes.len() as u64 >= u64::from(u32::from_le_bytes(length)) + 8),
    }
}

/// Where a JPEG's own end mark is. The preview in its header has an end mark, too, and phones append videos.
fn jpeg_ends(bytes: &[u8]) -> Option<usize> {
    // After the start mark.
    let mut at = 2;
    loop {
        // Up to the next mark, between segments or within the picture's data.
        while *bytes.get(at)? != 0xff || matches!(bytes.get(at + 1)?, 0 | 0xd0..=0xd7 | 0xff) {
            at += 1;
        }
        if bytes[at + 1] == 0xd9 {
            return Some(at + 2);
        }
        let length = bytes.get(at + 2..at + 4)?;
        at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}

fn is_animated(bytes: &[u8], format: ImageFormat) -> bool {
    let source = Cursor::new(bytes);
    match format {
        ImageFormat::Gif => {
            GifDecoder::new(source).is_ok_and(|decoder| decoder.into_frames().nth(1).is_some())
        }
        ImageFormat::WebP => WebPDecoder::new(source).is_ok_and(|decoder| decoder.has_animation()),
        _ => false,
    }
}

/// Encodes the picture anew, as small as it has to be.
fn reencode(
    mut picture: Picture,
    image: DynamicImage,
    format: ImageFormat,
) -> Result<Picture, Unfit> {
    // Eight bits a channel are enough for an eye or a model.
    let mut image = match image.color().has_alpha() {
        true => DynamicImage::ImageRgba8(image.into_rgba8()),
        false => DynamicImage::ImageRgb8(image.into_rgb8()),
    };
    for side in SIDES {
        if image.width().max(image.height()) > side {
            image = image.thumbnail(side, side);
        }
        let drawn = match format {
            ImageFormat::Jpeg => None,
            _ => Some(png(&image)?).filter(|bytes| bytes.len() <= MAX_LENGTH),
        };
        let (bytes, media_type) = match drawn {
            Some(bytes) => (bytes, "image/png"),
            None => (jpeg(&image)?, "image/jpeg"),
        };
        if bytes.len() > MAX_LENGTH {
            continue;
        }
        picture.notes.push(format!(
            "shown as {media_type} of {}x{} pixels, {}; for details, cut a part out with exec",
            image.width(),
            image.height(),
            text::size(bytes.len() as u64)
        ));
        picture.bytes = bytes.into();
        picture.media_type = media_type;
        return Ok(picture);
    }
    Err(Unfit::StillTooLong)
}

fn not_encoded(error: image::ImageError) -> Unfit {
    Unfit::Encode(error.to_string())
}

fn png(image: &DynamicImage) -> Result<Vec<u8>, Unfit> {
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(not_encoded)?;
    Ok(bytes.into_inner())
}

fn jpeg(image: &DynamicImage) -> Result<Vec<u8>, Unfit> {
    let mut bytes = Vec::new();
    // A JPEG has no transparency: transparent pixels become white.
    let mut solid = image.to_rgba8();
    for pixel in solid.pixels_mut() {
        let alpha = u16::from(pixel[3]);
        for channel in 0..3 {
            let value = u16::from(pixel[channel]) * alpha + 255 * (255 - alpha);
            pixel[channel] = u8::try_from(value / 255).unwrap_or(u8::MAX);
        }
    }
    let solid = DynamicImage::ImageRgba8(solid).into_rgb8();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode_image(&solid)
        .map_err(not_encoded)?;
    Ok(bytes)
}

#[cfg(test)]
pub(in crate::mcp) mod tests;
