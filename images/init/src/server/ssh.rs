//! One SSH connection, with a channel per request.
//!
//! By its key a connection is the host's or a login. The host may use the subsystem [`wire::SUBSYSTEM`]. A login has what
//! any SSH server offers, as `root` or `sandbox`. A channel waits for its request; then a task serves the channel until
//! it ends.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Preferred, Pty, SshId};
use tokio::io::{AsyncRead, AsyncWrite};

use super::state::Server;
use super::{control, relay, sftp};
use crate::command::exec;
use crate::link::channel::SplitChannel;
use crate::wire::{self, ExecReport, ExecRequest, Program, PtySize, Refused, Report, Stdin, User};

/// Serves one SSH session until it ends.
pub async fn serve<S>(stream: S, server: Arc<Server>) -> Result<(), russh::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection {
        server: server.clone(),
        controls: false,
        user: User::Sandbox,
        channels: HashMap::new(),
        untold: None,
    };
    russh::server::run_stream(config(&server), stream, connection)
        .await?
        .await
}

fn config(server: &Server) -> Arc<Config> {
    Arc::new(Config {
        server_id: SshId::Standard(wire::VERSION.identification().into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::from_millis(10),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![server.host_key.clone()],
        // New keys every 64 GiB: far below the keys' limit, and so rarely that the pause does not matter.
        limits: russh::Limits {
            rekey_write_limit: 64 << 30,
            rekey_read_limit: 64 << 30,
            rekey_time_limit: Duration::from_secs(365 * 24 * 3600),
        },
        window_size: 16 << 20,
        maximum_packet_size: 65_535,
        channel_buffer_size: 256,
        event_buffer_size: 256,
        preferred: Preferred {
            // AES first: under emulation it takes a quarter of the time of ChaCha20, whose vectors are slow to emulate.
            cipher: vec![
                russh::cipher::AES_128_GCM,
                russh::cipher::AES_256_GCM,
                russh::cipher::CHACHA20_POLY1305,
                russh::cipher::AES_256_CTR,
                russh::cipher::AES_128_CTR,
            ]
            .into(),
            compression: vec![russh::compression::NONE].into(),
            ..Preferred::default()
        },
        inactivity_timeout: None,
        ..Config::default()
    })
}

/// Connects to a port. Other names than `localhost` need a resolver, which a static program lacks.
async fn connect(host: &str, port: u16) -> Option<tokio::net::TcpStream> {
    let addresses: Vec<IpAddr> = match host {
        "localhost" | "" | "*" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        host => vec![host.trim_matches(['[', ']']).parse().ok()?],
    };
    for address in addresses {
        if let Ok(stream) = tokio::net::TcpStream::connect((address, port)).await {
            return Some(stream);
        }
    }
    None
}

/// A channel before its request.
struct Waiting {
    channel: Channel<Msg>,
    env: BTreeMap<String, String>,
    pty: Option<PtySize>,
}

struct Connection {
    server: Arc<Server>,
    /// Whether it is the host's.
    controls: bool,
    user: User,
    channels: HashMap<ChannelId, Waiting>,
    /// What was refused outside of any channel; the next command's standard error says so.
    untold: Option<Refused>,
}

impl Connection {
    /// Says on a channel's standard error what is refused, and why.
    fn tell(id: ChannelId, refused: Refused, session: &mut Session) -> Result<(), russh::Error> {
        let message = format!("snowglobe: {refused}\r\n");
        session.extended_data(id, wire::EXT_STDERR, message)
    }

    /// Whether a key is the host's, and the user that a login name stands for; `None` if the key is not known.
    fn admit(&self, name: &str, key: &russh::keys::PublicKey) -> Option<(bool, User)> {
        let same = |known: &russh::keys::PublicKey| known.key_data() == key.key_data();
        let user = match name {
            "root" => Some(User::Root),
            "sandbox" => Some(User::Sandbox),
            _ => None,
        };
        if self.server.control_keys.iter().any(same) {
            return Some((true, user.unwrap_or(User::Root)));
        }
        self.server.login_keys.iter().any(same).then_some(())?;
        Some((false, user?))
    }

    fn command(
        &mut self,
        id: ChannelId,
        program: Program,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(waiting) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        if let Some(refused) = self.untold.take() {
            Self::tell(id, refused, session)?;
        }
        let request = ExecRequest {
            command: program,
            // Where every command starts: in the workspace, or where the image says.
            cwd: None,
            env: waiting.env,
            user: self.user,
            stdin: Stdin::Input,
            timeout_ms: None,
            spill_after: None,
            pty: waiting.pty,
            detach: None,
        };
        tokio::spawn(login_command(self.server.clone(), request, waiting.channel));
        Ok(())
    }
}

/// Runs a login's command and ends the channel as SSH requires.
async fn login_command(server: Arc<Server>, mut request: ExecRequest, channel: Channel<Msg>) {
    let mut channel = SplitChannel::from(channel);
    // A login works even where that directory is gone.
    if !server.context.workdir.is_dir() {
        request.cwd = Some("/".into());
    }
    let (context, jobs) = (&server.context, &server.jobs);
    let report = exec::run(context, jobs, &request, &mut channel, Bytes::new(), false).await;
    let writer = &channel.writer;
    let status = match report {
        Ok(Report::Exec(ExecReport { outcome, .. })) => outcome.exit_status().into(),
        Ok(_) => 255,
        Err(error) => {
            let message = format!("snowglobe: failed to {error}\r\n").into_bytes();
            writer
                .extended_data_bytes(wire::EXT_STDERR, message)
                .await
                .ok();
            127
        }
    };
    // A client that is gone needs no status.
    writer.exit_status(status).await.ok();
    channel.close().await;
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        name: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(match self.admit(name, key.public_key) {
            Some((controls, user)) => {
                (self.controls, self.user) = (controls, user);
                Auth::Accept
            }
            None => Auth::reject(),
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(
            channel.id(),
            Waiting {
                channel,
                env: BTreeMap::new(),
                pty: None,
            },
        );
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(waiting) = self.channels.get_mut(&id) else {
            return session.channel_failure(id);
        };
        waiting.pty = Some(PtySize {
            term: term.to_owned(),
            cols: exec::dimension(cols),
            rows: exec::dimension(rows),
        });
        session.channel_success(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(waiting) = self.channels.get_mut(&id) else {
            return session.channel_failure(id);
        };
        waiting.env.insert(name.to_owned(), value.to_owned());
        session.channel_success(id)
    }

    async fn agent_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Self::tell(id, Refused::Agent, session)?;
        Ok(false)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Self::tell(id, Refused::X11, session)?;
        session.channel_failure(id)
    }

    async fn tcpip_forward(
        &mut self,
        _: &str,
        _: &mut u32,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        self.untold = Some(Refused::Remote);
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, _: &str, _: &mut Session) -> Result<bool, Self::Error> {
        self.untold = Some(Refused::Remote);
        Ok(false)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.command(id, Program::LoginShell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.command(id, Program::Shell(data.to_vec().into()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let known = name == "sftp" || (name == wire::SUBSYSTEM && self.controls);
        let (true, Some(waiting)) = (known, self.channels.remove(&id)) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let server = self.server.clone();
        if name == wire::SUBSYSTEM {
            tokio::spawn(control::serve(server, waiting.channel));
            return Ok(());
        }
        // At home, unlike a command: `scp` takes `~/x` for a path relative to where its session starts.
        let (user, home) = (self.user, server.context.account(self.user).home);
        tokio::spawn(async move {
            let (mut reader, writer) = waiting.channel.split();
            let status = match server.shared_thread(user) {
                Ok(thread) => {
                    let stream = tokio::io::join(reader.make_reader(), writer.make_writer());
                    sftp::serve(stream, thread, home).await;
                    0
                }
                Err(error) => {
                    tracing::warn!(%error, "no thread for sftp");
                    1
                }
            };
            // `scp` and `sftp` treat a session without a status as failed.
            writer.exit_status(status).await.ok();
            writer.close().await.ok();
        });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let (host, port) = (host.to_owned(), u16::try_from(port));
        tokio::spawn(async move {
            let stream = match port {
                Ok(port) => connect(&host, port).await,
                Err(_) => None,
            };
            match stream {
                Some(stream) => {
                    reply.accept().await;
                    relay::couple(channel, stream).await;
                }
                None => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let (server, path, controls) = (self.server.clone(), path.to_owned(), self.controls);
        tokio::spawn(async move {
            if path == wire::ATTACH_SOCKET && controls {
                reply.accept().await;
                // A session inside this one, with its own login.
                let (near, far) = tokio::io::duplex(256 << 10);
                let served: std::pin::Pin<Box<dyn Future<Output = _> + Send>> =
                    Box::pin(serve(far, server));
                tokio::spawn(served);
                relay::couple(channel, near).await;
                return;
            }
            match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => {
                    reply.accept().await;
                    relay::couple(channel, stream).await;
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }
}
