//! The guest's SSH server: one connection, a channel per request.
//!
//! A connection is a controlling one or a login, by the key it proved. A controlling one may ask for the subsystem
//! [`wire::SUBSYSTEM`]; a login is what any SSH server offers, as `root` or `sandbox`. A channel waits for its
//! request, is then carried by a task of its own, and ends with it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Preferred, Pty, SshId};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{control, relay, sftp};
use crate::command::exec::{self, Wire};
use crate::server::guest::Guest;
use crate::wire::{self, Command, ExecReport, ExecRequest, PtySize, Report, Stdin, User};

/// Serves one SSH session until it ends.
pub async fn serve<S>(stream: S, guest: Arc<Guest>) -> Result<(), russh::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection {
        guest: guest.clone(),
        controls: false,
        user: User::Sandbox,
        channels: HashMap::new(),
    };
    russh::server::run_stream(config(&guest), stream, connection)
        .await?
        .await
}

fn config(guest: &Guest) -> Arc<Config> {
    Arc::new(Config {
        server_id: SshId::Standard(wire::VERSION.identification().into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::from_millis(10),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![guest.host_key.clone()],
        // New keys every 64 GiB: far below what keys are good for, and no pause that anybody meets.
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
            // AES first: translated, it takes a quarter of what ChaCha20 does, whose vectors are dear to emulate.
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

/// Connects to a port. Names other than `localhost` would take a resolver, which a static program lacks.
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

struct Waiting {
    channel: Channel<Msg>,
    env: BTreeMap<String, String>,
    pty: Option<PtySize>,
}

struct Connection {
    guest: Arc<Guest>,
    controls: bool,
    user: User,
    channels: HashMap<ChannelId, Waiting>,
}

impl Connection {
    /// What a key and a name allow: whether it controls, and as whom it acts.
    fn admit(&self, name: &str, key: &russh::keys::PublicKey) -> Option<(bool, User)> {
        let same = |known: &russh::keys::PublicKey| known.key_data() == key.key_data();
        let user = match name {
            "root" => Some(User::Root),
            "sandbox" => Some(User::Sandbox),
            _ => None,
        };
        if self.guest.control_keys.iter().any(same) {
            return Some((true, user.unwrap_or(User::Root)));
        }
        self.guest.login_keys.iter().any(same).then_some(())?;
        Some((false, user?))
    }

    fn command(
        &mut self,
        id: ChannelId,
        command: Command,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(waiting) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let request = ExecRequest {
            command,
            // Like any login: at home, not in the workspace.
            cwd: Some(
                self.guest
                    .account(self.user)
                    .home
                    .to_string_lossy()
                    .into_owned(),
            ),
            env: waiting.env,
            user: self.user,
            stdin: Stdin::Input,
            timeout_ms: None,
            spill_after: None,
            pty: waiting.pty,
            detach: None,
        };
        tokio::spawn(login_command(self.guest.clone(), request, waiting.channel));
        Ok(())
    }
}

/// Runs a login's command and ends its channel as SSH wants it.
async fn login_command(guest: Arc<Guest>, mut request: ExecRequest, channel: Channel<Msg>) {
    let (reader, writer) = channel.split();
    let mut wire = Wire {
        reader,
        writer: Arc::new(writer),
    };
    if request
        .cwd
        .as_deref()
        .is_none_or(|home| !std::path::Path::new(home).is_dir())
    {
        request.cwd = Some("/".into());
    }
    let report = exec::run(&guest, &request, &mut wire, bytes::Bytes::new(), false).await;
    let writer = wire.writer;
    let _ = match report {
        Ok(Report::Exec(ExecReport { outcome, .. })) => {
            writer.exit_status(outcome.exit_status().into()).await
        }
        Ok(_) => writer.exit_status(255).await,
        Err(error) => {
            let message = format!("snowglobe: failed to {error}\r\n");
            let _ = writer
                .extended_data_bytes(wire::EXT_STDERR, message.into_bytes())
                .await;
            writer.exit_status(127).await
        }
    };
    let _ = writer.eof().await;
    let _ = writer.close().await;
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
            cols: cols as u16,
            rows: rows as u16,
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

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.command(id, Command::LoginShell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.command(
            id,
            Command::Shell(String::from_utf8_lossy(data).into_owned()),
            session,
        )
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
        let guest = self.guest.clone();
        if name == wire::SUBSYSTEM {
            tokio::spawn(control::serve(guest, waiting.channel));
            return Ok(());
        }
        let (user, home) = (self.user, guest.account(self.user).home);
        tokio::spawn(async move {
            let (mut reader, writer) = waiting.channel.split();
            let status = match guest.actor(user) {
                Ok(actor) => {
                    let stream = tokio::io::join(reader.make_reader(), writer.make_writer());
                    sftp::serve(stream, actor, home).await;
                    0
                }
                Err(error) => {
                    tracing::warn!(%error, "no thread for sftp");
                    1
                }
            };
            // `scp` and `sftp` take a session without a status for one that failed.
            let _ = writer.exit_status(status).await;
            let _ = writer.close().await;
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
        let (host, port) = (host.to_owned(), port as u16);
        tokio::spawn(async move {
            match connect(&host, port).await {
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
        let (guest, path, controls) = (self.guest.clone(), path.to_owned(), self.controls);
        tokio::spawn(async move {
            if path == wire::ATTACH_SOCKET && controls {
                reply.accept().await;
                // The session inside this one: the same server, with a login of its own.
                let (near, far) = tokio::io::duplex(256 << 10);
                let served: std::pin::Pin<Box<dyn Future<Output = _> + Send>> =
                    Box::pin(serve(far, guest));
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
