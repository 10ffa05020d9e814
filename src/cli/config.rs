//! `snowglobe config`: the effective configuration, and where each value comes from.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::json::AsJson;
use super::{Done, load};
use crate::config::Raw;
use crate::shown;

/// Show the effective configuration here, and where each value comes from.
#[derive(Debug, Args)]
pub(super) struct ShowConfig {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

impl ShowConfig {
    pub(super) fn run(self) -> Done {
        let config = load(*self.config)?;
        if self.json.print(&config.settings)? {
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = shown::out();
        for setting in &config.settings {
            let value = match &setting.value {
                serde_json::Value::Null => "-".to_owned(),
                value => value.to_string(),
            };
            let origin = setting.origin.to_string();
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
