//! What of the workspace the sandbox may see and change: the keys `hide` and `protect`.
//!
//! A project's file may tighten both. To loosen a rule is asked of a person ([`excess`]), since the guest could write that
//! file.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use snowglobe_runner::protection::{Effect, PATTERNS, Protection, TABLE, glob};

use super::error::ConfigError;
use crate::text::unknown_key;

/// The key of the rules.
pub(super) const PROTECT: &str = "protect";

/// A glob that can be understood.
pub(super) fn checked_glob(pattern: &str) -> Result<String, String> {
    glob(pattern).map(|_| pattern.to_owned())
}

/// Globs of a file. Each is checked by itself, so that an error names its line.
pub(super) fn globs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Checked(String);
    impl<'de> Deserialize<'de> for Checked {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let pattern = String::deserialize(from)?;
            checked_glob(&pattern).map(Self).map_err(de::Error::custom)
        }
    }
    let all = Vec::<Checked>::deserialize(from)?;
    Ok(all.into_iter().map(|one| one.0).collect())
}

/// Checks the names of the rules in a file.
pub(super) fn check_keys(table: &toml::Value) -> Result<(), String> {
    let Some(table) = table.as_table() else {
        return Err(
            "`protect`: expected a table, such as `[protect]` with `vscode = \"allow\"`".into(),
        );
    };
    let known = |name: &str| TABLE.iter().any(|row| row.id == name);
    match table.keys().find(|name| !known(name)) {
        Some(name) => {
            let known = unknown_key(name, TABLE.iter().map(|row| row.id));
            Err(format!("[protect]: {known}"))
        }
        None => Ok(()),
    }
}

/// The globs of both layers.
pub(super) fn both(mut under: Vec<String>, over: Vec<String>) -> Vec<String> {
    for pattern in over {
        if !under.contains(&pattern) {
            under.push(pattern);
        }
    }
    under
}

/// The rules that `of` sets and `over` does not.
pub(super) fn rest(
    of: &BTreeMap<String, Effect>,
    over: &BTreeMap<String, Effect>,
) -> BTreeMap<String, Effect> {
    let rest = of.iter().filter(|(id, _)| !over.contains_key(*id));
    rest.map(|(id, effect)| (id.clone(), *effect)).collect()
}

/// What a project's rules allow beyond the user's own, each a fragment for a person.
pub(super) fn excess(
    asked: &BTreeMap<String, Effect>,
    user: &BTreeMap<String, Effect>,
) -> Vec<String> {
    let mut beyond = Vec::new();
    for row in TABLE {
        let granted = user.get(row.id).copied().unwrap_or(row.default);
        if let Some(asked) = asked.get(row.id).filter(|asked| **asked < granted) {
            let (id, asked) = (row.id, asked.as_str());
            beyond.push(format!("protect.{id} = \"{asked}\", although {}", row.why));
        }
    }
    beyond
}

/// What of the workspace is protected.
pub(super) fn resolve(
    rules: BTreeMap<String, Effect>,
    hide: Vec<String>,
    read_only: bool,
) -> Result<Protection, ConfigError> {
    if hide.len() > PATTERNS {
        return Err(ConfigError::Value {
            key: "hide",
            value: format!("{} globs", hide.len()),
            expected: format!("expected {PATTERNS} at most"),
        });
    }
    Ok(Protection {
        rules,
        hide,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(rules: &[(&str, Effect)]) -> BTreeMap<String, Effect> {
        let rules = rules.iter().map(|(id, effect)| ((*id).to_owned(), *effect));
        rules.collect()
    }

    #[test]
    fn a_project_asks_for_what_loosens_and_for_nothing_that_tightens() {
        let user = layer(&[("vscode", Effect::Allow), ("claude", Effect::Ask)]);
        for (asked, said) in [
            (
                layer(&[("git-hooks", Effect::Deny), ("vscode", Effect::Deny)]),
                0,
            ),
            (
                layer(&[("vscode", Effect::Allow), ("claude", Effect::Ask)]),
                0,
            ),
            (layer(&[("claude", Effect::Allow)]), 1),
            (layer(&[("git-hooks", Effect::Ask)]), 1),
            (
                layer(&[("git-hooks", Effect::Allow), ("shell", Effect::Allow)]),
                2,
            ),
        ] {
            let beyond = excess(&asked, &user);
            assert_eq!(beyond.len(), said, "{beyond:?}");
        }
        let said = excess(&layer(&[("git-hooks", Effect::Allow)]), &user);
        assert_eq!(
            said,
            [
                "protect.git-hooks = \"allow\", although git runs hooks at commit, checkout, merge and push"
            ]
        );
    }

    #[test]
    fn an_unknown_rule_names_the_nearest() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap().into();
        check_keys(&table("git-hooks = 'allow'")).unwrap();
        let said = check_keys(&table("git-hoks = 'allow'")).unwrap_err();
        assert_eq!(
            said,
            "[protect]: unknown key `git-hoks`; did you mean `git-hooks`?"
        );
        check_keys(&toml::Value::Boolean(true)).unwrap_err();
        check_keys(&table("git-hooks = 'ask'")).unwrap();
    }
}
