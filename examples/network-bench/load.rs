//! Load on a way through the network: a server, and a client that measures. Both speak a small protocol: a digit for
//! what is asked, a length, and bytes.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::common::quantile;

const SEND: u8 = b'1';
const TAKE: u8 = b'2';
const ECHO: u8 = b'3';

/// How much is written at once, in bytes.
const PIECE: usize = 64 << 10;

/// What a client does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Takes so many bytes.
    Down(u64),
    /// Sends so many bytes.
    Up(u64),
    /// Connects so many times, one after another, each time with a byte there and back.
    Connections(usize),
    /// Has so many connections at once, each with so many bytes there and back.
    Echoes(usize, usize),
}

/// What a client measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) took: Duration,
    /// The p50 and p99 of connecting.
    pub(crate) connect: [Duration; 2],
    /// The p50 and p99 until the first byte of an answer, from the beginning of connecting.
    pub(crate) first: [Duration; 2],
    /// The time of the processor, on the host.
    #[serde(skip)]
    pub(crate) processor: Duration,
}

/// Serves each connection as it asks.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut tcp = tcp;
            // A client that goes away is no fault.
            serve_one(&mut tcp).await.ok();
        });
    }
}

async fn serve_one<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let asked = stream.read_u8().await?;
    let length = stream.read_u64().await?;
    match asked {
        SEND => {
            send(stream, length).await?;
            stream.shutdown().await
        }
        TAKE => {
            take(stream, length).await?;
            stream.write_u8(1).await?;
            stream.shutdown().await
        }
        _ => {
            let mut piece = vec![0; 4096];
            loop {
                let length = stream.read(&mut piece).await?;
                if length == 0 {
                    return stream.shutdown().await;
                }
                stream.write_all(&piece[..length]).await?;
            }
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, mut length: u64) -> io::Result<()> {
    let piece = vec![7; PIECE];
    while length > 0 {
        let now = length.min(PIECE as u64);
        stream.write_all(&piece[..now as usize]).await?;
        length -= now;
    }
    stream.flush().await
}

async fn take<S: AsyncRead + Unpin>(stream: &mut S, mut length: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while length > 0 {
        match stream.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => length = length.saturating_sub(got as u64),
        }
    }
    Ok(())
}

/// Opens a connection that echoes, and sees that it does.
pub(crate) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(&[ECHO, 0, 0, 0, 0, 0, 0, 0, 0, 1]).await?;
    stream.flush().await?;
    stream.read_u8().await.map(drop)
}

/// Measures a load over connections of one way.
pub(crate) async fn measure<C, F, S>(connect: C, load: Load) -> anyhow::Result<Measured>
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<S>> + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let mut measured = Measured::default();
    match load {
        Load::Down(length) => {
            let mut stream = connect().await?;
            ask(&mut stream, SEND, length).await?;
            take(&mut stream, length).await?;
        }
        Load::Up(length) => {
            let mut stream = connect().await?;
            ask(&mut stream, TAKE, length).await?;
            send(&mut stream, length).await?;
            ensure!(stream.read_u8().await? == 1, "the server took all");
        }
        Load::Connections(count) => {
            let (mut connects, mut firsts) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let began = Instant::now();
                let mut stream = connect().await?;
                connects.push(began.elapsed());
                echo(&mut stream).await?;
                firsts.push(began.elapsed());
            }
            measured.connect = [quantile(&mut connects, 50), quantile(&mut connects, 99)];
            measured.first = [quantile(&mut firsts, 50), quantile(&mut firsts, 99)];
        }
        Load::Echoes(count, length) => {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..count {
                let connect = connect.clone();
                all.spawn(async move {
                    let mut stream = connect().await?;
                    ask(&mut stream, ECHO, 0).await?;
                    let (mut reader, mut writer) = tokio::io::split(&mut stream);
                    let sending = async {
                        send(&mut writer, length as u64).await?;
                        writer.shutdown().await
                    };
                    tokio::try_join!(sending, take(&mut reader, length as u64))?;
                    anyhow::Ok(())
                });
            }
            while let Some(done) = all.join_next().await {
                done.context("a client panicked")??;
            }
        }
    }
    measured.took = began.elapsed();
    Ok(measured)
}

async fn ask<S: AsyncWrite + Unpin>(stream: &mut S, what: u8, length: u64) -> io::Result<()> {
    let mut head = vec![what];
    head.extend(length.to_be_bytes());
    stream.write_all(&head).await?;
    stream.flush().await
}
