//! What the sandboxes of a configuration can do. Instructions, descriptions of tools and messages are written from it,
//! so that none of them promises what this configuration does not have.

use std::time::Duration;

use crate::config::Config;
use crate::workspace;

/// Facts about the sandboxes of one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Where the files of `/workspace` are.
    pub(crate) workspace: Workspace,
    /// How long a command may run that sets no time limit.
    pub(crate) exec_timeout: Duration,
    /// Whether the sandbox is there before and after this client's session, and others may use it meanwhile.
    pub(crate) kept: bool,
}

/// Where the files of `/workspace` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workspace {
    /// On the host: the user's own directory.
    Shared,
    /// On the sandbox's own disk, as everything else.
    OwnDisk,
}

impl Facts {
    /// The facts that the configuration fixes.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            workspace: match config.sandbox.workspace {
                workspace::Workspace::Mount(_) => Workspace::Shared,
                workspace::Workspace::None => Workspace::OwnDisk,
            },
            exec_timeout: config.sandbox.exec_timeout,
            kept: false,
        }
    }
}
