//! `exec`: runs a shell line.
//!
//! Standard output and error are as a terminal would show them ([`terminal`](crate::mcp::output::terminal)), or with `raw` as they
//! came, within the bound of [`output`](crate::mcp::output) and with invalid UTF-8 replaced. Both forms of the result hold
//! the same.

mod command;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Resource, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Serialize;

use crate::guest::GuestError;
use crate::mcp::call::{Call, Notes, Refusal, Work, noted, result};
use crate::mcp::output::{Bounded, Stream};
use crate::mcp::resources::{job_uri, output_uri};
use crate::mcp::tools::exec::command::{LONGEST_TIMEOUT_S, Params};
use crate::mcp::tools::job;
use crate::mcp::tools::schema;
use crate::sandbox::{
    Detach, ErrorKind, Exec, ExecEnd, JobInfo, Outcome, Output, Program, Ran, STOP_GRACE, Sandbox,
    SandboxError,
};
use crate::text;

pub(crate) const NAME: &str = "exec";

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Structured {
    /// Exit status, 0 to 255; absent if the command did not exit by itself
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    /// The signal that ended it, such as SIGSEGV
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    /// Whether it was ended because its time was up
    timed_out: bool,
    /// Whether something of it had not ended 2 s after SIGTERM and was killed
    #[serde(skip_serializing_if = "is_false")]
    killed: bool,
    /// Whether it was killed because the VM ran out of memory
    #[serde(skip_serializing_if = "is_false")]
    out_of_memory: bool,
    /// Standard output as a terminal would show it at last; of a long one the head and the tail
    stdout: String,
    /// Standard error, likewise
    stderr: String,
    /// Whether something of stdout or stderr is left out
    truncated: bool,
    /// Bytes on stdout in all, where something is not shown
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_bytes: Option<u64>,
    /// Bytes on stderr in all, where something is not shown
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_bytes: Option<u64>,
    /// File in the VM with all of stdout as it came
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_file: Option<String>,
    /// File in the VM with all of stderr as it came
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

pub(crate) fn tool(default_timeout: Duration) -> Tool {
    let mut schema = schema::input::<Params>();
    schema["properties"]["timeout_s"]["description"] = format!(
        "Seconds after which the command and all it started get SIGTERM; what still runs {} s later is killed. \
         Fractions allowed, at most {LONGEST_TIMEOUT_S} (default {})",
        STOP_GRACE.as_secs(),
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

pub(crate) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    default_timeout: Duration,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let asked = command::parse(tool, arguments, default_timeout)?;
    let (mut exec, raw, mut notes) = (asked.exec, asked.raw, asked.notes);
    let listed = matches!(exec.command, Program::Argv(_));
    let timeout = exec.limit.time(default_timeout).unwrap_or(default_timeout);
    let patience = sandbox.config().calls.background_after;
    if exec.detach.is_none() && !call.hears_progress() && timeout > patience {
        // Such a client can't know that the command is alive, and gives up on it after a minute.
        exec.detach = Some(Detach::After(patience.as_millis() as u64));
    }
    let began = Instant::now();
    let (ran, stdout, stderr) = call
        .run(move |work| async move { collect(&sandbox, exec, raw, work).await })
        .await?
        .map_err(|error| failed(error, listed))?;
    let end = match ran {
        Ran::Ended(end) => end,
        Ran::Job(job) => {
            let output = (stdout, stderr);
            return went_on(&job, output, began.elapsed(), call.handle(), notes);
        }
    };
    let stdout = stdout.finish(end.stdout_file.as_deref(), end.stdout_bytes);
    let stderr = stderr.finish(end.stderr_file.as_deref(), end.stderr_bytes);
    if end.outcome == Outcome::Cancelled {
        return Err(Refusal::new(format!(
            "the command was cancelled after {} and ended with all it started; until then:\n{}",
            text::duration(end.duration),
            streams(&stdout, &stderr)
        )));
    }
    let text = as_text(&end, &stdout, &stderr, timeout);
    say_how_it_went(&end, &stdout, &stderr, &mut notes);
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
    Ok(noted(result(content, &structured)?, notes))
}

/// Why a command did not run; `listed`: it was a list.
fn failed(error: SandboxError, listed: bool) -> Refusal {
    let not_started = matches!(&error, SandboxError::Guest(GuestError::Guest(wire)) if wire.kind == ErrorKind::NotStarted);
    let refusal = Refusal::from(error);
    if !(listed && not_started) {
        return refusal;
    }
    Refusal::new(format!(
        "{}; `command` was a list, so no shell was asked: send one text for a shell line",
        refusal.message()
    ))
}

/// What is to be said of a command that ended, beyond its output and its end.
fn say_how_it_went(end: &ExecEnd, stdout: &Bounded, stderr: &Bounded, notes: &mut Notes) {
    if end.outcome == Outcome::TimedOut {
        notes.add(format!(
            "the command and all it started were {}; pass a longer `timeout_s`, or `background` to start it as a job",
            job::how_stopped(end.killed)
        ));
    }
    if end.left_running {
        notes.add("background processes are still running");
    }
    for (name, stream, file) in [
        ("stdout", stdout, &end.stdout_file),
        ("stderr", stderr, &end.stderr_file),
    ] {
        if stream.changed {
            notes.add(changed(name, file.as_deref()));
        }
    }
}

/// What is said of output that is not shown as it came.
pub(crate) fn changed(name: &str, file: Option<&str>) -> String {
    let file = file.map(|file| format!("{file}, or ")).unwrap_or_default();
    format!("{name} is shown as a terminal would show it at last; as it came: {file}`raw`")
}

async fn collect(
    sandbox: &Arc<Sandbox>,
    exec: Exec,
    raw: bool,
    work: Work,
) -> Result<(Ran, Stream, Stream), SandboxError> {
    let mut stdout = Stream::new(raw);
    let mut stderr = Stream::new(raw);
    let newest = &work.newest;
    let mut take = |output: Output| {
        let (stream, piece) = match &output {
            Output::Stdout(piece) => (&mut stdout, piece),
            Output::Stderr(piece) => (&mut stderr, piece),
        };
        stream.push(piece);
        if let Some(line) = stream.newest() {
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
    (stdout, stderr): (Stream, Stream),
    after: Duration,
    handle: Option<&str>,
    mut notes: Notes,
) -> Result<CallToolResult, Refusal> {
    let seen = stdout.total() + stderr.total();
    let id = &job.id;
    let stdout = stdout.finish(Some(&job.output_file), 0);
    let stderr = stderr.finish(Some(&job.output_file), 0);
    let ended = job
        .outcome
        .as_ref()
        .map(|outcome| job::ended(outcome, job.killed));
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
    let shown = match (stdout.text.is_empty(), stderr.text.is_empty()) {
        (true, true) => String::new(),
        _ => streams(&stdout, &stderr),
    };
    notes.add(format!(
        "{how}; the tool `job` has its output: action `output` or `wait`, id `{id}`, offset {seen}"
    ));
    if job.left_running {
        notes.add("background processes are still running");
    }
    if stdout.changed || stderr.changed {
        notes.add(changed("output", Some(&job.output_file)));
    }
    let structured = Structured {
        exit_code,
        signal,
        timed_out: job.outcome == Some(Outcome::TimedOut),
        killed: job.killed,
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
    Ok(noted(
        result(vec![ContentBlock::text(shown)], &structured)?,
        notes,
    ))
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
        killed: end.killed,
        out_of_memory: end.outcome == Outcome::OutOfMemory,
        truncated: stdout.omitted > 0 || stderr.omitted > 0,
        stdout_bytes: (stdout.omitted > 0 || stdout.changed).then_some(end.stdout_bytes),
        stderr_bytes: (stderr.omitted > 0 || stderr.changed).then_some(end.stderr_bytes),
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
        Outcome::TimedOut => format!("timed out after {}", text::duration(timeout)),
        Outcome::OutOfMemory => {
            format!("killed because the VM ran out of memory, {took}")
        }
        Outcome::Cancelled => format!("cancelled, {took}"),
    };
    format!("{}[{how}]", streams(stdout, stderr))
}

/// Both streams for a reader, each ending in a line break.
fn streams(stdout: &Bounded, stderr: &Bounded) -> String {
    let mut text = stdout.text.clone();
    end_line(&mut text);
    if !stderr.text.is_empty() {
        text.push_str("[stderr]\n");
        text.push_str(&stderr.text);
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
            killed: false,
        }
    }

    fn shown(text: &str) -> Bounded {
        Bounded {
            text: text.to_owned(),
            omitted: 0,
            changed: false,
        }
    }

    #[test]
    fn text_holds_both_streams_and_how_it_ended() {
        let exited = end(Outcome::Exited { code: 1 });
        assert_eq!(
            as_text(&exited, &shown("out"), &shown("err\n"), MINUTE),
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
        let killed = end(Outcome::Signaled {
            signal: "KILL".to_owned(),
        });
        assert_eq!(
            as_text(&killed, &shown(""), &shown("e"), MINUTE),
            "[stderr]\ne\n[killed by SIGKILL, 0.35 s]"
        );
        let text = as_text(&end(Outcome::TimedOut), &shown("a\n"), &shown(""), MINUTE);
        assert_eq!(text, "a\n[timed out after 60.0 s]");
    }

    #[test]
    fn what_else_is_to_be_said_is_in_the_notes() {
        let mut timed_out = end(Outcome::TimedOut);
        timed_out.left_running = true;
        timed_out.killed = true;
        timed_out.stdout_file = Some("/var/tmp/out".to_owned());
        let changed = Bounded {
            changed: true,
            ..shown("x")
        };
        let mut notes = Notes::default();
        say_how_it_went(&timed_out, &changed, &changed, &mut notes);
        assert_eq!(
            notes.all(),
            [
                "the command and all it started were killed, 2 s after SIGTERM, which did not end all of it; pass a \
                 longer `timeout_s`, or `background` to start it as a job",
                "background processes are still running",
                "stdout is shown as a terminal would show it at last; as it came: /var/tmp/out, or `raw`",
                "stderr is shown as a terminal would show it at last; as it came: `raw`",
            ]
        );
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
        let mut stream = Stream::default();
        stream.push(&vec![b'x'; 5_000_000]);
        let stdout = stream.finish(long.stdout_file.as_deref(), long.stdout_bytes);
        let structured = as_structured(long, stdout, shown(""));
        assert!(structured.truncated);
        assert_eq!(structured.stdout_bytes, Some(5_000_000));
        assert!(structured.stdout.contains("4,990,000 bytes omitted"));
        assert!(structured.stdout.contains("whole output in /run/out"));
        assert_eq!(structured.stderr_bytes, None);
    }
}
