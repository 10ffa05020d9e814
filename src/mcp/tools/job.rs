//! `job`: commands in the background: what there is, their output, their end, their input.
//!
//! Output is both streams in the order they came, by the byte offset of what came; characters and sequences are never
//! cut in two. It is shown as a terminal would show this part of it ([`terminal`](crate::mcp::output::terminal)), or with `raw` as
//! it came. Whatever is done with a job, the result holds the job as it is afterwards.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::call::{Call, Notes, Refusal, Work, noted, result};
use crate::mcp::output::newest_line;
use crate::mcp::output::terminal::Terminal;
use crate::mcp::output::utf8::{whole_at_end, whole_at_start};
use crate::mcp::tools::arguments;
use crate::mcp::tools::exec::changed;
use crate::mcp::tools::schema;
use crate::sandbox::{
    JobAction, JobInfo, JobReport, Outcome, STOP_GRACE, Sandbox, SandboxError, User,
};
use crate::text;

pub(crate) const NAME: &str = "job";

/// How much output is given where the call says nothing, and at most.
const DEFAULT_LIMIT: u64 = 10_000;
const LONGEST_LIMIT: u64 = 40_000;

/// How long `wait` waits where the call says nothing, and at most.
const DEFAULT_WAIT_S: f64 = 30.0;
const LONGEST_WAIT_S: f64 = 86_400.0;

/// The longest cut sequence that is left for the next window, in bytes: what is longer is shown, else nothing might be.
const LONGEST_CUT: usize = 256;

/// How often somebody who waits hears of new output.
const LOOK: Duration = Duration::from_secs(2);

/// How much of the command is shown in the list, in characters.
const SHOWN_COMMAND: usize = 80;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
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
    /// output, wait, kill: give output as it came; otherwise as a terminal would show it (default false)
    raw: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Output,
    Wait,
    Kill,
    Input,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Structured {
    /// What was done
    action: Action,
    /// The job as it is now; of list every job, the oldest first
    jobs: Vec<Job>,
    /// Output as a terminal would show it at last, both streams in the order they came
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// The byte at which this output starts
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// The offset to go on with
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
    /// Whether there is more output already
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Job {
    /// Its name
    id: String,
    /// The command, shortened
    command: String,
    /// Who runs it: sandbox or root
    user: String,
    /// running, exited, signaled, timed_out, killed or out_of_memory
    state: String,
    /// Exit status, if it exited by itself
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    /// The signal that ended it, such as SIGSEGV
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    /// How long it has been running, or ran, in milliseconds
    duration_ms: u64,
    /// Bytes of output so far
    output_bytes: u64,
    /// File in the VM with the output, of a very long one the first 64 MiB
    output_file: String,
    /// Whether `input` can be sent
    takes_input: bool,
}

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Manage background jobs (commands started by exec with `background`, or that became one): list them, \
         get output from an offset on, wait for the end, kill with everything started (SIGTERM, and 2 s later \
         SIGKILL), send input. Jobs end with a reboot or a restored snapshot.",
        schema::input::<Params>(),
    )
    .with_title("Manage background jobs")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Manage background jobs")
            .read_only(false)
            .destructive(true)
            .idempotent(false)
            .open_world(false),
    )
}

/// What a call asks for, checked.
#[derive(Debug, PartialEq)]
enum Asked {
    List,
    Job {
        id: String,
        what: What,
        offset: Option<u64>,
        limit: u64,
    },
}

#[derive(Debug, PartialEq)]
enum What {
    Output,
    Wait(Duration),
    Kill,
    Input { input: Bytes, end: bool },
}

pub(crate) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let params: Params = arguments::parse(tool, arguments)?;
    let action = params.action;
    let how = How {
        raw: params.raw.unwrap_or(false),
        newest: params.offset.is_none(),
    };
    let mut asked = checked(params)?;
    let patience = sandbox.config().calls.background_after;
    if let Asked::Job {
        what: What::Wait(time),
        ..
    } = &mut asked
        && !call.hears_progress()
    {
        *time = (*time).min(patience);
    }
    let hears = call.hears_progress();
    let (jobs, output) = call
        .run(move |work| async move { act(&sandbox, asked, hears, &work).await })
        .await??;
    let mut notes = Notes::default();
    let (text, structured) = shown(action, &jobs, output, how, &mut notes);
    Ok(noted(
        result(vec![ContentBlock::text(text)], &structured)?,
        notes,
    ))
}

/// How output is shown.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    /// As it came.
    raw: bool,
    /// No offset was asked for.
    newest: bool,
}

fn checked(params: Params) -> Result<Asked, Refusal> {
    let word = format!("{:?}", params.action).to_lowercase();
    if params.action == Action::List {
        return Ok(Asked::List);
    }
    let Some(id) = params.id.filter(|id| !id.is_empty()) else {
        return Err(Refusal::new(format!(
            "`id` is missing: which job to {word}? `list` names them"
        )));
    };
    let only = |given: bool, name: &str, action: Action| {
        if given && params.action != action {
            let action = format!("{action:?}").to_lowercase();
            return Err(Refusal::new(format!(
                "`{name}` is for `{action}`, not for `{word}`"
            )));
        }
        Ok(())
    };
    only(params.input.is_some(), "input", Action::Input)?;
    only(params.end == Some(true), "end", Action::Input)?;
    only(params.timeout_s.is_some(), "timeout_s", Action::Wait)?;
    let what = match params.action {
        Action::List | Action::Output => What::Output,
        Action::Kill => What::Kill,
        Action::Wait => match params.timeout_s.unwrap_or(DEFAULT_WAIT_S) {
            seconds if (0.0..=LONGEST_WAIT_S).contains(&seconds) => {
                What::Wait(Duration::from_secs_f64(seconds))
            }
            seconds => {
                return Err(Refusal::new(format!(
                    "`timeout_s` must be 0 to {LONGEST_WAIT_S}, not {seconds}"
                )));
            }
        },
        Action::Input => {
            let end = params.end.unwrap_or(false);
            let input = params.input.unwrap_or_default();
            if input.is_empty() && !end {
                return Err(Refusal::new(
                    "`input` is missing: text for standard input, or `end` to close it",
                ));
            }
            What::Input {
                input: input.into(),
                end,
            }
        }
    };
    Ok(Asked::Job {
        id,
        what,
        offset: params.offset,
        limit: params.limit.unwrap_or(DEFAULT_LIMIT).min(LONGEST_LIMIT),
    })
}

type Done = (Vec<JobInfo>, Option<(JobReport, Bytes)>);

async fn act(
    sandbox: &Arc<Sandbox>,
    asked: Asked,
    hears: bool,
    work: &Work,
) -> Result<Done, SandboxError> {
    let (id, what, offset, limit) = match asked {
        Asked::List => return Ok((sandbox.jobs(&work.progress).await?, None)),
        Asked::Job {
            id,
            what,
            offset,
            limit,
        } => (id, what, offset, limit),
    };
    let output = JobAction::Output { offset, limit };
    match what {
        What::Output => {}
        What::Wait(time) => wait(sandbox, &id, time, hears, work).await?,
        What::Kill => {
            sandbox
                .job(&id, JobAction::Kill, Bytes::new(), &work.progress)
                .await?;
        }
        What::Input { input, end } => {
            let action = JobAction::Input { end };
            let (report, _) = sandbox.job(&id, action, input, &work.progress).await?;
            return Ok((vec![report.job], None));
        }
    }
    let (report, data) = sandbox
        .job(&id, output, Bytes::new(), &work.progress)
        .await?;
    Ok((vec![report.job.clone()], Some((report, data))))
}

/// Waits for the end; who hears of it hears the newest line meanwhile.
async fn wait(
    sandbox: &Arc<Sandbox>,
    id: &str,
    time: Duration,
    hears: bool,
    work: &Work,
) -> Result<(), SandboxError> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let slice = if hears { left.min(LOOK) } else { left };
        let action = JobAction::Wait {
            timeout_ms: slice.as_millis() as u64,
        };
        let waited = tokio::select! {
            waited = sandbox.job(id, action, Bytes::new(), &work.progress) => waited?,
            () = work.cancel.cancelled() => return Ok(()),
        };
        if waited.0.job.outcome.is_some() || left <= slice {
            return Ok(());
        }
        let newest = JobAction::Output {
            offset: None,
            limit: 1000,
        };
        let (_, data) = sandbox
            .job(id, newest, Bytes::new(), &work.progress)
            .await?;
        if let Some(line) = newest_line(&data) {
            work.newest.send_replace(line);
        }
    }
}

/// A window of a job's output.
#[derive(Debug)]
struct Window {
    text: String,
    /// Where it starts and ends in what came.
    start: u64,
    end: u64,
    changed: bool,
}

/// What of this window of a job's output is shown. What its edges cut in two is left out at the start, and comes
/// with the next window at the end.
fn window(report: &JobReport, data: &[u8], how: How) -> Window {
    let mut whole = match report.offset {
        0 => data,
        _ => whole_at_start(data),
    };
    if how.newest && !how.raw && report.offset > 0 {
        // The start may be in the middle of anything but a line that follows another.
        let line = whole.iter().position(|byte| *byte == b'\n');
        whole = match line {
            Some(line) if line + 1 < whole.len() => &whole[line + 1..],
            _ => whole,
        };
    }
    let start = report.offset + (data.len() - whole.len()) as u64;
    let cut = whole_at_end(whole);
    let mut given = if cut.is_empty() { whole } else { cut };
    if how.raw {
        return Window {
            text: String::from_utf8_lossy(given).into_owned(),
            start,
            end: start + given.len() as u64,
            changed: false,
        };
    }
    let mut shown = Vec::with_capacity(given.len());
    let mut terminal = Terminal::default();
    terminal.push(given, &mut |piece| shown.extend_from_slice(piece));
    let waiting = terminal.waiting();
    let end = start + given.len() as u64;
    let more = report.job.outcome.is_none() || end < report.job.kept_bytes;
    if more && (1..=LONGEST_CUT).contains(&waiting) && waiting < given.len() {
        given = &given[..given.len() - waiting];
        shown.clear();
        terminal = Terminal::default();
        terminal.push(given, &mut |piece| shown.extend_from_slice(piece));
    }
    let changed = terminal.finish(&mut |piece| shown.extend_from_slice(piece));
    Window {
        text: String::from_utf8_lossy(&shown).into_owned(),
        start,
        end: start + given.len() as u64,
        changed,
    }
}

/// Both forms of the result.
fn shown(
    action: Action,
    jobs: &[JobInfo],
    output: Option<(JobReport, Bytes)>,
    how: How,
    notes: &mut Notes,
) -> (String, Structured) {
    let mut structured = Structured {
        action,
        jobs: jobs.iter().map(job).collect(),
        output: None,
        offset: None,
        next_offset: None,
        more: None,
    };
    let mut text = String::new();
    if let Some((report, data)) = output {
        let window = window(&report, &data, how);
        let (offset, next) = (window.start, window.end);
        if window.changed {
            notes.add(changed("output", Some(&report.job.output_file)));
        }
        if report.job.left_running {
            notes.add("background processes of it are still running");
        }
        text.push_str(&window.text);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        structured.more = Some(next < report.job.kept_bytes);
        structured.output = Some(window.text);
        structured.offset = Some(offset);
        structured.next_offset = Some(next);
        let _ = write!(text, "[{}", described(&report.job));
        if next > offset {
            let _ = write!(text, "; output bytes {offset} to {next}");
        } else {
            text.push_str("; no output there");
        }
        let _ = write!(
            text,
            " of {}; the next offset is {next}]",
            report.job.output_bytes
        );
        return (text, structured);
    }
    if action == Action::List && jobs.is_empty() {
        text.push_str("there are no jobs");
    }
    for info in jobs {
        let Job {
            user,
            output_bytes,
            output_file,
            takes_input,
            ..
        } = job(info);
        let input = if takes_input { "; takes input" } else { "" };
        let _ = writeln!(
            text,
            "{}\n  by {user}; {output_bytes} bytes of output in {output_file}{input}",
            described(info)
        );
    }
    (text, structured)
}

/// A job as results show it.
pub(crate) fn job(info: &JobInfo) -> Job {
    let (mut exit_code, mut signal) = (None, None);
    let state = match &info.outcome {
        None => "running",
        Some(Outcome::Exited { code }) => {
            exit_code = Some(*code);
            "exited"
        }
        Some(Outcome::Signaled { signal: name }) => {
            signal = Some(format!("SIG{name}"));
            "signaled"
        }
        Some(Outcome::TimedOut) => "timed_out",
        Some(Outcome::Cancelled) => "killed",
        Some(Outcome::OutOfMemory) => "out_of_memory",
    };
    Job {
        id: info.id.clone(),
        command: info.command.clone(),
        user: match info.user {
            User::Root => "root".to_owned(),
            User::Sandbox => "sandbox".to_owned(),
        },
        state: state.to_owned(),
        exit_code,
        signal,
        duration_ms: info.duration_ms,
        output_bytes: info.output_bytes,
        output_file: info.output_file.clone(),
        takes_input: info.takes_input,
    }
}

/// How what was ended by us ended.
pub(crate) fn how_stopped(killed: bool) -> String {
    match killed {
        false => "ended by SIGTERM".to_owned(),
        true => format!(
            "killed, {} s after SIGTERM, which did not end all of it",
            STOP_GRACE.as_secs()
        ),
    }
}

/// How a job ended, in words; `killed` says whether force was needed.
pub(crate) fn ended(outcome: &Outcome, killed: bool) -> String {
    match outcome {
        Outcome::Exited { code } => format!("exit code {code}"),
        Outcome::Signaled { signal } => format!("killed by SIG{signal}"),
        Outcome::TimedOut => format!("its time was up: {}", how_stopped(killed)),
        Outcome::OutOfMemory => "killed because the VM ran out of memory".to_owned(),
        Outcome::Cancelled => how_stopped(killed),
    }
}

/// One line about a job.
pub(crate) fn described(info: &JobInfo) -> String {
    let line = info.command.lines().next().unwrap_or_default();
    let mut command: String = line.chars().take(SHOWN_COMMAND).collect();
    if command.len() < info.command.len() {
        command.push('…');
    }
    let took = text::duration(Duration::from_millis(info.duration_ms));
    let state = match &info.outcome {
        None => format!("running for {took}"),
        Some(outcome @ (Outcome::TimedOut | Outcome::Cancelled)) => {
            format!("{}; {took} in all", ended(outcome, info.killed))
        }
        Some(outcome) => format!("{} after {took}", ended(outcome, info.killed)),
    };
    format!("job `{}`: {state}: {command}", info.id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(arguments: serde_json::Value) -> Result<Asked, String> {
        arguments::parse(&tool(), arguments.as_object().cloned())
            .and_then(checked)
            .map_err(|refusal| refusal.message().to_owned())
    }

    fn info(outcome: Option<Outcome>) -> JobInfo {
        JobInfo {
            id: "job-a-1".to_owned(),
            command: "make\ntest".to_owned(),
            user: User::Sandbox,
            started_ms: 0,
            duration_ms: 1500,
            output_bytes: 8,
            kept_bytes: 8,
            output_file: "/f".to_owned(),
            takes_input: outcome.is_none(),
            outcome,
            left_running: false,
            killed: false,
        }
    }

    #[test]
    fn each_action_takes_its_own_arguments() {
        assert_eq!(parsed(json!({"action": "list"})), Ok(Asked::List));
        assert_eq!(
            parsed(json!({"action": "wait", "id": "j", "timeout_s": 5, "offset": 3})),
            Ok(Asked::Job {
                id: "j".to_owned(),
                what: What::Wait(Duration::from_secs(5)),
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

    #[test]
    fn output_never_cuts_a_character_and_says_where_to_go_on() {
        // "é" starts at byte 3 of the job's output and the window ends inside "ü".
        let data = Bytes::from_static(b"\xa9 ab\xc3");
        let report = JobReport {
            job: info(None),
            offset: 3,
            next_offset: 8,
        };
        let how = How::default();
        let mut notes = Notes::default();
        let output = Some((report, data));
        let (text, structured) = shown(Action::Output, &[info(None)], output, how, &mut notes);
        assert_eq!(notes, Notes::default());
        assert_eq!(structured.output.as_deref(), Some(" ab"));
        assert_eq!(
            (structured.offset, structured.next_offset, structured.more),
            (Some(4), Some(7), Some(true))
        );
        assert_eq!(
            text,
            " ab\n[job `job-a-1`: running for 1.50 s: make…; output bytes 4 to 7 of 8; the next offset is 7]"
        );
    }

    #[test]
    fn a_window_is_shown_as_a_terminal_would_and_cuts_no_sequence() {
        let of = |data: &str, offset: u64, how: How| {
            let mut job = info(None);
            job.kept_bytes = offset + data.len() as u64;
            let report = JobReport {
                offset,
                next_offset: job.kept_bytes,
                job,
            };
            let window = window(&report, data.as_bytes(), how);
            (window.text, window.start, window.end, window.changed)
        };
        let bars = "10%\r100%\r\n\x1b[32mok\x1b[3";
        let from = How::default();
        assert_eq!(of(bars, 0, from), ("100%\nok".to_owned(), 0, 17, true));
        assert_eq!(of("1m", 17, from), ("1m".to_owned(), 17, 19, false));
        let newest = How {
            newest: true,
            ..from
        };
        assert_eq!(
            of("31mx\nnew", 5, newest),
            ("new".to_owned(), 10, 13, false)
        );
        assert_eq!(of("a\nb", 0, newest), ("a\nb".to_owned(), 0, 3, false));
        assert_eq!(of("a\n", 5, newest), ("a\n".to_owned(), 5, 7, false));
        let raw = How {
            raw: true,
            ..newest
        };
        assert_eq!(
            of(bars, 7, raw),
            (bars.to_owned(), 7, 7 + bars.len() as u64, false)
        );
        // What never ends is not waited for.
        let open = format!("a\x1b]0;{}", "x".repeat(300));
        assert_eq!(of(&open, 0, from).2, open.len() as u64);
        assert_eq!(of("\x1b[", 0, from), (String::new(), 0, 2, true));
    }

    #[test]
    fn both_forms_tell_how_it_ended() {
        let ended = info(Some(Outcome::Exited { code: 3 }));
        let list = |jobs: &[JobInfo]| {
            shown(
                Action::List,
                jobs,
                None,
                How::default(),
                &mut Notes::default(),
            )
        };
        let (text, structured) = list(&[ended]);
        assert_eq!(
            text,
            "job `job-a-1`: exit code 3 after 1.50 s: make…\n  by sandbox; 8 bytes of output in /f\n"
        );
        assert_eq!(structured.jobs[0].exit_code, Some(3));
        assert_eq!(structured.jobs[0].state, "exited");
        assert_eq!(list(&[]).0, "there are no jobs");
    }
}
