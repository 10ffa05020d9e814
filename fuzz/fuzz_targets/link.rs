//! The guest at the other end of the link, whatever it says: the host gets an answer or an error, in bounded memory,
//! and a request never brings more than it asked for.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, SshId};
use snowglobe::guest::{Guest, Identity, Output, VmKeys, synchronize};
use snowglobe_init::wire::{self, ReadRequest, ReadWant, Request, User};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

/// What one request may bring: what it asks for, or a listing, and what comes beside.
const MOST: usize = (4 << 20) + (64 << 10);

#[derive(Arbitrary, Debug)]
enum Guests {
    /// Bytes before and after the line that begins the link.
    Raw { before: Vec<u8>, after: Vec<u8> },
    /// An SSH server that does as it pleases.
    Server(Vec<Act>),
}

#[derive(Arbitrary, Debug, Clone)]
enum Act {
    Data(Vec<u8>, u8),
    Extended(u8, Vec<u8>, u8),
    Report(String),
    Status(u32, u8),
    Flow(bool),
    Eof,
    Close,
    Open,
    Forward,
    Disconnect,
}

static KEYS: LazyLock<(VmKeys, Arc<Config>, Identity)> = LazyLock::new(|| {
    let keys = VmKeys::generate().unwrap();
    let host = russh::keys::PrivateKey::from_openssh(keys.host_pem().unwrap()).unwrap();
    let config = Config {
        server_id: SshId::Standard(wire::VERSION.identification().into()),
        keys: vec![host],
        ..Config::default()
    };
    let identity = keys.identity();
    (keys, Arc::new(config), identity)
});

fuzz_target!(|guest: Guests| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(play(theirs, guest));
        let stream = synchronize(ours).await.ok()?;
        let guest = Guest::login(stream, &KEYS.2, "root").await.ok()?;
        let request = Request::Read(ReadRequest {
            path: "x".into(),
            user: User::Root,
            want: ReadWant::Bytes {
                offset: 0,
                limit: 1000,
            },
        });
        let mut brought = 0;
        let mut count = |output| {
            let (Output::Stdout(data) | Output::Stderr(data)) = output;
            brought += data.len();
        };
        let _ = guest
            .request(&request, Default::default(), &mut count)
            .await;
        assert!(brought <= MOST, "{brought} bytes came");
        Some(())
    };
    // A guest that waits is no finding here; its deadlines are longer than a fuzzer's patience.
    let _ =
        runtime.block_on(async { tokio::time::timeout(Duration::from_millis(500), asked).await });
});

async fn play(stream: DuplexStream, guest: Guests) {
    let mut stream = BufReader::new(stream);
    let mut nonce = Vec::new();
    if stream.read_until(b'\n', &mut nonce).await.is_err() {
        return;
    }
    match guest {
        Guests::Raw { before, after } => {
            for bytes in [before, nonce, after] {
                let _ = stream.write_all(&bytes).await;
            }
        }
        Guests::Server(acts) => {
            let _ = stream.write_all(&nonce).await;
            let server = Server {
                acts,
                channel: None,
            };
            if let Ok(session) = russh::server::run_stream(KEYS.1.clone(), stream, server).await {
                let _ = session.await;
            }
        }
    }
}

struct Server {
    acts: Vec<Act>,
    channel: Option<Channel<Msg>>,
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        _: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(channel) = self.channel.take() {
            tokio::spawn(act(channel, session.handle(), self.acts.clone()));
        }
        Ok(())
    }
}

async fn act(channel: Channel<Msg>, handle: russh::server::Handle, acts: Vec<Act>) {
    for act in acts {
        match act {
            Act::Data(data, times) => {
                let data = data.repeat(usize::from(times) + 1);
                let _ = channel.data_bytes(data).await;
            }
            Act::Extended(kind, data, times) => {
                let data = data.repeat(usize::from(times) + 1);
                let _ = channel.extended_data_bytes(kind.into(), data).await;
            }
            Act::Report(text) => {
                let _ = channel.extended_data_bytes(100, text.into_bytes()).await;
            }
            Act::Status(status, times) => {
                for _ in 0..times {
                    let _ = channel.exit_status(status).await;
                }
            }
            Act::Flow(can) => drop(handle.xon_xoff_request(channel.id(), can).await),
            Act::Eof => drop(channel.eof().await),
            Act::Close => drop(channel.close().await),
            Act::Open => {
                let handle = handle.clone();
                tokio::spawn(async move { handle.channel_open_session().await.map(drop) });
            }
            Act::Forward => {
                let handle = handle.clone();
                tokio::spawn(async move { handle.channel_open_agent().await.map(drop) });
            }
            Act::Disconnect => {
                let reason = russh::Disconnect::ByApplication;
                let _ = handle
                    .disconnect(reason, String::new(), String::new())
                    .await;
            }
        }
    }
    // Else the host waits, which tells nothing.
    let _ = channel.close().await;
}
