//! Connections to servers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::{ProtocolVersion, ServerPeerInfo, SubscriptionFilter, Tool};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt, Peer, RoleClient, RunningService,
    serve_client_with_lifecycle_and_ct,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use super::super::event::{Event, Reports, SandboxState};
use super::client::Client;
use super::program::{Running, log_path};
use super::settings::Named;
use crate::config::{Config, Raw};
use crate::control::MachineStatus;
use crate::progress::Progress;
use crate::{client, web};

/// How long a server may take to answer for the first time.
const ANSWER: Duration = Duration::from_secs(30);

/// How long starting the sandbox's process may take beside the machine's boot.
const STARTING: Duration = Duration::from_secs(60);

/// How long the end of a connection may take.
const CLOSING: Duration = Duration::from_secs(2);

/// The longest message of a server, in bytes.
const MESSAGE: usize = 16 << 20;

/// How Snowglobe's own server is reached: the sandbox of this project, which is started unless it runs, or an address.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// The configuration.
    pub(crate) config: Config,
    /// The flags that it comes from.
    pub(crate) flags: Raw,
    /// The address.
    pub(crate) url: Option<String>,
    /// The token for it.
    pub(crate) token: Option<String>,
}

/// How to reach a server.
pub(super) enum Target {
    /// The sandbox of this project.
    Project(Box<Own>),
    /// A program or an address, and the directory of the programs' logs.
    Named(Box<Named>, PathBuf),
    /// A test's.
    #[cfg(test)]
    Test(Box<dyn Fn() -> tokio::io::DuplexStream + Send + Sync>),
}

impl Target {
    /// Snowglobe's own.
    pub(super) fn of_own(own: Own) -> Self {
        if own.url.is_none() {
            return Self::Project(Box::new(own));
        }
        let header = |token| ("Authorization".to_owned(), format!("Bearer {token}"));
        let named = Named {
            url: own.url,
            headers: own.token.map(header).into_iter().collect(),
            ..Named::default()
        };
        Self::Named(Box::new(named), PathBuf::new())
    }

    /// Connects. The error is a fragment that reads well after "failed to".
    pub(super) async fn connect(&self, client: Client) -> Result<Connection, String> {
        let limit = match self {
            Self::Project(own) => own.config.host.boot_timeout + STARTING,
            _ => ANSWER,
        };
        let connected = tokio::time::timeout(limit, self.link(&client)).await;
        let silent = || format!("it did not answer within {} s", limit.as_secs());
        let connected = connected.unwrap_or_else(|_| Err(silent()));
        connected.map_err(|why| format!("connect to the server {}: {why}", client.server))
    }

    async fn link(&self, client: &Client) -> Result<Connection, String> {
        let older = ClientLifecycleMode::Initialize;
        let modern = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::LATEST],
            legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
        };
        match self {
            Self::Project(own) => loop {
                let joined = join(own, &client.reports).await;
                let (stream, is_over) = joined.map_err(|error| crate::describe(&error))?;
                let parts = tokio::io::split(stream);
                match Connection::over(parts, client, None, modern.clone()).await {
                    // It was being stopped.
                    Err(_) if is_over.await => {}
                    connected => return connected,
                }
            },
            // Without a session, each call over HTTP would have to name its sandbox.
            Self::Named(named, logs) if named.name.is_empty() => {
                let connection = of_named(named, logs, client, older).await?;
                client.reports.send(Event::Sandbox(SandboxState::Off)).ok();
                Ok(connection)
            }
            Self::Named(named, logs) => match of_named(named, logs, client, modern).await {
                // Servers that know only an older protocol should say so, but some end instead.
                Err(_) => of_named(named, logs, client, older).await,
                connected => connected,
            },
            #[cfg(test)]
            Self::Test(make) => {
                Connection::over(tokio::io::split(make()), client, None, modern).await
            }
        }
    }
}

/// A stream to the project's sandbox, which is started unless it runs, and whether that sandbox is over, once that is asked.
async fn join(
    own: &Own,
    reports: &Reports,
) -> Result<(UnixStream, impl Future<Output = bool> + use<>), client::ClientError> {
    let none = Progress::none();
    let (running, started) = client::start_or_join(&own.config, &own.flags, &none).await?;
    if !started {
        for differs in client::check(&own.config, &running)? {
            let notice = client::outdated(&differs);
            reports.send(Event::Notice(notice)).ok();
        }
    }
    let stream = client::connect(&running.mcp_socket()).await?;
    reports.send(Event::Sandbox(SandboxState::Off)).ok();
    if !started {
        // Only a client that joins can meet a machine. The answer waits for the guest, and nothing waits for the answer.
        // That must not keep the front end waiting for the loop's end, either.
        let (running, reports) = (running.clone(), reports.downgrade());
        tokio::spawn(async move {
            if let Ok(status) = client::status(&running).await
                && matches!(status.machine, MachineStatus::Running { .. })
                && let Some(reports) = reports.upgrade()
            {
                reports.send(Event::Sandbox(SandboxState::Running)).ok();
            }
        });
    }
    Ok((stream, async move { client::is_over(&running).await }))
}

async fn of_named(
    named: &Named,
    logs: &std::path::Path,
    client: &Client,
    lifecycle: ClientLifecycleMode,
) -> Result<Connection, String> {
    if let Some(url) = &named.url {
        return over_http(named, url, client, lifecycle).await;
    }
    let started = Running::start(named, &log_path(logs, &named.name));
    let (running, out, to) = started.map_err(|error| {
        let command = named.command.as_deref().unwrap_or_default();
        format!("{command} can't be started: {error}")
    })?;
    Connection::over((out, to), client, Some(running), lifecycle).await
}

async fn over_http(
    named: &Named,
    url: &str,
    client: &Client,
    lifecycle: ClientLifecycleMode,
) -> Result<Connection, String> {
    let mut headers = HashMap::new();
    for (name, value) in &named.headers {
        let (Ok(key), Ok(mut value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        else {
            return Err(format!("the header {name:?} can't be sent"));
        };
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    let config = StreamableHttpClientTransportConfig::with_uri(url)
        .custom_headers(headers)
        .max_sse_event_size(MESSAGE)
        .max_json_response_size(MESSAGE)
        .reinit_on_expired_session(true);
    let reqwest = web::client()
        .connect_timeout(ANSWER)
        // A redirect would carry the token elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| crate::describe(&error))?;
    let transport = StreamableHttpClientTransport::with_client(reqwest, config);
    match client
        .clone()
        .serve_with_lifecycle(transport, lifecycle)
        .await
    {
        Ok(service) => Ok(Connection::of(service, client, None, Broken::default())),
        Err(error) => Err(format!("{url}: {}", crate::describe(&error))),
    }
}

/// A server that answers.
#[derive(Debug)]
pub(super) struct Connection {
    /// Sends requests to it.
    pub(super) peer: Peer<RoleClient>,
    /// Answers its questions.
    pub(super) client: Client,
    /// Its tools as they were listed last.
    pub(super) tools: tokio::sync::Mutex<Arc<Vec<Tool>>>,
    service: tokio::sync::Mutex<Option<RunningService<RoleClient, Client>>>,
    program: Mutex<Option<Running>>,
    broken: Broken,
}

/// Why this program ended a connection.
type Broken = Arc<OnceLock<String>>;

impl Connection {
    async fn over<R, W>(
        (from, to): (R, W),
        client: &Client,
        program: Option<Running>,
        lifecycle: ClientLifecycleMode,
    ) -> Result<Self, String>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (broken, over) = (Broken::default(), CancellationToken::new());
        let from = bounded(from, broken.clone(), over.clone());
        let handler = client.clone();
        match serve_client_with_lifecycle_and_ct(handler, (from, to), lifecycle, over).await {
            Ok(service) => Ok(Self::of(service, client, program, broken)),
            Err(error) => {
                let why = why(&broken, &crate::describe(&error), program.as_ref());
                if let Some(program) = program {
                    program.end().await;
                }
                Err(why)
            }
        }
    }

    fn of(
        service: RunningService<RoleClient, Client>,
        client: &Client,
        program: Option<Running>,
        broken: Broken,
    ) -> Self {
        let peer = service.peer().clone();
        tokio::spawn(watch_tools(peer.clone(), client.stale.clone()));
        Self {
            peer,
            client: client.clone(),
            tools: Default::default(),
            service: Some(service).into(),
            program: program.into(),
            broken,
        }
    }

    /// Whether the server can still answer.
    pub(super) fn is_live(&self) -> bool {
        !self.peer.is_transport_closed()
    }

    /// What the server says of itself.
    pub(super) fn info(&self) -> Option<Arc<ServerPeerInfo>> {
        self.peer.peer_info()
    }

    fn program(&self) -> MutexGuard<'_, Option<Running>> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection ended, as far as it is known.
    pub(super) fn end(&self) -> String {
        let program = self.program();
        why(&self.broken, "the connection was closed", program.as_ref())
    }

    /// Ends the connection, and the server if it is a program of this one.
    pub(super) async fn close(&self) {
        if let Some(mut service) = self.service.lock().await.take() {
            drop(service.close_with_timeout(CLOSING).await);
        }
        let program = self.program().take();
        if let Some(program) = program {
            program.end().await;
        }
    }
}

/// Why a connection ended, with the program's last words if those may tell more.
fn why(broken: &Broken, ended: &str, program: Option<&Running>) -> String {
    let said = program.map(Running::said).unwrap_or_default();
    match (broken.get(), said.is_empty()) {
        (Some(why), _) => why.clone(),
        (None, true) => ended.to_owned(),
        (None, false) => format!("{ended}; it said: {said}"),
    }
}

/// Notes changes of the tools: a server of the newest protocol reports them only to those who listen.
async fn watch_tools(peer: Peer<RoleClient>, stale: Arc<AtomicBool>) {
    let older = |info: &ServerPeerInfo| info.protocol_version.has_initialize();
    if peer.peer_info().is_none_or(|info| older(&info)) {
        return;
    }
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    if let Ok(mut changes) = peer.listen(filter).await {
        while let Ok(Some(_)) = changes.next().await {
            stale.store(true, Ordering::Relaxed);
        }
    }
}

/// Ends the connection at a line that is too long. The library drops such a line and goes on, so its call would never end.
fn bounded<R: AsyncRead>(
    from: R,
    broken: Broken,
    over: CancellationToken,
) -> InspectReader<R, impl FnMut(&[u8])> {
    let mut line = 0;
    InspectReader::new(from, move |read: &[u8]| {
        let mut pieces = read.split(|byte| *byte == b'\n');
        line += pieces.next().map_or(0, <[u8]>::len);
        if line >= MESSAGE {
            let most = crate::text::size(MESSAGE as u64);
            broken
                .set(format!("it sent a message longer than {most}"))
                .ok();
            over.cancel();
        }
        line = pieces.next_back().map_or(line, <[u8]>::len);
    })
}
