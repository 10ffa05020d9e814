//! What a client is told about the server, and which tool a call goes to.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CustomRequest,
    CustomResult, ErrorCode, Implementation, JsonObject, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::args::nearest;
use super::call::{Call, Refusal};
use super::desk::{Desk, HANDLE};
use super::{edit, exec, job, read, reboot, search, snapshot, write};

/// What every model reads first. Clients cut this at 2 KB: the important comes first.
pub(super) const INSTRUCTIONS: &str = "\
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

/// Serves one client.
pub(super) struct Server {
    desk: Desk,
    closed: CancellationToken,
    // Where nothing else says that the client has left, its server goes with it.
    _left: Option<DropGuard>,
    tools: Vec<Tool>,
}

impl Server {
    /// Calls act on what `desk` says; `closed` fires when the client has left, if anything can tell.
    pub(super) fn new(desk: Desk, closed: Option<CancellationToken>) -> Self {
        let (closed, left) = match closed {
            Some(closed) => (closed, None),
            None => {
                let closed = CancellationToken::new();
                (closed.clone(), Some(closed.drop_guard()))
            }
        };
        let mut tools = tools(desk.config().exec_timeout);
        if desk.has_many() {
            tools = tools.into_iter().map(for_many).collect();
        }
        Self {
            desk,
            closed,
            _left: left,
            tools,
        }
    }

    async fn call(
        &self,
        tool: &Tool,
        request: CallToolRequestParams,
        session: bool,
        call: Call,
    ) -> Result<CallToolResult, Refusal> {
        let mut arguments = request.arguments;
        let handle = self.handle(&mut arguments)?;
        let lease = self.desk.lease(handle.as_deref(), session)?;
        let sandbox = Arc::clone(&lease.sandbox);
        let timeout = self.desk.config().exec_timeout;
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
        let mut done = done.unwrap_or_else(Refusal::into_result);
        if let Some(handle) = lease.news() {
            tell(&mut done, handle);
        }
        Ok(done)
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
fn tell(done: &mut CallToolResult, handle: &str) {
    done.content.push(ContentBlock::text(format!(
        "[new sandbox; pass `{HANDLE}`: \"{handle}\" in every further call, or you get another one]"
    )));
    if let Some(Value::Object(structured)) = &mut done.structured_content {
        structured.insert(HANDLE.to_owned(), handle.into());
    }
}

/// Every tool, as clients list them.
pub(super) fn tools(exec_timeout: Duration) -> Vec<Tool> {
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
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let server = Implementation::new("snowglobe", env!("CARGO_PKG_VERSION"))
            .with_title("Snowglobe")
            .with_description(env!("CARGO_PKG_DESCRIPTION"));
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(server)
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.tools.iter().find(|tool| tool.name == request.name) else {
            return Err(unknown_tool(&request.name, &self.tools));
        };
        let session = context
            .protocol_version()
            .is_none_or(|version| version < ProtocolVersion::V_2026_07_28);
        let call = Call::new(context, self.closed.clone());
        let done = self.call(tool, request, session, call).await;
        Ok(done.unwrap_or_else(Refusal::into_result).into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
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
