//! Calls: those of the model, with what crosses the sandbox's border asked about first, and those of a person.

use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::error::TurnError;
use super::{Conversation, permission, plan};
use crate::agent::event::Event;
use crate::agent::message::{Call, CallResult, Content, Message};
use crate::agent::session::Body;

/// What the model is told of a call that a person interrupted, or that was not begun because of that.
const INTERRUPTED: &str = "the person interrupted this before it began: nothing was done";

/// The most of a person's command's output that the model is shown, in bytes.
const LONGEST_NOTE: usize = 10_000;

impl Conversation {
    /// Makes the calls of an answer in parallel, and takes their results into the session in the order of the calls.
    pub(super) async fn make_calls(
        &mut self,
        calls: &[Call],
        cancel: &CancellationToken,
    ) -> Result<(), TurnError> {
        let changes = |call: &Call| permission::changes_machine(&call.name);
        if !cancel.is_cancelled() && calls.iter().any(changes) {
            self.save_before_change(cancel).await;
        }
        let mut done = Vec::new();
        let mut running = FuturesUnordered::new();
        for call in calls {
            if call.name != plan::NAME {
                running.push(self.make(call.clone(), false, cancel.clone()));
                continue;
            }
            // The person sees the list itself.
            done.push(plan::result(call));
            if let Ok(items) = plan::items(&call.arguments) {
                self.session.append(Body::Plan(items.clone()))?;
                self.emit(Event::Plan(items));
            }
        }
        while let Some(result) = self.attend(cancel, running.next()).await {
            // Kept before the others end.
            if calls.len() > 1
                && let Err(error) = self.session.append(Body::Partial(result.clone()))
            {
                self.failed(&error.into());
            }
            done.push(result);
        }
        let results = calls.iter().map(|call| {
            let at = done.iter().position(|result| result.id == call.id);
            at.map(|at| done.swap_remove(at))
                .unwrap_or_else(|| CallResult::text(call, INTERRUPTED, true))
        });
        let results = results.collect();
        self.say(Message::Results(results)).map(drop)
    }

    /// Makes a call, and reports on it.
    fn make(
        &self,
        call: Call,
        by_person: bool,
        cancel: CancellationToken,
    ) -> impl Future<Output = CallResult> + Send + use<> {
        let (servers, events) = (self.servers.clone(), self.events.clone());
        let permissions = self.permissions.clone();
        async move {
            let began = Instant::now();
            let of = call.clone();
            let report = Event::CallBegan {
                call: of,
                by_person,
            };
            events.send(report).ok();
            let allowed = match by_person {
                true => Ok(()),
                false => permissions.check(&call, &servers, &events, &cancel).await,
            };
            let progress = |line: String| {
                let id = call.id.clone();
                events.send(Event::CallProgress { id, line }).ok();
            };
            let result = match allowed {
                _ if cancel.is_cancelled() => CallResult::text(&call, INTERRUPTED, true),
                Err(refused) => CallResult::text(&call, refused, true),
                Ok(()) => servers.call(&call, &progress, &cancel).await,
            };
            let (of, took) = (result.clone(), began.elapsed());
            events.send(Event::CallEnded { result: of, took }).ok();
            result
        }
    }

    /// Runs a line for the person; the model is told with the next message.
    pub(super) fn run_for_person(&self, line: String) {
        let finished = self.finished.clone();
        let made = self.for_person("exec".to_owned(), json!({ "command": line }));
        self.tasks.spawn(async move {
            let result = made.await;
            let texts = result.content.iter().filter_map(|part| match part {
                Content::Text(text) => Some(text.as_str()),
                Content::Image(_) => None,
            });
            let output = texts.collect::<Vec<_>>().join("\n");
            let output = crate::text::middle_cut(&output, LONGEST_NOTE);
            let note = format!("I ran this in the sandbox myself:\n\n    {line}\n\n{output}\n");
            finished.send(note).ok();
        });
    }

    /// Calls a tool for the person.
    pub(super) fn call_for_person(&self, name: String, arguments: Value) {
        self.tasks.spawn(self.for_person(name, arguments));
    }

    fn for_person(
        &self,
        name: String,
        arguments: Value,
    ) -> impl Future<Output = CallResult> + Send + use<> {
        let call = Call {
            id: format!("person-{:08x}", rand::random::<u32>()),
            name,
            arguments,
        };
        self.make(call, true, self.over.clone())
    }
}
