//! The end of a VM.

use std::io;
use std::process::{ExitCode, ExitStatus};

use snowglobe_runner::{Answer, Event};

use super::freeze::{abandon, flush};
use super::{End, Freeze, Vm};
use crate::confine::child::in_words;
use crate::error::StartError;
use crate::removal::Removal;
use crate::share::STAGE as SHARE_STAGE;
use crate::talk::{failed, reply, say, warn};

/// The number of lines of the console, and of the engine's messages, in the last event.
const LAST_LINES: usize = 100;

impl Vm {
    /// Ends the VM's processes, removes its files, and reports how it ended.
    pub(super) fn finish(mut self, end: End, orphaned: bool, removal: &Removal) -> ExitCode {
        if !matches!(end, End::Engine) {
            self.engine.process().child.kill().ok();
        }
        let status = self.engine.process_mut().child.wait();
        // The sockets still hold what was written before the end.
        while self.read_streams() > 0 {}
        if self.engine.notices().is_err() {
            warn(format_args!(
                "failed to understand the engine's last messages"
            ));
        }
        self.shares.iter_mut().for_each(|share| share.child.end());
        if let Some(Freeze { id, layer, .. }) = self.freeze.take() {
            abandon(id, &layer, "the VM ended");
        }
        self.merged(Err("the VM ended".into()));
        if !orphaned {
            let newest = self.tops.iter().flatten();
            for path in newest.filter(|path| removal.keeps(path)) {
                if let Err(error) = flush(path) {
                    warn(format_args!("failed to flush {}: {error}", path.display()));
                }
            }
        }
        removal.carry_out(orphaned);
        if let End::Stopped(id) = end {
            reply(id, Ok(Answer::Done));
        }
        let messages = self.messages.last(LAST_LINES);
        let end = match (end, messages.last()) {
            // A failed server has written the reason to its standard error.
            (End::Failed(SHARE_STAGE, why), Some(said)) => {
                End::Failed(SHARE_STAGE, format!("{why}: {said}"))
            }
            (end, _) => end,
        };
        let mut console = self.console.last(LAST_LINES);
        console.extend(messages.iter().cloned());
        if self.started.is_none() {
            let error = match end {
                End::Engine => self.engine.explain(&messages),
                End::Failed(stage, why) => StartError::new(stage, why),
                End::Orphaned | End::Stopped(_) | End::Signalled => StartError::new(
                    "runner",
                    "the runner was told to stop while the VM was starting",
                ),
            };
            return failed(&error, console);
        }
        let (clean, reason) = self.describe_end(&end, status);
        say(&Event::Exited {
            clean,
            reason,
            console,
        });
        ExitCode::SUCCESS
    }

    /// Whether the VM powered off by itself, and its end in words.
    fn describe_end(&self, end: &End, status: io::Result<ExitStatus>) -> (bool, String) {
        match (end, status) {
            (End::Orphaned, _) => (false, "the program that started the VM is gone".into()),
            (End::Stopped(_), _) => (false, "it was told to stop".into()),
            (End::Signalled, _) => (false, "the runner was told to stop by a signal".into()),
            (End::Failed(_, why), _) => (false, why.clone()),
            (End::Engine, Ok(status)) if status.success() && self.engine.guest_ended_it() => {
                match self.console.panic() {
                    Some(why) => (false, format!("the guest's kernel panicked: {why}")),
                    None => (true, "the guest powered off".into()),
                }
            }
            (End::Engine, Ok(status)) => (
                false,
                format!("{} {}", self.engine.name(), in_words(status)),
            ),
            (End::Engine, Err(error)) => (
                false,
                format!(
                    "{} ended; its exit status is unknown: {error}",
                    self.engine.name()
                ),
            ),
        }
    }
}
