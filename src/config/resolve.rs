//! From the layers to the configuration: defaults, ranges, the workspace.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::choices::Confirm;
use super::defaults::{
    DEFAULT_DISK_GIB, DEFAULT_IMAGE, DEFAULT_MEMORY_MIB, DEFAULT_NOFILE, default_cpus,
};
use super::dirs::Dirs;
use super::error::ConfigError;
use super::keys::{Raw, key};
use super::protect;
use super::resolved::{CallPolicy, Config, HostConfig, SandboxSpec};
use super::settings::Origins;
use crate::names::{RULE, SandboxName};
use crate::workspace::{Mode, SharedDir, Workspace};

/// Checks a number against its key's range.
fn in_range<T: Into<u64> + Copy>(name: &'static str, value: T) -> Result<T, ConfigError> {
    let number: u64 = value.into();
    match key(name).map_or(Ok(()), |key| key.check(number)) {
        Ok(()) => Ok(value),
        Err(expected) => Err(ConfigError::Value {
            key: name,
            value: number.to_string(),
            expected,
        }),
    }
}

fn seconds(name: &'static str, value: u64) -> Result<Duration, ConfigError> {
    in_range(name, value).map(Duration::from_secs)
}

/// GiB in bytes.
fn gibibytes(name: &'static str, value: u32) -> Result<u64, ConfigError> {
    in_range(name, value).map(|gib| u64::from(gib) << 30)
}

pub(super) fn resolve(
    raw: Raw,
    cwd: &Path,
    dirs: Dirs,
    origins: &Origins,
) -> Result<Config, ConfigError> {
    let host = HostConfig {
        engine: raw.engine.unwrap_or_default(),
        accel: raw.accel.unwrap_or_default(),
        isolation: raw.isolation.unwrap_or_default(),
        qemu: raw.qemu.clone(),
        boot_timeout: seconds("boot_timeout_s", raw.boot_timeout_s.unwrap_or(60))?,
        registries: raw.registries.clone(),
        image_store_bytes: gibibytes("image_store_gib", raw.image_store_gib.unwrap_or(100))?,
        dirs,
    };
    let calls = CallPolicy {
        confirm: raw.confirm.unwrap_or_default(),
        confirm_apply: raw.confirm_apply.unwrap_or(Confirm::Require),
        background_after: seconds("background_after_s", raw.background_after_s.unwrap_or(50))?,
    };
    Ok(Config {
        sandbox: sandbox(raw, cwd, &host.dirs, origins)?,
        host,
        calls,
        ignored: None,
        settings: Vec::new(),
        subdirectory: PathBuf::new(),
    })
}

fn sandbox(
    raw: Raw,
    cwd: &Path,
    dirs: &Dirs,
    origins: &Origins,
) -> Result<SandboxSpec, ConfigError> {
    let project_named = raw.workspace.is_some();
    let directory = raw.workspace.unwrap_or_else(|| cwd.to_owned());
    let unusable = |expected: String| ConfigError::Value {
        key: "workspace",
        value: directory.display().to_string(),
        expected,
    };
    let project_dir = directory
        .canonicalize()
        .ok()
        .filter(|path| path.is_dir())
        .ok_or_else(|| unusable("expected a directory that exists".into()))?;
    let workspace = match raw.workspace_mode.unwrap_or_default() {
        Mode::None => Workspace::None,
        mode @ (Mode::Mount | Mode::Copy) => {
            let dir = SharedDir::open(&project_dir)
                .map_err(|error| unusable(format!("it can't be opened ({error})")))?;
            match mode {
                Mode::Copy => Workspace::copy(dir, dirs.home.as_deref(), &dirs.own()),
                _ => Workspace::mount(dir, dirs.home.as_deref(), &dirs.own()),
            }
        }
    };
    let name = match raw.name {
        None => SandboxName::of_workspace(&project_dir),
        Some(name) => named("name", name)?,
    };
    let snapshot = raw.snapshot.map(|name| named("snapshot", name));
    Ok(SandboxSpec {
        name,
        image: raw.image.unwrap_or_else(|| DEFAULT_IMAGE.into()),
        snapshot: snapshot.transpose()?,
        snapshot_bytes: gibibytes("snapshot_gib", raw.snapshot_gib.unwrap_or(50))?,
        cpus: in_range("cpus", raw.cpus.unwrap_or_else(default_cpus))?,
        memory_mib: in_range("memory_mib", raw.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB))?,
        disk_bytes: gibibytes("disk_gib", raw.disk_gib.unwrap_or(DEFAULT_DISK_GIB))?,
        nofile: in_range("nofile", raw.nofile.unwrap_or(DEFAULT_NOFILE))?,
        project_dir,
        project_named,
        workspace,
        copy_ignored: raw.copy_ignored.unwrap_or(false),
        protection: protect::resolve(
            raw.protect,
            raw.hide,
            raw.workspace_read_only.unwrap_or(false),
        )?,
        exec_timeout: seconds("exec_timeout_s", raw.exec_timeout_s.unwrap_or(120))?,
        git_identity: raw.git_identity.unwrap_or(true),
        idle_stop: Some(seconds("idle_stop_s", raw.idle_stop_s.unwrap_or(3600))?)
            .filter(|time| !time.is_zero()),
        network: raw
            .network
            .resolve(|key, rule| origins.of_rule(key, rule))?,
        env: raw.env,
    })
}

/// Checks a name.
fn named<T: FromStr>(key: &'static str, name: String) -> Result<T, ConfigError> {
    name.parse().map_err(|_| ConfigError::Value {
        key,
        expected: format!("expected {RULE}"),
        value: name,
    })
}
