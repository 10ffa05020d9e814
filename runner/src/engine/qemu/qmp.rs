//! QEMU's control protocol: lines of JSON over a stream, read without blocking.
//!
//! Commands are numbered, and answered in any order between events. The runner understands only the messages that it needs.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Deserialize;
use serde_json::{Value, json};

/// The maximum length of a message.
const MAX_MESSAGE: usize = 1 << 20;

/// A message of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// The first message.
    Greeting,
    /// The answer to a command.
    Answer {
        /// The command's number.
        id: u64,
        /// Its result, or why it failed.
        result: Result<Value, String>,
    },
    /// The machine stops, for this reason, such as `guest-shutdown`.
    Shutdown(String),
    /// A write to the disk failed, so QEMU has stopped the machine.
    BlockError {
        /// The system's error.
        reason: String,
        /// Whether the host's disk is full.
        no_space: bool,
    },
    /// A long change of the disk has ended.
    JobEnded(Result<(), String>),
    /// Any other message.
    Other,
}

/// A client of QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    next_id: u64,
}

impl Qmp {
    /// A client on `stream`, read without blocking.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            next_id: 1,
        })
    }

    /// Sends a command; gives its number.
    pub(crate) fn send(&mut self, command: &str, arguments: Value) -> io::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        // Commands are few and short: if one does not fit the socket's buffer, QEMU hangs.
        (&self.stream).write_all(line.as_bytes())?;
        Ok(id)
    }

    /// Reads the messages that have come in.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<Message>> {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A killed QEMU with unread commands resets the stream; its earlier messages count.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            }
            if self.buffer.len() > MAX_MESSAGE {
                return Err(io::Error::other("a QMP message is too long"));
            }
        }
        let mut messages = Vec::new();
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            messages.push(parse(&line)?);
        }
        Ok(messages)
    }
}

impl AsFd for Qmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<RawError>,
    id: Option<u64>,
    event: Option<String>,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct RawError {
    desc: String,
}

fn parse(line: &[u8]) -> io::Result<Message> {
    let raw: Raw = serde_json::from_slice(line)?;
    Ok(match raw {
        Raw {
            id: Some(id),
            answer: Some(value),
            ..
        } => Message::Answer {
            id,
            result: Ok(value),
        },
        Raw {
            id: Some(id),
            error: Some(error),
            ..
        } => Message::Answer {
            id,
            result: Err(error.desc),
        },
        Raw {
            event: Some(event),
            data,
            ..
        } if event == "SHUTDOWN" => {
            let reason = data
                .as_ref()
                .and_then(|data| data["reason"].as_str())
                .unwrap_or_default();
            Message::Shutdown(reason.to_owned())
        }
        Raw {
            event: Some(event),
            data: Some(data),
            ..
        } if event == "BLOCK_IO_ERROR" && data["action"] == "stop" => Message::BlockError {
            reason: data["reason"].as_str().unwrap_or_default().to_owned(),
            no_space: data["nospace"] == true,
        },
        Raw {
            event: Some(event),
            data,
            ..
        } if event == "BLOCK_JOB_COMPLETED" => {
            let error = data.as_ref().and_then(|data| data["error"].as_str());
            Message::JobEnded(error.map_or(Ok(()), |error| Err(error.to_owned())))
        }
        Raw {
            event: Some(event), ..
        } if event == "BLOCK_JOB_CANCELLED" => Message::JobEnded(Err("it was cancelled".into())),
        Raw {
            greeting: Some(_), ..
        } => Message::Greeting,
        _ => Message::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let parse = |text: &str| parse(text.as_bytes()).unwrap();
        assert_eq!(
            parse(r#"{"QMP": {"version": {}, "capabilities": []}}"#),
            Message::Greeting
        );
        assert_eq!(
            parse(r#"{"return": {}, "id": 7}"#),
            Message::Answer {
                id: 7,
                result: Ok(json!({}))
            }
        );
        assert_eq!(
            parse(r#"{"id": 8, "error": {"class": "GenericError", "desc": "no space"}}"#),
            Message::Answer {
                id: 8,
                result: Err("no space".into())
            }
        );
        assert_eq!(
            parse(
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#
            ),
            Message::Shutdown("guest-reset".into())
        );
        assert_eq!(parse(r#"{"event": "RESUME"}"#), Message::Other);
        assert_eq!(
            parse(
                r#"{"event": "BLOCK_JOB_COMPLETED", "data": {"type": "stream", "device": "merge", "len": 1, "offset": 1, "speed": 0}}"#
            ),
            Message::JobEnded(Ok(()))
        );
        assert_eq!(
            parse(
                r#"{"event": "BLOCK_JOB_COMPLETED", "data": {"type": "stream", "device": "merge", "len": 1, "offset": 0, "speed": 0, "error": "No space left on device"}}"#
            ),
            Message::JobEnded(Err("No space left on device".into()))
        );
        let failed = |action: &str| {
            parse(&format!(
                r#"{{"event": "BLOCK_IO_ERROR", "data": {{"device": "", "node-name": "disk0", "operation": "write", "action": "{action}", "nospace": true, "reason": "No space left on device"}}}}"#
            ))
        };
        assert_eq!(failed("report"), Message::Other);
        assert_eq!(
            failed("stop"),
            Message::BlockError {
                reason: "No space left on device".into(),
                no_space: true
            }
        );
    }

    #[test]
    fn a_message_in_pieces_is_put_together() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut qmp = Qmp::new(ours).unwrap();
        theirs.write_all(b"{\"return\": {}, ").unwrap();
        assert_eq!(qmp.receive().unwrap(), []);
        theirs
            .write_all(b"\"id\": 1}\r\n{\"event\": \"STOP\"}\r\n")
            .unwrap();
        assert_eq!(
            qmp.receive().unwrap(),
            [
                Message::Answer {
                    id: 1,
                    result: Ok(json!({}))
                },
                Message::Other
            ]
        );
    }
}
