//! The front end without a terminal: one prompt, its answer on standard output.
//!
//! With `json` each report is a line of JSON instead, for programs: an object with `type`. Its members stay; new ones and new
//! types may come.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::event::{Command, Event, Handle, Prompt, TurnEnd};
use super::message::{CallResult, Content};
use crate::shown::{self, Stream};

/// How long the loop may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// Says the prompt and prints what comes, until the turn ends. `interrupted` ends it early.
pub(crate) async fn run(
    prompt: String,
    json: bool,
    mut handle: Handle,
    interrupted: impl Future<Output = ()>,
) -> io::Result<TurnEnd> {
    let prompt = Prompt::text(prompt);
    // The loop ends only when this handle does.
    handle.commands.send(Command::Send(prompt)).ok();
    tokio::pin!(interrupted);
    let mut stopping = false;
    let mut answer = String::new();
    let end = loop {
        let event = tokio::select! {
            event = handle.events.recv() => event,
            () = &mut interrupted, if !stopping => {
                stopping = true;
                handle.commands.send(Command::Interrupt).ok();
                continue;
            }
        };
        let Some(event) = event else {
            break TurnEnd::Failed("go on: the agent's loop ended".into());
        };
        if json && let Some(line) = as_json(&event) {
            print_line(&line.to_string())?;
        }
        match event {
            Event::Answered(said) => answer = said.text,
            Event::TurnEnded(end) => break end,
            // Nobody is there to answer.
            Event::Ask(question) => told(&format!(
                "declined, since nobody can be asked: {}",
                question.text
            )),
            event if !json => tell(&event),
            _ => {}
        }
    };
    if !json && !answer.is_empty() {
        print_line(&shown::text(answer.trim_end()))?;
    }
    drop(handle.commands);
    // The running calls and the servers end before the program does.
    let ended = async { while handle.events.recv().await.is_some() {} };
    tokio::select! {
        _ = tokio::time::timeout(ENDING, ended) => {}
        () = &mut interrupted, if !stopping => {}
    }
    Ok(end)
}

fn print_line(line: &str) -> io::Result<()> {
    shown::raw(Stream::Output, format!("{line}\n").as_bytes())
}

fn told(what: &str) {
    shown::say(format_args!("{what}"));
}

/// Reports progress on standard error, for a person who waits for the answer.
fn tell(event: &Event) {
    match event {
        Event::Notice(text) => told(text),
        Event::Retrying { why, after } => told(&format!(
            "{why}; trying again in {}",
            crate::text::duration(*after)
        )),
        Event::Compacting => told("summarizing the conversation"),
        Event::CallBegan { call, .. } if shown::volume() == shown::Volume::Loud => told(&format!(
            "{} {}",
            call.name,
            crate::text::middle_cut(&call.arguments.to_string(), 300)
        )),
        _ => {}
    }
}

/// A report for a program; none for what only a person at a terminal needs.
fn as_json(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Session { id, .. } => json!({"type": "session", "id": id}),
        Event::Model { name, window } => json!({"type": "model", "model": name, "window": window}),
        Event::Said { text, .. } => json!({"type": "prompt", "text": text}),
        Event::Text(text) => json!({"type": "text", "text": text}),
        Event::Reasoning(text) => json!({"type": "reasoning", "text": text}),
        Event::Void => json!({"type": "void"}),
        Event::Answered(answer) => json!({
            "type": "answer", "text": answer.text, "calls": answer.calls.len(), "stop": answer.stop,
            "usage": answer.usage,
        }),
        Event::CallBegan { call, .. } => json!({
            "type": "call", "id": call.id, "tool": call.name, "arguments": call.arguments,
        }),
        Event::CallProgress { id, line } => json!({"type": "progress", "id": id, "line": line}),
        Event::CallEnded { result, took } => json!({
            "type": "result", "id": result.id, "tool": result.name, "is_error": result.is_error,
            "content": contents(result), "took_ms": crate::time::millis(*took),
        }),
        Event::Plan(items) => json!({"type": "plan", "items": items}),
        Event::Retrying { why, after } => {
            json!({"type": "retry", "why": why, "after_ms": crate::time::millis(*after)})
        }
        Event::Compacted { summary } => json!({"type": "summary", "text": summary}),
        Event::Spent(spent) => json!({
            "type": "spent", "usage": spent.usage, "context": spent.context, "dollars": spent.dollars,
        }),
        Event::Ask(question) => {
            json!({"type": "question", "from": question.from, "text": question.text, "answer": "declined"})
        }
        Event::Notice(text) => json!({"type": "notice", "text": text}),
        Event::TurnEnded(end) => end_json(end),
        // What only a person at a terminal needs.
        _ => return None,
    })
}

fn contents(result: &CallResult) -> Vec<Value> {
    let parts = result.content.iter().map(|part| match part {
        Content::Text(text) => json!({"type": "text", "text": text}),
        Content::Image(image) => json!({"type": "image", "mime": image.mime, "data": image.data}),
    });
    parts.collect()
}

fn end_json(end: &TurnEnd) -> Value {
    let (reason, detail) = match end {
        TurnEnd::Done => ("done", None),
        TurnEnd::Interrupted => ("interrupted", None),
        TurnEnd::Refused => ("refused", None),
        TurnEnd::Limit(which) => ("limit", Some(which)),
        TurnEnd::Failed(why) => ("failed", Some(why)),
    };
    json!({"type": "end", "reason": reason, "detail": detail})
}
