//! One output stream of a command on its way to the host, to a file, or both.
//!
//! A pump reads until the stream ends, even when nothing takes the output any more: a closed pipe would end the command.
//! It sends until the channel closes or the command becomes a job, and keeps a copy if the request asks for one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use super::spill::Spill;

/// After the command's end: the silence after which the rest of the output is taken for a background process's.
const SILENCE: Duration = Duration::from_millis(100);

/// The same when no process of the command is left. The output then ends by itself, unless a foreign process was handed
/// the pipe; on a busy machine no output may be lost.
const SILENCE_ALONE: Duration = Duration::from_secs(5);

/// After the command's end: the longest wait for output while background processes hold the pipe open.
pub(crate) const DRAIN: Duration = Duration::from_millis(500);

/// Both streams of a command in the order in which they were written, for a job or a command that may become one.
#[derive(Debug)]
pub(crate) struct Log {
    spill: Mutex<Spill>,
    bytes: AtomicU64,
}

impl Log {
    /// A log that is in memory up to `after` bytes, then in the file `path`.
    pub(crate) fn new(path: PathBuf, after: u64) -> Self {
        Self {
            spill: Mutex::new(Spill::at(path, after)),
            bytes: AtomicU64::new(0),
        }
    }

    fn add(&self, data: &[u8]) {
        let mut spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        spill.add(data);
        self.bytes.fetch_add(data.len() as u64, Ordering::AcqRel);
    }

    /// Moves everything to the file, also in future.
    pub(crate) fn keep(&self) -> std::io::Result<()> {
        let mut spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        spill.keep()
    }

    /// How many bytes were written, and how many of them are in the file.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        (self.bytes.load(Ordering::Acquire), spill.written())
    }
}

/// The destinations of a stream.
pub(crate) struct Sink {
    /// The channel. The stream is sent as data, or as extended data of the type `ext`.
    pub(crate) writer: Arc<ChannelWriteHalf<Msg>>,
    pub(crate) ext: Option<u32>,
    pub(crate) spill: Option<Spill>,
    pub(crate) log: Option<Arc<Log>>,
    /// Fires when the channel is closed.
    pub(crate) closed: CancellationToken,
    /// Fires when the command becomes a job; nothing more is sent.
    pub(crate) detached: CancellationToken,
}

/// One output stream on its way.
pub(crate) struct Pump {
    state: Arc<PumpState>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct PumpState {
    bytes: AtomicU64,
    /// Whether a piece that was read is not sent yet.
    sending: AtomicBool,
    /// Whether output is dropped.
    discard: AtomicBool,
    /// The file with the copy.
    file: Mutex<Option<String>>,
}

impl Pump {
    pub(crate) fn start(mut from: Box<dyn AsyncRead + Send + Unpin>, mut sink: Sink) -> Self {
        let state = Arc::new(PumpState::default());
        let of_task = state.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = match from.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                if of_task.discard.load(Ordering::Acquire) {
                    sink.spill = None;
                    continue;
                }
                of_task.sending.store(true, Ordering::Release);
                of_task.bytes.fetch_add(read as u64, Ordering::AcqRel);
                if !of_task.pass_on(&buffer[..read], &mut sink).await {
                    of_task.discard.store(true, Ordering::Release);
                }
                of_task.sending.store(false, Ordering::Release);
            }
        });
        Self { state, task }
    }

    /// Waits for the end of the stream, or for silence while processes hold it open. `alone`: no process of the command is
    /// left.
    pub(crate) async fn drain(&mut self, deadline: Instant, alone: bool) {
        let silence = if alone { SILENCE_ALONE } else { SILENCE };
        let mut before = self.state.bytes.load(Ordering::Acquire);
        loop {
            if tokio::time::timeout(silence, &mut self.task).await.is_ok() {
                return;
            }
            // Output that was read must be sent, even if the host takes it slowly.
            if self.state.sending.load(Ordering::Acquire) {
                continue;
            }
            let now = self.state.bytes.load(Ordering::Acquire);
            if now == before || (!alone && Instant::now() >= deadline) {
                break;
            }
            before = now;
        }
        self.state.discard.store(true, Ordering::Release);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Acquire)
    }

    pub(crate) fn file(&self) -> Option<String> {
        self.state
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl PumpState {
    /// Passes a piece to all destinations. Returns false when there is none left.
    async fn pass_on(&self, data: &[u8], sink: &mut Sink) -> bool {
        if let Some(log) = &sink.log {
            log.add(data);
        }
        if sink.detached.is_cancelled() {
            return true;
        }
        if let Some(spill) = &mut sink.spill {
            spill.add(data);
            *self.file.lock().unwrap_or_else(PoisonError::into_inner) = spill.file();
        }
        let data = Bytes::copy_from_slice(data);
        let sending = async {
            match sink.ext {
                None => sink.writer.data_bytes(data).await.is_ok(),
                Some(ext) => sink.writer.extended_data_bytes(ext, data).await.is_ok(),
            }
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = sink.closed.cancelled() => false,
        };
        sent || sink.detached.is_cancelled()
    }
}
