//! Pictures of the server and its tools, for clients that show some: small SVGs, inline.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rmcp::model::Icon;

/// What a data URI can't hold as it is.
const DATA: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>');

/// A globe on its stand, and snow.
const SERVER: &str = "<circle cx='12' cy='10' r='8'/><path d='M6 18h12l2 4H4z'/><path d='M9 8h0M14 7h0M12 12h0M15 12h0M9 13h0'/>";

/// The server's own.
pub(crate) fn server() -> Vec<Icon> {
    vec![icon(SERVER)]
}

/// A tool's.
pub(crate) fn tool(name: &str) -> Vec<Icon> {
    let shape = match name {
        "exec" => "<path d='M4 6l6 6-6 6M12 18h8'/>",
        "job" => "<path d='M4 6h10M4 12h10M4 18h6'/><path d='M17 14l5 3-5 3z'/>",
        "read" => "<path d='M6 2h9l4 4v16H6zM9 10h7M9 14h7M9 18h4'/>",
        "write" => "<path d='M6 2h9l4 4v16H6zM12 18v-8M9 13l3-3 3 3'/>",
        "edit" => "<path d='M4 20l1-5L16 4l4 4L9 19z'/>",
        "search" => "<circle cx='10' cy='10' r='6'/><path d='M15 15l6 6'/>",
        "snapshot" => "<path d='M3 7h4l2-3h6l2 3h4v13H3z'/><circle cx='12' cy='13' r='4'/>",
        "reboot" => "<path d='M19 12a7 7 0 1 1-2-5M19 3v5h-5'/>",
        _ => SERVER,
    };
    vec![icon(shape)]
}

fn icon(shape: &str) -> Icon {
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='#38b' stroke-width='2' \
         stroke-linecap='round' stroke-linejoin='round'>{shape}</svg>"
    );
    Icon::new(format!(
        "data:image/svg+xml,{}",
        utf8_percent_encode(&svg, DATA)
    ))
    .with_mime_type("image/svg+xml")
    .with_sizes(vec!["any".to_owned()])
}
