//! The tools: a file per tool, and one table of them.
//!
//! A tool declares its parameters as a Rust type. Its schema, the check of a call's arguments and its listing are made
//! from that type, in the same way for every tool ([`tool`], [`entry`]).

mod arguments;
mod changes;
mod edit;
mod entry;
mod exec;
mod job;
mod port;
mod read;
mod reboot;
mod schema;
mod search;
mod snapshot;
mod tool;
mod write;

pub(crate) use self::entry::Entry;
pub(crate) use self::tool::Context;
use self::tool::Tool;
use crate::mcp::facts::{Facts, Workspace};

/// Every tool, in the order in which clients list them.
pub(crate) fn table(facts: &Facts) -> Vec<Entry> {
    let mut table = vec![
        Entry::of::<exec::Exec>(facts),
        Entry::of::<job::Job>(facts),
        Entry::of::<read::Read>(facts),
        Entry::of::<write::Write>(facts),
        Entry::of::<edit::Edit>(facts),
        Entry::of::<search::Search>(facts),
        Entry::of::<snapshot::Snapshot>(facts),
        Entry::of::<reboot::Reboot>(facts),
        Entry::of::<port::Port>(facts),
    ];
    if facts.workspace == Workspace::Copied {
        table.push(Entry::of::<changes::Changes>(facts));
    }
    table
}

/// The icons of prompts, which are those of tools that they use.
pub(crate) const SNAPSHOT_ICON: &str = snapshot::Snapshot::ICON;
pub(crate) const SEARCH_ICON: &str = search::Search::ICON;

#[cfg(test)]
mod tests {
    use super::entry::tests::{PRIVATE, SHARED};
    use super::*;

    #[test]
    fn only_commands_reach_an_open_world_and_only_with_a_network() {
        use crate::mcp::facts::Network;
        for network in [
            Network::Off,
            Network::Listed("packages".into()),
            Network::Open(String::new()),
        ] {
            let facts = Facts { network, ..SHARED };
            for entry in table(&facts) {
                let open = entry
                    .listing
                    .annotations
                    .as_ref()
                    .and_then(|hints| hints.open_world_hint);
                let runs = matches!(entry.name(), "exec" | "job");
                assert_eq!(
                    open,
                    Some(runs && facts.network != Network::Off),
                    "{}",
                    entry.name()
                );
            }
        }
    }

    #[test]
    fn descriptions_promise_only_what_the_sandbox_has() {
        for (facts, shared) in [(SHARED, true), (PRIVATE, false)] {
            for entry in table(&facts) {
                let listing = serde_json::to_string(&entry.listing).unwrap();
                for promise in [
                    "outside /workspace",
                    "/workspace is never",
                    "/workspace and",
                ] {
                    assert!(shared || !listing.contains(promise), "{listing}");
                }
            }
            let of = |name: &str| {
                let table = table(&facts);
                let entry = table.iter().find(|entry| entry.name() == name).unwrap();
                entry.listing.description.clone().unwrap()
            };
            assert_eq!(of("reboot").contains("/workspace and saved"), shared);
            assert_eq!(of("snapshot").contains("/workspace is never"), shared);
            assert_eq!(
                of("snapshot").contains("/workspace is on that disk"),
                !shared
            );
        }
    }
}
