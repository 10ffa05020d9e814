//! `snowglobe network explain`.

use std::io::Write;

use serde_json::{Value, json};

use super::super::ending::Misused;
use super::super::json::AsJson;
use crate::network::presets::{self, Preset};
use crate::shown;
use crate::text::did_you_mean;

pub(super) fn run(name: Option<&str>, json: AsJson) -> anyhow::Result<()> {
    let chosen: Vec<&Preset> = match name {
        Some(name) => vec![presets::find(name).ok_or_else(|| unknown(name))?],
        None => presets::names()
            .iter()
            .filter_map(|name| presets::find(name))
            .collect(),
    };
    if json.wanted() {
        let all: Vec<Value> = chosen.iter().map(|preset| as_json(preset)).collect();
        match (name, all.into_iter().next()) {
            (Some(_), Some(one)) => json.print(&one)?,
            _ => json.print(
                &chosen
                    .iter()
                    .map(|preset| as_json(preset))
                    .collect::<Vec<_>>(),
            )?,
        };
        return Ok(());
    }
    let mut out = shown::out();
    for preset in &chosen {
        writeln!(out, "{:<10} {}", preset.name, preset.about)?;
        if name.is_some() {
            let width = preset
                .rules
                .iter()
                .map(|(rule, _)| rule.len())
                .max()
                .unwrap_or(0);
            for (rule, about) in &preset.rules {
                writeln!(out, "  {rule:<width$}  {about}")?;
            }
        }
    }
    Ok(())
}

fn as_json(preset: &Preset) -> Value {
    let rules = preset.rules.iter();
    let rules: Vec<Value> = rules
        .map(|(rule, about)| json!({"rule": rule, "about": about}))
        .collect();
    json!({"name": preset.name, "about": preset.about, "rules": rules})
}

fn unknown(name: &str) -> Misused {
    let known = presets::names();
    let near = did_you_mean(name, known.iter().map(String::as_str));
    Misused(format!(
        "explain `{}`: {near}presets are {}; `snowglobe network check` explains a host",
        shown::line(name),
        known.join(", ")
    ))
}
