//! The effective settings, one by one: each key's value, and where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::keys::{Applies, KEYS, Raw, key};
use super::resolved::{Config, HostConfig, SandboxSpec};
use super::setting::{Origin, Setting};
use crate::workspace::{Mode, Workspace};

/// Where each key that a layer sets comes from. Later layers count more.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Adds a layer.
    pub(super) fn add(&mut self, layer: &Raw, origin: impl Fn(&str) -> Origin) {
        for key in layer.set_keys() {
            self.0.insert(key.clone(), origin(&key));
        }
    }

    /// The effective settings.
    pub(super) fn settings(mut self, config: &Config) -> Vec<Setting> {
        let mut values = values(config);
        KEYS.iter()
            .map(|key| Setting {
                key: key.name.to_owned(),
                value: values.remove(key.name).unwrap_or(Value::Null),
                origin: self.0.remove(key.name).unwrap_or(Origin::Default),
            })
            .collect()
    }
}

impl Raw {
    /// The keys that this layer sets.
    pub(super) fn set_keys(&self) -> BTreeSet<String> {
        match serde_json::to_value(self) {
            Ok(Value::Object(set)) => set.into_iter().map(|(key, _)| key).collect(),
            _ => BTreeSet::new(),
        }
    }
}

fn values(config: &Config) -> BTreeMap<&'static str, Value> {
    let mut values = of_host(&config.host);
    values.extend(of_sandbox(&config.sandbox));
    values.extend([
        ("confirm", json!(config.calls.confirm)),
        (
            "background_after_s",
            json!(config.calls.background_after.as_secs()),
        ),
    ]);
    values
}

fn of_host(host: &HostConfig) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("engine", json!(host.engine)),
        ("accel", json!(host.accel)),
        ("isolation", json!(host.isolation)),
        ("qemu", json!(host.qemu)),
        ("boot_timeout_s", json!(host.boot_timeout.as_secs())),
        ("data_dir", json!(host.dirs.data)),
        ("image_store_gib", json!(host.image_store_bytes >> 30)),
        ("registries", json!(host.registries)),
    ])
}

fn of_sandbox(spec: &SandboxSpec) -> BTreeMap<&'static str, Value> {
    let mode = match spec.workspace {
        Workspace::Mount(_) => Mode::Mount,
        Workspace::None => Mode::None,
    };
    BTreeMap::from([
        ("name", json!(spec.name)),
        ("image", json!(spec.image)),
        ("cpus", json!(spec.cpus)),
        ("memory_mib", json!(spec.memory_mib)),
        ("disk_gib", json!(spec.disk_bytes >> 30)),
        ("nofile", json!(spec.nofile)),
        ("workspace", json!(spec.project_dir)),
        ("workspace_mode", json!(mode)),
        ("snapshot", json!(spec.snapshot)),
        ("snapshot_gib", json!(spec.snapshot_bytes >> 30)),
        ("exec_timeout_s", json!(spec.exec_timeout.as_secs())),
        ("git_identity", json!(spec.git_identity)),
        (
            "idle_stop_s",
            json!(spec.idle_stop.map_or(0, |time| time.as_secs())),
        ),
        (
            "env",
            json!(spec.env.iter().cloned().collect::<BTreeMap<_, _>>()),
        ),
    ])
}

/// The value of a key among settings; none if it is not among them.
pub fn value_of<'a>(settings: &'a [Setting], key: &str) -> Option<&'a Value> {
    let found = settings.iter().find(|setting| setting.key == key);
    found.map(|found| &found.value)
}

/// The settings that a sandbox has from its start to its end.
pub fn lasting(settings: &[Setting]) -> Vec<Setting> {
    let lasts = |name: &str| key(name).is_some_and(|key| key.applies != Applies::Call);
    let lasting = settings.iter().filter(|setting| lasts(&setting.key));
    lasting.cloned().collect()
}

/// A setting that a client asks for and that the running sandbox has otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// What is asked for.
    pub asked: Setting,
    /// What the sandbox has.
    pub has: Value,
}

/// What `asked` asks for and a sandbox that was started with `has` does not give: only keys that are fixed when a
/// sandbox starts.
pub fn differences(asked: &[Setting], has: &[Setting]) -> Vec<Difference> {
    let fixed = |name: &str| key(name).is_some_and(|key| key.applies == Applies::Start);
    asked
        .iter()
        .filter(|setting| fixed(&setting.key))
        .filter_map(|setting| {
            let has = value_of(has, &setting.key)?;
            (*has != setting.value).then(|| Difference {
                asked: setting.clone(),
                has: has.clone(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn every_key_has_a_value_and_an_origin() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "cpus = 2\nnofile = 100").unwrap();
        let config = Config::load(Sources {
            cwd: dir.path().to_owned(),
            user_file: Some(file.clone()),
            env: vec![("SNOWGLOBE_CPUS".into(), "3".into())],
            flags: Raw {
                memory_mib: Some(200),
                env: vec![("A".into(), "b".into())],
                ..Raw::default()
            },
        })
        .unwrap();
        let settings = &config.settings;
        assert_eq!(settings.len(), KEYS.len());
        let values = values(&config);
        for key in KEYS {
            assert!(values.contains_key(key.name), "{} has no value", key.name);
        }
        let find = |name: &str| {
            let found = settings.iter().find(|setting| setting.key == name);
            found.map(|found| (found.value.clone(), found.origin.clone()))
        };
        let cpus = Origin::Environment("SNOWGLOBE_CPUS".into());
        assert_eq!(find("cpus"), Some((json!(3), cpus)));
        assert_eq!(find("nofile"), Some((json!(100), Origin::UserFile(file))));
        assert_eq!(find("memory_mib"), Some((json!(200), Origin::Flag)));
        assert_eq!(find("env"), Some((json!({"A": "b"}), Origin::Flag)));
        assert_eq!(find("image"), Some((json!("debian"), Origin::Default)));
        assert_eq!(find("snapshot"), Some((Value::Null, Origin::Default)));
    }

    #[test]
    fn only_what_is_fixed_at_the_start_can_differ() {
        let setting = |key: &str, value: Value| Setting {
            key: key.into(),
            value,
            origin: Origin::Flag,
        };
        let has = [
            setting("cpus", json!(2)),
            setting("exec_timeout_s", json!(1)),
            setting("env", json!({})),
        ];
        let same = differences(
            &[setting("cpus", json!(2)), setting("env", json!({"A": "b"}))],
            &has,
        );
        assert_eq!(same, []);
        let asked = setting("cpus", json!(3));
        let differ = differences(&[asked.clone(), setting("exec_timeout_s", json!(2))], &has);
        assert_eq!(
            differ,
            [Difference {
                asked,
                has: json!(2)
            }]
        );
    }
}
