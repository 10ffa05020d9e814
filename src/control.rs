//! What the process that keeps a sandbox is asked by other programs of the same user: one JSON line each way, on the
//! socket `control.sock` of the sandbox's directory. A question may have several answers; the last one is not a step.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::progress::Step;

/// The longest line that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Boot a machine unless one runs.
    Boot {
        /// The asking client started the sandbox. If it leaves before the machine has booted and no other client has
        /// come, the sandbox is stopped.
        started: bool,
    },
    /// How the sandbox is.
    Status,
    /// Stop the sandbox and end the process. The answer is the end of the connection.
    Stop,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What is being done.
    Step(Step),
    /// A machine runs.
    Booted {
        /// The fences that are missing around it, if this question booted it.
        lacks: Vec<String>,
    },
    /// How the sandbox is.
    Status(Status),
    /// Why it could not be done.
    Failed {
        /// For a person.
        error: String,
    },
}

/// How a kept sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Its machine.
    pub(crate) machine: MachineStatus,
    /// How many machines it has had.
    pub(crate) generation: u64,
    /// Why its last machine ended: `restored`, `rebooted`, or how it died.
    pub(crate) last_end: Option<String>,
    /// The file of the newest machine's console.
    pub(crate) console: Option<std::path::PathBuf>,
    /// How many clients are connected.
    pub(crate) clients: usize,
    /// How many jobs run; none if the guest did not say.
    pub(crate) jobs: Option<usize>,
    /// After how many seconds it is stopped, if nothing uses it; none if never, or while it is used.
    pub(crate) stops_in_s: Option<u64>,
}

/// The machine of a kept sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum MachineStatus {
    /// None; the next call boots one.
    Off,
    /// One boots, or another change is under way.
    Changing,
    /// One runs.
    Running {
        /// The engine and what executes the guest's instructions, such as `qemu (tcg)`.
        engine: String,
        /// Since when.
        since: jiff::Timestamp,
    },
}

/// Writes one message.
pub(crate) async fn send<T: Serialize + Sync>(
    to: &mut (impl AsyncWrite + Unpin + Send),
    message: &T,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// The messages of a stream.
#[derive(Debug)]
pub(crate) struct Messages<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Messages<R> {
    pub(crate) fn new(from: R) -> Self {
        Self(BufReader::new(from))
    }

    /// The next message; none at the end of the stream. Dropping the future may lose a part of a message.
    pub(crate) async fn next<T: for<'de> Deserialize<'de>>(
        &mut self,
    ) -> std::io::Result<Option<T>> {
        let mut line = Vec::new();
        let read = (&mut self.0)
            .take(LONGEST)
            .read_until(b'\n', &mut line)
            .await?;
        match read {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_slice(&line)?)),
        }
    }
}
