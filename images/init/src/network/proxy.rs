//! Proxies on the loopback interface, for programs that like them: HTTP (`CONNECT` and absolute addresses) and SOCKS 5.
//!
//! They save nothing and open nothing: each connection is asked of the host as any other. A name is passed on as a
//! name, so the guest's resolver has no part in it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Network, program};
use crate::streams::{OpenError, Reason, Stream, pump};
use crate::wire::network::FromGuest;

/// Where they listen: both ports take both protocols.
const PORTS: [u16; 2] = [3128, 1080];

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;

/// How many lines a head may have.
const MAX_LINES: usize = 128;

/// How long a program may take to say what it wants.
const ASKING: Duration = Duration::from_secs(30);

/// The first byte of SOCKS 5.
const SOCKS: u8 = 5;

/// What a program wants: where to, and what of its bytes goes there first.
struct Wish {
    host: String,
    port: u16,
    first: Vec<u8>,
    protocol: Protocol,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Connect,
    Http,
    Socks,
}

/// Listens; a port that a program of the image has is left to it.
pub(super) async fn start(network: Arc<Network>) {
    for port in PORTS {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            tokio::spawn(serve(listener, network.clone()));
        }
    }
}

async fn serve(listener: TcpListener, network: Arc<Network>) {
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => {
                let network = network.clone();
                // A program sees how it ended.
                tokio::spawn(async move { answer(tcp, from, &network).await.ok() });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(mut tcp: TcpStream, from: SocketAddr, network: &Network) -> io::Result<()> {
    let asked = tokio::time::timeout(ASKING, ask(&mut tcp)).await;
    let wish = match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(wish) => wish,
        Err(error) => {
            let text = format!("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{error}\n");
            return tcp.write_all(text.as_bytes()).await;
        }
    };
    let request = FromGuest::Connect {
        host: wish.host,
        port: wish.port,
        by: program::of_connection(from, tcp.local_addr()?),
    };
    match network.open(&request).await {
        Ok(stream) => carry(tcp, stream, &wish.first, wish.protocol).await,
        Err(error) => tcp.write_all(&refusal(&error, wish.protocol)).await,
    }
}

async fn carry(
    mut tcp: TcpStream,
    mut stream: Stream,
    first: &[u8],
    protocol: Protocol,
) -> io::Result<()> {
    match protocol {
        Protocol::Connect => tcp.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?,
        Protocol::Socks => tcp.write_all(&socks_reply(0)).await?,
        Protocol::Http => {}
    }
    stream.write_all(first).await?;
    pump(tcp, stream).await;
    Ok(())
}

/// What a program is told of a refusal.
fn refusal(error: &OpenError, protocol: Protocol) -> Vec<u8> {
    let reason = match error {
        OpenError::Refused(refusal) => refusal.reason,
        _ => Reason::Failed,
    };
    if protocol == Protocol::Socks {
        let status = match reason {
            Reason::Denied => 2,
            Reason::NotFound | Reason::Unreachable => 4,
            Reason::Refused => 5,
            Reason::TimedOut => 6,
            _ => 1,
        };
        return socks_reply(status).to_vec();
    }
    let status = match reason {
        Reason::Denied => "403 Forbidden",
        Reason::TimedOut => "504 Gateway Timeout",
        _ => "502 Bad Gateway",
    };
    let text = format!("{error}\n");
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

/// Reads what a program wants, in either protocol.
async fn ask(tcp: &mut TcpStream) -> io::Result<Wish> {
    let mut head = vec![tcp.read_u8().await?];
    if head[0] == SOCKS {
        return ask_socks(tcp).await;
    }
    loop {
        if let Some(wish) = understand(&head)? {
            return Ok(wish);
        }
        if head.len() >= MAX_HEAD {
            return Err(invalid("the request's head is too long"));
        }
        if tcp.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What the head of a request wants, once it is whole.
fn understand(head: &[u8]) -> io::Result<Option<Wish>> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut request = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(length) = request.parse(head).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(invalid("the request has no target"));
    };
    let rest = &head[length..];
    if method == "CONNECT" {
        let (host, port) = split(target, None)?;
        let (first, protocol) = (rest.to_vec(), Protocol::Connect);
        return Ok(Some(Wish {
            host,
            port,
            first,
            protocol,
        }));
    }
    let target = target.strip_prefix("http://").ok_or_else(|| {
        invalid("a proxy takes `CONNECT` and addresses that begin with `http://`")
    })?;
    let (authority, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let (host, port) = split(authority, Some(80))?;
    // The server gets the request as if there were no proxy, and the connection ends with its answer: the next request may
    // be to another server.
    let path = if path.is_empty() { "/" } else { path };
    let mut first = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    for line in request.headers.iter() {
        let own = [
            "connection",
            "proxy-connection",
            "proxy-authorization",
            "keep-alive",
        ];
        if !own.iter().any(|own| line.name.eq_ignore_ascii_case(own)) {
            first.extend_from_slice(line.name.as_bytes());
            first.extend_from_slice(b": ");
            first.extend_from_slice(line.value);
            first.extend_from_slice(b"\r\n");
        }
    }
    first.extend_from_slice(b"Connection: close\r\n\r\n");
    first.extend_from_slice(rest);
    let protocol = Protocol::Http;
    Ok(Some(Wish {
        host,
        port,
        first,
        protocol,
    }))
}

/// The host that a request wants, and the length of what it sends first.
#[cfg(feature = "fuzz")]
pub(super) fn wanted(head: &[u8]) -> io::Result<Option<(String, usize)>> {
    Ok(understand(head)?.map(|wish| (wish.host, wish.first.len())))
}

/// `HOST:PORT`, with brackets around an address of IPv6.
fn split(authority: &str, default: Option<u16>) -> io::Result<(String, u16)> {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (
            host,
            Some(port.parse().map_err(|_| invalid("the port is no number"))?),
        ),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match port {
        Some(port) if !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(invalid("the target has no host or no port")),
    }
}

/// SOCKS 5 (RFC 1928), after its first byte: no authentication, `CONNECT` only.
async fn ask_socks(tcp: &mut TcpStream) -> io::Result<Wish> {
    let methods = tcp.read_u8().await?;
    let mut offered = vec![0; methods.into()];
    tcp.read_exact(&mut offered).await?;
    if !offered.contains(&0) {
        tcp.write_all(&[SOCKS, 0xff]).await?;
        return Err(invalid("only connections without authentication are taken"));
    }
    tcp.write_all(&[SOCKS, 0]).await?;
    let mut head = [0; 4];
    tcp.read_exact(&mut head).await?;
    let [version, command, _, kind] = head;
    let host = match kind {
        1 => IpAddr::V4(Ipv4Addr::from(tcp.read_u32().await?)).to_string(),
        3 => {
            let mut name = vec![0; tcp.read_u8().await?.into()];
            tcp.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| invalid("the name is no text"))?
        }
        4 => IpAddr::V6(Ipv6Addr::from(tcp.read_u128().await?)).to_string(),
        _ => return Err(invalid("the address is of an unknown kind")),
    };
    let port = tcp.read_u16().await?;
    if version != SOCKS || command != 1 {
        tcp.write_all(&socks_reply(7)).await?;
        return Err(invalid("only `CONNECT` is taken"));
    }
    let (first, protocol) = (Vec::new(), Protocol::Socks);
    Ok(Wish {
        host,
        port,
        first,
        protocol,
    })
}

/// A reply of SOCKS 5, with an address that says nothing.
fn socks_reply(status: u8) -> [u8; 10] {
    [SOCKS, status, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(head: &str) -> io::Result<Option<(String, u16, String)>> {
        let wish = understand(head.as_bytes())?;
        Ok(wish.map(|wish| (wish.host, wish.port, String::from_utf8(wish.first).unwrap())))
    }

    #[test]
    fn requests_say_where_they_go() {
        let connect = wish("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\n\r\nhello").unwrap();
        assert_eq!(connect, Some(("2001:db8::1".into(), 443, "hello".into())));
        let get = "GET http://example.org:8080/a?b HTTP/1.1\r\nHost: example.org:8080\r\nProxy-Connection: keep-alive\r\n\r\n";
        let (host, port, first) = wish(get).unwrap().unwrap();
        assert_eq!((host.as_str(), port), ("example.org", 8080));
        assert_eq!(
            first,
            "GET /a?b HTTP/1.1\r\nHost: example.org:8080\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(wish("GET http://example.org").unwrap(), None);
        for wrong in [
            "GET /a HTTP/1.1\r\n\r\n",
            "CONNECT example.org HTTP/1.1\r\n\r\n",
            "CONNECT :443 HTTP/1.1\r\n\r\n",
            "GET http://example.org:x/ HTTP/1.1\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(wish(wrong).is_err(), "{wrong}");
        }
    }
}
