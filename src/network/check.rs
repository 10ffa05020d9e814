//! Which rule decides of a host or a URL, and why. Pure: no name is resolved.

use serde::Serialize;

use super::address;
use super::hosts::{Hosts, host_and_port};
use super::rules::{Asked, Host, Rules, Verdict, Why};
use super::settings::Settings;

/// What a person asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    host: Host,
    port: u16,
    /// Whether it is over TLS, and the path of the request.
    request: Option<(bool, String)>,
}

/// What the rules say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it may be reached.
    pub allowed: bool,
    /// The rule that decides; none if none does.
    pub rule: Option<String>,
    /// Who stated that rule.
    pub origin: Option<String>,
    /// The decision in words, with its reason.
    pub why: String,
    /// What `network.hosts` leads it to.
    pub leads_to: Option<String>,
    /// Whether each request is looked at.
    pub inspected: bool,
    /// The secrets that go there.
    pub secrets: Vec<String>,
    /// What a person runs to allow it; none if that would not help.
    pub remedy: Option<String>,
}

impl Question {
    /// Understands `URL` or `HOST[:PORT]`; without a port it is 443.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            let (host, port) = host_and_port(text)?;
            return Ok(Self {
                host,
                port: port.unwrap_or(443),
                request: None,
            });
        };
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            other => return Err(format!("`{other}://` is not `https://` or `http://`")),
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let (host, port) = host_and_port(authority)?;
        // Queries are not compared.
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            host,
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            request: Some((secure, path.to_owned())),
        })
    }

    /// Whether it is about a request, not only a connection.
    pub fn is_request(&self) -> bool {
        self.request.is_some()
    }
}

/// What a person runs to allow connections to a host; the port is left out where a rule does not need it.
pub fn remedy(host: &str, port: Option<u16>) -> String {
    format!("snowglobe network allow {}", target(host, port))
}

/// The rule for a host and a port.
pub fn target(host: &str, port: Option<u16>) -> String {
    match port {
        None | Some(80 | 443) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    }
}

/// Whether a rule that is added could change a refusal.
fn helps(why: &Why) -> bool {
    match why {
        Why::Off | Why::NotListed | Why::Literal | Why::Request => true,
        Why::Denied(_) => false,
    }
}

/// Whether a rule that is added would allow what was refused; without a port, a name was refused.
pub fn could_be_allowed(rules: &Rules, host: &str, port: Option<u16>) -> bool {
    let Ok(host) = Host::parse(host) else {
        return false;
    };
    match rules.connection(&host, port.unwrap_or(443)) {
        Verdict::Refused(why) => helps(&why),
        Verdict::Allowed { .. } => false,
    }
}

/// What the settings say of a question; `method` is that of the request. Fails if the settings are wrong, which is found
/// when they are loaded.
pub fn check(settings: &Settings, asked: &Question, method: &str) -> Result<Answer, String> {
    let rules = settings.rules().map_err(|error| error.to_string())?;
    let hosts = settings.hosts().map_err(|error| error.to_string())?;
    let (host, port) = (&asked.host, asked.port);
    let mut verdict = rules.connection(host, port);
    let inspected = matches!(verdict, Verdict::Allowed { inspect: true, .. });
    if let (true, Some((secure, path))) = (inspected, &asked.request) {
        let request = Asked {
            method,
            secure: *secure,
            path,
        };
        verdict = rules.request(host, port, &request);
    }
    let own = hosts.find(host, port).map(|target| target.to_string());
    let mut answer = Answer {
        host: host.to_string(),
        port,
        allowed: false,
        rule: None,
        origin: None,
        why: String::new(),
        inspected,
        secrets: secrets(settings, host, port),
        remedy: None,
        leads_to: own,
    };
    match verdict {
        Verdict::Allowed { rule, .. } => {
            answer.allowed = true;
            answer.why = match rule.as_str() {
                "open" => "allowed: the network is open, and no rule denies it".to_owned(),
                rule => format!("allowed by the rule `{rule}`"),
            };
            answer.rule = Some(rule);
            refuse_special(&mut answer, host);
        }
        Verdict::Refused(why) => refuse(&mut answer, &why, &rules, &hosts, host),
    }
    let origin = answer
        .rule
        .as_deref()
        .and_then(|rule| settings.origin_of(rule));
    answer.origin = origin.map(|stated| stated.origin.clone());
    Ok(answer)
}

/// Refuses an address that is not the public network's, unless `network.hosts` names it.
fn refuse_special(answer: &mut Answer, host: &Host) {
    if let (Host::Address(at), None) = (host, &answer.leads_to)
        && let Err(why) = address::check(*at)
    {
        answer.allowed = false;
        answer.why =
            format!("refused: {host} is {why}; only an entry of `network.hosts` leads there");
    }
}

fn refuse(answer: &mut Answer, why: &Why, rules: &Rules, hosts: &Hosts, host: &Host) {
    answer.why = format!("refused: {why}");
    if *why == Why::NotListed && rules.may_resolve(&host.to_string()) {
        answer.why.push_str(" on this port; others may be reached");
    }
    if hosts.knows(host) {
        answer
            .why
            .push_str("; its entry of `network.hosts` needs a rule, too");
    }
    if let Why::Denied(rule) = why {
        answer.rule = Some(rule.clone());
    }
    answer.remedy = helps(why).then(|| remedy(&answer.host, Some(answer.port)));
}

/// The secrets that go to a host.
fn secrets(settings: &Settings, host: &Host, port: u16) -> Vec<String> {
    let goes = |hosts: &[String]| {
        let hosts = hosts.iter().map(String::as_str);
        let rules = Rules::new(super::rules::Mode::List, hosts, []);
        rules.is_ok_and(|rules| matches!(rules.connection(host, port), Verdict::Allowed { .. }))
    };
    let all = settings
        .secrets
        .iter()
        .filter(|(_, secret)| goes(&secret.hosts));
    all.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::settings::Change;

    fn settings(allow: &[&str], deny: &[&str]) -> Settings {
        let texts = |list: &[&str]| list.iter().map(|rule| (*rule).to_owned()).collect();
        let change = Change {
            allow: texts(allow),
            deny: texts(deny),
        };
        Settings::default().changed(&change, "test").unwrap()
    }

    fn asked(settings: &Settings, text: &str, method: &str) -> Answer {
        check(settings, &Question::parse(text).unwrap(), method).unwrap()
    }

    #[test]
    fn the_rule_that_decides_is_named_with_its_origin_and_the_remedy() {
        let mut settings = settings(
            &[
                "packages",
                "GET https://api.example.org/v1/**",
                "192.168.1.5:80",
                "db.local:5432",
            ],
            &["upload.pypi.org"],
        );
        settings
            .hosts
            .insert("db.local:5432".into(), "127.0.0.1:15432".into());
        for (text, method, allowed, says, remedy) in [
            (
                "https://pypi.org/simple/",
                "GET",
                true,
                "`packages (pypi.org)`",
                None,
            ),
            ("pypi.org", "GET", true, "`packages (pypi.org)`", None),
            (
                "upload.pypi.org",
                "GET",
                false,
                "the rule `upload.pypi.org` denies it",
                None,
            ),
            (
                "pypi.org:22",
                "GET",
                false,
                "on this port",
                Some("snowglobe network allow pypi.org:22"),
            ),
            (
                "evil.example:443",
                "GET",
                false,
                "no rule allows it",
                Some("snowglobe network allow evil.example"),
            ),
            (
                "https://api.example.org/v1/x?q=1",
                "GET",
                true,
                "GET https://api",
                None,
            ),
            (
                "https://api.example.org/v1/x",
                "POST",
                false,
                "this request",
                Some("snowglobe network allow api.example.org"),
            ),
            (
                "http://192.168.1.5/",
                "GET",
                false,
                "a private address; only an entry",
                None,
            ),
            (
                "1.1.1.1",
                "GET",
                false,
                "a literal address",
                Some("snowglobe network allow 1.1.1.1"),
            ),
            ("db.local:5432", "GET", true, "`db.local:5432`", None),
        ] {
            let answer = asked(&settings, text, method);
            assert_eq!(
                (answer.allowed, answer.remedy.as_deref()),
                (allowed, remedy),
                "{text}: {answer:?}"
            );
            assert!(answer.why.contains(says), "{text}: {answer:?}");
            assert_eq!(
                answer.origin.as_deref(),
                answer.rule.as_ref().map(|_| "test"),
                "{text}"
            );
        }
        assert_eq!(
            asked(&settings, "db.local:5432", "GET").leads_to.as_deref(),
            Some("127.0.0.1:15432")
        );
        let off = asked(&Settings::default(), "pypi.org", "GET");
        assert_eq!(
            (off.allowed, off.why.as_str()),
            (false, "refused: the network is off")
        );
    }

    #[test]
    fn what_is_no_host_and_no_url_is_refused() {
        for text in ["", "ftp://x.org/", "x.org:0", "http://:80/", "a b"] {
            assert!(Question::parse(text).is_err(), "{text}");
        }
        let parsed = Question::parse("HTTPS://user:pw@Example.ORG:8443?x").unwrap();
        assert_eq!(
            (parsed.host.to_string().as_str(), parsed.port),
            ("example.org", 8443)
        );
        assert_eq!(parsed.request, Some((true, "/".to_owned())));
    }
}
