//! The keys that hold one of a few words.

use serde::{Deserialize, Serialize};

/// Whether a person is asked before what cannot be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// Nobody is asked.
    #[default]
    Never,
    /// A person is asked if the client can ask; else the call goes on.
    Ask,
    /// If the client cannot ask, the call is refused.
    Require,
}

/// Which engine runs the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EngineChoice {
    /// The best one this host can run.
    #[default]
    Auto,
    /// libkrun.
    Krun,
    /// QEMU.
    Qemu,
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AccelChoice {
    /// Hardware virtualization where it truly works, else translation.
    #[default]
    Auto,
    /// Linux's hardware virtualization.
    Kvm,
    /// macOS's hardware virtualization.
    Hvf,
    /// Translation.
    Tcg,
}

/// What to do if a fence around the VM's processes is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationChoice {
    /// Start no VM.
    Require,
    /// Start it behind the other fences; the first result names those that are missing.
    #[default]
    Best,
}

impl From<IsolationChoice> for snowglobe_runner::Isolation {
    fn from(choice: IsolationChoice) -> Self {
        match choice {
            IsolationChoice::Require => Self::Require,
            IsolationChoice::Best => Self::Best,
        }
    }
}
