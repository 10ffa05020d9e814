//! Running commands. There is one way from a caller's command to the guest's request, for the tools, the command line
//! and shells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snowglobe_init::wire::{
    Detach, ExecReport, ExecRequest, JobInfo, Outcome, Program, PtySize, Stdin, User,
};
use tokio_util::sync::CancellationToken;

use super::{Sandbox, SandboxError};
use crate::config::SandboxSpec;
use crate::guest::{self, Output};
use crate::progress::Progress;
use crate::time::millis;

/// Output longer than this (bytes, per stream) is kept whole in a guest file.
const SPILL_AFTER: u64 = 10_000;

/// A command to run. Without a `cwd` the guest chooses where it starts.
#[derive(Debug, Clone)]
pub struct Exec {
    /// What to run.
    pub command: Program,
    /// The working directory, absolute or relative to the workspace.
    pub cwd: Option<String>,
    /// Environment, on top of the configuration's and the user's.
    pub env: BTreeMap<String, String>,
    /// Where standard input comes from.
    pub stdin: Stdin,
    /// Standard input, if it is not a stream: all of it, or its beginning if it stays open.
    pub input: Bytes,
    /// How long it may run.
    pub limit: Limit,
    /// The user who runs it.
    pub user: User,
    /// When it becomes a job; absent: never.
    pub detach: Option<Detach>,
    /// The terminal it runs on.
    pub pty: Option<PtySize>,
}

/// How long a command may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// The configured time.
    #[default]
    Configured,
    /// No limit.
    Never,
    /// This time.
    After(Duration),
}

impl Limit {
    /// The time, given the configured one; absent: no limit.
    pub fn time(self, configured: Duration) -> Option<Duration> {
        match self {
            Self::Configured => Some(configured),
            Self::Never => None,
            Self::After(time) => Some(time),
        }
    }
}

impl Exec {
    /// A command with all settings at their defaults.
    pub fn new(command: Program) -> Self {
        Self {
            command,
            cwd: None,
            env: BTreeMap::new(),
            stdin: Stdin::Null,
            input: Bytes::new(),
            limit: Limit::Configured,
            user: User::Sandbox,
            detach: None,
            pty: None,
        }
    }

    /// The guest's request; settings that the caller left out come from the configuration.
    pub fn request(self, spec: &SandboxSpec) -> ExecRequest {
        let mut env: BTreeMap<String, String> = spec.env.iter().cloned().collect();
        env.extend(self.env);
        ExecRequest {
            command: self.command,
            cwd: self.cwd,
            env,
            user: self.user,
            stdin: self.stdin,
            timeout_ms: self.limit.time(spec.exec_timeout).map(millis),
            spill_after: None,
            pty: self.pty,
            detach: self.detach,
        }
    }
}

/// The result of a command.
#[derive(Debug, Clone)]
pub enum Ran {
    /// It ended.
    Ended(ExecEnd),
    /// It became a job.
    Job(JobInfo),
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct ExecEnd {
    /// Exit status, signal, time limit, memory or cancellation.
    pub outcome: Outcome,
    /// How long it ran in the guest.
    pub duration: Duration,
    /// Bytes on standard output, all of them.
    pub stdout_bytes: u64,
    /// Bytes on standard error, all of them.
    pub stderr_bytes: u64,
    /// The guest file that holds a long standard output whole.
    pub stdout_file: Option<String>,
    /// The guest file that holds a long standard error whole.
    pub stderr_file: Option<String>,
    /// Whether processes that it started still run.
    pub left_running: bool,
    /// Whether some of its processes ignored SIGTERM and were killed.
    pub killed: bool,
}

impl From<ExecReport> for ExecEnd {
    fn from(report: ExecReport) -> Self {
        Self {
            outcome: report.outcome,
            duration: Duration::from_millis(report.duration_ms),
            stdout_bytes: report.stdout_bytes,
            stderr_bytes: report.stderr_bytes,
            stdout_file: report.stdout_file,
            stderr_file: report.stderr_file,
            left_running: report.left_running,
            killed: report.killed,
        }
    }
}

impl Sandbox {
    /// Runs a command of a caller, which the timeline tells of; `output` is called with each piece as it comes. Cancelling
    /// ends the command.
    pub async fn exec(
        self: &Arc<Self>,
        exec: Exec,
        output: &mut (dyn FnMut(Output) + Send),
        cancel: &CancellationToken,
        progress: &Progress,
    ) -> Result<Ran, SandboxError> {
        let begun = self
            .timeline
            .command(&exec.command, exec.cwd.as_deref(), &exec.user);
        let ran = self.exec_own(exec, output, cancel, progress).await;
        match &ran {
            Ok(Ran::Ended(end)) => begun.ended(&end.outcome),
            Ok(Ran::Job(job)) => {
                begun.detached(&job.id);
                self.watch_job(&job.id);
            }
            Err(error) => begun.failed(error),
        }
        ran
    }

    /// The same for a command of the sandbox itself.
    pub(super) async fn exec_own(
        self: &Arc<Self>,
        exec: Exec,
        output: &mut (dyn FnMut(Output) + Send),
        cancel: &CancellationToken,
        progress: &Progress,
    ) -> Result<Ran, SandboxError> {
        let called = std::time::Instant::now();
        let _changing = self.read_ahead.changing();
        let live = tokio::select! {
            live = self.live(progress) => live?,
            () = cancel.cancelled() => return Ok(Ran::Ended(never_ran())),
        };
        let input = std::io::Cursor::new(exec.input.clone());
        let request = ExecRequest {
            spill_after: Some(SPILL_AFTER),
            detach: exec
                .detach
                .map(|detach| detach_after_boot(detach, called.elapsed())),
            ..exec.request(&self.config.sandbox)
        };
        let ran = async {
            let guest = self.guest_of(&live).await?;
            let ran = guest.run(request.clone(), input, output, cancel, None);
            self.answer(&live, ran).await
        };
        Ok(
            match guest::within(guest::patience(&request), "exec", ran).await? {
                guest::Ran::Ended(report) => Ran::Ended(report.into()),
                guest::Ran::Job(job) => {
                    self.view.changed();
                    Ran::Job(job)
                }
            },
        )
    }
}

/// The boot counts towards the time after which a command becomes a job.
fn detach_after_boot(detach: Detach, waited: Duration) -> Detach {
    match detach {
        Detach::Now => Detach::Now,
        Detach::After(ms) => {
            let left = ms.saturating_sub(millis(waited));
            Detach::After(left.max(ms.min(1000)))
        }
    }
}

fn never_ran() -> ExecEnd {
    ExecEnd {
        outcome: Outcome::Cancelled,
        duration: Duration::ZERO,
        stdout_bytes: 0,
        stderr_bytes: 0,
        stdout_file: None,
        stderr_file: None,
        left_running: false,
        killed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Raw, Sources};

    #[test]
    fn what_a_caller_leaves_out_comes_from_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Sources {
            cwd: dir.path().to_owned(),
            flags: Raw {
                exec_timeout_s: Some(7),
                env: vec![("A".into(), "1".into()), ("B".into(), "1".into())],
                ..Raw::default()
            },
            ..Sources::default()
        });
        let spec = config.unwrap().sandbox;
        let mut exec = Exec::new(Program::Shell("x".into()));
        exec.env.insert("B".into(), "2".into());
        let request = exec.clone().request(&spec);
        assert_eq!(request.timeout_ms, Some(7000));
        assert_eq!((&*request.env["A"], &*request.env["B"]), ("1", "2"));
        assert_eq!((request.stdin, request.cwd), (Stdin::Null, None));
        exec.limit = Limit::After(Duration::from_millis(5));
        assert_eq!(exec.clone().request(&spec).timeout_ms, Some(5));
        exec.limit = Limit::Never;
        assert_eq!(exec.request(&spec).timeout_ms, None);
    }
}
