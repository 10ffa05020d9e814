//! The user's settings, resolved once.
//!
//! Layers, each over the one before: defaults, the user's file (`snowglobe/config.toml` in the user's
//! config directory), the project's file (`snowglobe.toml`), the environment (`SNOWGLOBE_*`), flags.
//! A layer is [`Raw`]: every key optional. Unknown keys are refused, with the nearest known key named.
//!
//! The project's file comes with the repository, and a guest can write it through the workspace. So it may set only
//! the keys that the table ([`keys`]) gives to projects, none of which names a host path or a program; and it counts only
//! within the user's bounds or with the user's consent ([`consent`]).
//!
//! What comes out has three parts, for those who need no more than one: [`HostConfig`], [`SandboxSpec`], [`CallPolicy`].

mod choices;
mod consent;
mod defaults;
mod dirs;
mod edit;
mod error;
mod keys;
mod layers;
mod network;
mod project;
mod protect;
mod resolve;
mod resolved;
mod setting;
mod settings;
#[cfg(test)]
mod tests;

pub use choices::{AccelChoice, Confirm, EngineChoice, IsolationChoice};
pub use consent::{Consent, Ignored};
pub use dirs::Dirs;
pub(crate) use edit::{save_effects, save_rules};
pub use error::ConfigError;
pub use keys::Raw;
pub use layers::Sources;
pub use network::{RawNetwork, flag};
pub use project::{
    MCP_FILES, PROJECT_FILE, ProjectFile, find as find_project, find_in as find_in_project,
    root as project_root,
};
pub use resolved::{CallPolicy, Config, HostConfig, SandboxSpec};
pub use setting::{Origin, Setting};
pub use settings::{Difference, differences, lasting, value_of};
pub(crate) use settings::{of as of_network, of_protection};

use std::path::{Path, PathBuf};

use crate::image::{ImageRef, ImageStore};
use consent::{Bounds, excess};
use keys::SetBy;
use layers::Layers;
use settings::Origins;

/// The names of all keys, and whether a project's file may set each.
pub fn key_names() -> impl Iterator<Item = (&'static str, bool)> {
    keys::KEYS
        .iter()
        .map(|key| (key.name, key.set_by == SetBy::Project))
}

impl Config {
    /// Snowglobe's own directories and the user's home.
    pub fn dirs(sources: &Sources) -> Result<Dirs, ConfigError> {
        Ok(Layers::read(sources)?.dirs)
    }

    /// Checks that a project's file holds nothing but keys that a project may set.
    pub fn check_project(file: &ProjectFile) -> Result<(), ConfigError> {
        layers::parse(&file.path, &file.text, SetBy::Project).map(drop)
    }

    /// Reads every layer and resolves them.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let layers = Layers::read(&sources)?;
        let (dirs, over) = (&layers.dirs, layers.over());
        let mut origins = Origins::default();
        if let Some(path) = &sources.user_file {
            origins.add(&layers.user, |_| Origin::UserFile(path.clone()));
        }
        let root = project::root(&sources.cwd, dirs.home.as_deref());
        let mut raw = layers.user.clone();
        let mut ignored = None;
        if let Some(file) = project::find(&root, dirs.home.as_deref())? {
            match granted(&file, &layers.user, &over, dirs)? {
                Ok(project) => {
                    origins.add(&project, |_| Origin::ProjectFile(file.path.clone()));
                    raw = raw.under(project);
                }
                Err(refused) => ignored = Some(refused),
            }
        }
        origins.add(&layers.env, |key| {
            let name = flag(key).to_uppercase();
            Origin::Environment(format!("SNOWGLOBE_{name}"))
        });
        origins.add(&layers.flags, |_| Origin::Flag);
        let mut config = resolve::resolve(raw.under(over), &root, dirs.clone(), &origins)?;
        config.ignored = ignored;
        config.settings = origins.settings(&config);
        config.subdirectory = below(&sources.cwd, &config.sandbox.project_dir);
        Ok(config)
    }

    /// Checks that the workspace may be shared. Only what starts a sandbox needs that; all else works anywhere.
    pub fn check_workspace(&self) -> Result<(), ConfigError> {
        let (dirs, spec) = (&self.host.dirs, &self.sandbox);
        let own = dirs.own();
        let home = dirs.home.as_deref();
        Ok(spec.workspace.check(spec.project_named, home, &own)?)
    }
}

/// Where a directory is below another; empty if it is not.
fn below(cwd: &Path, above: &Path) -> PathBuf {
    let cwd = cwd.canonicalize().unwrap_or_default();
    cwd.strip_prefix(above)
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// The project's layer, if it counts.
fn granted(
    file: &ProjectFile,
    user: &Raw,
    over: &Raw,
    dirs: &Dirs,
) -> Result<Result<Raw, Ignored>, ConfigError> {
    let project = layers::parse(&file.path, &file.text, SetBy::Project)?;
    let own_image = user.image.as_deref().unwrap_or(defaults::DEFAULT_IMAGE);
    let fetches = |image: &str| image != own_image && !is_here(dirs, image);
    // What a flag or the environment sets anyway is not asked of the user.
    let asked = project.not_in(over);
    let mut asks = excess(&asked, &Bounds::of(user), fetches);
    asks.extend(network::excess(&asked.network, &user.network));
    asks.extend(protect::excess(&asked.protect, &user.protect));
    if asks.is_empty() || Consent::new(&dirs.data).given(file)? {
        return Ok(Ok(project));
    }
    let path = file.path.clone();
    Ok(Err(Ignored { path, asks }))
}

/// Whether a reference means an image that is on this machine, so that it needs no network.
fn is_here(dirs: &Dirs, reference: &str) -> bool {
    let Ok(reference) = reference.parse::<ImageRef>() else {
        return false;
    };
    let store = ImageStore::look(&dirs.data);
    store
        .resolve(&reference)
        .is_ok_and(|key| matches!(store.find(&key), Ok(Some(_))))
}
