//! What the runner needs of an engine.
//!
//! An engine is a child process that runs the VM. It is starting until it says [`Notice::Ready`]; an engine that
//! ends before that has failed to start, one that ends later has exited.

pub(crate) mod krun;
pub(crate) mod probe;
pub(crate) mod qemu;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use crate::confine::spawn::Child;

/// A running engine.
pub(crate) trait Engine {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Its process.
    fn child(&mut self) -> &mut Child;

    /// Which fences do not hold around it, and why; those that it says itself are among its messages.
    fn lacks(&self) -> &[String];

    /// The stream of the guest's console, read without blocking.
    fn console(&self) -> BorrowedFd<'_>;

    /// The stream of the engine's own messages, read without blocking.
    fn messages(&self) -> BorrowedFd<'_>;

    /// What to wait on for [`Self::notices`].
    fn control(&self) -> BorrowedFd<'_>;

    /// Takes what the engine has to say; never blocks.
    fn notices(&mut self) -> io::Result<Vec<Notice>>;

    /// Begins to freeze the first disk, `layer` being a file to make for that; a [`Notice::Frozen`] follows unless
    /// this fails.
    fn freeze_disk(&mut self, layer: &Path) -> Result<(), String>;

    /// How long that may take; absent: as long as copying takes.
    fn freeze_limit(&self) -> Option<Duration>;

    /// Looks whether the guest may still write, and the host still takes it, where the engine is not told. To be called
    /// at least as often as this says, which is never where it is absent.
    fn look(&mut self) -> io::Result<(Option<Notice>, Option<Duration>)> {
        Ok((None, None))
    }

    /// Has a stalled VM try again; gives whether that is of any use yet.
    fn try_again(&mut self) -> io::Result<bool>;

    /// Whether the guest itself ended the machine.
    fn guest_ended_it(&self) -> bool;

    /// Why it did not start, from its own messages.
    fn explain(&self, messages: &[String]) -> StartError;
}

/// What an engine says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The guest runs.
    Ready,
    /// The engine refuses to build the machine.
    Refused(StartError),
    /// The first disk was frozen, or was not.
    Frozen(Result<Frozen, String>),
    /// The VM stands still, since the host can't take what it writes.
    Stalled(String),
    /// The VM has written all that it may.
    Full,
}

/// How a disk was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frozen {
    /// What was its newest layer is written no more; the new one is above it.
    Below,
    /// The new layer holds what the newest one held; that one is written on.
    Copy,
}

/// Why a VM did not start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {message}")]
pub(crate) struct StartError {
    /// Where it got stuck.
    pub(crate) stage: &'static str,
    /// Why, and what to do about it.
    pub(crate) message: String,
}

impl StartError {
    /// An error at a stage.
    pub(crate) fn new(stage: &'static str, message: impl Into<String>) -> Self {
        Self {
            stage,
            message: message.into(),
        }
    }

    /// What a failed system call means at a stage.
    pub(crate) fn io(
        stage: &'static str,
        what: impl std::fmt::Display,
    ) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |error| {
            let full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            let remedy = if full { "; make room there" } else { "" };
            Self {
                stage,
                message: format!("{what}: {error}{remedy}"),
            }
        }
    }
}
