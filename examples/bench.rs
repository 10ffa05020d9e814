//! Measures the cost of a session, compared with OpenSSH's sshd in the same VM and a connection per command, and with
//! the raw link. Everything is measured in one run, since machines are noisy; compare the ratios.
//!
//! ```console
//! $ make bench
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use russh::client;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg};
use serde_json::json;
use snowglobe::guest::Guest;
use snowglobe_init::wire::{Report, Request};

use common::{Client, Place, call, exec, ms, quantile};

const COMMANDS: usize = 200;
const CONNECTIONS: usize = 15;
const PINGS: usize = 500;
const FILE: usize = 4 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let place = Place::new()?;
    let (client, pid) = place.serve(&[("SNOWGLOBE_CPUS", "1")]).await?;

    let started = Instant::now();
    exec(&client, "true", "sandbox").await?;
    let first = started.elapsed();
    let guest = place.join("root").await?;
    let Report::Status(status) = guest.ask(&Request::Status).await? else {
        anyhow::bail!("the guest gave no status")
    };
    let kernel = Duration::from_millis(status.init_started_ms);

    let mut execs = Vec::new();
    for _ in 0..COMMANDS {
        execs.push(timed(exec(&client, "true", "sandbox")).await?);
    }
    let mut lines = Vec::new();
    for _ in 0..COMMANDS / 4 {
        lines.push(timed(exec(&client, "true; true", "sandbox")).await?);
    }
    let mut pings = Vec::new();
    for _ in 0..PINGS {
        pings.push(timed(async { Ok(guest.ping().await?) }).await?);
    }
    let memory = memory(pid, &status);
    let (write, read, last) = files(&client).await?;
    let sshd = sshd(&client, &guest, &place.workspace).await?;

    let (exec50, exec99) = (quantile(&mut execs, 50), quantile(&mut execs, 99));
    let ping50 = quantile(&mut pings, 50);
    snowglobe::show!("boot");
    snowglobe::show!(
        "  first answer over MCP         {:>9.0} ms   {:.2} x the kernel's own boot ({} ms)",
        ms(first),
        ms(first) / ms(kernel),
        kernel.as_millis()
    );
    snowglobe::show!("exec true, {COMMANDS} times over MCP");
    snowglobe::show!("  p50                           {:>9.2} ms", ms(exec50));
    snowglobe::show!("  p99                           {:>9.2} ms", ms(exec99));
    snowglobe::show!(
        "  p50 of a line for the shell   {:>9.2} ms   (`true; true`)",
        ms(quantile(&mut lines, 50))
    );
    match sshd {
        Some(mut times) => {
            let (p50, p99) = (quantile(&mut times, 50), quantile(&mut times, 99));
            snowglobe::show!("the same VM, sshd and a connection per command, {CONNECTIONS} times");
            snowglobe::show!(
                "  p50                           {:>9.2} ms   {:.1} x exec true",
                ms(p50),
                ms(p50) / ms(exec50)
            );
            snowglobe::show!(
                "  p99                           {:>9.2} ms   {:.1} x",
                ms(p99),
                ms(p99) / ms(exec99)
            );
        }
        None => snowglobe::show!("no sshd on this host to compare with (Debian: openssh-server)"),
    }
    snowglobe::show!("the link's own round trip, {PINGS} times");
    snowglobe::show!(
        "  p50                           {:>9.3} ms   exec true takes {:.0} of them",
        ms(ping50),
        ms(exec50) / ms(ping50)
    );
    snowglobe::show!("files of {} MiB through the tools", FILE >> 20);
    snowglobe::show!("  write                         {write:>9.1} MB/s");
    snowglobe::show!("  read (lines), page by page    {read:>9.1} MB/s");
    snowglobe::show!("  a page of the second half     {last:>9.2} x the time of one of the first");
    snowglobe::show!("memory, idle");
    for (what, bytes) in memory {
        snowglobe::show!("  {what:<28}  {:>9.1} MB", bytes as f64 / 1e6);
    }
    let _ = client.cancel().await;
    Ok(())
}

async fn timed<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

/// The speed of writing and reading a file, in MB/s, and the time of a page in its second half as a multiple of one in its
/// first half.
async fn files(client: &Client) -> anyhow::Result<(f64, f64, f64)> {
    let line = "0123456789abcdef".repeat(4);
    let content: String = std::iter::repeat_n(line + "\n", FILE / 65).collect();
    let started = Instant::now();
    call(
        client,
        "write",
        json!({"path": "/var/tmp/bench", "content": content}),
    )
    .await?;
    let write = content.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
    let started = Instant::now();
    let (mut bytes, mut offset) = (0, 1);
    let mut pages = Vec::new();
    while bytes < content.len() {
        let asked = Instant::now();
        let read = call(
            client,
            "read",
            json!({"path": "/var/tmp/bench", "offset": offset, "limit": 2000}),
        )
        .await?;
        pages.push(asked.elapsed());
        bytes += read["content"].as_str().unwrap_or_default().len();
        match read["next_offset"].as_u64() {
            Some(next) => offset = next,
            None => break,
        }
    }
    let took = started.elapsed();
    let middle = pages.len() / 2;
    let (first, last) = pages.split_at_mut(middle);
    let ratio = ms(quantile(last, 50)) / ms(quantile(first, 50));
    Ok((write, bytes as f64 / took.as_secs_f64() / 1e6, ratio))
}

fn memory(server: u32, status: &snowglobe_init::wire::Status) -> Vec<(String, u64)> {
    let rss = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or_default();
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .unwrap_or_default()
            << 10
    };
    let mut rows = vec![("server".to_owned(), rss(server))];
    let mut below = vec![server];
    while let Some(parent) = below.pop() {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let text = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let of = |name: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            };
            if of("PPid:") == parent.to_string() {
                rows.push((of("Name:"), rss(pid)));
                below.push(pid);
            }
        }
    }
    rows.push((
        "in the guest, used".into(),
        status.memory_bytes - status.memory_available_bytes,
    ));
    rows
}

struct AnyServer;

impl client::Handler for AnyServer {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Runs this host's sshd in the guest, with one connection per command.
async fn sshd(
    client: &Client,
    guest: &Guest,
    workspace: &Path,
) -> anyhow::Result<Option<Vec<Duration>>> {
    let program = PathBuf::from("/usr/sbin/sshd");
    if !program.exists() {
        return Ok(None);
    }
    let dir = workspace.join("sshd");
    std::fs::create_dir(&dir)?;
    std::fs::copy(&program, dir.join("sshd"))?;
    let libraries = std::process::Command::new("ldd").arg(&program).output()?;
    for library in String::from_utf8_lossy(&libraries.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let name = Path::new(library)
            .file_name()
            .context("a library has a name")?;
        if !name.to_string_lossy().starts_with("libc.so")
            && !name.to_string_lossy().starts_with("ld-")
        {
            std::fs::copy(library, dir.join(name))?;
        }
    }
    let make = || PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519);
    let (host, key) = (make()?, Arc::new(make()?));
    std::fs::write(
        dir.join("host"),
        host.to_openssh(LineEnding::LF)?.as_bytes(),
    )?;
    std::fs::write(dir.join("keys"), key.public_key().to_openssh()?)?;
    let config = "Port 2222\nListenAddress 127.0.0.1\nHostKey /run/bench/host\nAuthorizedKeysFile /run/bench/keys\nStrictModes no\nUsePAM no\nPidFile none\n";
    std::fs::write(dir.join("config"), config)?;
    // If its parent is PID 1, sshd assumes that it is already a daemon. So sshd must not be the last command of the line.
    let start = "cp -r /workspace/sshd /run/bench && chmod 600 /run/bench/host && mkdir -p /run/sshd && \
        grep -q ^sshd: /etc/passwd || echo 'sshd:x:105:65534::/run/sshd:/usr/sbin/nologin' >>/etc/passwd; \
        LD_LIBRARY_PATH=/run/bench /run/bench/sshd -r -f /run/bench/config; exit $?";
    exec(client, start, "root").await?;
    let mut times = Vec::new();
    for _ in 0..CONNECTIONS {
        times.push(timed(one_connection(guest, &key)).await?);
    }
    Ok(Some(times))
}

async fn one_connection(guest: &Guest, key: &Arc<PrivateKey>) -> anyhow::Result<()> {
    let stream = guest.forward(2222).await?;
    let mut handle = client::connect_stream(Arc::default(), stream, AnyServer).await?;
    let key = PrivateKeyWithHashAlg::new(key.clone(), None);
    ensure!(
        handle.authenticate_publickey("root", key).await?.success(),
        "sshd refused the key"
    );
    let mut channel = handle.channel_open_session().await?;
    channel.exec(false, "true").await?;
    while channel.wait().await.is_some() {}
    handle
        .disconnect(russh::Disconnect::ByApplication, "", "")
        .await?;
    Ok(())
}
