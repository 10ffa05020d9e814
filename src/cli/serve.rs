//! `snowglobe serve`: MCP on standard input and output, or over HTTP.

use std::io::{IsTerminal, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{Done, attach, signals};
use crate::client;
use crate::config::{Config, Raw};
use crate::progress::Progress;
use crate::rundir::RuntimeDir;
use crate::sandbox::Sandbox;
use crate::shown::Stream;
use crate::{mcp, vmm};

/// Arguments of `snowglobe serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Serve streamable HTTP at http://ADDRESS/mcp instead, or on a unix socket that only you can open; TLS is left to a proxy
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    http: Option<mcp::ListenAddress>,
    /// Serve a sandbox of its own, which is removed when the client leaves
    #[arg(long, alias = "fresh", conflicts_with = "http")]
    rm: bool,
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
    #[arg(skip)]
    idle_stop_s: Option<u64>,
}

impl Serve {
    pub(super) async fn run(self) -> Done {
        let flags = *self.config;
        let config = super::load_to_share(flags.clone())?;
        match self.http {
            Some(address) => {
                let over = OverHttp {
                    idle_stop_s: flags.idle_stop_s,
                    ..self.over_http
                };
                http(config, address, over).await
            }
            None if self.rm => own(config).await,
            None => joined(config, &flags).await,
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
            idle: idle(over.idle_stop_s),
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
        _ = signals::terminated() => {
            closing.cancel();
            served.await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// When a sandbox of a session is stopped; there may be many, so it is sooner than for a project's own.
fn idle(given: Option<u64>) -> Duration {
    match given {
        None => Duration::from_secs(15 * 60),
        // A year without a call is never.
        Some(0) => Duration::from_secs(366 * 24 * 3600),
        Some(seconds) => Duration::from_secs(seconds),
    }
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

/// Serves a sandbox of this process alone, which ends with its client.
async fn own(config: Config) -> Done {
    announce(&config);
    let sandbox = Sandbox::new(config).await?;
    let served = tokio::select! {
        served = mcp::serve_stdio(sandbox.clone()) => served.map_err(anyhow::Error::from),
        _ = signals::terminated() => Ok(()),
    };
    attach::stop(&sandbox).await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Connects standard input and output with the project's sandbox, which stays when the client leaves.
async fn joined(config: Config, flags: &Raw) -> Done {
    announce(&config);
    let (running, _) = attach::start_or_join(&config, flags, &Progress::none()).await?;
    let stream = client::connect(&running.mcp_socket()).await?;
    let (mut from, mut to) = stream.into_split();
    tokio::spawn(async move {
        // An error means that the other side has ended, which the copy below sees, too.
        drop(tokio::io::copy(&mut tokio::io::stdin(), &mut to).await);
        drop(to.shutdown().await);
    });
    let mut stdout = tokio::io::stdout();
    let copied = tokio::select! {
        copied = tokio::io::copy(&mut from, &mut stdout) => copied,
        _ = signals::terminated() => return Ok(ExitCode::SUCCESS),
    };
    let flushed = stdout.flush().await;
    let written = copied.and(flushed);
    written.map_err(|error| Stream::Output.copied(error))?;
    Ok(ExitCode::SUCCESS)
}

/// Warns once about problems of this host before anything boots.
fn announce(config: &Config) {
    let host = vmm::host::Host::detect(&config.host.dirs.cache);
    match vmm::choose(&config.host, &host) {
        Ok(snowglobe_runner::EngineSpec::Qemu {
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
