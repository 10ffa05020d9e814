//! The messages for a model, in which every call has a result.
//!
//! A provider refuses a conversation with a call that has no result, or with a result that has no call. Both are there
//! if the program was killed while a call ran.

use super::super::message::{Assistant, Call, CallResult, Message, User};
use super::entry::{Body, EntryId};
use super::file::Session;

/// What a model is told of a call without a result.
const UNKNOWN: &str = "the call was interrupted before its result was kept: whether it took effect is unknown. \
     Look before you repeat it";

/// Begins the message that stands for an earlier part of the conversation.
const SUMMARIZED: &str = "Summary of the conversation so far:";

impl Session {
    /// The messages that the model has: those of the present branch after its last summary, with that as the first.
    pub(crate) fn messages(&self) -> Vec<(EntryId, Message)> {
        let branch = self.branch();
        let summary = branch
            .iter()
            .rposition(|(_, body)| matches!(body, Body::Summary(_)));
        sound(&branch[summary.unwrap_or(0)..])
    }
}

fn sound(branch: &[(EntryId, &Body)]) -> Vec<(EntryId, Message)> {
    let mut messages = Vec::new();
    // The newest answer with calls, and the results that came.
    let mut open: Option<(EntryId, &[Call])> = None;
    let mut came: Vec<&CallResult> = Vec::new();
    for (entry, body) in branch {
        match body {
            Body::Partial(result) => came.push(result),
            Body::Message(Message::Results(results)) => {
                came.splice(0..0, results);
                messages.extend(results_of(open.take(), &mut came));
            }
            Body::Message(message) => {
                messages.extend(results_of(open.take(), &mut came));
                messages.push((*entry, message.clone()));
                if let Message::Assistant(Assistant { calls, .. }) = message
                    && !calls.is_empty()
                {
                    open = Some((*entry, calls));
                }
            }
            Body::Summary(summary) => {
                let text = format!("{SUMMARIZED}\n\n{summary}");
                messages.push((*entry, Message::User(User::text(text))));
            }
            Body::Model(_) | Body::Plan(_) | Body::Snapshot(_) | Body::Rewind(_) => {}
        }
    }
    messages.extend(results_of(open, &mut came));
    messages
}

/// One result for each call of an answer, in the order of the calls; none of those that came is left.
fn results_of(
    answer: Option<(EntryId, &[Call])>,
    came: &mut Vec<&CallResult>,
) -> Option<(EntryId, Message)> {
    let mut came = std::mem::take(came);
    let (entry, calls) = answer?;
    let results = calls.iter().map(|call| {
        // A model may give two calls one identifier; their results come in the same order.
        match came.iter().position(|result| result.id == call.id) {
            Some(at) => came.remove(at).clone(),
            None => CallResult::text(call, UNKNOWN, true),
        }
    });
    Some((entry, Message::Results(results.collect())))
}
