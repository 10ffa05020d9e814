//! `snowglobe allow`: a person's consent to what the project's file asks for.
//!
//! The file is read once: what is shown is what is allowed, whatever the guest writes there meanwhile.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Done;
use crate::config::{Config, Raw, Sources};
use crate::config::{Consent, PROJECT_FILE, find_project};

/// Allow what this project's snowglobe.toml asks for: its content as it is now, in this place.
#[derive(Debug, Args)]
pub(super) struct Allow {
    /// Take it back
    #[arg(long)]
    revoke: bool,
    /// Allow it without asking
    #[arg(long, short)]
    yes: bool,
    /// Where images, snapshots and consents are kept [default: snowglobe in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Allow {
    pub(super) fn run(self) -> Done {
        let sources = Sources::of_process(Raw {
            data_dir: self.data_dir,
            ..Raw::default()
        })?;
        let dirs = Config::dirs(&sources)?;
        let Some(file) = find_project(&sources.cwd, dirs.home.as_deref())? else {
            anyhow::bail!(
                "find {PROJECT_FILE}: there is none in {} nor in the directories of its repository above it",
                sources.cwd.display()
            );
        };
        let path = file.path.display();
        let consent = Consent::new(&dirs.data);
        if self.revoke {
            let was = consent.withdraw(&file)?;
            say!(
                "{path} {}",
                if was {
                    "is allowed no longer"
                } else {
                    "was not allowed"
                }
            );
            return Ok(ExitCode::SUCCESS);
        }
        Config::check_project(&file)?;
        if !self.yes {
            say!("{path} says:");
            for line in file.text.lines() {
                tell!("    {line}");
            }
            if !confirmed()? {
                say!("nothing is allowed");
                return Ok(ExitCode::FAILURE);
            }
        }
        consent.give(&file)?;
        say!("allowed; it holds for sandboxes that start from now on");
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks on the terminal; where there is none, nobody can answer.
fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!(
            "ask whether to allow it: standard input is no terminal; pass --yes to allow it unasked"
        );
    }
    write!(std::io::stderr(), "Allow this? [y/N] ")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
