//! What a client is told about the server, and which tool a call goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams,
    CompleteResult, CustomRequest, CustomResult, DiscoverResult, ErrorCode, GetPromptRequestParams,
    GetPromptResponse, Implementation, JsonObject, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
    ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig,
    SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Config;
use crate::mcp::call::{Call, Notes, Refusal, noted};
use crate::mcp::confirm::{Asked, Asker};
use crate::mcp::icons;
use crate::mcp::metrics::Metrics;
use crate::mcp::prompts;
use crate::mcp::resources;
use crate::mcp::resources::subscriptions::{self, Watches};
use crate::mcp::sandboxes::{Desk, HANDLE};
use crate::mcp::tools::arguments::{self, nearest};
use crate::mcp::tools::edit;
use crate::mcp::tools::exec;
use crate::mcp::tools::job;
use crate::mcp::tools::read;
use crate::mcp::tools::reboot;
use crate::mcp::tools::schema;
use crate::mcp::tools::search;
use crate::mcp::tools::snapshot;
use crate::mcp::tools::write;
use crate::sandbox::weaker_fences;

/// For how long a client may keep what stays as long as the server runs, in milliseconds.
const FIXED_TTL_MS: u64 = 3_600_000;

/// For how long a client may keep what changes, in milliseconds: clients do keep it, and then show what was.
const LIVE_TTL_MS: u64 = 50;

/// What every model reads first. Clients cut this at 2 KB: the important comes first.
pub(crate) const INSTRUCTIONS: &str = "\
Snowglobe is a computer of your own: a private Linux microVM. Whatever you do with these tools happens inside \
it and cannot harm the user's machine, with one exception: /workspace is the user's project directory itself, \
shared with the host. Treat the files there as the user's; everything outside /workspace is yours to break and \
disposable.

- `exec` runs shell lines, as the ordinary user `sandbox` unless you pass user `root`. Each call is a new shell: \
use `cwd` and `env` instead of relying on an earlier `cd` or `export`. A command that fails is a normal result: \
look at its exit code and stderr. Pass `timeout_s` for what takes longer than the default.
- `exec` with `background` starts a job: a server, a long build. `job` lists jobs, gives their output, waits for \
them, kills them, sends them input. A call that takes long may become a job by itself and says so.
- `read`, `write`, `edit` and `search` handle files without shell quoting. Relative paths start at /workspace.
- `snapshot` saves and restores the whole system disk. Save one before a risky step, restore it when the system \
is broken. Files in /workspace are not part of snapshots.
- `reboot` gives a clean system in seconds: installed packages, files outside /workspace and running processes \
are gone; /workspace and saved snapshots stay. It is the way out when nothing else works.
- There is no network: do not try to download or to install from package registries; use what is installed.

Long output is shortened to its head and tail; the result names a file in the VM with all of it, to be searched \
with `exec` (grep, sed -n) or paged with `read`. The VM boots by itself with the first call that needs it.";

/// What every client's server has in common: made once.
pub(crate) struct Shared {
    tools: Vec<Tool>,
    /// The same, as they are listed.
    listed: Vec<Tool>,
    info: ServerConfig,
    asker: Asker,
    pub(crate) metrics: Arc<Metrics>,
}

impl Shared {
    /// `many`: whether calls may name a sandbox.
    pub(crate) fn new(config: &Config, many: bool) -> Arc<Self> {
        let mut tools = tools(config.sandbox.exec_timeout);
        if many {
            tools = tools.into_iter().map(for_many).collect();
        }
        let mut listed = tools.clone();
        for tool in &mut listed {
            tool.input_schema = Arc::new(schema::shown((*tool.input_schema).clone()));
        }
        Arc::new(Self {
            tools,
            listed,
            info: info(),
            asker: Asker::new(config.calls.confirm),
            metrics: Arc::new(Metrics::new()),
        })
    }
}

/// Serves one client.
pub(crate) struct Server {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    watches: Watches,
    closed: CancellationToken,
    /// Whether a result has told the client what it should know from the start.
    told: AtomicBool,
    /// Whether a result has told the client which fences do not hold, which is known from the first boot on.
    told_lacks: AtomicBool,
    // Where nothing else says that the client has left, its server goes with it.
    _left: Option<DropGuard>,
}

impl Server {
    /// Calls act on what `desk` says; `closed` fires when the client has left, if anything can tell.
    pub(crate) fn new(shared: Arc<Shared>, desk: Desk, closed: Option<CancellationToken>) -> Self {
        let (closed, left) = match closed {
            Some(closed) => (closed, None),
            None => {
                let closed = CancellationToken::new();
                (closed.clone(), Some(closed.drop_guard()))
            }
        };
        Self {
            shared,
            desk: Arc::new(desk),
            watches: Watches::default(),
            closed,
            told: AtomicBool::new(false),
            told_lacks: AtomicBool::new(false),
            _left: left,
        }
    }

    async fn call(
        &self,
        tool: &Tool,
        mut arguments: Option<JsonObject>,
        session: bool,
        call: Call,
    ) -> Result<CallToolResult, Refusal> {
        let handle = self.handle(&mut arguments)?;
        let lease = self.desk.lease(handle.as_deref(), session)?;
        let call = call.within(lease.address().map(str::to_owned));
        let sandbox = Arc::clone(&lease.sandbox);
        let timeout = self.desk.config().sandbox.exec_timeout;
        let done = match tool.name.as_ref() {
            exec::NAME => exec::call(tool, arguments, sandbox, timeout, &call).await,
            job::NAME => job::call(tool, arguments, sandbox, &call).await,
            read::NAME => read::call(tool, arguments, sandbox, &call).await,
            write::NAME => write::call(tool, arguments, sandbox, &call).await,
            edit::NAME => edit::call(tool, arguments, sandbox, &call).await,
            search::NAME => search::call(tool, arguments, sandbox, &call).await,
            snapshot::NAME => snapshot::call(tool, arguments, sandbox, &call).await,
            reboot::NAME => reboot::call(tool, arguments, sandbox, &call).await,
            other => Err(Refusal::new(format!("`{other}` is listed but missing"))),
        };
        let mut notes = Notes::default();
        if let Some(loss) = lease.loss() {
            notes.add(loss);
        }
        // A client without a session has a first result in each sandbox.
        let first = match self.desk.has_many() && !session {
            true => lease.news().is_some(),
            false => !self.told.swap(true, Ordering::Relaxed),
        };
        if let Some(ignored) = self.desk.config().ignored.as_ref().filter(|_| first) {
            notes.add(ignored.to_string());
        }
        let lacks = lease.sandbox.lacks();
        let tells = match self.desk.has_many() && !session {
            true => first,
            false => !lacks.is_empty() && !self.told_lacks.swap(true, Ordering::Relaxed),
        };
        if tells && !lacks.is_empty() {
            notes.add(weaker_fences(&lacks));
        }
        let done = noted(done.unwrap_or_else(Refusal::into_result), notes);
        Ok(match lease.news() {
            Some(handle) => tell(done, handle),
            None => done,
        })
    }

    /// Has a person confirm what can't be undone, where that is configured.
    async fn confirmed(
        &self,
        request: &CallToolRequestParams,
        arguments: &JsonObject,
        context: &RequestContext<RoleServer>,
        call: &Call,
    ) -> Result<Asked, Refusal> {
        if !self.shared.asker.asks() {
            return Ok(Asked::Yes);
        }
        let question = match request.name.as_ref() {
            snapshot::NAME => snapshot::question(arguments)?,
            reboot::NAME => Some(reboot::QUESTION.to_owned()),
            _ => None,
        };
        match question {
            Some(question) => {
                self.shared
                    .asker
                    .ask(&question, request, context, call)
                    .await
            }
            None => Ok(Asked::Yes),
        }
    }

    /// Takes the sandbox's handle out of the arguments, where there may be one.
    fn handle(&self, arguments: &mut Option<JsonObject>) -> Result<Option<String>, Refusal> {
        if !self.desk.has_many() {
            return Ok(None);
        }
        match arguments.as_mut().and_then(|map| map.remove(HANDLE)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(handle)) if handle.is_empty() => Ok(None),
            Some(Value::String(handle)) => Ok(Some(handle)),
            Some(_) => Err(Refusal::new(format!(
                "`{HANDLE}` must be a string, as an earlier result gave it"
            ))),
        }
    }
}

/// The tool as it is where there are several sandboxes.
fn for_many(mut tool: Tool) -> Tool {
    let says = |schema: &mut Arc<JsonObject>, text: &str| {
        let schema = Arc::make_mut(schema);
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            let property = json!({"type": "string", "description": text});
            properties.insert(HANDLE.to_owned(), property);
        }
    };
    says(
        &mut tool.input_schema,
        "Handle of the sandbox to use, from an earlier result; without one a client with a session has its own, \
         any other gets a new one",
    );
    if let Some(output) = &mut tool.output_schema {
        says(output, "Handle of the new sandbox, for the next calls");
    }
    tool
}

/// Names the new sandbox in both forms of a result.
fn tell(mut done: CallToolResult, handle: &str) -> CallToolResult {
    if let Some(Value::Object(structured)) = &mut done.structured_content {
        structured.insert(HANDLE.to_owned(), handle.into());
    }
    let mut notes = Notes::default();
    notes.add(format!(
        "new sandbox; pass `{HANDLE}`: \"{handle}\" in every further call, or you get another one"
    ));
    noted(done, notes)
}

/// Every tool, as clients list them.
pub(crate) fn tools(exec_timeout: Duration) -> Vec<Tool> {
    vec![
        exec::tool(exec_timeout),
        job::tool(),
        read::tool(),
        write::tool(),
        edit::tool(),
        search::tool(),
        snapshot::tool(),
        reboot::tool(),
    ]
    .into_iter()
    .map(|tool| {
        let icons = icons::tool(&tool.name);
        tool.with_icons(icons)
    })
    .collect()
}

/// What the server says of itself.
fn info() -> ServerConfig {
    let server = Implementation::new("snowglobe", env!("CARGO_PKG_VERSION"))
        .with_title("Snowglobe")
        .with_description(env!("CARGO_PKG_DESCRIPTION"))
        .with_icons(icons::server());
    let capabilities = ServerCapabilities::builder()
        .enable_tools()
        .enable_resources()
        .enable_resources_subscribe()
        .enable_resources_list_changed()
        .enable_prompts()
        .enable_completions()
        .build();
    ServerConfig::new(capabilities)
        .with_server_info(server)
        .with_instructions(INSTRUCTIONS)
}

/// Whether the client of a request has a session: the eras before 2026-07-28 do.
fn has_session(context: &RequestContext<RoleServer>) -> bool {
    context
        .protocol_version()
        .is_none_or(|version| version < ProtocolVersion::V_2026_07_28)
}

/// Everything comes on one page, so nobody was ever given a cursor.
fn no_cursor(request: Option<&PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor.as_ref()) {
        None => Ok(()),
        Some(cursor) => Err(ErrorData::invalid_params(
            format!(
                "the cursor {cursor:?} is none of this server's: leave it out to get everything"
            ),
            None,
        )),
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        self.shared.info.clone()
    }

    async fn discover(
        &self,
        _context: RequestContext<RoleServer>,
    ) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.get_info())
            .with_ttl_ms(FIXED_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        no_cursor(request.as_ref())?;
        Ok(ListToolsResult::with_all_items(self.shared.listed.clone())
            .with_ttl_ms(FIXED_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn call_tool(
        &self,
        mut request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tools = &self.shared.tools;
        let Some(tool) = tools.iter().find(|tool| tool.name == request.name) else {
            return Err(unknown_tool(&request.name, tools));
        };
        let measured = self.shared.metrics.call(&tool.name);
        let session = has_session(&context);
        // A question is bound to the very call. Without one, a large file is not copied.
        let arguments = match self.shared.asker.asks() {
            true => request.arguments.clone(),
            false => request.arguments.take(),
        };
        let (arguments, notes) = match arguments::check(tool, arguments) {
            Ok(checked) => checked,
            Err(refusal) => {
                measured.ended(true);
                return Ok(refusal.into_result().into());
            }
        };
        let call = Call::new(context.clone(), self.closed.clone());
        let confirmed = self.confirmed(&request, &arguments, &context, &call).await;
        let done = match confirmed {
            Ok(Asked::First(first)) => return Ok((*first).into()),
            Ok(Asked::Yes) => self.call(tool, Some(arguments), session, call).await,
            Err(refusal) => Err(refusal),
        };
        let done = noted(done.unwrap_or_else(Refusal::into_result), notes);
        measured.ended(done.is_error == Some(true));
        Ok(done.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        no_cursor(request.as_ref())?;
        if has_session(&context) {
            self.watches.watch_list(&self.desk, context.peer).await;
        }
        let listed = resources::list(self.desk.seen(None), None).await;
        Ok(ListResourcesResult::with_all_items(listed)
            .with_ttl_ms(LIVE_TTL_MS)
            .with_cache_scope(CacheScope::Private))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        no_cursor(request.as_ref())?;
        let templates = resources::templates(self.desk.has_many());
        Ok(ListResourceTemplatesResult::with_all_items(templates)
            .with_ttl_ms(FIXED_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let session = has_session(&context);
        let call = Call::new(context, self.closed.clone());
        let read = resources::read(&self.desk, &request.uri, session, &call).await;
        let read = read.map_err(|unread| unread.into_error(&request.uri))?;
        Ok(read
            .with_ttl_ms(LIVE_TTL_MS)
            .with_cache_scope(CacheScope::Private)
            .into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.watches
            .subscribe(&request.uri, &self.desk, context.peer)
            .await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.watches.unsubscribe(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(subscriptions::accepted(&self.desk, requested))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        tokio::select! {
            () = subscriptions::listen(&self.desk, &context) => {}
            () = context.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
        Ok(())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let given = request
            .context
            .as_ref()
            .and_then(|context| context.arguments.as_ref());
        let named = given
            .and_then(|given| given.get(HANDLE))
            .map(String::as_str);
        let completion = resources::complete(self.desk.seen(named), &request).await?;
        Ok(CompleteResult::new(completion))
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        no_cursor(request.as_ref())?;
        Ok(ListPromptsResult::with_all_items(prompts::list())
            .with_ttl_ms(FIXED_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let config = self.desk.config();
        let got = prompts::get(&request, config, self.desk.seen(None)).await?;
        Ok(got.into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let mut tools = self.shared.tools.iter();
        tools.find(|tool| tool.name == name).cloned()
    }

    /// A `tools/call` comes here when its parameters have the wrong shape; "method not found" would be a lie.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        if request.method == "tools/call" {
            return Err(ErrorData::invalid_params(
                "the parameters of tools/call are `name`, a string, and `arguments`, an object",
                None,
            ));
        }
        Err(ErrorData::new(
            ErrorCode::METHOD_NOT_FOUND,
            request.method,
            None,
        ))
    }
}

fn unknown_tool(name: &str, tools: &[Tool]) -> ErrorData {
    let known = tools.iter().map(|tool| tool.name.as_ref());
    let hint = nearest(name, known.clone())
        .map(|nearest| format!("did you mean `{nearest}`? "))
        .unwrap_or_default();
    let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
    ErrorData::invalid_params(
        format!(
            "unknown tool `{name}`: {hint}the tools are {}",
            known.join(", ")
        ),
        None,
    )
}
