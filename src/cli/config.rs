//! `snowglobe config`: the effective configuration, and where each value comes from.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{Done, load};
use crate::config::{Origin, Raw};
use crate::shown;

/// Show the effective configuration here, and where each value comes from.
#[derive(Debug, Args)]
pub(super) struct ShowConfig {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

impl ShowConfig {
    pub(super) fn run(self) -> Done {
        let config = load(*self.config)?;
        let mut out = shown::out();
        if self.json {
            writeln!(out, "{}", shown::json(&config.settings)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        for setting in &config.settings {
            let value = match &setting.value {
                serde_json::Value::Null => "-".to_owned(),
                value => value.to_string(),
            };
            let origin = match &setting.origin {
                Origin::Default => "default".to_owned(),
                Origin::UserFile(path) | Origin::ProjectFile(path) => path.display().to_string(),
                Origin::Environment(name) => name.clone(),
                Origin::Flag => "flag".to_owned(),
            };
            writeln!(
                out,
                "{:<18} {:<32} {}",
                setting.key,
                shown::line(&value),
                shown::line(&origin)
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
