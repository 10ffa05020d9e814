//! A command as a caller asks for it. There is one way from there to what the guest is sent, whoever asks: the tools, the
//! command line, a shell.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use snowglobe_init::wire::{Command, Detach, ExecRequest, PtySize, Stdin, User};

use crate::config::Config;

/// A command to run. Where it starts, if `cwd` doesn't say it, is the guest's to know.
#[derive(Debug, Clone)]
pub struct Exec {
    /// What to run.
    pub command: Command,
    /// The working directory, absolute or relative to the workspace.
    pub cwd: Option<String>,
    /// Environment on top of the configuration's and the user's own.
    pub env: BTreeMap<String, String>,
    /// Where standard input comes from.
    pub stdin: Stdin,
    /// Standard input, where it is not a stream: all of it, or its beginning if it stays open.
    pub input: Bytes,
    /// How long it may run.
    pub limit: Limit,
    /// Who runs it.
    pub user: User,
    /// Whether and when it goes on as a job; absent: never.
    pub detach: Option<Detach>,
    /// The terminal it runs on.
    pub pty: Option<PtySize>,
}

/// How long a command may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// As long as the configuration says.
    #[default]
    Configured,
    /// For ever.
    Never,
    /// So long.
    After(Duration),
}

impl Limit {
    /// The time, given what the configuration says; absent: for ever.
    pub fn time(self, configured: Duration) -> Option<Duration> {
        match self {
            Self::Configured => Some(configured),
            Self::Never => None,
            Self::After(time) => Some(time),
        }
    }
}

impl Exec {
    /// A command with nothing said about it.
    pub fn new(command: Command) -> Self {
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

    /// What the guest is sent, with what the configuration says where the caller says nothing.
    pub fn request(self, config: &Config) -> ExecRequest {
        let mut env: BTreeMap<String, String> = config.env.iter().cloned().collect();
        env.extend(self.env);
        ExecRequest {
            command: self.command,
            cwd: self.cwd,
            env,
            user: self.user,
            stdin: self.stdin,
            timeout_ms: self
                .limit
                .time(config.exec_timeout)
                .map(|time| time.as_millis() as u64),
            spill_after: None,
            pty: self.pty,
            detach: self.detach,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Raw, Sources};

    #[test]
    fn what_a_caller_leaves_out_is_the_configurations_to_say() {
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
        let config = config.unwrap();
        let mut exec = Exec::new(Command::Shell("x".into()));
        exec.env.insert("B".into(), "2".into());
        let request = exec.clone().request(&config);
        assert_eq!(request.timeout_ms, Some(7000));
        assert_eq!((&*request.env["A"], &*request.env["B"]), ("1", "2"));
        assert_eq!((request.stdin, request.cwd), (Stdin::Null, None));
        exec.limit = Limit::After(Duration::from_millis(5));
        assert_eq!(exec.clone().request(&config).timeout_ms, Some(5));
        exec.limit = Limit::Never;
        assert_eq!(exec.request(&config).timeout_ms, None);
    }
}
