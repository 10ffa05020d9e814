//! One output stream of a command on its way to the host, to a file, or both.
//!
//! A pump reads until the stream ends, even when nothing takes the output any more: a closed pipe would end the command.
//! It sends until the channel closes or the command becomes a job, and keeps a copy if the request asks for one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
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
    /// Set at the command's end.
    end: watch::Sender<Option<End>>,
    task: tokio::task::JoinHandle<()>,
}

/// When the rest of the output is dropped, after the command's end.
#[derive(Debug, Clone, Copy)]
struct End {
    /// After which silence.
    silence: Duration,
    /// When at the latest.
    deadline: Option<Instant>,
}

#[derive(Default)]
struct PumpState {
    bytes: AtomicU64,
    /// Fires when output is dropped from now on.
    drops: CancellationToken,
    /// The file with the copy.
    file: Mutex<Option<String>>,
}

impl Pump {
    pub(crate) fn start(mut from: Box<dyn AsyncRead + Send + Unpin>, mut sink: Sink) -> Self {
        let state = Arc::new(PumpState::default());
        let (end, mut ends) = watch::channel(None);
        let of_task = state.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            // Whether all is read that the command wrote before its end.
            let mut has_all = false;
            loop {
                let end: Option<End> = *ends.borrow_and_update();
                let read = tokio::select! {
                    // On a busy machine output and a silence may be noticed at once.
                    biased;
                    read = from.read(&mut buffer) => read,
                    () = silence(end, &mut has_all), if !of_task.drops.is_cancelled() => {
                        of_task.drops.cancel();
                        continue;
                    }
                    Ok(()) = ends.changed() => continue,
                };
                let read = match read {
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                if of_task.drops.is_cancelled() {
                    sink.spill = None;
                    continue;
                }
                of_task.bytes.fetch_add(read as u64, Ordering::AcqRel);
                let is_sent = of_task.pass_on(&buffer[..read], &mut sink).await;
                let deadline = end.and_then(|end| end.deadline);
                let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if !is_sent || (is_late && has_all) {
                    of_task.drops.cancel();
                }
            }
        });
        Self { state, end, task }
    }

    /// Waits for the end of the stream, or for silence while processes hold it open. `alone`: no process of the command is
    /// left.
    pub(crate) async fn drain(&mut self, deadline: Instant, alone: bool) {
        self.end.send_replace(Some(match alone {
            true => End {
                silence: SILENCE_ALONE,
                deadline: None,
            },
            false => End {
                silence: SILENCE,
                deadline: Some(deadline),
            },
        }));
        tokio::select! {
            _ = &mut self.task => {}
            () = self.state.drops.cancelled() => {}
        }
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

/// Waits until a stream has been silent for long enough; for ever before the command's end. Called while nothing is there to
/// be read.
async fn silence(end: Option<End>, has_all: &mut bool) {
    match end {
        Some(end) => {
            *has_all = true;
            tokio::time::sleep(end.silence).await;
        }
        None => std::future::pending().await,
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
