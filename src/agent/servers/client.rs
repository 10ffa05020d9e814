//! What this program does for a server that asks: it passes on questions and progress. It tells a server nothing of this
//! machine, and lets it use no model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rmcp::handler::client::progress::ProgressDispatcher;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationCapability, FormElicitationCapability, Implementation, ProgressNotificationParam,
    ProtocolVersion,
};
use rmcp::service::{NotificationContext, RequestContext, RoleClient};
use rmcp::{ClientHandler, ErrorData};
use tokio::sync::{Mutex, oneshot};

use super::super::event::{Event, Question, Reply, Reports};
use super::asking::Form;

/// The most of a question, in characters.
const QUESTION: usize = 4000;

/// Answers one server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// The server, as a person knows it.
    pub(super) server: String,
    /// Where questions go.
    pub(super) reports: Reports,
    /// Brings each call its progress.
    pub(super) progress: ProgressDispatcher,
    /// Whether the tools have changed since they were listed.
    pub(super) stale: Arc<AtomicBool>,
    /// Held while a question waits for a person: a server asks one at a time.
    pub(super) asking: Arc<Mutex<()>>,
}

impl Client {
    /// The client of a server.
    pub(super) fn new(server: &str, reports: Reports) -> Self {
        Self {
            server: server.to_owned(),
            reports,
            progress: ProgressDispatcher::new(),
            stale: Arc::new(true.into()),
            asking: Arc::default(),
        }
    }

    /// Asks a person what a server asks.
    pub(super) async fn ask(&self, request: ElicitRequestParams) -> ElicitResult {
        let decline = |why: &str| {
            let notice = format!("declined what the server {} asks: {why}", self.server);
            self.reports.send(Event::Notice(notice)).ok();
            ElicitResult::new(ElicitationAction::Decline)
        };
        let (message, schema) = match request {
            ElicitRequestParams::FormElicitationParams {
                message,
                requested_schema,
                ..
            } => (message, requested_schema),
            ElicitRequestParams::UrlElicitationParams { url, .. } => {
                let url: String = url.chars().take(QUESTION).collect();
                return decline(&format!("that a web page is opened: {url}"));
            }
            _ => return decline("it is of an unknown kind"),
        };
        let Some(form) = Form::of(&schema) else {
            return decline("it is more than a person would fill in");
        };
        let _asking = self.asking.lock().await;
        let (answer, reply) = oneshot::channel();
        let question = Question {
            from: self.server.clone(),
            text: message.chars().take(QUESTION).collect(),
            fields: form.fields(),
            lasting: false,
            answer,
        };
        self.reports.send(Event::Ask(question)).ok();
        match reply.await {
            Ok(Reply::Accept(answer, _)) => {
                ElicitResult::new(ElicitationAction::Accept).with_content(form.content(answer))
            }
            Ok(Reply::Decline) => ElicitResult::new(ElicitationAction::Decline),
            Err(_) => ElicitResult::new(ElicitationAction::Cancel),
        }
    }
}

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        capabilities.elicitation =
            Some(ElicitationCapability::new().with_form(FormElicitationCapability::default()));
        let name = Implementation::new("snowglobe-agent", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(capabilities, name)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        tokio::select! {
            answer = self.ask(request) => Ok(answer),
            () = context.ct.cancelled() => Ok(ElicitResult::new(ElicitationAction::Cancel)),
        }
    }

    async fn on_progress(
        &self,
        report: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.progress.handle_notification(report).await;
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.stale.store(true, Ordering::Relaxed);
    }
}
