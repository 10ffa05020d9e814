//! Named groups of rules, from `presets.toml`.

use std::sync::LazyLock;

use toml::Table;

/// A group of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// Its name, such as `packages`.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Its rules, and what each is for.
    pub rules: Vec<(String, String)>,
}

/// All groups. The file is part of the program, and a test reads all of it.
static PRESETS: LazyLock<Vec<Preset>> =
    LazyLock::new(|| parse(include_str!("presets.toml")).unwrap_or_default());

fn parse(text: &str) -> Option<Vec<Preset>> {
    let table: Table = text.parse().ok()?;
    let preset = |(name, value): (String, toml::Value)| {
        let rules = value.get("rules")?.as_table()?.iter();
        let rule = |(rule, about): (&String, &toml::Value)| {
            Some((rule.clone(), about.as_str()?.to_owned()))
        };
        Some(Preset {
            name,
            about: value.get("about")?.as_str()?.to_owned(),
            rules: rules.map(rule).collect::<Option<_>>()?,
        })
    };
    table.into_iter().map(preset).collect()
}

/// The preset of that name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The names of all presets.
pub fn names() -> Vec<String> {
    PRESETS.iter().map(|preset| preset.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::rules::Rule;

    #[test]
    fn every_rule_of_every_preset_is_one() {
        let all = parse(include_str!("presets.toml")).expect("the file is read");
        assert!(all.len() >= 5);
        for preset in all {
            assert!(!preset.rules.is_empty() && !preset.about.is_empty());
            for (rule, about) in preset.rules {
                assert_eq!(Rule::parse(&rule).map(|rules| rules.len()), Ok(1), "{rule}");
                assert!(!about.is_empty());
            }
        }
    }
}
