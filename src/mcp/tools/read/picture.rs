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
pub(in crate::mcp) mod tests {
    use image::codecs::gif::{GifEncoder, Repeat};
    use image::{Frame, RgbaImage};

    use super::*;

    fn drawn(width: u32, height: u32) -> DynamicImage {
        let mut image = RgbaImage::new(width, height);
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            *pixel = image::Rgba([x as u8, y as u8, (x * y) as u8, 255]);
        }
        DynamicImage::ImageRgba8(image)
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let image = match format {
            ImageFormat::Jpeg => &DynamicImage::ImageRgb8(image.to_rgb8()),
            _ => image,
        };
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// A PNG of this size.
    pub(in crate::mcp) fn png(width: u32, height: u32) -> Vec<u8> {
        encoded(&drawn(width, height), ImageFormat::Png)
    }

    const FORMATS: [ImageFormat; 4] = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::WebP,
    ];

    /// What is passed on decodes, is whole, and is within the bounds.
    fn check(picture: &Picture) {
        let format = image::guess_format(&picture.bytes).unwrap();
        assert_eq!(media_type(format), Some(picture.media_type));
        let image = image::load_from_memory(&picture.bytes).unwrap();
        assert!(image.width().max(image.height()) <= MAX_SIDE);
        assert!(picture.bytes.len() <= MAX_LENGTH);
        assert!(is_complete(&picture.bytes, format));
    }

    #[test]
    fn whole_images_pass_byte_for_byte() {
        for format in FORMATS {
            let bytes = encoded(&drawn(30, 20), format);
            let picture = fit(bytes.clone().into()).unwrap();
            check(&picture);
            assert_eq!(picture.bytes, bytes, "{format:?}");
            assert_eq!((picture.width, picture.height), (30, 20));
            assert!(picture.notes.is_empty(), "{format:?}: {:?}", picture.notes);
        }
        let mut filled = encoded(&drawn(8, 8), ImageFormat::Jpeg);
        filled.extend(b"\0\0a film\xff\xd8");
        assert!(fit(filled.into()).unwrap().notes.is_empty());
    }

    #[test]
    fn cut_off_anywhere_it_is_refused_or_made_whole_and_said() {
        for format in FORMATS {
            let bytes = encoded(&drawn(40, 40), format);
            for length in 0..bytes.len() {
                if let Ok(picture) = fit(bytes[..length].to_vec().into()) {
                    check(&picture);
                    assert!(
                        picture.notes[0].contains("end is missing"),
                        "{format:?} {length}: {:?}",
                        picture.notes
                    );
                }
            }
        }
    }

    #[test]
    fn garbage_behind_a_header_never_breaks_anything() {
        for format in FORMATS {
            let bytes = encoded(&drawn(40, 40), format);
            for at in 8..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x5a;
                if let Ok(picture) = fit(damaged.into()) {
                    check(&picture);
                }
                let mut damaged = bytes[..at].to_vec();
                damaged.extend(b"not an image at all".repeat(20));
                if let Ok(picture) = fit(damaged.into()) {
                    check(&picture);
                }
            }
        }
        let refused = fit(Bytes::from_static(b"\x89PNG\r\n\x1a\nnot an image"))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("begins as image/png does"), "{refused}");
        assert!(fit(Bytes::from_static(b"BM")).is_err());
        assert!(fit(Bytes::new()).is_err());
    }

    #[test]
    fn what_is_too_large_is_made_smaller_and_said() {
        let picture = fit(png(8001, 30).into()).unwrap();
        check(&picture);
        assert_eq!((picture.width, picture.height), (8001, 30));
        assert!(
            picture.notes[0].contains("2000x7 pixels"),
            "{:?}",
            picture.notes
        );
        // Noise can't be packed: this is 12 MB.
        let mut noise = RgbaImage::new(2000, 1500);
        let mut state = 1_u32;
        for pixel in noise.pixels_mut() {
            for channel in &mut pixel.0 {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                *channel = state as u8;
            }
        }
        let noise = encoded(&DynamicImage::ImageRgba8(noise), ImageFormat::Png);
        assert!(noise.len() > MAX_LENGTH);
        check(&fit(noise.into()).unwrap());
    }

    #[test]
    fn bombs_and_nothings_are_refused_by_their_header() {
        let sized = |width: u32, height: u32| {
            let mut bytes = png(1, 1);
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            let mut sum = flate2::Crc::new();
            sum.update(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&sum.sum().to_be_bytes());
            fit(bytes.into()).unwrap_err().to_string()
        };
        let bomb = sized(60_000, 60_000);
        assert!(bomb.contains("60000x60000 pixels"), "{bomb}");
        assert!(bomb.contains("smaller copy"), "{bomb}");
        assert!(!sized(0, 0).is_empty());
        let zero = b"GIF89a\0\0\0\0\0\0\0,\0\0\0\0\0\0\0\0\0\x02\x01D\0;";
        assert!(fit(Bytes::from_static(zero)).is_err());
    }

    #[test]
    fn of_an_animation_the_first_picture_is_shown() {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        encoder.set_repeat(Repeat::Infinite).unwrap();
        for _ in 0..2 {
            encoder
                .encode_frame(Frame::new(drawn(16, 16).to_rgba8()))
                .unwrap();
        }
        drop(encoder);
        let picture = fit(bytes.into()).unwrap();
        check(&picture);
        assert_eq!(
            (picture.original, picture.media_type),
            ("image/gif", "image/png")
        );
        assert!(
            picture.notes[0].contains("animation"),
            "{:?}",
            picture.notes
        );
    }
}
