//! Starting the process that keeps a sandbox.
//!
//! The process is this program, started as `snowglobe keep`. It gets the flags on its standard input and says on its
//! standard output whether it listens; its standard error is the sandbox's log. It leaves the session of the terminal, so
//! nothing that happens to the client ends it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{ClientError, find};
use crate::config::{Config, Raw};
use crate::names::SandboxName;
use crate::progress::Progress;
use crate::rundir::Running;
use crate::{files, logs, private};

/// How long another process may take to start the same sandbox.
const OTHERS: Duration = Duration::from_secs(60);

/// The longest message of a process that could not start, in bytes.
const LONGEST: u64 = 64 << 10;

/// The variable that says what is logged; nobody but `logs` shows the log, so it has more than a terminal gets.
const LOG: &str = "SNOWGLOBE_LOG";

/// From this size on, in bytes, a log is set aside when the sandbox starts.
const LONGEST_LOG: u64 = 1 << 20;

/// What the process says once it listens, or why it does not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Started {
    /// It listens; the sandbox's id.
    Listening(String),
    /// It failed.
    Failed(String),
}

/// The sandbox that a process keeps for this configuration, and whether this call started it.
pub(crate) async fn start_or_join(
    config: &Config,
    flags: &Raw,
    progress: &Progress,
) -> Result<(Running, bool), ClientError> {
    if let Some(running) = find(config)? {
        return Ok((running, false));
    }
    let (data, name) = (&config.host.dirs.data, &config.sandbox.name);
    let _starting = alone(data, name, progress).await?;
    if let Some(running) = find(config)? {
        return Ok((running, false));
    }
    let id = spawn(config, flags).await?;
    let found = find(config)?.filter(|running| running.id.as_str() == id);
    let failed = || ClientError::Failed {
        error: format!("join the sandbox {id}, which was just started: it is gone"),
    };
    Ok((found.ok_or_else(failed)?, true))
}

/// Makes this process the only one that starts or removes this sandbox, until the lock is dropped.
pub(crate) async fn alone(
    data_dir: &Path,
    name: &SandboxName,
    progress: &Progress,
) -> Result<File, ClientError> {
    let path = logs::lock(data_dir, name);
    let fail = |source| ClientError::Start {
        operation: format!("lock {}", path.display()),
        source,
    };
    if let Some(parent) = path.parent() {
        private::dir(parent).map_err(fail)?;
    }
    let deadline = tokio::time::Instant::now() + OTHERS;
    let mut told = false;
    loop {
        match files::try_lock(&path).map_err(fail)? {
            // `rm` may have removed it since it was opened.
            Some(lock) if files::leads_to(&path, &lock).map_err(fail)? => return Ok(lock),
            Some(_) => {}
            None if tokio::time::Instant::now() > deadline => {
                return Err(ClientError::Busy {
                    seconds: OTHERS.as_secs(),
                });
            }
            None => {
                if !std::mem::replace(&mut told, true) {
                    progress.say("waiting for another process that starts the sandbox");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn spawn(config: &Config, flags: &Raw) -> Result<String, ClientError> {
    let fail = |operation: &str| {
        let operation = operation.to_owned();
        move |source: io::Error| ClientError::Start { operation, source }
    };
    let log = logs::log(&config.host.dirs.data, &config.sandbox.name);
    let log = open_log(&log).map_err(fail(&format!("open the log {}", log.display())))?;
    let program = std::env::current_exe().map_err(fail("find this program"))?;
    // What this process inherited (a script's pipe, a lock) must not stay open for as long as the sandbox is kept.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut command = tokio::process::Command::new(program);
    if tracing::enabled!(tracing::Level::DEBUG) {
        // What this client shows with `-vv` is what that process logs.
        command.arg("-vv");
    }
    let mut child = command
        .arg("keep")
        .env(
            LOG,
            std::env::var_os(LOG).unwrap_or("snowglobe=info".into()),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(fail("start the sandbox's process"))?;
    let talk = "talk to the sandbox's process";
    if let Some(mut stdin) = child.stdin.take() {
        let order = serde_json::to_vec(flags).map_err(io::Error::other);
        let order = order.map_err(fail(talk))?;
        stdin.write_all(&order).await.map_err(fail(talk))?;
    }
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout.take(LONGEST));
        lines.read_line(&mut said).await.map_err(fail(talk))?;
    }
    // It outlives this process; while this one lives, nobody else can wait for it.
    tokio::spawn(async move { child.wait().await });
    match serde_json::from_str(&said) {
        Ok(Started::Listening(id)) => Ok(id),
        Ok(Started::Failed(error)) => Err(ClientError::Failed { error }),
        Err(source) => Err(fail(
            "start the sandbox's process, which ended without a message; its log may say why",
        )(source.into())),
    }
}

/// Opens the log for additions; one that has become long is set aside, as `NAME.log.old`.
fn open_log(path: &Path) -> io::Result<File> {
    if path.metadata().is_ok_and(|meta| meta.len() > LONGEST_LOG) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    private::file().append(true).create(true).open(path)
}
