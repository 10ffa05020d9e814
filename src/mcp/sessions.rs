//! The sessions of clients over HTTP: the library's session manager, with a bound.
//!
//! A session outlives its sandbox. It ends when its client ends it, when it was unused for a long time, or when there are
//! too many: then the least recently used one ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager,
};
use tokio_stream::Stream;

/// How many sessions may be open.
const MAX_SESSIONS: usize = 1024;

/// The open sessions.
pub(crate) struct Sessions {
    sessions: LocalSessionManager,
    last_used: Mutex<HashMap<SessionId, Instant>>,
    limit: usize,
}

impl Sessions {
    /// No sessions yet. A session that is unused for `kept` ends.
    pub(crate) fn new(kept: Duration) -> Self {
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.keep_alive = Some(kept);
        // Otherwise the library begins every stream with an event without data. Clients of before 2025-11-25 read it as
        // broken JSON; Gemini CLI then gives up on the server.
        sessions.session_config.sse_retry = None;
        Self {
            sessions,
            last_used: Mutex::default(),
            limit: MAX_SESSIONS,
        }
    }

    fn last_used(&self) -> MutexGuard<'_, HashMap<SessionId, Instant>> {
        self.last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, id: &SessionId) {
        if let Some(at) = self.last_used().get_mut(id) {
            *at = Instant::now();
        }
    }

    /// The session to end before another one is created, if the limit is reached.
    fn evicted(&self) -> Option<SessionId> {
        let used = self.last_used();
        let full = used.len() >= self.limit;
        let oldest = used.iter().min_by_key(|(_, at)| **at);
        oldest.filter(|_| full).map(|(id, _)| id.clone())
    }
}

type SessionError = <LocalSessionManager as SessionManager>::Error;

impl SessionManager for Sessions {
    type Error = SessionError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), SessionError> {
        if let Some(id) = self.evicted() {
            tracing::warn!(
                "{} sessions are open: the least recently used one ends",
                self.limit
            );
            self.close_session(&id).await?;
        }
        let (id, transport) = self.sessions.create_session().await?;
        self.last_used().insert(id.clone(), Instant::now());
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, SessionError> {
        self.sessions.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, SessionError> {
        self.touch(id);
        self.sessions.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), SessionError> {
        self.last_used().remove(id);
        self.sessions.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, SessionError> {
        self.sessions.create_stream(id, message).await
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), SessionError> {
        self.sessions.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, SessionError> {
        self.sessions.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, SessionError> {
        self.sessions.resume(id, last_event_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_least_recently_used_session_makes_room() {
        let mut sessions = Sessions::new(Duration::from_secs(60));
        sessions.limit = 2;
        let (first, _first) = sessions.create_session().await.unwrap();
        let (second, _second) = sessions.create_session().await.unwrap();
        assert!(sessions.has_session(&first).await.unwrap());
        let (third, _third) = sessions.create_session().await.unwrap();
        assert!(sessions.has_session(&first).await.unwrap());
        assert!(!sessions.has_session(&second).await.unwrap());
        sessions.close_session(&third).await.unwrap();
        assert_eq!(sessions.last_used().len(), 1);
    }
}
