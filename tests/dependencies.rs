//! What `deny.toml` says of dependencies, as far as it can be looked up without its tool: licenses, sources, crates that may
//! not be there. `make deny` asks cargo-deny itself, and for advisories, too.

use std::collections::BTreeSet;
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
    include_str!("../deny.toml").parse().unwrap()
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
