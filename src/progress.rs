//! Telling whoever waits what is going on.

use tokio::sync::mpsc;

/// One step of something that takes a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is being done, for a person: a lowercase fragment such as `booting the VM`.
    pub message: String,
    /// How much of `total` is done, where that can be said (bytes, usually).
    pub done: Option<u64>,
    /// How much there is, where that is known.
    pub total: Option<u64>,
    /// Which of several things done at once this is about; steps without it are about the whole.
    pub part: Option<String>,
}

/// The end that reports. Cheap to clone; dropping all of them ends the receiver.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::UnboundedSender<Step>>);

impl Progress {
    /// A reporter nobody listens to.
    pub fn none() -> Self {
        Self(None)
    }

    /// A reporter and the receiver of what it says.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Step>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// Says what is being done.
    pub fn say(&self, message: impl Into<String>) {
        self.step(Step {
            message: message.into(),
            done: None,
            total: None,
            part: None,
        });
    }

    /// Says how far it has come.
    pub fn step(&self, step: Step) {
        if let Some(sender) = &self.0 {
            // Nobody listening any more is no reason to stop working.
            let _ = sender.send(step);
        }
    }
}
