//! One command of the guest on this process's streams, for `exec` and `shell`.
//!
//! It ends when the command does, when a signal ends this program, or when its output can't be written: the
//! reader of `exec -- yes | head -1` has gone. In the last two cases the command is cancelled with everything that it
//! started.

use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use snowglobe_init::wire::ExecRequest;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::ending::Interrupted;
use super::signals;
use super::terminal::{self, RawMode};
use crate::guest::{Guest, GuestError, Output, Ran};
use crate::sandbox::{ExecReport, Stdin};
use crate::shown::{self, Stream};
use crate::timeline::Timeline;

/// How long a cancelled command's channel may take to close. The connection's end closes it, too.
const CLOSING: Duration = Duration::from_secs(1);

/// A command that is to run, and this process's terminal while it does.
pub(super) struct Session {
    request: ExecRequest,
    input: Input,
    timeline: Option<Timeline>,
    /// Held until the session's end, whatever happens.
    _raw: Option<RawMode>,
}

impl Session {
    /// Takes over this process's streams.
    pub(super) fn begin(request: ExecRequest, timeline: Option<Timeline>) -> io::Result<Self> {
        let raw = match request.pty.is_some() && io::stdin().is_terminal() {
            true => Some(RawMode::enter()?),
            false => None,
        };
        Ok(Self {
            request,
            input: Input(Arc::new(Mutex::new(tokio::io::stdin()))),
            timeline,
            _raw: raw,
        })
    }

    /// Runs the command in this guest, and gives its report. It may be run again in another guest.
    pub(super) async fn run(&self, guest: &Arc<Guest>) -> anyhow::Result<ExecReport> {
        let ExecRequest {
            command, cwd, user, ..
        } = &self.request;
        let timeline = self.timeline.as_ref();
        let begun = timeline.map(|timeline| timeline.command(command, cwd.as_deref(), user));
        let ran = self.pass(guest).await;
        match (begun, &ran) {
            (Some(begun), Ok(report)) => begun.ended(&report.outcome),
            (Some(begun), Err(error)) => begun.failed(error.as_ref()),
            (None, _) => {}
        }
        ran
    }

    async fn pass(&self, guest: &Arc<Guest>) -> anyhow::Result<ExecReport> {
        let request = self.request.clone();
        let resizes = request.pty.is_some().then(terminal::resizes).transpose()?;
        let input: Box<dyn AsyncRead + Send + Unpin> = match request.stdin {
            Stdin::Null => Box::new(tokio::io::empty()),
            Stdin::Input | Stdin::Open => Box::new(self.input.clone()),
        };
        let (failed, mut failure) = oneshot::channel();
        let cancel = CancellationToken::new();
        let (guest, cancelled) = (guest.clone(), cancel.clone());
        // A task of its own: a reader that does not read must not hide a signal.
        let mut running = tokio::spawn(async move {
            let mut failed = Some(failed);
            let mut pass = |output| pass_on(&output, &mut failed);
            guest
                .run(request, input, &mut pass, &cancelled, resizes)
                .await
        });
        let ended: anyhow::Error = tokio::select! {
            ran = &mut running => return finished(ran?, failure.try_recv().ok()),
            Ok(error) = &mut failure => error.into(),
            signal = signals::terminated() => Interrupted(signal).into(),
        };
        cancel.cancel();
        tokio::time::timeout(CLOSING, running).await.ok();
        Err(ended)
    }
}

/// Standard input, which one command after the other reads. A read that waits for the terminal goes on for the next.
#[derive(Clone)]
struct Input(Arc<Mutex<tokio::io::Stdin>>);

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stdin = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *stdin).poll_read(context, buffer)
    }
}

/// Output that was lost is an error, even if the command has ended.
fn finished(ran: Result<Ran, GuestError>, lost: Option<io::Error>) -> anyhow::Result<ExecReport> {
    let report = ran?.ended()?;
    match lost {
        Some(error) => Err(error.into()),
        None => Ok(report),
    }
}

/// Writes output as it is. The first failure is sent; after it nothing more is written.
fn pass_on(output: &Output, failed: &mut Option<oneshot::Sender<io::Error>>) {
    if failed.is_none() {
        return;
    }
    let written = match output {
        Output::Stdout(data) => shown::raw(Stream::Output, data),
        Output::Stderr(data) => shown::raw(Stream::Error, data),
    };
    if let Err(error) = written
        && let Some(failed) = failed.take()
    {
        // The receiver is gone only if the session has ended for another reason.
        failed.send(error).ok();
    }
}
