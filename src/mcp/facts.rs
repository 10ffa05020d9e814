//! What the sandboxes of a configuration can do. Instructions, descriptions of tools and messages are written from it,
//! so that none of them promises what this configuration does not have.

use std::time::Duration;

use crate::config::Config;
use crate::network::rules::Mode;
use crate::network::settings::{Settings, Stated};
use crate::sandbox::Sandbox;
use crate::workspace;

/// How many bytes of a list of rules the instructions have room for.
const MOST: usize = 150;

/// Facts about the sandboxes of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Where the files of `/workspace` are.
    pub(crate) workspace: Workspace,
    /// Whether the repository of `/workspace` lies outside of it and is shared, too.
    pub(crate) repository: bool,
    /// How long a command may run that sets no time limit.
    pub(crate) exec_timeout: Duration,
    /// Whether the sandbox is there before and after this client's session, and others may use it meanwhile.
    pub(crate) kept: bool,
    /// What they reach of the network.
    pub(crate) network: Network,
}

/// What is reached of the network. A person may change it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// Nothing.
    Off,
    /// What these words list.
    Listed(String),
    /// The public network; but not what these words list, if there are any.
    Open(String),
}

impl Network {
    /// What these settings open.
    pub(crate) fn of(settings: &Settings) -> Self {
        match settings.mode {
            Mode::Off => Self::Off,
            Mode::List => Self::Listed(words(&settings.allow)),
            Mode::Open => Self::Open(words(&settings.deny)),
        }
    }
}

/// The first rules of a list, in at most [`MOST`] bytes.
fn words(rules: &[Stated]) -> String {
    let mut words = String::new();
    for (at, stated) in rules.iter().enumerate() {
        if words.len() + stated.rule.len() > MOST {
            words.push_str(&format!("{} more", rules.len() - at));
            return words;
        }
        words.push_str(&stated.rule);
        if at + 1 < rules.len() {
            words.push_str(", ");
        }
    }
    words
}

/// Where the files of `/workspace` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workspace {
    /// On the host: the user's own directory.
    Shared,
    /// On a disk of its own, as a copy of the user's directory.
    Copied,
    /// On the sandbox's own disk, as everything else.
    OwnDisk,
}

impl Facts {
    /// The facts about a sandbox as it is now.
    pub(crate) fn of_sandbox(sandbox: &Sandbox) -> Self {
        Self {
            network: Network::of(&sandbox.network().settings()),
            ..Self::of(sandbox.config())
        }
    }

    /// The facts that the configuration fixes.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            workspace: match config.sandbox.workspace {
                workspace::Workspace::Mount { .. } => Workspace::Shared,
                workspace::Workspace::Copy { .. } => Workspace::Copied,
                workspace::Workspace::None => Workspace::OwnDisk,
            },
            repository: config.sandbox.workspace.repository().is_some(),
            exec_timeout: config.sandbox.exec_timeout,
            kept: false,
            network: Network::of(&config.sandbox.network),
        }
    }
}
