//! The layers as they are read: files and the environment, each checked against the table of keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use super::ConfigError;
use super::dirs::Dirs;
use super::keys::{KEYS, Key, Kind, Raw, SetBy, key};
use super::network::{self, RawNetwork};
use super::protect;
use crate::image::ImageRef;

/// Names that `SNOWGLOBE_*` may have beside the keys.
const OTHER_VARIABLES: &[&str] = &["LOG", "LIBEXEC", "CACHE_DIR", "RUNTIME_DIR"];

/// Where the layers come from; separate from [`super::Config`] so that tests bring their own.
#[derive(Debug, Default)]
pub struct Sources {
    /// The working directory.
    pub cwd: PathBuf,
    /// The path of the user's file.
    pub user_file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// The flags.
    pub flags: Raw,
}

impl Sources {
    /// The process's own working directory, files and environment.
    pub fn of_process(flags: Raw) -> Result<Self, ConfigError> {
        let cwd = std::env::current_dir().map_err(|source| ConfigError::Unreadable {
            path: ".".into(),
            source,
        })?;
        let user_file = etcetera::choose_base_strategy()
            .ok()
            .map(|dirs| dirs.config_dir().join("snowglobe/config.toml"));
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self {
            cwd,
            user_file,
            env,
            flags,
        })
    }
}

/// All layers except the project's, and the directories that they set.
pub(super) struct Layers {
    pub(super) user: Raw,
    pub(super) env: Raw,
    pub(super) flags: Raw,
    pub(super) dirs: Dirs,
}

impl Layers {
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let user = sources.user_file.as_deref().map(read_user);
        let user = user.transpose()?.unwrap_or_default();
        let (env, flags) = (read_env(&sources.env)?, sources.flags.clone());
        let dirs = Dirs::resolve(&user, &env.clone().under(flags.clone()), &sources.env)?;
        Ok(Self {
            user,
            env,
            flags,
            dirs,
        })
    }

    /// The environment and the flags, which are laid over the project's file.
    pub(super) fn over(&self) -> Raw {
        self.env.clone().under(self.flags.clone())
    }
}

/// The user's own file; one that cannot be read is an error, not "no file".
fn read_user(path: &Path) -> Result<Raw, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, SetBy::User),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Raw::default()),
        Err(source) => Err(ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A file's layer, which `by` wrote.
pub(super) fn parse(path: &Path, text: &str, by: SetBy) -> Result<Raw, ConfigError> {
    let refused = |message| ConfigError::Malformed {
        path: path.to_owned(),
        message,
    };
    let wrong = |error| malformed(path, text, &error);
    let table: Table = toml::from_str(text).map_err(wrong)?;
    for (name, value) in &table {
        let Some(key) = key(name) else {
            return Err(refused(unknown_key(name)));
        };
        if key.name == network::TABLE {
            network::check_keys(value.as_ref(), by == SetBy::Project).map_err(&refused)?;
        }
        if key.name == protect::PROTECT {
            protect::check_keys(value.as_ref()).map_err(&refused)?;
        }
        if by == SetBy::Project
            && let Err(why) = allowed_in_project(key, value.as_ref())
        {
            return Err(refused(format!(
                "{why}, since the file comes with the repository; set it in the user's configuration, \
                 by SNOWGLOBE_{} or by a flag",
                name.to_uppercase()
            )));
        }
    }
    let text = with_numbers(text, &table).map_err(&refused)?;
    let raw: Raw = toml::from_str(&text).map_err(|error| malformed(path, &text, &error))?;
    raw.network.check().map_err(refused)?;
    Ok(raw)
}

/// The top level of a file.
type Table = BTreeMap<String, toml::Spanned<toml::Value>>;

/// The text with numbers in place of the strings that state them with a unit, line by line the same.
fn with_numbers(text: &str, table: &Table) -> Result<String, String> {
    let mut numbers = Vec::new();
    for (name, value) in table {
        if let Some(key) = key(name).filter(|key| matches!(key.kind, Kind::Number(..)))
            && let Some(stated) = value.as_ref().as_str()
        {
            let span = value.span();
            let wrong = |expected| format!("{}`{name}`: {expected}", line_of(text, span.start));
            numbers.push((span.clone(), key.parse(stated).map_err(wrong)?));
        }
    }
    // From the end, so that the places before it stay.
    numbers.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for (span, number) in numbers {
        let breaks = text[span.clone()].matches('\n').count();
        text.replace_range(span, &format!("{number}{}", "\n".repeat(breaks)));
    }
    Ok(text)
}

/// Which line a place is in, to begin a message with.
fn line_of(text: &str, at: usize) -> String {
    text.get(..at)
        .map(|before| format!("line {}: ", 1 + before.matches('\n').count()))
        .unwrap_or_default()
}

fn allowed_in_project(key: &Key, value: &toml::Value) -> Result<(), String> {
    if key.set_by != SetBy::Project {
        return Err(format!("`{}` can't be set by a project", key.name));
    }
    let reference = value.as_str().map(str::parse::<ImageRef>);
    match reference {
        Some(Ok(reference)) if key.name == "image" && reference.host_path().is_some() => {
            Err("`image` can't name a file of the host in a project".into())
        }
        _ => Ok(()),
    }
}

/// What is wrong with a text, and where, but not the text itself: the path may lead to another file than was meant.
fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let place = error.span().map(|span| line_of(text, span.start));
    let place = place.unwrap_or_default();
    ConfigError::Malformed {
        path: path.to_owned(),
        message: format!("{place}{}", error.message()),
    }
}

fn unknown_key(name: &str) -> String {
    crate::text::unknown_key(name, KEYS.iter().map(|key| key.name))
}

fn read_env(env: &[(String, String)]) -> Result<Raw, ConfigError> {
    let may = |key: &Key| key.kind != Kind::Table;
    let (mut table, mut network) = (toml::Table::new(), RawNetwork::default());
    for (name, value) in env {
        let Some(suffix) = name.strip_prefix("SNOWGLOBE_") else {
            continue;
        };
        if OTHER_VARIABLES.contains(&suffix) || value.is_empty() {
            continue;
        }
        let refused = |message| ConfigError::Environment {
            name: name.clone(),
            message,
        };
        let lower = suffix.to_lowercase();
        if network.set_variable(&lower, value).map_err(&refused)? {
            continue;
        }
        let Some(key) = key(&lower).filter(|key| may(key)) else {
            let known = KEYS.iter().filter(|key| may(key)).map(|key| key.name);
            let known = known.chain(network::variables());
            return Err(refused(crate::text::unknown_key(&lower, known)));
        };
        let expected = |what: &str| refused(format!("expected {what}, got `{value}`"));
        let value = match key.kind {
            Kind::Number(..) => {
                let number = key
                    .parse(value)
                    .map_err(|expected| refused(format!("{expected}, got `{value}`")))?;
                toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
            }
            Kind::Boolean => {
                let truth = value.parse();
                toml::Value::Boolean(truth.map_err(|_| expected("`true` or `false`"))?)
            }
            Kind::Text | Kind::Table => toml::Value::String(value.clone()),
        };
        table.insert(lower, value);
    }
    let raw: Raw = table
        .try_into()
        .map_err(|e: toml::de::Error| ConfigError::Environment {
            name: "SNOWGLOBE_*".into(),
            message: e.message().to_owned(),
        })?;
    Ok(Raw { network, ..raw })
}
