//! A server that is a program of this machine: it speaks on its standard streams, and its messages go to a log.
//!
//! It has a process group of its own, so that it does not get the terminal's signals, and so that the processes it starts
//! end with it.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::settings::Named;
use crate::private;

/// How long a program may take to end once its standard input is closed, and again after SIGTERM.
const ENDING: Duration = Duration::from_secs(2);

/// How much of its newest messages an error has, in bytes.
const LAST: u64 = 2000;

/// A program that runs.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    group: Option<Pid>,
    log: PathBuf,
}

impl Running {
    /// Starts a program whose messages go to a log.
    pub(super) fn start(
        program: &Named,
        log: &Path,
    ) -> io::Result<(Self, ChildStdout, ChildStdin)> {
        private::dir(log.parent().unwrap_or(Path::new(".")))?;
        let messages = private::file()
            .write(true)
            .create(true)
            .truncate(true)
            .open(log)?;
        let mut command = Command::new(program.command.as_deref().unwrap_or_default());
        command
            .args(&program.args)
            .envs(&program.env)
            .current_dir(program.cwd.as_deref().unwrap_or(Path::new(".")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(messages)
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let (out, to) = (child.stdout.take(), child.stdin.take());
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let running = Self {
            child,
            group: id.and_then(Pid::from_raw),
            log: log.to_owned(),
        };
        match (out, to) {
            (Some(out), Some(to)) => Ok((running, out, to)),
            _ => Err(io::Error::other("it has no standard streams")),
        }
    }

    /// The newest of its messages.
    pub(super) fn said(&self) -> String {
        let mut said = Vec::new();
        let read = std::fs::File::open(&self.log).and_then(|mut log| {
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LAST)))?;
            log.take(LAST).read_to_end(&mut said)
        });
        read.ok();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// Ends the program, whose standard input is closed, and every process that it started.
    pub(super) async fn end(mut self) {
        if !self.ended().await {
            self.signal(Signal::TERM);
            self.ended().await;
        }
        self.signal(Signal::KILL);
        self.child.wait().await.ok();
        self.group = None;
    }

    /// Waits a while for its end. It is not reaped yet: until then no other process group can get its number.
    async fn ended(&self) -> bool {
        let Some(group) = self.group else {
            return true;
        };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let ended = async {
            while let Ok(None) = waitid(WaitId::Pid(group), look) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(ENDING, ended).await.is_ok()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An error means that all of them have ended.
            kill_process_group(group, signal).ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The log of a server, in a directory of the project's.
pub(super) fn log_path(dir: &Path, server: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = server.chars().map(plain).take(64).collect();
    dir.join("servers").join(format!("{name}.log"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn shell(script: &str) -> Named {
        Named {
            command: Some("sh".to_owned()),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: BTreeMap::from([("WORD".to_owned(), "hello".to_owned())]),
            cwd: Some("/".into()),
            ..Named::default()
        }
    }

    fn lives(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.is_ok_and(|state| !state.contains(") Z "))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_ends_with_all_that_it_started_and_its_messages_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = log_path(dir.path(), "a/b");
        // It outlives its input, ignores SIGTERM, and has a child that does, too.
        let script = "trap '' TERM; sleep 1000 & echo $!; echo $WORD in $PWD >&2; cat >&2; while :; do sleep 1; done";
        let (program, mut out, mut to) = Running::start(&shell(script), &log).unwrap();
        let mut child = [0; 20];
        let length = out.read(&mut child).await.unwrap();
        let child = String::from_utf8_lossy(&child[..length]).trim().to_owned();
        assert!(lives(&child));
        to.write_all(b"said\n").await.unwrap();
        drop(to);
        program.end().await;
        let gone = async {
            while lives(&child) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone)
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap(), "hello in /\nsaid\n");
    }

    #[tokio::test]
    async fn a_flood_of_messages_leaves_the_last_ones() {
        let dir = tempfile::tempdir().unwrap();
        let log = log_path(dir.path(), "flood");
        let (program, mut out, _to) = Running::start(
            &shell("yes 0123456 | head -c 5000000 >&2; echo end >&2"),
            &log,
        )
        .unwrap();
        out.read_to_end(&mut Vec::new()).await.unwrap();
        let all = async {
            while !program.said().ends_with("end") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .unwrap();
        assert!(program.said().len() as u64 <= LAST);
        program.end().await;
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let program = Named {
            command: Some("/no/such/program".to_owned()),
            ..shell("")
        };
        let dir = tempfile::tempdir().unwrap();
        assert!(Running::start(&program, &dir.path().join("servers/log")).is_err());
    }
}
