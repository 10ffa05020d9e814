//! Replaces a long conversation by a summary.
//!
//! It is asked for as one message: the conversation as text, cut in the middle of long results, so the request fits even
//! where the conversation did not. What the summary must not lose (the plan, the files that were changed, what the person
//! said last) is added as it is.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use tokio_util::sync::CancellationToken;

use super::Conversation;
use super::error::TurnError;
use crate::agent::event::Event;
use crate::agent::message::{CallResult, Content, Message, User};
use crate::agent::providers::{Facts, Request};
use crate::agent::session::Body;
use crate::text::middle_cut;

/// The part of a model's window that a conversation may fill, in percent.
const FILL: u64 = 80;

/// Bytes of text for a token, at least.
const BYTES_A_TOKEN: u64 = 2;

/// The most of a call's result that the request for a summary holds, in bytes.
const LONGEST_RESULT: usize = 2_000;

const TASK: &str = "\
You summarize a conversation between a person and a coding agent, so that the agent can go on with the summary alone. Write \
down: what the person wants, in their words where these matter; what was decided and why; what was done, with names of files, \
commands and their outcomes; what failed and why; the state now; what is to be done next. Be exact and short. Leave out \
pleasantries. Do not continue the conversation.";

/// Whether a conversation of so many tokens is to be summarized before the next request.
pub(super) fn is_due(context: u64, facts: &Facts) -> bool {
    let room = facts
        .window
        .saturating_sub(facts.longest_answer.min(facts.window / 4));
    context >= room * FILL / 100
}

impl Conversation {
    /// Summarizes; false if there was nothing to gain or it was interrupted.
    pub(super) async fn compact(
        &mut self,
        keep: &str,
        cancel: &CancellationToken,
    ) -> Result<bool, TurnError> {
        let messages = self.messages();
        if messages.len() < 2 {
            return Ok(false);
        }
        self.emit(Event::Compacting);
        let most = usize::try_from(self.facts.window * BYTES_A_TOKEN / 2).unwrap_or(usize::MAX);
        let mut text = middle_cut(&transcript(&messages), most).into_owned();
        if !keep.trim().is_empty() {
            text.push_str(&format!(
                "\n\nThe person says that the summary must keep: {keep}"
            ));
        }
        let (brain, model) = (self.brain.clone(), self.model.clone());
        let session = self.session.id().to_owned();
        let request = Request {
            model: &model,
            system: TASK,
            tools: &[],
            messages: &[Message::User(User::text(text))],
            session: &session,
        };
        let mut take = |_| {};
        let work = brain.ask(request, &mut take, cancel);
        let answer = match self.attend(cancel, work).await {
            Ok(answer) => answer,
            Err(_) if cancel.is_cancelled() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.spend(answer.usage);
        let summary = self.with_facts(answer.text, &messages);
        self.session.append(Body::Summary(summary.clone()))?;
        self.spent.context = summary.len() as u64 / BYTES_A_TOKEN;
        self.emit(Event::Compacted { summary });
        self.emit(Event::Spent(self.spent));
        Ok(true)
    }

    /// A summary with what it must not lose.
    fn with_facts(&self, mut summary: String, messages: &[Message]) -> String {
        let changed = changed_files(messages);
        if !changed.is_empty() {
            summary.push_str("\n\nFiles written or edited so far:\n");
            for path in changed {
                writeln!(summary, "- {}", path.escape_debug()).ok();
            }
        }
        let mut newest = self.session.branch().into_iter().rev();
        let plan = newest.find_map(|(_, body)| match body {
            Body::Plan(items) => Some(items.as_slice()),
            _ => None,
        });
        for (at, item) in plan.unwrap_or_default().iter().enumerate() {
            summary.push_str(if at == 0 { "\nThe plan:\n" } else { "" });
            writeln!(summary, "- {:?}: {}", item.status, item.step).ok();
        }
        let said = messages.iter().rev().find_map(|message| match message {
            Message::User(user) => Some(middle_cut(&user.text, 4 * LONGEST_RESULT)),
            _ => None,
        });
        if let Some(said) = said {
            write!(summary, "\nThe person said last:\n{said}").ok();
        }
        summary
    }
}

/// The paths that calls of `write` and `edit` named.
fn changed_files(messages: &[Message]) -> BTreeSet<String> {
    let answers = messages.iter().filter_map(|message| match message {
        Message::Assistant(answer) => Some(&answer.calls),
        _ => None,
    });
    answers
        .flatten()
        .filter(|call| matches!(call.name.as_str(), "write" | "edit"))
        .filter_map(|call| Some(call.arguments.get("path")?.as_str()?.to_owned()))
        .take(500)
        .collect()
}

/// A conversation as text.
fn transcript(messages: &[Message]) -> String {
    let texts = messages.iter().map(|message| match message {
        Message::User(user) => format!("# The person\n{}\n\n", user.text),
        Message::Assistant(answer) => {
            let calls = answer.calls.iter().map(|call| {
                let arguments = call.arguments.to_string();
                let arguments = middle_cut(&arguments, LONGEST_RESULT);
                format!("(calls {} {arguments})\n", call.name)
            });
            let calls: String = calls.collect();
            format!("# The agent\n{}\n{calls}\n", answer.text)
        }
        Message::Results(results) => results.iter().map(result_text).collect(),
    });
    texts.collect()
}

fn result_text(result: &CallResult) -> String {
    let failed = if result.is_error {
        ", which failed"
    } else {
        ""
    };
    let mut text = format!("# Result of {}{failed}\n", result.name);
    for part in &result.content {
        match part {
            Content::Text(part) => text.push_str(&middle_cut(part, LONGEST_RESULT)),
            Content::Image(image) => text.push_str(&format!("(an image, {})", image.mime)),
        }
        text.push('\n');
    }
    text + "\n"
}
