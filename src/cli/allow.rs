//! `snowglobe allow`: the user's consent to the settings in the project's file.
//!
//! The file is read once, so exactly the text that is shown is allowed, whatever the guest writes there meanwhile.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Done;
use super::confirm::Yes;
use super::json::AsJson;
use crate::config::{Config, Raw, Sources};
use crate::config::{Consent, PROJECT_FILE, find_project};
use crate::shown;

/// Allow what this project's snowglobe.toml asks for: its present content, at its present path.
#[derive(Debug, Args)]
pub(super) struct Allow {
    /// Withdraw the consent
    #[arg(long)]
    revoke: bool,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    json: AsJson,
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
            self.json.print(&result(&file.path, false))?;
            return Ok(ExitCode::SUCCESS);
        }
        Config::check_project(&file)?;
        if !self.yes.given() {
            let lines: Vec<String> = file
                .text
                .lines()
                .map(|line| format!("    {line}\n"))
                .collect();
            shown::complain(format_args!(
                "content of {path}:\n{}",
                lines.concat().trim_end()
            ));
        }
        if !self.yes.confirmed("Allow this?", "allow it")? {
            say!("nothing is allowed");
            return Ok(ExitCode::FAILURE);
        }
        consent.give(&file)?;
        say!("allowed, for sandboxes that start from now on");
        self.json.print(&result(&file.path, true))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn result(path: &Path, allowed: bool) -> serde_json::Value {
    serde_json::json!({"path": path.display().to_string(), "allowed": allowed})
}
