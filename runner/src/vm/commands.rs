//! The parent's commands.

use rustix::process::Signal;
use snowglobe_runner::{Action, Answer, Command};

use super::{End, Vm};
use crate::talk::{Input, reply, warn};

impl Vm {
    /// Carries out the commands that have come in.
    pub(super) fn handle_parent(&mut self, input: &mut Input) -> Option<End> {
        if let Err(error) = input.fill() {
            return Some(End::Failed("runner", format!("read commands: {error}")));
        }
        while let Some(line) = input.line() {
            match serde_json::from_slice(&line) {
                Ok(Command {
                    id,
                    action: Action::Stop,
                }) => return Some(End::Stopped(id)),
                Ok(Command {
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
                Ok(Command {
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
                Ok(Command {
                    id,
                    action: Action::FreezeDisk { layer },
                }) => {
                    if let Err(why) = self.begin_freeze(id, &layer) {
                        reply(id, Err(format!("freeze the disk: {why}")));
                    }
                }
                Err(error) => match command_id(&line) {
                    Some(id) => reply(id, Err(format!("understand the command: {error}"))),
                    None => warn(format_args!("a command was not understood: {error}")),
                },
            }
        }
        input.ended().then_some(End::Orphaned)
    }
}

/// The id of a command that is otherwise not understood, so that it gets an answer.
fn command_id(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("id")?.as_u64()
}
