//! `exec`: runs a shell line.
//!
//! Standard output and error are as a terminal shows them in the end ([`terminal`](crate::mcp::output::terminal)), or
//! with `raw` unchanged but for invalid UTF-8; both are bounded by [`output`](crate::mcp::output). Both forms of the
//! result hold the same.

mod command;
mod result;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Resource};

use self::command::{MAX_TIMEOUT_S, Parameters, Request};
use self::result::{Structured, streams};
use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::guest::GuestError;
use crate::mcp::call::Work;
use crate::mcp::facts::{Facts, Workspace};
use crate::mcp::notes::{Notes, success};
use crate::mcp::outcome;
use crate::mcp::output::{OutputStream, cleaned_note};
use crate::mcp::refusal::Refusal;
use crate::mcp::resources::address::{job_uri, output_uri};
use crate::sandbox::{
    Detach, ErrorKind, Exec as SandboxExec, ExecEnd, JobInfo, Outcome, Output, Program, Ran,
    STOP_GRACE, Sandbox, SandboxError,
};
use crate::text;
use crate::time::millis;

pub(crate) struct Exec;

impl Tool for Exec {
    type Parameters = Parameters;

    const NAME: &'static str = "exec";
    const TITLE: &'static str = "Run a command";
    const ICON: &'static str = "<path d='M4 6l6 6-6 6M12 18h8'/>";
    const HINTS: Hints = Hints::RUNS;

    fn description(_: &Facts) -> String {
        "Run a shell command in the microVM and get its stdout, stderr and exit status. Each call is a new \
         shell. A command that fails is a normal result with its exit code. Long output is cut to head and \
         tail, and the whole kept in a file in the VM."
            .to_owned()
    }

    fn parameters(facts: &Facts) -> JsonObject {
        let mut schema = schema::input::<Parameters>();
        let timeout = format!(
            "Seconds after which the command and all it started get SIGTERM; what still runs {} s later is killed. \
             Fractions allowed, at most {MAX_TIMEOUT_S} (default {})",
            STOP_GRACE.as_secs(),
            facts.exec_timeout.as_secs_f64()
        );
        let default_directory = match facts.workspace {
            Workspace::Shared | Workspace::Copied => "/workspace",
            Workspace::OwnDisk => "the image's own, else /workspace",
        };
        let directory = format!(
            "Working directory, absolute or relative to /workspace (default {default_directory})"
        );
        schema::describe(&mut schema, "timeout_s", timeout);
        schema::describe(&mut schema, "cwd", directory);
        schema
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let Context {
            sandbox,
            facts,
            call,
        } = context;
        let default_timeout = facts.exec_timeout;
        let Request {
            mut exec,
            raw,
            mut notes,
        } = command::request(parameters, default_timeout)?;
        let is_array = matches!(exec.command, Program::Argv(_));
        let timeout = exec.limit.time(default_timeout).unwrap_or(default_timeout);
        let background_after = sandbox.config().calls.background_after;
        if exec.detach.is_none() && !call.wants_progress() && timeout > background_after {
            // Without progress such a client can't know that the command still runs, and gives up after a minute.
            exec.detach = Some(Detach::After(millis(background_after)));
        }
        let began = Instant::now();
        let (ran, stdout, stderr) = call
            .run(move |work| async move { collect(&sandbox, exec, raw, work).await })
            .await?
            .map_err(|error| not_run(error, is_array))?;
        let end = match ran {
            Ran::Ended(end) => end,
            Ran::Job(job) => {
                let output = (stdout, stderr);
                return detached(&job, output, began.elapsed(), call.handle(), notes);
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
        let mut content = vec![ContentBlock::text(result::as_text(
            &end, &stdout, &stderr, timeout,
        ))];
        result::add_notes(&end, &stdout, &stderr, &mut notes);
        let links = links(&end, call.handle());
        let mut structured = Structured::ended(end, stdout, stderr);
        for (stream, uri) in links {
            if call.supports_links() {
                let link = Resource::new(uri.clone(), stream)
                    .with_title(format!("All of {stream}"))
                    .with_mime_type("text/plain");
                content.push(ContentBlock::resource_link(link));
            }
            match stream {
                "stdout" => structured.stdout_uri = Some(uri),
                _ => structured.stderr_uri = Some(uri),
            }
        }
        success(content, &structured, notes)
    }
}

/// The streams whose whole is in a file, each with the address of that file as a resource.
fn links(end: &ExecEnd, handle: Option<&str>) -> Vec<(&'static str, String)> {
    let files = [("stdout", &end.stdout_file), ("stderr", &end.stderr_file)];
    files
        .into_iter()
        .filter_map(|(stream, file)| Some((stream, output_uri(file.as_deref()?, handle)?)))
        .collect()
}

/// Why a command did not run; `is_array`: it came as an array, so no shell looked at it.
fn not_run(error: SandboxError, is_array: bool) -> Refusal {
    let not_started = matches!(&error, SandboxError::Guest(GuestError::Guest(wire))
        if matches!(wire.kind, ErrorKind::NotStarted | ErrorKind::NoProgram | ErrorKind::NotExecutable));
    let refusal = Refusal::from(error);
    match is_array && not_started {
        false => refusal,
        true => Refusal::new(format!(
            "{}; `command` was an array, so it was run without a shell: send one string for a shell line",
            refusal.message()
        )),
    }
}

/// Runs a command and collects its output.
async fn collect(
    sandbox: &Arc<Sandbox>,
    exec: SandboxExec,
    raw: bool,
    work: Work,
) -> Result<(Ran, OutputStream, OutputStream), SandboxError> {
    let mut stdout = OutputStream::new(raw);
    let mut stderr = OutputStream::new(raw);
    let mut take = |output: Output| {
        let (stream, piece) = match &output {
            Output::Stdout(piece) => (&mut stdout, piece),
            Output::Stderr(piece) => (&mut stderr, piece),
        };
        stream.push(piece);
        if let Some(line) = stream.newest_line() {
            work.newest_line.send_replace(line);
        }
    };
    let ran = sandbox
        .exec(exec, &mut take, &work.cancel, &work.progress)
        .await?;
    Ok((ran, stdout, stderr))
}

/// The result of a command that became a job.
fn detached(
    job: &JobInfo,
    (stdout, stderr): (OutputStream, OutputStream),
    after: Duration,
    handle: Option<&str>,
    mut notes: Notes,
) -> Result<CallToolResult, Refusal> {
    let id = &job.id;
    let offset = stdout.total() + stderr.total();
    let stdout = stdout.finish(Some(&job.output_file), 0);
    let stderr = stderr.finish(Some(&job.output_file), 0);
    let state = match &job.outcome {
        Some(outcome) => format!(
            "the job `{id}` has ended already: {}",
            outcome::in_words(outcome, job.killed)
        ),
        None if offset == 0 && after < Duration::from_secs(5) => format!("started as job `{id}`"),
        None => format!(
            "still running after {}, so it goes on in the background as job `{id}`, with the same time limit",
            text::duration(after)
        ),
    };
    notes.add(format!(
        "{state}; the tool `job` has its output: action `output` or `wait`, id `{id}`, offset {offset}"
    ));
    if job.left_running {
        notes.add("background processes are still running");
    }
    if stdout.cleaned || stderr.cleaned {
        notes.add(cleaned_note("output", Some(&job.output_file)));
    }
    let text = match stdout.text.is_empty() && stderr.text.is_empty() {
        true => String::new(),
        false => streams(&stdout, &stderr),
    };
    let uri = job_uri(id, handle);
    let structured = Structured::detached(job, uri, offset, stdout, stderr);
    success(vec![ContentBlock::text(text)], &structured, notes)
}
