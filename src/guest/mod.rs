//! The host's end of the guest link: one SSH connection, a channel per request.
//!
//! A [`Guest`] is connected or lost, and a lost one stays lost: every later request says so at once, and its
//! owner makes a new one. What is deliberately absent: any reconnecting of its own, and any knowledge of the VM.

mod identity;
mod link;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::client;
use russh::{ChannelMsg, ChannelWriteHalf, Disconnect, Preferred};
use snowglobe_init::wire::{
    self, ExecReport, ExecRequest, JobInfo, JobReport, Outcome, Report, Request, WireError,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub use identity::{Identity, KeyError, VmKeys, generate as generate_key};
pub use link::{connect, synchronize};

/// How long a guest may take to answer a cancelled or timed-out command before the host gives up waiting.
const REPORT_GRACE: Duration = Duration::from_secs(5);

/// The longest report that is taken, in bytes.
const LONGEST_REPORT: usize = 16 << 20;

/// Why the guest did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The link's socket could not be reached.
    #[error("reach the guest link at {path}")]
    Unreachable {
        /// The socket.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The link broke.
    #[error("reach the guest: the link is gone")]
    Lost,
    /// The guest at the other end is not the one that was booted.
    #[error("trust the guest: its host key is not the one it was booted with")]
    WrongHostKey,
    /// The guest refused our key.
    #[error("log in to the guest as `{user}`: it refused the key")]
    Refused {
        /// Who wanted in.
        user: String,
    },
    /// SSH itself failed.
    #[error("speak SSH with the guest: {0}")]
    Ssh(russh::Error),
    /// The guest answered something that can't be understood.
    #[error("understand the guest's answer to `{operation}`: {message}")]
    Protocol {
        /// What was asked.
        operation: &'static str,
        /// What is wrong with the answer.
        message: String,
    },
    /// The guest says why it could not be done.
    #[error(transparent)]
    Guest(#[from] WireError),
}

impl From<russh::Error> for GuestError {
    fn from(error: russh::Error) -> Self {
        match error {
            russh::Error::UnknownKey => Self::WrongHostKey,
            russh::Error::Disconnect
            | russh::Error::HUP
            | russh::Error::SendError
            | russh::Error::IO(_) => Self::Lost,
            other => Self::Ssh(other),
        }
    }
}

impl GuestError {
    /// Whether the connection is no longer of use.
    pub fn is_lost(&self) -> bool {
        !matches!(self, Self::Guest(_) | Self::Protocol { .. })
    }
}

/// One piece of a request's output, in the order it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// What became of a command.
#[derive(Debug, Clone)]
pub enum Ran {
    /// It ended.
    Ended(ExecReport),
    /// It goes on as a job.
    Job(JobInfo),
}

/// Accepts the pinned host key and no other.
#[derive(Debug)]
pub struct Pinned(russh::keys::PublicKey);

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(
            matches!(key, russh::keys::PublicKeyOrCertificate::PublicKey { key, .. } if key.key_data() == self.0.key_data()),
        )
    }
}

/// A connected guest. Cheap to share; every request has a channel of its own.
pub struct Guest {
    handle: client::Handle<Pinned>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("lost", &self.is_lost())
            .finish()
    }
}

fn client_config() -> client::Config {
    client::Config {
        // A private stream between two processes of one user: the fastest exchange is as good as any.
        preferred: Preferred {
            kex: vec![russh::kex::CURVE25519].into(),
            cipher: vec![russh::cipher::AES_128_GCM, russh::cipher::CHACHA20_POLY1305].into(),
            compression: vec![russh::compression::NONE].into(),
            ..Preferred::default()
        },
        window_size: 16 << 20,
        maximum_packet_size: 65_535,
        channel_buffer_size: 256,
        inactivity_timeout: None,
        limits: russh::Limits::new(1 << 30, 1 << 30, Duration::from_secs(24 * 3600)),
        ..client::Config::default()
    }
}

impl Guest {
    /// Logs in over a synchronized stream.
    pub async fn login<S>(stream: S, identity: &Identity, user: &str) -> Result<Self, GuestError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pinned = Pinned(identity.host_key.clone());
        let mut handle = client::connect_stream(Arc::new(client_config()), stream, pinned).await?;
        let key = russh::keys::PrivateKeyWithHashAlg::new(identity.key.clone(), None);
        if !handle.authenticate_publickey(user, key).await?.success() {
            return Err(GuestError::Refused {
                user: user.to_owned(),
            });
        }
        Ok(Self { handle })
    }

    /// Whether the connection is gone.
    pub fn is_lost(&self) -> bool {
        self.handle.is_closed()
    }

    /// Sends a request with its whole input; `output` is called with each piece as it comes.
    pub async fn request(
        &self,
        request: &Request,
        input: Bytes,
        output: &mut (dyn FnMut(Output) + Send),
    ) -> Result<Report, GuestError> {
        let call = Call::open(self, request, std::io::Cursor::new(input)).await?;
        call.finish(output).await
    }

    /// As [`Guest::request`], with the input read from a stream while the request runs.
    pub async fn request_from<R>(
        &self,
        request: &Request,
        input: R,
        output: &mut (dyn FnMut(Output) + Send),
    ) -> Result<Report, GuestError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        Call::open(self, request, input).await?.finish(output).await
    }

    /// Sends a request that has no output of interest.
    pub async fn ask(&self, request: &Request) -> Result<Report, GuestError> {
        self.request(request, Bytes::new(), &mut |_| ()).await
    }

    /// Runs a command. Cancelling closes its channel, which ends it, and waits no longer.
    pub async fn exec<R>(
        &self,
        request: ExecRequest,
        input: R,
        output: &mut (dyn FnMut(Output) + Send),
        cancel: &CancellationToken,
        resizes: Option<tokio::sync::mpsc::Receiver<(u16, u16)>>,
    ) -> Result<ExecReport, GuestError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        match self.run(request, input, output, cancel, resizes).await? {
            Ran::Ended(report) => Ok(report),
            Ran::Job(job) => Err(unexpected(
                "exec",
                &Report::Job(JobReport {
                    offset: 0,
                    next_offset: 0,
                    job,
                }),
            )),
        }
    }

    /// As [`Guest::exec`], where the command may go on as a job.
    pub async fn run<R>(
        &self,
        request: ExecRequest,
        input: R,
        output: &mut (dyn FnMut(Output) + Send),
        cancel: &CancellationToken,
        resizes: Option<tokio::sync::mpsc::Receiver<(u16, u16)>>,
    ) -> Result<Ran, GuestError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let started = std::time::Instant::now();
        let mut call = Call::open(self, &Request::Exec(request), input).await?;
        if let Some(resizes) = resizes {
            call.forward_resizes(resizes);
        }
        tokio::select! {
            report = call.finish(output) => match report? {
                Report::Exec(report) => Ok(Ran::Ended(report)),
                Report::Job(report) => Ok(Ran::Job(report.job)),
                other => Err(unexpected("exec", &other)),
            },
            () = cancel.cancelled() => Ok(Ran::Ended(ExecReport {
                outcome: Outcome::Cancelled,
                duration_ms: started.elapsed().as_millis() as u64,
                stdout_bytes: 0,
                stderr_bytes: 0,
                stdout_file: None,
                stderr_file: None,
                left_running: false,
                killed: false,
            })),
        }
    }

    /// A stream to the SSH server inside the guest, for a client of the user's own.
    pub async fn attach(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, GuestError> {
        let channel = self
            .handle
            .channel_open_direct_streamlocal(wire::ATTACH_SOCKET)
            .await?;
        Ok(channel.into_stream())
    }

    /// A stream to a port on the guest's loopback.
    pub async fn forward(
        &self,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, GuestError> {
        let channel = self
            .handle
            .channel_open_direct_tcpip("127.0.0.1", port.into(), "127.0.0.1", 0)
            .await?;
        Ok(channel.into_stream())
    }

    /// One round trip on the connection, nothing else.
    pub async fn ping(&self) -> Result<(), GuestError> {
        Ok(self.handle.send_ping().await?)
    }

    /// Says goodbye.
    pub async fn close(&self) {
        let _ = self
            .handle
            .disconnect(Disconnect::ByApplication, "", "")
            .await;
    }
}

/// An answer of the wrong kind.
pub fn unexpected(operation: &'static str, report: &Report) -> GuestError {
    GuestError::Protocol {
        operation,
        message: format!("unexpected report {report:?}"),
    }
}

/// A request under way. Dropping it closes its channel.
struct Call {
    operation: &'static str,
    reader: russh::ChannelReadHalf,
    writer: Arc<ChannelWriteHalf<client::Msg>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    ended: bool,
}

impl Call {
    async fn open<R>(guest: &Guest, request: &Request, input: R) -> Result<Self, GuestError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let channel = guest.handle.channel_open_session().await?;
        let (reader, writer) = channel.split();
        let writer = Arc::new(writer);
        let mut call = Self {
            operation: name(request),
            reader,
            writer: writer.clone(),
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
        writer.request_subsystem(false, wire::SUBSYSTEM).await?;
        // Input is sent beside the reading of output: a command that answers before it has read all must not block.
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

    fn forward_resizes(&mut self, mut resizes: tokio::sync::mpsc::Receiver<(u16, u16)>) {
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

    /// Collects output until the guest reports.
    async fn finish(
        mut self,
        output: &mut (dyn FnMut(Output) + Send),
    ) -> Result<Report, GuestError> {
        let mut report = Vec::new();
        while let Some(message) = self.reader.wait().await {
            match message {
                ChannelMsg::Data { data } => output(Output::Stdout(data)),
                ChannelMsg::ExtendedData {
                    data,
                    ext: wire::EXT_STDERR,
                } => output(Output::Stderr(data)),
                ChannelMsg::ExtendedData {
                    data,
                    ext: wire::EXT_REPORT,
                } if report.len() + data.len() <= LONGEST_REPORT => report.extend_from_slice(&data),
                ChannelMsg::ExtendedData {
                    ext: wire::EXT_REPORT,
                    ..
                } => {
                    return Err(GuestError::Protocol {
                        operation: self.operation,
                        message: format!("its report is longer than {LONGEST_REPORT} bytes"),
                    });
                }
                ChannelMsg::Close => {
                    self.ended = true;
                    break;
                }
                ChannelMsg::Failure => {
                    return Err(GuestError::Protocol {
                        operation: self.operation,
                        message: "it refused the request".into(),
                    });
                }
                _ => {}
            }
        }
        if report.is_empty() {
            return Err(GuestError::Lost);
        }
        match serde_json::from_slice(&report) {
            Ok(Report::Error(error)) => Err(GuestError::Guest(error)),
            Ok(report) => Ok(report),
            Err(error) => Err(GuestError::Protocol {
                operation: self.operation,
                message: error.to_string(),
            }),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let writer = self.writer.clone();
            runtime.spawn(async move {
                let _ = tokio::time::timeout(REPORT_GRACE, writer.close()).await;
            });
        }
    }
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::Exec(_) => "exec",
        Request::Job(_) => "job",
        Request::Jobs => "list jobs",
        Request::Read(_) => "read",
        Request::Write(_) => "write",
        Request::Edit(_) => "edit",
        Request::Search(_) => "search",
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
