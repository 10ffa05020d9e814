//! The heads of requests and answers: whom they are for, and which headers go on. Pure.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Version};

use super::target::Target;
use crate::network::rules::Host;

/// Headers that are of one connection only, beside those that `Connection` names.
const OF_ONE_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("http2-settings"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A request that asks for another host than its connection is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Other {
    /// It names another one.
    #[error("the connection is for `{host}`, but the request asks for `{asked}`")]
    Host {
        /// The connection's host.
        host: String,
        /// The request's.
        asked: String,
    },
    /// It names none.
    #[error("the connection is for `{0}`, but the request names no host")]
    None(String),
    /// It is for HTTP instead of HTTPS, or the other way round.
    #[error("the connection is for `{expected}`, but the request asks for `{asked}`")]
    Scheme {
        /// The connection's scheme.
        expected: String,
        /// The request's.
        asked: String,
    },
}

/// Whether a request is for the host and the port of its connection, in everything that says so.
pub(super) fn agrees(head: &request::Parts, to: &Target, secure: bool) -> Result<(), Other> {
    let expected = scheme(secure);
    if let Some(asked) = head.uri.scheme().filter(|asked| **asked != expected) {
        return Err(Other::Scheme {
            expected: expected.to_string(),
            asked: asked.to_string(),
        });
    }
    let hosts = head
        .headers
        .get_all(HOST)
        .iter()
        .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let authority = head
        .uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let mut named = authority.into_iter().chain(hosts).peekable();
    if named.peek().is_none() {
        return Err(Other::None(to.host.to_string()));
    }
    match named.find(|asked| !is_for(asked, to)) {
        Some(asked) => Err(Other::Host {
            host: to.host.to_string(),
            asked,
        }),
        None if head.headers.get_all(HOST).iter().count() > 1 => Err(Other::Host {
            host: to.host.to_string(),
            asked: "more than one host".to_owned(),
        }),
        None => Ok(()),
    }
}

fn is_for(asked: &str, to: &Target) -> bool {
    let Ok(authority) = asked.parse::<Authority>() else {
        return false;
    };
    let port = match authority.port() {
        None => true,
        Some(port) => port.as_u16() == to.port,
    };
    port && !asked.contains('@') && Host::parse(authority.host()).is_ok_and(|host| host == to.host)
}

fn scheme(secure: bool) -> Scheme {
    if secure { Scheme::HTTPS } else { Scheme::HTTP }
}

/// The host, with the port unless it is the scheme's own.
pub(super) fn authority(to: &Target, secure: bool) -> String {
    match to.port == if secure { 443 } else { 80 } {
        true => to.host.to_string(),
        false => format!("{}:{}", to.host, to.port),
    }
}

/// What a client asks for beside the request itself.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// To go on with another protocol.
    pub(super) upgrade: Option<HeaderValue>,
    /// To be told before it sends the body.
    pub(super) expects: bool,
}

/// Makes a request of the guest one of the host: names the server as the connection does, and leaves out what is for one
/// connection only.
pub(super) fn forward(
    head: &mut request::Parts,
    to: &Target,
    secure: bool,
    version: Version,
) -> Result<Wishes, http::Error> {
    let first = version < Version::HTTP_2;
    let upgrade = upgrade(&head.headers).filter(|_| first);
    let expects = first
        && head
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let trailers = head
        .headers
        .get_all(TE)
        .iter()
        .any(|value| has_token(value, "trailers"));
    strip(&mut head.headers);
    for name in [HOST, TE, EXPECT, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    if trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if expects {
        head.headers
            .insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    let path = head
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let authority = authority(to, secure);
    let asterisk = path == "*" && head.method == Method::OPTIONS;
    if first {
        head.headers.insert(HOST, HeaderValue::try_from(authority)?);
        head.uri = Uri::builder().path_and_query(path).build()?;
    } else {
        let path = if asterisk {
            PathAndQuery::from_static("*")
        } else {
            path
        };
        head.uri = Uri::builder()
            .scheme(scheme(secure))
            .authority(authority)
            .path_and_query(path)
            .build()?;
    }
    if let Some(upgrade) = &upgrade {
        head.headers.insert(UPGRADE, upgrade.clone());
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    head.version = version;
    // What the guest's side of the connection has left there is nothing for the other side.
    head.extensions = http::Extensions::new();
    Ok(Wishes { upgrade, expects })
}

/// Leaves out the headers that are for one connection only.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&OF_ONE_CONNECTION) {
        headers.remove(name);
    }
}

/// The protocol that a client wants to go on with; none if that is another form of HTTP, whose requests nobody would look
/// at, or TLS.
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    if !headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| has_token(value, "upgrade"))
    {
        return None;
    }
    let mut all = headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (all.next(), all.next()) else {
        return None;
    };
    let name = protocol.to_str().ok()?.trim().to_ascii_lowercase();
    let is_http = ["h2", "h3", "http", "tls"]
        .iter()
        .any(|form| name.starts_with(form));
    (!is_http && !name.is_empty() && !name.contains(',')).then(|| protocol.clone())
}

/// Whether a list in a header has this word.
pub(super) fn has_token(value: &HeaderValue, token: &str) -> bool {
    let words = value.as_bytes().split(|byte| matches!(byte, b',' | b';'));
    words
        .map(<[u8]>::trim_ascii)
        .any(|word| word.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn to(host: &str, port: u16) -> Target {
        let rules = tokio::sync::watch::channel(Arc::default()).1;
        Target {
            host: Host::parse(host).unwrap(),
            port,
            rules,
        }
    }

    fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn everything_that_names_a_host_must_name_the_connections() {
        let target = to("api.example", 443);
        for (uri, hosts, good) in [
            ("/", &["api.example"][..], true),
            ("/", &["API.example."], true),
            ("/", &["api.example:443"], true),
            ("https://api.example/", &[], true),
            ("https://api.example/", &["api.example"], true),
            ("/", &[], false),
            ("/", &["evil.example"], false),
            ("/", &["api.example:80"], false),
            ("/", &["api.example", "evil.example"], false),
            ("/", &["api.example", "api.example"], false),
            ("/", &["user@api.example"], false),
            ("/", &["api.example/evil.example"], false),
            ("/", &["api.example, evil.example"], false),
            ("/", &[""], false),
            ("https://evil.example/", &["api.example"], false),
            ("https://api.example/", &["evil.example"], false),
            ("http://api.example/", &["api.example"], false),
            (
                "https://user:password@api.example/",
                &["api.example"],
                false,
            ),
        ] {
            let headers: Vec<(&str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(
                agrees(&head(uri, &headers), &target, true).is_ok(),
                good,
                "{uri} {hosts:?}"
            );
        }
        assert!(
            agrees(
                &head("/", &[("host", "[2001:db8::7]:8443")]),
                &to("2001:db8::7", 8443),
                true
            )
            .is_ok()
        );
        assert!(
            agrees(
                &head("/", &[("host", "192.0.2.7")]),
                &to("192.0.2.7", 443),
                true
            )
            .is_ok()
        );
        assert!(
            agrees(
                &head("/", &[("host", "192.0.2.8")]),
                &to("192.0.2.7", 443),
                true
            )
            .is_err()
        );
    }

    #[test]
    fn headers_of_one_connection_stay_behind() {
        let headers = [
            ("host", "API.example"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("x-stays", "1"),
            ("upgrade", "websocket"),
            ("expect", "100-Continue"),
            ("content-length", "7"),
        ];
        let mut first = head("https://api.example/a?b", &headers);
        let wishes = forward(&mut first, &to("api.example", 8443), true, Version::HTTP_11).unwrap();
        assert!(wishes.upgrade.is_none() && wishes.expects);
        assert_eq!(first.uri, "/a?b");
        let mut left: Vec<String> = first
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "expect: 100-continue",
                "host: api.example:8443",
                "te: trailers",
                "x-stays: 1"
            ]
        );
        let mut second = head("https://api.example/a?b", &headers);
        assert!(
            !forward(&mut second, &to("api.example", 443), true, Version::HTTP_2)
                .unwrap()
                .expects
        );
        assert_eq!(second.uri, "https://api.example/a?b");
        assert_eq!(second.headers.len(), 2);
    }

    #[test]
    fn an_upgrade_leads_out_of_http_only() {
        for (connection, protocol, good) in [
            ("Upgrade", "websocket", true),
            ("keep-alive, upgrade", "SPDY/3.1", true),
            ("upgrade", "tcp", true),
            ("close", "websocket", false),
            ("upgrade", "h2c", false),
            ("upgrade", "H2C", false),
            ("upgrade", "HTTP/2.0", false),
            ("upgrade", "TLS/1.0", false),
            ("upgrade", "websocket, h2c", false),
            ("upgrade", "", false),
        ] {
            let mut head = head(
                "/",
                &[
                    ("host", "a.example"),
                    ("connection", connection),
                    ("upgrade", protocol),
                ],
            );
            let wishes = forward(&mut head, &to("a.example", 80), false, Version::HTTP_11).unwrap();
            assert_eq!(wishes.upgrade.is_some(), good, "{connection} {protocol}");
            assert_eq!(head.headers.contains_key(UPGRADE), good);
        }
    }
}
