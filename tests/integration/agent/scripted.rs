//! A model that says what a test gives it, on a real HTTP server and in every provider's protocol.
//!
//! The request's path tells the protocol: Anthropic Messages, Chat Completions, OpenAI Responses or Gemini. Texts and
//! arguments arrive in many small pieces, as they do from real providers.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    reason = "each test uses its own part, and fails by panicking"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// A scripted model, served until it is dropped.
pub struct ScriptedModel {
    address: String,
    script: Arc<Mutex<Script>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Script {
    answer: Box<dyn FnMut(&Asked) -> Answer + Send>,
    asked: Vec<Asked>,
}

/// A request that the model got.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The path with the query.
    pub path: String,
    /// The headers, by names in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body; null if there was none.
    pub body: Value,
}

/// What the model answers.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pieces: Vec<Piece>,
    end: End,
    status: Option<Status>,
    usage: Usage,
    /// A pause before each event.
    pause: Duration,
    /// The most bytes that are written at once.
    cut: Option<usize>,
    /// After how many writes the connection breaks.
    lost: Option<usize>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Reasoning(String),
    Redacted(String),
    Call { name: String, arguments: String },
    Event(String),
    Pause(Duration),
}

#[derive(Debug, Clone, Default)]
enum End {
    #[default]
    Whole,
    Length,
    Refused,
    Broken,
    Missing,
    Silent,
    Error(String, String),
}

#[derive(Debug, Clone)]
struct Status {
    code: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How often the body is sent.
    times: usize,
}

#[derive(Debug, Clone, Copy)]
struct Usage {
    input: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            input: 100,
            cache_read: 0,
            cache_write: 0,
            output: 10,
        }
    }
}

impl Answer {
    /// A piece of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::default().and_text(text)
    }

    /// A call of a tool.
    pub fn call(name: &str, arguments: Value) -> Self {
        Self::default().and_call(name, arguments)
    }

    /// Reasoning, which is signed where the protocol has that.
    pub fn reasoning(text: impl Into<String>) -> Self {
        Self::default().and_reasoning(text)
    }

    /// A failure, with the body that follows.
    pub fn status(code: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: Some(Status {
                code,
                headers: Vec::new(),
                body: body.into(),
                times: 1,
            }),
            ..Self::default()
        }
    }

    /// A failure as the providers state it: `{"error": {"type": …, "message": …}}`.
    pub fn failure(code: u16, kind: &str, message: &str) -> Self {
        let body =
            json!({"type": "error", "error": {"type": kind, "code": kind, "message": message}});
        Self::status(code, body.to_string()).header("content-type", "application/json")
    }

    /// More text.
    pub fn and_text(self, text: impl Into<String>) -> Self {
        self.and(Piece::Text(text.into()))
    }

    /// More reasoning.
    pub fn and_reasoning(self, text: impl Into<String>) -> Self {
        self.and(Piece::Reasoning(text.into()))
    }

    /// Reasoning that only the provider can read.
    pub fn and_redacted(self, data: &str) -> Self {
        self.and(Piece::Redacted(data.to_owned()))
    }

    /// One more call of the same answer.
    pub fn and_call(self, name: &str, arguments: Value) -> Self {
        self.and_malformed_call(name, &arguments.to_string())
    }

    /// A call whose arguments are this text, whatever it is.
    pub fn and_malformed_call(self, name: &str, arguments: &str) -> Self {
        self.and(Piece::Call {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        })
    }

    /// An event exactly as it is sent, without the empty line after it.
    pub fn and_event(self, event: &str) -> Self {
        self.and(Piece::Event(event.to_owned()))
    }

    /// Silence before what follows.
    pub fn and_pause(self, pause: Duration) -> Self {
        self.and(Piece::Pause(pause))
    }

    /// The most that an answer may have is reached.
    pub fn cut_short(self) -> Self {
        self.ending(End::Length)
    }

    /// The model refuses.
    pub fn refused(self) -> Self {
        self.ending(End::Refused)
    }

    /// The connection breaks before the answer has ended.
    pub fn broken(self) -> Self {
        self.ending(End::Broken)
    }

    /// The connection breaks after so many writes.
    pub fn broken_after(mut self, writes: usize) -> Self {
        self.lost = Some(writes);
        self
    }

    /// The stream ends without the event that ends an answer.
    pub fn without_end(self) -> Self {
        self.ending(End::Missing)
    }

    /// Nothing follows, and the connection stays open.
    pub fn silent(self) -> Self {
        self.ending(End::Silent)
    }

    /// An error follows in the stream.
    pub fn failing(self, kind: &str, message: &str) -> Self {
        self.ending(End::Error(kind.to_owned(), message.to_owned()))
    }

    /// The tokens that it reports: of the request as a whole, those read from and written to the cache, of the answer.
    pub fn costing(mut self, input: u64, cache_read: u64, cache_write: u64, output: u64) -> Self {
        self.usage = Usage {
            input,
            cache_read,
            cache_write,
            output,
        };
        self
    }

    /// Pauses before each event.
    pub fn every(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Writes at most so many bytes at once.
    pub fn chopped(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// A header of a failure.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let status = self.status.as_mut().unwrap();
        status.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends a failure's body so many times.
    pub fn times(mut self, times: usize) -> Self {
        self.status.as_mut().unwrap().times = times;
        self
    }

    fn and(mut self, piece: Piece) -> Self {
        self.pieces.push(piece);
        self
    }

    fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    fn calls(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Call { name, arguments } => Some((name.as_str(), arguments.as_str())),
            _ => None,
        })
    }
}

impl ScriptedModel {
    /// Gives these answers, one for each request, and after the last one refuses requests.
    pub fn start(answers: Vec<Answer>) -> Self {
        let mut answers = answers.into_iter();
        Self::answering(move |_| {
            answers.next().unwrap_or_else(|| {
                Answer::failure(400, "invalid_request_error", "the script has ended")
            })
        })
    }

    /// Answers each request as the function says.
    pub fn answering(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
        let script = Arc::new(Mutex::new(Script {
            answer: Box::new(answer),
            asked: Vec::new(),
        }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let state = script.clone();
        // A thread of its own: tests without an async runtime use the model, too.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let app = Router::new()
                    .fallback(serve)
                    .layer(DefaultBodyLimit::disable())
                    .with_state(state);
                tokio::select! {
                    served = async { axum::serve(listener, app).await } => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            script,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Its address, as in `http://127.0.0.1:41234`, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests to the model so far; the question which models there are does not count.
    pub fn requests(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A step of what is written.
enum Step {
    Bytes(Vec<u8>),
    Pause(Duration),
    Break,
    Wait,
}

async fn serve(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let headers = parts.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let asked = Asked {
        path: parts.uri.to_string(),
        headers: headers.collect(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    if parts.method == "GET" {
        return listing(&asked.path);
    }
    let (answer, number) = {
        let mut script = script.lock().unwrap();
        script.asked.push(asked.clone());
        let answer = (script.answer)(&asked);
        (answer, script.asked.len())
    };
    if let Some(status) = answer.status {
        return failure(status);
    }
    let events = match asked.path.as_str() {
        path if path.contains("/messages") => messages(&answer, number),
        path if path.contains("/chat/completions") => chat(&answer, number),
        path if path.contains("/responses") => responses(&answer, number),
        path if path.contains(":streamGenerateContent") => gemini(&answer),
        path => {
            let body = format!("there is no {path}").into_bytes();
            return failure(Status {
                code: 404,
                headers: Vec::new(),
                body,
                times: 1,
            });
        }
    };
    streamed(&answer, events)
}

fn listing(path: &str) -> Response {
    let body = match path.contains("/v1beta/") {
        true => json!({"models": [{"name": "models/scripted"}, {"name": "models/scripted-small"}]}),
        false => json!({"object": "list", "data": [{"id": "scripted"}, {"id": "scripted-small"}]}),
    };
    let response = Response::builder().header("content-type", "application/json");
    response.body(body.to_string().into()).unwrap()
}

fn failure(status: Status) -> Response {
    let mut response = Response::builder().status(status.code);
    for (name, value) in &status.headers {
        response = response.header(name, value);
    }
    let piece = Bytes::from(status.body);
    let body = stream::iter((0..status.times).map(move |_| Ok::<_, io::Error>(piece.clone())));
    response.body(Body::from_stream(body)).unwrap()
}

fn streamed(answer: &Answer, events: Vec<Event>) -> Response {
    let mut steps = Vec::new();
    for event in events {
        let text = match event {
            Event::Sent(text) => text,
            Event::Pause(pause) => {
                steps.push(Step::Pause(pause));
                continue;
            }
        };
        if !answer.pause.is_zero() {
            steps.push(Step::Pause(answer.pause));
        }
        let bytes = text.into_bytes();
        let most = answer.cut.unwrap_or(bytes.len()).max(1);
        steps.extend(bytes.chunks(most).map(|piece| Step::Bytes(piece.to_vec())));
    }
    match answer.end {
        End::Broken => steps.push(Step::Break),
        End::Silent => steps.push(Step::Wait),
        _ => {}
    }
    if let Some(lost) = answer.lost.filter(|lost| *lost < steps.len()) {
        steps.truncate(lost);
        steps.push(Step::Break);
    }
    let body = stream::iter(steps).filter_map(|step| async move {
        match step {
            Step::Bytes(bytes) => {
                // Each piece is written before the next one is there.
                tokio::task::yield_now().await;
                Some(Ok(bytes))
            }
            Step::Pause(pause) => {
                tokio::time::sleep(pause).await;
                None
            }
            Step::Break => Some(Err(io::Error::other("the connection breaks"))),
            Step::Wait => std::future::pending().await,
        }
    });
    Response::builder()
        .header("content-type", "text/event-stream; charset=utf-8")
        .body(Body::from_stream(body))
        .unwrap()
}

/// What is sent of an answer.
enum Event {
    Sent(String),
    Pause(Duration),
}

fn event(name: &str, data: Value) -> Event {
    Event::Sent(format!("event: {name}\ndata: {data}\n\n"))
}

fn data(data: Value) -> Event {
    Event::Sent(format!("data: {data}\n\n"))
}

/// Text in the pieces in which it is sent: words.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

/// Arguments in the pieces in which they are sent, which end anywhere.
fn shreds(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars
        .chunks(7)
        .map(|piece| piece.iter().collect())
        .collect()
}

/// The signature of the reasoning in that place.
pub fn signature(request: usize, place: usize) -> String {
    format!("signed-{request}-{place}")
}

/// Whether the answer ends as it should, in the protocol's words for that, cut short or refused.
fn stop<'a>(
    answer: &Answer,
    calls: &'a str,
    done: &'a str,
    length: &'a str,
    refused: &'a str,
) -> Option<&'a str> {
    match answer.end {
        End::Whole if answer.calls().next().is_some() => Some(calls),
        End::Whole => Some(done),
        End::Length => Some(length),
        End::Refused => Some(refused),
        _ => None,
    }
}

/// Anthropic Messages.
fn messages(answer: &Answer, request: usize) -> Vec<Event> {
    let Usage {
        input,
        cache_read,
        cache_write,
        output,
    } = answer.usage;
    let usage = json!({"input_tokens": input - cache_read - cache_write, "cache_read_input_tokens": cache_read,
        "cache_creation_input_tokens": cache_write, "output_tokens": 1});
    let start = json!({"type": "message_start", "message": {"id": format!("msg_{request}"), "type": "message",
        "role": "assistant", "model": "scripted", "content": [], "stop_reason": null, "usage": usage}});
    let mut events = vec![
        event("message_start", start),
        event("ping", json!({"type": "ping"})),
    ];
    let mut index = 0;
    for piece in &answer.pieces {
        let (block, deltas) = match piece {
            Piece::Text(text) => {
                let delta = |word| json!({"type": "text_delta", "text": word});
                (
                    json!({"type": "text", "text": ""}),
                    words(text).into_iter().map(delta).collect(),
                )
            }
            Piece::Reasoning(text) => {
                let delta = |word| json!({"type": "thinking_delta", "thinking": word});
                let mut deltas: Vec<Value> = words(text).into_iter().map(delta).collect();
                for part in shreds(&signature(request, index)) {
                    deltas.push(json!({"type": "signature_delta", "signature": part}));
                }
                (
                    json!({"type": "thinking", "thinking": "", "signature": ""}),
                    deltas,
                )
            }
            Piece::Redacted(data) => (
                json!({"type": "redacted_thinking", "data": data}),
                Vec::new(),
            ),
            Piece::Call { name, arguments } => {
                let delta = |part| json!({"type": "input_json_delta", "partial_json": part});
                let block = json!({"type": "tool_use", "id": format!("toolu_{request}_{index}"), "name": name, "input": {}});
                (block, shreds(arguments).into_iter().map(delta).collect())
            }
            Piece::Event(text) => {
                events.push(Event::Sent(format!("{text}\n\n")));
                continue;
            }
            Piece::Pause(pause) => {
                events.push(Event::Pause(*pause));
                continue;
            }
        };
        events.push(event(
            "content_block_start",
            json!({"type": "content_block_start", "index": index, "content_block": block}),
        ));
        for delta in deltas {
            events.push(event(
                "content_block_delta",
                json!({"type": "content_block_delta", "index": index, "delta": delta}),
            ));
        }
        events.push(event(
            "content_block_stop",
            json!({"type": "content_block_stop", "index": index}),
        ));
        index += 1;
    }
    if let End::Error(kind, message) = &answer.end {
        events.push(event(
            "error",
            json!({"type": "error", "error": {"type": kind, "message": message}}),
        ));
    }
    if let Some(stop) = stop(answer, "tool_use", "end_turn", "max_tokens", "refusal") {
        let delta = json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}, "usage": {"output_tokens": output}});
        events.push(event("message_delta", delta));
        events.push(event("message_stop", json!({"type": "message_stop"})));
    }
    events
}

/// Chat Completions. Parallel calls come piece by piece in turns.
fn chat(answer: &Answer, request: usize) -> Vec<Event> {
    let chunk = |delta: Value, stop: Option<&str>| {
        data(
            json!({"id": format!("chatcmpl-{request}"), "object": "chat.completion.chunk", "model": "scripted",
            "choices": [{"index": 0, "delta": delta, "finish_reason": stop}]}),
        )
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), None)];
    for piece in &answer.pieces {
        match piece {
            Piece::Text(text) => {
                events.extend(
                    words(text)
                        .into_iter()
                        .map(|word| chunk(json!({"content": word}), None)),
                );
            }
            Piece::Reasoning(text) => {
                let delta = |word| chunk(json!({"reasoning_content": word}), None);
                events.extend(words(text).into_iter().map(delta));
            }
            Piece::Redacted(data) => {
                let details = json!([{"type": "reasoning.encrypted", "index": 0, "data": data}]);
                events.push(chunk(json!({"reasoning_details": details}), None));
            }
            Piece::Event(text) => events.push(Event::Sent(format!("{text}\n\n"))),
            Piece::Pause(pause) => events.push(Event::Pause(*pause)),
            Piece::Call { .. } => {}
        }
    }
    let calls: Vec<(&str, Vec<String>)> = answer
        .calls()
        .map(|(name, arguments)| (name, shreds(arguments)))
        .collect();
    for (index, (name, _)) in calls.iter().enumerate() {
        let call = json!({"index": index, "id": format!("call_{request}_{index}"), "type": "function",
            "function": {"name": name, "arguments": ""}});
        events.push(chunk(json!({"tool_calls": [call]}), None));
    }
    let longest = calls
        .iter()
        .map(|(_, parts)| parts.len())
        .max()
        .unwrap_or(0);
    for at in 0..longest {
        for (index, (_, parts)) in calls.iter().enumerate() {
            if let Some(part) = parts.get(at) {
                let call = json!({"index": index, "function": {"arguments": part}});
                events.push(chunk(json!({"tool_calls": [call]}), None));
            }
        }
    }
    if let End::Error(kind, message) = &answer.end {
        events.push(data(
            json!({"error": {"type": kind, "code": kind, "message": message}}),
        ));
    }
    if let Some(stop) = stop(answer, "tool_calls", "stop", "length", "content_filter") {
        let Usage {
            input,
            cache_read,
            output,
            ..
        } = answer.usage;
        events.push(chunk(json!({}), Some(stop)));
        events.push(data(json!({"id": format!("chatcmpl-{request}"), "object": "chat.completion.chunk", "choices": [],
            "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
                "prompt_tokens_details": {"cached_tokens": cache_read}}})));
        events.push(Event::Sent("data: [DONE]\n\n".to_owned()));
    }
    events
}

/// OpenAI Responses.
fn responses(answer: &Answer, request: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut number = 0;
    let mut send = |events: &mut Vec<Event>, kind: &str, mut body: Value| {
        body["type"] = json!(kind);
        body["sequence_number"] = json!(number);
        number += 1;
        events.push(event(kind, body));
    };
    let id = format!("resp_{request}");
    send(
        &mut events,
        "response.created",
        json!({"response": {"id": id, "status": "in_progress", "output": []}}),
    );
    let mut output = Vec::new();
    for piece in &answer.pieces {
        let at = output.len();
        let item = match piece {
            Piece::Text(text) => {
                let (delta, content) = match answer.end {
                    End::Refused => (
                        "response.refusal.delta",
                        json!({"type": "refusal", "refusal": text}),
                    ),
                    _ => (
                        "response.output_text.delta",
                        json!({"type": "output_text", "text": text, "annotations": []}),
                    ),
                };
                for word in words(text) {
                    send(
                        &mut events,
                        delta,
                        json!({"output_index": at, "content_index": 0, "delta": word}),
                    );
                }
                json!({"type": "message", "id": format!("msg_{request}_{at}"), "role": "assistant", "status": "completed",
                    "content": [content]})
            }
            Piece::Reasoning(text) => {
                for word in words(text) {
                    send(
                        &mut events,
                        "response.reasoning_summary_text.delta",
                        json!({"output_index": at, "summary_index": 0, "delta": word}),
                    );
                }
                json!({"type": "reasoning", "id": format!("rs_{request}_{at}"), "encrypted_content": signature(request, at),
                    "summary": [{"type": "summary_text", "text": text}]})
            }
            Piece::Redacted(data) => {
                json!({"type": "reasoning", "id": format!("rs_{request}_{at}"), "encrypted_content": data, "summary": []})
            }
            Piece::Call { name, arguments } => {
                let mut item = json!({"type": "function_call", "id": format!("fc_{request}_{at}"), "status": "in_progress",
                    "call_id": format!("call_{request}_{at}"), "name": name, "arguments": ""});
                send(
                    &mut events,
                    "response.output_item.added",
                    json!({"output_index": at, "item": item}),
                );
                for part in shreds(arguments) {
                    send(
                        &mut events,
                        "response.function_call_arguments.delta",
                        json!({"output_index": at, "delta": part}),
                    );
                }
                item["arguments"] = json!(arguments);
                item["status"] = json!("completed");
                item
            }
            Piece::Event(text) => {
                events.push(Event::Sent(format!("{text}\n\n")));
                continue;
            }
            Piece::Pause(pause) => {
                events.push(Event::Pause(*pause));
                continue;
            }
        };
        send(
            &mut events,
            "response.output_item.done",
            json!({"output_index": at, "item": item}),
        );
        output.push(item);
    }
    let Usage {
        input,
        cache_read,
        output: written,
        ..
    } = answer.usage;
    let usage = json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": cache_read},
        "output_tokens": written, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + written});
    let mut response = json!({"id": id, "status": "completed", "output": output, "usage": usage});
    match &answer.end {
        End::Whole | End::Refused => send(
            &mut events,
            "response.completed",
            json!({"response": response}),
        ),
        End::Length => {
            response["status"] = json!("incomplete");
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            send(
                &mut events,
                "response.incomplete",
                json!({"response": response}),
            );
        }
        End::Error(kind, message) => {
            response["status"] = json!("failed");
            response["error"] = json!({"code": kind, "message": message});
            send(
                &mut events,
                "response.failed",
                json!({"response": response}),
            );
        }
        End::Broken | End::Missing | End::Silent => {}
    }
    events
}

/// Gemini. A call comes whole.
fn gemini(answer: &Answer) -> Vec<Event> {
    let chunk = |part: Value| {
        data(
            json!({"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], "modelVersion": "scripted"}),
        )
    };
    let mut events = Vec::new();
    for (place, piece) in answer.pieces.iter().enumerate() {
        match piece {
            Piece::Text(text) => {
                events.extend(
                    words(text)
                        .into_iter()
                        .map(|word| chunk(json!({"text": word}))),
                );
            }
            Piece::Reasoning(text) => {
                let part = |word| chunk(json!({"text": word, "thought": true}));
                events.extend(words(text).into_iter().map(part));
            }
            Piece::Redacted(data) => {
                events.push(chunk(json!({"text": "", "thoughtSignature": data})))
            }
            Piece::Call { name, arguments } => {
                let arguments: Value = serde_json::from_str(arguments).unwrap_or(json!(arguments));
                events.push(chunk(
                    json!({"functionCall": {"name": name, "args": arguments},
                    "thoughtSignature": signature(0, place)}),
                ));
            }
            Piece::Event(text) => events.push(Event::Sent(format!("{text}\n\n"))),
            Piece::Pause(pause) => events.push(Event::Pause(*pause)),
        }
    }
    if let End::Error(kind, message) = &answer.end {
        events.push(data(
            json!({"error": {"code": 500, "status": kind, "message": message}}),
        ));
    }
    // Calls end with `STOP`, too.
    if let Some(stop) = stop(answer, "STOP", "STOP", "MAX_TOKENS", "SAFETY") {
        let Usage {
            input,
            cache_read,
            output,
            ..
        } = answer.usage;
        events.push(data(json!({"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": stop}],
            "usageMetadata": {"promptTokenCount": input, "cachedContentTokenCount": cache_read,
                "candidatesTokenCount": output, "totalTokenCount": input + output}})));
    }
    events
}

/// An event of the protocol in one text, for [`Answer::and_event`].
pub fn sse(name: Option<&str>, data: &Value) -> String {
    let mut text = String::new();
    if let Some(name) = name {
        let _ = writeln!(text, "event: {name}");
    }
    let _ = write!(text, "data: {data}");
    text
}
