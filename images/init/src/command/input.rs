//! A command's standard input.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::link::inbox::Inbox;

/// Standard input: a queue that never holds up its channel, and a task that empties it. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Input {
    inbox: Arc<Inbox>,
    task: tokio::task::JoinHandle<()>,
}

impl Input {
    pub(crate) fn new(stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>) -> Self {
        let inbox = Arc::new(Inbox::new());
        let of_task = inbox.clone();
        let task = tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                while let Ok(Some(data)) = of_task.next().await {
                    if stdin.write_all(&data).await.is_err() {
                        break;
                    }
                }
            }
            of_task.discard();
        });
        Self { inbox, task }
    }

    /// Adds to it; never waits for the command.
    pub(crate) fn push(&self, data: Bytes) {
        if self.inbox.push(data).is_err() {
            // No room on the disk either. Going on without a part of the input would be worse than its end.
            self.inbox.discard();
        }
    }

    /// Nothing more will come.
    pub(crate) fn end(&self) {
        self.inbox.end();
    }

    /// Whether there is any use in more: it has not been ended, and the command has not closed it.
    pub(crate) fn open(&self) -> bool {
        self.inbox.open()
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.inbox.discard();
        self.task.abort();
    }
}
