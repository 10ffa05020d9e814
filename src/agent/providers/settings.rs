//! Providers and models: what is known of them (`known.toml`), and what the user's `agent.toml` says, which counts more.
//!
//! No value of the user's file is repeated in an error: a key may have come into the wrong place.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::error::ProviderError;
use super::facts::{Facts, Said};
use super::name::ModelName;
use super::protocol::Protocol;
use crate::key::{Environment, KeySource, set};

/// The file's name in the configuration directory.
pub(super) const FILE: &str = "agent.toml";

/// A file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    model: Option<String>,
    providers: BTreeMap<String, Table>,
    models: BTreeMap<String, Said>,
}

/// What a file says of a provider.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    protocol: Option<Protocol>,
    url: Option<Address>,
    /// A variable with another address.
    url_env: Option<String>,
    key_env: Option<Variable>,
    key_command: Option<Vec<String>>,
    key_file: Option<PathBuf>,
    headers: HashMap<String, String>,
    /// A model of it, if it is chosen without one.
    model: Option<String>,
    /// How names of models begin that it makes.
    makes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Address(Url);

impl TryFrom<String> for Address {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let url = Url::parse(text.trim()).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        url.map(Self)
            .ok_or("no address, expected http://… or https://…")
    }
}

/// The name of an environment variable.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Variable(String);

impl TryFrom<String> for Variable {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match !name.is_empty() && name.chars().all(good) {
            true => Ok(Self(name)),
            false => Err("no name, expected the name of an environment variable, not the key"),
        }
    }
}

impl Table {
    /// What this table says, or else the known one.
    fn over(self, known: Self) -> Self {
        let has_key =
            self.key_env.is_some() || self.key_command.is_some() || self.key_file.is_some();
        Self {
            protocol: self.protocol.or(known.protocol),
            url_env: known.url_env.filter(|_| self.url.is_none()),
            url: self.url.or(known.url),
            key_env: self.key_env.or(known.key_env.filter(|_| !has_key)),
            model: known.model,
            makes: known.makes,
            ..self
        }
    }

    fn provider(self, dir: &Path, environment: &Environment) -> Result<Provider, String> {
        let variable = self.url_env.as_deref();
        let given = variable.and_then(|name| set(environment, name));
        let url = match given.map(Address::try_from).transpose() {
            Ok(given) => given.or(self.url).ok_or("`url` is missing")?.0,
            Err(why) => return Err(format!("{}: {why}", self.url_env.unwrap_or_default())),
        };
        let file = self.key_file.map(|path| match path.strip_prefix("~") {
            Ok(rest) => etcetera::home_dir().unwrap_or_default().join(rest),
            Err(_) => dir.join(path),
        });
        let key = match (self.key_env, self.key_command, file) {
            (None, None, None) => KeySource::None,
            (Some(Variable(name)), None, None) => KeySource::Variable(name),
            (None, Some(words), None) => KeySource::Command(words),
            (None, None, Some(path)) => KeySource::File(path),
            _ => return Err("expected one of key_env, key_command and key_file".to_owned()),
        };
        let headers = HeaderMap::try_from(&self.headers);
        Ok(Provider {
            protocol: self.protocol.ok_or("`protocol` is missing")?,
            url,
            key,
            headers: headers.map_err(|_| "`headers`: expected names and texts of headers")?,
            model: self.model,
            makes: self.makes,
        })
    }
}

/// A provider.
pub(super) struct Provider {
    pub(super) protocol: Protocol,
    pub(super) url: Url,
    pub(super) key: KeySource,
    pub(super) headers: HeaderMap,
    /// A model of it, if it is chosen without one.
    pub(super) model: Option<String>,
    /// How names of models begin that it makes.
    makes: Vec<String>,
}

impl Provider {
    /// Whether it runs on this machine or in its network.
    pub(super) fn is_local(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse() {
            Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
            Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unspecified(),
            Err(_) => {
                !host.contains('.') || host.ends_with(".localhost") || host.ends_with(".local")
            }
        }
    }

    /// What no error may show, beside the key.
    pub(super) fn secrets(&self) -> Vec<String> {
        let values = self.headers.values().flat_map(|value| value.to_str());
        let long = values.filter(|value| value.len() >= 8);
        let secrets = long.chain(self.url.password());
        secrets.map(str::to_owned).collect()
    }
}

/// The settings.
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) model: Option<ModelName>,
    pub(super) providers: BTreeMap<String, Provider>,
    /// What the user says of models.
    pub(super) models: BTreeMap<String, Said>,
    /// What is known of families of models.
    families: BTreeMap<String, Said>,
}

impl Settings {
    /// Reads the file, if it is there.
    pub(super) fn read(dir: &Path, environment: &Environment) -> Result<Self, ProviderError> {
        let path = dir.join(FILE);
        let refused = |why: String| ProviderError::Settings {
            path: path.display().to_string(),
            why,
        };
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| refused(error.to_string()))?,
        };
        let known = parse(include_str!("known.toml")).map_err(refused)?;
        let own = parse(&text).map_err(refused)?;
        let mut tables = known.providers;
        for (name, table) in own.providers {
            let known = tables.remove(&name).unwrap_or_default();
            tables.insert(name, table.over(known));
        }
        let mut providers = BTreeMap::new();
        for (name, table) in tables {
            let provider = table.provider(dir, environment);
            let wrong = |why| refused(format!("providers.{}: {why}", name.escape_debug()));
            providers.insert(name.clone(), provider.map_err(wrong)?);
        }
        let model = own.model.map(|name| name.parse::<ModelName>()).transpose();
        let settings = Self {
            model: model.map_err(|_| refused("`model`: expected PROVIDER/MODEL".to_owned()))?,
            providers,
            models: own.models,
            families: known.models,
            path: path.clone(),
        };
        for name in settings.models.keys() {
            let named = name.parse::<ModelName>();
            let known = named.and_then(|name| settings.provider(&name).map(|_| ()));
            known.map_err(|error| refused(error.to_string()))?;
        }
        Ok(settings)
    }

    /// The provider of a model.
    pub(super) fn provider(&self, model: &ModelName) -> Result<&Provider, ProviderError> {
        let name = model.provider.as_str();
        self.providers.get(name).ok_or_else(|| {
            let known = self.providers.keys().map(String::as_str);
            let meant = crate::text::did_you_mean(name, known);
            let name = name.escape_debug();
            ProviderError::Name {
                why: format!(
                    "{meant}there is no provider `{name}`; `snowglobe agent models` lists them"
                ),
                name: model.to_string(),
            }
        })
    }

    /// What is known of the family of a model of that name: the longest beginning counts.
    pub(super) fn family(&self, model: &str) -> Option<&Said> {
        let last = model.rsplit('/').next().unwrap_or(model);
        let name = last.to_lowercase().replace('.', "-");
        let begins = |family: &str| {
            let rest = name.strip_prefix(family);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        };
        let families = self.families.iter().filter(|(family, _)| begins(family));
        let nearest = families.max_by_key(|(family, _)| family.len());
        nearest.map(|(_, said)| said)
    }

    /// What the user says of a model.
    pub(super) fn said(&self, model: &ModelName) -> Said {
        let said = self.models.get(&model.to_string());
        said.cloned().unwrap_or_default()
    }

    /// What is known of a model; cautious values for one that is not known.
    pub(super) fn facts(&self, model: &ModelName) -> Facts {
        let provider = self.providers.get(&model.provider);
        let local = provider.is_some_and(Provider::is_local);
        // The same name at another provider may cost anything.
        let sold = provider.is_some_and(|provider| provider.model.is_some());
        let none = Said::default();
        let known = self.family(&model.model).unwrap_or(&none);
        self.said(model).facts(known, local, sold)
    }

    /// The provider that makes a known model of that name.
    pub(super) fn maker(&self, model: &str) -> Option<&str> {
        self.family(model)?;
        let makes = |provider: &Provider| provider.makes.iter().any(|name| model.starts_with(name));
        let maker = self.providers.iter().find(|(_, provider)| makes(provider));
        maker.map(|(name, _)| name.as_str())
    }
}

/// Reads a file's text.
fn parse(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = 1 + before.unwrap_or_default().matches('\n').count();
        format!("line {line}: {}", wrong(error.message()))
    })
}

/// What is wrong, without the value: what stands before `expected` may hold it.
fn wrong(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    match message.rsplit_once(", expected ") {
        _ if message.starts_with("missing field ") => message.to_owned(),
        Some(_) if message.starts_with("unknown field ") => {
            let unknown = names.next().unwrap_or_default();
            crate::text::unknown_key(unknown, names)
        }
        Some((_, expected)) => format!("expected {expected}"),
        None => "it is no TOML".to_owned(),
    }
}

#[cfg(test)]
mod tests;
