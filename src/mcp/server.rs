//! The server of one client: what the client is told, and what its requests do.

mod shared;
mod tool_call;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult,
    CustomRequest, CustomResult, DiscoverResult, ErrorCode, GetPromptRequestParams,
    GetPromptResponse, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams,
    ReadResourceResponse, ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool,
    UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::shared::Shared;
use crate::config::Confirm;
use crate::mcp::call::Call;
use crate::mcp::confirm::Decision;
use crate::mcp::permission::Permission;
use crate::mcp::refusal::HANDLE;
use crate::mcp::refusal::Refusal;
use crate::mcp::resources::subscriptions::{self, Subscriptions};
use crate::mcp::selector::Selector;
use crate::mcp::{prompts, resources};
use crate::sandbox::Sandbox;
use crate::timeline;

/// How long a client may cache what never changes while the server runs, in milliseconds.
const STATIC_TTL_MS: u64 = 3_600_000;

/// How long a client may cache what changes, in milliseconds. Clients do cache it, and then show old content.
const LIVE_TTL_MS: u64 = 50;

/// Serves one client.
pub(crate) struct Server {
    shared: Arc<Shared>,
    selector: Arc<Selector>,
    subscriptions: Subscriptions,
    disconnected: CancellationToken,
    /// Whether a result of this session has said which part of the project's file is ignored.
    told_ignored: AtomicBool,
    /// Whether a result of this session has said which fences are missing, which is known after the first boot.
    told_missing_fences: AtomicBool,
    /// Up to where the results of this session have told of refusals.
    told: Mutex<Option<Told>>,
    /// The sandbox's ports that results of this session have told of, and which sandbox's.
    told_ports: Mutex<(String, BTreeSet<u16>)>,
    /// What a person is asked about refusals.
    permission: Permission,
    // Cancels running calls when the server is dropped, where no transport reports that the client has left.
    _disconnect: Option<DropGuard>,
}

impl Server {
    /// A server whose calls act on the sandbox that `selector` selects. `disconnected` fires when the client has left;
    /// none where the transport can't tell.
    pub(crate) fn new(
        shared: Arc<Shared>,
        selector: Selector,
        disconnected: Option<CancellationToken>,
    ) -> Self {
        let (disconnected, disconnect) = match disconnected {
            Some(disconnected) => (disconnected, None),
            None => {
                let disconnected = CancellationToken::new();
                (disconnected.clone(), Some(disconnected.drop_guard()))
            }
        };
        Self {
            shared,
            selector: Arc::new(selector),
            subscriptions: Subscriptions::default(),
            disconnected,
            told_ignored: AtomicBool::new(false),
            told_missing_fences: AtomicBool::new(false),
            told: Mutex::default(),
            told_ports: Mutex::default(),
            permission: Permission::default(),
            _disconnect: disconnect,
        }
    }
}

/// Up to where results have told of what a sandbox was refused.
#[derive(Debug, Clone)]
struct Told {
    sandbox: String,
    /// Connections.
    connections: u64,
    /// Changes of files; none: no call has changed any.
    changes: Option<u64>,
}

impl Told {
    /// Nothing was told yet.
    fn new(sandbox: &Sandbox) -> Self {
        Self {
            sandbox: sandbox.instance().id.to_string(),
            connections: sandbox.network().refusals_cursor(),
            changes: None,
        }
    }
}

/// Whether the client of a request has a session: those of protocol versions before 2026-07-28 do.
fn has_session(context: &RequestContext<RoleServer>) -> bool {
    context
        .protocol_version()
        .is_none_or(|version| version < ProtocolVersion::V_2026_07_28)
}

/// Refuses a cursor: every list is a single page, so the server never gives one.
fn refuse_cursor(request: Option<&PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor.as_ref()) {
        None => Ok(()),
        Some(cursor) => Err(ErrorData::invalid_params(
            format!(
                "the cursor {cursor:?} is not from this server: leave it out to get the whole list"
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
            .with_ttl_ms(STATIC_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        refuse_cursor(request.as_ref())?;
        Ok(ListToolsResult::with_all_items(self.shared.listings())
            .with_ttl_ms(STATIC_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn call_tool(
        &self,
        mut request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = self.shared.tool(&request.name)?;
        let measured = self.shared.metrics.call(tool.name());
        // A confirmation is bound to the request's arguments. Without one they are not copied: they may hold a large
        // file.
        let arguments = match self.shared.confirmation.mode(tool.reach()) {
            Confirm::Ask | Confirm::Require => request.arguments.clone(),
            Confirm::Never => request.arguments.take(),
        };
        let (arguments, notes) = match tool.check(arguments) {
            Ok(checked) => checked,
            Err(refusal) => {
                measured.end(true);
                return Ok(refusal.into_result().into());
            }
        };
        let call = Call::new(context.clone(), self.disconnected.clone());
        let client = call.client().to_owned();
        let decision = self.confirm(tool, &request, &arguments, &context, &call);
        let result = match timeline::acting(&client, decision).await {
            Ok(Decision::AskFirst(question)) => return Ok((*question).into()),
            Ok(Decision::Proceed) => {
                let called = self.call(tool, arguments, has_session(&context), call);
                timeline::acting(&client, called).await
            }
            Err(refusal) => Err(refusal),
        };
        let result = notes.append_to(result.unwrap_or_else(Refusal::into_result));
        measured.end(result.is_error == Some(true));
        Ok(result.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        refuse_cursor(request.as_ref())?;
        if has_session(&context) {
            self.subscriptions
                .watch_list(&self.selector, context.peer)
                .await;
        }
        let listed = resources::list(self.selector.peek(None), None).await;
        Ok(ListResourcesResult::with_all_items(listed)
            .with_ttl_ms(LIVE_TTL_MS)
            .with_cache_scope(CacheScope::Private))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        refuse_cursor(request.as_ref())?;
        let templates = resources::templates(self.selector.has_fleet());
        Ok(ListResourceTemplatesResult::with_all_items(templates)
            .with_ttl_ms(STATIC_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let session = has_session(&context);
        let call = Call::new(context, self.disconnected.clone());
        let read = resources::read(&self.selector, &request.uri, session, &call).await;
        let read = read.map_err(|error| error.into_protocol_error(&request.uri))?;
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
        self.subscriptions
            .subscribe(&request.uri, &self.selector, context.peer)
            .await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscriptions.unsubscribe(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(subscriptions::accepted_filter(&self.selector, requested))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        tokio::select! {
            () = subscriptions::listen(&self.selector, &context) => {}
            () = context.cancelled() => {}
            () = self.disconnected.cancelled() => {}
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
        let completion = resources::complete::complete(self.selector.peek(named), &request).await?;
        Ok(CompleteResult::new(completion))
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        refuse_cursor(request.as_ref())?;
        Ok(ListPromptsResult::with_all_items(prompts::list())
            .with_ttl_ms(STATIC_TTL_MS)
            .with_cache_scope(CacheScope::Public))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let config = self.selector.config();
        let facts = self.selector.facts();
        let prompt = prompts::get(&request, config, facts, self.selector.peek(None)).await?;
        Ok(prompt.into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tool = self.shared.tool(name).ok()?;
        Some(tool.listing.clone())
    }

    /// The library sends a `tools/call` with parameters of the wrong shape here; the method does exist.
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
