//! A guest sends anything over the link: the host gets an answer or an error, in bounded memory, and an answer is never
//! larger than its request allows.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use russh::server::{Config, Handle, Msg};
use russh::{Channel, SshId};
use snowglobe::guest::{Guest, Identity, Output, VmKeys, synchronize};
use snowglobe_init::wire::{
    EXT_REPORT, JobAction, JobRequest, MAX_LISTING, ReadRequest, ReadWant, Request, SearchRequest,
    User, VERSION,
};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};

#[path = "../../integration/hostile/server.rs"]
mod server;

/// The bytes that an answer may have beyond the requested size.
const BESIDE: usize = 64 << 10;

/// The time limit of one input. A guest that waits is no finding: the host's deadlines are longer than this limit.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Arbitrary, Debug)]
struct Play {
    ask: Ask,
    guest: Guests,
}

/// The host's request.
#[derive(Arbitrary, Debug)]
enum Ask {
    Bytes(u16),
    Search(u16),
    Output(u16),
    Status,
    Attach,
    Forward,
}

#[derive(Arbitrary, Debug)]
enum Guests {
    /// Bytes before and after the line that begins the link.
    Raw { before: Vec<u8>, after: Vec<u8> },
    /// An SSH server with arbitrary behaviour.
    Server(Vec<Act>),
}

#[derive(Arbitrary, Debug, Clone)]
enum Act {
    Data(Vec<u8>, u8),
    Extended(u8, Vec<u8>, u8),
    Report(String, u8),
    Status(u32, u8),
    Signal,
    Success,
    Failure,
    Flow(bool),
    Eof,
    Close,
    Open(u8),
    Forward,
    Disconnect,
}

static KEYS: LazyLock<(Arc<Config>, Identity)> = LazyLock::new(|| {
    let keys = VmKeys::generate().expect("keys can be made");
    let host = keys.host_pem().expect("a key can be written");
    let host = russh::keys::PrivateKey::from_openssh(host).expect("what is written can be read");
    let config = Config {
        server_id: SshId::Standard(VERSION.identification().into()),
        keys: vec![host],
        ..Config::default()
    };
    (Arc::new(config), keys.identity())
});

pub(crate) fn play(bytes: &[u8]) {
    let Some(play) = crate::made::<Play>(bytes) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(theirs, play.guest));
        let _ = tokio::time::timeout(PATIENCE, ask(ours, &play.ask)).await;
    });
}

async fn ask(stream: DuplexStream, ask: &Ask) -> Option<()> {
    let stream = synchronize(stream).await.ok()?;
    let guest = Guest::login(stream, &KEYS.1, "root").await.ok()?;
    let (request, most) = match ask {
        Ask::Attach => return take(guest.attach().await.ok()?).await,
        Ask::Forward => return take(guest.forward(80).await.ok()?).await,
        Ask::Status => (Request::Status, 0),
        Ask::Bytes(limit) => (read(*limit), MAX_LISTING as usize),
        Ask::Search(limit) => (search(*limit), usize::from(*limit)),
        Ask::Output(limit) => (output(*limit), usize::from(*limit)),
    };
    let mut brought = 0;
    let mut count = |output| {
        let (Output::Stdout(data) | Output::Stderr(data)) = output;
        brought += data.len();
    };
    let answer = guest
        .request(&request, Default::default(), &mut count)
        .await;
    assert!(
        brought <= most + BESIDE,
        "{brought} bytes came for {request:?}"
    );
    if let Err(error) = answer {
        crate::check_message(&error, 1 << 20);
    }
    Some(())
}

/// Collects the data of a stream.
async fn take(stream: impl AsyncRead + Unpin) -> Option<()> {
    let mut stream = stream.take(1 << 20);
    tokio::io::copy(&mut stream, &mut tokio::io::sink())
        .await
        .ok()
        .map(drop)
}

fn read(limit: u16) -> Request {
    Request::Read(ReadRequest {
        path: "x".into(),
        user: User::Root,
        want: ReadWant::Bytes {
            offset: 0,
            limit: limit.into(),
        },
    })
}

fn search(max_bytes: u16) -> Request {
    Request::Search(SearchRequest {
        pattern: "x".into(),
        literal: true,
        ignore_case: false,
        path: "/".into(),
        user: User::Root,
        globs: Vec::new(),
        context: 0,
        limit: 10,
        max_bytes: max_bytes.into(),
    })
}

fn output(limit: u16) -> Request {
    Request::Job(JobRequest {
        id: "j".into(),
        action: JobAction::Output {
            offset: None,
            limit: limit.into(),
        },
    })
}

async fn serve(stream: DuplexStream, guest: Guests) {
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
            let server = server::Server::new(move |channel, handle| {
                tokio::spawn(act(channel, handle, acts.clone()));
            });
            if let Ok(session) = russh::server::run_stream(KEYS.0.clone(), stream, server).await {
                let _ = session.await;
            }
        }
    }
}

async fn act(channel: Channel<Msg>, handle: Handle, acts: Vec<Act>) {
    let many = |data: Vec<u8>, times: u8| data.repeat(usize::from(times) + 1);
    for act in acts {
        match act {
            Act::Data(data, times) => drop(channel.data_bytes(many(data, times)).await),
            Act::Extended(kind, data, times) => drop(
                channel
                    .extended_data_bytes(kind.into(), many(data, times))
                    .await,
            ),
            Act::Report(text, times) => {
                let data = many(text.into_bytes(), times);
                let _ = channel.extended_data_bytes(EXT_REPORT, data).await;
            }
            Act::Status(status, times) => {
                for _ in 0..times {
                    let _ = channel.exit_status(status).await;
                }
            }
            Act::Signal => {
                let name = russh::Sig::TERM;
                let _ = handle
                    .exit_signal_request(channel.id(), name, true, "x".into(), "".into())
                    .await;
            }
            Act::Success => drop(handle.channel_success(channel.id()).await),
            Act::Failure => drop(handle.channel_failure(channel.id()).await),
            Act::Flow(can) => drop(handle.xon_xoff_request(channel.id(), can).await),
            Act::Eof => drop(channel.eof().await),
            Act::Close => drop(channel.close().await),
            Act::Open(times) => {
                for _ in 0..times {
                    let handle = handle.clone();
                    tokio::spawn(async move { handle.channel_open_session().await.map(drop) });
                }
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
    // Otherwise the host would only wait.
    let _ = channel.close().await;
}
