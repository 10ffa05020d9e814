//! `snowglobe logs`: what a sandbox's process said, and its machine's console.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::json::AsJson;
use super::{Done, load, signals};
use crate::config::Raw;
use crate::keeper::ENDED;
use crate::{client, logs, shown};

/// How much of a log's end is shown, in bytes.
const SHOWN: u64 = 256 << 10;

/// How much of the log from before is shown with `-vv`, in bytes.
const TAIL: u64 = 4 << 10;

/// How often a followed log is read.
const POLL: Duration = Duration::from_millis(200);

/// Show the log of this project's sandbox, or its machine's console; also after its end.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Show the console of its newest machine instead
    #[arg(long)]
    console: bool,
    /// Go on with what is added, until ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Print each line as a JSON object
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// What is read of a log, on its way to standard output.
struct Output {
    as_json: bool,
    /// The beginning of a line; only for JSON.
    rest: Vec<u8>,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = shown::out();
        if !self.as_json {
            out.write_all(bytes)?;
            return Ok(out.flush()?);
        }
        self.rest.extend_from_slice(bytes);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n');
        // A guest may write a line without an end to its console.
        let end = match end.map_or(0, |end| end + 1) {
            0 if self.rest.len() as u64 > SHOWN => self.rest.len(),
            end => end,
        };
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            writeln!(out, "{}", shown::json_line(&as_object(line))?)?;
        }
        Ok(out.flush()?)
    }

    /// Writes the last line, which has no end.
    fn finish(&mut self) -> anyhow::Result<()> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => self.write(b"\n"),
        }
    }
}

/// A line of a log: when it was written and how grave it is, if the line says so, and the message.
fn as_object(line: &str) -> Value {
    let parts = line.split_once(' ').and_then(|(time, rest)| {
        let time: jiff::Timestamp = time.parse().ok()?;
        let (level, message) = rest.trim_start().split_once(' ')?;
        let level: tracing::Level = level.parse().ok()?;
        Some((time, level, message))
    });
    match parts {
        Some((time, level, message)) => {
            json!({"time": time, "level": level.as_str(), "message": message})
        }
        None => json!({"message": line}),
    }
}

/// Shows with `-vv` what is added to a sandbox's log while something is done with it.
pub(super) async fn shown_while<T>(path: &Path, work: impl Future<Output = T>) -> T {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return work.await;
    }
    // Its process may have logged already.
    let start = path.metadata().map_or(0, |meta| meta.len());
    let start = start.saturating_sub(TAIL);
    let (mut at, mut out) = (start, shown::err());
    let mut show = || {
        let mut bytes = Vec::new();
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        at += file.take(SHOWN).read_to_end(&mut bytes)? as u64;
        out.write_all(&bytes)
    };
    tokio::pin!(work);
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done),
            () = tokio::time::sleep(POLL) => None,
        };
        // What can't be shown does not hold up the work.
        show().ok();
        if let Some(done) = done {
            return done;
        }
    }
}

/// Whether a log's last line says why the process ended.
fn has_end(log: &[u8]) -> bool {
    let text = String::from_utf8_lossy(log);
    text.lines().last().is_none_or(|line| line.contains(ENDED))
}

impl Logs {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let directory = config.sandbox.project_dir.display();
        let of = match self.console {
            false => logs::log,
            true => logs::console,
        };
        let path = of(&config.host.dirs.data, &config.sandbox.name);
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                say!("no sandbox has run for {directory} yet");
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!("read {}", path.display())));
            }
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut out = Output {
            as_json: self.json.wanted(),
            rest: Vec::new(),
        };
        let ended = signals::terminated();
        tokio::pin!(ended);
        loop {
            let mut bytes = Vec::new();
            (&mut file).take(SHOWN).read_to_end(&mut bytes)?;
            out.write(&bytes)?;
            if !self.follow {
                out.finish()?;
                if !self.console && !has_end(&bytes) && client::find(&config)?.is_none() {
                    say!(
                        "its process ended without saying why: it was killed, or this machine was shut down"
                    );
                }
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                signal = &mut ended => {
                    out.finish()?;
                    return Ok(ExitCode::from(128 + signal));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_taken_apart_and_any_other_is_a_message() {
        assert_eq!(
            as_object("2026-11-27T01:02:03.456789Z  INFO the sandbox is stopped: idle"),
            json!({"time": "2026-11-27T01:02:03.456789Z", "level": "INFO", "message": "the sandbox is stopped: idle"})
        );
        for line in [
            "",
            "[    0.000000] Linux version",
            "soon INFO a",
            "2026-11-27T01:02:03Z what now",
        ] {
            assert_eq!(as_object(line), json!({"message": line}));
        }
    }
}
