//! One server: its connection, which is made anew when it was lost, and its tools.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{PaginatedRequestParams, Tool};
use rmcp::service::ServiceError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::event::{Event, Reports, SandboxState};
use super::client::Client;
use super::connect::{Connection, Target};
use crate::text::{middle_cut, size};

/// The most of an error, in bytes: it may quote what a server sent.
const WHY: usize = 1000;

/// How long a list of tools may take.
const LISTING: Duration = Duration::from_secs(30);

/// The most tools of a server.
const MOST: usize = 500;

/// The most of a tool's schema, in bytes.
const SCHEMA: usize = 100_000;

/// How long a server is left alone after it was connected, if that failed or did not last. A call that needs it does not
/// wait.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// A server.
pub(super) struct Server {
    /// Its name; empty for Snowglobe's own.
    pub(super) name: String,
    target: Target,
    reports: Reports,
    /// Locked while it is being connected.
    state: tokio::sync::Mutex<State>,
    /// What a person was told of it last.
    told: Mutex<String>,
    closed: CancellationToken,
}

#[derive(Default)]
struct State {
    /// The connection, or why there is none.
    connection: Option<Result<Arc<Connection>, String>>,
    tried: Option<Instant>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.name).finish()
    }
}

impl Server {
    /// A server, which is being connected.
    pub(super) fn begin(name: String, target: Target, reports: Reports) -> Arc<Self> {
        let server = Arc::new(Self {
            name,
            target,
            reports,
            state: Default::default(),
            told: Mutex::default(),
            closed: CancellationToken::new(),
        });
        let connecting = server.clone();
        tokio::spawn(async move { connecting.connected(false).await.map(drop) });
        server
    }

    /// Whether it is Snowglobe's own.
    pub(super) fn is_own(&self) -> bool {
        self.name.is_empty()
    }

    /// Its name for people.
    pub(super) fn shown(&self) -> &str {
        match self.is_own() {
            true => "snowglobe",
            false => &self.name,
        }
    }

    /// Says what the sandbox is doing, if this is its server.
    pub(super) fn sandbox(&self, state: SandboxState) {
        if self.is_own() {
            self.reports.send(Event::Sandbox(state)).ok();
        }
    }

    /// The connection, made anew if it was lost. The error is a fragment that reads well after "failed to". With `needed`, a
    /// server that failed a moment ago is tried again; Snowglobe's own always is.
    pub(super) async fn connected(&self, needed: bool) -> Result<Arc<Connection>, String> {
        let mut state = self.state.lock().await;
        match &state.connection {
            Some(Ok(connection)) if connection.is_live() => return Ok(connection.clone()),
            Some(Ok(connection)) => {
                let lost = connection.clone();
                let why = format!("use the server {}: {}", self.shown(), lost.end());
                state.connection = Some(Err(why));
                tokio::spawn(async move { lost.close().await });
            }
            _ => {}
        }
        let left_alone = state.tried.is_some_and(|at| at.elapsed() < LEFT_ALONE);
        if let Some(Err(why)) = &state.connection
            && left_alone
            && !(needed || self.is_own())
        {
            self.failed(why);
            return Err(why.clone());
        }
        state.tried = Some(Instant::now());
        self.sandbox(SandboxState::Connecting);
        let client = Client::new(self.shown(), self.reports.clone());
        let connected = tokio::select! {
            biased;
            () = self.closed.cancelled() => Err("reach the server: it was closed".to_owned()),
            connected = self.target.connect(client) => connected,
        };
        let connected = connected.map_err(|why| middle_cut(&why, WHY).into_owned());
        if let Err(why) = &connected {
            self.failed(why);
            self.sandbox(SandboxState::Lost(why.clone()));
        }
        let connected = connected.map(Arc::new);
        state.connection = Some(connected.clone());
        connected
    }

    /// The connection if there is one now.
    pub(super) fn present(&self) -> Option<Arc<Connection>> {
        let state = self.state.try_lock().ok()?;
        let connection = state.connection.as_ref()?.as_ref().ok()?;
        connection.is_live().then(|| connection.clone())
    }

    /// Tells a person of a failure, once.
    fn failed(&self, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != why && !self.closed.is_cancelled() {
            why.clone_into(&mut told);
            self.notice(format!("failed to {why}"));
        }
    }

    fn notice(&self, notice: String) {
        self.reports.send(Event::Notice(notice)).ok();
    }

    /// Its tools; none if it can't be reached.
    pub(super) async fn tools(&self) -> Arc<Vec<Tool>> {
        let Ok(connection) = self.connected(false).await else {
            return Arc::default();
        };
        let mut tools = connection.tools.lock().await;
        if connection.client.stale.swap(false, Ordering::Relaxed) {
            let listed = tokio::time::timeout(LISTING, all_tools(&connection)).await;
            match listed.unwrap_or(Err(ServiceError::Timeout { timeout: LISTING })) {
                Ok(mut listed) => {
                    listed.retain(|tool| self.fits(tool));
                    *tools = Arc::new(listed);
                }
                Err(error) => {
                    connection.client.stale.store(true, Ordering::Relaxed);
                    let why = middle_cut(&crate::describe(&error), WHY).into_owned();
                    self.failed(&format!("list the tools of {}: {why}", self.shown()));
                }
            }
        }
        tools.clone()
    }

    /// Whether a tool leaves room for others.
    fn fits(&self, tool: &Tool) -> bool {
        let bytes = serde_json::to_string(&tool.input_schema).map_or(0, |schema| schema.len());
        if bytes > SCHEMA {
            let name: String = tool.name.chars().take(100).collect();
            self.notice(format!(
                "the tool {name:?} of {} is left out: its schema has {}, a tool's may have {}",
                self.shown(),
                size(bytes as u64),
                size(SCHEMA as u64)
            ));
        }
        bytes <= SCHEMA
    }

    /// Ends the connection for good.
    pub(super) async fn close(&self) {
        self.closed.cancel();
        if let Some(Ok(connection)) = &self.state.lock().await.connection {
            connection.close().await;
        }
    }
}

/// Every tool. A server may have pages without end.
async fn all_tools(connection: &Connection) -> Result<Vec<Tool>, ServiceError> {
    let info = connection.info();
    let mut more = info.is_some_and(|info| info.capabilities.tools.is_some());
    let (mut tools, mut cursor) = (Vec::new(), None);
    while more && tools.len() < MOST {
        let page = PaginatedRequestParams::default().with_cursor(cursor);
        let page = connection.peer.list_tools(Some(page)).await?;
        tools.extend(page.tools);
        cursor = page.next_cursor;
        more = cursor.is_some();
    }
    tools.truncate(MOST);
    Ok(tools)
}
