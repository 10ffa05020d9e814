//! What the VM does on events of the engine, the shares, and the host's disk.

use std::io;
use std::time::Instant;

use snowglobe_runner::{Event, Isolation};

use super::{End, ISOLATION_STAGE, Vm};
use crate::confine::child::in_words;
use crate::confine::missing;
use crate::engine::Notice;
use crate::removal::Removal;
use crate::share::STAGE as SHARE_STAGE;
use crate::stall::Step;
use crate::talk::say;

impl Vm {
    /// Handles the engine's notices.
    pub(super) fn handle_engine(&mut self, removal: &mut Removal) -> Result<(), End> {
        let notices = self
            .engine
            .notices()
            .map_err(|error| End::Failed(self.engine.name(), error.to_string()))?;
        notices
            .into_iter()
            .try_for_each(|notice| self.handle_notice(notice, removal))
    }

    fn handle_notice(&mut self, notice: Notice, removal: &mut Removal) -> Result<(), End> {
        match notice {
            Notice::Stalled(reason) => self.stalled(reason),
            Notice::Full => {
                let why = "its disk layer has reached its maximum size (disk_gib)";
                return Err(End::Failed("disk", why.into()));
            }
            Notice::Refused(why) => return Err(End::Failed(why.stage, why.message)),
            Notice::Ready => {
                // Its processes have reported missing fences before they served it.
                self.read_streams();
                self.collect_missing_fences();
                self.require_fences()
                    .map_err(|why| End::Failed(ISOLATION_STAGE, why))?;
                self.started = Some(Instant::now());
                say(&Event::Started {
                    pid: self.engine.process().child.id(),
                    missing_fences: self.missing_fences.clone(),
                });
            }
            Notice::Frozen(result) => self.frozen(result, removal),
            Notice::Merged(result) => self.merged(result),
        }
        Ok(())
    }

    fn stalled(&mut self, reason: String) {
        if self.stall.failed(Instant::now()) {
            say(&Event::Stalled { reason });
        }
    }

    /// Checks the room on the host's disk, and lets a stalled VM try to continue.
    pub(super) fn handle_stall(&mut self, removal: &mut Removal) -> Result<(), End> {
        let name = self.engine.name();
        let failed = |error: io::Error| End::Failed(name, error.to_string());
        let now = Instant::now();
        if self.next_check.is_some_and(|at| now >= at) {
            let (notice, again) = self.engine.check_disk().map_err(failed)?;
            self.next_check = again.map(|after| now + after);
            if let Some(notice) = notice {
                self.handle_notice(notice, removal)?;
            }
        }
        match self.stall.due(now) {
            Step::Wait => {}
            Step::Try => match self.engine.try_resume().map_err(failed)? {
                true => self.stall.tried(now),
                false => self.stall.put_off(now),
            },
            Step::Continue => {
                self.stall.over();
                say(&Event::Resumed);
            }
        }
        Ok(())
    }

    /// Collects the missing fences that processes have reported.
    fn collect_missing_fences(&mut self) {
        for line in self.messages.last(usize::MAX) {
            if let Some(fence) = missing::reported(&line)
                && !self.missing_fences.iter().any(|known| known == fence)
            {
                self.missing_fences.push(fence.to_owned());
            }
        }
    }

    /// Fails where all fences are required and one does not hold.
    pub(super) fn require_fences(&self) -> Result<(), String> {
        if self.isolation == Isolation::Best || self.missing_fences.is_empty() {
            return Ok(());
        }
        Err(format!(
            "isolation is \"require\", and the VM would be without {}; `snowglobe doctor` says what helps, or \
             set isolation = \"best\"",
            self.missing_fences.join("; without ")
        ))
    }

    /// Removes servers that have ended with the engine; a server that has failed ends the VM.
    pub(super) fn handle_shares(&mut self) -> Option<End> {
        let mut end = None;
        self.shares
            .retain_mut(|share| match share.child.try_wait() {
                Ok(None) => true,
                Ok(Some(status)) if status.success() => false,
                Ok(Some(status)) => {
                    end = Some(format!(
                        "the server of the share `{}` {}",
                        share.tag,
                        in_words(status)
                    ));
                    false
                }
                Err(error) => {
                    end = Some(format!(
                        "the server of the share `{}` is lost: {error}",
                        share.tag
                    ));
                    false
                }
            });
        end.map(|why| End::Failed(SHARE_STAGE, why))
    }
}
