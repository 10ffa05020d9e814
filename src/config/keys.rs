//! The configuration's keys: one table.
//!
//! A line of it is a key with its help text, its type, what it may hold, who may set it and when it counts. From it come the layer
//! [`Raw`] (which is also the flags of every subcommand that runs a sandbox), the keys that files and the environment
//! may set, and the ranges. To add a key: a line here, its place in `resolve.rs`, a line in README.md.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::ValueParser;
use serde::{Deserialize, Serialize};
use snowglobe_runner::protection::Effect;

use super::choices::{AccelChoice, Confirm, EngineChoice, IsolationChoice};
use super::network::{self, RawNetwork};
use super::protect;
use crate::image::Registries;
use crate::text::{parse_seconds, parse_size};
use crate::workspace::Mode;

/// Where a key may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetBy {
    /// In the user's file, the environment and flags.
    User,
    /// Also in the project's file.
    Project,
}

/// When a key counts for a sandbox that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    /// When the sandbox starts; a client that joins it later can't change it.
    Start,
    /// For each client or call anew.
    Call,
    /// It says which sandbox is meant.
    Which,
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, or one of a few words; its type checks it.
    Text,
    /// A whole number within these bounds.
    Number(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// A table, which only files can hold.
    Table,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) set_by: SetBy,
    pub(super) applies: Applies,
}

/// The key of that name.
pub(super) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that an effective setting is of: `network.mode` is of `network`.
pub(super) fn key_of(setting: &str) -> Option<&'static Key> {
    let table = setting.split('.').next();
    table.and_then(key)
}

impl Key {
    /// A number within the key's range as a person writes it, in a flag, a variable or a file: where the key has a unit,
    /// with this or another one.
    pub(super) fn parse(&self, text: &str) -> Result<u64, String> {
        let number = self.number(text)?;
        self.check(number)?;
        Ok(number)
    }

    fn number(&self, text: &str) -> Result<u64, String> {
        let whole = |unit: u64, name: &str| {
            let bytes = parse_size(text, unit)?;
            match bytes % unit {
                0 => Ok(bytes / unit),
                _ => Err(format!("expected a whole number of {name}")),
            }
        };
        match self.name.rsplit_once('_') {
            Some((_, "s")) => parse_seconds(text),
            Some((_, "mib")) => whole(1 << 20, "MiB"),
            Some((_, "gib")) => whole(1 << 30, "GiB"),
            _ => text
                .trim()
                .parse()
                .map_err(|_| "expected a whole number".to_owned()),
        }
    }

    /// Checks that a number is within the key's range.
    pub(super) fn check(&self, number: u64) -> Result<(), String> {
        match self.kind {
            Kind::Number(least, most) if !(least..=most).contains(&number) => {
                Err(format!("expected {least} to {most}"))
            }
            _ => Ok(()),
        }
    }
}

/// A type that a flag can have.
trait Flag {
    /// What reads the flag of a key.
    fn parser(key: &'static str) -> ValueParser;
}

macro_rules! number_flags {
    ($($type:ty)*) => {$(
        impl Flag for $type {
            fn parser(name: &'static str) -> ValueParser {
                ValueParser::new(move |text: &str| {
                    let key = key(name).ok_or_else(|| format!("no key {name}"))?;
                    <$type>::try_from(key.parse(text)?).map_err(|error| error.to_string())
                })
            }
        }
    )*};
}

macro_rules! other_flags {
    ($($type:ty)*) => {$(
        impl Flag for $type {
            fn parser(_: &'static str) -> ValueParser {
                clap::value_parser!($type).into()
            }
        }
    )*};
}

number_flags! { u32 u64 }
other_flags! { String PathBuf bool Mode EngineChoice AccelChoice IsolationChoice Confirm }

macro_rules! keys {
    ($($(#[$help:meta])* $key:ident: $type:ty, $value:literal, $kind:expr, $set_by:ident, $applies:ident;)*) => {
        /// One layer of the configuration: what it sets, nothing resolved.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
        #[serde(deny_unknown_fields)]
        pub struct Raw {
            $(
                $(#[$help])*
                // An id of its own: a subcommand may have an argument of the same name.
                #[arg(long, value_name = $value, value_parser = <$type as Flag>::parser(stringify!($key)),
                      allow_negative_numbers = true, id = concat!("setting_", stringify!($key)))]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )*
            /// How registries are reached: mirrors, http, ca.
            #[arg(skip)]
            #[serde(default, skip_serializing_if = "Registries::is_empty")]
            pub registries: Registries,
            /// What of the network the sandbox reaches.
            #[command(flatten)]
            #[serde(default, skip_serializing_if = "RawNetwork::is_empty")]
            pub network: RawNetwork,
            /// Files of the workspace that look absent in the sandbox: names at any depth, or paths, with `*`; may be repeated
            #[arg(long, value_name = "GLOB", id = "setting_hide", value_parser = protect::checked_glob)]
            #[serde(default, deserialize_with = "protect::globs", skip_serializing_if = "Vec::is_empty")]
            pub hide: Vec<String>,
            /// What becomes of changes to files that programs of the host run.
            #[arg(skip)]
            #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
            pub protect: BTreeMap<String, Effect>,
            /// Environment of every command, NAME=VALUE; may be repeated
            #[arg(long = "env", id = "setting_env", value_name = "NAME=VALUE", value_parser = parse_variable)]
            #[serde(default, deserialize_with = "variables", serialize_with = "as_table", skip_serializing_if = "Vec::is_empty")]
            pub env: Vec<(String, String)>,
        }

        /// Every key.
        pub(super) const KEYS: &[Key] = &[
            $(Key { name: stringify!($key), kind: $kind, set_by: SetBy::$set_by, applies: Applies::$applies },)*
            Key { name: "registries", kind: Kind::Table, set_by: SetBy::User, applies: Applies::Start },
            Key { name: network::TABLE, kind: Kind::Table, set_by: SetBy::Project, applies: Applies::Start },
            Key { name: "hide", kind: Kind::Table, set_by: SetBy::Project, applies: Applies::Start },
            Key { name: protect::PROTECT, kind: Kind::Table, set_by: SetBy::Project, applies: Applies::Start },
            Key { name: "env", kind: Kind::Table, set_by: SetBy::Project, applies: Applies::Call },
        ];

        impl Raw {
            /// `over` laid over this layer.
            pub(super) fn under(self, over: Self) -> Self {
                let (mut env, mut registries) = (self.env, self.registries);
                env.extend(over.env);
                registries.0.extend(over.registries.0);
                Self {
                    $($key: over.$key.or(self.$key),)*
                    registries,
                    network: self.network.under(over.network),
                    hide: protect::both(self.hide, over.hide),
                    protect: self.protect.into_iter().chain(over.protect).collect(),
                    env,
                }
            }

            /// What this layer sets and `over` does not.
            pub(super) fn not_in(&self, over: &Self) -> Self {
                Self {
                    $($key: self.$key.clone().filter(|_| over.$key.is_none()),)*
                    network: self.network.not_in(&over.network),
                    protect: protect::rest(&self.protect, &over.protect),
                    ..self.clone()
                }
            }
        }
    };
}

keys! {
    /// Image the sandbox runs: a name of `snowglobe image ls`, or any reference, such as python:3.12-slim [default: debian]
    image: String, "IMAGE", Kind::Text, Project, Start;
    /// Virtual processors [default: as many as the host has, 4 at most]
    cpus: u32, "N", Kind::Number(1, 64), Project, Start;
    /// Memory: MiB, or with a unit, such as 2G [default: 2048]
    memory_mib: u32, "SIZE", Kind::Number(128, 1 << 20), Project, Start;
    /// How much of its disk the sandbox may fill, in GiB [default: 16]
    disk_gib: u32, "SIZE", Kind::Number(1, 60), Project, Start;
    /// Open files allowed per command in the sandbox [default: 65536]
    nofile: u64, "N", Kind::Number(64, 1 << 20), Project, Start;
    /// Host directory that is /workspace in the sandbox [default: the repository's root, or the working directory]
    workspace: PathBuf, "DIR", Kind::Text, User, Which;
    /// How /workspace is made: `mount` shares the host directory, `copy` gives a copy of it, `none` an empty one [default: mount]
    workspace_mode: Mode, "MODE", Kind::Text, Project, Start;
    /// Whether a new copy of the workspace also has what git ignores, except hidden files [default: false]
    copy_ignored: bool, "BOOL", Kind::Boolean, User, Start;
    /// Whether the sandbox may change nothing in /workspace [default: false]
    workspace_read_only: bool, "BOOL", Kind::Boolean, Project, Start;
    /// Snapshot the sandbox starts from, instead of the clean image
    snapshot: String, "NAME", Kind::Text, User, Start;
    /// Name of the sandbox, whose snapshots it shares [default: made from the workspace's path]
    name: String, "NAME", Kind::Text, User, Which;
    /// Engine: `auto`, `krun` or `qemu` [default: auto]
    engine: EngineChoice, "ENGINE", Kind::Text, User, Start;
    /// What qemu runs on: `auto`, `kvm`, `hvf` or `tcg` [default: auto]
    accel: AccelChoice, "ACCEL", Kind::Text, User, Start;
    /// If a fence around the VM is not available on this host: `require` starts no VM, `best` starts it and says so [default: best]
    isolation: IsolationChoice, "HOW", Kind::Text, User, Start;
    /// The qemu program [default: qemu-system-ARCH in PATH]
    qemu: PathBuf, "PROGRAM", Kind::Text, User, Start;
    /// How long a boot may take: seconds, or with units, such as 1m30s [default: 60]
    boot_timeout_s: u64, "TIME", Kind::Number(1, 3600), Project, Start;
    /// How long a command may run if the call sets no limit [default: 120]
    exec_timeout_s: u64, "TIME", Kind::Number(1, 86_400), Project, Call;
    /// When a call becomes a background job, if the client takes no progress messages [default: 50]
    background_after_s: u64, "TIME", Kind::Number(1, 86_400), Project, Start;
    /// Whether a person confirms restoring, deleting and rebooting: `never`, `ask` where the client can, `require` [default: never]
    confirm: Confirm, "WHEN", Kind::Text, User, Start;
    /// Whether a person confirms that a model applies changes of a copied workspace: `require`, `ask` where the client can, `never` [default: require]
    confirm_apply: Confirm, "WHEN", Kind::Text, User, Start;
    /// Whether commits in the sandbox get the name and e-mail address of your git configuration [default: true]
    git_identity: bool, "BOOL", Kind::Boolean, User, Start;
    /// When a sandbox that nothing uses is stopped; 0: never [default: 3600]
    idle_stop_s: u64, "TIME", Kind::Number(0, 31_536_000), User, Start;
    /// Where images and snapshots are kept [default: snowglobe in the user's data directory]
    data_dir: PathBuf, "DIR", Kind::Text, User, Which;
    /// What images may take on this disk, in GiB; beyond it, the pulled images that were not used for longest are removed [default: 100]
    image_store_gib: u32, "SIZE", Kind::Number(1, 1 << 20), User, Start;
    /// What the snapshots of a sandbox may take on this disk, in GiB [default: 50]
    snapshot_gib: u32, "SIZE", Kind::Number(1, 1 << 20), User, Start;
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("expected NAME=VALUE, got `{text}`")),
    }
}

fn variables<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    Ok(BTreeMap::<String, String>::deserialize(from)?
        .into_iter()
        .collect())
}

fn as_table<S: serde::Serializer>(
    variables: &[(String, String)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(variables.iter().map(|(name, value)| (name, value)))
}
