//! `snowglobe ssh-config` and the proxy behind it: the user's own `ssh`, `scp`, `sftp` and editors.

use std::process::ExitCode;

use clap::Args;
use tokio::io::AsyncWriteExt;

use super::{Done, attach, load};
use crate::config::{Config, Raw};
use crate::sandbox::instance::{self, Running, SSH_HOST};

/// Print a configuration for your own ssh, good for as long as the sandbox of this workspace runs.
#[derive(Debug, Args)]
pub(super) struct SshConfig {
    #[command(flatten)]
    config: Box<Raw>,
}

fn running(config: &Config) -> anyhow::Result<Running> {
    attach::find(config).ok_or_else(|| {
        anyhow::anyhow!(
            "find a running sandbox for {}: none runs; an MCP client starts one, and so does `snowglobe shell`",
            config.workspace.display()
        )
    })
}

impl SshConfig {
    pub(super) fn run(self) -> Done {
        let config = load(*self.config)?;
        let running = running(&config)?;
        let program = std::env::current_exe()?;
        let dir = running.dir.display();
        let mut out = String::new();
        for (host, user) in [
            (SSH_HOST.to_owned(), "sandbox"),
            (format!("{SSH_HOST}-root"), "root"),
        ] {
            out.push_str(&format!(
                "Host {host}\n  User {user}\n  HostKeyAlias {SSH_HOST}\n  ProxyCommand \"{}\" ssh-proxy {}\n  \
                 IdentityFile \"{dir}/id_ed25519\"\n  IdentitiesOnly yes\n  UserKnownHostsFile \"{dir}/known_hosts\"\n  \
                 GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n",
                program.display(),
                running.info.id
            ));
        }
        out.push_str("# use it:  snowglobe ssh-config >ssh.conf; ssh -F ssh.conf snowglobe\n");
        std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Carry one SSH connection to a running sandbox.
#[derive(Debug, Args)]
pub(super) struct SshProxy {
    /// The instance, as ssh-config names it
    instance: String,
    #[command(flatten)]
    config: Box<Raw>,
}

impl SshProxy {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let found = instance::running(&config.runtime_dir)
            .into_iter()
            .find(|running| running.info.id == self.instance);
        let running = found.ok_or_else(|| {
            anyhow::anyhow!("reach the sandbox {}: it no longer runs", self.instance)
        })?;
        let (mut from, mut to) = crate::guest::connect(&running.ssh_socket())
            .await?
            .into_split();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
            let _ = to.shutdown().await;
        });
        let mut stdout = tokio::io::stdout();
        tokio::io::copy(&mut from, &mut stdout).await?;
        stdout.flush().await?;
        Ok(ExitCode::SUCCESS)
    }
}
