//! `snowglobe exec`: runs one command, passes its streams through, and exits with its exit status.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::ending::Misused;
use super::session::Session;
use super::{Done, attach, load_to_share, refused, terminal};
use crate::config::Raw;
use crate::sandbox::{Exec as Request, Limit, Outcome, Program, Stdin, Word};
use crate::text;

/// Run one command in this project's sandbox, which is started if it does not run, and stays.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Run as root instead of sandbox
    #[arg(long)]
    root: bool,
    /// Working directory, relative to the workspace
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Pass standard input on (the default); with -t, it must be a terminal
    #[arg(short, long, conflicts_with = "no_stdin")]
    interactive: bool,
    /// Don't read standard input: the command's is /dev/null (in loops that read, as with `ssh -n`)
    #[arg(short = 'n', long)]
    no_stdin: bool,
    /// Give the command a terminal [default: if standard input, output and error are one]
    #[arg(short, long)]
    tty: bool,
    /// Give the command no terminal
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,
    /// End the command and everything it started after this time, such as 90, 1m30s or 2h; 0: never
    /// [default: exec_timeout_s, or never on a terminal]
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// Run it in a new sandbox, which is removed afterwards
    #[arg(long, alias = "fresh")]
    rm: bool,
    #[command(flatten)]
    config: Box<Raw>,
    /// The command and its arguments; a single word is a shell line
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) async fn run(self) -> Done {
        let streams = self.streams()?;
        let limit = self.limit(streams.on_a_terminal);
        let flags = *self.config;
        let config = load_to_share(flags.clone())?;
        let request = Request {
            cwd: self
                .cwd
                .as_deref()
                .map(attach::guest_path)
                .or_else(|| attach::directory(&config)),
            user: attach::user(self.root),
            stdin: streams.stdin,
            limit,
            pty: streams.tty.then(terminal::like_ours),
            ..Request::new(program(self.command))
        }
        .request(&config.sandbox);
        let attached = attach::guest(config, &flags, self.rm).await?;
        let before = refused::before(&attached).await;
        let session = Session::begin(request, attached.timeline.clone())?;
        let report = session.run(&attached.guest).await;
        drop(session);
        before.tell(&attached).await;
        attached.close().await;
        let outcome = report?.outcome;
        match outcome {
            Outcome::TimedOut => say!(
                "the command was ended at its time limit; raise it with --timeout or exec_timeout_s"
            ),
            Outcome::OutOfMemory => say!(
                "the sandbox ran out of memory, and the command was killed; add memory with --memory-mib"
            ),
            Outcome::Exited { .. } | Outcome::Signaled { .. } | Outcome::Cancelled => {}
        }
        Ok(ExitCode::from(outcome.exit_status()))
    }

    fn streams(&self) -> Result<Streams, Misused> {
        let typed = std::io::stdin().is_terminal() && !self.no_stdin;
        if self.interactive && self.tty && !typed {
            return Err(Misused(
                "pass standard input to the command's terminal: it is no terminal; leave out -t to pass it as it is, \
                 or -i for a command that reads nothing"
                    .into(),
            ));
        }
        let tty = self.tty || (!self.no_tty && !self.no_stdin && terminal::is_interactive());
        // The end of a pipe or a file has no counterpart on a terminal, so a command there would wait for ever.
        let reads = match tty {
            true => typed,
            false => !self.no_stdin && !is_null(std::io::stdin()),
        };
        Ok(Streams {
            tty,
            on_a_terminal: tty && typed,
            stdin: match reads {
                true => Stdin::Input,
                false => Stdin::Null,
            },
        })
    }

    /// A person who uses a program on a terminal ends it when they have done.
    fn limit(&self, on_a_terminal: bool) -> Limit {
        match self.timeout {
            Some(Duration::ZERO) => Limit::Never,
            Some(time) => Limit::After(time),
            None if on_a_terminal => Limit::Never,
            None => Limit::Configured,
        }
    }
}

/// What the command's streams are.
struct Streams {
    tty: bool,
    /// Whether a person types on it.
    on_a_terminal: bool,
    stdin: Stdin,
}

/// The program that the words name; a single word is a shell line.
fn program(words: Vec<OsString>) -> Program {
    match <[OsString; 1]>::try_from(words) {
        Ok([line]) => Program::Shell(line.into()),
        Err(argv) => Program::Argv(argv.into_iter().map(Word::from).collect()),
    }
}

/// Whether a stream is `/dev/null`. Some programs treat it differently from an empty pipe.
fn is_null(stream: impl std::os::fd::AsFd) -> bool {
    let (stream, null) = (rustix::fs::fstat(stream), rustix::fs::stat("/dev/null"));
    matches!((stream, null), (Ok(stream), Ok(null))
        if stream.st_mode == null.st_mode && stream.st_rdev == null.st_rdev)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    fn parsed(words: &[&str]) -> Result<Exec, clap::Error> {
        Line::try_parse_from([&["exec"], words].concat()).map(|line| line.exec)
    }

    #[test]
    fn a_limit_is_a_time_or_none() {
        let limit = |words: &[&str], on_a_terminal| {
            let exec = parsed(&[words, &["x"]].concat()).unwrap();
            exec.limit(on_a_terminal)
        };
        assert_eq!(limit(&[], false), Limit::Configured);
        assert_eq!(limit(&[], true), Limit::Never);
        assert_eq!(limit(&["--timeout", "0"], false), Limit::Never);
        let time = Limit::After(Duration::from_secs(90));
        assert_eq!(limit(&["--timeout", "1m30s"], true), time);
        for wrong in ["-1", "nan", "soon", ""] {
            assert!(parsed(&["--timeout", wrong, "x"]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_flag_that_is_mistyped_is_refused_and_what_follows_the_command_is_its_own() {
        let flags: Vec<String> = Cli::command()
            .find_subcommand("exec")
            .unwrap()
            .get_arguments()
            .filter_map(|argument| Some(argument.get_long()?.to_owned()))
            .collect();
        assert!(flags.len() > 20, "{flags:?}");
        for flag in &flags {
            for typed in [format!("--{flag}x"), format!("--x{flag}")] {
                let error = parsed(&[&typed, "true"]).unwrap_err();
                assert_eq!(error.exit_code(), 2);
                let text = error.to_string();
                assert!(text.contains("unexpected argument"), "{text}");
            }
            let exec = parsed(&["true", &format!("--{flag}x"), "--", "-x"]).unwrap();
            assert_eq!(exec.command.len(), 4, "{:?}", exec.command);
            let exec = parsed(&["--", &format!("--{flag}"), "x"]).unwrap();
            assert_eq!(exec.command.len(), 2, "{:?}", exec.command);
        }
        let text = parsed(&["--rooot", "true"]).unwrap_err().to_string();
        assert!(
            text.contains("a similar argument exists: '--root'"),
            "{text}"
        );
        assert!(parsed(&["-x", "true"]).is_err());
    }

    #[test]
    fn only_the_null_device_is_null() {
        let open = |path| std::fs::File::open(path).unwrap();
        assert!(is_null(open("/dev/null")));
        assert!(!is_null(open("/dev/zero")));
        assert!(!is_null(open("/etc/passwd")));
        assert!(!is_null(std::io::pipe().unwrap().0));
    }
}
