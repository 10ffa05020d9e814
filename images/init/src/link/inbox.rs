//! A queue for the data that a channel has received.
//!
//! The SSH library delivers incoming data to one channel after the other and waits for each. So a command that does not
//! read its input would stop every other channel of the connection, and even its own cancellation. Therefore each
//! channel is emptied at once into an inbox: in memory up to [`IN_MEMORY`], then in an unlinked file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use tokio::sync::Notify;

/// How many bytes of a channel are kept in memory.
const IN_MEMORY: usize = 4 << 20;

/// How many bytes are read from the file at once.
const CHUNK: u64 = 256 << 10;

/// The received data of one channel that its consumer has not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    directory: PathBuf,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<Bytes>,
    in_memory: usize,
    /// The data after `memory`: the file, and the start and end of the part that is not taken yet.
    overflow: Option<(File, u64, u64)>,
    ended: bool,
    /// Whether new data is dropped.
    discard: bool,
}

fn unlinked_file(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

impl Inbox {
    /// An empty inbox, with its file on the disk.
    pub(crate) fn new() -> Self {
        Self::in_directory(Path::new("/var/tmp"))
    }

    fn in_directory(directory: &Path) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            directory: directory.to_owned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds data. Never waits for the consumer.
    pub(crate) fn push(&self, data: Bytes) -> io::Result<()> {
        self.add(data)?;
        self.arrived.notify_one();
        Ok(())
    }

    fn add(&self, data: Bytes) -> io::Result<()> {
        let mut state = self.state();
        if state.discard || data.is_empty() {
            return Ok(());
        }
        if state.overflow.is_none() && state.in_memory < IN_MEMORY {
            state.in_memory += data.len();
            state.memory.push_back(data);
            return Ok(());
        }
        if state.overflow.is_none() {
            state.overflow = Some((unlinked_file(&self.directory)?, 0, 0));
        }
        if let Some((file, _, end)) = &mut state.overflow {
            file.write_all_at(&data, *end)?;
            *end += data.len() as u64;
        }
        Ok(())
    }

    /// Marks the end of the data.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.arrived.notify_one();
    }

    /// Whether more data is accepted.
    pub(crate) fn open(&self) -> bool {
        !self.state().ended
    }

    /// Drops all data, now and in future: the consumer takes no more.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        *state = State {
            discard: true,
            ended: true,
            ..State::default()
        };
        drop(state);
        self.arrived.notify_one();
    }

    /// The next piece, in order; `None` at the end. There may be one consumer only.
    pub(crate) async fn next(&self) -> io::Result<Option<Bytes>> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(answer) = self.take()? {
                return Ok(answer);
            }
            arrived.await;
        }
    }

    fn take(&self) -> io::Result<Option<Option<Bytes>>> {
        let mut state = self.state();
        if let Some(data) = state.memory.pop_front() {
            state.in_memory -= data.len();
            drop(state);
            return Ok(Some(Some(data)));
        }
        if let Some((file, start, end)) = &mut state.overflow {
            let length = CHUNK.min(*end - *start);
            let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut data, *start)?;
            // Best effort: on failure the file only keeps its room on the disk.
            let taken = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&*file, taken, *start, length).ok();
            *start += length;
            if start == end {
                state.overflow = None;
            }
            return Ok(Some(Some(data.into())));
        }
        Ok(if state.ended { Some(None) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn order_survives_the_way_through_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::in_directory(dir.path());
        let piece = |n: u8| Bytes::from(vec![n; 1 << 20]);
        for n in 0..12 {
            inbox.push(piece(n)).unwrap();
        }
        assert_eq!(inbox.next().await.unwrap(), Some(piece(0)));
        inbox.push(piece(12)).unwrap();
        inbox.end();
        let mut rest = Vec::new();
        while let Some(data) = inbox.next().await.unwrap() {
            rest.extend_from_slice(&data);
        }
        let expected: Vec<u8> = (1..13).flat_map(|n| piece(n).to_vec()).collect();
        assert!(rest == expected);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_consumer_that_gave_up_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::in_directory(dir.path());
        inbox.discard();
        inbox.push(Bytes::from_static(b"x")).unwrap();
        assert_eq!(inbox.next().await.unwrap(), None);
    }
}
