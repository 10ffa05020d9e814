//! The sessions of clients over HTTP: the library's, with a bound.
//!
//! A session outlives its sandbox, so it ends only when its client says so, when nobody has used it for long, or when
//! there are too many: then the one that nobody has used for longest makes room.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager,
};
use tokio_stream::Stream;

/// How many sessions there may be.
const MOST: usize = 1024;

/// The sessions there are.
pub(crate) struct Sessions {
    sessions: LocalSessionManager,
    used: Mutex<HashMap<SessionId, Instant>>,
    most: usize,
}

impl Sessions {
    /// None yet; one that is not used for `kept` ends.
    pub(crate) fn new(kept: Duration) -> Self {
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.keep_alive = Some(kept);
        // The library would begin every stream with an event without data, which clients of before 2025-11-25 take
        // for broken JSON: Gemini CLI gives the server up over it.
        sessions.session_config.sse_retry = None;
        Self {
            sessions,
            used: Mutex::default(),
            most: MOST,
        }
    }

    fn used(&self) -> MutexGuard<'_, HashMap<SessionId, Instant>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, id: &SessionId) {
        if let Some(at) = self.used().get_mut(id) {
            *at = Instant::now();
        }
    }

    /// The session that has to go before another may come.
    fn surplus(&self) -> Option<SessionId> {
        let used = self.used();
        let full = used.len() >= self.most;
        let oldest = used.iter().min_by_key(|(_, at)| **at);
        oldest.filter(|_| full).map(|(id, _)| id.clone())
    }
}

type Failure = <LocalSessionManager as SessionManager>::Error;

impl SessionManager for Sessions {
    type Error = Failure;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Failure> {
        if let Some(id) = self.surplus() {
            tracing::warn!(
                "{} sessions are open: the one not used for longest ends",
                self.most
            );
            self.close_session(&id).await?;
        }
        let (id, transport) = self.sessions.create_session().await?;
        self.used().insert(id.clone(), Instant::now());
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Failure> {
        self.sessions.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Failure> {
        self.touch(id);
        self.sessions.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Failure> {
        self.used().remove(id);
        self.sessions.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failure> {
        self.sessions.create_stream(id, message).await
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Failure> {
        self.sessions.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failure> {
        self.sessions.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failure> {
        self.sessions.resume(id, last_event_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_session_not_used_for_longest_makes_room() {
        let mut sessions = Sessions::new(Duration::from_secs(60));
        sessions.most = 2;
        let (first, _first) = sessions.create_session().await.unwrap();
        let (second, _second) = sessions.create_session().await.unwrap();
        assert!(sessions.has_session(&first).await.unwrap());
        let (third, _third) = sessions.create_session().await.unwrap();
        assert!(sessions.has_session(&first).await.unwrap());
        assert!(!sessions.has_session(&second).await.unwrap());
        sessions.close_session(&third).await.unwrap();
        assert_eq!(sessions.used().len(), 1);
    }
}
