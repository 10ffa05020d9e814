//! How much a guest may send for a request, and how long it may take. Pure; the guest is hostile.
//!
//! A request that names a size may bring that many bytes and [`BESIDE`] more. A command's output is passed on piece by
//! piece and bounded by its receiver, so it has no bound here. A command without a time limit has no deadline either:
//! [`super::Guest`] pings the guest meanwhile.

use std::time::Duration;

use snowglobe_init::wire::{
    Detach, ExecRequest, JobAction, MAX_FREEZE, MAX_LISTING, MAX_SEARCH_TIME, ReadWant, Request,
    STOP_GRACE, tree,
};

use super::error::GuestError;

/// The longest report, in bytes.
pub(super) const LONGEST_REPORT: u64 = 1 << 20;

/// What may come in addition to the requested data, in bytes.
pub(super) const BESIDE: u64 = 64 << 10;

/// How long after its own time limit a request may still be answered.
pub(super) const LATE: Duration = Duration::from_secs(5);

/// How long an answer may take to a request without a time limit. Even with the time for a large read it is less than
/// the minute after which clients give up a call.
pub(super) const ANSWER: Duration = Duration::from_secs(40);

/// How long a listing of the whole workspace may take.
const WALK: Duration = Duration::from_secs(600);

/// How long a file of the workspace may take that is fetched or placed, beside the transfer of its content.
const FILE: Duration = Duration::from_millis(50);

/// The longest record of a listing, in bytes: two paths, and some numbers.
const LONGEST_RECORD: u64 = 10 << 10;

/// How long a build VM may take to write a layer, or all of a new root, to its disk.
const FLUSH: Duration = Duration::from_secs(1800);

/// The slowest accepted transfer, in bytes per second. A translated guest on a busy host is several times as fast.
const SLOWEST: u64 = 2 << 20;

/// The same for files of the workspace that are fetched or placed. They may be of any size, and no caller waits for them
/// with a time limit of its own.
const SLOWEST_FILE: u64 = 256 << 10;

/// The slowest accepted unpacking of a layer, in bytes per second: small files take long.
const SLOWEST_LAYER: u64 = 256 << 10;

/// The bounds of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The most bytes of data; absent: no bound.
    pub(super) data: Option<u64>,
    /// The longest time until the report; absent: no deadline.
    pub(super) time: Option<Duration>,
}

/// The bounds of a request that is sent with `input` bytes.
pub(super) fn of(request: &Request, input: u64) -> Bounds {
    let data = match request {
        Request::Exec(_) => None,
        _ => Some(wanted(request).saturating_add(BESIDE)),
    };
    let slowest = match request {
        Request::Fetch { .. } | Request::Place { .. } => SLOWEST_FILE,
        _ => SLOWEST,
    };
    let transfer = |bytes| Duration::from_secs(bytes / slowest);
    let time = time(request).map(|time| time + transfer(input) + transfer(wanted(request)));
    Bounds { data, time }
}

/// How many bytes of data the request asks for.
fn wanted(request: &Request) -> u64 {
    match request {
        Request::Read(read) => match read.want {
            ReadWant::Lines {
                max_bytes,
                max_image_bytes,
                ..
            } => max_bytes.max(max_image_bytes).max(MAX_LISTING),
            ReadWant::Bytes { limit, .. } => limit.max(MAX_LISTING),
        },
        Request::Search(search) => search.max_bytes,
        Request::Tree { only: None, .. } => tree::MAX_TREE,
        Request::Tree {
            only: Some(paths), ..
        } => LONGEST_RECORD * paths.len() as u64,
        Request::Fetch { paths, max_bytes } => max_bytes.saturating_add(8 * paths.len() as u64),
        Request::Job(job) => match job.action {
            JobAction::Output { limit, .. } => limit,
            JobAction::Wait { .. } | JobAction::Kill | JobAction::Input { .. } => 0,
        },
        Request::Exec(_)
        | Request::Jobs
        | Request::Place { .. }
        | Request::Write(_)
        | Request::Edit(_)
        | Request::Freeze
        | Request::Thaw
        | Request::End
        | Request::Renew { .. }
        | Request::Status
        | Request::ApplyLayer { .. }
        | Request::FinishRoot
        | Request::PowerOff => 0,
    }
}

/// How long the request itself may take.
fn time(request: &Request) -> Option<Duration> {
    Some(match request {
        Request::Exec(exec) => limit(exec)? + LATE,
        Request::Job(job) => match job.action {
            JobAction::Wait { timeout_ms } => Duration::from_millis(timeout_ms) + LATE,
            JobAction::Output { .. } | JobAction::Kill | JobAction::Input { .. } => ANSWER,
        },
        Request::Search(_) => MAX_SEARCH_TIME + 3 * LATE,
        // A freeze that is confirmed later has ended by itself.
        Request::Freeze => MAX_FREEZE,
        Request::Thaw | Request::PowerOff => LATE,
        Request::End => STOP_GRACE + LATE,
        // Each file is looked at, and a translated guest needs a while for it.
        Request::Tree { .. } => WALK,
        Request::Fetch { paths, .. } => ANSWER + FILE * length(paths),
        Request::Place { changes } => ANSWER + FILE * length(changes),
        Request::ApplyLayer { bytes, .. } => FLUSH + Duration::from_secs(bytes / SLOWEST_LAYER),
        Request::FinishRoot => FLUSH,
        Request::Jobs
        | Request::Read(_)
        | Request::Write(_)
        | Request::Edit(_)
        | Request::Renew { .. }
        | Request::Status => ANSWER,
    })
}

fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// How long a command may run until it ends or becomes a job.
fn limit(exec: &ExecRequest) -> Option<Duration> {
    let ends = exec.timeout_ms.map(Duration::from_millis);
    let leaves = exec.detach.map(|detach| match detach {
        Detach::Now => ANSWER,
        Detach::After(ms) => Duration::from_millis(ms),
    });
    match (ends, leaves) {
        (Some(ends), Some(leaves)) => Some(ends.min(leaves)),
        (ends, leaves) => ends.or(leaves),
    }
}

/// Waits for an answer, no longer than `time`.
pub async fn within<T, E: From<GuestError>>(
    time: Option<Duration>,
    operation: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(time) = time else {
        return answer.await;
    };
    let late = GuestError::NoAnswer {
        operation,
        seconds: time.as_secs(),
    };
    tokio::time::timeout(time, answer)
        .await
        .unwrap_or_else(|_| Err(late.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snowglobe_init::wire::{
        EditRequest, JobRequest, Program, ReadRequest, SearchRequest, Stdin, User, WriteRequest,
    };

    use super::*;

    fn exec(timeout_ms: Option<u64>, detach: Option<Detach>) -> Request {
        Request::Exec(ExecRequest {
            command: Program::Shell("x".into()),
            cwd: None,
            env: Default::default(),
            user: User::Root,
            stdin: Stdin::Null,
            timeout_ms,
            spill_after: None,
            pty: None,
            detach,
        })
    }

    fn job(action: JobAction) -> Request {
        let id = "j".into();
        Request::Job(JobRequest { id, action })
    }

    fn read(want: ReadWant) -> Request {
        Request::Read(ReadRequest {
            path: "x".into(),
            user: User::Root,
            want,
        })
    }

    #[test]
    fn a_read_without_an_answer_ends_before_its_client_gives_up() {
        let want = ReadWant::Lines {
            offset: 1,
            limit: 2000,
            max_bytes: 40_000,
            max_image_bytes: 20 << 20,
        };
        let time = of(&read(want), 0).time.unwrap();
        assert!(time < Duration::from_secs(60), "{time:?}");
    }

    #[test]
    fn a_command_ends_five_seconds_after_its_limit_at_the_latest() {
        let time = |timeout, detach| of(&exec(timeout, detach), 0).time;
        assert_eq!(time(Some(3000), None), Some(Duration::from_secs(8)));
        assert_eq!(
            time(Some(90_000), Some(Detach::After(2000))),
            Some(Duration::from_secs(7))
        );
        assert_eq!(
            time(Some(1000), Some(Detach::After(2000))),
            Some(Duration::from_secs(6))
        );
        assert_eq!(time(None, None), None);
        assert_eq!(time(None, Some(Detach::Now)), Some(ANSWER + LATE));
    }

    /// Any request but a command.
    fn request() -> impl Strategy<Value = Request> {
        let text = || "[a-z]{0,8}";
        prop_oneof![
            prop::sample::select(vec![
                Request::Jobs,
                Request::Freeze,
                Request::Thaw,
                Request::End,
                Request::Status,
                Request::FinishRoot,
                Request::PowerOff,
            ]),
            (any::<u64>(), any::<u64>()).prop_map(|(offset, limit)| job(JobAction::Output {
                offset: Some(offset),
                limit
            })),
            any::<u64>().prop_map(|timeout_ms| job(JobAction::Wait { timeout_ms })),
            Just(job(JobAction::Kill)),
            any::<bool>().prop_map(|end| job(JobAction::Input { end })),
            any::<(u64, u64, u64, u64)>().prop_map(
                |(offset, limit, max_bytes, max_image_bytes)| read(ReadWant::Lines {
                    offset,
                    limit,
                    max_bytes,
                    max_image_bytes
                })
            ),
            any::<(u64, u64)>().prop_map(|(offset, limit)| read(ReadWant::Bytes { offset, limit })),
            (text(), any::<u64>()).prop_map(|(path, bytes)| Request::Write(WriteRequest {
                path,
                user: User::Root,
                mode: None,
                append: false,
                bytes
            })),
            text().prop_map(|path| Request::Edit(EditRequest {
                path,
                user: User::Root,
                old: String::new(),
                new: String::new(),
                all: false
            })),
            (text(), any::<u64>()).prop_map(|(pattern, max_bytes)| Request::Search(
                SearchRequest {
                    pattern,
                    literal: false,
                    ignore_case: false,
                    path: String::new(),
                    user: User::Root,
                    globs: Vec::new(),
                    context: 0,
                    limit: 1,
                    max_bytes
                }
            )),
            any::<u64>().prop_map(|bytes| Request::ApplyLayer {
                whiteouts: true,
                offset: 0,
                bytes
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_question_has_a_bound_and_a_deadline(request in request(), input: u64) {
            let bounds = of(&request, input);
            prop_assert_eq!(bounds.data, Some(wanted(&request).saturating_add(BESIDE)));
            prop_assert!(bounds.time.is_some_and(|time| time >= LATE));
        }
    }
}
