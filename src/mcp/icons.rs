//! Icons for clients that show some: small inline SVGs.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rmcp::model::Icon;

/// Characters that a data URI must encode.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>');

/// The server's icon: a snow globe on its stand.
pub(crate) const SERVER: &str = "<circle cx='12' cy='10' r='8'/><path d='M6 18h12l2 4H4z'/><path d='M9 8h0M14 7h0M12 12h0M15 12h0M9 13h0'/>";

/// An icon of this shape: SVG elements in a square of 24 by 24.
pub(crate) fn icon(shape: &str) -> Icon {
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='#38b' stroke-width='2' \
         stroke-linecap='round' stroke-linejoin='round'>{shape}</svg>"
    );
    Icon::new(format!(
        "data:image/svg+xml,{}",
        utf8_percent_encode(&svg, ENCODED)
    ))
    .with_mime_type("image/svg+xml")
    .with_sizes(vec!["any".to_owned()])
}
