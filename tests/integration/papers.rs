//! Checks the documents against the code.
//!
//! Dependencies follow `deny.toml`: licenses, sources, banned crates. `make deny` runs cargo-deny itself, which also checks
//! advisories. Every test and every fuzz target that SECURITY.md names exists. README.md has every configuration key.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .args(["--filter-platform", "aarch64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn rules() -> toml::Table {
    include_str!("../../deny.toml").parse().unwrap()
}

fn texts(list: &toml::Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn every_license_is_one_of_those_allowed() {
    let rules = rules();
    let allowed: Vec<Licensee> = texts(&rules["licenses"]["allow"])
        .into_iter()
        .map(|license| Licensee::parse(license).unwrap())
        .collect();
    for package in packages() {
        let name = &package["name"];
        let license = package["license"]
            .as_str()
            .unwrap_or_else(|| panic!("{name} names no license"));
        let expression = Expression::parse_mode(license, ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let fits = expression.evaluate(|asked| allowed.iter().any(|one| one.satisfies(asked)));
        assert!(fits, "{name}: {license}");
    }
}

#[test]
fn every_crate_is_from_the_registry_and_none_is_banned() {
    let rules = rules();
    let banned: BTreeSet<&str> = rules["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["crate"].as_str().unwrap())
        .collect();
    assert!(!banned.is_empty());
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.contains(name), "{name} is banned");
        if let Some(source) = package["source"].as_str() {
            assert!(source.starts_with("registry+"), "{name} is from {source}");
            continue;
        }
        for needed in package["dependencies"].as_array().unwrap() {
            let any = needed["req"] == "*" && needed["path"].is_null();
            assert!(!any, "{name} takes any {}", needed["name"]);
        }
    }
}

/// The sources below a directory, as one text.
fn sources(dir: &Path, all: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let mut all = String::new();
    for dir in ["src", "tests", "runner", "images/init"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut all);
    }
    let (mut tests, mut targets) = (0, BTreeSet::new());
    for name in include_str!("../../SECURITY.md")
        .split('`')
        .skip(1)
        .step_by(2)
    {
        if let Some(target) = name.strip_prefix("fuzz ") {
            targets.insert(target);
            continue;
        }
        let test = name.rsplit("::").next().unwrap().trim_start_matches('…');
        let is_test = test.len() > 12
            && test.contains('_')
            && test
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if is_test {
            tests += 1;
            assert!(
                all.contains(&format!("fn {test}(")),
                "SECURITY.md names {name}, which does not exist"
            );
        }
    }
    assert!(tests > 30, "only {tests} tests are named");
    let list = include_str!("../fuzz/run");
    let list = list.split("targets=(").nth(1).unwrap();
    let played = list.split(')').next().unwrap().split(' ').collect();
    assert_eq!(
        targets, played,
        "SECURITY.md must name the targets that tests/fuzz/run runs, and no others"
    );
}

#[test]
fn the_readme_has_every_key_and_says_which_a_project_may_set() {
    let readme = include_str!("../../README.md");
    for (name, project) in snowglobe::config::key_names() {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("README.md has no row for `{name}`"));
        let marked = row.split('|').nth(2).is_some_and(|mark| mark.trim() == "P");
        assert_eq!(marked, project, "{row}");
    }
}
