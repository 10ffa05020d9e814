//! A turn: answers of the model and the calls in them, until an answer has none.

use tokio_util::sync::CancellationToken;

use super::error::TurnError;
use super::{Conversation, compaction, instructions, plan};
use crate::agent::event::{Event, TurnEnd};
use crate::agent::message::{Assistant, Message, Stop, Usage};
use crate::agent::providers::{Delta, ProviderError, Request};

/// What became of a request.
enum Asked {
    Answer(Assistant),
    /// With the text that had come.
    Interrupted(String),
    TooLong(ProviderError),
}

impl Conversation {
    pub(super) async fn turn(&mut self) -> Result<TurnEnd, TurnError> {
        let cancel = CancellationToken::new();
        let mut answers = 0;
        let mut compacted = false;
        loop {
            self.take_steering()?;
            if let Some(limit) = self.limit_reached(answers) {
                return Ok(TurnEnd::Limit(limit));
            }
            if compaction::is_due(self.spent.context, &self.facts) {
                compacted |= self.compact("", &cancel).await?;
            }
            let answer = match self.ask(&cancel).await? {
                Asked::Answer(answer) => answer,
                Asked::Interrupted(text) => return self.interrupted(text),
                // The estimate was wrong: the provider knows better.
                Asked::TooLong(_) if !compacted && self.compact("", &cancel).await? => {
                    compacted = true;
                    continue;
                }
                Asked::TooLong(error) => return Err(error.into()),
            };
            compacted = false;
            answers += 1;
            self.say(Message::Assistant(answer.clone()))?;
            self.spend(answer.usage);
            self.spent.context = answer.usage.input + answer.usage.output;
            self.emit(Event::Spent(self.spent));
            let (calls, stop) = (answer.calls.clone(), answer.stop);
            self.emit(Event::Answered(Box::new(answer)));
            if !calls.is_empty() {
                self.make_calls(&calls, &cancel).await?;
            }
            match stop {
                _ if cancel.is_cancelled() => return Ok(TurnEnd::Interrupted),
                _ if !calls.is_empty() || !self.steering.is_empty() => {}
                Stop::Refused => return Ok(TurnEnd::Refused),
                Stop::Length => {
                    let limit = "the answer reached the model's longest length";
                    return Ok(TurnEnd::Limit(limit.into()));
                }
                _ => return Ok(TurnEnd::Done),
            }
        }
    }

    /// Takes what was said, and what a person did, into the conversation.
    fn take_steering(&mut self) -> Result<(), TurnError> {
        while let Ok(note) = self.notes.try_recv() {
            self.note(note);
        }
        if self.steering.is_empty() {
            return Ok(());
        }
        while let Some(prompt) = self.steering.pop_front() {
            let text = prompt.text.clone();
            let entry = self.say(Message::User(prompt))?;
            self.emit(Event::Said { entry, text });
        }
        self.turn_is_saved = false;
        self.show_waiting();
        Ok(())
    }

    fn limit_reached(&self, answers: u32) -> Option<String> {
        let turns = self.limits.turns.filter(|turns| answers >= *turns);
        let turns = turns.map(|turns| format!("{turns} answers of the model (--max-turns)"));
        let dollars = self.limits.dollars.zip(self.spent.dollars);
        let dollars = dollars.filter(|(most, spent)| spent >= most);
        turns.or_else(|| dollars.map(|(most, _)| format!("{most} US dollars (--max-cost)")))
    }

    /// Asks the model for its next answer.
    async fn ask(&mut self, cancel: &CancellationToken) -> Result<Asked, TurnError> {
        let (brain, model) = (self.brain.clone(), self.model.clone());
        let (servers, events) = (self.servers.clone(), self.events.clone());
        let messages = self.messages();
        let session = self.session.id().to_owned();
        let about =
            instructions::of_project(&self.config.sandbox.project_dir, &self.config.subdirectory);
        let mut came = String::new();
        let mut take = |delta: Delta| {
            let event = match delta {
                Delta::Text(piece) => {
                    came.push_str(&piece);
                    Event::Text(piece)
                }
                Delta::Reasoning(piece) => Event::Reasoning(piece),
                Delta::Calling { name, bytes } => Event::Calling { name, bytes },
                Delta::Retrying { why, after } => {
                    came.clear();
                    events.send(Event::Void).ok();
                    Event::Retrying { why, after }
                }
            };
            events.send(event).ok();
        };
        let work = async {
            let connected = async { (servers.tools().await, servers.instructions().await) };
            let Some((mut tools, told)) = cancel.run_until_cancelled(connected).await else {
                return Err(ProviderError::Cancelled(model.to_string()));
            };
            tools.push(plan::tool());
            let request = Request {
                model: &model,
                system: &instructions::system(&told, &about),
                tools: &tools,
                messages: &messages,
                session: &session,
            };
            brain.ask(request, &mut take, cancel).await
        };
        match self.attend(cancel, work).await {
            Ok(answer) => Ok(Asked::Answer(answer)),
            Err(error @ ProviderError::TooLong { .. }) => Ok(Asked::TooLong(error)),
            Err(_) if cancel.is_cancelled() => Ok(Asked::Interrupted(came)),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps what had come of an answer when it was interrupted.
    fn interrupted(&mut self, text: String) -> Result<TurnEnd, TurnError> {
        if !text.trim().is_empty() {
            let answer = Assistant {
                model: self.model.to_string(),
                text,
                reasoning: String::new(),
                calls: Vec::new(),
                blocks: serde_json::Value::Null,
                usage: Usage::default(),
                stop: Stop::Interrupted,
            };
            self.say(Message::Assistant(answer.clone()))?;
            self.emit(Event::Answered(Box::new(answer)));
        }
        Ok(TurnEnd::Interrupted)
    }

    /// The conversation as the model has it.
    pub(super) fn messages(&self) -> Vec<Message> {
        let messages = self.session.messages().into_iter();
        messages.map(|(_, message)| message).collect()
    }
}
