//! What lies on the disk, and how it is described to a person: for `data`, `rm` and `prune`.

use crate::client;
use crate::config::Config;
use crate::inventory::{Conversations, Inventory, Sandbox};

/// What lies on the disk now.
pub(super) fn look(config: &Config) -> anyhow::Result<Inventory> {
    Ok(Inventory::look(
        &config.host.dirs,
        &client::running(config)?,
    )?)
}

/// A sandbox's data, on one line.
pub(super) fn described(sandbox: &Sandbox) -> String {
    let mut text = sandbox.name.clone();
    let directories = match (sandbox.directories.is_empty(), sandbox.session) {
        (_, true) => "a client's session".to_owned(),
        (true, false) => "of an unknown directory".to_owned(),
        (false, false) => sandbox.directories.join(", "),
    };
    text += &format!(", {directories}");
    if sandbox.directory == "gone" {
        text += " (gone)";
    }
    if sandbox.running {
        text += ", runs";
    }
    if sandbox.ssh_hosts {
        text += ", ssh hosts";
    }
    match sandbox.snapshots.len() {
        0 => {}
        1 => text += ", 1 snapshot",
        count => text += &format!(", {count} snapshots"),
    }
    if sandbox.workspace_copy {
        text += &match sandbox.unapplied_changes {
            None => ", a copy of the workspace (what was not applied of its changes is only there)"
                .to_owned(),
            Some(0) => ", a copy of the workspace (all its changes are applied)".to_owned(),
            Some(count) => format!(", a copy of the workspace with {}", unapplied(count)),
        };
    }
    text
}

/// So many changes that were not applied.
pub(super) fn unapplied(count: u64) -> String {
    match count {
        1 => "1 change that was not applied".to_owned(),
        count => format!("{count} changes that were not applied"),
    }
}

/// The agent's conversations about a project, on one line.
pub(super) fn conversations(of: &Conversations) -> String {
    let directory = of.directory.as_deref().unwrap_or("an unknown directory");
    let mut text = match of.sessions {
        1 => format!("1 conversation about {directory}"),
        count => format!("{count} conversations about {directory}"),
    };
    if of.state == "gone" {
        text += " (gone)";
    }
    if of.open {
        text += ", open";
    }
    text
}
