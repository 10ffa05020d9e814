//! QEMU's control protocol: lines of JSON over a stream, read without blocking.
//!
//! Commands are numbered, and answered in any order between events. Only what the runner needs is understood.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Deserialize;
use serde_json::{Value, json};

/// The longest message believed.
const MAX_MESSAGE: usize = 1 << 20;

/// One thing QEMU said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// It is there and speaks the protocol.
    Greeting,
    /// A command's answer.
    Answer {
        /// The command's number.
        id: u64,
        /// What it gave, or why it failed.
        result: Result<Value, String>,
    },
    /// The machine stops, for this reason (such as `guest-shutdown`).
    Shutdown(String),
    /// The disk could not be written, so the machine stands still.
    BlockError {
        /// What the system said.
        reason: String,
        /// Whether room is what it lacks.
        no_space: bool,
    },
    /// Something else.
    Other,
}

/// The client's end.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    next_id: u64,
}

impl Qmp {
    /// A client on `stream`, which it reads without blocking.
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
        // The commands are few and short: one that does not fit the socket's buffer means that QEMU is stuck.
        (&self.stream).write_all(line.as_bytes())?;
        Ok(id)
    }

    /// Takes what has come in.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<Message>> {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A QEMU that was killed with commands unread resets the stream; what it said before counts.
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
