//! `snowglobe doctor`: checks what works on this host.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::json::AsJson;
use super::{Done, load};
use crate::config::Raw;
use crate::{doctor, shown};

/// Check what works on this host, and print a remedy for each problem.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

impl Doctor {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let checks = doctor::checks(&config).await;
        let works = doctor::works(&checks);
        let report = serde_json::json!({"works": works, "checks": checks});
        if !self.json.print(&report)? {
            shown::out().write_all(doctor::report(&checks).as_bytes())?;
        }
        Ok(if works {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
