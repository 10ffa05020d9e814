//! The whole way: the guest's end of the streams, the broker, the interceptor, a server.

use snowglobe_init::streams::{self, Bounds, Side, Streams};
use snowglobe_init::wire::network::FromGuest;

use super::*;
use crate::network::audit::Audit;
use crate::network::broker::{Broker, Settings};
use crate::network::hosts::Hosts;

/// A broker with an interceptor, and the guest's end of its streams.
struct Whole {
    streams: Streams,
    broker: Arc<Broker>,
    authority: Arc<Authority>,
    holder: String,
    dir: TempDir,
}

async fn whole(upstream: Upstream, allow: &[&str]) -> Whole {
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::open(&dir.path().join("sandbox")).unwrap());
    let outside = Authority::open(&dir.path().join("world")).unwrap();
    let server = upstream.start(&outside).await.to_string();
    let secret = Secret {
        name: "TOKEN".into(),
        from: KeySource::Variable("TOKEN".into()),
        hosts: vec![HOST.into()],
        header: "Authorization".into(),
    };
    let secrets = Secrets::new(
        vec![secret],
        &authority,
        Arc::new(|_: &str| Some(VALUE.to_owned())),
    )
    .unwrap();
    let holder = secrets.variables().next().unwrap().1.to_owned();
    let interceptor = Interceptor::new(
        authority.clone(),
        Arc::new(secrets),
        roots(outside.certificate()),
        Limits::default(),
    );
    let settings = Settings {
        hosts: Hosts::new([
            ("api.example:443", server.as_str()),
            ("api.example:80", server.as_str()),
        ])
        .unwrap(),
        audit: Some(Arc::new(Audit::open(dir.path()).unwrap())),
        inspect: Some(Box::new(interceptor)),
        ..Settings::default()
    };
    let rules = Rules::new(Mode::List, allow.iter().copied(), []).unwrap();
    let broker = Arc::new(Broker::new(settings, Arc::new(rules)));
    let (here, there) = tokio::io::duplex(64 << 10);
    let bounds = Bounds { streams: 100 };
    let (_, asked, served) = streams::over(there, Side::Host, bounds);
    tokio::spawn(served);
    tokio::spawn(broker.clone().serve(asked));
    let (streams, _, served) = streams::over(here, Side::Guest, bounds);
    tokio::spawn(served);
    Whole {
        streams,
        broker,
        authority,
        holder,
        dir,
    }
}

impl Whole {
    async fn connect(&self, port: u16) -> streams::Stream {
        let asked = FromGuest::Connect {
            host: HOST.to_owned(),
            port,
            by: None,
        };
        self.streams
            .open(serde_json::to_vec(&asked).unwrap())
            .await
            .unwrap()
            .0
    }

    async fn secure(&self, name: &str) -> io::Result<client::TlsStream<streams::Stream>> {
        let config = roots(self.authority.certificate());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, self.connect(443).await)
            .await
    }

    /// The audit log, once it holds this.
    async fn log(&self, expected: &str) -> String {
        for _ in 0..1000 {
            let log =
                std::fs::read_to_string(self.dir.path().join("network.jsonl")).unwrap_or_default();
            if log.contains(expected) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{expected}: {}",
            std::fs::read_to_string(self.dir.path().join("network.jsonl")).unwrap()
        );
    }
}

#[tokio::test]
async fn a_secret_goes_all_the_way_and_everything_is_logged() {
    let whole = whole(Upstream::Both, &["api.example"]).await;
    let mut stream = whole.secure(HOST).await.unwrap();
    let ask = format!(
        "GET /echo?{0} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {0}\r\nConnection: close\r\n\r\n",
        whole.holder
    );
    let answer = told(&mut stream, &ask).await;
    assert!(
        answer.contains(&format!("Bearer {}", whole.holder)) && !answer.contains("S3cret"),
        "{answer}"
    );
    drop(stream);
    let log = whole.log("\"close\"").await;
    assert!(
        log.contains("\"GET /echo (200)\"")
            && !log.contains("S3cret")
            && !log.contains(&whole.holder),
        "{log}"
    );
    let counts = whole.broker.counts();
    assert!(
        counts.up > 500 && counts.down > 500 && counts.open == 0,
        "{counts:?}"
    );
}

#[tokio::test]
async fn refusals_reach_the_guest_the_log_and_the_notes() {
    let whole = whole(Upstream::Both, &["GET https://api.example/data/**"]).await;
    let cursor = whole.broker.refusals_cursor();
    let mut stream = whole.secure(HOST).await.unwrap();
    let answer = told(
        &mut stream,
        &format!("GET /other HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    whole.log("GET /other (403)").await;
    let refused = whole.broker.refusals_since(cursor).events;
    assert!(
        refused.len() == 1
            && refused[0]
                .why
                .contains("snowglobe network allow 'GET https://api.example/other'"),
        "{refused:?}"
    );
    assert!(whole.secure("evil.example").await.is_err());
    whole.log("`evil.example` (SNI)").await;
}

#[tokio::test]
async fn new_rules_end_what_they_no_longer_allow() {
    let whole = whole(Upstream::Both, &["api.example"]).await;
    let mut stream = whole.secure(HOST).await.unwrap();
    let asked = async {
        let answer = told(
            &mut stream,
            &format!("GET /endless HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"));
    };
    let closed = async {
        while whole.broker.counts().down < 1 << 20 {
            tokio::task::yield_now().await;
        }
        whole
            .broker
            .set_rules(Arc::new(Rules::new(Mode::List, [], []).unwrap()));
    };
    timeout(Duration::from_secs(30), async {
        tokio::join!(asked, closed)
    })
    .await
    .unwrap();
    whole.log("GET /endless (200)").await;
    whole.log("the connection was closed").await;
}

#[tokio::test]
async fn every_request_without_tls_names_its_host() {
    let whole = whole(Upstream::Plain, &["api.example"]).await;
    let mut stream = whole.connect(80).await;
    let ask = format!(
        "GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\nGET /b HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    );
    let answer = told(&mut stream, &ask).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 421"),
        "{answer}"
    );
    // A guest that ends its direction first still gets the answer.
    use tokio::io::AsyncWriteExt as _;
    let mut stream = whole.connect(80).await;
    stream
        .write_all(
            format!("GET /b HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    assert!(told(&mut stream, "").await.contains("hello"));
}
