//! A pending request, on a channel of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::{ChannelMsg, ChannelWriteHalf, client};
use snowglobe_init::wire::{self, Report, Request};
use tokio::io::AsyncRead;

use super::bounds::LONGEST_REPORT;
use super::error::GuestError;
use super::guard::{Guard, Violation, Watch};

/// How long closing a channel may take.
const CLOSING: Duration = Duration::from_secs(5);

/// One piece of a request's output, in the order it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// A pending request. Dropping it closes its channel.
pub(super) struct Call {
    operation: &'static str,
    reader: russh::ChannelReadHalf,
    writer: Arc<ChannelWriteHalf<client::Msg>>,
    guard: Guard,
    /// How many bytes of data may still come; absent: no bound.
    room: Option<u64>,
    /// How many bytes may come in all.
    most: u64,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    ended: bool,
}

impl Call {
    /// Sends a request that may bring `most` bytes of data.
    pub(super) async fn open<R>(
        handle: &client::Handle<Watch>,
        guard: &Guard,
        request: &Request,
        input: R,
        most: Option<u64>,
    ) -> Result<Self, GuestError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let blamed = |error: russh::Error| blame(guard, error.into());
        guard.open();
        let channel = tokio::select! {
            opened = handle.channel_open_session() => opened.map_err(blamed)?,
            () = guard.broken() => return Err(blame(guard, GuestError::Lost)),
        };
        let (reader, writer) = channel.split();
        let writer = Arc::new(writer);
        let mut call = Self {
            operation: name(request),
            reader,
            writer: writer.clone(),
            guard: guard.clone(),
            room: most,
            most: most.unwrap_or(u64::MAX),
            tasks: Vec::new(),
            ended: false,
        };
        let body = serde_json::to_vec(request).map_err(|e| GuestError::Protocol {
            operation: call.operation,
            message: e.to_string(),
        })?;
        let mut head = Vec::with_capacity(body.len() + 4);
        head.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        head.extend_from_slice(&body);
        writer
            .request_subsystem(false, wire::SUBSYSTEM)
            .await
            .map_err(blamed)?;
        // Send input while output is read: a command that writes before it has read all its input must not block.
        call.tasks.push(tokio::spawn(async move {
            let sent = async {
                writer.data_bytes(head).await?;
                writer.data(input).await?;
                writer.eof().await
            };
            if let Err(error) = sent.await {
                tracing::debug!(%error, "the guest took no more input");
            }
        }));
        Ok(call)
    }

    pub(super) fn forward_resizes(&mut self, mut resizes: tokio::sync::mpsc::Receiver<(u16, u16)>) {
        let writer = self.writer.clone();
        self.tasks.push(tokio::spawn(async move {
            while let Some((cols, rows)) = resizes.recv().await {
                if writer
                    .window_change(cols.into(), rows.into(), 0, 0)
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }));
    }

    /// Passes output on until the guest reports.
    pub(super) async fn finish(
        mut self,
        output: &mut (dyn FnMut(Output) + Send),
    ) -> Result<Report, GuestError> {
        let mut report = Vec::new();
        loop {
            let message = tokio::select! {
                message = self.reader.wait() => message,
                () = self.guard.broken() => None,
            };
            match message {
                Some(ChannelMsg::Data { data }) => {
                    self.take(data.len())?;
                    output(Output::Stdout(data));
                }
                Some(ChannelMsg::ExtendedData {
                    data,
                    ext: wire::EXT_REPORT,
                }) => {
                    if (report.len() + data.len()) as u64 > LONGEST_REPORT {
                        return Err(self.violated(Violation::Report {
                            operation: self.operation,
                            limit: LONGEST_REPORT,
                        }));
                    }
                    report.extend_from_slice(&data);
                }
                Some(ChannelMsg::ExtendedData { data, ext }) => {
                    self.take(data.len())?;
                    if ext == wire::EXT_STDERR {
                        output(Output::Stderr(data));
                    }
                }
                Some(ChannelMsg::Close) => {
                    self.ended = true;
                    break;
                }
                Some(ChannelMsg::Failure) => {
                    return Err(GuestError::Protocol {
                        operation: self.operation,
                        message: "it refused the request".into(),
                    });
                }
                Some(_) => {}
                None => break,
            }
        }
        if report.is_empty() {
            return Err(blame(&self.guard, GuestError::Lost));
        }
        match serde_json::from_slice(&report) {
            Ok(Report::Error(error)) => Err(GuestError::refusal(error)),
            Ok(report) => Ok(report),
            Err(error) => Err(GuestError::Protocol {
                operation: self.operation,
                message: error.to_string(),
            }),
        }
    }

    /// Counts data against the bound.
    fn take(&mut self, bytes: usize) -> Result<(), GuestError> {
        let Some(room) = &mut self.room else {
            return Ok(());
        };
        match room.checked_sub(bytes as u64) {
            Some(left) => {
                *room = left;
                Ok(())
            }
            None => Err(self.violated(Violation::Data {
                operation: self.operation,
                limit: self.most,
            })),
        }
    }

    fn violated(&self, violation: Violation) -> GuestError {
        self.guard.violated(violation.clone());
        blame(&self.guard, GuestError::Violation(violation))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if self.ended {
            return;
        }
        self.guard.forsake();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let writer = self.writer.clone();
            runtime.spawn(async move {
                tokio::time::timeout(CLOSING, writer.close()).await.ok();
            });
        }
    }
}

/// A request's name in messages.
pub(super) fn name(request: &Request) -> &'static str {
    match request {
        Request::Exec(_) => "exec",
        Request::Job(_) => "job",
        Request::Jobs => "list jobs",
        Request::Read(_) => "read",
        Request::Write(_) => "write",
        Request::Edit(_) => "edit",
        Request::Search(_) => "search",
        Request::Tree { .. } => "list the workspace",
        Request::Fetch { .. } => "fetch files",
        Request::Place { .. } => "change files",
        Request::Freeze => "freeze",
        Request::Thaw => "thaw",
        Request::End => "end commands",
        Request::Renew { .. } => "renew",
        Request::Status => "status",
        Request::ApplyLayer { .. } => "apply a layer",
        Request::FinishRoot => "finish the root",
        Request::PowerOff => "power off",
    }
}

/// The error for a broken link: the guest's violation, if there was one.
pub(super) fn blame(guard: &Guard, error: GuestError) -> GuestError {
    match guard.violation() {
        Some(violation) => GuestError::Violation(violation),
        None => error,
    }
}
