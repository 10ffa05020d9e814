//! Jobs: commands that run in the background. A job survives its call and its connection, but not a reboot.
//!
//! A job is running or ended. An ended job stays listed, with its output, until [`ENDED`] newer ones have ended. Its
//! output is one file with both streams in the order in which they were written. Readers name an offset, so no state is
//! kept for them and several can read. A restored snapshot has no jobs, and no id is ever used twice.

mod job;
mod requests;
mod reserved;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pump::Log;
use crate::command::context::Context;
use crate::wire::{ErrorKind, ExecRequest, JobInfo, Report, WireError};

use job::Job;
pub(super) use job::RunningCommand;
pub(crate) use requests::serve;
use reserved::Reserved;

/// The directory of the output files: on the disk, not in memory.
const DIRECTORY: &str = "/var/tmp/snowglobe-jobs";

/// How many bytes of output are held in memory while a command may yet become a job.
const IN_MEMORY: u64 = 64 << 10;

/// How many jobs may run at once.
const RUNNING: usize = 64;

/// How many ended jobs are kept.
const ENDED: usize = 64;

/// All jobs of this boot.
#[derive(Debug)]
pub(crate) struct Jobs {
    /// A part of all ids, which differs from boot to boot.
    tag: u16,
    numbers: AtomicU64,
    table: Mutex<BTreeMap<u64, Arc<Job>>>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            tag: rand::random(),
            numbers: AtomicU64::new(1),
            table: Mutex::default(),
        }
    }
}

/// Makes a job of a running command. If the command turns out within `early` never to have started, this fails.
pub(super) async fn start(
    context: &Context,
    jobs: &Jobs,
    reserved: Reserved,
    request: &ExecRequest,
    running: RunningCommand,
    early: Duration,
) -> Result<Report, WireError> {
    let job = job::follow(context, reserved, request, running)?;
    jobs.add(job.clone());
    if !early.is_zero() {
        job.ended(early).await;
    }
    if let Some(error) = job.start_error() {
        jobs.remove(&job);
        return Err(error);
    }
    Ok(job.report())
}

impl Jobs {
    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Job>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id and a log for one more job.
    pub(super) fn reserve(&self) -> Result<Reserved, WireError> {
        let running = self.table().values().filter(|job| job.runs()).count();
        if running >= RUNNING {
            return Err(WireError::new(
                ErrorKind::NotStarted,
                format!("start a job: {running} jobs run already; end one of them first"),
            ));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let id = format!("job-{:04x}-{number}", self.tag);
        let path = Path::new(DIRECTORY).join(&id);
        Ok(Reserved {
            number,
            log: Arc::new(Log::new(path.clone(), IN_MEMORY)),
            id,
            path,
        })
    }

    /// All jobs, the oldest first.
    pub(crate) fn list(&self) -> Vec<JobInfo> {
        self.table().values().map(|job| job.info()).collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, WireError> {
        let table = self.table();
        if let Some(job) = table.values().find(|job| job.reserved.id == id) {
            return Ok(job.clone());
        }
        let mut known: Vec<&str> = table.values().map(|job| job.reserved.id.as_str()).collect();
        // The caller most likely means one of the newest.
        known.drain(..known.len().saturating_sub(5));
        let known = match known.as_slice() {
            [] => "there are none (a reboot or a restored snapshot ends all jobs)".to_owned(),
            known => format!("the newest are {}", known.join(", ")),
        };
        Err(WireError::new(
            ErrorKind::NotFound,
            format!("find the job {id:?}: {known}"),
        ))
    }

    /// Adds a job, and removes the oldest ended ones beyond [`ENDED`].
    fn add(&self, job: Arc<Job>) {
        let mut table = self.table();
        table.insert(job.reserved.number, job);
        let ended: Vec<u64> = table
            .iter()
            .filter(|(_, job)| !job.runs())
            .map(|(number, _)| *number)
            .collect();
        for number in ended.iter().rev().skip(ENDED) {
            table.remove(number);
        }
    }

    fn remove(&self, job: &Job) {
        self.table().remove(&job.reserved.number);
    }
}
