//! The result of `exec`: its structured form, its text, its notes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::mcp::notes::Notes;
use crate::mcp::outcome;
use crate::mcp::output::{Excerpt, cleaned_note};
use crate::sandbox::{ExecEnd, JobInfo, Outcome};
use crate::text;
use crate::time::millis;

#[derive(Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Structured {
    /// Exit status, 0 to 255; absent if the command did not exit by itself
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
    /// The signal that ended it, such as SIGSEGV
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    /// Whether it was ended at its time limit
    pub(crate) timed_out: bool,
    /// Whether processes of it were still running 2 s after SIGTERM and were killed
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) killed: bool,
    /// Whether it was killed because the VM ran out of memory
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) out_of_memory: bool,
    /// Standard output as a terminal shows it in the end; of a long one the head and the tail
    pub(crate) stdout: String,
    /// Standard error, likewise
    pub(crate) stderr: String,
    /// Whether parts of stdout or stderr are left out
    pub(crate) truncated: bool,
    /// All bytes on stdout, where parts are not shown
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_bytes: Option<u64>,
    /// All bytes on stderr, where parts are not shown
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_bytes: Option<u64>,
    /// File in the VM with all of stdout, unchanged
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_file: Option<String>,
    /// File in the VM with all of stderr, unchanged
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_file: Option<String>,
    /// Resource with all of stdout, for clients that read resources
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_uri: Option<String>,
    /// Resource with all of stderr
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_uri: Option<String>,
    /// Whether background processes that it started still run
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) left_running: bool,
    /// The job that the command became, for the tool `job`; absent if the command ended
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_id: Option<String>,
    /// Resource with the job's output
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_uri: Option<String>,
    /// Where the job's next output starts, for the `offset` of the tool `job`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_offset: Option<u64>,
    /// How long it ran, in milliseconds
    pub(crate) duration_ms: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Structured {
    /// The result of a command that ended.
    pub(crate) fn ended(end: ExecEnd, stdout: Excerpt, stderr: Excerpt) -> Self {
        let (exit_code, signal) = outcome::exit_code_and_signal(&end.outcome);
        Self {
            exit_code,
            signal,
            timed_out: end.outcome == Outcome::TimedOut,
            killed: end.killed,
            out_of_memory: end.outcome == Outcome::OutOfMemory,
            truncated: stdout.omitted > 0 || stderr.omitted > 0,
            stdout_bytes: (stdout.omitted > 0 || stdout.cleaned).then_some(end.stdout_bytes),
            stderr_bytes: (stderr.omitted > 0 || stderr.cleaned).then_some(end.stderr_bytes),
            stdout_file: end.stdout_file,
            stderr_file: end.stderr_file,
            left_running: end.left_running,
            duration_ms: millis(end.duration),
            stdout: stdout.text,
            stderr: stderr.text,
            ..Self::default()
        }
    }

    /// The result of a command that became a job; its next output starts at `offset`.
    pub(crate) fn detached(
        job: &JobInfo,
        job_uri: String,
        offset: u64,
        stdout: Excerpt,
        stderr: Excerpt,
    ) -> Self {
        let (exit_code, signal) = job
            .outcome
            .as_ref()
            .map(outcome::exit_code_and_signal)
            .unwrap_or_default();
        Self {
            exit_code,
            signal,
            timed_out: job.outcome == Some(Outcome::TimedOut),
            killed: job.killed,
            out_of_memory: job.outcome == Some(Outcome::OutOfMemory),
            truncated: stdout.omitted > 0 || stderr.omitted > 0,
            left_running: job.left_running,
            job_id: Some(job.id.clone()),
            job_uri: Some(job_uri),
            job_offset: Some(offset),
            duration_ms: job.duration_ms,
            stdout: stdout.text,
            stderr: stderr.text,
            ..Self::default()
        }
    }
}

/// The text form of a command that ended.
pub(crate) fn as_text(
    end: &ExecEnd,
    stdout: &Excerpt,
    stderr: &Excerpt,
    timeout: Duration,
) -> String {
    let took = text::duration(end.duration);
    let how = match &end.outcome {
        Outcome::TimedOut => format!("timed out after {}", text::duration(timeout)),
        Outcome::Cancelled => format!("cancelled, {took}"),
        outcome => format!("{}, {took}", outcome::in_words(outcome, end.killed)),
    };
    format!("{}[{how}]", streams(stdout, stderr))
}

/// Adds notes about a command that ended: what its output and its end do not show.
pub(crate) fn add_notes(end: &ExecEnd, stdout: &Excerpt, stderr: &Excerpt, notes: &mut Notes) {
    if end.outcome == Outcome::TimedOut {
        notes.add(format!(
            "the command and all it started were {}; pass a longer `timeout_s`, or `background` to start it as a job",
            outcome::stopped(end.killed)
        ));
    }
    if end.left_running {
        notes.add("background processes are still running");
    }
    for (name, stream, file) in [
        ("stdout", stdout, &end.stdout_file),
        ("stderr", stderr, &end.stderr_file),
    ] {
        if stream.cleaned {
            notes.add(cleaned_note(name, file.as_deref()));
        }
    }
}

/// Both streams as text, each ending in a line break.
pub(crate) fn streams(stdout: &Excerpt, stderr: &Excerpt) -> String {
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
    use crate::mcp::output::OutputStream;

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

    fn shown(text: &str) -> Excerpt {
        Excerpt {
            text: text.to_owned(),
            omitted: 0,
            cleaned: false,
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
    fn the_notes_hold_what_output_and_end_do_not_show() {
        let mut timed_out = end(Outcome::TimedOut);
        timed_out.left_running = true;
        timed_out.killed = true;
        timed_out.stdout_file = Some("/var/tmp/out".to_owned());
        let cleaned = Excerpt {
            cleaned: true,
            ..shown("x")
        };
        let mut notes = Notes::default();
        add_notes(&timed_out, &cleaned, &cleaned, &mut notes);
        assert_eq!(
            notes.all(),
            [
                "the command and all it started were killed, 2 s after SIGTERM, which did not end all of it; pass a \
                 longer `timeout_s`, or `background` to start it as a job",
                "background processes are still running",
                "stdout is as a terminal shows it in the end; unchanged: /var/tmp/out, or `raw`",
                "stderr is as a terminal shows it in the end; unchanged: `raw`",
            ]
        );
    }

    #[test]
    fn structured_tells_outcomes_apart() {
        let of = |outcome| {
            serde_json::to_value(Structured::ended(end(outcome), shown("o"), shown(""))).unwrap()
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
        let mut stream = OutputStream::default();
        stream.push(&vec![b'x'; 5_000_000]);
        let stdout = stream.finish(long.stdout_file.as_deref(), long.stdout_bytes);
        let structured = Structured::ended(long, stdout, shown(""));
        assert!(structured.truncated);
        assert_eq!(structured.stdout_bytes, Some(5_000_000));
        assert!(structured.stdout.contains("4,990,000 bytes omitted"));
        assert!(structured.stdout.contains("whole output in /run/out"));
        assert_eq!(structured.stderr_bytes, None);
    }
}
