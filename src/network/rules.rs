//! Rules: what the guest may reach. Pure: names and addresses in, verdicts out.
//!
//! A rule is one of
//!
//! - `NAME`, a [preset](super::presets) such as `packages`;
//! - `HOST[:PORT]`, where the host is a name, `*.NAME` for all names below it, an address or a network
//!   (`192.0.2.0/24`); without a port it allows 80 and 443, and denies all;
//! - `[METHOD] URL`, with `*` for one part of the path and `**` for any: `GET https://example.org/data/**`.
//!
//! `deny` always wins. A literal address needs a rule for it, also if everything else is open: no name was asked for
//! that a rule could know.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::address::canonical;
use super::presets;
use crate::text;

/// The ports of a rule that names none.
const WEB: [u16; 2] = [80, 443];

/// The longest rule, in bytes.
const MAX_RULE: usize = 2048;

/// The longest name of a host, in bytes.
const MAX_NAME: usize = 253;

/// What a connection is for. Names are in small letters, without the dot at their end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name.
    Name(String),
    /// A literal address; one of IPv4 if one of IPv6 stands for it.
    Address(IpAddr),
}

/// A rule that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("understand the rule `{rule}`: {why}")]
pub struct RuleError {
    /// The rule.
    pub rule: String,
    /// What is wrong, and what was expected.
    pub why: String,
}

/// How much is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    #[default]
    Off,
    /// What `allow` lists.
    List,
    /// The public network.
    Open,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As it was written; a preset's rules have its name in front: `packages (pypi.org)`.
    pub text: String,
    host: Pattern,
    /// The port that it names.
    port: Option<u16>,
    request: Option<Request>,
}

#[derive(Debug, Clone)]
enum Pattern {
    Name(String),
    /// All names that end with this, which begins with a dot.
    Below(String),
    Network(IpNet),
}

/// Which requests a rule is for.
#[derive(Debug, Clone)]
struct Request {
    method: Option<String>,
    secure: bool,
    path: GlobMatcher,
}

/// The rules of a sandbox.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// How much is open.
    pub mode: Mode,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The network is off.
    #[error("the network is off")]
    Off,
    /// No rule allows it.
    #[error("no rule allows it")]
    NotListed,
    /// A literal address without a rule of its own.
    #[error("a literal address needs a rule of its own")]
    Literal,
    /// A rule denies it.
    #[error("the rule `{0}` denies it")]
    Denied(String),
    /// Rules know other requests to that host.
    #[error("no rule allows this request")]
    Request,
}

/// What the rules say of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is allowed, by this rule.
    Allowed {
        /// The rule's text.
        rule: String,
        /// Whether each request must be looked at.
        inspect: bool,
    },
    /// It is refused.
    Refused(Why),
}

impl Host {
    /// Understands a name or an address in any of the forms that programs take: also `0x7f.1` and `2130706433`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = bare.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Address(canonical(address)));
        }
        match Url::parse(&format!("http://{bare}/"))
            .ok()
            .as_ref()
            .map(Url::host)
        {
            Some(Some(url_host)) if !bare.contains(['/', '@', ':', '?', '#', '\\']) => {
                match url_host.to_string().parse::<IpAddr>() {
                    Ok(address) => Ok(Self::Address(canonical(address))),
                    Err(_) => name(&url_host.to_string()).map(Self::Name),
                }
            }
            _ => Err(format!("`{text}` is no name of a host and no address")),
        }
    }
}

/// A name as the rules compare it.
fn name(text: &str) -> Result<String, String> {
    let fits = |label: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(letters)
    };
    match text.len() <= MAX_NAME && text.split('.').all(fits) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("`{text}` is no name of a host")),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "list" => Ok(Self::List),
            "open" => Ok(Self::Open),
            other => Err(format!("`{other}` is not `off`, `list` or `open`")),
        }
    }
}

impl Rule {
    /// Understands one line of `allow` or `deny`: a preset is several rules.
    pub fn parse(text: &str) -> Result<Vec<Self>, RuleError> {
        let error = |why: String| RuleError {
            rule: text.chars().take(100).collect(),
            why,
        };
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.len() > MAX_RULE {
            return Err(error(format!("a rule has 1 to {MAX_RULE} bytes")));
        }
        if trimmed.chars().all(|c| c.is_ascii_lowercase() || c == '-') && trimmed != "localhost" {
            let preset = presets::find(trimmed).ok_or_else(|| {
                let known = presets::names();
                error(format!(
                    "there is no preset `{trimmed}`; {}presets are {}; the name of a host has a dot or a port",
                    text::did_you_mean(trimmed, known.iter().map(String::as_str)),
                    known.join(", "),
                ))
            })?;
            return preset
                .rules
                .iter()
                .map(|(rule, _)| {
                    let shown = format!("{trimmed} ({rule})");
                    Self::of_one(rule)
                        .map(|rule| Self {
                            text: shown,
                            ..rule
                        })
                        .map_err(error)
                })
                .collect();
        }
        Self::of_one(trimmed).map(|rule| vec![rule]).map_err(error)
    }

    fn of_one(text: &str) -> Result<Self, String> {
        let (method, target) = match text.split_once(char::is_whitespace) {
            Some((method, target)) => {
                if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase()) {
                    return Err(format!(
                        "`{method}` is no method; methods are in capitals, as in `GET https://…`"
                    ));
                }
                (Some(method.to_owned()), target.trim())
            }
            None => (None, text),
        };
        let scheme = target.split_once("://");
        if method.is_some() && scheme.is_none() {
            return Err(
                "after a method a URL is expected, as in `GET https://example.org/data/**`".into(),
            );
        }
        let Some((scheme, rest)) = scheme else {
            let (host, port) = host_and_port(target)?;
            return Ok(Self {
                text: text.to_owned(),
                host,
                port,
                request: None,
            });
        };
        let secure = match scheme {
            "https" => true,
            "http" => false,
            other => return Err(format!("`{other}://` is not `https://` or `http://`")),
        };
        let (host, path) = rest.find('/').map_or((rest, "/**"), |at| rest.split_at(at));
        if path.contains(['?', '#']) {
            return Err("a rule's path has no `?` and no `#`: queries are not compared".into());
        }
        let (host, port) = host_and_port(host)?;
        let port = port.or(Some(if secure { 443 } else { 80 }));
        let path = GlobBuilder::new(path)
            .literal_separator(true)
            .backslash_escape(false)
            .build()
            .map_err(|source| format!("the path is no pattern: {}", source.kind()))?
            .compile_matcher();
        let request = Some(Request {
            method,
            secure,
            path,
        });
        Ok(Self {
            text: text.to_owned(),
            host,
            port,
            request,
        })
    }

    /// Whether it is about this host and port, whatever the request is.
    fn is_about(&self, host: &Host, port: u16) -> bool {
        self.is_about_host(host) && self.port.map_or(WEB.contains(&port), |named| named == port)
    }

    /// As [`Self::is_about`], for a rule that denies: without a port it denies all.
    fn denies_about(&self, host: &Host, port: u16) -> bool {
        self.is_about_host(host) && self.port.is_none_or(|named| named == port)
    }

    fn is_about_host(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Pattern::Name(rule), Host::Name(name)) => rule == name,
            (Pattern::Below(end), Host::Name(name)) => name.ends_with(end),
            (Pattern::Network(net), Host::Address(address)) => net.contains(address),
            _ => false,
        }
    }
}

/// The host and the port of `HOST[:PORT]`.
fn host_and_port(text: &str) -> Result<(Pattern, Option<u16>), String> {
    let is_v6 = text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_v6 && (!host.contains(':') || host.ends_with(']')) => {
            let number: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
            if number == 0 {
                return Err("port 0 is no port".into());
            }
            (host, Some(number))
        }
        _ => (text, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(net) = bare.parse::<IpNet>() {
        return Ok((Pattern::Network(net.trunc()), port));
    }
    if let Some(below) = host.strip_prefix("*.") {
        return match Host::parse(below)? {
            Host::Name(name) => Ok((Pattern::Below(format!(".{name}")), port)),
            Host::Address(_) => Err(format!("`{host}`: a `*.` stands before a name")),
        };
    }
    if host.contains('*') {
        return Err(format!(
            "`{host}`: `*.` may stand only before a name, for all names below it"
        ));
    }
    match Host::parse(host)? {
        Host::Name(name) => Ok((Pattern::Name(name), port)),
        Host::Address(address) => Ok((Pattern::Network(address.into()), port)),
    }
}

impl Request {
    /// Whether it is for this request. An odd path is one that servers read in different ways.
    fn is_for(&self, asked: &Asked<'_>, odd: bool) -> bool {
        let method = self.method.as_deref().is_none_or(|method| {
            method == asked.method || (method == "GET" && asked.method == "HEAD")
        });
        method && self.secure == asked.secure && (odd || self.path.is_match(decoded(asked.path)))
    }
}

/// A request that a rule may be for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method, such as `GET`.
    pub method: &'a str,
    /// Whether it is over TLS.
    pub secure: bool,
    /// The path, without the query.
    pub path: &'a str,
}

/// Whether servers may read a path in different ways: relative parts, encoded separators.
fn is_odd(path: &str) -> bool {
    let decoded = decoded(path);
    let separators = path.matches('/').count() != decoded.matches('/').count();
    let relative = |part: &str| part == "." || part == ".." || part.contains(';');
    separators
        || decoded.contains(['\\', '\0', '%', '\u{fffd}'])
        || decoded.contains("//")
        || decoded.split('/').any(relative)
        || !path.starts_with('/')
}

fn decoded(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

impl Rules {
    /// Understands the lines of `allow` and `deny`.
    pub fn new<'a>(
        mode: Mode,
        allow: impl IntoIterator<Item = &'a str>,
        deny: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, RuleError> {
        fn all<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Rule>, RuleError> {
            let rules: Result<Vec<_>, _> = lines.into_iter().map(Rule::parse).collect();
            Ok(rules?.into_iter().flatten().collect())
        }
        Ok(Self {
            mode,
            allow: all(allow)?,
            deny: all(deny)?,
        })
    }

    /// What the rules say of a connection.
    pub fn connection(&self, host: &Host, port: u16) -> Verdict {
        if self.mode == Mode::Off {
            return Verdict::Refused(Why::Off);
        }
        let about = |rule: &&Rule| rule.is_about(host, port);
        let denied = |rule: &&Rule| rule.denies_about(host, port);
        let mut inspect = false;
        for rule in self.deny.iter().filter(denied) {
            if rule.request.is_none() {
                return Verdict::Refused(Why::Denied(rule.text.clone()));
            }
            inspect = true;
        }
        let allowing: Vec<&Rule> = self.allow.iter().filter(about).collect();
        let whole = allowing.iter().find(|rule| rule.request.is_none());
        if let Some(rule) = whole {
            let rule = rule.text.clone();
            return Verdict::Allowed { rule, inspect };
        }
        match (self.mode, host, allowing.first()) {
            (Mode::Open, Host::Name(_), _) => {
                let rule = "open".to_owned();
                Verdict::Allowed { rule, inspect }
            }
            (_, _, Some(rule)) => {
                let rule = rule.text.clone();
                Verdict::Allowed {
                    rule,
                    inspect: true,
                }
            }
            (_, Host::Address(_), None) => Verdict::Refused(Why::Literal),
            _ => Verdict::Refused(Why::NotListed),
        }
    }

    /// What the rules say of a request on a connection that is inspected.
    pub fn request(&self, host: &Host, port: u16, asked: &Asked<'_>) -> Verdict {
        let odd = is_odd(asked.path);
        match self.connection(host, port) {
            refused @ Verdict::Refused(_) => return refused,
            Verdict::Allowed { .. } => {}
        }
        let about = |rule: &&Rule| rule.is_about(host, port);
        let denied = |rule: &&Rule| rule.denies_about(host, port);
        let denies = |rule: &&Rule| {
            rule.request
                .as_ref()
                .is_none_or(|request| request.is_for(asked, odd))
        };
        if let Some(rule) = self.deny.iter().filter(denied).find(denies) {
            return Verdict::Refused(Why::Denied(rule.text.clone()));
        }
        let allows = |rule: &&Rule| match &rule.request {
            None => true,
            Some(request) => !odd && request.is_for(asked, false),
        };
        let rule = self
            .allow
            .iter()
            .filter(about)
            .find(allows)
            .map(|rule| rule.text.clone());
        let open =
            (self.mode == Mode::Open && matches!(host, Host::Name(_))).then(|| "open".to_owned());
        match rule.or(open) {
            Some(rule) => Verdict::Allowed {
                rule,
                inspect: true,
            },
            None => Verdict::Refused(Why::Request),
        }
    }

    /// Whether every name may be reached, on any port and with any request.
    pub fn allows_every_name(&self) -> bool {
        self.mode == Mode::Open && self.deny.is_empty()
    }

    /// Whether a name may be resolved: some port of it may be reached.
    pub fn may_resolve(&self, host: &str) -> bool {
        let Ok(host @ Host::Name(_)) = Host::parse(host) else {
            return false;
        };
        let ports = self.allow.iter().filter_map(|rule| rule.port).chain(WEB);
        let reachable = |port| matches!(self.connection(&host, port), Verdict::Allowed { .. });
        ports.into_iter().any(reachable)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(mode: Mode, allow: &[&str], deny: &[&str]) -> Rules {
        Rules::new(mode, allow.iter().copied(), deny.iter().copied()).unwrap()
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn allows(rules: &Rules, to: &str, port: u16) -> bool {
        matches!(rules.connection(&host(to), port), Verdict::Allowed { .. })
    }

    #[test]
    fn each_form_of_a_rule_means_what_it_says() {
        let allow = [
            "packages",
            "example.org",
            "api.example.com:8443",
            "*.internal.example:5432",
            "192.0.2.7:25",
            "[2001:db8::7]:443",
            "203.0.113.0/24:9000",
            "b\u{fc}cher.example",
        ];
        let rules = rules(
            Mode::List,
            &allow,
            &["upload.pypi.org", "bad.internal.example:5432"],
        );
        for (to, port, expected) in [
            ("pypi.org", 443, true),
            ("pypi.org", 80, true),
            ("pypi.org", 22, false),
            ("upload.pypi.org", 443, false),
            ("PyPI.org.", 443, true),
            ("example.org", 443, true),
            ("www.example.org", 443, false),
            ("api.example.com", 8443, true),
            ("api.example.com", 443, false),
            ("db.internal.example", 5432, true),
            ("a.b.internal.example", 5432, true),
            ("internal.example", 5432, false),
            ("evilinternal.example", 5432, false),
            ("bad.internal.example", 5432, false),
            ("192.0.2.7", 25, true),
            ("0xc0000207", 25, true),
            ("192.0.2.8", 25, false),
            ("2001:db8::7", 443, true),
            ("203.0.113.99", 9000, true),
            ("xn--bcher-kva.example", 443, true),
            ("::ffff:192.0.2.7", 25, true),
        ] {
            assert_eq!(allows(&rules, to, port), expected, "{to}:{port}");
        }
    }

    #[test]
    fn modes_differ_in_what_no_rule_names() {
        let to = host("example.org");
        let off = rules(Mode::Off, &["example.org"], &[]);
        assert_eq!(off.connection(&to, 443), Verdict::Refused(Why::Off));
        let list = rules(Mode::List, &[], &[]);
        assert_eq!(list.connection(&to, 443), Verdict::Refused(Why::NotListed));
        let open = rules(Mode::Open, &[], &["example.net", "example.com:25"]);
        assert!(!allows(&open, "example.net", 8443) && allows(&open, "example.com", 443));
        assert!(!allows(&open, "example.com", 25));
        assert!(allows(&open, "example.org", 4711) && !allows(&open, "example.net", 443));
        assert_eq!(
            open.connection(&host("1.1.1.1"), 443),
            Verdict::Refused(Why::Literal)
        );
        assert!(
            open.may_resolve("example.org")
                && !open.may_resolve("1.1.1.1")
                && !off.may_resolve("example.org")
        );
    }

    #[test]
    fn requests_are_compared_where_rules_name_them() {
        let rules = rules(
            Mode::List,
            &[
                "GET https://example.org/data/**",
                "https://example.org/*/status",
                "open.example",
            ],
            &["POST https://open.example/admin/**"],
        );
        let to = host("example.org");
        assert!(matches!(
            rules.connection(&to, 443),
            Verdict::Allowed { inspect: true, .. }
        ));
        assert!(matches!(
            rules.connection(&host("open.example"), 443),
            Verdict::Allowed { inspect: true, .. }
        ));
        assert!(matches!(
            rules.connection(&host("open.example"), 80),
            Verdict::Allowed { inspect: false, .. }
        ));
        let ask = |to: &str, method: &str, path: &str| {
            let asked = Asked {
                method,
                secure: true,
                path,
            };
            matches!(
                rules.request(&host(to), 443, &asked),
                Verdict::Allowed { .. }
            )
        };
        for (to, method, path, expected) in [
            ("example.org", "GET", "/data/a/b", true),
            ("example.org", "HEAD", "/data/a", true),
            ("example.org", "POST", "/data/a", false),
            ("example.org", "GET", "/database", false),
            ("example.org", "POST", "/x/status", true),
            ("example.org", "GET", "/x/y/status", false),
            ("example.org", "GET", "/data/%61", true),
            ("example.org", "GET", "/data/../secret", false),
            ("example.org", "GET", "/data/%2e%2e/secret", false),
            ("example.org", "GET", "/data/..%2fsecret", false),
            ("example.org", "GET", "/data/%252e%252e/secret", false),
            ("example.org", "GET", "/data\\..\\secret", false),
            ("example.org", "GET", "/data/..;/secret", false),
            ("open.example", "GET", "/admin/x", true),
            ("open.example", "POST", "/admin/x", false),
            ("open.example", "POST", "/other", true),
            ("open.example", "POST", "//admin/x", false),
            ("open.example", "POST", "/other/../admin/x", false),
        ] {
            assert_eq!(ask(to, method, path), expected, "{method} {to}{path}");
        }
    }

    #[test]
    fn wrong_rules_say_what_is_wrong() {
        for (rule, expected) in [
            ("pakages", "did you mean `packages`?"),
            ("", "1 to"),
            ("example.org:0", "no port"),
            ("example.org:99999", "no port"),
            ("ex*mple.org", "only before a name"),
            ("get https://x.org/", "capitals"),
            ("GET x.org", "URL is expected"),
            ("ftp://x.org/", "https://"),
            ("https://x.org/?q", "queries"),
            ("a b c", "capitals"),
            ("ex ample", "capitals"),
            ("https://x.org/[", "no pattern"),
            ("-/-", "no name"),
            ("*.1.2.3.4", "before a name"),
        ] {
            let error = Rule::parse(rule).unwrap_err().to_string();
            assert!(error.contains(expected), "{rule}: {error}");
        }
    }

    proptest! {
        /// A name is allowed by a rule for exactly it, and by no rule for another one.
        #[test]
        fn only_the_named_host_is_allowed(a in "[a-z]{1,5}\\.[a-z]{2,4}", b in "[a-z]{1,5}\\.[a-z]{2,4}", port in 1..=u16::MAX) {
            let rules = rules(Mode::List, &[&format!("{a}:{port}")], &[]);
            prop_assert!(allows(&rules, &a, port));
            prop_assert_eq!(allows(&rules, &b, port), a == b);
            let longer = format!("x{a}");
            prop_assert!(!allows(&rules, &longer, port));
            prop_assert!(port == 443 || !allows(&rules, &a, 443));
        }

        /// What is denied is never allowed, whatever else is.
        #[test]
        fn deny_wins(name in "[a-z]{1,5}\\.[a-z]{2,4}", port in 1..=u16::MAX, mode in 0..3) {
            let mode = [Mode::Off, Mode::List, Mode::Open][mode as usize];
            let rule = format!("{name}:{port}");
            let rules = rules(mode, &[&rule, "packages"], &[&rule]);
            prop_assert!(!allows(&rules, &name, port));
        }

        /// Nothing that is typed does harm, and what is understood is understood again as it is shown.
        #[test]
        fn any_text_is_a_rule_or_an_error(text in "\\PC{0,40}|[a-z0-9.:*/\\[\\] -]{0,30}") {
            if let Ok(parsed) = Rule::parse(&text) {
                prop_assert!(!parsed.is_empty());
            }
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }
    }
}
