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
