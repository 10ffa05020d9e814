//! Measures the command line: `ls` and `status`, and `exec true` in a sandbox that runs, compared with the same command
//! over the raw guest link and with the start of any program. Everything is measured in one run, since machines are
//! noisy; compare the ratios.
//!
//! ```console
//! $ make bench
//! ```

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use snowglobe::guest::Guest;
use snowglobe_init::wire::{ExecRequest, Program, Stdin, User, Word};
use tokio_util::sync::CancellationToken;

use common::{Place, ms, quantile};

const ROUNDS: usize = 50;

/// What is measured.
const SUBJECTS: [&[&str]; 4] = [
    &["--version"],
    &["ls"],
    &["status"],
    &["exec", "-n", "--", "true"],
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let place = Place::new()?;
    let measured = measure(&place).await;
    // Whatever has failed, the sandbox does not stay.
    timed(&mut place.command(&["rm", "--force", "--yes"])?)?;
    let [floor, version, ls, status, exec, raw] = measured?;
    snowglobe::show!("the command line, p50 of {ROUNDS}");
    snowglobe::show!("  the start of /bin/true        {floor:>9.2} ms");
    for (what, time) in [("--version", version), ("ls", ls), ("status", status)] {
        snowglobe::show!(
            "  {what:<28}  {time:>9.2} ms   {:.1} x the start of /bin/true",
            time / floor
        );
    }
    snowglobe::show!("`true` in a sandbox that runs, p50 of {ROUNDS}");
    snowglobe::show!("  over the open guest link      {raw:>9.2} ms");
    snowglobe::show!(
        "  snowglobe exec                {exec:>9.2} ms   {:.1} x the link",
        exec / raw
    );
    Ok(())
}

/// The medians, in milliseconds: the start of any program, the subjects, and the raw link.
async fn measure(place: &Place) -> anyhow::Result<[f64; 6]> {
    timed(place.command(&["start"])?.env("SNOWGLOBE_CPUS", "1"))?;
    let guest = place.join("snowglobe").await?;
    let mut times: [Vec<Duration>; 6] = Default::default();
    for _ in 0..ROUNDS {
        // One after the other, so that a busy machine slows all of them alike.
        times[0].push(timed(&mut Command::new("/bin/true"))?);
        for (subject, times) in SUBJECTS.iter().zip(&mut times[1..]) {
            times.push(timed(&mut place.command(subject)?)?);
        }
        times[5].push(raw(&guest).await?);
    }
    guest.close().await;
    Ok(times.map(|mut times| ms(quantile(&mut times, 50))))
}

fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = Instant::now();
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(started.elapsed())
}

async fn raw(guest: &Guest) -> anyhow::Result<Duration> {
    let request = ExecRequest {
        command: Program::Argv(vec![Word::Text("true".to_owned())]),
        cwd: None,
        env: Default::default(),
        user: User::Sandbox,
        stdin: Stdin::Null,
        timeout_ms: None,
        spill_after: None,
        pty: None,
        detach: None,
    };
    let started = Instant::now();
    let (cancel, input) = (CancellationToken::new(), tokio::io::empty());
    let ran = guest
        .run(request, input, &mut |_| (), &cancel, None)
        .await?;
    ensure!(ran.ended()?.outcome.exit_status() == 0, "true failed");
    Ok(started.elapsed())
}
