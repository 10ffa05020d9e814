//! The parent's requests.

use rustix::process::Signal;
use snowglobe_runner::{Action, Answer, VmRequest};

use super::{End, Vm};
use crate::talk::{Input, reply, warn};

impl Vm {
    /// Carries out the requests that have arrived.
    pub(super) fn handle_parent(&mut self, input: &mut Input) -> Option<End> {
        if let Err(error) = input.fill() {
            return Some(End::Failed("runner", format!("read requests: {error}")));
        }
        while let Some(line) = input.line() {
            match serde_json::from_slice(&line) {
                Ok(VmRequest {
                    id,
                    action: Action::Stop,
                }) => return Some(End::Stopped(id)),
                Ok(VmRequest {
                    id,
                    action: Action::Console { lines },
                }) => {
                    reply(
                        id,
                        Ok(Answer::Console {
                            lines: self.console.last(lines),
                        }),
                    );
                }
                Ok(VmRequest {
                    id,
                    action: action @ (Action::Pause | Action::Resume),
                }) => {
                    let signal = match action {
                        Action::Pause => Signal::STOP,
                        _ => Signal::CONT,
                    };
                    let engine = self.engine.process().child.pid();
                    let sent = rustix::process::kill_process(engine, signal);
                    reply(
                        id,
                        sent.map(|()| Answer::Done)
                            .map_err(|error| format!("signal the engine: {error}")),
                    );
                }
                Ok(
                    request @ VmRequest {
                        action: Action::Protect { .. } | Action::TakeChanges,
                        ..
                    },
                ) => self.ask_shares(&request),
                Ok(VmRequest {
                    id,
                    action: Action::FreezeDisk { disk, layer },
                }) => {
                    if let Err(why) = self.begin_freeze(id, disk, &layer) {
                        reply(id, Err(format!("freeze the disk: {why}")));
                    }
                }
                Ok(VmRequest {
                    id,
                    action: Action::MergeDisk { disk, onto },
                }) => {
                    if let Err(why) = self.begin_merge(id, disk, &onto) {
                        reply(id, Err(format!("merge the disk's layers: {why}")));
                    }
                }
                Err(error) => match request_id(&line) {
                    Some(id) => reply(id, Err(format!("understand the request: {error}"))),
                    None => warn(format_args!("a request was not understood: {error}")),
                },
            }
        }
        input.ended().then_some(End::Orphaned)
    }
}

/// The id of a request that is otherwise not understood, so that the request gets an answer.
fn request_id(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("id")?.as_u64()
}
