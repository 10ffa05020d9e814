//! The arguments of `exec`, and the command that they ask for.
//!
//! A string is a line for the shell; an array is a program and its arguments. A string that holds a JSON array of strings
//! counts as that array. An array of a single string is a line for the shell, as with `snowglobe exec -- 'a line'`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::mcp::notes::Notes;
use crate::mcp::refusal::Refusal;
use crate::sandbox::{Detach, Exec, Limit, Program, Stdin, User, Word};
use crate::text;

/// The longest time a command may be given, in seconds: a day.
pub(crate) const MAX_TIMEOUT_S: f64 = 86_400.0;

/// Operators of the shell. In an array they are arguments like any other, which is rarely meant.
const OPERATORS: [&str; 11] = [
    "&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1", "|&",
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// The shell line, run by bash (or sh): pipes, `&&` and here-documents work. An array of strings is taken, too:
    /// a program and its arguments, run without a shell
    #[schemars(with = "String")]
    command: Line,
    /// Filled in by the tool.
    cwd: Option<String>,
    /// Environment variables on top of the user's own, name to value
    env: Option<BTreeMap<String, String>>,
    /// All of standard input, as text (default: none, /dev/null)
    stdin: Option<String>,
    /// Filled in by the tool.
    timeout_s: Option<f64>,
    /// The user that runs it (default sandbox)
    user: Option<RunAs>,
    /// Start it as a background job and return at once, for servers and long work; see the tool `job`.
    /// It then has no time limit unless `timeout_s` is given (default false)
    background: Option<bool>,
    /// With `background`: leave standard input open for action `input` of the tool `job` (default false)
    keep_stdin: Option<bool>,
    /// Give stdout and stderr unchanged; otherwise they are as a terminal shows them in the end, without colours and
    /// overwritten text (default false)
    raw: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Shell(String),
    Array(Vec<String>),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RunAs {
    Sandbox,
    Root,
}

/// A call of `exec`, checked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) exec: Exec,
    /// Whether output is given unchanged.
    pub(crate) raw: bool,
    /// How arguments were taken that can be taken in several ways.
    pub(crate) notes: Notes,
}

/// The command that these arguments ask for.
pub(crate) fn request(params: Parameters, default_timeout: Duration) -> Result<Request, Refusal> {
    let mut notes = Notes::default();
    let background = params.background.unwrap_or(false);
    let env = params.env.unwrap_or_default();
    check_environment(&env)?;
    let keep_stdin = params.keep_stdin.unwrap_or(false);
    if keep_stdin && !background {
        return Err(Refusal::new(
            "`keep_stdin` is for `background`: a command that is waited for gets all its input with `stdin`",
        ));
    }
    // Clients that fill in every argument send an empty string.
    let input = params.stdin.filter(|text| !text.is_empty());
    let stdin = match &input {
        _ if keep_stdin => Stdin::Open,
        Some(_) => Stdin::Input,
        None => Stdin::Null,
    };
    let timeout = timeout(params.timeout_s, background, default_timeout, &mut notes)?;
    let exec = Exec {
        cwd: params.cwd.filter(|cwd| !cwd.is_empty()),
        env,
        stdin,
        input: input.map(Bytes::from).unwrap_or_default(),
        limit: timeout.map_or(Limit::Never, Limit::After),
        detach: background.then_some(Detach::Now),
        user: match params.user {
            Some(RunAs::Root) => User::Root,
            Some(RunAs::Sandbox) | None => User::Sandbox,
        },
        ..Exec::new(command(params.command, &mut notes)?)
    };
    Ok(Request {
        exec,
        raw: params.raw.unwrap_or(false),
        notes,
    })
}

fn command(line: Line, notes: &mut Notes) -> Result<Program, Refusal> {
    let array = match line {
        Line::Shell(text) => match array_in(&text) {
            Some(array) => array,
            None => return shell(text),
        },
        Line::Array(array) => array,
    };
    match array.as_slice() {
        [] => Err(Refusal::new(
            "`command` is an empty array: send a shell line, or a program and its arguments",
        )),
        [line] => {
            if line.contains(char::is_whitespace) {
                notes.add(
                    "`command` was an array of a single string, so it was run as a shell line",
                );
            }
            shell(line.clone())
        }
        [program, ..] if program.trim().is_empty() => Err(Refusal::new(
            "`command` is an array whose first string is empty: it must name the program",
        )),
        _ if array.iter().any(|text| text.contains('\0')) => Err(Refusal::new(
            "`command` holds a NUL character, which no argument can",
        )),
        _ => {
            if let Some(operator) = array.iter().find(|it| OPERATORS.contains(&it.as_str())) {
                notes.add(format!(
                    "`command` was an array, so no shell ran it and `{operator}` was an ordinary argument; send one string \
                     for a shell line"
                ));
            }
            Ok(Program::Argv(array.into_iter().map(Word::from).collect()))
        }
    }
}

/// The array whose JSON the string is. Nobody means `["a", …]` as a shell line.
fn array_in(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let listed = text.starts_with('[') && text.ends_with(']');
    let list: Vec<String> = listed.then(|| serde_json::from_str(text).ok())??;
    (!list.is_empty()).then_some(list)
}

fn shell(line: String) -> Result<Program, Refusal> {
    if line.trim().is_empty() {
        return Err(Refusal::new("`command` is empty: send a shell line"));
    }
    if line.contains('\0') {
        return Err(Refusal::new(
            "`command` holds a NUL character, which no shell line can",
        ));
    }
    Ok(Program::Shell(line.into()))
}

/// The time limit; none: no limit.
fn timeout(
    seconds: Option<f64>,
    background: bool,
    default_timeout: Duration,
    notes: &mut Notes,
) -> Result<Option<Duration>, Refusal> {
    let default = (!background).then_some(default_timeout);
    match seconds {
        None => Ok(default),
        Some(0.0) => {
            notes.add(match default {
                Some(time) => format!(
                    "`timeout_s` was 0, so the default held: {}",
                    text::duration(time)
                ),
                None => "`timeout_s` was 0, so the job has no time limit".to_owned(),
            });
            Ok(default)
        }
        Some(seconds) if seconds > 0.0 && seconds <= MAX_TIMEOUT_S => {
            Ok(Some(Duration::from_secs_f64(seconds)))
        }
        Some(seconds) => Err(Refusal::new(format!(
            "`timeout_s` must be more than 0 and at most {MAX_TIMEOUT_S}, not {seconds}"
        ))),
    }
}

fn check_environment(env: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Refusal::new(format!(
                "`env` holds {name:?}, which can't be set: names are not empty and have no `=`, and neither \
                 names nor values have a NUL"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::tools::entry::tests::parameters;
    use crate::mcp::tools::exec::Exec as Tool;

    const MINUTE: Duration = Duration::from_secs(60);

    fn asked(arguments: Value) -> Result<Request, String> {
        request(parameters::<Tool>(arguments)?, MINUTE)
            .map_err(|refusal| refusal.message().to_owned())
    }

    fn refusal(arguments: Value) -> String {
        asked(arguments).unwrap_err()
    }

    /// The command, and what is said.
    fn command_of(command: Value) -> (Program, Vec<String>) {
        let asked = asked(json!({"command": command})).unwrap();
        (asked.exec.command, asked.notes.all().to_vec())
    }

    #[test]
    fn arguments_become_a_command() {
        let asked = asked(json!({
            "command": "a && b", "cwd": "", "env": {"N": 1, "S": "x"}, "stdin": "in", "timeout_s": "2.5",
            "user": "root", "raw": "True",
        }))
        .unwrap();
        let exec = asked.exec;
        assert_eq!(exec.command, Program::Shell("a && b".into()));
        assert_eq!(exec.cwd, None);
        assert_eq!(exec.env["N"], "1");
        assert_eq!(
            (exec.stdin, exec.input.as_ref()),
            (Stdin::Input, &b"in"[..])
        );
        assert_eq!(exec.limit, Limit::After(Duration::from_millis(2500)));
        assert_eq!(exec.user, User::Root);
        assert!(asked.raw);
        assert_eq!(asked.notes, Notes::default());
    }

    #[test]
    fn an_array_is_a_program_and_its_arguments() {
        let argv = |list: &[&str]| Program::Argv(list.iter().map(|it| (*it).into()).collect());
        let line = |line: &str| Program::Shell(line.into());
        let none = Vec::<String>::new();
        let bash = json!(["bash", "-lc", "ls | wc"]);
        assert_eq!(
            command_of(bash.clone()),
            (argv(&["bash", "-lc", "ls | wc"]), none.clone())
        );
        assert_eq!(command_of(bash.to_string().into()), command_of(bash));
        assert_eq!(
            command_of(json!(["head", "-n", 3, true])).0,
            argv(&["head", "-n", "3", "true"])
        );
        assert_eq!(command_of(json!(["ls"])), (line("ls"), none.clone()));
        let (single, said) = command_of(json!(["ls -l | wc"]));
        assert_eq!(single, line("ls -l | wc"));
        assert!(said[0].contains("run as a shell line"), "{said:?}");
        let (_, said) = command_of(json!(["ls", "&&", "pwd"]));
        assert!(
            said[0].contains("`&&` was an ordinary argument"),
            "{said:?}"
        );
        for text in [
            "[ -e x ]",
            "[[ a ]]",
            "[]",
            "[1, 2]",
            "[\"a\" = b ]",
            "[\"a\"] && b",
        ] {
            assert_eq!(command_of(json!(text)), (line(text), none.clone()));
        }
        for (command, says) in [
            (json!([]), "an empty array"),
            (json!(["", "x"]), "must name the program"),
            (json!([""]), "empty"),
            (json!(["a", "b\0"]), "NUL"),
            (
                json!(["a", ["b"]]),
                "`command[1]` must be a string, not an array",
            ),
            (json!({"a": 1}), "`command` must be a string, not an object"),
        ] {
            let said = refusal(json!({"command": command}));
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_time_of_0_is_the_default() {
        let time = |arguments: Value| {
            let asked = asked(arguments).unwrap();
            (asked.exec.limit.time(MINUTE), asked.notes.all().to_vec())
        };
        assert_eq!(time(json!({"command": "a"})), (Some(MINUTE), vec![]));
        let zero = "`timeout_s` was 0, so the default held: 60.0 s".to_owned();
        assert_eq!(
            time(json!({"command": "a", "timeout_s": 0})),
            (Some(MINUTE), vec![zero])
        );
        let (never, said) = time(json!({"command": "a", "timeout_s": "0", "background": 1}));
        assert!(never.is_none() && said[0].contains("no time limit"));
        let (text, _) = time(json!({"command": "a", "timeout_s": "2 min"}));
        assert_eq!(text, Some(2 * MINUTE));
    }

    #[test]
    fn standard_input_is_there_only_where_it_was_sent() {
        let of = |arguments| asked(arguments).unwrap().exec.stdin;
        assert_eq!(of(json!({"command": "rg x"})), Stdin::Null);
        assert_eq!(of(json!({"command": "rg x", "stdin": ""})), Stdin::Null);
        let job = json!({"command": "rg x", "background": true});
        assert_eq!(of(job), Stdin::Null);
        let job = json!({"command": "wc", "background": true, "stdin": "a"});
        assert_eq!(of(job), Stdin::Input);
        let job = json!({"command": "cat", "background": true, "keep_stdin": true});
        assert_eq!(of(job), Stdin::Open);
        let refused = refusal(json!({"command": "cat", "keep_stdin": true}));
        assert!(refused.contains("`background`"), "{refused}");
    }

    #[test]
    fn a_wrong_argument_is_refused_with_advice() {
        assert!(refusal(json!({})).starts_with("`command` is missing: The shell line, run by"));
        let said = refusal(json!({"cmd": "ls"}));
        assert!(
            said.starts_with("unknown argument `cmd`: did you mean `command`?"),
            "{said}"
        );
        let said = refusal(json!({"command": "ls", "timeout": 3}));
        assert!(
            said.contains("did you mean `timeout_s`? (Seconds after"),
            "{said}"
        );
        assert_eq!(
            refusal(json!({"command": "ls", "timeout_s": -1})),
            "`timeout_s` must be more than 0 and at most 86400, not -1"
        );
        assert_eq!(
            refusal(json!({"command": "ls", "timeout_s": "soon"})),
            "`timeout_s` must be a number, not \"soon\""
        );
        assert_eq!(
            refusal(json!({"command": "ls", "user": "admin"})),
            "`user` must be one of \"sandbox\", \"root\", not \"admin\""
        );
        assert!(refusal(json!({"command": " "})).contains("empty"));
        assert!(refusal(json!({"command": "ls", "env": {"A=B": "c"}})).contains("A=B"));
    }
}
