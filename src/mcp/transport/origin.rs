//! Checks `Host` and `Origin`: the names of the server and the web pages that may call it. Pure.
//!
//! Without the check, any web page could reach a server on this machine through the browser of a person who views it, by a
//! name of its own that resolves to 127.0.0.1. A request without `Origin` comes from no web page; one without `Host` is
//! refused. A browser lets a page see an answer only if the headers of the answer allow it ([`cors`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::bind::ListenAddress;

/// How long a browser may cache the answer to a preflight.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(2 * 3600);

/// Headers of answers that a page may see, beside those that browsers always show.
const EXPOSED: [HeaderName; 6] = [
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("last-event-id"),
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
    header::ALLOW,
];

/// Headers of requests that MCP clients send.
const CLIENT_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, accept, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id",
);

/// The allowed values of `Host` and `Origin`.
#[derive(Debug, Clone)]
pub(crate) struct AllowList {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl AllowList {
    /// The names of the loopback, the address itself, and those that were configured.
    pub(crate) fn new(address: &ListenAddress, hosts: &[String], origins: &[String]) -> Self {
        let loopback = ["localhost", "127.0.0.1", "[::1]"];
        let mut all: Vec<String> = loopback.map(str::to_owned).to_vec();
        if let ListenAddress::Tcp(address) = address
            && !address.ip().is_unspecified()
        {
            all.push(match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
        }
        all.extend(hosts.iter().map(|host| host.to_lowercase()));
        let local = loopback
            .iter()
            .flat_map(|host| [format!("http://{host}:*"), format!("https://{host}:*")]);
        Self {
            hosts: all,
            origins: local.chain(origins.iter().cloned()).collect(),
        }
    }

    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    pub(crate) fn origins(&self) -> &[String] {
        &self.origins
    }

    /// Whether a request with these headers may pass; the error says why not.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
        let host = match hosts.as_slice() {
            [host] => host.to_str().map_err(|_| "the header Host is not text")?,
            _ => return Err("send one header Host".to_owned()),
        };
        if !self.hosts.iter().any(|known| matches_host(known, host)) {
            return Err(format!(
                "{host:?} is no name of this server; to allow it, start the server with --allow-host"
            ));
        }
        for origin in headers.get_all(header::ORIGIN) {
            if !self.allows(origin) {
                return Err(format!(
                    "web pages of {origin:?} may not call this server; to allow them, start the server with --allow-origin"
                ));
            }
        }
        Ok(())
    }

    /// Whether web pages of an origin may call.
    fn allows(&self, origin: &HeaderValue) -> bool {
        let is = |origin: &str| {
            self.origins
                .iter()
                .any(|known| matches_origin(known, origin))
        };
        origin.to_str().is_ok_and(is)
    }
}

/// Answers the preflights of allowed pages, and marks every answer as visible to them.
pub(crate) fn cors(allowed: Arc<AllowList>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _: &Parts| {
            allowed.allows(origin)
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        // Any header may be sent: servers ignore unknown ones, and MCP has headers with open names.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .allow_private_network(true)
        .max_age(PREFLIGHT_MAX_AGE)
}

/// Adds the headers of MCP clients to a preflight that names none, so its answer allows them.
pub(crate) fn add_client_headers(method: &Method, headers: &mut HeaderMap) {
    if method == Method::OPTIONS {
        let named = headers.entry(header::ACCESS_CONTROL_REQUEST_HEADERS);
        named.or_insert(CLIENT_HEADERS);
    }
}

/// Reads an origin as browsers write it; the error says what is wrong. The port `*` stands for every port.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let origin = text.trim().trim_end_matches('/').to_lowercase();
    if origin == "null" {
        return Ok(origin);
    }
    if origin == "*" {
        return Err("any web page could then call: name each origin that may".to_owned());
    }
    let whole = origin.strip_suffix(":*").unwrap_or(&origin);
    let parsed = whole.parse::<Uri>().ok();
    let exact =
        parsed.and_then(|uri| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)));
    if exact.as_deref() != Some(whole) || whole.contains(['@', '*']) {
        return Err(format!(
            "{text:?} is no origin: expected SCHEME://HOST[:PORT], such as https://app.example.com"
        ));
    }
    Ok(origin)
}

/// Whether a host is allowed. A known name without a port stands for every port.
fn matches_host(known: &str, host: &str) -> bool {
    let host = host.to_lowercase();
    host == known || without_port(&host) == known
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
        {
            name
        }
        _ => authority,
    }
}

fn matches_origin(known: &str, origin: &str) -> bool {
    let origin = origin.to_lowercase();
    let known = known.to_lowercase();
    if origin == known {
        return true;
    }
    // Only an origin counts: without a path and without a user.
    let Ok(uri) = origin.parse::<Uri>() else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return false;
    };
    if origin != format!("{scheme}://{authority}") || authority.as_str().contains('@') {
        return false;
    }
    match known.strip_suffix(":*") {
        Some(known) => format!("{scheme}://{}", without_port(authority.as_str())) == known,
        None => {
            let port = match scheme {
                "https" => ":443",
                _ => ":80",
            };
            format!("{origin}{port}") == known
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn passes(host: &str, origin: Option<&str>) -> bool {
        let allowed = AllowList::new(
            &"10.0.0.7:80".parse().unwrap(),
            &["box.example".to_owned()],
            &["https://app.example:443".to_owned()],
        );
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        allowed.check(&headers).is_ok()
    }

    #[test]
    fn names_of_the_server_pass_with_any_port() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:1",
            "[::1]:8",
            "[::1]",
            "10.0.0.7",
            "box.example:9",
        ] {
            assert!(passes(host, None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "::1",
            "",
            "localhost:80:80",
        ] {
            assert!(!passes(host, None), "{host}");
        }
        assert!(
            AllowList::new(&"127.0.0.1:1".parse().unwrap(), &[], &[])
                .check(&HeaderMap::new())
                .is_err()
        );
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for (text, origin) in [
            ("https://App.example/", "https://app.example"),
            ("http://localhost:*", "http://localhost:*"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("null", "null"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(origin));
        }
        for text in [
            "*",
            "app.example",
            "https://",
            "https://app.example/path",
            "https://*.example",
            "https://a@app.example",
            "",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pages_of_this_machine_and_named_ones_pass() {
        for origin in [
            "http://localhost:6274",
            "http://127.0.0.1",
            "https://[::1]:9",
            "https://app.example",
            "https://app.example:443",
        ] {
            assert!(passes("localhost", Some(origin)), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://app.example",
            "https://app.example:8443",
            "http://evil.example",
            "http://localhost.evil.example",
            "http://localhost:80@evil.example",
            "http://localhost:6274/x",
            "file://",
        ] {
            assert!(!passes("localhost", Some(origin)), "{origin}");
        }
    }
}
