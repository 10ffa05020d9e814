//! Joining the sandbox that another process of the same user keeps, and starting that process.

mod error;
mod remove;
mod start;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use snowglobe_runner::protection::Protection;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::config::{Config, Difference, Origin, differences, value_of};
use crate::control::{Answer, Ask, MachineStatus, Messages, Review, Status, Told, send};
use crate::guest::{self, Guest, Identity};
use crate::network::live::Status as NetworkStatus;
use crate::network::ports::{OpenPort, Port};
use crate::network::settings::Change;
use crate::progress::Progress;
use crate::rundir::{self, Running};
use crate::workspace::{Effects, Refusals};
pub(crate) use error::ClientError;
pub(crate) use remove::{remove_data, remove_stale};
pub(crate) use start::{Started, alone, start_or_join};

/// How long the process may take to answer a question about its status, which waits for nothing but the guest's jobs.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a change of the machine is waited for, to say what it was.
const CHANGING: Duration = Duration::from_secs(60);

/// How often a process that may be changing its machine is asked.
const LOOK: Duration = Duration::from_millis(100);

/// How long it may take to stop its sandbox; after that it is killed.
const STOPPING: Duration = Duration::from_secs(10);

/// How long the process may take to be gone once it was killed.
const GONE: Duration = Duration::from_secs(5);

/// The sandboxes that run with this data directory, newest first.
pub(crate) fn running(config: &Config) -> Result<Vec<Running>, ClientError> {
    let mut running = rundir::running(&config.host.dirs.runtime)?;
    running.retain(|running| {
        let wanted = value_of(&config.settings, "data_dir");
        // One of another release may state its settings in another form.
        value_of(&running.info.settings, "data_dir").is_none_or(|data| Some(data) == wanted)
    });
    Ok(running)
}

/// The newest sandbox of that name and directory that a process keeps.
pub(crate) fn find(config: &Config) -> Result<Option<Running>, ClientError> {
    let (name, directory) = (config.sandbox.name.as_str(), &config.sandbox.project_dir);
    Ok(running(config)?.into_iter().find(|running| {
        running.is_kept() && running.info.name == name && running.info.workspace == *directory
    }))
}

/// Checks that the process of a sandbox and this program understand each other.
fn speaks(running: &Running) -> Result<(), ClientError> {
    match running.info.protocol == rundir::protocol() {
        true => Ok(()),
        false => Err(ClientError::Release {
            directory: running.info.workspace.clone(),
            program: match running.info.program.as_ref() {
                "" => "an older release".to_owned(),
                program => format!("snowglobe {program}"),
            },
        }),
    }
}

/// Checks that a sandbox is what this client asks for by flags and environment. Gives what its files say otherwise: that
/// counts once the sandbox is started anew.
pub(crate) fn check(config: &Config, running: &Running) -> Result<Vec<Difference>, ClientError> {
    let (named, of_files): (Vec<_>, Vec<_>) = differences(&config.settings, &running.info.settings)
        .into_iter()
        .partition(|differs| matches!(differs.asked.origin, Origin::Flag | Origin::Environment(_)));
    speaks(running)?;
    match named.into_iter().next() {
        Some(difference) => Err(ClientError::Differs {
            directory: running.info.workspace.clone(),
            difference: Box::new(difference),
        }),
        None => Ok(of_files
            .into_iter()
            .filter(|differs| differs.asked.origin != Origin::Default)
            .collect()),
    }
}

/// What a person is told of a changed configuration.
pub(crate) fn outdated(differs: &Difference) -> String {
    format!(
        "the running sandbox was started with {} = {}; the configuration now says {}, which counts after `snowglobe stop`",
        differs.asked.key, differs.has, differs.asked.value
    )
}

/// A question to the process that keeps a sandbox. The process gives up what it does for a client that has gone, so the
/// connection stays open until this is dropped.
struct Question<'a> {
    to: &'a Running,
    answers: Messages<OwnedReadHalf>,
    _asking: OwnedWriteHalf,
}

impl<'a> Question<'a> {
    async fn put(to: &'a Running, question: &Ask) -> Result<Self, ClientError> {
        speaks(to)?;
        let (from, mut asking) = connect(&to.control_socket()).await?.into_split();
        send(&mut asking, question).await.map_err(lost(to))?;
        Ok(Self {
            to,
            answers: Messages::answers(from),
            _asking: asking,
        })
    }

    /// The next answer, which is none that says why it failed.
    async fn answer(&mut self) -> Result<Answer, ClientError> {
        match self.answers.next().await.map_err(lost(self.to))? {
            Some(Answer::Failed { error }) => Err(ClientError::Failed { error }),
            Some(answer) => Ok(answer),
            None => Err(self.ended()),
        }
    }

    /// The answer that follows the steps, which are shown meanwhile.
    async fn answer_after(&mut self, progress: &Progress) -> Result<Answer, ClientError> {
        loop {
            match self.answer().await? {
                Answer::Step(step) => progress.step(step),
                answer => return Ok(answer),
            }
        }
    }

    /// The error of a process that gives no fitting answer any more.
    fn ended(&self) -> ClientError {
        ClientError::Ended {
            id: self.to.id.clone(),
        }
    }
}

/// The error of a broken connection to the process of a sandbox.
fn lost(to: &Running) -> impl FnOnce(std::io::Error) -> ClientError + '_ {
    move |source| ClientError::Talk {
        id: to.id.clone(),
        source,
    }
}

/// Boots a kept sandbox's machine unless it runs; gives what a boot has to say.
pub(crate) async fn boot(
    running: &Running,
    started: bool,
    progress: &Progress,
) -> Result<Told, ClientError> {
    let mut question = Question::put(running, &Ask::Boot { started }).await?;
    match question.answer_after(progress).await? {
        Answer::Booted(told) => Ok(told),
        _ => Err(question.ended()),
    }
}

/// Reviews the changes of a kept sandbox's copied workspace.
pub(crate) async fn review(
    running: &Running,
    review: Review,
    progress: &Progress,
) -> Result<Answer, ClientError> {
    let mut question = Question::put(running, &Ask::Review { review }).await?;
    question.answer_after(progress).await
}

/// How a kept sandbox is.
pub(crate) async fn status(running: &Running) -> Result<Status, ClientError> {
    ask(running, &Ask::Status, |answer| match answer {
        Answer::Status(status) => Some(status),
        _ => None,
    })
    .await
}

/// What of the network a kept sandbox reaches; after a change, if one is given.
pub(crate) async fn network(
    running: &Running,
    change: Option<Change>,
) -> Result<NetworkStatus, ClientError> {
    let question = change.map_or(Ask::Network, |change| Ask::ChangeNetwork { change });
    ask(running, &question, |answer| match answer {
        Answer::Network(network) => Some(*network),
        _ => None,
    })
    .await
}

/// The protection of a kept sandbox's workspace; after a change, if one is given.
pub(crate) async fn protection(
    running: &Running,
    effects: Option<Effects>,
) -> Result<Protection, ClientError> {
    let question = effects.map_or(Ask::Protection, |effects| Ask::ChangeProtection { effects });
    ask(running, &question, |answer| match answer {
        Answer::Protection(protection) => Some(protection),
        _ => None,
    })
    .await
}

/// The refused changes of a kept sandbox's workspace since a cursor; without one only where the next one will be.
pub(crate) async fn refusals(
    running: &Running,
    since: Option<u64>,
) -> Result<Refusals, ClientError> {
    ask(running, &Ask::Refusals { since }, |answer| match answer {
        Answer::Refusals(refusals) => Some(refusals),
        _ => None,
    })
    .await
}

/// The ports of a kept sandbox.
pub(crate) async fn ports(running: &Running) -> Result<Vec<Port>, ClientError> {
    ask(running, &Ask::Ports, |answer| match answer {
        Answer::Ports { ports } => Some(ports),
        _ => None,
    })
    .await
}

/// Opens a port of a kept sandbox.
pub(crate) async fn open_port(
    running: &Running,
    port: u16,
    address: Option<SocketAddr>,
) -> Result<OpenPort, ClientError> {
    ask(
        running,
        &Ask::OpenPort { port, address },
        |answer| match answer {
            Answer::PortOpen(open) => Some(open),
            _ => None,
        },
    )
    .await
}

/// Closes a port of a kept sandbox; gives whether it was open.
pub(crate) async fn close_port(running: &Running, port: u16) -> Result<bool, ClientError> {
    ask(running, &Ask::ClosePort { port }, |answer| match answer {
        Answer::PortClosed { was_open } => Some(was_open),
        _ => None,
    })
    .await
}

/// The answer to a question that waits for little.
async fn ask<T>(
    running: &Running,
    question: &Ask,
    fitting: impl FnOnce(Answer) -> Option<T>,
) -> Result<T, ClientError> {
    let asked = async {
        let mut question = Question::put(running, question).await?;
        fitting(question.answer().await?).ok_or_else(|| question.ended())
    };
    tokio::time::timeout(ANSWER, asked)
        .await
        .unwrap_or_else(|_| {
            Err(ClientError::Silent {
                id: running.id.clone(),
                pid: running.info.pid,
                seconds: ANSWER.as_secs(),
            })
        })
}

/// Logs in to the guest of a machine that has booted.
pub(crate) async fn join(running: &Running) -> Result<Guest, ClientError> {
    speaks(running)?;
    let identity = identity(running)?;
    let stream = connect(&running.ssh_socket()).await?;
    Ok(Guest::login(stream, &identity, "snowglobe").await?)
}

/// A stream to a socket of a running sandbox.
pub(crate) async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    Ok(guest::connect(socket).await?)
}

/// A machine of a sandbox, as its files show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineKeys {
    /// Its host key, a line.
    pub(crate) host_key: String,
    /// The key that controls it, which no other machine has.
    control: String,
}

/// The keys of the machine that runs.
pub(crate) fn machine(running: &Running) -> Result<MachineKeys, ClientError> {
    let read = |file| {
        let text = running.read(file);
        text.map_err(|source| ClientError::File {
            file,
            id: running.id.clone(),
            source,
        })
    };
    let known = read("known_hosts")?;
    let Some((_, host_key)) = known.trim().split_once(' ') else {
        return Err(ClientError::Ended {
            id: running.id.clone(),
        });
    };
    Ok(MachineKeys {
        host_key: host_key.to_owned(),
        control: read("control_ed25519")?,
    })
}

fn identity(running: &Running) -> Result<Identity, ClientError> {
    let keys = machine(running)?;
    Ok(Identity::decode(&keys.control, &keys.host_key)?)
}

/// What became of a machine whose connection ended; none if it still runs. A change that is under way is waited for.
pub(crate) async fn ended(running: &Running, before: &MachineKeys) -> Option<String> {
    let deadline = tokio::time::Instant::now() + CHANGING;
    while running.lives() && tokio::time::Instant::now() < deadline {
        // A process that stops its sandbox may not answer any more.
        let Ok(status) = status(running).await else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let replaced = machine(running).is_ok_and(|now| now != *before);
        match (status.machine, status.last_end) {
            // A guest that is paused for its successor does not say which jobs run.
            (MachineStatus::Running { .. }, _) if !replaced && status.jobs.is_some() => {
                return None;
            }
            (MachineStatus::Off, Some(what)) => return Some(format!("the sandbox was {what}")),
            (MachineStatus::Running { .. }, Some(what)) if replaced => {
                return Some(format!("the sandbox was {what}"));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
    Some(match running.lives() {
        true => "the connection to the sandbox broke".to_owned(),
        false => "the sandbox was stopped".to_owned(),
    })
}

/// Stops a sandbox: its commands get their time to end. A process that does not do so is killed, and its machine ends
/// with it.
pub(crate) async fn stop(running: &Running) -> Result<(), ClientError> {
    let deadline = tokio::time::Instant::now() + STOPPING;
    if running.is_kept() {
        let asked = async {
            let (mut from, mut to) = connect(&running.control_socket()).await?.into_split();
            if send(&mut to, &Ask::Stop).await.is_ok() {
                // The end of the connection is the answer.
                drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
            }
            Ok::<_, ClientError>(())
        };
        drop(tokio::time::timeout_at(deadline, asked).await);
    }
    // It belongs to one client, or did not understand the question.
    signal(running, rustix::process::Signal::TERM);
    if !gone(running, deadline).await {
        signal(running, rustix::process::Signal::KILL);
        if !gone(running, tokio::time::Instant::now() + GONE).await {
            return Err(ClientError::Silent {
                id: running.id.clone(),
                pid: running.info.pid,
                seconds: (STOPPING + GONE).as_secs(),
            });
        }
    }
    Ok(())
}

/// Sends a signal to a sandbox's process, while its lock shows that it lives.
fn signal(running: &Running, signal: rustix::process::Signal) {
    let pid = i32::try_from(running.info.pid).ok();
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
        && running.lives()
        && let Err(error) = rustix::process::kill_process(pid, signal)
    {
        tracing::warn!(%error, pid = running.info.pid, "the sandbox's process could not be ended");
    }
}

/// Whether the process of a sandbox is ending, or has ended; waits for that then. Until it has ended it can be joined, but
/// answers no more: what was asked of it so was not done, and may be asked of the one that takes its place.
pub(crate) async fn is_over(running: &Running) -> bool {
    match status(running).await {
        Ok(status) if !matches!(status.machine, MachineStatus::Stopping) => false,
        _ => gone(running, tokio::time::Instant::now() + STOPPING).await,
    }
}

/// Waits for the end of a sandbox's process.
async fn gone(running: &Running, deadline: tokio::time::Instant) -> bool {
    let ended = async {
        while running.lives() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout_at(deadline, ended).await.is_ok()
}
