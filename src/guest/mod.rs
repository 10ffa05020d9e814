//! The host's end of the guest link: one SSH connection, a channel per request.
//!
//! A [`Guest`] is connected or lost. A lost one stays lost: every later request fails at once, and its owner makes a new
//! one. Deliberately absent: reconnecting, and any knowledge of the VM.
//!
//! The guest is hostile. Each request has [`bounds`] on its data and its time; [`guard`] bounds everything else. A guest
//! that exceeds a bound commits a [`Violation`]: the link is dropped, and the VM's owner, which waits for that
//! ([`Guest::violated`]), ends the VM.

mod bounds;
mod call;
mod error;
mod guard;
mod identity;
mod link;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::{Channel, ChannelStream, Disconnect, Preferred, client};
use snowglobe_init::wire::{
    self, ExecReport, ExecRequest, JobInfo, JobReport, Outcome, Report, Request, VERSION,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::time::millis;
pub use bounds::within;
pub use call::Output;
use call::{Call, blame};
pub use error::{GuestError, unexpected};
pub use guard::Violation;
use guard::{Attached, Guard, Guarded, Watch};
pub use identity::{Identity, KeyError, VmKeys, generate as generate_key};
pub use link::{connect, synchronize};

/// How many messages of a channel are queued. A guest can fill the queue with packets of the greatest length.
const QUEUE: usize = 64;

/// How often a silent guest is pinged.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How long an answer to a ping may take: longer than an engine is paused while its disk is copied.
const SIGN_OF_LIFE: Duration = Duration::from_secs(600);

/// How long disconnecting may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// The result of a command.
#[derive(Debug, Clone)]
pub enum Ran {
    /// It ended.
    Ended(ExecReport),
    /// It became a job.
    Job(JobInfo),
}

/// A connected guest. Cheap to share; every request has a channel of its own.
pub struct Guest {
    handle: Arc<client::Handle<Watch>>,
    guard: Guard,
    /// Ends the task that pings.
    _alive: DropGuard,
    gone: CancellationToken,
}

impl Ran {
    /// The result of a command that cannot become a job.
    pub fn ended(self) -> Result<ExecReport, GuestError> {
        match self {
            Self::Ended(report) => Ok(report),
            Self::Job(job) => Err(unexpected(
                "exec",
                &Report::Job(JobReport {
                    offset: 0,
                    next_offset: 0,
                    job,
                }),
            )),
        }
    }
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
        // The stream is private to two processes of one user, so the fastest key exchange will do.
        preferred: Preferred {
            kex: vec![russh::kex::CURVE25519].into(),
            cipher: vec![russh::cipher::AES_128_GCM, russh::cipher::CHACHA20_POLY1305].into(),
            compression: vec![russh::compression::NONE].into(),
            ..Preferred::default()
        },
        window_size: 16 << 20,
        maximum_packet_size: guard::LONGEST_PACKET,
        channel_buffer_size: QUEUE,
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
        let guard = Guard::default();
        let watch = Watch {
            key: identity.host_key.clone(),
            guard: guard.clone(),
        };
        let stream = Guarded::new(stream, guard.clone());
        let login = async {
            let mut handle =
                client::connect_stream(Arc::new(client_config()), stream, watch).await?;
            match guard.version() {
                Some(VERSION) => {}
                other => return Err(GuestError::OtherVersion(other)),
            }
            let key = russh::keys::PrivateKeyWithHashAlg::new(identity.key.clone(), None);
            match handle.authenticate_publickey(user, key).await?.success() {
                true => Ok(handle),
                false => Err(GuestError::Refused {
                    user: user.to_owned(),
                }),
            }
        };
        let handle = within(Some(bounds::ANSWER), "log in", login)
            .await
            .map_err(|error| blame(&guard, error))?;
        let gone = CancellationToken::new();
        let guest = Self {
            handle: Arc::new(handle),
            guard,
            _alive: gone.clone().drop_guard(),
            gone,
        };
        tokio::spawn(
            guest
                .gone
                .clone()
                .run_until_cancelled_owned(heartbeat(guest.handle.clone(), guest.guard.clone())),
        );
        Ok(guest)
    }

    /// Whether the connection is gone.
    pub fn is_lost(&self) -> bool {
        self.guard.is_broken() || self.handle.is_closed()
    }

    /// Waits for a violation; none if the guest is dropped before.
    pub fn violated(&self) -> impl Future<Output = Option<Violation>> + Send + 'static {
        let (guard, gone) = (self.guard.clone(), self.gone.clone());
        async move {
            tokio::select! {
                () = guard.broken() => {}
                () = gone.cancelled() => {}
            }
            guard.violation()
        }
    }

    /// Sends a request with its whole input; `output` is called with each piece as it comes.
    pub async fn request(
        &self,
        request: &Request,
        input: Bytes,
        output: &mut (dyn FnMut(Output) + Send),
    ) -> Result<Report, GuestError> {
        let length = input.len() as u64;
        self.request_with(request, std::io::Cursor::new(input), length, output)
            .await
    }

    /// As [`Self::request`], with an input of `length` bytes that is read while it is sent.
    pub async fn request_with<R>(
        &self,
        request: &Request,
        input: R,
        length: u64,
        output: &mut (dyn FnMut(Output) + Send),
    ) -> Result<Report, GuestError>
    where
        R: AsyncRead + Unpin + Send + 'static,
    {
        let bounds = bounds::of(request, length);
        let answered = async {
            let call = Call::open(&self.handle, &self.guard, request, input, bounds.data).await?;
            call.finish(output).await
        };
        within(bounds.time, call::name(request), answered).await
    }

    /// Sends a request without input, and ignores its output.
    pub async fn ask(&self, request: &Request) -> Result<Report, GuestError> {
        self.request(request, Bytes::new(), &mut |_| ()).await
    }

    /// Runs a command. Cancelling closes its channel, which ends the command, and waits no longer.
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
        let request = Request::Exec(request);
        let bounds = bounds::of(&request, 0);
        let answered = async {
            let mut call =
                Call::open(&self.handle, &self.guard, &request, input, bounds.data).await?;
            if let Some(resizes) = resizes {
                call.forward_resizes(resizes);
            }
            match call.finish(output).await? {
                Report::Exec(report) => Ok(Ran::Ended(report)),
                Report::Job(report) => Ok(Ran::Job(report.job)),
                other => Err(unexpected("exec", &other)),
            }
        };
        tokio::select! {
            ran = within(bounds.time, "exec", answered) => ran,
            () = cancel.cancelled() => Ok(Ran::Ended(ExecReport {
                outcome: Outcome::Cancelled,
                duration_ms: millis(started.elapsed()),
                stdout_bytes: 0,
                stderr_bytes: 0,
                stdout_file: None,
                stderr_file: None,
                left_running: false,
                killed: false,
            })),
        }
    }

    /// A stream to the SSH server inside the guest, for the user's own client.
    pub async fn attach(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, GuestError> {
        let opening = self
            .handle
            .channel_open_direct_streamlocal(wire::ATTACH_SOCKET);
        self.stream("attach", opening).await
    }

    /// A stream to a port on the guest's loopback.
    pub async fn forward(
        &self,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, GuestError> {
        let opening =
            self.handle
                .channel_open_direct_tcpip("127.0.0.1", port.into(), "127.0.0.1", 0);
        self.stream("forward", opening).await
    }

    async fn stream(
        &self,
        operation: &'static str,
        opening: impl Future<Output = Result<Channel<client::Msg>, russh::Error>>,
    ) -> Result<Attached<ChannelStream<client::Msg>>, GuestError> {
        self.guard.open();
        let opened = async {
            let channel = opening.await;
            channel.map_err(|error| blame(&self.guard, error.into()))
        };
        let channel = within(Some(bounds::LATE), operation, opened).await?;
        Ok(Attached::new(channel.into_stream(), self.guard.clone()))
    }

    /// One round trip on the connection, nothing else.
    pub async fn ping(&self) -> Result<(), GuestError> {
        self.guard.open();
        let answered = async { Ok(self.handle.send_ping().await?) };
        within(Some(bounds::LATE), "ping", answered).await
    }

    /// Disconnects in order, if the guest still reads.
    pub async fn close(&self) {
        let said = self.handle.disconnect(Disconnect::ByApplication, "", "");
        tokio::time::timeout(GOODBYE, said).await.ok();
    }
}

/// Pings a silent guest, and gives the connection up if it does not answer: that ends requests without a deadline, too.
async fn heartbeat(handle: Arc<client::Handle<Watch>>, guard: Guard) {
    loop {
        let before = guard.received();
        tokio::time::sleep(HEARTBEAT).await;
        if guard.received() != before {
            continue;
        }
        guard.open();
        match tokio::time::timeout(SIGN_OF_LIFE, handle.send_ping()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return guard.give_up(),
        }
    }
}

/// How long a command's answer may take; absent: no deadline.
pub fn patience(request: &ExecRequest) -> Option<Duration> {
    bounds::of(&Request::Exec(request.clone()), 0).time
}

#[cfg(test)]
mod tests {
    use russh::SshId;
    use russh::server::{self, Auth, Handler, VerifiedPublicKey};

    use super::*;

    /// A server that admits every key.
    struct Open;

    impl Handler for Open {
        type Error = russh::Error;

        async fn auth_publickey(
            &mut self,
            _: &str,
            _: VerifiedPublicKey<'_>,
        ) -> Result<Auth, russh::Error> {
            Ok(Auth::Accept)
        }
    }

    /// Logs in to a server that has this identification line.
    async fn login(identification: String) -> Result<Guest, GuestError> {
        let keys = VmKeys::generate().unwrap();
        let host = russh::keys::PrivateKey::from_openssh(keys.host_pem().unwrap()).unwrap();
        let config = server::Config {
            server_id: SshId::Standard(identification.into()),
            keys: vec![host],
            ..server::Config::default()
        };
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let session = server::run_stream(Arc::new(config), theirs, Open).await;
            session.unwrap().await
        });
        Guest::login(ours, &keys.identity(), "root").await
    }

    #[tokio::test]
    async fn only_a_guest_of_this_version_is_logged_in_to() {
        login(VERSION.identification()).await.unwrap();
        for (identification, stated) in [
            ("SSH-2.0-Snowglobe_0", "version 0"),
            ("SSH-2.0-Snowglobe_77", "version 77"),
            ("SSH-2.0-OpenSSH_9.2", "no known version"),
        ] {
            let error = login(identification.to_owned()).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, GuestError::OtherVersion(_)), "{text}");
            assert!(text.contains(stated), "{text}");
            assert!(
                text.contains(&format!("speaks version {VERSION}")),
                "{text}"
            );
            assert!(text.contains("`reboot`"), "{text}");
        }
    }
}
