//! `snowglobe doctor`: checks what works on this host.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{Done, load};
use crate::config::Raw;
use crate::{doctor, shown};

/// Check what works on this host, and print a remedy for each problem.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

impl Doctor {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let checks = doctor::checks(&config).await;
        let works = doctor::works(&checks);
        let mut out = shown::out();
        if self.json {
            let report = serde_json::json!({"works": works, "checks": checks});
            writeln!(out, "{}", shown::json(&report)?)?;
        } else {
            out.write_all(doctor::report(&checks).as_bytes())?;
        }
        Ok(if works {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
