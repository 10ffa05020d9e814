//! `exec`: runs a shell line.
//!
//! In the structured result, standard output and error are as they came, within the bound of [`output`] and
//! with invalid UTF-8 replaced. The text form leaves out the escape sequences of terminals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Resource, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::call::{Call, Refusal, Work, result};
use super::output::{Bounded, Collector};
use super::resources::{job_uri, output_uri};
use super::{args, job, schema, text};
use crate::sandbox::{
    Detach, Exec, ExecEnd, JobInfo, Outcome, Output, Ran, Sandbox, SandboxError, User,
};

pub(super) const NAME: &str = "exec";

/// The longest time a command may be given, in seconds: a day.
const LONGEST_TIMEOUT_S: f64 = 86_400.0;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The shell line, run by bash (or sh): pipes, `&&` and here-documents work
    command: String,
    /// Working directory, absolute or relative to /workspace (default /workspace)
    cwd: Option<String>,
    /// Environment variables on top of the user's own, name to value
    env: Option<BTreeMap<String, String>>,
    /// Text for standard input (default: empty)
    stdin: Option<String>,
    /// Filled in by [`tool`].
    timeout_s: Option<f64>,
    /// Who runs it (default sandbox)
    user: Option<Who>,
    /// Start it as a background job and return at once, for servers and long work; see the tool `job`.
    /// It then has no time limit unless `timeout_s` is given (default false)
    background: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Who {
    Sandbox,
    Root,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Structured {
    /// Exit status, 0 to 255; absent if the command did not exit by itself
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    /// The signal that ended it, such as SIGSEGV
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    /// Whether it was killed because its time was up
    timed_out: bool,
    /// Whether it was killed because the VM ran out of memory
    #[serde(skip_serializing_if = "is_false")]
    out_of_memory: bool,
    /// Standard output; of a long one the head and the tail
    stdout: String,
    /// Standard error; of a long one the head and the tail
    stderr: String,
    /// Whether something of stdout or stderr is left out
    truncated: bool,
    /// Bytes on stdout in all, where some are left out
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_bytes: Option<u64>,
    /// Bytes on stderr in all, where some are left out
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_bytes: Option<u64>,
    /// File in the VM with all of stdout
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_file: Option<String>,
    /// File in the VM with all of stderr
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_file: Option<String>,
    /// Resource with all of stdout, for clients that read resources
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_uri: Option<String>,
    /// Resource with all of stderr
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_uri: Option<String>,
    /// Whether background processes that it started still run
    #[serde(skip_serializing_if = "is_false")]
    left_running: bool,
    /// The job as which it goes on, for the tool `job`; absent if the command ended
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// Resource with the job's output
    #[serde(skip_serializing_if = "Option::is_none")]
    job_uri: Option<String>,
    /// Where the job's further output starts, for the `offset` of the tool `job`
    #[serde(skip_serializing_if = "Option::is_none")]
    job_offset: Option<u64>,
    /// How long it ran, in milliseconds
    duration_ms: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn tool(default_timeout: Duration) -> Tool {
    let mut schema = schema::input::<Params>();
    schema["properties"]["timeout_s"]["description"] = format!(
        "Seconds after which the command and all it started are killed; fractions allowed, at most \
         {LONGEST_TIMEOUT_S} (default {})",
        default_timeout.as_secs_f64()
    )
    .into();
    Tool::new(
        NAME,
        "Run a shell command in the microVM and get its stdout, stderr and exit status. Each call is a new \
         shell. A command that fails is a normal result with its exit code. Long output is cut to head and \
         tail, and the whole kept in a file in the VM.",
        schema,
    )
    .with_title("Run a command")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Run a command")
            .read_only(false)
            .destructive(true)
            .idempotent(false)
            .open_world(false),
    )
}

pub(super) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    default_timeout: Duration,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let mut exec = checked(args::parse(tool, arguments)?, default_timeout)?;
    let timeout = exec.timeout.unwrap_or(default_timeout);
    let patience = sandbox.config().background_after;
    if exec.detach.is_none() && !call.hears_progress() && timeout > patience {
        // Such a client can't know that the command is alive, and gives up on it after a minute.
        exec.detach = Some(Detach::After(patience.as_millis() as u64));
    }
    let began = Instant::now();
    let (ran, stdout, stderr) = call
        .run(|work| async move { collect(&sandbox, exec, work).await })
        .await??;
    let end = match ran {
        Ran::Ended(end) => end,
        Ran::Job(job) => return went_on(&job, stdout, stderr, began.elapsed(), call.handle()),
    };
    let stdout = stdout.finish(end.stdout_file.as_deref(), end.stdout_bytes);
    let stderr = stderr.finish(end.stderr_file.as_deref(), end.stderr_bytes);
    if end.outcome == Outcome::Cancelled {
        return Err(Refusal::new(format!(
            "the command was cancelled after {} and killed with all it started; until then:\n{}",
            text::duration(end.duration),
            streams(&stdout, &stderr)
        )));
    }
    let text = as_text(&end, &stdout, &stderr, timeout);
    let mut structured = as_structured(end, stdout, stderr);
    let mut content = vec![ContentBlock::text(text)];
    let handle = call.handle();
    for (file, uri, stream) in [
        (
            &structured.stdout_file,
            &mut structured.stdout_uri,
            "stdout",
        ),
        (
            &structured.stderr_file,
            &mut structured.stderr_uri,
            "stderr",
        ),
    ] {
        let Some(of) = file.as_deref().and_then(|file| output_uri(file, handle)) else {
            continue;
        };
        if call.knows_links() {
            let link = Resource::new(of.clone(), stream)
                .with_title(format!("All of {stream}"))
                .with_mime_type("text/plain");
            content.push(ContentBlock::resource_link(link));
        }
        *uri = Some(of);
    }
    result(content, &structured)
}

fn checked(params: Params, default_timeout: Duration) -> Result<Exec, Refusal> {
    if params.command.trim().is_empty() {
        return Err(Refusal::new("`command` is empty: send a shell line"));
    }
    if params.command.contains('\0') {
        return Err(Refusal::new(
            "`command` holds a NUL character, which no shell line can",
        ));
    }
    let background = params.background.unwrap_or(false);
    let timeout = match params.timeout_s {
        None => (!background).then_some(default_timeout),
        Some(seconds) if seconds > 0.0 && seconds <= LONGEST_TIMEOUT_S => {
            Some(Duration::from_secs_f64(seconds))
        }
        Some(seconds) => {
            return Err(Refusal::new(format!(
                "`timeout_s` must be more than 0 and at most {LONGEST_TIMEOUT_S}, not {seconds}"
            )));
        }
    };
    let env = params.env.unwrap_or_default();
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Refusal::new(format!(
                "`env` holds {name:?}, which can't be set: names are not empty and have no `=`, and neither \
                 names nor values have a NUL"
            )));
        }
    }
    Ok(Exec {
        command: params.command,
        cwd: params.cwd.filter(|cwd| !cwd.is_empty()),
        env,
        stdin: params.stdin.map(Bytes::from).unwrap_or_default(),
        timeout,
        detach: background.then_some(Detach::Now),
        user: match params.user {
            Some(Who::Root) => User::Root,
            Some(Who::Sandbox) | None => User::Sandbox,
        },
    })
}

async fn collect(
    sandbox: &Arc<Sandbox>,
    exec: Exec,
    work: Work,
) -> Result<(Ran, Collector, Collector), SandboxError> {
    let mut stdout = Collector::default();
    let mut stderr = Collector::default();
    let newest = &work.newest;
    let mut take = |output: Output| {
        let (collector, piece) = match &output {
            Output::Stdout(piece) => (&mut stdout, piece),
            Output::Stderr(piece) => (&mut stderr, piece),
        };
        collector.push(piece);
        if let Some(line) = text::newest_line(piece) {
            newest.send_replace(line);
        }
    };
    let ran = sandbox
        .exec(exec, &mut take, &work.cancel, &work.progress)
        .await?;
    Ok((ran, stdout, stderr))
}

/// The result of a command that is a job now.
fn went_on(
    job: &JobInfo,
    stdout: Collector,
    stderr: Collector,
    after: Duration,
    handle: Option<&str>,
) -> Result<CallToolResult, Refusal> {
    let seen = stdout.total() + stderr.total();
    let id = &job.id;
    let stdout = stdout.finish(Some(&job.output_file), 0);
    let stderr = stderr.finish(Some(&job.output_file), 0);
    let ended = job.outcome.as_ref().map(job::ended);
    let (signal, exit_code) = match &job.outcome {
        Some(Outcome::Exited { code }) => (None, Some(*code)),
        Some(Outcome::Signaled { signal }) => (Some(format!("SIG{signal}")), None),
        _ => (None, None),
    };
    let how = match ended {
        Some(how) => format!("the job `{id}` has ended already: {how}"),
        None if seen == 0 && after < Duration::from_secs(5) => format!("started as job `{id}`"),
        None => format!(
            "still running after {}, so it goes on in the background as job `{id}`, with the same time limit",
            text::duration(after)
        ),
    };
    let text = format!(
        "{}[{how}; the tool `job` has its output: action `output` or `wait`, id `{id}`, offset {seen}]",
        match (stdout.text.is_empty(), stderr.text.is_empty()) {
            (true, true) => String::new(),
            _ => streams(&stdout, &stderr),
        }
    );
    let structured = Structured {
        exit_code,
        signal,
        timed_out: job.outcome == Some(Outcome::TimedOut),
        out_of_memory: job.outcome == Some(Outcome::OutOfMemory),
        truncated: stdout.omitted > 0 || stderr.omitted > 0,
        stdout_bytes: None,
        stderr_bytes: None,
        stdout_file: None,
        stderr_file: None,
        stdout_uri: None,
        stderr_uri: None,
        left_running: job.left_running,
        job_id: Some(id.clone()),
        job_uri: Some(job_uri(id, handle)),
        job_offset: Some(seen),
        duration_ms: job.duration_ms,
        stdout: stdout.text,
        stderr: stderr.text,
    };
    result(vec![ContentBlock::text(text)], &structured)
}

fn as_structured(end: ExecEnd, stdout: Bounded, stderr: Bounded) -> Structured {
    let (mut exit_code, mut signal) = (None, None);
    match &end.outcome {
        Outcome::Exited { code } => exit_code = Some(*code),
        Outcome::Signaled { signal: name } => signal = Some(format!("SIG{name}")),
        Outcome::TimedOut | Outcome::OutOfMemory | Outcome::Cancelled => {}
    }
    Structured {
        exit_code,
        signal,
        timed_out: end.outcome == Outcome::TimedOut,
        out_of_memory: end.outcome == Outcome::OutOfMemory,
        truncated: stdout.omitted > 0 || stderr.omitted > 0,
        stdout_bytes: (stdout.omitted > 0).then_some(end.stdout_bytes),
        stderr_bytes: (stderr.omitted > 0).then_some(end.stderr_bytes),
        stdout_file: end.stdout_file,
        stderr_file: end.stderr_file,
        stdout_uri: None,
        stderr_uri: None,
        left_running: end.left_running,
        job_id: None,
        job_uri: None,
        job_offset: None,
        duration_ms: u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX),
        stdout: stdout.text,
        stderr: stderr.text,
    }
}

fn as_text(end: &ExecEnd, stdout: &Bounded, stderr: &Bounded, timeout: Duration) -> String {
    let took = text::duration(end.duration);
    let how = match &end.outcome {
        Outcome::Exited { code } => format!("exit code {code}, {took}"),
        Outcome::Signaled { signal } => format!("killed by SIG{signal}, {took}"),
        Outcome::TimedOut => format!(
            "timed out after {}: the command and all it started were killed; pass a longer `timeout_s`, or \
             `background` to start it as a job",
            text::duration(timeout)
        ),
        Outcome::OutOfMemory => {
            format!("killed because the VM ran out of memory, {took}")
        }
        Outcome::Cancelled => format!("cancelled, {took}"),
    };
    let background = if end.left_running {
        "[background processes are still running]\n"
    } else {
        ""
    };
    format!("{}{background}[{how}]", streams(stdout, stderr))
}

/// Both streams for a reader, each ending in a line break.
fn streams(stdout: &Bounded, stderr: &Bounded) -> String {
    let mut text = text::without_escapes(&stdout.text);
    end_line(&mut text);
    if !stderr.text.is_empty() {
        text.push_str("[stderr]\n");
        text.push_str(&text::without_escapes(&stderr.text));
        end_line(&mut text);
    }
    if text.is_empty() {
        text.push_str("[no output]\n");
    }
    text
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn end(outcome: Outcome) -> ExecEnd {
        ExecEnd {
            outcome,
            duration: Duration::from_millis(350),
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_file: None,
            stderr_file: None,
            left_running: false,
        }
    }

    fn shown(text: &str) -> Bounded {
        Bounded {
            text: text.to_owned(),
            omitted: 0,
        }
    }

    fn parse(arguments: serde_json::Value) -> Result<Exec, Refusal> {
        let object = arguments.as_object().cloned();
        checked(args::parse(&tool(MINUTE), object)?, MINUTE)
    }

    fn refusal(arguments: serde_json::Value) -> String {
        parse(arguments).unwrap_err().message().to_owned()
    }

    #[test]
    fn text_holds_both_streams_and_how_it_ended() {
        let exited = end(Outcome::Exited { code: 1 });
        assert_eq!(
            as_text(
                &exited,
                &shown("out"),
                &shown("\u{1b}[31merr\u{1b}[m\n"),
                MINUTE
            ),
            "out\n[stderr]\nerr\n[exit code 1, 0.35 s]"
        );
        assert_eq!(
            as_text(
                &end(Outcome::Exited { code: 0 }),
                &shown(""),
                &shown(""),
                MINUTE
            ),
            "[no output]\n[exit code 0, 0.35 s]"
        );
        let mut killed = end(Outcome::Signaled {
            signal: "KILL".to_owned(),
        });
        killed.left_running = true;
        assert_eq!(
            as_text(&killed, &shown(""), &shown("e"), MINUTE),
            "[stderr]\ne\n[background processes are still running]\n[killed by SIGKILL, 0.35 s]"
        );
        let text = as_text(&end(Outcome::TimedOut), &shown("a\n"), &shown(""), MINUTE);
        assert!(text.starts_with("a\n[timed out after 60.0 s:"), "{text}");
    }

    #[test]
    fn structured_tells_outcomes_apart() {
        let of = |outcome| {
            serde_json::to_value(as_structured(end(outcome), shown("o"), shown(""))).unwrap()
        };
        assert_eq!(
            of(Outcome::Exited { code: 3 }),
            json!({"exit_code": 3, "timed_out": false, "stdout": "o", "stderr": "", "truncated": false,
                   "duration_ms": 350})
        );
        let signaled = of(Outcome::Signaled {
            signal: "TERM".to_owned(),
        });
        assert_eq!(signaled["signal"], "SIGTERM");
        assert!(signaled.get("exit_code").is_none());
        assert_eq!(of(Outcome::TimedOut)["timed_out"], true);
        assert_eq!(of(Outcome::OutOfMemory)["out_of_memory"], true);
    }

    #[test]
    fn a_cut_stream_says_how_long_it_was_and_where_it_is() {
        let mut long = end(Outcome::Exited { code: 0 });
        long.stdout_bytes = 5_000_000;
        long.stdout_file = Some("/run/out".to_owned());
        let mut collector = Collector::default();
        collector.push(&vec![b'x'; 5_000_000]);
        let stdout = collector.finish(long.stdout_file.as_deref(), long.stdout_bytes);
        let structured = as_structured(long, stdout, shown(""));
        assert!(structured.truncated);
        assert_eq!(structured.stdout_bytes, Some(5_000_000));
        assert!(structured.stdout.contains("4,990,000 bytes omitted"));
        assert!(structured.stdout.contains("whole output in /run/out"));
        assert_eq!(structured.stderr_bytes, None);
    }

    #[test]
    fn arguments_become_a_command() {
        let exec = parse(json!({
            "command": "a && b", "cwd": "", "env": {"N": 1, "S": "x"}, "stdin": "in", "timeout_s": "2.5",
            "user": "root",
        }))
        .unwrap();
        assert_eq!(exec.cwd, None);
        assert_eq!(exec.env["N"], "1");
        assert_eq!(exec.stdin.as_ref(), b"in");
        assert_eq!(exec.timeout, Some(Duration::from_millis(2500)));
        assert_eq!(exec.user, User::Root);
        assert_eq!(
            parse(json!({"command": "a"})).unwrap().timeout,
            Some(MINUTE)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_advice() {
        assert_eq!(
            refusal(json!({})),
            "`command` is missing: The shell line, run by bash (or sh): pipes, `&&` and here-documents work"
        );
        assert_eq!(
            refusal(json!({"cmd": "ls"})),
            "unknown argument `cmd`: did you mean `command`? the arguments are `background`, `command`, `cwd`, \
             `env`, `stdin`, `timeout_s`, `user`"
        );
        assert!(refusal(json!({"command": "ls", "timeout": 3})).contains("`timeout_s`?"));
        assert_eq!(
            refusal(json!({"command": ["ls", "-l"]})),
            "`command` must be a string, not an array; send JSON as text, in a string"
        );
        assert_eq!(
            refusal(json!({"command": "ls", "timeout_s": 0})),
            "`timeout_s` must be more than 0 and at most 86400, not 0"
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
