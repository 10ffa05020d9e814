//! The arguments of `job`, and what they ask for. Pure.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::window::Display;
use crate::mcp::refusal::Refusal;

/// How much output a call gets that sets no limit, and at most, in bytes.
const DEFAULT_LIMIT: u64 = 10_000;
const MAX_LIMIT: u64 = 40_000;

/// How long `wait` waits that sets no time, and at most, in seconds.
const DEFAULT_WAIT_S: f64 = 30.0;
const MAX_WAIT_S: f64 = 86_400.0;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// What to do
    action: Action,
    /// Which job, as `exec` or `list` names it; needed for all but list
    id: Option<String>,
    /// output, wait, kill: give output from this byte on (default: the newest output)
    #[schemars(range(min = 0))]
    offset: Option<u64>,
    /// output, wait, kill: how many bytes of output at most (default 10000, at most 40000)
    #[schemars(range(min = 1))]
    limit: Option<u64>,
    /// wait: for how many seconds at most (default 30); a job that still runs then runs on
    timeout_s: Option<f64>,
    /// input: text for the standard input of a job started with `keep_stdin`; end a line with a line break
    input: Option<String>,
    /// input: close standard input afterwards (default false)
    end: Option<bool>,
    /// output, wait, kill: give output unchanged; otherwise as a terminal shows it (default false)
    raw: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    List,
    Output,
    Wait,
    Kill,
    Input,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Output => "output",
            Self::Wait => "wait",
            Self::Kill => "kill",
            Self::Input => "input",
        })
    }
}

/// A call of `job`, checked.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// List all jobs.
    List,
    /// Act on one job.
    Job {
        id: String,
        act: Act,
        offset: Option<u64>,
        limit: u64,
    },
}

/// What to do with a job before its output is read.
#[derive(Debug, PartialEq)]
pub(super) enum Act {
    /// Nothing.
    Read,
    /// Wait for its end.
    Wait(Duration),
    Kill,
    /// Send standard input; its output is not read then.
    Input {
        input: Bytes,
        end: bool,
    },
}

impl Parameters {
    pub(super) fn action(&self) -> Action {
        self.action
    }

    pub(super) fn display(&self) -> Display {
        Display {
            raw: self.raw.unwrap_or(false),
            newest: self.offset.is_none(),
        }
    }

    /// The request that they are; each action takes only its own arguments.
    pub(super) fn request(self) -> Result<Request, Refusal> {
        let action = self.action;
        if action == Action::List {
            return Ok(Request::List);
        }
        let Some(id) = self.id.filter(|id| !id.is_empty()) else {
            return Err(Refusal::new(format!(
                "`id` is missing: which job to {action}? `list` names them"
            )));
        };
        let only_for = |wanted: Action, name: &str, given: bool| match given && action != wanted {
            true => Err(Refusal::new(format!(
                "`{name}` is for `{wanted}`, not for `{action}`"
            ))),
            false => Ok(()),
        };
        only_for(Action::Input, "input", self.input.is_some())?;
        only_for(Action::Input, "end", self.end == Some(true))?;
        only_for(Action::Wait, "timeout_s", self.timeout_s.is_some())?;
        let act = match action {
            Action::List | Action::Output => Act::Read,
            Action::Kill => Act::Kill,
            Action::Wait => match self.timeout_s.unwrap_or(DEFAULT_WAIT_S) {
                seconds if (0.0..=MAX_WAIT_S).contains(&seconds) => {
                    Act::Wait(Duration::from_secs_f64(seconds))
                }
                seconds => {
                    return Err(Refusal::new(format!(
                        "`timeout_s` must be 0 to {MAX_WAIT_S}, not {seconds}"
                    )));
                }
            },
            Action::Input => {
                let end = self.end.unwrap_or(false);
                let input = self.input.unwrap_or_default();
                if input.is_empty() && !end {
                    return Err(Refusal::new(
                        "`input` is missing: text for standard input, or `end` to close it",
                    ));
                }
                Act::Input {
                    input: input.into(),
                    end,
                }
            }
        };
        Ok(Request::Job {
            id,
            act,
            offset: self.offset,
            limit: self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mcp::tools::entry::tests::parameters;
    use crate::mcp::tools::job::Job;

    fn parsed(arguments: serde_json::Value) -> Result<Request, String> {
        let request = parameters::<Job>(arguments)?.request();
        request.map_err(|refusal| refusal.message().to_owned())
    }

    #[test]
    fn each_action_takes_its_own_arguments() {
        assert_eq!(parsed(json!({"action": "list"})), Ok(Request::List));
        assert_eq!(
            parsed(json!({"action": "wait", "id": "j", "timeout_s": 5, "offset": 3})),
            Ok(Request::Job {
                id: "j".to_owned(),
                act: Act::Wait(Duration::from_secs(5)),
                offset: Some(3),
                limit: DEFAULT_LIMIT
            })
        );
        for (arguments, says) in [
            (json!({"action": "kill"}), "which job to kill?"),
            (
                json!({"action": "kill", "id": "j", "input": "x"}),
                "`input` is for `input`, not for `kill`",
            ),
            (
                json!({"action": "input", "id": "j"}),
                "`input` is missing: text for standard input, or `end` to close it",
            ),
            (
                json!({"action": "wait", "id": "j", "timeout_s": -1}),
                "`timeout_s` must be 0 to 86400, not -1",
            ),
            (
                json!({"action": "output", "job": "j"}),
                "unknown argument `job`: did you mean `id`?",
            ),
        ] {
            let refused = parsed(arguments).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
