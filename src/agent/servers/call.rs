//! One call of a tool.

use std::time::Duration;

use futures_util::StreamExt;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResult, ClientRequest, InputRequest,
    InputRequiredResult, InputResponses, JsonObject, ServerResult,
};
use rmcp::service::{PeerRequestOptions, RequestHandle, RoleClient, ServiceError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::event::SandboxState;
use super::super::message::{Call, CallResult};
use super::connect::Connection;
use super::outcome;
use super::server::Server;
use crate::text::{middle_cut, time};

/// How long a call may take without an end and without progress.
const SILENCE: Duration = Duration::from_secs(600);

/// How often a call's newest line of progress is passed on.
const LOOK: Duration = Duration::from_millis(50);

/// The most of a line of progress, in characters.
const LINE: usize = 500;

/// How long it may take to tell a server that a call is cancelled.
const CANCELLING: Duration = Duration::from_secs(2);

/// The most of a server's refusal, in bytes.
const REFUSAL: usize = 10_000;

/// How often a server may ask for more before it answers.
const ROUNDS: usize = 10;

/// What a model is told of a call that a person interrupted.
const INTERRUPTED: &str = "the person interrupted the call; the server was told to end it. What it had done by then stays done";

/// The same, if the call was not made.
const INTERRUPTED_EARLY: &str = "the person interrupted this before it began: nothing was done";

/// Takes the lines that a call reports while it runs.
pub(crate) type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

impl Server {
    /// Makes a call.
    pub(super) async fn call(
        &self,
        call: &Call,
        tool: &str,
        arguments: JsonObject,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> CallResult {
        let connected = tokio::select! {
            connected = self.connected(true) => connected,
            () = cancel.cancelled() => return CallResult::text(call, INTERRUPTED_EARLY, true),
        };
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let made = match &connected {
            Ok(connection) => self.rounds(connection, params, progress, cancel).await,
            Err(why) => Err(format!("failed to {why}. Nothing was done")),
        };
        match made {
            Ok(result) => outcome::shown(call, result),
            Err(told) => CallResult::text(call, told, true),
        }
    }

    /// Asks until the server needs nothing more from a person. The error is what the model is told.
    async fn rounds(
        &self,
        connection: &Connection,
        mut params: CallToolRequestParams,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<CallToolResult, String> {
        for _ in 0..ROUNDS {
            let request = ClientRequest::CallToolRequest(CallToolRequest::new(params.clone()));
            let options = PeerRequestOptions::no_options();
            let answer = match connection
                .peer
                .send_cancellable_request(request, options)
                .await
            {
                Ok(handle) => self.wait(connection, handle, progress, cancel).await?,
                Err(error) => Err(error),
            };
            let asked = match answer.map_err(|error| self.failure(connection, &error))? {
                ServerResult::CallToolResult(result) => return Ok(result),
                ServerResult::EmptyResult(_) => return Ok(CallToolResult::default()),
                ServerResult::InputRequiredResult(asked) => asked,
                _ => return Err(self.odd("a result of another kind")),
            };
            let answers = tokio::select! {
                answers = answers(connection, &asked) => answers,
                () = cancel.cancelled() => return Err(INTERRUPTED_EARLY.to_owned()),
            };
            params.input_responses = Some(answers.map_err(|what| self.odd(what))?);
            params.request_state = asked.request_state;
        }
        Err(self.odd(&format!("more than {ROUNDS} questions for one call")))
    }

    fn odd(&self, what: &str) -> String {
        let server = self.shown();
        format!("the server {server} sent {what}: the call's outcome is unknown")
    }

    fn failure(&self, connection: &Connection, error: &ServiceError) -> String {
        let server = self.shown();
        match error {
            ServiceError::McpError(error) => {
                let why = middle_cut(&error.message, REFUSAL);
                format!("the server {server} refused the call: {why}")
            }
            ServiceError::TransportClosed => {
                let why = connection.end();
                self.sandbox(SandboxState::Lost(why.clone()));
                format!(
                    "the connection to the server {server} was lost during the call: {why}. Whether the call took effect is \
                     unknown; look before you repeat it. The next call connects anew"
                )
            }
            error => {
                let why = crate::describe(error);
                let why = middle_cut(&why, REFUSAL);
                format!(
                    "the call of the server {server} failed: {why}. Whether it took effect is unknown"
                )
            }
        }
    }

    /// Waits for the answer to a request, and passes its progress on. The error is what the model is told.
    async fn wait(
        &self,
        connection: &Connection,
        mut handle: RequestHandle<RoleClient>,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Result<ServerResult, ServiceError>, String> {
        let client = &connection.client;
        let mut reports = client
            .progress
            .subscribe(handle.progress_token.clone())
            .await;
        let mut looks = tokio::time::interval(LOOK);
        let mut quiet_since = Instant::now();
        // Only the newest line counts, and reports may overtake each other.
        let (mut newest, mut line) = (f64::NEG_INFINITY, None);
        loop {
            tokio::select! {
                answer = &mut handle.rx => {
                    if let Some(line) = line {
                        progress(line);
                    }
                    return Ok(answer.unwrap_or(Err(ServiceError::TransportClosed)));
                }
                Some(report) = reports.next() => {
                    quiet_since = Instant::now();
                    if report.progress >= newest {
                        newest = report.progress;
                        let text = report.message.unwrap_or_else(|| newest.to_string());
                        line = Some(text.chars().take(LINE).collect());
                    }
                }
                _ = looks.tick() => {
                    if let Some(line) = line.take() {
                        progress(line);
                    }
                    if client.asking.try_lock().is_err() {
                        quiet_since = Instant::now();
                    }
                    if quiet_since.elapsed() > SILENCE {
                        end(handle, "no progress").await;
                        return Err(format!(
                            "the server {} neither ended the call nor reported progress for {}, so it was told to end it: \
                             whether the call took effect is unknown",
                            self.shown(),
                            time(SILENCE.as_secs())
                        ));
                    }
                }
                () = cancel.cancelled() => {
                    end(handle, "interrupted by the user").await;
                    return Err(INTERRUPTED.to_owned());
                }
            }
        }
    }
}

/// Tells a server to end a call. It sends no answer to a call that was cancelled, so none is waited for.
async fn end(handle: RequestHandle<RoleClient>, why: &str) {
    let told = tokio::time::timeout(CANCELLING, handle.cancel(Some(why.to_owned()))).await;
    if !matches!(told, Ok(Ok(()))) {
        tracing::debug!("a server could not be told that a call was cancelled");
    }
}

/// A person's answers to what a server needs before it can go on.
async fn answers(
    connection: &Connection,
    asked: &InputRequiredResult,
) -> Result<InputResponses, &'static str> {
    let mut answers = InputResponses::new();
    for (key, request) in asked.input_requests.iter().flatten().take(ROUNDS) {
        let InputRequest::Elicitation(request) = request else {
            return Err("a request that this client does not serve");
        };
        let answer = connection.client.ask(request.params.clone()).await;
        let answer = serde_json::to_value(answer).map_err(|_| "a form that can't be answered")?;
        answers.insert(key.clone(), answer);
    }
    Ok(answers)
}
