//! `snowglobe serve`: MCP on standard input and output.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::Done;
use crate::config::Config;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, SandboxError};
use crate::{mcp, vmm};

pub(super) async fn run(config: Config) -> Done {
    announce(&config);
    let sandbox = Sandbox::new(config)?;
    let closing = CancellationToken::new();
    listen(&sandbox, &closing)?;
    let served = tokio::select! {
        served = mcp::serve_stdio(sandbox.clone()) => served.map_err(anyhow::Error::from),
        () = terminated() => Ok(()),
    };
    closing.cancel();
    sandbox.stop().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Says once what a person should know of this host before anything boots.
fn announce(config: &Config) {
    let host = vmm::host::Host::detect();
    match vmm::choose(config, &host) {
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
        // The server starts all the same: the client shows the error where somebody reads it, at the first call.
        Err(error) => tracing::warn!("failed to {error}"),
    }
}

/// Lets others on this host join the sandbox: `ssh` and `snowglobe` itself.
pub(super) fn listen(
    sandbox: &Arc<Sandbox>,
    closing: &CancellationToken,
) -> Result<(), SandboxError> {
    let bind = |name: &str| {
        let path = sandbox.instance().dir.join(name);
        UnixListener::bind(&path).map_err(|source| SandboxError::File {
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
        // Whichever side ends, the session is over.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut channel).await;
        Ok::<(), SandboxError>(())
    };
    if let Err(error) = carried.await {
        tracing::warn!("failed to {error}");
    }
}

/// Waits for a signal that asks to end.
pub(super) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}
