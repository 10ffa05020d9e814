//! From a host and a port to a connection: rules, names, addresses, the proxy.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use snowglobe_init::streams::{Reason, Refusal};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::super::address;
use super::super::hosts::Target;
use super::super::outside::Outside;
use super::super::proxy::Proxy;
use super::super::rules::{Host, Rules, Verdict};
use super::Broker;

/// After so long without an answer the next address is tried, too.
const STAGGER: Duration = Duration::from_millis(300);

/// How long a name is looked up that a proxy resolves as well.
const LOOK: Duration = Duration::from_secs(1);

/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// A connection that was made.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) server: TcpStream,
    /// The address of the server; none behind a proxy.
    pub(super) address: Option<SocketAddr>,
    /// The rule that allowed it.
    pub(super) rule: String,
    /// Whether its requests must be looked at.
    pub(super) inspect: bool,
}

impl Broker {
    /// Whether a name may be used and exists.
    pub(super) async fn may_use(&self, name: &str) -> Result<(), Refusal> {
        let host = Host::parse(name).map_err(|why| Refusal::new(Reason::NotFound, why))?;
        let rules = self.rules();
        if !rules.may_resolve(name) {
            let why = match rules.connection(&host, 443) {
                Verdict::Refused(why) => why.to_string(),
                Verdict::Allowed { .. } => "no rule allows it".into(),
            };
            return Err(Refusal::new(Reason::Denied, why));
        }
        let resolving = async {
            self.paced().await;
            if self.settings.hosts.knows(&host) || self.proxy(&host, 443).is_some() {
                return Ok(());
            }
            self.resolve(&host).await.map(drop)
        };
        self.before_deadline(&host, resolving).await
    }

    /// Connects to a host, if the rules allow it.
    pub(super) async fn connect(
        &self,
        rules: &Rules,
        host: &str,
        port: u16,
    ) -> Result<Connected, Refusal> {
        let host = Host::parse(host).map_err(|why| Refusal::new(Reason::NotFound, why))?;
        let (rule, inspect) = match rules.connection(&host, port) {
            Verdict::Allowed { rule, inspect } => (rule, inspect),
            Verdict::Refused(why) => return Err(Refusal::new(Reason::Denied, why.to_string())),
        };
        let inspector = self.settings.inspect.as_ref();
        if inspect && inspector.is_none() {
            let text = format!(
                "the rule `{rule}` needs the requests to be looked at, which is not possible here"
            );
            return Err(Refusal::new(Reason::Denied, text));
        }
        let inspect = inspect || inspector.is_some_and(|inspector| inspector.wants(&host, port));
        self.totals.check()?;
        let connecting = async {
            self.paced().await;
            let _pending = self
                .pending
                .acquire()
                .await
                .map_err(|_| Refusal::new(Reason::Failed, "the broker ends"))?;
            let own = self.settings.hosts.find(&host, port);
            match (own, self.proxy(&host, port)) {
                (Some(target), _) => self.connect_to_own(&target).await,
                (None, Some(proxy)) => self
                    .connect_through(&proxy, &host, port)
                    .await
                    .map(|server| (server, None)),
                (None, None) => {
                    let addresses = self.public_addresses(&host).await?;
                    self.connect_to_one(&host, &addresses, port).await
                }
            }
        };
        let (server, address) = self.before_deadline(&host, connecting).await?;
        Ok(Connected {
            host,
            port,
            server,
            address,
            rule,
            inspect,
        })
    }

    async fn before_deadline<T>(
        &self,
        host: &Host,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let late = |_| Refusal::new(Reason::TimedOut, format!("{host}: no answer in time"));
        timeout(self.settings.deadlines.connect, work)
            .await
            .map_err(late)?
    }

    fn proxy(&self, host: &Host, port: u16) -> Option<Proxy> {
        self.settings.proxies.as_ref()?.find(host, port)
    }

    /// The addresses of a host, unchecked. A lookup that is given up still counts as pending until it ends, since it has
    /// a thread.
    async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, Refusal> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let lookup = self.settings.outside.resolve(name);
        let place = self.lookups.clone().acquire_owned().await;
        let looking = tokio::spawn(async move {
            let found = lookup.await;
            drop(place);
            found
        });
        let refusal = |reason, text: &str| Err(Refusal::new(reason, format!("{host}: {text}")));
        match timeout(self.settings.deadlines.resolve, looking).await {
            Ok(Ok(Ok(found))) if !found.is_empty() => Ok(found),
            Ok(Ok(Ok(_))) => refusal(Reason::NotFound, "the name has no address"),
            Ok(Ok(Err(error))) if error.kind() == ErrorKind::NotFound => {
                refusal(Reason::NotFound, "there is no such name")
            }
            Ok(Ok(Err(error))) => refusal(
                Reason::TimedOut,
                &format!("the host's resolver failed: {error}"),
            ),
            Ok(Err(error)) => refusal(Reason::Failed, &error.to_string()),
            Err(_) => refusal(Reason::TimedOut, "the host's resolver does not answer"),
        }
    }

    /// The addresses of a host that are the public network's.
    async fn public_addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Refusal> {
        let found = self.resolve(host).await?;
        let own = self.settings.outside.own();
        let own = own.map_err(|error| {
            Refusal::new(
                Reason::Failed,
                format!("list this machine's addresses: {error}"),
            )
        })?;
        let check = |at: &IpAddr| address::check(*at).and_then(|()| address::check_own(*at, &own));
        let public: Vec<IpAddr> = found
            .iter()
            .copied()
            .filter(|at| check(at).is_ok())
            .take(MAX_ADDRESSES)
            .collect();
        match found
            .iter()
            .find_map(|at| check(at).err().map(|why| (at, why)))
        {
            Some((at, why)) if public.is_empty() => {
                let text = format!(
                    "{host} is at {at}, {why}; only an entry of `network.hosts` leads there"
                );
                Err(Refusal::new(Reason::Denied, text))
            }
            _ => Ok(public),
        }
    }

    async fn connect_to_own(
        &self,
        target: &Target,
    ) -> Result<(TcpStream, Option<SocketAddr>), Refusal> {
        let mut addresses = self.resolve(&target.host).await?;
        addresses.truncate(MAX_ADDRESSES);
        self.connect_to_one(&target.host, &addresses, target.port)
            .await
    }

    async fn connect_through(
        &self,
        proxy: &Proxy,
        host: &Host,
        port: u16,
    ) -> Result<TcpStream, Refusal> {
        let failed =
            |error: &dyn std::error::Error| Refusal::new(Reason::Unreachable, error.to_string());
        // Behind a proxy the host often can't resolve names, and a name that it does not know is left to the proxy.
        if let Ok(Err(refusal)) = timeout(LOOK, self.public_addresses(host)).await
            && refusal.reason == Reason::Denied
        {
            return Err(refusal);
        }
        let (proxy_host, proxy_port) = proxy.host_and_port().map_err(|error| failed(&error))?;
        let target = Target {
            host: proxy_host,
            port: proxy_port,
        };
        let (server, _) = self.connect_to_own(&target).await.map_err(|refusal| {
            let text = format!("connect to the host's proxy: {}", refusal.text);
            Refusal::new(Reason::Unreachable, text)
        })?;
        proxy
            .tunnel(server, host, port)
            .await
            .map_err(|error| failed(&error))
    }

    async fn connect_to_one(
        &self,
        host: &Host,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<(TcpStream, Option<SocketAddr>), Refusal> {
        let outside = &*self.settings.outside;
        let addresses = addresses.iter().map(|at| SocketAddr::new(*at, port));
        match first_to_answer(outside, addresses).await {
            Ok((server, address)) => Ok((server, Some(address))),
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::ConnectionRefused => Reason::Refused,
                    ErrorKind::ConnectionReset => Reason::Reset,
                    ErrorKind::TimedOut => Reason::TimedOut,
                    ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable => Reason::Unreachable,
                    _ => Reason::Failed,
                };
                Err(Refusal::new(reason, format!("{host}:{port}: {error}")))
            }
        }
    }
}

/// Connects to the first address that answers. Tries them in turn, the next one early if one is slow.
async fn first_to_answer(
    outside: &dyn Outside,
    mut addresses: impl Iterator<Item = SocketAddr>,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut tries = FuturesUnordered::new();
    let mut failed: Option<io::Error> = None;
    loop {
        let next = addresses.next();
        let more = next.is_some();
        if let Some(to) = next {
            let connecting = outside.connect(to);
            tries.push(async move { connecting.await.map(|server| (server, to)) });
        }
        tokio::select! {
            done = tries.next() => match done {
                Some(Ok(connected)) => return Ok(connected),
                // What a server's machine answers says more than that there is no way.
                Some(Err(error)) => match failed.as_ref().map(io::Error::kind) {
                    Some(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {}
                    _ => failed = Some(error),
                },
                None => return Err(failed.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into())),
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}
