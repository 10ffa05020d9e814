//! What the host itself answers to the guest: what was refused or failed, why, and what to do.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use super::body::Body;
use super::head::authority;
use super::target::Target;
use crate::network::rules::Why;

/// The longest path in an advice, in bytes.
const MAX_ADVICE: usize = 200;

/// An answer of plain text.
pub(super) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("snowglobe: {text}\n")));
    let mut answer = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// What a person can do so that a refused request is allowed.
pub(super) fn remedy(why: &Why, to: &Target, secure: bool, method: &str, path: &str) -> String {
    let url = format!(
        "{}://{}",
        if secure { "https" } else { "http" },
        authority(to, secure)
    );
    match why {
        Why::Denied(rule) => {
            format!("to allow it, remove `{rule}` from the network's `deny`, which always wins")
        }
        Why::Off => "to allow it, switch the sandbox's network on".to_owned(),
        // A person may copy the command into a shell, and the guest chose the path.
        _ if is_plain(method) && path.len() <= MAX_ADVICE && is_plain(path) => {
            format!("to allow it: snowglobe network allow '{method} {url}{path}'")
        }
        _ => format!("to allow it, add a rule for it: snowglobe network allow '{url}/…'"),
    }
}

/// Whether a text means itself, in a shell and in a rule.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_ascii_alphanumeric()
            || matches!(c, '/' | '.' | '_' | '-' | '~' | '@' | '+' | '=' | ':')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::network::rules::Host;

    #[test]
    fn an_advice_holds_nothing_that_a_shell_or_a_rule_reads_otherwise() {
        let rules = tokio::sync::watch::channel(Arc::default()).1;
        let to = Target {
            host: Host::parse("a.example").unwrap(),
            port: 8443,
            rules,
        };
        let advice = |path: &str| remedy(&Why::Request, &to, true, "GET", path);
        assert_eq!(
            advice("/data/x"),
            "to allow it: snowglobe network allow 'GET https://a.example:8443/data/x'"
        );
        for path in [
            "/'$(reboot)'",
            "/**",
            "/[a]",
            "/{a,b}",
            "/?",
            &"/a".repeat(200),
        ] {
            assert!(
                advice(path).ends_with("'https://a.example:8443/…'"),
                "{path}"
            );
        }
        assert!(remedy(&Why::Denied("x".into()), &to, true, "GET", "/").contains("`deny`"));
    }
}
