//! The settings of a sandbox's network, resolved, and how a person changes them while it runs. Pure.
//!
//! No value of a secret is ever here: a secret says where the host reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::hosts::{Hosts, HostsError};
use super::rules::{Mode, Rule, RuleError, Rules};
use super::secrets;
use crate::key::KeySource;

/// The most rules of a list, and how long they may be together, in bytes.
const MAX_RULES: usize = 1000;
const MAX_BYTES: usize = 64 << 10;

/// The network of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How much is open.
    pub mode: Mode,
    /// What may be reached.
    pub allow: Vec<Stated>,
    /// What may not be reached, whatever is allowed.
    pub deny: Vec<Stated>,
    /// Names of the user's own, `HOST[:PORT]`, and what each stands for.
    pub hosts: BTreeMap<String, String>,
    /// Secrets by name. The name is also that of the guest's environment variable.
    pub secrets: BTreeMap<String, Secret>,
    /// Whether the guest trusts the authorities that the host trusts beyond the usual ones.
    pub trust_host_ca: bool,
    /// What it may use.
    #[serde(default)]
    pub bounds: Bounds,
}

/// What a sandbox may use of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Connections at once.
    pub connections: u32,
    /// New connections per second in the long run.
    pub per_second: u32,
    /// GiB in its life, both ways together; none for any number.
    pub gib: Option<u32>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_second: 1000,
            gib: None,
        }
    }
}

impl Bounds {
    /// Checks that all are in their ranges; says what was expected.
    pub fn check(&self) -> Result<(), String> {
        let in_range = |name: &str, value: u32| match value {
            1..=65_536 => Ok(()),
            _ => Err(format!("`{name}`: expected 1 to 65536")),
        };
        in_range("connections", self.connections)?;
        in_range("per_second", self.per_second)?;
        self.gib.map_or(Ok(()), |gib| in_range("gib", gib))
    }
}

/// A rule, and who stated it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// The rule as it was written.
    pub rule: String,
    /// A file, a variable, a flag, or a command.
    pub origin: String,
}

/// A secret that the host puts into requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Where the host reads it.
    pub from: SecretSource,
    /// Where it may go: hosts and requests, as in rules.
    pub hosts: Vec<String>,
    /// The only header that it is put into.
    pub header: String,
}

/// Where the host reads a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// The output of a shell line on the host.
    Command(String),
    /// An environment variable of the host's.
    Env(String),
    /// A file of the host's: an absolute path, or one below `~/`.
    File(PathBuf),
}

/// Who states a rule that holds for one command only: a person who was asked.
pub const ONCE: &str = "a person, once";

/// A change that a person makes while the sandbox runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Rules to add to what is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Rules to add to what is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

impl Settings {
    /// The rules.
    pub fn rules(&self) -> Result<Rules, RuleError> {
        fn texts(stated: &[Stated]) -> impl Iterator<Item = &str> {
            stated.iter().map(|stated| stated.rule.as_str())
        }
        Rules::new(self.mode, texts(&self.allow), texts(&self.deny))
    }

    /// The names of the user's own.
    pub fn hosts(&self) -> Result<Hosts, HostsError> {
        let entries = self.hosts.iter();
        Hosts::new(entries.map(|(name, to)| (name.as_str(), to.as_str())))
    }

    /// The settings as they may be shown.
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        for secret in shown.secrets.values_mut() {
            secret.from = secret.from.shown();
        }
        shown
    }

    /// Checks that there are not too many rules.
    pub fn check(&self) -> Result<(), ChangeError> {
        let fits = |list: &[Stated]| {
            let bytes: usize = list.iter().map(|stated| stated.rule.len()).sum();
            list.len() <= MAX_RULES && bytes <= MAX_BYTES
        };
        match fits(&self.allow) && fits(&self.deny) {
            true => Ok(()),
            false => Err(ChangeError::TooMany),
        }
    }

    /// Who stated the rule of which a [`Rules`] verdict has this text; a preset's rule has its name in front.
    pub fn origin_of(&self, rule: &str) -> Option<&Stated> {
        let has = |stated: &&Stated| {
            Rule::parse(&stated.rule).is_ok_and(|rules| rules.iter().any(|one| one.text == rule))
        };
        self.allow.iter().chain(&self.deny).find(has)
    }

    /// These settings with a change. What is allowed is denied no longer by the same rule, and the other way round;
    /// to allow something where the network is off switches to what is listed.
    pub fn changed(&self, change: &Change, origin: &str) -> Result<Self, ChangeError> {
        let mut changed = self.clone();
        let (allowed, denied) = (&mut changed.allow, &mut changed.deny);
        add(&change.allow, origin, allowed, denied)?;
        add(&change.deny, origin, denied, allowed)?;
        changed.check()?;
        if changed.mode == Mode::Off && !change.allow.is_empty() {
            changed.mode = Mode::List;
        }
        Ok(changed)
    }

    /// The settings without the rules that held for one command.
    #[must_use]
    pub fn without_once(&self) -> Self {
        let mut changed = self.clone();
        changed.allow.retain(|stated| stated.origin != ONCE);
        changed
    }
}

/// Adds rules to a list, and removes them from the other one.
fn add(
    rules: &[String],
    origin: &str,
    to: &mut Vec<Stated>,
    from: &mut Vec<Stated>,
) -> Result<(), RuleError> {
    for rule in rules {
        Rule::parse(rule)?;
        let rule = rule.trim();
        from.retain(|stated| stated.rule != rule);
        match to.iter_mut().find(|stated| stated.rule == rule) {
            // What was allowed once is now allowed for longer.
            Some(stated) if stated.origin == ONCE => origin.clone_into(&mut stated.origin),
            Some(_) => {}
            None => to.push(Stated {
                rule: rule.to_owned(),
                origin: origin.to_owned(),
            }),
        }
    }
    Ok(())
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A rule that can't be understood.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// There would be too many rules.
    #[error(
        "add the rules: a list has at most {MAX_RULES} of them, of {MAX_BYTES} bytes together; `*.NAME` stands for all \
         names below it"
    )]
    TooMany,
}

impl fmt::Display for Settings {
    /// A few words: `off`, `list: packages, github`, `open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn rules(stated: &[Stated]) -> Vec<&str> {
            stated.iter().map(|stated| stated.rule.as_str()).collect()
        }
        f.write_str(&in_words(
            self.mode,
            &rules(&self.allow),
            &rules(&self.deny),
        ))
    }
}

/// A few words for what is open: `off`, `list: packages, github`, `open, but not example.org`.
pub fn in_words(mode: Mode, allow: &[&str], deny: &[&str]) -> String {
    let list = |rules: &[&str]| match rules.len() {
        0..=6 => rules.join(", "),
        more => format!("{}, and {} more", rules[..5].join(", "), more - 5),
    };
    let open = match mode {
        Mode::Off => return mode.to_string(),
        Mode::List if allow.is_empty() => "list: nothing".to_owned(),
        Mode::List => format!("list: {}", list(allow)),
        Mode::Open => mode.to_string(),
    };
    match deny.is_empty() {
        true => open,
        false => format!("{open}, but not {}", list(deny)),
    }
}

impl Secret {
    /// The secret of that name, as the host keeps it.
    pub(crate) fn named(&self, name: &str) -> secrets::Secret {
        secrets::Secret {
            name: name.to_owned(),
            from: self.from.source(),
            hosts: self.hosts.clone(),
            header: self.header.clone(),
        }
    }

    /// Checks a secret of that name; says what is wrong.
    pub(crate) fn check(&self, name: &str) -> Result<(), String> {
        match &self.from {
            SecretSource::Command(line) if line.trim().is_empty() => {
                return Err("`from.command`: expected a command that prints it".into());
            }
            SecretSource::Env(name) if name.is_empty() || name.contains(['=', '\0']) => {
                return Err("`from.env`: expected the name of a variable".into());
            }
            SecretSource::File(path) if !path.is_absolute() && !path.starts_with("~") => {
                return Err("`from.file`: expected an absolute path, or one below `~/`".into());
            }
            _ => {}
        }
        let checked = self.named(name).check();
        checked.map(drop).map_err(|error| crate::describe(&error))
    }
}

impl SecretSource {
    fn source(&self) -> KeySource {
        match self {
            Self::Command(line) => {
                KeySource::Command(["sh", "-c", line].map(str::to_owned).to_vec())
            }
            Self::Env(name) => KeySource::Variable(name.clone()),
            Self::File(path) => {
                KeySource::File(match (path.strip_prefix("~"), etcetera::home_dir()) {
                    (Ok(below), Ok(home)) => home.join(below),
                    _ => path.clone(),
                })
            }
        }
    }

    /// As it may be shown: the arguments of a command may hold what is not for others.
    fn shown(&self) -> Self {
        match self {
            Self::Command(line) => {
                let mut words = line.split_whitespace();
                let first = words.next().unwrap_or_default();
                let rest = if words.next().is_some() { " …" } else { "" };
                Self::Command(format!("{first}{rest}"))
            }
            other => other.clone(),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(line) => write!(f, "the output of `{line}`"),
            Self::Env(name) => write!(f, "the variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

impl Mode {
    /// Every mode, the most closed one first.
    pub const ALL: [Self; 3] = [Self::Off, Self::List, Self::Open];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::List => "list",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::rules::{Host, Verdict};

    fn change(allow: &[&str], deny: &[&str]) -> Change {
        let texts = |list: &[&str]| list.iter().map(|rule| (*rule).to_owned()).collect();
        Change {
            allow: texts(allow),
            deny: texts(deny),
        }
    }

    fn allows(settings: &Settings, host: &str) -> bool {
        let host = Host::parse(host).unwrap();
        matches!(
            settings.rules().unwrap().connection(&host, 443),
            Verdict::Allowed { .. }
        )
    }

    #[test]
    fn a_change_opens_and_closes_and_says_who_made_it() {
        let off = Settings::default();
        let open = off
            .changed(&change(&["packages", " example.org "], &[]), "test")
            .unwrap();
        assert_eq!(open.to_string(), "list: packages, example.org");
        assert!(
            allows(&open, "pypi.org")
                && allows(&open, "example.org")
                && !allows(&off, "example.org")
        );
        assert_eq!(
            open.origin_of("packages (pypi.org)")
                .map(|by| by.rule.as_str()),
            Some("packages")
        );
        assert_eq!(
            open.origin_of("example.org").map(|by| by.origin.as_str()),
            Some("test")
        );
        let denied = open
            .changed(
                &change(&[], &["example.org", "files.pythonhosted.org"]),
                "x",
            )
            .unwrap();
        assert!(!allows(&denied, "example.org") && !allows(&denied, "files.pythonhosted.org"));
        assert_eq!(
            denied.to_string(),
            "list: packages, but not example.org, files.pythonhosted.org"
        );
        let again = denied.changed(&change(&["example.org"], &[]), "x").unwrap();
        assert!(allows(&again, "example.org"));
        assert!(matches!(
            off.changed(&change(&["pakages"], &[]), "x"),
            Err(ChangeError::Rule(_))
        ));
        let many: Vec<String> = (0..=MAX_RULES).map(|n| format!("h{n}.example")).collect();
        let many = Change {
            allow: many,
            deny: Vec::new(),
        };
        assert_eq!(off.changed(&many, "x"), Err(ChangeError::TooMany));
    }

    #[test]
    fn a_wrong_secret_says_what_was_expected() {
        let secret = |from: SecretSource, hosts: &[&str], header: &str| Secret {
            from,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            header: header.to_owned(),
        };
        let env = || SecretSource::Env("TOKEN".into());
        let good = secret(
            env(),
            &["api.github.com", "*.example.org:8443"],
            "Authorization",
        );
        assert_eq!(good.check("GITHUB_TOKEN"), Ok(()));
        for (secret, name, expected) in [
            (good.clone(), "1A", "environment variable"),
            (secret(env(), &[], "Authorization"), "A", "no `hosts`"),
            (
                secret(env(), &["gthub"], "Authorization"),
                "A",
                "did you mean `github`?",
            ),
            (
                secret(env(), &["x.org"], "Host"),
                "A",
                "`Host` is no header that can hold",
            ),
            (secret(env(), &["x.org"], "a b"), "A", "`a b` is no header"),
            (
                secret(SecretSource::File("token".into()), &["x.org"], "X-Key"),
                "A",
                "absolute",
            ),
            (
                secret(SecretSource::Command(" ".into()), &["x.org"], "X-Key"),
                "A",
                "prints",
            ),
        ] {
            let error = secret.check(name).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let named = secret(SecretSource::File("~/token".into()), &["x.org"], "X-Key").named("A");
        assert!(matches!(named.from, KeySource::File(path) if path.is_absolute()));
    }

    #[test]
    fn what_is_shown_has_no_arguments_of_commands() {
        let secret = Secret {
            from: SecretSource::Command("echo hunter2".into()),
            hosts: vec!["x.org".into()],
            header: "X-Key".into(),
        };
        let mut settings = Settings::default();
        settings.secrets.insert("A".into(), secret);
        let shown = serde_json::to_string(&settings.shown()).unwrap();
        assert!(
            shown.contains("echo …") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    proptest! {
        /// Settings are the same after they were written and read.
        #[test]
        fn settings_survive_json(allow in prop::collection::vec("[a-z]{1,5}\\.[a-z]{2,3}", 0..9), mode in 0..3usize) {
            let stated = |rule: &String| Stated { rule: rule.clone(), origin: "x".into() };
            let settings = Settings {
                mode: Mode::ALL[mode],
                allow: allow.iter().map(stated).collect(),
                ..Settings::default()
            };
            let text = serde_json::to_string(&settings).unwrap();
            prop_assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        }

        /// What was denied last is not reachable, and what was allowed last is, unless another rule denies it.
        #[test]
        fn the_last_change_counts(names in prop::collection::vec(("[a-c]\\.org", any::<bool>()), 1..12)) {
            let mut settings = Settings::default();
            for (name, allow) in &names {
                let list = [name.as_str()];
                let change = if *allow { change(&list, &[]) } else { change(&[], &list) };
                settings = settings.changed(&change, "x").unwrap();
                prop_assert_eq!(allows(&settings, name), *allow);
            }
        }
    }
}
