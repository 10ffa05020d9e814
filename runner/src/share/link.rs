//! The stream of messages between the guest's kernel and the file system.
//!
//! One thread reads. It answers a request itself if no other waits, which is fastest, and so all that are brief, whose
//! replies it sends together; further ones, and those that may take long, are answered by a few more threads. Replies and
//! notes go to the guest in the order in which they are true: a reply that was made while a change was reported is believed
//! for no time.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::server::Server;

use super::known::lock;
use super::message::{LONGEST, Operation, Request, without_features};
use super::note::Note;
use super::queue::Messages;

/// The threads besides the one that reads.
const WORKERS: usize = 4;

/// How long replies that are sent together may be, in bytes, and one more.
const TOGETHER: usize = 32 << 10;

/// How many requests may wait for them.
const WAITING: usize = 64;

/// The guest's end of the stream.
#[derive(Debug)]
pub(super) struct Output {
    stream: Mutex<UnixStream>,
    /// How often changes were reported.
    reports: AtomicU64,
}

impl Output {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: Mutex::new(stream),
            reports: AtomicU64::new(0),
        }
    }

    /// Tells the guest what it must no longer believe.
    pub(super) fn notify(&self, notes: &[Note]) -> io::Result<()> {
        let mut messages = Vec::new();
        notes.iter().for_each(|note| note.write(&mut messages));
        let mut stream = lock(&self.stream);
        self.reports.fetch_add(1, Ordering::SeqCst);
        stream.write_all(&messages)
    }

    fn reports(&self) -> u64 {
        self.reports.load(Ordering::SeqCst)
    }

    /// Sends replies.
    fn send(&self, replies: &mut Replies) -> io::Result<()> {
        let mut stream = lock(&self.stream);
        let now = self.reports();
        for reply in replies.all.drain(..) {
            if reply.reports != now {
                reply.operation.shorten(&mut replies.bytes[reply.at]);
            }
        }
        let sent = stream.write_all(&replies.bytes);
        drop(stream);
        replies.bytes.clear();
        sent
    }
}

/// Replies that are sent together.
#[derive(Debug, Default)]
struct Replies {
    bytes: Vec<u8>,
    all: Vec<Reply>,
}

/// A reply among others.
#[derive(Debug)]
struct Reply {
    at: Range<usize>,
    operation: Operation,
    /// How many reports there were when it was begun.
    reports: u64,
}

/// A thread that answers requests.
struct Worker<F: FileSystem + Sync> {
    server: Arc<Server<F>>,
    output: Arc<Output>,
    messages: Messages,
    replies: Replies,
}

impl<F: FileSystem + Sync> Worker<F> {
    fn new(server: &Arc<Server<F>>, output: &Arc<Output>) -> io::Result<Self> {
        Ok(Self {
            server: server.clone(),
            output: output.clone(),
            messages: Messages::new()?,
            replies: Replies::default(),
        })
    }

    /// Answers a request; the reply is kept until it is sent.
    fn answer(&mut self, request: &Request<'_>) {
        let reports = self.output.reports();
        let Replies { bytes, all } = &mut self.replies;
        let begin = bytes.len();
        if self.messages.handle(&self.server, request, bytes).is_err() {
            // The library could not read it.
            bytes.truncate(begin);
            bytes.extend(request.failure(Errno::IO.raw_os_error()));
        }
        if !request.has_reply() {
            bytes.truncate(begin);
        }
        if bytes.len() > begin {
            all.push(Reply {
                at: begin..bytes.len(),
                operation: request.operation(),
                reports,
            });
        }
    }

    /// Sends what is kept.
    fn send(&mut self) -> io::Result<()> {
        match self.replies.all.is_empty() {
            true => Ok(()),
            false => self.output.send(&mut self.replies),
        }
    }
}

/// Answers the guest's requests until the stream ends. `reported` tells whether changes are reported to the guest.
pub(super) fn serve<F: FileSystem + Send + Sync + 'static>(
    mut stream: UnixStream,
    server: Server<F>,
    output: &Arc<Output>,
    reported: bool,
) -> io::Result<()> {
    let server = Arc::new(server);
    let (sender, receiver) = crossbeam_channel::bounded(WAITING);
    for _ in 0..WORKERS {
        let (worker, receiver) = (Worker::new(&server, output)?, receiver.clone());
        std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || work(worker, &receiver))?;
    }
    let mut own = Worker::new(&server, output)?;
    let mut buffer = vec![0; 2 * LONGEST];
    let mut filled = 0;
    loop {
        let read = match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            read => read?,
        };
        filled += read;
        let used = take(&mut buffer[..filled], &mut own, &sender, reported)?;
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

/// Answers the whole requests in a buffer, or has them answered; gives their length.
fn take<F: FileSystem + Sync>(
    buffer: &mut [u8],
    own: &mut Worker<F>,
    others: &Sender<Vec<u8>>,
    reported: bool,
) -> io::Result<usize> {
    let mut used = 0;
    loop {
        let Some(length) = Request::first(&buffer[used..])?.map(|request| request.bytes().len())
        else {
            own.send()?;
            return Ok(used);
        };
        let (message, rest) = buffer[used..].split_at_mut(length);
        without_features(message, reported);
        let Some(request) = Request::first(message)? else {
            return Ok(used);
        };
        let last = Request::first(rest)?.is_none();
        // Elsewhere than on this machine's file systems, where changes are not reported, nothing is brief.
        let brief = request.is_quick() || reported && request.is_brief();
        if !brief || own.replies.bytes.len() >= TOGETHER {
            own.send()?;
        }
        match brief || last && !request.is_slow() {
            true => own.answer(&request),
            false => others
                .send(message.to_vec())
                .map_err(|_| io::Error::other("the threads that answer requests ended"))?,
        }
        used += length;
    }
}

fn work<F: FileSystem + Sync>(mut worker: Worker<F>, requests: &Receiver<Vec<u8>>) {
    for message in requests {
        let answered = match Request::first(&message) {
            Ok(Some(request)) => {
                worker.answer(&request);
                worker.send()
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if answered.is_err() {
            // The stream ended; the thread that reads it sees that, too.
            return;
        }
    }
}
