//! The first request of HTTP/1: its `Host`. Pure.

use http::Uri;
use memchr::memchr;

use super::super::hosts::host_and_port;
use super::super::rules::Host;
use super::wrong::Wrong;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// Whether a line, without the break at its end, is the first one of a request of HTTP/1.
pub(super) fn is_first_line(line: &[u8]) -> bool {
    let mut words = line.trim_ascii_end().rsplit(u8::is_ascii_whitespace);
    words.next().is_some_and(|last| last.starts_with(b"HTTP/1"))
}

/// Whether the request's head is complete, and for this name.
pub(super) fn is_for(held: &[u8], name: &str, web: bool) -> Result<bool, Wrong> {
    // A head that is not yet complete is not read again for each byte.
    if memchr(b'\n', &held[held.len().saturating_sub(1)..]).is_none()
        && !held.windows(2).any(|two| two == b"\n\r" || two == b"\n\n")
    {
        return Ok(false);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(held) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(false),
        Err(error) if web => return Err(Wrong::Unknown(error.to_string())),
        Err(error) => return Err(Wrong::Bad(error.to_string())),
    }
    let other = |asked: &str| Wrong::Other {
        name: name.to_owned(),
        asked: asked.to_owned(),
    };
    let path = request.path.unwrap_or_default();
    if request.method == Some("CONNECT") {
        return Err(other(path));
    }
    // Servers prefer the host of a whole URL to the header.
    if !path.starts_with('/') && path != "*" {
        let uri: Uri = path.parse().map_err(|_| other(path))?;
        is_name(
            uri.authority().map_or("", |authority| authority.as_str()),
            name,
        )
        .map_err(|()| other(path))?;
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (first, second) = (hosts.next(), hosts.next());
    let host = first.ok_or_else(|| Wrong::NoHost(name.to_owned()))?;
    let host = String::from_utf8_lossy(host.value);
    is_name(host.trim(), name).map_err(|()| other(&host))?;
    match second {
        Some(second) => Err(other(&String::from_utf8_lossy(second.value))),
        None => Ok(true),
    }
}

fn is_name(authority: &str, name: &str) -> Result<(), ()> {
    match host_and_port(authority) {
        Ok((Host::Name(asked), _)) if asked == name => Ok(()),
        _ => Err(()),
    }
}
