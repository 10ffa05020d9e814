//! Measures the network of a sandbox on three ways in one VM, in one run: through the broker, over the streams alone
//! (the raw link), and through a network card with QEMU's user network (slirp), which no sandbox has.
//!
//! The program is PID 1 of the VM, too: it runs the guest's half of the network as init does, and the load.
//!
//! ```console
//! $ cargo run --release --example network-bench -- 3
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]

mod common;
#[path = "network-bench/guest.rs"]
mod guest;
#[path = "network-bench/load.rs"]
mod load;
#[path = "network-bench/machine.rs"]
mod machine;

use std::time::Duration;

use common::ms;
use guest::{Ask, CLOSED, DENIED, Told};
use load::{Load, Measured};
use machine::{Machine, Way};

/// Bytes of one transfer.
const BYTES: u64 = 100_000_000;
/// Connections, one after another.
const CONNECTIONS: usize = 300;
/// Connections at once, and the bytes of each.
const AT_ONCE: (usize, usize) = (200, 100_000);
/// Connections without traffic.
const IDLE: usize = 100;

const LOADS: [Load; 4] = [
    Load::Down(BYTES),
    Load::Up(BYTES),
    Load::Connections(CONNECTIONS),
    Load::Echoes(AT_ONCE.0, AT_ONCE.1),
];

fn main() -> anyhow::Result<()> {
    if std::process::id() == 1 {
        return guest::run();
    }
    let rounds: usize = match std::env::args().nth(1).as_deref() {
        Some("serve") => return machine::serve_outside(),
        rounds => rounds.map_or(Ok(3), str::parse)?,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(compare(rounds))
}

async fn compare(rounds: usize) -> anyhow::Result<()> {
    let mut machine = Machine::start().await?;
    snowglobe::show!("load of this machine before: {}", load_average());
    // First: a process keeps what it has once used.
    idle(&mut machine).await?;
    let mut found: Vec<Vec<[Measured; 3]>> = vec![Vec::new(); LOADS.len()];
    for round in 0..rounds {
        for (load, found) in LOADS.into_iter().zip(&mut found) {
            let mut three = [const { None }; 3];
            // Each way is the first one in its turn.
            for turn in 0..3 {
                let way = Way::ALL[(round + turn) % 3];
                let before = machine.processor_time()?;
                let mut measured = machine.measure(way, load).await?;
                measured.processor = machine.processor_time()? - before;
                three[way as usize] = Some(measured);
            }
            found.push(three.map(Option::unwrap));
        }
    }
    snowglobe::show!(
        "medians of {rounds} rounds (least to most)   {:>26}{:>26}{:>26}",
        "broker",
        "raw link",
        "card, slirp"
    );
    let megabytes = |measured: &Measured| BYTES as f64 / 1e6 / measured.took.as_secs_f64();
    row("download, MB/s", &found[0], megabytes);
    row("upload, MB/s", &found[1], megabytes);
    row("new connections per second", &found[2], |measured| {
        CONNECTIONS as f64 / measured.took.as_secs_f64()
    });
    row("connect p50, ms", &found[2], |measured| {
        ms(measured.connect[0])
    });
    row("connect p99, ms", &found[2], |measured| {
        ms(measured.connect[1])
    });
    row("first byte p50, ms", &found[2], |measured| {
        ms(measured.first[0])
    });
    row("first byte p99, ms", &found[2], |measured| {
        ms(measured.first[1])
    });
    row("200 x 100 kB echoes, s", &found[3], |measured| {
        measured.took.as_secs_f64()
    });
    // QEMU's and the broker's together. It tells more than the clock on a machine that is shared.
    for (what, found) in ["download", "upload", "connections", "echoes"]
        .iter()
        .zip(&found)
    {
        row(&format!("{what}, processor's s"), found, |measured| {
            measured.processor.as_secs_f64()
        });
    }
    refusals(&mut machine).await?;
    snowglobe::show!("load of this machine after: {}", load_average());
    Ok(())
}

/// A row of the table: for each way the median, and the least and the most.
fn row(what: &str, rounds: &[[Measured; 3]], of: impl Fn(&Measured) -> f64) {
    let cell = |way: usize| {
        let mut all: Vec<f64> = rounds.iter().map(|round| of(&round[way])).collect();
        all.sort_by(f64::total_cmp);
        let (least, most) = (all[0], all[all.len() - 1]);
        format!("{:.2} ({least:.2} to {most:.2})", all[all.len() / 2])
    };
    snowglobe::show!("{what:<38}{:>26}{:>26}{:>26}", cell(0), cell(1), cell(2));
}

async fn refusals(machine: &mut Machine) -> anyhow::Result<()> {
    let mut time = async |what: &str, ask: Ask| {
        let mut times = Vec::new();
        let mut told = String::new();
        for _ in 0..20 {
            let Told::Refused(took, text) = machine.ask(&ask).await? else {
                anyhow::bail!("{what}: it was not refused")
            };
            times.push(took);
            told = text;
        }
        let (p50, p99) = (
            common::quantile(&mut times, 50),
            common::quantile(&mut times, 99),
        );
        snowglobe::show!(
            "{what:<38}p50 {:.2} ms, p99 {:.2} ms: {told}",
            ms(p50),
            ms(p99)
        );
        anyhow::Ok(())
    };
    let name = |name: &str| Ask::Connect(name.to_owned());
    time("a name that is not allowed", name("unlisted.bench:7000")).await?;
    time("a port that is not allowed", name(DENIED)).await?;
    time("a port where nothing listens", name(CLOSED)).await
}

async fn idle(machine: &mut Machine) -> anyhow::Result<()> {
    for way in [Way::Broker, Way::Card] {
        // One connection, so that what the first one needs is not counted.
        machine.hold(way, 1).await?;
        let before = (own_rss()?, machine.used().await?);
        machine.hold(way, IDLE).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = (own_rss()?, machine.used().await?);
        machine.release().await?;
        let name = match way {
            Way::Broker => "broker",
            _ => "card, slirp",
        };
        snowglobe::show!(
            "{IDLE} idle connections, {name}: {} kB of the host's process, {} kB in the guest (of which init {} kB)",
            after.0 - before.0,
            after.1.0 - before.1.0,
            after.1.1 - before.1.1
        );
    }
    Ok(())
}

fn own_rss() -> anyhow::Result<i64> {
    Ok(guest::kilobytes("/proc/self/status", "VmRSS:")?)
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default()
}
