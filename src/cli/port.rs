//! `snowglobe port`: reaches what listens in the running sandbox of this workspace.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::{Args, Subcommand, value_parser};

use super::json::AsJson;
use super::{Done, load};
use crate::client;
use crate::config::Raw;
use crate::network::ports::Port as State;
use crate::shown;

/// List what listens in this project's sandbox, and open its ports on this machine.
#[derive(Debug, Args)]
pub(super) struct Port {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the ports on which programs of the sandbox listen, and those that are open here
    #[command(alias = "ls")]
    List,
    /// Open a port of the sandbox on this machine's loopback, until it is closed or the sandbox stops
    Open {
        /// The port in the sandbox
        #[arg(value_parser = value_parser!(u16).range(1..))]
        port: u16,
        /// The port on this machine [default: the same, or another if that is taken]
        #[arg(long, value_name = "PORT")]
        at: Option<u16>,
        /// An address of this machine: others than 127.0.0.1 and ::1 let other machines in
        #[arg(long, value_name = "ADDRESS")]
        address: Option<IpAddr>,
    },
    /// Close a port, and end its connections
    Close {
        /// The port in the sandbox
        #[arg(value_parser = value_parser!(u16).range(1..))]
        port: u16,
    },
}

impl Port {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let Some(running) = client::find(&config)? else {
            anyhow::bail!(
                "reach its ports: no sandbox runs for {}; start one with `snowglobe start`",
                config.sandbox.project_dir.display()
            );
        };
        match self.action {
            Action::List => {
                let ports = client::ports(&running).await?;
                if !self.json.print(&ports)? {
                    list(&ports)?;
                }
            }
            Action::Open { port, at, address } => {
                let address = match (at, address) {
                    (None, None) => None,
                    (at, ip) => Some(SocketAddr::new(
                        ip.unwrap_or(IpAddr::from([127, 0, 0, 1])),
                        at.unwrap_or(port),
                    )),
                };
                let open = client::open_port(&running, port, address).await?;
                if !open.address.ip().is_loopback() {
                    say!("other machines that reach {} can use it now", open.address);
                }
                if !self.json.print(&open)? {
                    writeln!(shown::out(), "http://{}", open.address)?;
                }
            }
            Action::Close { port } => {
                if !client::close_port(&running, port).await? {
                    anyhow::bail!("close port {port}: it is not open");
                }
                self.json.print(&serde_json::json!({"port": port}))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(ports: &[State]) -> std::io::Result<()> {
    if ports.is_empty() {
        say!("nothing listens in the sandbox");
        return Ok(());
    }
    let mut out = shown::out();
    writeln!(out, "{:<6} {:<24} OPEN AT", "PORT", "PROGRAM")?;
    for one in ports {
        let program = match (&one.program, one.listening) {
            (Some(name), _) => shown::line(name).into_owned(),
            (None, true) => "?".to_owned(),
            (None, false) => "nothing listens".to_owned(),
        };
        let at = one
            .address
            .map_or_else(|| "-".to_owned(), |at| format!("http://{at}"));
        writeln!(out, "{:<6} {program:<24} {at}", one.port)?;
    }
    Ok(())
}
