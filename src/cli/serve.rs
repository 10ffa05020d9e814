//! `snowglobe serve`: MCP on standard input and output, or over HTTP.

use std::io::{IsTerminal, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use snowglobe_runner::socket::Address;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::Done;
use crate::config::{Config, Raw};
use crate::progress::Progress;
use crate::rundir::{RunDirError, RuntimeDir};
use crate::sandbox::{Sandbox, SandboxError};
use crate::{mcp, vmm};

/// Arguments of `snowglobe serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Serve streamable HTTP at http://ADDRESS/mcp instead, or on a unix socket that only you can open; TLS is left to a proxy
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    http: Option<mcp::ListenAddress>,
    #[command(flatten)]
    over_http: OverHttp,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, clap::Args)]
struct OverHttp {
    /// File with the bearer token that clients must send; created if absent [default: http-token in the data directory; none on a unix socket]
    #[arg(
        long,
        value_name = "FILE",
        requires = "http",
        conflicts_with = "no_token"
    )]
    token_file: Option<PathBuf>,
    /// Require no token; only on an address that no other host can reach
    #[arg(long, requires = "http")]
    no_token: bool,
    /// Another name of this server that `Host` may have; may be repeated
    #[arg(long = "allow-host", value_name = "HOST", requires = "http")]
    hosts: Vec<String>,
    /// Origin of web pages that may call, such as https://app.example.com:443, beside those of this machine; may be repeated
    #[arg(long = "allow-origin", value_name = "ORIGIN", requires = "http")]
    origins: Vec<String>,
    /// How many requests a second are accepted in the long run; five times as many at once
    #[arg(long, value_name = "N", default_value = "200", requires = "http")]
    max_rate: NonZeroU32,
    /// Also serve /metrics, for Prometheus; it needs the token, too
    #[arg(long, requires = "http")]
    metrics: bool,
    /// How many sandboxes may run at once
    #[arg(long, value_name = "N", default_value_t = 4, requires = "http")]
    max_sandboxes: usize,
    /// Seconds after which a sandbox without calls and jobs is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "http",
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    idle_stop_s: u64,
}

impl Serve {
    pub(super) async fn run(self) -> Done {
        let config = super::load_to_share(*self.config)?;
        match self.http {
            Some(address) => http(config, address, self.over_http).await,
            None => stdio(config).await,
        }
    }
}

async fn http(config: Config, address: mcp::ListenAddress, over: OverHttp) -> Done {
    // Sandboxes are made at the first call; an unusable runtime directory is an error now.
    RuntimeDir::make(&config.host.dirs.runtime)?;
    announce(&config);
    let file = match (over.token_file, &address) {
        _ if over.no_token => None,
        (Some(file), _) => Some(file),
        (None, mcp::ListenAddress::Tcp(_)) => Some(config.host.dirs.data.join("http-token")),
        // A user who can open the socket could also read the token.
        (None, mcp::ListenAddress::Unix(_)) => None,
    };
    let token = file.as_deref().map(token).transpose()?;
    let listening = mcp::listen(mcp::HttpOptions {
        address,
        token,
        hosts: over.hosts,
        origins: over.origins,
        rate: over.max_rate,
        metrics: over.metrics,
        limits: mcp::Limits {
            sandboxes: over.max_sandboxes,
            idle: Duration::from_secs(over.idle_stop_s),
        },
    })
    .await?;
    match &listening.address {
        mcp::ListenAddress::Tcp(address) => tell!("serving MCP at http://{address}/mcp"),
        at => tell!("serving MCP at http://localhost/mcp on {at}"),
    }
    let closing = CancellationToken::new();
    let served = listening.serve(config, closing.clone());
    tokio::pin!(served);
    tokio::select! {
        () = &mut served => {}
        _ = terminated() => {
            closing.cancel();
            served.await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The token in the file. Without a file, a token is made and shown once.
fn token(path: &Path) -> anyhow::Result<String> {
    let about = |what: &str| format!("{what} the token file {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| about("make the directory of"))?;
    }
    let made = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(mut file) => {
            let token = hex::encode(rand::random::<[u8; 32]>());
            writeln!(file, "{token}").with_context(|| about("write"))?;
            // Without a terminal, standard error may be a journal that other users can read.
            match std::io::stderr().is_terminal() {
                true => tell!(
                    "token, shown this once and kept in {}:\n{token}",
                    path.display()
                ),
                false => tell!("made a token; it is in {}", path.display()),
            }
            Ok(token)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mode = std::fs::metadata(path)
                .with_context(|| about("look at"))?
                .mode();
            anyhow::ensure!(
                mode & 0o077 == 0,
                "{}: others can read it; chmod 600 it, or remove it to get a new one",
                about("use")
            );
            let token = std::fs::read_to_string(path).with_context(|| about("read"))?;
            let token = token.trim().to_owned();
            anyhow::ensure!(
                token.len() >= 16,
                "{}: it holds {} characters, expected 16 or more; remove it to get a new one",
                about("use"),
                token.len()
            );
            Ok(token)
        }
        Err(error) => Err(error).with_context(|| about("make")),
    }
}

async fn stdio(config: Config) -> Done {
    announce(&config);
    let sandbox = Sandbox::new(config)?;
    let closing = CancellationToken::new();
    listen(&sandbox, &closing)?;
    let served = tokio::select! {
        served = mcp::serve_stdio(sandbox.clone()) => served.map_err(anyhow::Error::from),
        _ = terminated() => Ok(()),
    };
    closing.cancel();
    sandbox.stop().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Warns once about problems of this host before anything boots.
fn announce(config: &Config) {
    let host = vmm::host::Host::detect(&config.host.dirs.cache);
    match vmm::choose(&config.host, &host) {
        Ok(snowglobe_runner::Engine::Qemu {
            accel: snowglobe_runner::Accel::Tcg,
            ..
        }) => {
            if let Some(problem) = host.kvm.problem() {
                tracing::warn!(
                    "no hardware virtualization, so the sandbox runs translated, several times slower: {problem}"
                );
            }
        }
        Ok(_) => {}
        // The server starts nevertheless: the client shows the error at the first call, where a person reads it.
        Err(error) => tracing::warn!("failed to {error}"),
    }
}

/// Lets other programs of this host join the sandbox: `ssh` and `snowglobe` itself.
pub(super) fn listen(
    sandbox: &Arc<Sandbox>,
    closing: &CancellationToken,
) -> Result<(), RunDirError> {
    let bind = |name: &str| {
        let path = sandbox.instance().dir.join(name);
        let bound = Address::of(&path).and_then(|address| UnixListener::bind(address.path()));
        bound.map_err(|source| RunDirError::File {
            operation: "listen on",
            path,
            source,
        })
    };
    let (ssh, mcp) = (bind("ssh.sock")?, bind("mcp.sock")?);
    let (sandbox, closing) = (sandbox.clone(), closing.clone());
    tokio::spawn(async move {
        loop {
            let sandbox = sandbox.clone();
            tokio::select! {
                Ok((stream, _)) = ssh.accept() => drop(tokio::spawn(carry(sandbox, stream))),
                Ok((stream, _)) = mcp.accept() => drop(tokio::spawn(async move {
                    if let Err(error) = mcp::serve_stream(stream, sandbox).await {
                        tracing::debug!(%error, "a local MCP session ended");
                    }
                })),
                () = closing.cancelled() => break,
            }
        }
    });
    Ok(())
}

async fn carry(sandbox: Arc<Sandbox>, mut stream: tokio::net::UnixStream) {
    let carried = async {
        let guest = sandbox.guest(&Progress::none()).await?;
        let mut channel = guest.attach().await?;
        // An error means that one side has ended, which ends the session like any other end.
        drop(tokio::io::copy_bidirectional(&mut stream, &mut channel).await);
        Ok::<(), SandboxError>(())
    };
    if let Err(error) = carried.await {
        tracing::warn!("failed to {error}");
    }
}

/// Waits for a signal that ends the program; returns its number.
pub(super) async fn terminated() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => 15,
        _ = int.recv() => 2,
        _ = hup.recv() => 1,
    }
}
