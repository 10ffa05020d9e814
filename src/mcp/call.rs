//! One call of a client: its progress reports, and what ends it early.
//!
//! The work runs in a task of its own. When the client cancels the call or disconnects, the work is told to end, and
//! the call waits for it no longer than [`CANCEL_GRACE`]. The work itself is never dropped: a change to the machine
//! (a snapshot, a reboot, a boot) always runs to an end that the sandbox knows of.

use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{
    ClientCapabilities, ElicitRequestParams, ElicitResult, ProgressNotificationParam,
    ProgressToken, ProtocolVersion,
};
use rmcp::service::{Peer, RequestContext, ServiceError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::mcp::refusal::Refusal;
use crate::mcp::report_schedule::ReportSchedule;
use crate::progress::{Progress, Step};
use crate::{shown, text, timeline};

/// How long a cancelled call waits for its work: enough to kill a command, too short to delay the server's exit
/// noticeably after its client has left.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// What the work of a call uses to report progress and to learn that it is cancelled.
pub(crate) struct Work {
    /// Takes the sandbox's steps.
    pub(crate) progress: Progress,
    /// Takes the newest line of output.
    pub(crate) newest_line: watch::Sender<String>,
    /// Fires when the call is cancelled.
    pub(crate) cancel: CancellationToken,
}

/// Why a person has given no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unasked {
    #[error("the call was cancelled")]
    Cancelled,
    #[error("failed to have a person confirm the call: {0}")]
    Failed(#[from] ServiceError),
}

/// One call of a client.
pub(crate) struct Call {
    peer: Peer<RoleServer>,
    progress_token: Option<ProgressToken>,
    cancelled: CancellationToken,
    disconnected: CancellationToken,
    supports_links: bool,
    can_ask: bool,
    client: String,
    handle: Option<String>,
}

impl Call {
    /// The call of `context`; `disconnected` fires when the client's connection ends.
    pub(crate) fn new(
        context: RequestContext<RoleServer>,
        disconnected: CancellationToken,
    ) -> Self {
        let supports_links = |version| version >= ProtocolVersion::V_2025_06_18;
        let version = context.protocol_version();
        let waits = version.is_some_and(|version| version < ProtocolVersion::V_2026_07_28);
        Self {
            can_ask: waits && can_ask(context.client_capabilities()),
            client: context
                .client_info()
                .map_or_else(|| "a client".to_owned(), |client| client.name),
            progress_token: context.meta.get_progress_token(),
            supports_links: context.protocol_version().is_some_and(supports_links),
            peer: context.peer,
            cancelled: context.ct,
            disconnected,
            handle: None,
        }
    }

    /// Sets the sandbox's handle, for a client whose resource addresses must name it.
    pub(crate) fn with_handle(mut self, handle: Option<String>) -> Self {
        self.handle = handle;
        self
    }

    /// The handle that resource addresses in the result must name.
    pub(crate) fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// The client's name.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// Whether the client understands links to resources in a result's content.
    pub(crate) fn supports_links(&self) -> bool {
        self.supports_links
    }

    /// Whether the client asked for progress reports.
    pub(crate) fn wants_progress(&self) -> bool {
        self.progress_token.is_some()
    }

    /// Whether the client can ask a person while the call waits.
    pub(crate) fn can_ask(&self) -> bool {
        self.can_ask
    }

    /// Asks the person at the client, and waits at most `timeout` for the answer.
    pub(crate) async fn ask_person(
        &self,
        question: ElicitRequestParams,
        timeout: Duration,
    ) -> Result<ElicitResult, Unasked> {
        let answer = self
            .peer
            .create_elicitation_with_timeout(question, Some(timeout));
        tokio::pin!(answer);
        let mut schedule = ReportSchedule::new(Instant::now());
        schedule.set_message("waiting for a person to answer".to_owned());
        loop {
            tokio::select! {
                biased;
                () = self.ended() => return Err(Unasked::Cancelled),
                answer = &mut answer => return Ok(answer?),
                () = tokio::time::sleep_until(schedule.next().into()), if self.wants_progress() => {
                    self.report(&mut schedule).await;
                }
            }
        }
    }

    /// Does the work, and reports its progress if the client asked for that.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Work) -> F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (progress, mut steps) = Progress::channel();
        let (newest_line, mut line) = watch::channel(String::new());
        let cancel = CancellationToken::new();
        let work = work(Work {
            progress,
            newest_line,
            cancel: cancel.clone(),
        });
        let client = self.client.clone();
        // A task does not inherit its actor.
        let mut task = tokio::spawn(async move { timeline::acting(&client, work).await });
        let mut schedule = ReportSchedule::new(Instant::now());
        loop {
            tokio::select! {
                biased;
                () = self.ended() => break,
                done = &mut task => return done.map_err(|error| panicked(&error)),
                Some(step) = steps.recv() => schedule.set_message(describe(step)),
                Ok(()) = line.changed() => schedule.set_message(line.borrow_and_update().clone()),
                () = tokio::time::sleep_until(schedule.next().into()), if self.wants_progress() => {
                    self.report(&mut schedule).await;
                }
            }
        }
        cancel.cancel();
        match tokio::time::timeout(CANCEL_GRACE, &mut task).await {
            Ok(done) => done.map_err(|error| panicked(&error)),
            Err(_) => Err(Refusal::new("the call was cancelled")),
        }
    }

    /// Waits until the client cancels the call or disconnects.
    async fn ended(&self) {
        tokio::select! {
            () = self.cancelled.cancelled() => {}
            () = self.disconnected.cancelled() => {}
        }
    }

    async fn report(&self, schedule: &mut ReportSchedule) {
        let Some(token) = &self.progress_token else {
            return;
        };
        let report = schedule.report(Instant::now());
        let param = ProgressNotificationParam::new(token.clone(), report.value)
            .with_message(shown::line(&report.message));
        tokio::select! {
            biased;
            () = self.ended() => {}
            sent = self.peer.notify_progress(param) => {
                if let Err(error) = sent {
                    tracing::debug!(%error, "a progress report did not reach the client");
                }
            }
        }
    }
}

/// Whether a client can ask a person. One that names no mode can show forms.
pub(crate) fn can_ask(capabilities: Option<ClientCapabilities>) -> bool {
    let elicitation = capabilities.and_then(|all| all.elicitation);
    elicitation.is_some_and(|can| can.form.is_some() || can.url.is_none())
}

fn panicked(error: &tokio::task::JoinError) -> Refusal {
    tracing::error!(%error, "a call's task panicked");
    Refusal::new(format!(
        "snowglobe itself broke on this call: {error}; the sandbox may still work, `reboot` gives a clean one"
    ))
}

/// A step as a status line.
fn describe(step: Step) -> String {
    match (step.done, step.total) {
        (Some(done), Some(total)) if total > 0 => {
            let percent = (u128::from(done) * 100 / u128::from(total)).min(100);
            format!("{}, {percent}%", step.message)
        }
        (Some(done), _) => format!("{}, {}", step.message, text::size(done)),
        _ => step.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_shows_its_progress() {
        let step = |done, total| Step {
            message: "unpacking the image".to_owned(),
            done,
            total,
            part: None,
        };
        assert_eq!(describe(step(None, None)), "unpacking the image");
        assert_eq!(
            describe(step(Some(5), Some(20))),
            "unpacking the image, 25%"
        );
        assert_eq!(
            describe(step(Some(2 << 20), None)),
            "unpacking the image, 2 MiB"
        );
    }
}
