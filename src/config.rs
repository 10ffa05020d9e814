//! What the user set, resolved once.
//!
//! Layers, each over the one before: defaults, the user's file (`snowglobe/config.toml` in the user's
//! config directory), the project's file (`snowglobe.toml`), the environment (`SNOWGLOBE_*`), flags.
//! A layer is [`Raw`]: every key optional. Unknown keys are refused, with the nearest known key named.
//!
//! The project's file comes with the repository, and a guest can write it through the workspace. So it may
//! only size and furnish the machine ([`PROJECT_KEYS`]); what names host paths and programs is refused there; and
//! it counts only within the user's bounds or with the user's consent ([`crate::project`]).
//!
//! The workspace is the working directory unless the user names one. A directory that is no project (home, a
//! directory of the system) is shared only when it is named, and one that holds Snowglobe's own files never.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use etcetera::BaseStrategy;
use serde::Deserialize;

use crate::image::{ImageRef, Registries};
pub use crate::project::PROJECT_FILE;
use crate::project::{self, Bounds, Consent, Ignored, ProjectFile};
use crate::workspace::WorkspaceDir;

/// The keys that the project's file may set.
pub const PROJECT_KEYS: &[&str] = &[
    "background_after_s",
    "boot_timeout_s",
    "cpus",
    "disk_gib",
    "env",
    "exec_timeout_s",
    "image",
    "memory_mib",
    "nofile",
    "workspace_mode",
];

/// One layer: what somebody set, nothing resolved. Also the flags of every subcommand that runs a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// Image the sandbox runs: a name of `snowglobe image ls`, or any reference, such as python:3.12-slim [default: debian]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Virtual processors [default: as many as the host has, 4 at most]
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory in MiB [default: 2048]
    #[arg(long, value_name = "MIB")]
    pub memory_mib: Option<u32>,
    /// How much of its disk the sandbox may fill, in GiB [default: 16]
    #[arg(long, value_name = "GIB")]
    pub disk_gib: Option<u32>,
    /// Open files allowed per command in the sandbox [default: 65536]
    #[arg(long, value_name = "N")]
    pub nofile: Option<u64>,
    /// Host directory that is /workspace in the sandbox [default: the working directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// How /workspace is made: `mount` shares the host directory, `none` gives an empty one [default: mount]
    #[arg(long, value_name = "MODE")]
    pub workspace_mode: Option<WorkspaceMode>,
    /// Snapshot the sandbox starts from, instead of the clean image
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Name of the sandbox, whose snapshots it shares [default: made from the workspace's path]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Engine: `auto`, `krun` or `qemu` [default: auto]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineChoice>,
    /// What qemu runs on: `auto`, `kvm`, `hvf` or `tcg` [default: auto]
    #[arg(long, value_name = "ACCEL")]
    pub accel: Option<AccelChoice>,
    /// Where a fence around the VM can't be had on this host: `require` starts none, `best` says so and goes on [default: best]
    #[arg(long, value_name = "HOW")]
    pub isolation: Option<IsolationChoice>,
    /// The qemu program [default: qemu-system-ARCH in PATH]
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<PathBuf>,
    /// Seconds a boot may take [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub boot_timeout_s: Option<u64>,
    /// Seconds a command may run where the call says nothing [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub exec_timeout_s: Option<u64>,
    /// Seconds after which a call becomes a background job, where the client does not hear how it is doing [default: 50]
    #[arg(long, value_name = "SECONDS")]
    pub background_after_s: Option<u64>,
    /// Whether a person confirms restoring, deleting and rebooting: `never`, `ask` where the client can, `require` [default: never]
    #[arg(long, value_name = "WHEN")]
    pub confirm: Option<Confirm>,
    /// Whether commits in the sandbox get the name and e-mail address of your git configuration [default: true]
    #[arg(long, value_name = "BOOL")]
    pub git_identity: Option<bool>,
    /// Where images and snapshots are kept [default: snowglobe in the user's data directory]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What images may take on this disk, in GiB; beyond it, pulled ones nobody used for longest go [default: 100]
    #[arg(long, value_name = "GIB")]
    pub image_store_gib: Option<u32>,
    /// What the snapshots of a sandbox may take on this disk, in GiB [default: 50]
    #[arg(long, value_name = "GIB")]
    pub snapshot_gib: Option<u32>,
    /// How registries are reached: mirrors, http, ca.
    #[arg(skip)]
    #[serde(default)]
    pub registries: Registries,
    /// Environment of every command, NAME=VALUE; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_env)]
    #[serde(default, deserialize_with = "env_table")]
    pub env: Vec<(String, String)>,
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("expected NAME=VALUE, got `{text}`")),
    }
}

fn env_table<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    Ok(BTreeMap::<String, String>::deserialize(from)?
        .into_iter()
        .collect())
}

/// How `/workspace` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceMode {
    /// The host directory itself, by virtio-fs.
    #[default]
    Mount,
    /// An empty directory on the sandbox's own disk.
    None,
}

/// Whether a person is asked before what can't be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// Nobody is asked.
    #[default]
    Never,
    /// Where the client can ask; else the call goes on.
    Ask,
    /// Where the client can't ask, the call is refused.
    Require,
}

/// Which engine runs the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// The best one this host can run.
    #[default]
    Auto,
    /// libkrun.
    Krun,
    /// QEMU.
    Qemu,
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AccelChoice {
    /// Hardware virtualization where it truly works, else translation.
    #[default]
    Auto,
    /// Linux's hardware virtualization.
    Kvm,
    /// macOS's hardware virtualization.
    Hvf,
    /// Translation.
    Tcg,
}

/// What to do where a fence around the VM's processes can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationChoice {
    /// No VM is started.
    Require,
    /// It runs behind the others, and the first result says which do not hold.
    #[default]
    Best,
}

impl From<IsolationChoice> for snowglobe_runner::Isolation {
    fn from(choice: IsolationChoice) -> Self {
        match choice {
            IsolationChoice::Require => Self::Require,
            IsolationChoice::Best => Self::Best,
        }
    }
}

/// Everything resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The image: a name or a reference.
    pub image: String,
    /// What images may take on this disk, in bytes.
    pub image_store_bytes: u64,
    /// What snapshots may take on this disk, in bytes.
    pub snapshot_bytes: u64,
    /// How registries are reached.
    pub registries: Registries,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How much of the disk may be used, in bytes.
    pub disk_bytes: u64,
    /// Open files per command.
    pub nofile: u64,
    /// The host directory, absolute and canonical.
    pub workspace: PathBuf,
    /// That directory, opened, where it is shared.
    pub workspace_dir: WorkspaceDir,
    /// Whether the user named that directory, or it is the working directory.
    pub workspace_named: bool,
    /// How `/workspace` is made.
    pub workspace_mode: WorkspaceMode,
    /// Where to start from instead of the clean image.
    pub snapshot: Option<String>,
    /// The sandbox's name.
    pub name: String,
    /// The engine asked for.
    pub engine: EngineChoice,
    /// The accelerator asked for.
    pub accel: AccelChoice,
    /// What to do where a fence can't be had.
    pub isolation: IsolationChoice,
    /// The qemu program asked for.
    pub qemu: Option<PathBuf>,
    /// How long a boot may take.
    pub boot_timeout: Duration,
    /// How long a command may run by default.
    pub exec_timeout: Duration,
    /// How long a call may take at a client that does not hear how it is doing.
    pub background_after: Duration,
    /// Whether a person is asked before what can't be undone.
    pub confirm: Confirm,
    /// Whether the guest's git gets the user's name and e-mail address.
    pub git_identity: bool,
    /// Where images and snapshots are kept.
    pub data_dir: PathBuf,
    /// Where what can be made again is kept.
    pub cache_dir: PathBuf,
    /// Where sockets and keys of running sandboxes are.
    pub runtime_dir: PathBuf,
    /// Where the user's file is.
    pub config_dir: Option<PathBuf>,
    /// The user's home directory, as far as it is known.
    pub home: Option<PathBuf>,
    /// Environment of every command.
    pub env: Vec<(String, String)>,
    /// The project's file, where it is not in force.
    pub ignored: Option<Ignored>,
}

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("read the configuration file {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("read the configuration file {path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the nearest known key where a key is unknown.
        message: String,
    },
    /// An environment variable is not what it should be.
    #[error("use the environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A value is out of its range.
    #[error("use {key} = {value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// The working directory is none that is shared without being named.
    #[error(
        "share {path} with the sandbox: {why}; start in a project's directory, or name it with --workspace"
    )]
    Workspace {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// The workspace and Snowglobe's own files are one inside the other.
    #[error(
        "share {path} with the sandbox: it and Snowglobe's own files in {own} lie within each other, so the \
         sandbox could change what holds it; start in a project's directory"
    )]
    OwnFiles {
        /// The directory.
        path: PathBuf,
        /// Ours.
        own: PathBuf,
    },
    /// There is no home directory to keep things in.
    #[error("find a home directory: set HOME, or data_dir")]
    NoHome,
}

/// Where the layers come from; separate from [`Config`] so that tests bring their own.
#[derive(Debug, Default)]
pub struct Sources {
    /// The working directory.
    pub cwd: PathBuf,
    /// Where the user's file is, if there is one.
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

/// The names that `SNOWGLOBE_*` may have beside the keys.
const OTHER_VARIABLES: &[&str] = &["LOG", "LIBEXEC", "CACHE_DIR", "RUNTIME_DIR"];

fn keys() -> Vec<&'static str> {
    let mut keys = vec![
        "image",
        "cpus",
        "memory_mib",
        "disk_gib",
        "nofile",
        "workspace",
        "workspace_mode",
        "snapshot",
        "name",
        "engine",
        "accel",
        "isolation",
        "qemu",
        "boot_timeout_s",
        "exec_timeout_s",
        "background_after_s",
        "confirm",
        "git_identity",
        "data_dir",
        "image_store_gib",
        "snapshot_gib",
        "registries",
        "env",
    ];
    keys.sort_unstable();
    keys
}

/// The known name nearest to `name`, if one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(name, k), *k))
        .min()
        .filter(|(distance, k)| *distance <= 1 + k.len() / 3)
        .map(|(_, k)| k)
}

fn unknown_key(name: &str, known: &[&str]) -> String {
    // Bounded and without control characters: a project's file may come from anywhere.
    let name: String = name.escape_debug().take(40).collect();
    let name = name.as_str();
    match nearest(name, known) {
        Some(near) => format!("unknown key `{name}`; did you mean `{near}`?"),
        None => format!("unknown key `{name}`; known keys: {}", known.join(", ")),
    }
}

/// The user's own file; one that can't be read is an error, not "no file".
fn read_user(path: &Path) -> Result<Raw, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Raw::default()),
        Err(source) => Err(ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The layers but the project's, and the directories that they say.
struct Layers {
    user: Raw,
    /// The environment and the flags, which are laid over the project's file.
    over: Raw,
    dirs: Dirs,
}

impl Layers {
    fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let user = sources.user_file.as_deref().map(read_user);
        let user = user.transpose()?.unwrap_or_default();
        let over = read_env(&sources.env)?.under(sources.flags.clone());
        let dirs = Dirs::resolve(&user, &over, &sources.env)?;
        Ok(Self { user, over, dirs })
    }
}

/// What is wrong with a text, and where, without the text: it may be another file's than was meant.
fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before
        .map(|before| format!("line {}: ", 1 + before.matches('\n').count()))
        .unwrap_or_default();
    ConfigError::Malformed {
        path: path.to_owned(),
        message: format!("{place}{}", error.message()),
    }
}

fn parse(path: &Path, text: &str, project: bool) -> Result<Raw, ConfigError> {
    let refused = |message| ConfigError::Malformed {
        path: path.to_owned(),
        message,
    };
    let table: toml::Table = text.parse().map_err(|e| malformed(path, text, &e))?;
    let known = keys();
    for key in table.keys() {
        if !known.contains(&key.as_str()) {
            return Err(refused(unknown_key(key, &known)));
        }
        if project && key == "image" && is_host_path(&table[key]) {
            return Err(refused(
                "`image` can't name a file of the host in a project, since the file comes with the repository; \
                 set it in the user's configuration, by SNOWGLOBE_IMAGE or by a flag"
                    .into(),
            ));
        }
        if project && !PROJECT_KEYS.contains(&key.as_str()) {
            return Err(refused(format!(
                "`{key}` can't be set by a project, since the file comes with the repository; \
                 set it in the user's configuration, by SNOWGLOBE_{} or by a flag",
                key.to_uppercase()
            )));
        }
    }
    toml::from_str(text).map_err(|e| malformed(path, text, &e))
}

fn is_host_path(image: &toml::Value) -> bool {
    let reference = image.as_str().map(str::parse::<ImageRef>);
    matches!(reference, Some(Ok(reference)) if reference.is_host_path())
}

fn read_env(env: &[(String, String)]) -> Result<Raw, ConfigError> {
    let tables = ["env", "registries"];
    let known: Vec<&str> = keys()
        .into_iter()
        .filter(|key| !tables.contains(key))
        .collect();
    let mut table = toml::Table::new();
    for (name, value) in env {
        let Some(key) = name.strip_prefix("SNOWGLOBE_") else {
            continue;
        };
        if OTHER_VARIABLES.contains(&key) || value.is_empty() {
            continue;
        }
        let key = key.to_lowercase();
        if !known.contains(&key.as_str()) {
            return Err(ConfigError::Environment {
                name: name.clone(),
                message: unknown_key(&key, &known),
            });
        }
        let number = [
            "cpus",
            "memory_mib",
            "disk_gib",
            "nofile",
            "boot_timeout_s",
            "exec_timeout_s",
            "image_store_gib",
            "snapshot_gib",
            "background_after_s",
        ];
        let expected = |what: &str| ConfigError::Environment {
            name: name.clone(),
            message: format!("expected {what}, got `{value}`"),
        };
        let value = match key.as_str() {
            key if number.contains(&key) => {
                let number = value.parse();
                toml::Value::Integer(number.map_err(|_| expected("a whole number"))?)
            }
            "git_identity" => {
                let truth = value.parse();
                toml::Value::Boolean(truth.map_err(|_| expected("`true` or `false`"))?)
            }
            _ => toml::Value::String(value.clone()),
        };
        table.insert(key, value);
    }
    table
        .try_into()
        .map_err(|e: toml::de::Error| ConfigError::Environment {
            name: "SNOWGLOBE_*".into(),
            message: e.message().to_owned(),
        })
}

impl Raw {
    /// `over` laid over this layer.
    fn under(self, over: Raw) -> Raw {
        let mut env = self.env;
        env.extend(over.env);
        let mut registries = self.registries;
        registries.0.extend(over.registries.0);
        Raw {
            image: over.image.or(self.image),
            cpus: over.cpus.or(self.cpus),
            memory_mib: over.memory_mib.or(self.memory_mib),
            disk_gib: over.disk_gib.or(self.disk_gib),
            nofile: over.nofile.or(self.nofile),
            workspace: over.workspace.or(self.workspace),
            workspace_mode: over.workspace_mode.or(self.workspace_mode),
            snapshot: over.snapshot.or(self.snapshot),
            name: over.name.or(self.name),
            engine: over.engine.or(self.engine),
            accel: over.accel.or(self.accel),
            isolation: over.isolation.or(self.isolation),
            qemu: over.qemu.or(self.qemu),
            boot_timeout_s: over.boot_timeout_s.or(self.boot_timeout_s),
            exec_timeout_s: over.exec_timeout_s.or(self.exec_timeout_s),
            background_after_s: over.background_after_s.or(self.background_after_s),
            confirm: over.confirm.or(self.confirm),
            git_identity: over.git_identity.or(self.git_identity),
            data_dir: over.data_dir.or(self.data_dir),
            image_store_gib: over.image_store_gib.or(self.image_store_gib),
            snapshot_gib: over.snapshot_gib.or(self.snapshot_gib),
            registries,
            env,
        }
    }
}

fn ranged<T: PartialOrd + std::fmt::Display + Copy>(
    key: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    if value < least || value > most {
        return Err(ConfigError::Value {
            key,
            value: value.to_string(),
            expected: format!("expected {least} to {most}"),
        });
    }
    Ok(value)
}

impl Config {
    /// Where images, snapshots and the user's consent are kept; and the user's home directory, as far as it is known.
    pub fn data_dir_and_home(sources: &Sources) -> Result<(PathBuf, Option<PathBuf>), ConfigError> {
        let dirs = Layers::read(sources)?.dirs;
        Ok((dirs.data, dirs.home))
    }

    /// Whether a project's file can be understood.
    pub fn check_project(file: &ProjectFile) -> Result<(), ConfigError> {
        parse(&file.path, &file.text, true).map(drop)
    }

    /// Reads every layer and resolves them.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let Layers {
            user: mut raw,
            over,
            dirs,
        } = Layers::read(&sources)?;
        let mut ignored = None;
        if let Some(file) = project::find(&sources.cwd, dirs.home.as_deref())? {
            match wishes(&file, &raw, &over, &dirs.data)? {
                Ok(granted) => raw = raw.under(granted),
                Err(refused) => ignored = Some(refused),
            }
        }
        let named = over.workspace.is_some() || raw.workspace.is_some();
        Ok(Self {
            ignored,
            workspace_named: named,
            ..resolve(raw.under(over), &sources.cwd, &dirs)?
        })
    }

    /// Whether the workspace may be shared; for whatever starts a sandbox, since all else works anywhere.
    pub fn check_workspace(&self) -> Result<(), ConfigError> {
        if self.workspace_mode == WorkspaceMode::None {
            return Ok(());
        }
        let own = [&self.data_dir, &self.cache_dir, &self.runtime_dir];
        let own: Vec<&Path> = own
            .into_iter()
            .chain(&self.config_dir)
            .map(PathBuf::as_path)
            .collect();
        let home = self.home.as_deref();
        project::shareable(&self.workspace, self.workspace_named, home, &own)
    }
}

/// What the project's file asks for, where it is in force.
fn wishes(
    file: &ProjectFile,
    user: &Raw,
    over: &Raw,
    data_dir: &Path,
) -> Result<Result<Raw, Ignored>, ConfigError> {
    let asked = parse(&file.path, &file.text, true)?;
    // What a flag or the environment sets anyhow is not asked for.
    let open = Raw {
        image: asked.image.clone().filter(|_| over.image.is_none()),
        cpus: asked.cpus.filter(|_| over.cpus.is_none()),
        memory_mib: asked.memory_mib.filter(|_| over.memory_mib.is_none()),
        disk_gib: asked.disk_gib.filter(|_| over.disk_gib.is_none()),
        nofile: asked.nofile.filter(|_| over.nofile.is_none()),
        workspace_mode: asked
            .workspace_mode
            .filter(|_| over.workspace_mode.is_none()),
        ..Raw::default()
    };
    let own_image = user.image.as_deref().unwrap_or(DEFAULT_IMAGE);
    let fetches =
        |image: &str| image != own_image && !crate::sandbox::image_is_here(data_dir, image);
    let asks = project::excess(&open, &bounds(user), fetches);
    if asks.is_empty() || Consent::new(data_dir).given(file)? {
        return Ok(Ok(asked));
    }
    let path = file.path.clone();
    Ok(Err(Ignored { path, asks }))
}

/// What a project gets unasked: what the user has set, else the defaults or half of this host.
fn bounds(user: &Raw) -> Bounds {
    let host = rustix::system::sysinfo();
    let unit = u64::from(host.mem_unit.max(1));
    let half_mib = (host.totalram as u64).saturating_mul(unit) >> 21;
    let half_cores = std::thread::available_parallelism().map_or(1, |n| n.get() / 2) as u32;
    Bounds {
        cpus: user.cpus.unwrap_or_else(|| default_cpus().max(half_cores)),
        memory_mib: user
            .memory_mib
            .unwrap_or_else(|| DEFAULT_MEMORY_MIB.max(u32::try_from(half_mib).unwrap_or(u32::MAX))),
        disk_gib: user.disk_gib.unwrap_or(DEFAULT_DISK_GIB),
        nofile: user.nofile.unwrap_or(DEFAULT_NOFILE),
        mount: user.workspace_mode != Some(WorkspaceMode::None),
    }
}

const DEFAULT_IMAGE: &str = "debian";
const DEFAULT_MEMORY_MIB: u32 = 2048;
const DEFAULT_DISK_GIB: u32 = 16;
const DEFAULT_NOFILE: u64 = 65_536;

fn default_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4)) as u32
}

/// Where Snowglobe keeps what is its own, and the user's home.
struct Dirs {
    config: Option<PathBuf>,
    data: PathBuf,
    cache: PathBuf,
    runtime: PathBuf,
    home: Option<PathBuf>,
}

impl Dirs {
    fn resolve(raw: &Raw, over: &Raw, env: &[(String, String)]) -> Result<Self, ConfigError> {
        let dirs = etcetera::choose_base_strategy().ok();
        let of = |explicit: Option<PathBuf>, of: fn(&etcetera::base_strategy::Xdg) -> PathBuf| {
            explicit
                .or_else(|| dirs.as_ref().map(|d| of(d).join("snowglobe")))
                .ok_or(ConfigError::NoHome)
        };
        let data = of(
            over.data_dir.clone().or_else(|| raw.data_dir.clone()),
            |d| d.data_dir(),
        )?;
        let cache = of(variable(env, "SNOWGLOBE_CACHE_DIR").map(Into::into), |d| {
            d.cache_dir()
        })?;
        let runtime = variable(env, "SNOWGLOBE_RUNTIME_DIR")
            .map(PathBuf::from)
            .unwrap_or_else(|| match variable(env, "XDG_RUNTIME_DIR") {
                // After `sudo` it may be another user's.
                Some(dir) if is_own_dir(Path::new(dir)) => Path::new(dir).join("snowglobe"),
                _ => std::env::temp_dir()
                    .join(format!("snowglobe-{}", rustix::process::geteuid().as_raw())),
            });
        let home = etcetera::home_dir().ok();
        Ok(Self {
            config: dirs.as_ref().map(|d| d.config_dir().join("snowglobe")),
            data: std::path::absolute(&data).unwrap_or(data),
            cache,
            runtime: std::path::absolute(&runtime).unwrap_or(runtime),
            home: home.map(|home| home.canonicalize().unwrap_or(home)),
        })
    }
}

fn is_own_dir(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    path.metadata()
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == own)
}

fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter()
        .find(|(n, v)| n == name && !v.is_empty())
        .map(|(_, v)| v.as_str())
}

fn resolve(raw: Raw, cwd: &Path, dirs: &Dirs) -> Result<Config, ConfigError> {
    let workspace = raw.workspace.unwrap_or_else(|| cwd.to_owned());
    let workspace = workspace
        .canonicalize()
        .ok()
        .filter(|path| path.is_dir())
        .ok_or_else(|| ConfigError::Value {
            key: "workspace",
            value: workspace.display().to_string(),
            expected: "expected a directory that exists".into(),
        })?;
    let workspace_mode = raw.workspace_mode.unwrap_or_default();
    let workspace_dir = match workspace_mode {
        WorkspaceMode::None => WorkspaceDir::default(),
        WorkspaceMode::Mount => {
            WorkspaceDir::open(&workspace).map_err(|error| ConfigError::Value {
                key: "workspace",
                value: workspace.display().to_string(),
                expected: format!("it can't be opened ({error})"),
            })?
        }
    };
    let name = match raw.name {
        Some(name) => check_name(name)?,
        None => name_of(&workspace),
    };
    Ok(Config {
        image: raw.image.unwrap_or_else(|| DEFAULT_IMAGE.into()),
        image_store_bytes: u64::from(ranged(
            "image_store_gib",
            raw.image_store_gib.unwrap_or(100),
            1,
            1 << 20,
        )?) << 30,
        snapshot_bytes: u64::from(ranged(
            "snapshot_gib",
            raw.snapshot_gib.unwrap_or(50),
            1,
            1 << 20,
        )?) << 30,
        registries: raw.registries,
        cpus: ranged("cpus", raw.cpus.unwrap_or_else(default_cpus), 1, 64)?,
        memory_mib: ranged(
            "memory_mib",
            raw.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB),
            128,
            1 << 20,
        )?,
        disk_bytes: u64::from(ranged(
            "disk_gib",
            raw.disk_gib.unwrap_or(DEFAULT_DISK_GIB),
            1,
            60,
        )?) << 30,
        nofile: ranged(
            "nofile",
            raw.nofile.unwrap_or(DEFAULT_NOFILE),
            64,
            1_048_576,
        )?,
        workspace,
        workspace_dir,
        workspace_named: false,
        workspace_mode,
        snapshot: raw.snapshot,
        name,
        engine: raw.engine.unwrap_or_default(),
        accel: raw.accel.unwrap_or_default(),
        isolation: raw.isolation.unwrap_or_default(),
        qemu: raw.qemu,
        boot_timeout: Duration::from_secs(ranged(
            "boot_timeout_s",
            raw.boot_timeout_s.unwrap_or(60),
            1,
            3600,
        )?),
        exec_timeout: Duration::from_secs(ranged(
            "exec_timeout_s",
            raw.exec_timeout_s.unwrap_or(120),
            1,
            86_400,
        )?),
        background_after: Duration::from_secs(ranged(
            "background_after_s",
            raw.background_after_s.unwrap_or(50),
            1,
            86_400,
        )?),
        confirm: raw.confirm.unwrap_or_default(),
        git_identity: raw.git_identity.unwrap_or(true),
        data_dir: dirs.data.clone(),
        cache_dir: dirs.cache.clone(),
        runtime_dir: dirs.runtime.clone(),
        config_dir: dirs.config.clone(),
        home: dirs.home.clone(),
        env: raw.env,
        ignored: None,
    })
}

fn check_name(name: String) -> Result<String, ConfigError> {
    crate::sandbox::check_snapshot_name(&name).map_err(|_| ConfigError::Value {
        key: "name",
        value: name.clone(),
        expected: "expected 1 to 64 of A-Z a-z 0-9 . _ -, not `.` or `..`, no leading `-`".into(),
    })?;
    Ok(name)
}

/// A sandbox's name made from its workspace: the directory's own name, and enough of a hash of the whole path
/// that two directories of one name don't share snapshots.
fn name_of(workspace: &Path) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(workspace.as_os_str().as_encoded_bytes());
    let hash = hex::encode(&hash[..4]);
    let base: String = workspace
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '_' {
                c
            } else {
                '_'
            }
        })
        .take(40)
        .collect();
    format!("{}-{hash}", base.trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project's directory beside the data directory and the user's file.
    fn sources(dir: &tempfile::TempDir) -> Sources {
        let cwd = dir.path().join("project");
        std::fs::create_dir_all(&cwd).unwrap();
        Sources {
            cwd,
            flags: Raw {
                data_dir: Some(dir.path().join("data")),
                ..Raw::default()
            },
            ..Sources::default()
        }
    }

    fn user_file(dir: &tempfile::TempDir, text: &str) -> Option<PathBuf> {
        let path = dir.path().join("config/config.toml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        Some(path)
    }

    fn project_file(dir: &tempfile::TempDir, text: &str) {
        std::fs::write(sources(dir).cwd.join(PROJECT_FILE), text).unwrap();
    }

    #[test]
    fn a_users_file_that_cannot_be_read_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        let mut from = sources(&dir);
        from.user_file = Some(dir.path().join("config/config.toml"));
        assert!(Config::load(from).is_ok(), "there is none");
        for odd in [dir.path().to_owned(), "/dev/null/config.toml".into()] {
            let mut from = sources(&dir);
            from.user_file = Some(odd.clone());
            let error = Config::load(from).unwrap_err();
            assert!(matches!(error, ConfigError::Unreadable { path, .. } if path == odd));
        }
    }

    #[test]
    fn later_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, "image = 'project'\ncpus = 2\nmemory_mib = 250");
        let mut from = sources(&dir);
        from.user_file = user_file(
            &dir,
            "image = 'user'\ncpus = 1\nmemory_mib = 300\nnofile = 100\n[env]\nA = 'user'",
        );
        from.env = vec![
            ("SNOWGLOBE_IMAGE".into(), "env".into()),
            ("SNOWGLOBE_CPUS".into(), "3".into()),
        ];
        from.flags.image = Some("flag".into());
        let config = Config::load(from).unwrap();
        assert_eq!(
            (
                config.image.as_str(),
                config.cpus,
                config.memory_mib,
                config.nofile
            ),
            ("flag", 3, 250, 100)
        );
        assert_eq!(config.env, [("A".to_owned(), "user".to_owned())]);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, "memory_mb = 1");
        let error = Config::load(sources(&dir)).unwrap_err().to_string();
        assert!(
            error.contains("`memory_mb`; did you mean `memory_mib`?"),
            "{error}"
        );
        let empty = tempfile::tempdir().unwrap();
        let mut from = sources(&empty);
        from.env = vec![("SNOWGLOBE_IMGE".into(), "x".into())];
        let error = Config::load(from).unwrap_err().to_string();
        assert!(error.contains("did you mean `image`?"), "{error}");
    }

    #[test]
    fn a_project_may_not_name_host_paths() {
        for key in [
            "workspace = '/etc'",
            "qemu = '/tmp/evil'",
            "data_dir = '/x'",
            "[registries.'docker.io']\nmirrors = ['evil.example']",
        ] {
            let dir = tempfile::tempdir().unwrap();
            project_file(&dir, key);
            let error = Config::load(sources(&dir)).unwrap_err().to_string();
            assert!(error.contains("can't be set by a project"), "{error}");
        }
    }

    #[test]
    fn a_project_may_name_an_image_but_no_file_of_the_host() {
        for (image, good) in [
            ("python:3.12", true),
            ("tar:/root/backup.tar", false),
            ("oci:/x", false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            project_file(&dir, &format!("image = '{image}'"));
            match Config::load(sources(&dir)) {
                Ok(config) => assert!(good && config.ignored.is_some()),
                Err(error) => assert!(
                    !good && error.to_string().contains("file of the host"),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn a_project_s_wishes_beyond_the_bounds_count_once_they_are_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let text = "image = 'registry.example/exfil:tag'\nexec_timeout_s = 7";
        project_file(&dir, text);
        let load = || Config::load(sources(&dir)).unwrap();
        let config = load();
        assert_eq!(
            (config.image.as_str(), config.exec_timeout.as_secs()),
            (DEFAULT_IMAGE, 120)
        );
        let said = config.ignored.unwrap().to_string();
        assert!(
            said.contains("registry.example/exfil:tag") && said.contains("snowglobe allow"),
            "{said}"
        );

        let file = project::find(&sources(&dir).cwd, None).unwrap().unwrap();
        let consent = Consent::new(&dir.path().join("data"));
        consent.give(&file).unwrap();
        let config = load();
        assert_eq!(
            (config.image.as_str(), config.exec_timeout.as_secs()),
            ("registry.example/exfil:tag", 7)
        );
        assert_eq!(config.ignored, None);

        project_file(&dir, &format!("{text}\ncpus = 64"));
        assert!(load().ignored.is_some());
        // What the user sets is not the project's to ask for.
        let mut from = sources(&dir);
        from.flags.image = Some("mine".into());
        from.flags.cpus = Some(1);
        let config = Config::load(from).unwrap();
        assert_eq!((config.ignored, config.exec_timeout.as_secs()), (None, 7));
    }

    #[test]
    fn a_project_above_does_not_widen_what_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, "exec_timeout_s = 7");
        let mut from = sources(&dir);
        from.cwd = from.cwd.join("inner");
        std::fs::create_dir(&from.cwd).unwrap();
        let inner = from.cwd.canonicalize().unwrap();
        let config = Config::load(from).unwrap();
        assert_eq!(
            (config.workspace, config.exec_timeout.as_secs()),
            (inner, 7)
        );
    }

    #[test]
    fn what_a_file_says_is_not_in_its_errors() {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, "cpus = 1\nroot:$6$hash:19000");
        let error = Config::load(sources(&dir)).unwrap_err().to_string();
        assert!(
            error.contains("line 2: ") && !error.contains("hash"),
            "{error}"
        );
    }

    #[test]
    fn registries_are_the_users_to_set() {
        let dir = tempfile::tempdir().unwrap();
        let mut from = sources(&dir);
        from.user_file = user_file(
            &dir,
            "[registries.'docker.io']\nmirrors = ['localhost:5000']\n[registries.'r:1']\nhttp = true",
        );
        let config = Config::load(from).unwrap();
        assert_eq!(config.registries.0["docker.io"].mirrors, ["localhost:5000"]);
        assert_eq!(config.registries.0["r:1"].http, Some(true));
        let mut from = sources(&dir);
        from.user_file = user_file(&dir, "[registries.x]\nmirror = 'y'");
        assert!(
            Config::load(from)
                .unwrap_err()
                .to_string()
                .contains("unknown field `mirror`")
        );
    }

    #[test]
    fn every_key_is_known_and_every_project_key_is_one() {
        for key in PROJECT_KEYS {
            assert!(keys().contains(key), "{key}");
        }
    }

    #[test]
    fn values_out_of_range_say_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let mut from = sources(&dir);
        from.flags.cpus = Some(0);
        let error = Config::load(from).unwrap_err().to_string();
        assert!(error.contains("expected 1 to 64"), "{error}");
    }

    #[test]
    fn what_is_no_project_is_configured_but_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let at = |cwd: &str, named: bool| {
            let mut from = sources(&dir);
            from.cwd = cwd.into();
            from.flags.workspace = named.then(|| cwd.into());
            let config = Config::load(from).unwrap();
            config.check_workspace().map_err(|error| error.to_string())
        };
        assert!(at("/", true).unwrap_err().contains("own files"));
        assert!(at("/etc", false).unwrap_err().contains("--workspace"));
        assert_eq!(at("/etc", true), Ok(()));
        let project = sources(&dir).cwd;
        assert_eq!(at(project.to_str().unwrap(), false), Ok(()));
    }

    #[test]
    fn two_directories_of_one_name_differ() {
        assert_ne!(
            name_of(Path::new("/a/project")),
            name_of(Path::new("/b/project"))
        );
        assert!(name_of(Path::new("/a/project")).starts_with("project-"));
    }
}
