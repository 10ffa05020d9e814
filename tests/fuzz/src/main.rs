//! The fuzz targets in one program, a module for each; `SNOWGLOBE_FUZZ` selects the target.
//!
//! Each target takes any bytes, passes them to the product's code that reads such data, and panics if a promise is
//! broken. `tests/fuzz/run` has the bounds of memory and time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a finding is a panic"
)]
#![no_main]

mod archive;
mod config;
mod fuse;
mod image;
mod layer;
mod link;
mod listing;
mod network;
mod packets;
mod reference;
mod rules;
mod tree;
mod wire;

use std::path::Path;
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, path_beneath_rules,
};
use libfuzzer_sys::fuzz_target;

/// A target: its name, and the function that runs one input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 11] = [
    ("archive", archive::play),
    ("config", config::play),
    ("fuse", fuse::play),
    ("layer", layer::play),
    ("link", link::play),
    ("listing", listing::play),
    ("network", network::play),
    ("packets", packets::play),
    ("reference", reference::play),
    ("rules", rules::play),
    ("wire", wire::play),
];

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let asked = std::env::var("SNOWGLOBE_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == asked);
    let names = TARGETS.map(|(name, _)| name).join(", ");
    found
        .unwrap_or_else(|| panic!("SNOWGLOBE_FUZZ={asked} names no target; there are {names}"))
        .1
});

fuzz_target!(init: fence(), |bytes: &[u8]| TARGET(bytes));

/// A faulty target can change only its own files and the fuzzer's inputs, so root may run it.
fn fence() {
    let own = std::env::var_os("SNOWGLOBE_FUZZ_OUT").unwrap_or_else(|| "target/fuzz".into());
    let temporary = std::env::temp_dir();
    let places = [Path::new(tree::PLACE), Path::new(&own), &temporary];
    let rights = AccessFs::from_write(ABI::V3);
    let fenced = Ruleset::default()
        .handle_access(rights)
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(places, rights)))
        .and_then(RulesetCreated::restrict_self);
    if let Err(error) = fenced {
        eprintln!("fuzz: there is no fence around the target: {error}");
    }
}

/// The value that the bytes generate, if they generate one.
fn made<T: for<'a> Arbitrary<'a>>(bytes: &[u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

/// Checks that an error's message is no longer than the input with each character escaped twice.
fn check_message(error: &(dyn std::error::Error + 'static), read: usize) {
    let said = snowglobe::describe(error);
    assert!(
        said.len() <= 4096 + 24 * read,
        "{} bytes are said",
        said.len()
    );
}
