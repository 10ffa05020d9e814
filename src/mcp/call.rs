//! One call: who asked for it, how it is doing, and what ends it early.
//!
//! The work runs as a task of its own. When the client takes the call back or leaves, commands are told to
//! end, and the call waits [`GRACE`] for its work and then no longer. The work itself is never dropped: what
//! changes the machine comes to an end that the sandbox knows of.

use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{
    CallToolResult, ContentBlock, ElicitRequestParams, ElicitResult, ProgressNotificationParam,
    ProgressToken, ProtocolVersion,
};
use rmcp::service::{Peer, RequestContext};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::mcp::output::terminal;
use crate::mcp::report_schedule::Pace;
use crate::progress::{Progress, Step};
use crate::sandbox::SandboxError;
use crate::shown;
use crate::text;

/// The name of the structured form's field with what is said beyond the data.
pub(crate) const NOTES: &str = "notes";

/// How long a call that is no longer wanted waits for its work: enough to kill a command, too short for a
/// client's exit to be noticed.
const GRACE: Duration = Duration::from_secs(1);

/// Why a tool did not do what was asked, told to the model: a tool's error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(String);

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// What the client gets. The guest may have its part in the words.
    pub(crate) fn into_result(self) -> CallToolResult {
        let words = terminal::plain(self.0.as_bytes());
        CallToolResult::error(vec![ContentBlock::text(shown::text(&words))])
    }

    /// What is said.
    pub(crate) fn message(&self) -> &str {
        &self.0
    }
}

impl From<SandboxError> for Refusal {
    fn from(error: SandboxError) -> Self {
        Self(format!("failed to {}", crate::describe(&error)))
    }
}

/// What a result says beyond its data: advice, marks, what was assumed or ignored.
///
/// Each note is written once and is in both forms of a result ([`noted`]), since some clients show the model only one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notes(Vec<String>);

impl Notes {
    /// What the guest says: a bounded number of single lines.
    pub(crate) fn of_guest(notes: Vec<String>) -> Self {
        const MOST: usize = 20;
        const LONGEST: usize = 600;
        let line = |note: String| -> String {
            let words = shown::line(&terminal::plain(note.as_bytes())).into_owned();
            match words.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &words[..end]),
                None => words,
            }
        };
        Self(notes.into_iter().take(MOST).map(line).collect())
    }

    /// A note is a fragment, without brackets and without a full stop.
    pub(crate) fn add(&mut self, note: impl Into<String>) {
        self.0.push(shown::line(&note.into()).into_owned());
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> &[String] {
        &self.0
    }
}

/// The result with these notes: a line in brackets each at the end of its text, and the structured form's `notes`.
/// Where the result has notes already, these come after them.
pub(crate) fn noted(mut result: CallToolResult, notes: Notes) -> CallToolResult {
    if notes.0.is_empty() {
        return result;
    }
    let lines: String = notes.0.iter().map(|note| format!("\n[{note}]")).collect();
    let text = result.content.iter_mut().find_map(|block| match block {
        ContentBlock::Text(text) => Some(&mut text.text),
        _ => None,
    });
    match text {
        Some(text) => {
            text.truncate(text.trim_end_matches('\n').len());
            let lines = if text.is_empty() {
                lines.trim_start()
            } else {
                &lines
            };
            text.push_str(lines);
        }
        None => result
            .content
            .push(ContentBlock::text(lines.trim_start().to_owned())),
    }
    if let Some(Value::Object(structured)) = &mut result.structured_content {
        let all = structured.entry(NOTES).or_insert_with(|| json!([]));
        if let Value::Array(all) = all {
            all.extend(notes.0.into_iter().map(Value::String));
        }
    }
    result
}

/// A result in both of its forms.
pub(crate) fn result(
    content: Vec<ContentBlock>,
    structured: &impl Serialize,
) -> Result<CallToolResult, Refusal> {
    let structured = serde_json::to_value(structured)
        .map_err(|error| Refusal(format!("failed to write the result as JSON: {error}")))?;
    let mut result = CallToolResult::success(content);
    result.structured_content = Some(structured);
    Ok(result)
}

/// What the work of a call has in hand.
pub(crate) struct Work {
    /// Where the sandbox says what it is doing.
    pub(crate) progress: Progress,
    /// The newest line of output.
    pub(crate) newest: watch::Sender<String>,
    /// Fires when the call is no longer wanted.
    pub(crate) cancel: CancellationToken,
}

/// One call of a tool.
pub(crate) struct Call {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    taken_back: CancellationToken,
    closed: CancellationToken,
    links: bool,
    handle: Option<String>,
}

impl Call {
    /// The call that `context` is about, on a connection whose end fires `closed`.
    pub(crate) fn new(context: RequestContext<RoleServer>, closed: CancellationToken) -> Self {
        let knows_links = |version| version >= ProtocolVersion::V_2025_06_18;
        Self {
            token: context.meta.get_progress_token(),
            links: context.protocol_version().is_some_and(knows_links),
            peer: context.peer,
            taken_back: context.ct,
            closed,
            handle: None,
        }
    }

    /// The same call, in a sandbox that addresses must name.
    pub(crate) fn within(mut self, handle: Option<String>) -> Self {
        self.handle = handle;
        self
    }

    /// The handle that addresses in the result must name.
    pub(crate) fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// Whether the client knows links to resources among a result's content.
    pub(crate) fn knows_links(&self) -> bool {
        self.links
    }

    /// Asks the person at the client, and waits for the answer no longer than `patience`.
    pub(crate) async fn asking(
        &self,
        question: ElicitRequestParams,
        patience: Duration,
    ) -> Result<ElicitResult, Refusal> {
        let asked = self
            .peer
            .create_elicitation_with_timeout(question, Some(patience));
        tokio::pin!(asked);
        let mut pace = Pace::new(Instant::now());
        pace.offer("waiting for a person to confirm".to_owned());
        loop {
            tokio::select! {
                biased;
                () = self.unwanted() => return Err(Refusal::new("the call was cancelled: nothing was done")),
                answer = &mut asked => return answer.map_err(|error| Refusal::new(format!(
                    "failed to have a person confirm the call: {error}; nothing was done"
                ))),
                () = tokio::time::sleep_until(pace.due().into()), if self.token.is_some() => {
                    self.report(&mut pace).await;
                }
            }
        }
    }

    /// Whether the client hears how the call is doing.
    pub(crate) fn hears_progress(&self) -> bool {
        self.token.is_some()
    }

    /// Does the work and reports how it is doing, if the client asked for that.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Work) -> F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (progress, mut steps) = Progress::channel();
        let (newest, mut line) = watch::channel(String::new());
        let cancel = CancellationToken::new();
        let mut task = tokio::spawn(work(Work {
            progress,
            newest,
            cancel: cancel.clone(),
        }));
        let mut pace = Pace::new(Instant::now());
        loop {
            tokio::select! {
                biased;
                () = self.unwanted() => break,
                ended = &mut task => return ended.map_err(|error| broken(&error)),
                Some(step) = steps.recv() => pace.offer(described(step)),
                Ok(()) = line.changed() => pace.offer(line.borrow_and_update().clone()),
                () = tokio::time::sleep_until(pace.due().into()), if self.token.is_some() => {
                    self.report(&mut pace).await;
                }
            }
        }
        cancel.cancel();
        match tokio::time::timeout(GRACE, &mut task).await {
            Ok(ended) => ended.map_err(|error| broken(&error)),
            Err(_) => Err(Refusal::new("the call was cancelled")),
        }
    }

    /// Nobody waits for the result any more.
    async fn unwanted(&self) {
        tokio::select! {
            () = self.taken_back.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    async fn report(&self, pace: &mut Pace) {
        let Some(token) = &self.token else { return };
        let report = pace.report(Instant::now());
        let param = ProgressNotificationParam::new(token.clone(), report.value)
            .with_message(shown::line(&report.message));
        tokio::select! {
            biased;
            () = self.unwanted() => {}
            sent = self.peer.notify_progress(param) => {
                if let Err(error) = sent {
                    tracing::debug!(%error, "a progress report did not reach the client");
                }
            }
        }
    }
}

fn broken(error: &tokio::task::JoinError) -> Refusal {
    tracing::error!(%error, "a call's task broke");
    Refusal(format!(
        "snowglobe itself broke on this call: {error}; the sandbox may still work, `reboot` gives a clean one"
    ))
}

/// A step as a status line says it.
fn described(step: Step) -> String {
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
    fn notes_are_in_both_forms() {
        let notes = |all: &[&str]| Notes(all.iter().map(|note| (*note).to_owned()).collect());
        let done = result(vec![ContentBlock::text("out\n")], &json!({"a": 1})).unwrap();
        assert_eq!(noted(done.clone(), Notes::default()), done);
        let done = noted(noted(done, notes(&["one"])), notes(&["two"]));
        assert_eq!(done.content[0].as_text().unwrap().text, "out\n[one]\n[two]");
        assert_eq!(
            done.structured_content,
            Some(json!({"a": 1, "notes": ["one", "two"]}))
        );
        let empty = result(vec![ContentBlock::text("")], &json!({})).unwrap();
        let text = noted(empty, notes(&["one", "two"]));
        assert_eq!(text.content[0].as_text().unwrap().text, "[one]\n[two]");
        let refused = noted(Refusal::new("\u{1b}[1mno").into_result(), notes(&["one"]));
        assert_eq!(refused.content[0].as_text().unwrap().text, "no\n[one]");
        assert_eq!(refused.structured_content, None);
    }

    #[test]
    fn a_guests_notes_are_few_short_lines() {
        let notes = Notes::of_guest(vec!["é\n".repeat(10_000); 1000]);
        assert_eq!(notes.all().len(), 20);
        for note in notes.all() {
            assert_eq!(note.chars().count(), 601);
            assert!(!note.contains('\n'));
        }
        let short = Notes::of_guest(vec!["short\u{1b}[1m".to_owned()]);
        assert_eq!(short.all(), ["short"]);
    }

    #[test]
    fn steps_say_how_far_they_are() {
        let step = |done, total| Step {
            message: "unpacking the image".to_owned(),
            done,
            total,
            part: None,
        };
        assert_eq!(described(step(None, None)), "unpacking the image");
        assert_eq!(
            described(step(Some(5), Some(20))),
            "unpacking the image, 25%"
        );
        assert_eq!(
            described(step(Some(2_000_000), None)),
            "unpacking the image, 2.0 MB"
        );
    }
}
