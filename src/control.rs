//! What the process that keeps a sandbox is asked by other programs of the same user: one JSON line each way, on the
//! socket `control.sock` of the sandbox's directory. A question may have several answers; the last one is not a step.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use snowglobe_runner::protection::Protection;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::network::live::Status as Network;
use crate::network::ports::{OpenPort, Port};
use crate::network::settings::Change;
use crate::progress::Step;
use crate::review::report::{Changes, Done as Reviewed, Selection};
use crate::workspace::{Effects, Refusals};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 64 << 20;

/// The longest question that is read, in bytes.
const LONGEST_QUESTION: u64 = 4 << 20;

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
    /// What of the network it reaches.
    Network,
    /// Change that, at once.
    ChangeNetwork {
        /// The change.
        change: Change,
    },
    /// How the workspace is protected.
    Protection,
    /// Change the effects of its rules, at once.
    ChangeProtection {
        /// The effects, by the ids of the rules.
        effects: Effects,
    },
    /// Which changes of the workspace the rules refused.
    Refusals {
        /// Since when; none: only where the next one will be.
        since: Option<u64>,
    },
    /// Review the changes of a copied workspace.
    Review {
        /// What to do.
        review: Review,
    },
    /// On which ports its programs listen, and which are open on this machine.
    Ports,
    /// Open a port of the guest.
    OpenPort {
        /// The port.
        port: u16,
        /// Where; on the loopback interface if none.
        address: Option<SocketAddr>,
    },
    /// Close it.
    ClosePort {
        /// The port.
        port: u16,
    },
    /// Stop the sandbox and end the process. The answer is the end of the connection. All releases understand it.
    Stop,
}

/// What to do with the changes of a copied workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Review {
    /// List them.
    Changes,
    /// Show them.
    Diff {
        /// At or below these paths; none: all.
        paths: Vec<String>,
    },
    /// Apply them to the host's directory.
    Apply {
        /// Which.
        selection: Selection,
    },
    /// Undo what was applied last.
    Undo {
        /// Whether what changed since is left, instead of undoing nothing.
        skip_conflicts: bool,
    },
    /// Take them back in the sandbox.
    Discard {
        /// Which.
        selection: Selection,
    },
    /// Bring the host's newer files in.
    Sync,
}

/// What a boot has to say; nothing if the machine ran already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The fences that are missing around the machine.
    pub(crate) lacks: Vec<String>,
    /// What else a person should know.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// What is being done.
    Step(Step),
    /// A machine runs.
    Booted(Told),
    /// How the sandbox is.
    Status(Status),
    /// What of the network it reaches now.
    Network(Box<Network>),
    /// How the workspace is protected now.
    Protection(Protection),
    /// Changes of the workspace that were refused.
    Refusals(Refusals),
    /// The changes of a copied workspace.
    Changes(Box<Changes>),
    /// The diff of changes, base64.
    Diff {
        /// The text.
        text: String,
    },
    /// What was done with changes.
    Reviewed(Reviewed),
    /// Its ports.
    Ports {
        /// Each.
        ports: Vec<Port>,
    },
    /// A port that is open now.
    PortOpen(OpenPort),
    /// Whether the port was open.
    PortClosed {
        /// Whether it was.
        was_open: bool,
    },
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
    /// The sandbox is being stopped.
    Stopping,
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
pub(crate) struct Messages<R> {
    from: BufReader<R>,
    longest: u64,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    /// The questions of a client.
    pub(crate) fn questions(from: R) -> Self {
        Self {
            from: BufReader::new(from),
            longest: LONGEST_QUESTION,
        }
    }

    /// The answers to a client.
    pub(crate) fn answers(from: R) -> Self {
        Self {
            from: BufReader::new(from),
            longest: LONGEST_ANSWER,
        }
    }

    /// The next message; none at the end of the stream. Dropping the future may lose a part of a message.
    pub(crate) async fn next<T: for<'de> Deserialize<'de>>(
        &mut self,
    ) -> std::io::Result<Option<T>> {
        let mut line = Vec::new();
        (&mut self.from)
            .take(self.longest)
            .read_until(b'\n', &mut line)
            .await?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
            Some(_) if line.len() as u64 == self.longest => Err(std::io::Error::other(format!(
                "the message is longer than {} bytes",
                self.longest
            ))),
            Some(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(text: &[u8]) -> std::io::Result<Option<Ask>> {
        Messages::questions(text).next().await
    }

    #[tokio::test]
    async fn a_question_is_a_whole_line_of_bounded_length() {
        assert_eq!(asked(b"").await.unwrap(), None);
        let question = b"{\"ask\":\"status\"}\n";
        assert_eq!(asked(question).await.unwrap(), Some(Ask::Status));
        for end in 1..question.len() - 1 {
            assert!(asked(&question[..end]).await.is_err(), "half a question");
        }
        let long = [&b" ".repeat(10 << 20), &question[..]].concat();
        let error = asked(&long).await.unwrap_err().to_string();
        assert!(error.contains("longer than"), "{error}");
        assert!(asked(b"{\"ask\":\"dance\"}\n").await.is_err());
    }
}
