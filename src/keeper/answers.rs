//! Answers to what other programs ask on the control socket.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::ending::{End, Ending};
use super::uses::Uses;
use crate::control::{self, Answer, Ask, MachineStatus, Messages, Review, Status, Told};
use crate::network::settings::Change;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, SandboxError};
use crate::timeline::{self, COMMAND_LINE};

/// How long the guest may take to say which jobs run.
const JOBS: Duration = Duration::from_secs(2);

/// How long a client may take for its question, and to read an answer.
const QUESTION: Duration = Duration::from_secs(10);

/// Who states the rules that a person adds while the sandbox runs.
const CHANGED: &str = "snowglobe network";

/// Sends an answer to a client, which must read it in time.
async fn send(to: &mut OwnedWriteHalf, answer: &Answer) -> std::io::Result<()> {
    tokio::time::timeout(QUESTION, control::send(to, answer)).await?
}

/// What is needed to answer one client.
pub(super) struct Answering {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) uses: Arc<Uses>,
    pub(super) idle_stop: Option<Duration>,
    pub(super) ending: Arc<Ending>,
}

/// The answer about what could not be done.
#[allow(
    clippy::needless_pass_by_value,
    reason = "it stands where results are mapped"
)]
fn failed(error: SandboxError) -> Answer {
    Answer::Failed {
        error: crate::describe(&error),
    }
}

async fn reviewed(
    sandbox: &Arc<Sandbox>,
    review: Review,
    progress: &Progress,
) -> Result<Answer, SandboxError> {
    Ok(match review {
        Review::Changes => Answer::Changes(Box::new(sandbox.review(progress).await?)),
        Review::Diff { paths } => Answer::Diff {
            text: BASE64.encode(sandbox.diff(paths, progress).await?),
        },
        Review::Apply { selection } => Answer::Reviewed(sandbox.apply(selection, progress).await?),
        Review::Undo { skip_conflicts } => {
            Answer::Reviewed(sandbox.undo_apply(skip_conflicts, progress).await?)
        }
        Review::Discard { selection } => {
            Answer::Reviewed(sandbox.discard(selection, progress).await?)
        }
        Review::Sync => Answer::Reviewed(sandbox.sync(progress).await?),
    })
}

impl Answering {
    /// Answers each question of a client until it leaves.
    pub(super) async fn answer(self, stream: UnixStream) {
        let (from, mut to) = stream.into_split();
        let mut questions = Messages::questions(from);
        loop {
            let Ok(asked) = tokio::time::timeout(QUESTION, questions.next()).await else {
                return;
            };
            let answered = match asked {
                Ok(Some(Ask::Status)) => {
                    let status = self.status().await;
                    send(&mut to, &Answer::Status(status)).await
                }
                Ok(Some(Ask::Network)) => {
                    let network = Box::new(self.sandbox.network().status());
                    send(&mut to, &Answer::Network(network)).await
                }
                Ok(Some(Ask::ChangeNetwork { change })) => {
                    let answer = self.change_network(&change).await;
                    send(&mut to, &answer).await
                }
                Ok(Some(Ask::Protection)) => {
                    let protection = self.sandbox.protection();
                    send(&mut to, &Answer::Protection(protection)).await
                }
                Ok(Some(Ask::ChangeProtection { effects })) => {
                    let changed = self.sandbox.change_protection(&effects, false).await;
                    send(&mut to, &changed.map_or_else(failed, Answer::Protection)).await
                }
                Ok(Some(Ask::Refusals { since })) => {
                    let refusals = self.sandbox.refused_changes(since).await;
                    send(&mut to, &refusals.map_or_else(failed, Answer::Refusals)).await
                }
                Ok(Some(Ask::Review { review })) => self.review(review, &mut to).await,
                Ok(Some(Ask::Ports)) => {
                    let ports = self.sandbox.ports().await;
                    let answer = ports.map_or_else(failed, |ports| Answer::Ports { ports });
                    send(&mut to, &answer).await
                }
                Ok(Some(Ask::OpenPort { port, address })) => {
                    let opened = self.sandbox.open_port(port, address).await;
                    send(&mut to, &opened.map_or_else(failed, Answer::PortOpen)).await
                }
                Ok(Some(Ask::ClosePort { port })) => {
                    let was_open = self.sandbox.close_port(port);
                    send(&mut to, &Answer::PortClosed { was_open }).await
                }
                Ok(Some(Ask::Boot { started })) => {
                    self.boot(started, &mut questions, &mut to).await
                }
                Ok(Some(Ask::Stop)) => {
                    self.ending.end(End::Asked);
                    // The process's end closes the connection.
                    return std::future::pending().await;
                }
                Ok(None) => return,
                Err(error) => {
                    let error = format!("understand the question: {error}");
                    drop(send(&mut to, &Answer::Failed { error }).await);
                    return;
                }
            };
            if answered.is_err() {
                return;
            }
        }
    }

    async fn boot(
        &self,
        started: bool,
        questions: &mut Messages<OwnedReadHalf>,
        to: &mut OwnedWriteHalf,
    ) -> std::io::Result<()> {
        let used = self.uses.begin();
        let before = self.sandbox.history().generation;
        let (progress, mut steps) = Progress::channel();
        let booted = self.sandbox.guest(&progress);
        tokio::pin!(booted);
        let answer = loop {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => send(to, &Answer::Step(step)).await?,
                booted = &mut booted => break match booted {
                    Ok(_) => Answer::Booted(match self.sandbox.history().generation == before {
                        true => Told::default(),
                        false => Told {
                            lacks: self.sandbox.lacks(),
                            notes: self.sandbox.take_notes(),
                        },
                    }),
                    Err(error) => {
                        let error = crate::describe(&error);
                        tracing::warn!("failed to {error}");
                        Answer::Failed { error }
                    }
                },
                // The client asks nothing meanwhile: it left, or does not keep to the protocol.
                _ = questions.next::<Ask>() => {
                    drop(used);
                    if started && self.uses.count() == 0 {
                        self.ending.end(End::Left);
                    }
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
            }
        };
        while let Ok(step) = steps.try_recv() {
            send(to, &Answer::Step(step)).await?;
        }
        let failed = matches!(answer, Answer::Failed { .. });
        let sent = send(to, &answer).await;
        drop(used);
        if started && failed && self.uses.count() == 0 {
            self.ending.end(End::NotBooted);
        }
        sent
    }

    /// Reviews the changes of a copied workspace. What has begun is finished, even if the client leaves.
    async fn review(&self, review: Review, to: &mut OwnedWriteHalf) -> std::io::Result<()> {
        let _used = self.uses.begin();
        let (progress, mut steps) = Progress::channel();
        let sandbox = self.sandbox.clone();
        // A task does not inherit its actor.
        let mut reviewed = tokio::spawn(timeline::acting(COMMAND_LINE, async move {
            let answer = reviewed(&sandbox, review, &progress).await;
            answer.unwrap_or_else(failed)
        }));
        let answer = loop {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => send(to, &Answer::Step(step)).await?,
                answer = &mut reviewed => break answer?,
            }
        };
        send(to, &answer).await
    }

    async fn change_network(&self, change: &Change) -> Answer {
        match self.sandbox.change_network(change, CHANGED).await {
            Ok(status) => {
                tracing::info!("the network is now {}", status.settings);
                Answer::Network(Box::new(status))
            }
            Err(error) => failed(error),
        }
    }

    async fn status(&self) -> Status {
        let history = self.sandbox.history();
        let running = self.sandbox.is_running();
        let machine = match (history.engine, history.since) {
            _ if self.ending.has_begun() => MachineStatus::Stopping,
            (Some(engine), Some(since)) if running => MachineStatus::Running { engine, since },
            _ if self.sandbox.is_changing() => MachineStatus::Changing,
            _ => MachineStatus::Off,
        };
        let jobs = match running {
            true => tokio::time::timeout(JOBS, self.sandbox.running_jobs())
                .await
                .ok()
                .and_then(Result::ok),
            false => Some(0),
        };
        let idle = self.uses.idle();
        let stops_in = self.idle_stop.zip(idle.filter(|_| jobs == Some(0)));
        Status {
            machine,
            generation: history.generation,
            last_end: history.last_end,
            console: self.sandbox.console_log(),
            clients: self.uses.count(),
            jobs,
            stops_in_s: stops_in.map(|(limit, idle)| limit.saturating_sub(idle).as_secs()),
        }
    }
}
