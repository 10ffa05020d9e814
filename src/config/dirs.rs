//! The directories that are Snowglobe's own, and the user's home.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use super::ConfigError;
use super::keys::Raw;

/// The directories that are Snowglobe's own, and the user's home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Images and snapshots.
    pub data: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// Sockets and keys of running sandboxes.
    pub runtime: PathBuf,
    /// The user's configuration file.
    pub config: Option<PathBuf>,
    /// The user's home directory, if it is known.
    pub home: Option<PathBuf>,
}

impl Dirs {
    pub(super) fn resolve(
        user: &Raw,
        over: &Raw,
        env: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let strategy = etcetera::choose_base_strategy().ok();
        let of = |explicit: Option<PathBuf>, of: fn(&etcetera::base_strategy::Xdg) -> PathBuf| {
            explicit
                .or_else(|| strategy.as_ref().map(|dirs| of(dirs).join("snowglobe")))
                .ok_or(ConfigError::NoHome)
        };
        let data = of(
            over.data_dir.clone().or_else(|| user.data_dir.clone()),
            |dirs| dirs.data_dir(),
        )?;
        let cache = of(
            variable(env, "SNOWGLOBE_CACHE_DIR").map(Into::into),
            |dirs| dirs.cache_dir(),
        )?;
        let runtime = variable(env, "SNOWGLOBE_RUNTIME_DIR")
            .map(PathBuf::from)
            .unwrap_or_else(|| match variable(env, "XDG_RUNTIME_DIR") {
                // After `sudo` it may be another user's.
                Some(dir) if is_own(Path::new(dir)) => Path::new(dir).join("snowglobe"),
                _ => std::env::temp_dir()
                    .join(format!("snowglobe-{}", rustix::process::geteuid().as_raw())),
            });
        let home = etcetera::home_dir().ok();
        Ok(Self {
            data: std::path::absolute(&data).unwrap_or(data),
            cache,
            runtime: std::path::absolute(&runtime).unwrap_or(runtime),
            config: strategy.map(|dirs| dirs.config_dir().join("snowglobe")),
            home: home.map(|home| home.canonicalize().unwrap_or(home)),
        })
    }

    /// The directories that no workspace may contain or lie in.
    pub fn own(&self) -> Vec<&Path> {
        [&self.data, &self.cache, &self.runtime]
            .into_iter()
            .chain(&self.config)
            .map(PathBuf::as_path)
            .collect()
    }
}

fn is_own(path: &Path) -> bool {
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
