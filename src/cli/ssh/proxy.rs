//! The proxy command of the hosts: one SSH connection between ssh and the guest's server.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::asked;
use crate::cli::{Done, attach, load_to_share, start};
use crate::client;
use crate::config::Raw;
use crate::login::Login;
use crate::rundir::{LOGIN, Running};
use crate::shown::{self, Stream};

/// How much is carried at a time, in bytes.
const CARRIED: usize = 64 << 10;

/// Carry one SSH connection to this project's sandbox, which is started if it does not run.
#[derive(Debug, Args)]
pub(in crate::cli) struct Proxy {
    #[command(flatten)]
    config: Box<Raw>,
}

impl Proxy {
    pub(in crate::cli) async fn run(self) -> Done {
        if let Some(refused) = asked::of_parent() {
            anyhow::bail!("connect: {refused}");
        }
        let flags = *self.config;
        // The project's file is looked for in the project, wherever ssh was started.
        if let Some(directory) = &flags.workspace {
            std::env::set_current_dir(directory).map_err(|error| {
                anyhow::anyhow!(
                    "enter the project's directory {}: {error}; `snowglobe ssh-config` prints hosts for another one",
                    directory.display()
                )
            })?;
        }
        let config = load_to_share(flags.clone())?;
        let (running, _) = start::boot(&config, &flags).await?;
        let machine = client::machine(&running)?;
        let login = Login::of(&config.host.dirs.data);
        let user = login.user()?;
        if running.read(LOGIN).is_ok_and(|key| key != user) {
            anyhow::bail!(
                "log in to the sandbox of {}: it was started with another key than {} holds now; `snowglobe stop` ends it, so \
                 that the next connection starts it anew",
                running.info.workspace.display(),
                login.user_file().display()
            );
        }
        login.know(&config.sandbox.name, &machine.host_key)?;
        let timeline = attach::timeline(&config);
        let begun = timeline.map(|timeline| timeline.begin("(ssh session)", None, false));
        let ended = async {
            match carry(&running).await? {
                true => Ok(None),
                false => Ok(client::ended(&running, &machine).await),
            }
        };
        let ended = attach::interruptible(ended).await;
        if let Some(begun) = begun {
            begun.closed();
        }
        let Some(why) = ended? else {
            return Ok(ExitCode::SUCCESS);
        };
        say!("{}; connect again to go on", shown::line(&why));
        Ok(ExitCode::from(crate::cli::OURS))
    }
}

/// Copies both directions until the guest's end is over; gives whether ssh had left before.
async fn carry(running: &Running) -> anyhow::Result<bool> {
    let (mut from, mut to) = client::connect(&running.ssh_socket()).await?.into_split();
    let left = Arc::new(AtomicBool::new(false));
    let leaves = left.clone();
    tokio::spawn(async move {
        // Either error means that the other side has ended, which the loop below sees, too.
        let read = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
        leaves.store(read.is_ok(), Ordering::Relaxed);
        drop(to.shutdown().await);
    });
    let mut stdout = tokio::io::stdout();
    let mut bytes = vec![0; CARRIED];
    // A connection that breaks has ended, too.
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let write = async {
            stdout.write_all(&bytes[..count]).await?;
            stdout.flush().await
        };
        let written: io::Result<()> = write.await;
        written.map_err(|error| Stream::Output.unwritten(&error))?;
    }
    Ok(left.load(Ordering::Relaxed))
}
