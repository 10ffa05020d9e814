//! What is submitted: prompts, commands after `/`, lines for the guest after `!`.

use ratatui_core::style::Style;
use serde_json::json;

use super::app::{Action, App};
use super::complete::{self, HELP};
use crate::agent::event::{Command, Prompt};
use crate::text;

impl App {
    /// What a person entered; with `queue` a prompt waits until the turn has ended.
    pub(super) fn submit(&mut self, text: String, queue: bool) {
        if let Some(line) = text.strip_prefix('!') {
            return match line.trim() {
                "" => self.warn("`!` runs a command: `!ls`"),
                line => self.command(Command::Run(line.to_owned())),
            };
        }
        let named = text.strip_prefix('/').map(|rest| {
            let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (name.to_owned(), argument.trim().to_owned())
        });
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        match named {
            // A path is no command.
            Some((name, argument)) if !name.is_empty() && name.chars().all(fits) => {
                self.perform(&name, &argument, &text);
            }
            _ => {
                let prompt = Prompt::text(text);
                self.command(match queue {
                    false => Command::Send(prompt),
                    true => Command::Queue(prompt),
                });
            }
        }
    }

    fn perform(&mut self, name: &str, argument: &str, whole: &str) {
        match name {
            "help" => {
                self.gap();
                self.notice(HELP, Style::new());
                self.gap();
            }
            "model" => match argument {
                "" => {
                    let said = format!("the model is {}; `/model NAME` uses another", self.model);
                    self.notice(&said, self.page.theme.dim());
                }
                model => self.command(Command::Model(model.to_owned())),
            },
            "rewind" => self.pick_message(),
            "snapshot" => {
                let by_hand = || jiff::Zoned::now().strftime("by-hand-%Y%m%d-%H%M%S");
                let name = match argument {
                    "" => by_hand().to_string(),
                    name => name.to_owned(),
                };
                self.tool("snapshot", json!({"action": "save", "name": name}));
            }
            "restore" => match argument {
                "" => {
                    self.restoring = true;
                    self.tool("snapshot", json!({"action": "list"}));
                }
                name => self.sure_to_restore(name),
            },
            "jobs" => self.tool("job", json!({"action": "list"})),
            "review" => match argument {
                "" => self.tool("changes", json!({"action": "list"})),
                path => self.tool("changes", json!({"action": "diff", "paths": [path]})),
            },
            "apply" => {
                let paths: Vec<_> = argument.split_whitespace().collect();
                self.tool("changes", json!({"action": "apply", "paths": paths}));
            }
            "shell" => self.actions.push(Action::Shell),
            "compact" => self.command(Command::Compact(argument.to_owned())),
            "copy" => match self.last_answer.is_empty() {
                true => self.warn("there is nothing to copy"),
                false => self.actions.push(Action::Copy(self.last_answer.clone())),
            },
            "export" => {
                let path = (!argument.is_empty()).then(|| argument.into());
                self.command(Command::Export(path));
            }
            "clear" => self.command(Command::Clear),
            "resume" => self.command(Command::Sessions),
            "quit" | "exit" => self.leave(),
            other => match text::nearest(other, complete::commands().map(|it| it.0)) {
                Some(near) => {
                    self.warn(&format!(
                        "there is no command `/{other}`; did you mean `{near}`? `/help` lists them"
                    ));
                    self.editor.set(whole);
                }
                // It may be a prompt of a server.
                None => self.command(Command::Prompt {
                    name: other.to_owned(),
                    argument: argument.to_owned(),
                }),
            },
        }
    }

    fn tool(&mut self, name: &str, arguments: serde_json::Value) {
        let name = name.to_owned();
        self.command(Command::Tool { name, arguments });
    }
}
