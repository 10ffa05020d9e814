//! Measures what many snapshots cost: the time of a save with and without a merge of layers, of restores, and of reads
//! through chains of several lengths. The number of saves is the first argument. Needs `qemu-img` for the bare chains.
//!
//! ```console
//! $ cargo run --release --example chain-bench -- 100
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an example ends by panicking"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use common::{Client, Place, call, exec};

/// The lengths of the chains that are compared.
const LENGTHS: [usize; 4] = [1, 16, 32, 100];

/// What each save adds, in KiB.
const ADDS: usize = 1024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let saves: usize = std::env::args()
        .nth(1)
        .map_or(Ok(100), |count| count.parse())?;
    let place = Place::new()?;
    let (name, data) = (format!("chain-bench-{}", std::process::id()), data_dir()?);
    let store = data.join("sandboxes").join(&name);
    let (client, _) = place.serve(&[("SNOWGLOBE_NAME", &name)]).await?;
    let measured = measure(&client, &store, saves).await;
    client.cancel().await?;
    std::fs::remove_dir_all(&store).ok();
    measured
}

async fn measure(client: &Client, store: &Path, saves: usize) -> anyhow::Result<()> {
    exec(client, "true", "root").await?;
    let (mut plain, mut merging, mut before, mut longest) = (Vec::new(), Vec::new(), 0, 0);
    for number in 0..saves {
        exec(
            client,
            &format!("echo {number} >/var/count; head -c {ADDS}K /dev/urandom >/var/noise"),
            "root",
        )
        .await?;
        let took = snapshot(client, "save", number).await?;
        let length = layers(store, number)?.len();
        match length <= before {
            true => merging.push(took),
            false => plain.push(took),
        }
        (before, longest) = (length, longest.max(length));
    }
    snowglobe::show!("{saves} saves of {ADDS} KiB each, at most {longest} layers in a chain");
    show("save without a merge", &mut plain);
    show("save with a merge", &mut merging);
    let taken = std::fs::read_dir(store.join("layers"))?
        .map(|entry| Ok(std::os::unix::fs::MetadataExt::blocks(&entry?.metadata()?) * 512))
        .sum::<std::io::Result<u64>>()?;
    snowglobe::show!(
        "  all layers take {} MiB, {:.1} times what was written",
        taken >> 20,
        taken as f64 / (saves * ADDS * 1024) as f64
    );
    for number in [0, saves / 2, saves - 1] {
        let took = snapshot(client, "restore", number).await?;
        let seen = exec(client, "cat /var/count", "root").await?;
        ensure!(seen.trim() == number.to_string(), "s{number} holds {seen}");
        snowglobe::show!(
            "  restore of s{number}, with {} layers: {:.2} s",
            layers(store, number)?.len(),
            took.as_secs_f64()
        );
    }
    snowglobe::show!("chains as they are, and the machine that starts from them");
    snowglobe::show!(
        "  {:>6}  {:>14}  {:>14}  {:>12}",
        "LAYERS",
        "SEQUENTIAL",
        "SCATTERED",
        "RESTORE"
    );
    let base = layers(store, 0)?;
    for length in LENGTHS {
        let chain = lengthen(store, &base, length)?;
        let top = store.join("layers").join(chain.last().context("a layer")?);
        let (sequential, scattered) = (read(&top, 65_536, 65_536)?, read(&top, 4096, 1_052_672)?);
        rename_as(store, &chain, length)?;
        let took = restore(client, &format!("chain-{length}")).await?;
        snowglobe::show!(
            "  {length:>6}  {:>9.0} MiB/s  {:>9.0} op/s  {:>10.2} s",
            sequential / 16.0,
            scattered,
            took.as_secs_f64()
        );
    }
    Ok(())
}

/// Makes empty layers above these until the chain has that length.
fn lengthen(store: &Path, base: &[String], length: usize) -> anyhow::Result<Vec<String>> {
    let mut chain = base.to_vec();
    while chain.len() < length {
        let under = store.join("layers").join(chain.last().context("a layer")?);
        let name = format!("{:08x}{:08x}.qcow2", length, chain.len());
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([&under, &store.join("layers").join(&name)])
            .status()?;
        ensure!(made.success(), "qemu-img makes no layer");
        chain.push(name);
    }
    Ok(chain)
}

/// Writes the record of a snapshot with that chain.
fn rename_as(store: &Path, chain: &[String], length: usize) -> anyhow::Result<()> {
    let mut record = record(store, "s0")?;
    let name = format!("chain-{length}");
    record["name"] = json!(name);
    record["layers"] = json!(chain);
    Ok(std::fs::write(
        store.join(format!("snapshots/{name}.json")),
        record.to_string(),
    )?)
}

/// Reads through a chain; gives the reads per second.
fn read(top: &Path, bytes: u32, step: u32) -> anyhow::Result<f64> {
    const COUNT: u32 = 4000;
    let began = Instant::now();
    let read = Command::new("qemu-img")
        .args(["bench", "-q", "-U", "-f", "qcow2", "-d", "1"])
        .args([
            "-c",
            &COUNT.to_string(),
            "-s",
            &bytes.to_string(),
            "-S",
            &step.to_string(),
        ])
        .arg(top)
        .stdout(Stdio::null())
        .status()?;
    ensure!(read.success(), "qemu-img can't read {}", top.display());
    Ok(f64::from(COUNT) / began.elapsed().as_secs_f64())
}

fn record(store: &Path, name: &str) -> anyhow::Result<Value> {
    let text = std::fs::read(store.join(format!("snapshots/{name}.json")))?;
    Ok(serde_json::from_slice(&text)?)
}

fn layers(store: &Path, number: usize) -> anyhow::Result<Vec<String>> {
    Ok(serde_json::from_value(
        record(store, &format!("s{number}"))?["layers"].clone(),
    )?)
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort();
    let (Some(middle), Some(last)) = (times.get(times.len() / 2), times.last()) else {
        return snowglobe::show!("  {what}: none");
    };
    snowglobe::show!(
        "  {what}: {} times, {:.2} s in the middle, {:.2} s at most",
        times.len(),
        middle.as_secs_f64(),
        last.as_secs_f64()
    );
}

async fn snapshot(client: &Client, action: &str, number: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    call(
        client,
        "snapshot",
        json!({"action": action, "name": format!("s{number}")}),
    )
    .await?;
    Ok(began.elapsed())
}

async fn restore(client: &Client, name: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    call(
        client,
        "snapshot",
        json!({"action": "restore", "name": name}),
    )
    .await?;
    Ok(began.elapsed())
}

/// The directory where the server keeps its data, without a configuration.
fn data_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("SNOWGLOBE_DATA_DIR") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("HOME is set")?;
    let data = std::env::var_os("XDG_DATA_HOME")
        .map_or_else(|| PathBuf::from(home).join(".local/share"), PathBuf::from);
    Ok(data.join("snowglobe"))
}
