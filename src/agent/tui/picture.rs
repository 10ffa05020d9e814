//! Images of results as the terminal's graphics.
//!
//! An image comes from a guest. So it is decoded within bounds and beside the front end, and what reaches the terminal is
//! made anew from its pixels.

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{DynamicImage, ImageFormat, ImageReader, Limits, RgbaImage};

use crate::agent::message::Image;

/// The largest image that is decoded, in bytes of Base64, and its longest side.
const BYTES: usize = 8 << 20;
const SIDE: u32 = 8_000;

/// How much memory a decoder may take.
const MEMORY: u64 = 64 << 20;

/// How many rows an image takes at most.
const ROWS: u16 = 16;

/// The longest sequence that a terminal gets: it is read before the next key's echo.
const LONGEST: usize = 512 << 10;

/// How much of an image one sequence of Kitty's protocol holds.
const CHUNK: usize = 4_096;

/// How a terminal shows images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Graphics {
    #[default]
    None,
    Kitty,
    Sixel,
}

/// The room for an image: columns, rows, and the pixels of one cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) columns: u16,
    pub(super) rows: u16,
    pub(super) cell: (u16, u16),
}

/// The bytes that show an image in rows of its own, and leave the cursor in the row below. None if it is damaged or too
/// large.
pub(super) fn picture(image: &Image, graphics: Graphics, space: Space) -> Option<Vec<u8>> {
    let (width, height) = space.cell;
    let rows = space.rows.min(ROWS);
    let (width, height) = (u32::from(width), u32::from(height));
    let room = (u32::from(space.columns) * width, u32::from(rows) * height);
    let image = decode(image, room)?;
    let used = (
        image.width().div_ceil(width),
        image.height().div_ceil(height),
    );
    let shown = match graphics {
        Graphics::None => return None,
        Graphics::Kitty => kitty(&image, used)?,
        Graphics::Sixel => sixel(&image),
    };
    // The room is made first, so that nothing scrolls while the image is drawn.
    let (room, rows) = ("\r\n".repeat(used.1 as usize), used.1);
    let all = format!("{room}\x1b[{rows}A\x1b7{shown}\x1b8\x1b[{rows}B\r");
    (all.len() <= LONGEST).then(|| all.into_bytes())
}

/// The pixels of an image, made smaller until they fit.
fn decode(image: &Image, (width, height): (u32, u32)) -> Option<RgbaImage> {
    let data = Some(&image.data).filter(|data| data.len() <= BYTES)?;
    let bytes = BASE64_STANDARD.decode(data).ok()?;
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE);
    limits.max_image_height = Some(SIDE);
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    let image = reader.with_guessed_format().ok()?.decode().ok()?;
    let fits = image.width() <= width && image.height() <= height;
    Some(match fits {
        true => image.into_rgba8(),
        false => image.thumbnail(width, height).into_rgba8(),
    })
}

/// An image by Kitty's protocol, over so many columns and rows.
fn kitty(image: &RgbaImage, (columns, rows): (u32, u32)) -> Option<String> {
    let mut png = Cursor::new(Vec::new());
    let image = DynamicImage::from(image.clone());
    image.write_to(&mut png, ImageFormat::Png).ok()?;
    let data = BASE64_STANDARD.encode(png.into_inner());
    let mut shown = String::new();
    let mut keys = format!("a=T,f=100,q=2,C=1,c={columns},r={rows},");
    let mut rest = &data[..];
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(rest.len().min(CHUNK));
        let is_more = u8::from(!more.is_empty());
        shown += &format!("\x1b_G{keys}m={is_more};{chunk}\x1b\\");
        keys.clear();
        rest = more;
    }
    Some(shown)
}

/// An image as sixels, in the colours of a cube of 6 x 6 x 6.
fn sixel(image: &RgbaImage) -> String {
    let (width, height) = image.dimensions();
    let mut shown = format!("\x1bP0;1q\"1;1;{width};{height}");
    for colour in 0..216 {
        let [r, g, b] = [colour / 36, colour / 6 % 6, colour % 6].map(|step| 20 * step);
        shown += &format!("#{colour};2;{r};{g};{b}");
    }
    for top in (0..height).step_by(6) {
        // Of each colour in these six rows, which pixels have it.
        let mut bits = std::collections::BTreeMap::new();
        for (y, x) in (top..height.min(top + 6)).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let [r, g, b, alpha] = image.get_pixel(x, y).0;
            if alpha >= 128 {
                let [r, g, b] = [r, g, b].map(|value| (u32::from(value) + 25) / 51);
                let row = bits.entry(36 * r + 6 * g + b);
                row.or_insert_with(|| vec![0_u8; width as usize])[x as usize] |= 1 << (y - top);
            }
        }
        for (colour, row) in bits {
            shown += &format!("#{colour}");
            for run in row.chunk_by(|a, b| a == b) {
                shown += &format!("!{}{}", run.len(), char::from(b'?' + run[0]));
            }
            shown.push('$');
        }
        shown.push('-');
    }
    shown + "\x1b\\"
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space {
        columns: 40,
        rows: 20,
        cell: (8, 16),
    };

    fn png(width: u32, height: u32) -> Image {
        let mut bytes = Cursor::new(Vec::new());
        let red = RgbaImage::from_pixel(width, height, image::Rgba([255, 0, 0, 255]));
        red.write_to(&mut bytes, ImageFormat::Png).unwrap();
        Image {
            mime: "image/png".to_owned(),
            data: BASE64_STANDARD.encode(bytes.into_inner()),
        }
    }

    fn shown(image: &Image, graphics: Graphics) -> Option<String> {
        picture(image, graphics, SPACE).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_image_is_shown_as_the_terminal_can() {
        let image = png(16, 32);
        let kitty = shown(&image, Graphics::Kitty).unwrap();
        let begin = "\r\n\r\n\x1b[2A\x1b7\x1b_Ga=T,f=100,q=2,C=1,c=2,r=2,m=0;";
        assert!(kitty.starts_with(begin), "{kitty:?}");
        assert!(kitty.ends_with("\x1b\\\x1b8\x1b[2B\r"));
        let sixel = shown(&image, Graphics::Sixel).unwrap();
        assert!(sixel.contains("\x1bP0;1q\"1;1;16;32#0;2;0;0;0#1;2;0;0;20"));
        // Five whole bands of red, and one of two rows.
        assert_eq!(sixel.matches("#180!16~$-").count(), 5);
        assert!(sixel.contains("#180!16B$-\x1b\\"));
        assert_eq!(shown(&image, Graphics::None), None);
    }

    #[test]
    fn an_image_is_bounded() {
        let wide = shown(&png(4_000, 1_000), Graphics::Sixel).unwrap();
        assert!(wide.contains("\"1;1;320;80"));
        let tall = shown(&png(10, 5_000), Graphics::Kitty).unwrap();
        assert!(tall.contains("r=16,"));
        assert_eq!(shown(&png(SIDE + 1, 1), Graphics::Kitty), None);
        let damaged = |data: &str| Image {
            mime: String::new(),
            data: data.to_owned(),
        };
        let cut = png(16, 16).data[..40].to_owned();
        for data in ["", "no Base64!", &cut, &"A".repeat(BYTES + 4)] {
            assert_eq!(shown(&damaged(data), Graphics::Sixel), None);
        }
    }
}
