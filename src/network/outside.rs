//! The network as the host has it: its resolver, its connections, its own addresses.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rustix::net::sockopt;
use tokio::net::TcpStream;

/// For how long this machine's addresses are taken as known.
const FRESH: Duration = Duration::from_secs(5);

/// After how long without a byte a server is asked whether it is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What the broker uses of the host's network.
pub trait Outside: Send + Sync {
    /// The addresses of a name. A name that does not exist fails with [`ErrorKind::NotFound`].
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;

    /// A connection to exactly this address.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;

    /// The addresses of this machine.
    fn own(&self) -> io::Result<Vec<IpAddr>>;
}

/// The network of this machine.
#[derive(Debug, Default)]
pub struct ThisMachine(Mutex<Option<(Instant, Vec<IpAddr>)>>);

impl Outside for ThisMachine {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        Box::pin(async move {
            match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => Ok(found.map(|address| address.ip()).collect()),
                // The resolver's codes reach us as text only.
                Err(error) if error.to_string().contains("emporary failure") => {
                    Err(io::Error::new(ErrorKind::TimedOut, error))
                }
                Err(error) => Err(io::Error::new(ErrorKind::NotFound, error)),
            }
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(async move {
            let connected = TcpStream::connect(to).await?;
            connected.set_nodelay(true)?;
            // A server that has gone without a word is noticed.
            sockopt::set_socket_keepalive(&connected, true)?;
            sockopt::set_tcp_keepidle(&connected, KEEPALIVE)?;
            sockopt::set_tcp_keepintvl(&connected, KEEPALIVE)?;
            Ok(connected)
        })
    }

    fn own(&self) -> io::Result<Vec<IpAddr>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, addresses)) = &*known
            && when.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let interfaces = if_addrs::get_if_addrs()?;
        let addresses: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
        *known = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_knows_itself() {
        let machine = ThisMachine::default();
        let own = machine.own().unwrap();
        assert!(own.contains(&"127.0.0.1".parse().unwrap()), "{own:?}");
        let found = machine.resolve("localhost").await.unwrap();
        assert!(
            found.iter().all(IpAddr::is_loopback) && !found.is_empty(),
            "{found:?}"
        );
    }
}
