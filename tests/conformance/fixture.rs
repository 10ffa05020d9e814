//! A server with the fixed content that the suite's scenarios need. It shares with the real server everything below the
//! tools: the library's protocol, and [`snowglobe::mcp`]'s HTTP with its checks.
#![expect(
    deprecated,
    reason = "the suite tests features of 2025-11-25 that 2026-07-28 removed"
)]

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::*;
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::content;

type Context = RequestContext<RoleServer>;

/// The server of one client; the handles lead to the state that all clients share.
#[derive(Clone)]
pub(crate) struct Fixture {
    changes: broadcast::Sender<Change>,
    states: Arc<RequestStateCodec>,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Tools,
    Prompts,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            changes: broadcast::channel(16).0,
            states: Arc::new(RequestStateCodec::new(rand::random::<[u8; 32]>())),
        }
    }

    /// Notifies the listeners; the suite has just opened one.
    async fn change(&self, change: Change) -> CallToolResult {
        let listened = async {
            while self.changes.send(change).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(1), listened).await {
            Ok(()) => said("the list has changed"),
            Err(_) => CallToolResult::error(vec![ContentBlock::text("no client listens")]),
        }
    }

    /// The answer of a tool that asks questions: the questions until all are answered, then a result.
    fn ask(&self, request: &CallToolRequestParams, context: &Context) -> Answer {
        let name = request
            .name
            .strip_prefix("test_input_required_result_")
            .unwrap_or_default();
        let responses = request.input_responses.clone().unwrap_or_default();
        let state = match &request.request_state {
            None => None,
            Some(sealed) => Some(self.states.open_json::<String>(sealed).map_err(|error| {
                ErrorData::invalid_params(format!("requestState is not ours: {error}"), None)
            })?),
        };
        let mut questions = content::questions(name, state.as_deref());
        if name == "capabilities" {
            let declared = context.client_capabilities().unwrap_or_default();
            questions.retain(|_, question| match question {
                InputRequest::Elicitation(_) => declared.elicitation.is_some(),
                InputRequest::CreateMessage(_) => declared.sampling.is_some(),
                _ => declared.roots.is_some(),
            });
        }
        let answered = questions
            .iter()
            .all(|(key, question)| answers(question, responses.get(key)));
        let next = match (name, state.as_deref(), answered) {
            ("multi_round", Some("2"), true) => None,
            ("multi_round", Some("1"), true) => {
                questions = content::questions(name, Some("2"));
                Some("2")
            }
            ("multi_round", known, _) => Some(known.unwrap_or("1")),
            ("request_state" | "multiple_inputs" | "tampered_state", known, true) => {
                known.is_none().then_some("1")
            }
            (_, _, true) => None,
            ("request_state" | "multiple_inputs" | "tampered_state", ..) => Some("1"),
            _ => Some(""),
        };
        let Some(next) = next else {
            return Ok(said(&format!("state-ok {}", json!(responses))).into());
        };
        let sealed = match next {
            "" => None,
            next => Some(self.states.seal_json(&next).map_err(broken)?),
        };
        Ok(InputRequiredResult::new(Some(questions), sealed).into())
    }
}

type Answer = Result<CallToolResponse, ErrorData>;

/// Whether a response has the shape that the question requires.
fn answers(question: &InputRequest, response: Option<&Value>) -> bool {
    let Some(response) = response.cloned() else {
        return false;
    };
    match question {
        InputRequest::Elicitation(_) => serde_json::from_value::<ElicitResult>(response)
            .is_ok_and(|it| it.action == ElicitationAction::Accept && it.content.is_some()),
        InputRequest::CreateMessage(_) => {
            serde_json::from_value::<CreateMessageResult>(response).is_ok()
        }
        _ => serde_json::from_value::<ListRootsResult>(response).is_ok(),
    }
}

fn broken(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

fn said(text: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// Converts fixed content to the library's types, so that the library serializes it.
fn typed<T: DeserializeOwned>(mut value: Value) -> T {
    if let Value::Object(map) = &mut value {
        map.entry("resultType").or_insert_with(|| "complete".into());
    }
    serde_json::from_value(value).expect("the content has the protocol's shape")
}

async fn logged(context: &Context) {
    for line in [
        "Tool execution started",
        "Tool processing data",
        "Tool execution completed",
    ] {
        let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(line));
        let _ = context.peer.notify_logging_message(message).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn progressing(context: &Context) {
    for progress in [0.0, 50.0, 100.0] {
        if let Some(token) = context.meta.get_progress_token() {
            let step = ProgressNotificationParam::new(token, progress).with_total(100.0);
            let _ = context.peer.notify_progress(step).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks the client while its call waits, as in 2025-11-25.
async fn elicit(context: &Context, message: &str, schema: Value, prefix: &str) -> Answer {
    let params = typed(json!({"mode": "form", "message": message, "requestedSchema": schema}));
    let done = context.peer.create_elicitation(params).await;
    let done = done.map_err(broken)?;
    let action = json!(done.action);
    let content = done.content.unwrap_or_default();
    Ok(said(&format!(
        "{prefix}: action={}, content={content}",
        action.as_str().unwrap_or_default()
    ))
    .into())
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_completions()
            .enable_logging()
            .build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("fixture", "1"))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(typed(json!({"tools": content::tools()})))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tool = content::tools()
            .into_iter()
            .find(|tool| tool["name"] == name)?;
        Some(serde_json::from_value(tool).expect("the content has the protocol's shape"))
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Answer {
        let name = request.name.as_ref();
        if let Some(result) = content::result(name) {
            return Ok(typed::<CallToolResult>(result).into());
        }
        let argument = |name: &str| {
            let value = request.arguments.as_ref().and_then(|map| map.get(name));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        match name {
            "test_tool_with_logging" => logged(&context).await,
            "test_logging_tool" if context.meta.log_level().is_some() => logged(&context).await,
            "test_logging_tool" => {}
            "test_tool_with_progress" => progressing(&context).await,
            "test_sampling" => {
                let messages = json!([{"role": "user", "content": {"type": "text", "text": argument("prompt")}}]);
                let params = typed(json!({"messages": messages, "maxTokens": 100}));
                let done = context.peer.create_message(params).await.map_err(broken)?;
                let text = done.message.content.first().and_then(|part| part.as_text());
                let text = text.map(|text| text.text.clone()).unwrap_or_default();
                return Ok(said(&format!("LLM response: {text}")).into());
            }
            "test_elicitation" => {
                let message = argument("message");
                let schema = content::person();
                return elicit(&context, &message, schema, "User response").await;
            }
            "test_elicitation_sep1034_defaults" => {
                let schema = content::defaults();
                return elicit(&context, "Please fill in", schema, "Elicitation completed").await;
            }
            "test_elicitation_sep1330_enums" => {
                let schema = content::enums();
                return elicit(&context, "Please choose", schema, "Elicitation completed").await;
            }
            "test_missing_capability" => {
                let declared = context.client_capabilities().unwrap_or_default();
                if declared.sampling.is_none() {
                    let needed = ClientCapabilities::builder().enable_sampling().build();
                    return Err(ErrorData::missing_required_client_capability(needed));
                }
            }
            "test_trigger_tool_change" => return Ok(self.change(Change::Tools).await.into()),
            "test_trigger_prompt_change" => return Ok(self.change(Change::Prompts).await.into()),
            "test_streaming_elicitation" => {
                let questions = content::questions("elicitation", None);
                return Ok(InputRequiredResult::from_input_requests(questions).into());
            }
            asking if asking.starts_with("test_input_required_result_") => {
                return self.ask(&request, &context);
            }
            _ if self.get_tool(name).is_some() => {}
            other => {
                return Err(ErrorData::invalid_params(
                    format!("unknown tool `{other}`"),
                    None,
                ));
            }
        }
        Ok(said("done").into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(typed(json!({"resources": content::resources()})))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(typed(json!({"resourceTemplates": content::templates()})))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        let Some(contents) = content::resource(&uri) else {
            let data = Some(json!({"uri": uri}));
            return Err(ErrorData::resource_not_found("Resource not found", data));
        };
        Ok(typed::<ReadResourceResult>(json!({"contents": [contents]})).into())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        let accepted = context.accepted();
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = context.cancelled() => return Ok(()),
            };
            let sent = match change {
                Ok(Change::Tools) if accepted.tools_list_changed == Some(true) => {
                    context.sink().notify_tool_list_changed().await
                }
                Ok(Change::Prompts) if accepted.prompts_list_changed == Some(true) => {
                    context.sink().notify_prompt_list_changed().await
                }
                _ => Ok(()),
            };
            sent.map_err(broken)?;
        }
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(typed(json!({"prompts": content::prompts()})))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == "test_input_required_result_prompt" {
            let responses = request.input_responses.unwrap_or_default();
            let questions = content::questions("prompt", None);
            let answered =
                |(key, question): (&String, &InputRequest)| answers(question, responses.get(key));
            if !questions.iter().all(answered) {
                return Ok(InputRequiredResult::from_input_requests(questions).into());
            }
        }
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        match content::messages(&request.name, &arguments) {
            Some(messages) => Ok(typed::<GetPromptResult>(json!({"messages": messages})).into()),
            None => Err(ErrorData::invalid_params("unknown prompt", None)),
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: Context,
    ) -> Result<CompleteResult, ErrorData> {
        let typed_so_far = request.argument.value;
        let mut values: Vec<String> = vec!["test".into(), "testing".into(), "paris".into()];
        values.retain(|value| value.starts_with(&typed_so_far));
        Ok(CompleteResult::new(
            CompletionInfo::new(values).map_err(broken)?,
        ))
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }
}
