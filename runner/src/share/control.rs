//! What the runner asks the process that serves a share, while it serves: a line of JSON each way. A question is a
//! [`VmRequest`], its answer the [`Event::Reply`] that the runner's parent gets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use snowglobe_runner::{Action, Answer, Event, VmRequest};

use super::judge::Judge;

/// The longest line, in bytes: as many refusals as are told at once.
const LONGEST: usize = 1 << 20;

/// Answers the runner, on a thread of its own, until the connection ends.
pub(super) fn start(runner: UnixStream, judge: Arc<Judge>) -> io::Result<()> {
    let answering = move || {
        if let Err(error) = answer(&runner, &judge) {
            log::warn!("answer the runner: {error}");
        }
    };
    std::thread::Builder::new().spawn(answering).map(drop)
}

fn answer(runner: &UnixStream, judge: &Judge) -> io::Result<()> {
    let mut questions = BufReader::new(runner.try_clone()?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = LONGEST as u64;
        if (&mut questions).take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let VmRequest { id, action } = serde_json::from_slice(&line)?;
        let result = match action {
            Action::TakeChanges => Ok(judge.take_changes()),
            Action::Protect { rules } => match judge.set_rules(rules) {
                Ok(()) => Ok(Answer::Done),
                Err(error) => Err(error.to_string()),
            },
            _ => Err("a share does not do that".to_owned()),
        };
        send(runner, &Event::Reply { id, result })?;
    }
}

fn send(to: &UnixStream, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    (&mut &*to).write_all(&line)
}

/// The runner's end.
#[derive(Debug)]
pub(crate) struct Control {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Control {
    /// Both ends: the runner's, and that of the process.
    pub(super) fn new() -> io::Result<(Self, UnixStream)> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let read = Vec::new();
        Ok((Self { stream, read }, theirs))
    }

    /// Asks; the answer comes by [`Self::answers`].
    pub(crate) fn ask(&self, question: &VmRequest) -> io::Result<()> {
        send(&self.stream, question)
    }

    /// The answers that have arrived, as far as they are understood.
    pub(crate) fn answers(&mut self) -> io::Result<Vec<(u64, Result<Answer, String>)>> {
        let mut piece = [0; 8192];
        loop {
            match (&self.stream).read(&mut piece) {
                Ok(0) => break,
                Ok(length) => self.read.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.read.len() > LONGEST {
                return Err(io::Error::other("an answer is too long"));
            }
        }
        let Some(end) = self.read.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let lines: Vec<u8> = self.read.drain(..=end).collect();
        let lines = lines.split(|byte| *byte == b'\n');
        let answers =
            lines
                .filter(|line| !line.is_empty())
                .map(|line| match serde_json::from_slice(line)? {
                    Event::Reply { id, result } => Ok((id, result)),
                    _ => Err(io::Error::other("it is no answer")),
                });
        answers.collect()
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use snowglobe_runner::Share;
    use snowglobe_runner::protection::{Effect, Made, Protection, TOLD};
    use snowglobe_runner::rules::{Change, Kind};

    use super::super::room::Room;
    use super::*;

    fn judge(directory: &std::path::Path) -> Arc<Judge> {
        let share = Share {
            tag: "share".to_owned(),
            port: 0,
            path: directory.to_owned(),
            opened: None,
            guest_id: 1000,
            protection: Protection {
                rules: [("vscode".to_owned(), Effect::Ask)].into(),
                ..Protection::default()
            },
            hooks: Vec::new(),
            repository: None,
        };
        let root = std::fs::File::open(directory).unwrap();
        let root = std::os::fd::OwnedFd::from(root);
        let room = Room::new(root.try_clone().unwrap());
        Arc::new(Judge::new(&share, root, room).unwrap())
    }

    fn asked(control: &mut Control, id: u64, action: Action) -> Result<Answer, String> {
        control.ask(&VmRequest { id, action }).unwrap();
        loop {
            let mut fds = [rustix::event::PollFd::new(
                &*control,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            if let Some((of, result)) = control.answers().unwrap().pop() {
                assert_eq!(of, id);
                return result;
            }
        }
    }

    #[test]
    fn a_refusal_is_told_once_and_a_rule_changes_while_it_serves() {
        let directory = tempfile::tempdir().unwrap();
        let judge = judge(directory.path());
        let (mut control, theirs) = Control::new().unwrap();
        start(theirs, judge.clone()).unwrap();
        let make = |path: &str| {
            let (path, kind) = (path.as_bytes(), Kind::Directory);
            judge.allow(&Change::Create { path, kind }).is_ok()
        };
        for path in [".vscode", ".idea", ".vscode"] {
            assert!(!make(path));
        }
        assert!(make("src"));
        let Ok(Answer::Changes {
            made,
            more: 0,
            refused,
            lost,
        }) = asked(&mut control, 1, Action::TakeChanges)
        else {
            panic!("no refusals");
        };
        let told: Vec<_> = refused
            .iter()
            .map(|one| (one.rule.as_str(), one.what.as_str(), one.asks, one.count))
            .collect();
        assert_eq!(
            (told, lost),
            (
                vec![
                    ("jetbrains", ".idea", false, 1),
                    ("vscode", ".vscode", true, 2)
                ],
                0
            )
        );
        let one = Made {
            path: "src".into(),
            removed: false,
        };
        assert_eq!(made, [one]);
        let none = Answer::Changes {
            made: Vec::new(),
            more: 0,
            refused: Vec::new(),
            lost: 0,
        };
        assert_eq!(asked(&mut control, 2, Action::TakeChanges), Ok(none));
        let rules = |id: &str| Action::Protect {
            rules: [(id.to_owned(), Effect::Allow)].into(),
        };
        asked(&mut control, 3, rules("vs-code")).unwrap_err();
        assert!(!make(".vscode"), "a wrong change changes nothing");
        assert_eq!(asked(&mut control, 4, rules("vscode")), Ok(Answer::Done));
        assert!(make(".vscode") && !make(".idea"));
        asked(&mut control, 5, Action::Stop).unwrap_err();
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let judge = judge(directory.path());
        for number in 0..1000 {
            let path = format!(".vscode/{number}{}", "x".repeat(600));
            let change = Change::Create {
                path: path.as_bytes(),
                kind: Kind::File,
            };
            judge.allow(&change).unwrap_err();
        }
        let Answer::Changes { refused, lost, .. } = judge.take_changes() else {
            panic!("no refusals");
        };
        assert_eq!((refused.len(), lost), (TOLD, 900));
        let line = serde_json::to_vec(&refused).unwrap();
        assert!(line.len() < LONGEST / 4, "{}", line.len());
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let (mut control, theirs) = Control::new().unwrap();
        (&theirs).write_all(b"{\"event\":\"resumed\"}\n").unwrap();
        control.answers().unwrap_err();
        let (mut control, theirs) = Control::new().unwrap();
        std::thread::spawn(move || (&theirs).write_all(&vec![b' '; 2 * LONGEST]));
        let error = loop {
            if let Err(error) = control.answers() {
                break error;
            }
        };
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
