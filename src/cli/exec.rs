//! `snowglobe exec`: runs one command, passes its streams through, and exits with its exit status.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use super::{Done, attach, load_to_share, progress, serve};
use crate::config::Raw;
use crate::guest::Output;
use crate::sandbox::{Exec as Request, Limit, Outcome, Program, Stdin};

/// Run one command in this project's sandbox, which is started if it does not run, and stays.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Run as root instead of sandbox
    #[arg(long)]
    root: bool,
    /// Working directory, relative to the workspace
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Don't read standard input: the command's is /dev/null (in loops that read, as with `ssh -n`)
    #[arg(short = 'n', long)]
    no_stdin: bool,
    /// End the command and everything it started after this many seconds; 0: never [default: exec_timeout_s]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Run it in a new sandbox, which is removed afterwards
    #[arg(long, alias = "fresh")]
    rm: bool,
    #[command(flatten)]
    config: Box<Raw>,
    /// The command and its arguments; a single word is a shell line
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self) -> Done {
        let command = match <[String; 1]>::try_from(self.command) {
            Ok([line]) => Program::Shell(line),
            Err(argv) => Program::Argv(argv),
        };
        let limit = limit(self.timeout)?;
        let flags = *self.config;
        let config = load_to_share(flags.clone())?;
        let stdin = match self.no_stdin || is_null(std::io::stdin()) {
            true => Stdin::Null,
            false => Stdin::Input,
        };
        let request = Request {
            cwd: self.cwd.or_else(|| attach::directory(&config)),
            user: attach::user(self.root),
            stdin,
            limit,
            ..Request::new(command)
        }
        .request(&config.sandbox);
        let (steps, shown) = progress::show();
        let attached = match self.rm {
            true => attach::own(config, &steps).await,
            false => attach::kept(&config, &flags, &steps).await,
        };
        shown.finish();
        let attached = attached?;
        attached.tell_lacks();
        let input: Box<dyn AsyncRead + Send + Unpin> = match stdin {
            Stdin::Null => Box::new(tokio::io::empty()),
            Stdin::Input | Stdin::Open => Box::new(tokio::io::stdin()),
        };
        let cancel = CancellationToken::new();
        let mut broken = false;
        let mut pass = |output| broken |= pass_on(&output).is_err();
        let report = tokio::select! {
            ran = attached.guest.run(request, input, &mut pass, &cancel, None) => Ok(ran),
            signal = serve::terminated() => Err(signal),
        };
        attached.close().await;
        let report = match report {
            Ok(ran) => ran?.ended()?,
            Err(signal) => return Ok(ExitCode::from(128 + signal)),
        };
        match report.outcome {
            Outcome::TimedOut => say!(
                "the command was ended at its time limit; raise it with --timeout or exec_timeout_s"
            ),
            Outcome::OutOfMemory => say!(
                "the sandbox ran out of memory, and the command was killed; add memory with --memory-mib"
            ),
            Outcome::Exited { .. } | Outcome::Signaled { .. } | Outcome::Cancelled => {}
        }
        Ok(ExitCode::from(report.outcome.exit_status()))
    }
}

/// The time limit that `--timeout` sets.
fn limit(seconds: Option<f64>) -> anyhow::Result<Limit> {
    let Some(seconds) = seconds else {
        return Ok(Limit::Configured);
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => Ok(Limit::Never),
        Ok(time) => Ok(Limit::After(time)),
        Err(_) => anyhow::bail!(
            "use --timeout {seconds}: expected a number of seconds, or 0 for no limit"
        ),
    }
}

/// Whether a stream is `/dev/null`. Some programs treat it differently from an empty pipe.
fn is_null(stream: impl std::os::fd::AsFd) -> bool {
    let (stream, null) = (rustix::fs::fstat(stream), rustix::fs::stat("/dev/null"));
    matches!((stream, null), (Ok(stream), Ok(null))
        if stream.st_mode == null.st_mode && stream.st_rdev == null.st_rdev)
}

fn pass_on(output: &Output) -> std::io::Result<()> {
    match output {
        Output::Stdout(data) => {
            let mut out = std::io::stdout().lock();
            out.write_all(data)?;
            out.flush()
        }
        Output::Stderr(data) => std::io::stderr().lock().write_all(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_of_seconds() {
        assert_eq!(limit(None).unwrap(), Limit::Configured);
        assert_eq!(limit(Some(0.0)).unwrap(), Limit::Never);
        assert_eq!(
            limit(Some(1.5)).unwrap(),
            Limit::After(Duration::from_millis(1500))
        );
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(limit(Some(wrong)).is_err());
        }
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
