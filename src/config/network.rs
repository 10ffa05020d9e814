//! The table `[network]`, its flags and its variables: one layer of it, as a person writes it.
//!
//! Lists and tables of all layers count together; `deny` wins wherever it stands. A project's file may set
//! [`OF_PROJECTS`] only, and that is asked of a person ([`excess`]).

use std::collections::BTreeMap;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::error::ConfigError;
use crate::network::hosts::Hosts;
use crate::network::rules::{Mode, Rule};
use crate::network::settings::{Bounds, Secret, Settings, Stated};
use crate::text::unknown_key;

/// The table's key at the top of a file.
pub(super) const TABLE: &str = "network";

/// The keys of the table.
pub(super) const KEYS: [&str; 7] = [
    "mode",
    "allow",
    "deny",
    "hosts",
    "secrets",
    "trust_host_ca",
    "bounds",
];

/// The keys that a project's file may set.
const OF_PROJECTS: [&str; 3] = ["mode", "allow", "deny"];

/// The keys of a secret, and of where it is read.
const SECRET: [&str; 3] = ["from", "hosts", "header"];
const FROM: [&str; 3] = ["command", "env", "file"];

/// The keys of the bounds.
const BOUNDS: [&str; 3] = ["connections", "per_second", "gib"];

/// The keys that a variable and a flag set, and what each is called there.
const SHORT: [(&str, &str); 3] = [("mode", "network"), ("allow", "allow"), ("deny", "deny")];

/// One layer of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct RawNetwork {
    /// What the sandbox reaches of the network: `off`, nothing; `list`, what --allow names; `open`, the public
    /// network [default: list if anything is allowed, else off]
    #[arg(long = "network", value_name = "MODE", id = "setting_network", value_parser = mode_parser())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What the sandbox may reach: a preset (`packages`, `github`), HOST, HOST:PORT, *.NAME or a URL; may be repeated
    #[arg(long, value_name = "RULE", id = "setting_allow", value_parser = checked_rule)]
    #[serde(
        default,
        deserialize_with = "rules",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub allow: Vec<String>,
    /// What it may not reach, whatever is allowed; may be repeated
    #[arg(long, value_name = "RULE", id = "setting_deny", value_parser = checked_rule)]
    #[serde(
        default,
        deserialize_with = "rules",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub deny: Vec<String>,
    /// Names of the user's own, and what each stands for.
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, String>,
    /// Secrets by name.
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
    /// Whether the guest trusts the host's further authorities.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_host_ca: Option<bool>,
    /// What the sandbox may use.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
}

fn mode_parser() -> ValueParser {
    let modes = PossibleValuesParser::new(Mode::ALL.map(Mode::as_str));
    modes.try_map(|mode| mode.parse::<Mode>()).into()
}

/// A rule that can be understood.
fn checked_rule(text: &str) -> Result<String, String> {
    let rule = text.trim();
    Rule::parse(rule).map_err(|error| error.to_string())?;
    Ok(rule.to_owned())
}

/// Rules of a file. Each is checked by itself, so that an error names its line.
fn rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Checked(String);
    impl<'de> Deserialize<'de> for Checked {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let rule = String::deserialize(from)?;
            checked_rule(&rule).map(Self).map_err(de::Error::custom)
        }
    }
    let rules = Vec::<Checked>::deserialize(from)?;
    Ok(rules.into_iter().map(|rule| rule.0).collect())
}

impl RawNetwork {
    /// Whether nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `over` laid over this layer.
    pub(super) fn under(self, over: Self) -> Self {
        let both = |mut under: Vec<String>, over: Vec<String>| {
            for rule in over {
                if !under.contains(&rule) {
                    under.push(rule);
                }
            }
            under
        };
        Self {
            mode: over.mode.or(self.mode),
            allow: both(self.allow, over.allow),
            deny: both(self.deny, over.deny),
            hosts: self.hosts.into_iter().chain(over.hosts).collect(),
            secrets: self.secrets.into_iter().chain(over.secrets).collect(),
            trust_host_ca: over.trust_host_ca.or(self.trust_host_ca),
            bounds: over.bounds.or(self.bounds),
        }
    }

    /// What this layer sets and `over` does not.
    pub(super) fn not_in(&self, over: &Self) -> Self {
        let rest = |of: &[String], over: &[String]| -> Vec<String> {
            let rest = of.iter().filter(|rule| !over.contains(rule));
            rest.cloned().collect()
        };
        Self {
            mode: self.mode.filter(|_| over.mode.is_none()),
            allow: rest(&self.allow, &over.allow),
            deny: rest(&self.deny, &over.deny),
            ..self.clone()
        }
    }

    /// How much is open with this layer alone. Rules without a mode mean a list.
    pub(super) fn mode(&self) -> Mode {
        self.mode.unwrap_or(match self.allow.is_empty() {
            true => Mode::Off,
            false => Mode::List,
        })
    }

    /// Sets the key of a variable. Gives whether there is such a variable.
    pub(super) fn set_variable(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let rules = || -> Result<Vec<String>, String> {
            let rules = value.split(',').filter(|rule| !rule.trim().is_empty());
            rules.map(checked_rule).collect()
        };
        match SHORT.iter().find(|(_, short)| *short == name) {
            Some(("mode", _)) => self.mode = Some(value.trim().parse()?),
            Some(("allow", _)) => self.allow = rules()?,
            Some(_) => self.deny = rules()?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Checks what is more than a rule; says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, secret) in &self.secrets {
            let wrong = |why| format!("[network.secrets.{}]: {why}", name.escape_debug());
            secret.check(name).map_err(wrong)?;
        }
        let bounds = self.bounds.unwrap_or_default().check();
        bounds.map_err(|why| format!("[network.bounds]: {why}"))?;
        let hosts = self.hosts.iter();
        let hosts = Hosts::new(hosts.map(|(name, to)| (name.as_str(), to.as_str())));
        hosts.map(drop).map_err(|error| error.to_string())
    }

    /// The settings; `origin` tells who stated a rule of a key.
    pub(super) fn resolve(
        self,
        origin: impl Fn(&'static str, &str) -> String,
    ) -> Result<Settings, ConfigError> {
        let mode = self.mode();
        let stated = |key: &'static str, rules: Vec<String>| -> Vec<Stated> {
            let stated = rules.into_iter().map(|rule| Stated {
                origin: origin(key, &rule),
                rule,
            });
            stated.collect()
        };
        let settings = Settings {
            mode,
            allow: stated("allow", self.allow),
            deny: stated("deny", self.deny),
            hosts: self.hosts,
            secrets: self.secrets,
            trust_host_ca: self.trust_host_ca.unwrap_or(false),
            bounds: self.bounds.unwrap_or_default(),
        };
        // Each rule was checked where it was read.
        settings.check().map_err(|error| ConfigError::Value {
            key: TABLE,
            value: format!("{} rules", settings.allow.len() + settings.deny.len()),
            expected: error.to_string(),
        })?;
        Ok(settings)
    }
}

/// Checks the names of a file's keys in the table; `project`: whether the file is a project's.
pub(super) fn check_keys(table: &toml::Value, project: bool) -> Result<(), String> {
    let known = |table: &toml::Value, at: &str, known: &[&str]| -> Result<(), String> {
        let names = table.as_table().into_iter().flat_map(toml::Table::keys);
        match names
            .into_iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            Some(name) => Err(format!(
                "[{at}]: {}",
                unknown_key(name, known.iter().copied())
            )),
            None => Ok(()),
        }
    };
    known(table, TABLE, &KEYS)?;
    let Some(table) = table.as_table() else {
        return Err(
            "`network`: expected a table, such as `[network]` with `allow = [\"packages\"]`".into(),
        );
    };
    let foreign = table
        .keys()
        .find(|name| !OF_PROJECTS.contains(&name.as_str()));
    if let Some(name) = foreign.filter(|_| project) {
        return Err(format!(
            "`network.{name}` can't be set by a project, since the file comes with the repository; set it in the \
             user's configuration"
        ));
    }
    if let Some(bounds) = table.get("bounds") {
        known(bounds, "network.bounds", &BOUNDS)?;
    }
    let secrets = table.get("secrets").and_then(toml::Value::as_table);
    for (name, secret) in secrets.into_iter().flatten() {
        let at = format!("network.secrets.{}", name.escape_debug());
        known(secret, &at, &SECRET)?;
        if let Some(from) = secret.get("from") {
            known(from, &format!("{at}.from"), &FROM)?;
        }
    }
    Ok(())
}

/// What a project's file asks for beyond what the user's own settings open, each a fragment for a person. To close
/// something is not asked.
pub(super) fn excess(asked: &RawNetwork, user: &RawNetwork) -> Vec<String> {
    let mut beyond = Vec::new();
    let opens = |mode: Mode| Mode::ALL.iter().position(|one| *one == mode);
    if opens(asked.mode()) > opens(user.mode()) {
        beyond.push(format!("network.mode = \"{}\"", asked.mode()));
    }
    for rule in asked.allow.iter().filter(|rule| !user.allow.contains(rule)) {
        // The text is of unknown origin and length.
        let rule: String = rule.escape_debug().take(120).collect();
        beyond.push(format!("the network to reach `{rule}`"));
    }
    beyond
}

/// What the key of an effective setting is called as a flag, without the dashes: `network.mode` is `network`.
pub fn flag(setting: &str) -> &str {
    let short = setting.strip_prefix("network.").and_then(|key| {
        let short = SHORT.iter().find(|(name, _)| *name == key);
        short.map(|(_, short)| *short)
    });
    short.unwrap_or(setting)
}

/// The names of the variables, in small letters.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    SHORT.iter().map(|(_, short)| *short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(allow: &[&str]) -> RawNetwork {
        RawNetwork {
            allow: allow.iter().map(|rule| (*rule).to_owned()).collect(),
            ..RawNetwork::default()
        }
    }

    #[test]
    fn a_project_asks_for_what_opens_and_for_nothing_that_closes() {
        let user = RawNetwork {
            mode: Some(Mode::List),
            ..layer(&["packages"])
        };
        let off = RawNetwork {
            mode: Some(Mode::Off),
            deny: vec!["x.org".into()],
            ..layer(&[])
        };
        assert_eq!(excess(&off, &user), Vec::<String>::new());
        assert_eq!(excess(&layer(&["packages"]), &user), Vec::<String>::new());
        assert_eq!(
            excess(&layer(&["packages", "evil.example"]), &user),
            ["the network to reach `evil.example`"]
        );
        let open = RawNetwork {
            mode: Some(Mode::Open),
            ..layer(&[])
        };
        assert_eq!(excess(&open, &user), ["network.mode = \"open\""]);
        let nothing = RawNetwork::default();
        assert_eq!(excess(&layer(&["x.org"]), &nothing).len(), 2);
        assert_eq!(excess(&nothing, &nothing), Vec::<String>::new());
    }

    #[test]
    fn lists_of_layers_count_together_and_modes_replace_each_other() {
        let under = RawNetwork {
            mode: Some(Mode::Open),
            ..layer(&["a.org", "b.org"])
        };
        let over = RawNetwork {
            mode: Some(Mode::List),
            ..layer(&["b.org", "c.org"])
        };
        let both = under.clone().under(over.clone());
        assert_eq!(
            (both.mode(), both.allow),
            (Mode::List, layer(&["a.org", "b.org", "c.org"]).allow)
        );
        let rest = under.not_in(&over);
        assert_eq!((rest.mode, rest.allow), (None, layer(&["a.org"]).allow));
    }
}
