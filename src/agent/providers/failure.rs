//! What it means when a request fails: whether it passes, and what a person is told.
//!
//! Providers state failures in the status, in headers, in a body of their own form, and in the middle of a stream. All of
//! them come together here. What a provider says may hold the key, and anything else: [`Failure::shown`] makes it fit to be
//! shown.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// The most that is shown of what a provider says, in characters.
const SHOWN: usize = 500;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{why}")]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// Why, in words.
    pub(super) why: String,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// It may pass; the provider may say when.
    Passing(Option<Duration>),
    /// Nothing listens at a local address.
    NotThere,
    /// The conversation is too long.
    TooLong,
    /// The key is not accepted.
    Unauthorized,
    /// The quota is used up.
    Quota,
    /// The provider refuses to have the conversation answered.
    Refused,
    /// The model does not tell what it thinks to this user.
    Summary,
    /// Trying again does not help.
    Final,
}

impl Failure {
    pub(super) fn new(kind: Kind, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { kind, why }
    }

    /// It may pass, and the provider does not say when.
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self::new(Kind::Passing(None), why)
    }

    /// Trying again does not help.
    pub(super) fn last(why: impl Into<String>) -> Self {
        Self::new(Kind::Final, why)
    }

    /// The failure that an answer's status, headers and body state.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, body: &str) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let wait = waits(header("retry-after-ms"), header("retry-after"));
        let name = match status.as_u16() {
            429 => "it limits the rate".to_owned(),
            529 => "it is overloaded".to_owned(),
            code => {
                let reason = status.canonical_reason().unwrap_or_default();
                format!("it answers {code} {reason}").trim_end().to_owned()
            }
        };
        // A page for people says no more than the status does.
        let is_page = body.trim_start().starts_with('<');
        let text = || Value::from(if is_page { "" } else { body });
        let body = serde_json::from_str(body).unwrap_or_else(|_| text());
        judge(Some(status.as_u16()), &name, &body, wait)
    }

    /// The failure that an event in the middle of an answer states.
    pub(super) fn of_event(event: &Value) -> Self {
        judge(None, "it reports an error", event, None)
    }

    /// The failure, fit to be shown.
    pub(super) fn shown(mut self, secrets: &[String]) -> Self {
        self.why = shown(&self.why, secrets);
        self
    }
}

/// Words that say that a conversation is too long, at one provider or server or another.
const TOO_LONG: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size",
    "context_window_exceeded",
    "prompt is too long",
    "input is too long",
    "exceed context limit",
    "exceeds the context window",
    "exceeds the available context",
    "maximum context length",
    "maximum prompt length",
    "input token count",
    "reduce the length of the messages",
    "request_too_large",
    "string_above_max_length",
    "request too large for",
];

const QUOTA: &[&str] = &[
    "insufficient_quota",
    "billing_",
    "exceeded your current quota",
    "credit balance is too low",
    "insufficient balance",
    "insufficient credits",
    "requires more credits",
];

const REFUSED: &[&str] = &["content_filter", "invalid_prompt", "content_policy"];

const SUMMARY: &[&str] = &["reasoning.summary", "reasoning summaries"];

/// Types of failures that do not pass, for events without a status.
const FINAL: &[&str] = &["invalid", "not_found", "permission", "unsupported"];

/// Judges what a provider states, in any of the forms that they have.
fn judge(status: Option<u16>, name: &str, body: &Value, wait: Option<Duration>) -> Failure {
    let body = body.get(0).unwrap_or(body);
    let inner = body.pointer("/response/error").or(body.get("error"));
    let error = inner.filter(|error| !error.is_null()).unwrap_or(body);
    let text = |key: &str| error.get(key).and_then(Value::as_str);
    let said = text("message").or(text("detail")).or(error.as_str());
    let mut said = said.map_or_else(|| error.to_string(), str::to_owned);
    // What the provider behind a router said.
    if let Some(raw) = error.pointer("/metadata/raw") {
        let raw = raw.as_str().map_or_else(|| raw.to_string(), str::to_owned);
        said = format!("{said}: {raw}");
    }
    let kinds = ["type", "code", "status"].map(|key| text(key).unwrap_or_default());
    let kinds = kinds.join(" ").to_lowercase();
    let all = format!("{kinds} {}", said.to_lowercase());
    let says = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let is = |words: &[&str]| words.iter().any(|word| kinds.contains(word));
    let details = error.get("details").and_then(Value::as_array);
    let delay = details.into_iter().flatten().find_map(|detail| {
        let delay = detail.get("retryDelay")?.as_str()?;
        seconds(delay.strip_suffix('s')?)
    });
    let wait = wait.or(delay);
    // In an event there may be no status.
    let code = error.get("code").and_then(Value::as_u64).unwrap_or(0);
    let kind = match status.map_or(code, u64::from) {
        401 | 403 => Kind::Unauthorized,
        413 => Kind::TooLong,
        _ if says(TOO_LONG) => Kind::TooLong,
        402 => Kind::Quota,
        // Where the limit of a minute is called a quota, too, it comes with a wait.
        _ if says(QUOTA) && wait.is_none() => Kind::Quota,
        _ if is(REFUSED) => Kind::Refused,
        400 if says(SUMMARY) => Kind::Summary,
        501 | 505 => Kind::Final,
        408 | 409 | 425 | 429 | 500..=599 => Kind::Passing(wait),
        0 if !is(FINAL) => Kind::Passing(wait),
        _ => Kind::Final,
    };
    match kind {
        Kind::Passing(_) | Kind::Final if said.trim().is_empty() => Failure::new(kind, name),
        Kind::Passing(_) | Kind::Final => Failure::new(kind, format!("{name}: {said}")),
        _ => Failure::new(kind, said),
    }
}

/// The wait that the headers ask for: milliseconds, seconds or a date.
fn waits(millis: Option<&str>, after: Option<&str>) -> Option<Duration> {
    if let Some(wait) = millis.and_then(seconds) {
        return Some(wait / 1000);
    }
    let after = after?.trim();
    seconds(after).or_else(|| {
        let until = jiff::fmt::rfc2822::parse(after).ok()?.timestamp();
        let wait = until.duration_since(Timestamp::now());
        Some(Duration::try_from(wait).unwrap_or_default())
    })
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    // A year stands for all that is longer.
    let seconds = seconds.clamp(0.0, 366.0 * 24.0 * 3600.0);
    Duration::try_from_secs_f64(seconds).ok()
}

/// What a provider said, fit to be shown: one line of bounded length, without control characters and without secrets.
pub(super) fn shown(said: &str, secrets: &[String]) -> String {
    let bounded: String = said.chars().take(64 << 10).collect();
    let hidden = redacted(&bounded, secrets);
    let words: Vec<&str> = hidden.split_whitespace().collect();
    let line = words.join(" ");
    let line = crate::shown::line(&line);
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.into_owned(),
    }
}

/// The text with `[key]` in place of every secret, and of every word that shows a part of one.
fn redacted(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "[key]");
    }
    let ends_word = |c: char| !c.is_ascii_alphanumeric() && !"-_.*…+=".contains(c);
    let pieces = text.split_inclusive(ends_word).map(|piece| {
        let word = piece.trim_end_matches(ends_word);
        match secrets.iter().any(|secret| gives_away(word, secret)) {
            true => format!("[key]{}", &piece[word.len()..]),
            false => piece.to_owned(),
        }
    });
    pieces.collect()
}

/// Whether a word shows a part of a secret, or a secret with its middle left out.
fn gives_away(word: &str, secret: &str) -> bool {
    const TELLING: usize = 8;
    if secret.len() < TELLING || word.len() < TELLING {
        return false;
    }
    let mut parts = word.as_bytes().windows(TELLING);
    let shows = |part| memchr::memmem::find(secret.as_bytes(), part).is_some();
    let mut ends = word.split(['*', '.', '…']).filter(|end| !end.is_empty());
    let is_masked = ["**", "...", "…"].iter().any(|mask| word.contains(mask));
    parts.any(shows)
        || (is_masked && ends.clone().count() > 0 && ends.all(|end| secret.contains(end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn judged(status: u16, body: &str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::of_status(status, &HeaderMap::new(), body).shown(&[])
    }

    fn is(kind: Kind, why: &str) -> Failure {
        Failure::new(kind, why)
    }

    fn is_too_long(status: u16, message: &str) {
        let failure = judged(status, &json!({"error": {"message": message}}).to_string());
        assert_eq!(failure.kind, Kind::TooLong, "{message}");
    }

    #[test]
    fn an_overlong_conversation_is_recognised_at_every_provider() {
        is_too_long(400, "prompt is too long: 210000 tokens > 200000 maximum");
        is_too_long(
            400,
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        );
        is_too_long(
            400,
            "Your input exceeds the context window of this model. Please adjust your input",
        );
        is_too_long(
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        );
        is_too_long(
            400,
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        );
        is_too_long(
            400,
            "the request exceeds the available context size, try increasing it",
        );
        is_too_long(500, "the request exceeds the available context size");
        is_too_long(413, "");
        is_too_long(
            429,
            "Request too large for gpt-4o in organization org on tokens per min (TPM): Limit 30000, Requested 50000.",
        );
        let body = json!({"error": {"code": "context_length_exceeded", "message": "too much"}});
        assert_eq!(
            judged(400, &body.to_string()),
            is(Kind::TooLong, "too much")
        );
        assert_eq!(
            Failure::of_event(&json!({"response": {"error": body["error"]}})),
            is(Kind::TooLong, "too much")
        );
        let body =
            json!({"error": {"code": 400, "type": "exceed_context_size_error", "message": "no"}});
        assert_eq!(judged(400, &body.to_string()), is(Kind::TooLong, "no"));
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        for status in [408, 409, 429, 500, 502, 503, 504, 529] {
            assert!(
                matches!(judged(status, "").kind, Kind::Passing(_)),
                "{status}"
            );
        }
        for status in [400, 404, 405, 422, 501, 307] {
            assert!(judged(status, "").kind == Kind::Final, "{status}");
        }
        for status in [401, 403] {
            assert!(judged(status, "no").kind == Kind::Unauthorized, "{status}");
        }
        let event = |kind: &str| {
            Failure::of_event(&json!({"type": "error", "error": {"type": kind, "message": "m"}}))
        };
        for kind in [
            "overloaded_error",
            "api_error",
            "rate_limit_error",
            "what_is_this",
        ] {
            assert!(matches!(event(kind).kind, Kind::Passing(_)), "{kind}");
        }
        assert!(event("invalid_request_error").kind == Kind::Final);
        let coded = Failure::of_event(&json!({"error": {"code": 400, "message": "bad"}}));
        assert!(coded.kind == Kind::Final, "{coded:?}");
    }

    #[test]
    fn a_used_up_quota_does_not_pass() {
        let body = json!({"error": {"type": "insufficient_quota", "message": "You exceeded your current quota"}});
        assert!(judged(429, &body.to_string()).kind == Kind::Quota);
        assert!(judged(402, "pay").kind == Kind::Quota);
        let body = json!({"error": {"type": "invalid_request_error", "message": "Your credit balance is too low to"}});
        assert!(judged(400, &body.to_string()).kind == Kind::Quota);
        // The limit of a minute.
        let body = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota",
            "details": [{"@type": "RetryInfo", "retryDelay": "35.5s"}]}});
        let after = Some(Duration::from_millis(35_500));
        let failure = judged(429, &body.to_string());
        assert!(failure.kind == Kind::Passing(after), "{failure:?}");
    }

    #[test]
    fn a_refused_conversation_is_no_failure() {
        let body = json!({"error": {"code": "content_filter", "message": "filtered"}});
        assert_eq!(
            judged(400, &body.to_string()),
            is(Kind::Refused, "filtered")
        );
    }

    #[test]
    fn every_form_of_a_statement_is_read() {
        let why = |status, body: &str| judged(status, body).why;
        assert_eq!(
            why(404, "{\"error\":\"model 'x' not found\"}"),
            "it answers 404 Not Found: model 'x' not found"
        );
        assert_eq!(
            why(400, "[{\"error\":{\"message\":\"m\"}}]"),
            "it answers 400 Bad Request: m"
        );
        assert_eq!(
            why(422, "{\"detail\":\"d\"}"),
            "it answers 422 Unprocessable Entity: d"
        );
        let page = "<html><head><title>502</title></head>\n<body><h1>Bad\u{1b}[2J Gateway</h1></body></html>";
        assert_eq!(why(502, page), "it answers 502 Bad Gateway");
        let routed =
            "{\"error\":{\"message\":\"Provider returned error\",\"metadata\":{\"raw\":\"busy\"}}}";
        assert_eq!(
            why(503, routed),
            "it answers 503 Service Unavailable: Provider returned error: busy"
        );
        assert_eq!(
            why(400, "a\u{1b}[2J"),
            "it answers 400 Bad Request: a\\u{1b}[2J"
        );
        assert_eq!(why(529, "{}"), "it is overloaded: {}");
        assert!(why(400, &"x".repeat(100_000)).chars().count() < 600);
    }

    #[test]
    fn waits_are_read_in_every_form() {
        let wait = |millis, after| waits(millis, after).map(|wait| wait.as_millis());
        assert_eq!(wait(Some("1500"), Some("9")), Some(1500));
        assert_eq!(wait(None, Some("2.5")), Some(2500));
        assert_eq!(wait(None, Some("-3")), Some(0));
        assert_eq!(wait(None, Some("Sun, 06 Nov 1994 08:49:37 GMT")), Some(0));
        let soon = Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let date = jiff::fmt::rfc2822::to_string(&soon.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        assert!(
            (90_000..=100_000).contains(&wait(None, Some(&date)).unwrap()),
            "{date}"
        );
        for bad in ["", "soon", "NaN", "1e400x"] {
            assert_eq!(wait(None, Some(bad)), None, "{bad}");
        }
        assert!(wait(None, Some("1e300")).is_some());
    }

    #[test]
    fn a_key_is_not_shown_whole_or_in_part() {
        let key = "sk-proj-abcdefghijklmnop-1234".to_owned();
        for said in [
            format!("Incorrect API key provided: {key}."),
            "Incorrect API key provided: sk-proj-********1234. You can".to_owned(),
            "the key sk-proj-...1234 is".to_owned(),
            "token \"abcdefghijklmnop\" is bad".to_owned(),
            format!("https://host/?key={key}&x"),
        ] {
            let shown = shown(&said, std::slice::from_ref(&key));
            assert!(shown.contains("[key]"), "{shown}");
            assert!(
                !shown.contains("1234") && !shown.contains("abcdefgh"),
                "{shown}"
            );
        }
        assert_eq!(shown("nothing of it", &[key]), "nothing of it");
    }

    proptest! {
        #[test]
        fn nothing_of_a_secret_is_shown(before in "\\PC{0,30}", secret in "[a-zA-Z0-9_-]{8,60}", after in "\\PC{0,30}") {
            let said = format!("{before}{secret}{after}");
            let shown = shown(&said, std::slice::from_ref(&secret));
            prop_assert!(!shown.contains(&secret));
            prop_assert!(shown.chars().count() <= SHOWN + 1);
        }

        #[test]
        fn any_body_is_judged(status in 100_u16..600, body in "\\PC{0,200}") {
            let _ = judged(status, &body);
            let _ = judged(status, &format!("{{\"error\":{{\"message\":{body:?}}}}}"));
        }
    }
}
