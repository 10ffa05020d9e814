//! The effective settings, one by one: each key's value, and where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use snowglobe_runner::protection::Protection;

use super::keys::{Applies, KEYS, Raw, key_of};
use super::network;
use super::protect;
use super::resolved::{Config, HostConfig, SandboxSpec};
use super::setting::{Origin, Setting};
use crate::network::settings::{Settings as Network, Stated};

/// Where each key that a layer sets comes from. Later layers count more.
#[derive(Debug, Default)]
pub(super) struct Origins {
    keys: BTreeMap<String, Origin>,
    /// The origins of the network's rules, each with its key in front. The first layer that states one counts.
    rules: BTreeMap<(&'static str, String), String>,
}

impl Origins {
    /// Adds a layer.
    pub(super) fn add(&mut self, layer: &Raw, origin: impl Fn(&str) -> Origin) {
        for key in layer.set_keys() {
            self.keys.insert(key.clone(), origin(&key));
        }
        for (key, rules) in [
            ("allow", &layer.network.allow),
            ("deny", &layer.network.deny),
        ] {
            let origin = match origin(&format!("network.{key}")) {
                Origin::Flag => format!("--{key}"),
                origin => origin.to_string(),
            };
            for rule in rules {
                let known = self.rules.entry((key, rule.clone()));
                known.or_insert_with(|| origin.clone());
            }
        }
    }

    /// Who stated a rule of the network.
    pub(super) fn of_rule(&self, key: &'static str, rule: &str) -> String {
        let known = self.rules.get(&(key, rule.to_owned()));
        known.cloned().unwrap_or_default()
    }

    /// The effective settings.
    pub(super) fn settings(mut self, config: &Config) -> Vec<Setting> {
        let mut values = values(config);
        names()
            .map(|name| Setting {
                value: values.remove(&name).unwrap_or(Value::Null),
                origin: self.keys.remove(&name).unwrap_or(Origin::Default),
                key: name,
            })
            .collect()
    }
}

/// The names of all effective settings: those of the network, one by one.
fn names() -> impl Iterator<Item = String> {
    KEYS.iter().flat_map(|key| match key.name {
        network::TABLE => network::KEYS.iter().map(|key| of_network(key)).collect(),
        name => vec![name.to_owned()],
    })
}

/// The name of a setting of the network.
fn of_network(key: &str) -> String {
    format!("{}.{key}", network::TABLE)
}

impl Raw {
    /// The settings that this layer sets.
    pub(super) fn set_keys(&self) -> BTreeSet<String> {
        let Ok(Value::Object(mut set)) = serde_json::to_value(self) else {
            return BTreeSet::new();
        };
        let network = match set.remove(network::TABLE) {
            Some(Value::Object(network)) => network,
            _ => serde_json::Map::new(),
        };
        let network = network.into_iter().map(|(key, _)| of_network(&key));
        set.into_iter().map(|(key, _)| key).chain(network).collect()
    }
}

/// The values of the settings that protect the workspace, by their names.
pub(crate) fn of_protection(protection: &Protection) -> Vec<(String, Value)> {
    let values = protection_values(protection);
    values.map(|(key, value)| (key.to_owned(), value)).into()
}

fn protection_values(protection: &Protection) -> [(&'static str, Value); 3] {
    [
        ("workspace_read_only", json!(protection.read_only)),
        ("hide", json!(protection.hide)),
        (protect::PROTECT, json!(protection.rules)),
    ]
}

fn values(config: &Config) -> BTreeMap<String, Value> {
    let mut values = of_host(&config.host);
    values.extend(of_sandbox(&config.sandbox));
    values.extend(protection_values(&config.sandbox.protection));
    values.extend([
        ("confirm", json!(config.calls.confirm)),
        ("confirm_apply", json!(config.calls.confirm_apply)),
        (
            "background_after_s",
            json!(config.calls.background_after.as_secs()),
        ),
    ]);
    let values = values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    values.chain(of(&config.sandbox.network)).collect()
}

/// The values of the settings of a network, by their names.
pub(crate) fn of(network: &Network) -> Vec<(String, Value)> {
    let values = network_values(network).into_iter();
    values
        .map(|(key, value)| (of_network(key), value))
        .collect()
}

/// Of a list only the rules: who stated each is in the answer of `snowglobe network show`.
fn network_values(network: &Network) -> BTreeMap<&'static str, Value> {
    let rules = |stated: &[Stated]| -> Value {
        let rules = stated.iter().map(|stated| stated.rule.as_str());
        rules.collect()
    };
    BTreeMap::from([
        ("mode", json!(network.mode)),
        ("allow", rules(&network.allow)),
        ("deny", rules(&network.deny)),
        ("hosts", json!(network.hosts)),
        ("secrets", json!(network.shown().secrets)),
        ("trust_host_ca", json!(network.trust_host_ca)),
        ("bounds", json!(network.bounds)),
    ])
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
    BTreeMap::from([
        ("name", json!(spec.name)),
        ("image", json!(spec.image)),
        ("cpus", json!(spec.cpus)),
        ("memory_mib", json!(spec.memory_mib)),
        ("disk_gib", json!(spec.disk_bytes >> 30)),
        ("nofile", json!(spec.nofile)),
        ("workspace", json!(spec.project_dir)),
        ("workspace_mode", json!(spec.workspace.mode())),
        ("copy_ignored", json!(spec.copy_ignored)),
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
    let lasts = |name: &str| key_of(name).is_some_and(|key| key.applies != Applies::Call);
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
    let fixed = |name: &str| key_of(name).is_some_and(|key| key.applies == Applies::Start);
    asked
        .iter()
        .filter(|setting| fixed(&setting.key))
        .filter_map(|setting| {
            let has = value_of(has, &setting.key)?;
            (!gives(has, setting)).then(|| Difference {
                asked: setting.clone(),
                has: has.clone(),
            })
        })
        .collect()
}

/// Whether a sandbox with this value has what is asked for: of a list of rules all of them, of anything else just that.
fn gives(has: &Value, asked: &Setting) -> bool {
    match (has, &asked.value) {
        (Value::Array(has), Value::Array(rules)) => rules.iter().all(|rule| has.contains(rule)),
        (has, asked) => has == asked,
    }
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
        let all = KEYS.len() - 1 + network::KEYS.len();
        assert_eq!(settings.len(), all);
        let values = values(&config);
        assert_eq!(values.len(), all);
        for name in names() {
            assert!(values.contains_key(&name), "{name} has no value");
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
        let rules = |rules: &[&str]| setting("network.allow", json!(rules));
        let more = [rules(&["a.org", "b.org"])];
        assert_eq!(differences(&[rules(&["b.org"])], &more), []);
        assert_eq!(differences(&[rules(&["c.org"])], &more).len(), 1);
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
