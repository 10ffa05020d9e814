//! `job`: lists commands in the background, gives their output, waits for them, ends them, sends them input.
//!
//! Output is both streams in the order in which they came, by byte offset. It is as a terminal shows this part of it
//! ([`terminal`](crate::mcp::output::terminal)), or with `raw` unchanged. The result of every action holds the job as it
//! is afterwards.

mod request;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::Serialize;

use self::request::{Act, Action, Parameters, Request};
use self::window::{Display, Window};
use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::call::Work;
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::output::{cleaned_note, newest_line};
use crate::mcp::records::{JobRecord, describe_job};
use crate::mcp::refusal::Refusal;
use crate::sandbox::{JobAction, JobInfo, JobReport, Sandbox, SandboxError};
use crate::time::millis;

/// How often `wait` reports the newest line of output.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) struct Job;

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Structured {
    /// What was done
    action: Action,
    /// The job as it is now; of list every job, the oldest first
    jobs: Vec<JobRecord>,
    /// Output as a terminal shows it in the end, both streams in the order they came
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

impl Tool for Job {
    type Parameters = Parameters;

    const NAME: &'static str = "job";
    const TITLE: &'static str = "Manage background jobs";
    const ICON: &'static str = "<path d='M4 6h10M4 12h10M4 18h6'/><path d='M17 14l5 3-5 3z'/>";
    const HINTS: Hints = Hints::RUNS;

    fn description(_: &Facts) -> String {
        "Manage background jobs (commands started by exec with `background`, or that became one): list them, \
         get output from an offset on, wait for the end, kill with everything started (SIGTERM, and 2 s later \
         SIGKILL), send input. Jobs end with a reboot or a restored snapshot."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let Context { sandbox, call, .. } = context;
        let (action, display) = (parameters.action(), parameters.display());
        let mut request = parameters.request()?;
        let reports = call.wants_progress();
        if let Request::Job {
            act: Act::Wait(time),
            ..
        } = &mut request
            && !reports
        {
            // Without progress such a client gives up on a long call.
            *time = (*time).min(sandbox.config().calls.background_after);
        }
        let (jobs, output) = call
            .run(move |work| async move { act(&sandbox, request, reports, &work).await })
            .await??;
        let mut notes = Notes::default();
        let (text, structured) = result(action, &jobs, output, display, &mut notes);
        success(vec![ContentBlock::text(text)], &structured, notes)
    }
}

/// The jobs that a call was about, and the output that it asked for.
type Acted = (Vec<JobInfo>, Option<(JobReport, Bytes)>);

async fn act(
    sandbox: &Arc<Sandbox>,
    request: Request,
    reports: bool,
    work: &Work,
) -> Result<Acted, SandboxError> {
    let Request::Job {
        id,
        act,
        offset,
        limit,
    } = request
    else {
        return Ok((sandbox.jobs(&work.progress).await?, None));
    };
    let send = |action, input| sandbox.job(&id, action, input, &work.progress);
    match act {
        Act::Read => {}
        Act::Wait(time) => wait(sandbox, &id, time, reports, work).await?,
        Act::Kill => {
            send(JobAction::Kill, Bytes::new()).await?;
        }
        Act::Input { input, end } => {
            let (report, _) = send(JobAction::Input { end }, input).await?;
            return Ok((vec![report.job], None));
        }
    }
    let (report, data) = send(JobAction::Output { offset, limit }, Bytes::new()).await?;
    Ok((vec![report.job.clone()], Some((report, data))))
}

/// Waits for a job's end; `reports`: whether the client gets the newest line of output meanwhile.
async fn wait(
    sandbox: &Arc<Sandbox>,
    id: &str,
    time: Duration,
    reports: bool,
    work: &Work,
) -> Result<(), SandboxError> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let slice = match reports {
            true => left.min(REPORT_INTERVAL),
            false => left,
        };
        let action = JobAction::Wait {
            timeout_ms: millis(slice),
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
            work.newest_line.send_replace(line);
        }
    }
}

/// Both forms of the result.
fn result(
    action: Action,
    jobs: &[JobInfo],
    output: Option<(JobReport, Bytes)>,
    display: Display,
    notes: &mut Notes,
) -> (String, Structured) {
    let mut structured = Structured {
        action,
        jobs: jobs.iter().map(JobRecord::from).collect(),
        output: None,
        offset: None,
        next_offset: None,
        more: None,
    };
    let text = match output {
        Some((report, data)) => {
            let window = Window::of(&report, &data, display);
            add_notes(&report.job, window.cleaned, notes);
            let text = output_text(&report.job, &window);
            structured.more = Some(window.end < report.job.kept_bytes);
            structured.offset = Some(window.start);
            structured.next_offset = Some(window.end);
            structured.output = Some(window.text);
            text
        }
        None if action == Action::List && jobs.is_empty() => "there are no jobs".to_owned(),
        None => jobs.iter().zip(&structured.jobs).map(list_line).collect(),
    };
    (text, structured)
}

fn add_notes(job: &JobInfo, cleaned: bool, notes: &mut Notes) {
    if cleaned {
        notes.add(cleaned_note("output", Some(&job.output_file)));
    }
    if job.left_running {
        notes.add("background processes of it are still running");
    }
}

/// A window of a job's output as text, and a line about the job.
fn output_text(job: &JobInfo, window: &Window) -> String {
    let mut text = window.text.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let (start, end) = (window.start, window.end);
    let range = match end > start {
        true => format!("output bytes {start} to {end}"),
        false => "no output there".to_owned(),
    };
    let (described, total) = (describe_job(job), job.output_bytes);
    text + &format!("[{described}; {range} of {total}; the next offset is {end}]")
}

fn list_line((info, record): (&JobInfo, &JobRecord)) -> String {
    let JobRecord {
        user,
        output_bytes,
        output_file,
        ..
    } = record;
    let input = if record.takes_input {
        "; takes input"
    } else {
        ""
    };
    let described = describe_job(info);
    format!("{described}\n  by {user}; {output_bytes} bytes of output in {output_file}{input}\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sandbox::{Outcome, User};

    pub(in crate::mcp::tools) fn info(outcome: Option<Outcome>) -> JobInfo {
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
    fn output_never_cuts_a_character_and_says_where_to_go_on() {
        // "é" starts at byte 3 of the job's output and the window ends inside "ü".
        let data = Bytes::from_static(b"\xa9 ab\xc3");
        let report = JobReport {
            job: info(None),
            offset: 3,
            next_offset: 8,
        };
        let display = Display::default();
        let mut notes = Notes::default();
        let output = Some((report, data));
        let (text, structured) = result(Action::Output, &[info(None)], output, display, &mut notes);
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
    fn both_forms_tell_how_it_ended() {
        let ended = info(Some(Outcome::Exited { code: 3 }));
        let list = |jobs: &[JobInfo]| {
            result(
                Action::List,
                jobs,
                None,
                Display::default(),
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
