//! Progress of long operations, for the caller that waits.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// One step of a long operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is being done, for a person: a lowercase fragment such as `booting the VM`.
    pub message: String,
    /// How much of `total` is done, if known; usually bytes.
    pub done: Option<u64>,
    /// The whole amount, if known.
    pub total: Option<u64>,
    /// Which of several parallel parts this step belongs to; absent: the whole.
    pub part: Option<String>,
}

/// The end that reports. Cheap to clone; dropping all of them ends the receiver.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::UnboundedSender<Step>>);

impl Progress {
    /// A reporter without a receiver.
    pub fn none() -> Self {
        Self(None)
    }

    /// A reporter and its receiver.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Step>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// Reports a step.
    pub fn say(&self, message: impl Into<String>) {
        self.step(Step {
            message: message.into(),
            done: None,
            total: None,
            part: None,
        });
    }

    /// Reports how far a step has come.
    pub fn step(&self, step: Step) {
        if let Some(sender) = &self.0 {
            // The operation goes on without a receiver.
            sender.send(step).ok();
        }
    }
}
