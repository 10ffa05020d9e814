//! A command's standard input.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::link::inbox::Inbox;

/// Standard input: a queue that never makes its channel wait, and a task that empties it. Dropping it closes the input.
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

    /// Adds data; never waits for the command.
    pub(crate) fn push(&self, data: Bytes) {
        if self.inbox.push(data).is_err() {
            // The disk is full. Input without a part of it would be worse than input that ends.
            self.inbox.discard();
        }
    }

    /// Closes standard input after the data that is queued.
    pub(crate) fn end(&self) {
        self.inbox.end();
    }

    /// Whether more data is accepted: it has not been ended, and the command has not closed it.
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
