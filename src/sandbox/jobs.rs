//! Jobs: commands that run in the background.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snowglobe_init::wire::{JobAction, JobInfo, JobReport, JobRequest, Report, Request};

use super::{Sandbox, SandboxError};
use crate::guest::unexpected;
use crate::progress::Progress;
use crate::time::millis;
use crate::timeline::{self, Event, bounded};

/// How long the guest is asked to wait for a job's end at a time.
const WATCH: Duration = Duration::from_secs(60);

impl Sandbox {
    /// Adds a job's end to the timeline once it comes. A machine that ends takes its jobs with it, and that is a line of its
    /// own.
    pub(super) fn watch_job(self: &Arc<Self>, id: &str) {
        let (sandbox, id) = (self.clone(), id.to_owned());
        let actor = timeline::current();
        let watching = async move {
            let timeout_ms = millis(WATCH);
            let wait = Request::Job(JobRequest {
                id: id.clone(),
                action: JobAction::Wait { timeout_ms },
            });
            loop {
                // A guest that answers at once is not asked again at once.
                let round = tokio::time::sleep(WATCH);
                let Some((Report::Job(report), _)) = sandbox.peek(&wait).await else {
                    return;
                };
                if let Some(outcome) = report.job.outcome {
                    let job = bounded(&id);
                    let seconds = Duration::from_millis(report.job.duration_ms).as_secs_f64();
                    sandbox.timeline.add(Event::JobEnded {
                        job,
                        outcome,
                        seconds,
                    });
                    return;
                }
                round.await;
            }
        };
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            let watching = stopping.run_until_cancelled(watching);
            match actor {
                Some(actor) => timeline::acting(&actor, watching).await,
                None => watching.await,
            }
        });
    }

    /// Every job, the oldest first.
    pub async fn jobs(self: &Arc<Self>, progress: &Progress) -> Result<Vec<JobInfo>, SandboxError> {
        if self.published.running().is_none() {
            return Ok(Vec::new());
        }
        match self.request(&Request::Jobs, Bytes::new(), progress).await? {
            (Report::Jobs { jobs }, _) => Ok(jobs),
            (other, _) => Err(unexpected("list jobs", &other).into()),
        }
    }

    /// How many jobs run.
    pub async fn running_jobs(self: &Arc<Self>) -> Result<usize, SandboxError> {
        let jobs = self.jobs(&Progress::none()).await?;
        Ok(jobs.iter().filter(|job| job.outcome.is_none()).count())
    }

    /// Whether jobs run. A guest that does not answer counts as idle; one that is paused because the host's disk is full
    /// does not, since it will go on.
    pub async fn is_busy(self: &Arc<Self>) -> bool {
        match self.running_jobs().await {
            Ok(jobs) => jobs > 0,
            Err(error) => matches!(error, SandboxError::Stalled(_)),
        }
    }

    /// Reads, writes to, waits for or kills a job; also gives the output that was asked for.
    pub async fn job(
        self: &Arc<Self>,
        id: &str,
        action: JobAction,
        input: Bytes,
        progress: &Progress,
    ) -> Result<(JobReport, Bytes), SandboxError> {
        if self.published.running().is_none() {
            return Err(SandboxError::NoJobs { id: id.to_owned() });
        }
        let kills = action == JobAction::Kill;
        let request = Request::Job(JobRequest {
            id: id.to_owned(),
            action,
        });
        match self.request(&request, input, progress).await? {
            (Report::Job(report), output) => {
                if kills {
                    let job = id.to_owned();
                    self.timeline.add(Event::JobKilled { job });
                }
                Ok((report, output))
            }
            (other, _) => Err(unexpected("job", &other).into()),
        }
    }
}
