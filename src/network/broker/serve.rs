//! One request of the guest's, from its beginning to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use snowglobe_init::streams::{End, Incoming, Reason, Refusal, Stream};
use snowglobe_init::wire::network::{FromGuest, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::audit::Event;
use super::super::rules::{Rules, Verdict};
use super::Broker;
use super::connect::Connected;
use super::copy;
use super::counts::Connection;
use super::gate::Gate;
use super::inspect::{Inspect, Inspected};
use super::report::{Asked, Report};

impl Broker {
    /// Answers a request.
    pub(super) async fn answer(self: Arc<Self>, incoming: Incoming) {
        let Ok(_one) = self.open.try_acquire() else {
            return incoming.refuse(Refusal::new(Reason::Busy, "too many connections are open"));
        };
        match serde_json::from_slice(&incoming.request) {
            Ok(FromGuest::Resolve { name, by }) => self.answer_resolve(incoming, &name, by).await,
            Ok(FromGuest::Connect { host, port, by }) => {
                self.answer_connect(incoming, &host, port, by).await
            }
            Err(error) => {
                let text = format!("understand the request: {error}");
                incoming.refuse(Refusal::new(Reason::Failed, text));
            }
        }
    }

    async fn answer_resolve(&self, incoming: Incoming, name: &str, by: Option<Program>) {
        let asked = Asked::new(Event::Resolve, name, None, by);
        let resolved = tokio::select! {
            resolved = self.may_use(name) => resolved,
            () = incoming.withdrawn() => return,
        };
        if let Err(refusal) = resolved {
            self.tell(&asked, &refusal);
            return incoming.refuse(refusal);
        }
        let mut stream = incoming.accept("");
        // The guest sees the answer before the end, and may end its own direction as it likes.
        stream.shutdown().await.ok();
        let mut rest = [0];
        let ended = timeout(self.settings.deadlines.first, stream.read(&mut rest));
        ended.await.ok();
    }

    async fn answer_connect(
        self: &Arc<Self>,
        incoming: Incoming,
        host: &str,
        port: u16,
        by: Option<Program>,
    ) {
        let asked = Arc::new(Asked::new(Event::Connect, host, Some(port), by));
        let mut rules = self.rules.subscribe();
        let now = rules.borrow_and_update().clone();
        let connected = tokio::select! {
            connected = self.connect(&now, host, port) => connected,
            () = incoming.withdrawn() => return,
        };
        match connected {
            Ok(connected) => {
                let hidden = now.allows_every_name();
                let mut guest = incoming.accept("");
                self.run(asked, rules, hidden, connected, &mut guest).await;
            }
            Err(refusal) => {
                self.tell(&asked, &refusal);
                match refusal.reason {
                    // The server took the connection, and reset it before that was seen here.
                    Reason::Reset => incoming.accept("").reset(refusal),
                    _ => incoming.refuse(refusal),
                }
            }
        }
    }

    /// Serves a connection until it ends.
    async fn run(
        self: &Arc<Self>,
        asked: Arc<Asked>,
        rules: watch::Receiver<Arc<Rules>>,
        hidden: bool,
        mut connected: Connected,
        guest: &mut Stream,
    ) {
        let counts = Connection::new(self.totals.clone());
        let report = Report {
            broker: self.clone(),
            asked,
            address: connected.address,
            rule: connected.rule.clone(),
        };
        report.opened();
        let gate = Gate::new(&connected.host, connected.port, hidden);
        let watched = Watched {
            host: connected.host.clone(),
            port: connected.port,
            inspected: connected.inspect,
            hides: gate.hides(),
        };
        let inspector = self.settings.inspect.as_ref();
        let ended = tokio::select! {
            refusal = watched.no_longer_allowed(rules.clone()) => End::Refused(refusal),
            ended = async {
                match inspector.filter(|_| connected.inspect) {
                    Some(inspector) => inspect(&**inspector, &mut connected, guest, rules, &counts, &report).await,
                    None => copy::copy(guest, &mut connected.server, gate, &counts, self.settings.deadlines.first).await,
                }
            } => ended,
        };
        report.closed(&ended, &counts);
        // The other end sees a reset, too.
        ended.tell(guest, &connected.server);
    }
}

async fn inspect(
    inspector: &dyn Inspect,
    connected: &mut Connected,
    guest: &mut Stream,
    rules: watch::Receiver<Arc<Rules>>,
    counts: &Connection,
    report: &Report,
) -> End {
    let inspected = Inspected {
        host: &connected.host,
        port: connected.port,
        rules,
        guest,
        server: &mut connected.server,
        counts,
        report,
    };
    let ended = inspector.inspect(inspected).await;
    ended.map_or_else(End::Refused, |()| End::Both)
}

/// An open connection, which new rules may end.
struct Watched {
    host: super::super::rules::Host,
    port: u16,
    /// Whether its requests are looked at.
    inspected: bool,
    /// Whether it has hidden a name.
    hides: Arc<AtomicBool>,
}

impl Watched {
    /// Waits until the rules no longer allow the connection as it is.
    async fn no_longer_allowed(&self, mut rules: watch::Receiver<Arc<Rules>>) -> Refusal {
        loop {
            if rules.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = rules.borrow_and_update().clone();
            let why = match now.connection(&self.host, self.port) {
                Verdict::Refused(why) => why.to_string(),
                Verdict::Allowed { inspect: true, .. } if !self.inspected => {
                    "its requests must be looked at now".to_owned()
                }
                Verdict::Allowed { .. } if self.hides.load(Relaxed) && !now.allows_every_name() => {
                    "it hides a name, and not every name is allowed".to_owned()
                }
                Verdict::Allowed { .. } => continue,
            };
            return Refusal::new(Reason::Denied, format!("the connection was closed: {why}"));
        }
    }
}
