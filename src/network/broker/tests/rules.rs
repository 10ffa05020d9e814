//! Rules that change, and what is told of refusals.

use super::super::super::audit::{self, Decision, Event};
use super::super::super::rules::Host;
use super::hellos::{encrypted, extended, hello};
use super::*;

#[tokio::test]
async fn connections_that_are_no_longer_allowed_are_closed_at_once() {
    let net = Net::to(echo().await, &["a.example", "b.example"], &[9000]);
    let mut closed = net.connect("a.example", 9000).await.unwrap();
    let mut kept = net.connect("b.example", 9000).await.unwrap();
    closed.write_all(b"x").await.unwrap();
    assert_eq!(closed.read_u8().await.unwrap(), b'x');
    net.broker
        .set_rules(rules(Mode::List, &["b.example:9000"], &[]));
    let refusal = reset(&closed.read_u8().await.unwrap_err());
    assert!(
        refusal.reason == Reason::Denied && refusal.text.contains("no rule allows it"),
        "{refusal}"
    );
    kept.write_all(b"y").await.unwrap();
    assert_eq!(kept.read_u8().await.unwrap(), b'y');
    // A rule that looks at requests ends it, too.
    net.broker
        .set_rules(rules(Mode::List, &["GET http://b.example:9000/**"], &[]));
    let refusal = reset(&kept.read_u8().await.unwrap_err());
    assert!(refusal.text.contains("looked at now"), "{refusal}");
    net.broker
        .set_rules(rules(Mode::Off, &["b.example:9000"], &[]));
    assert!(net.refused("b.example", 9000).await.text.contains("is off"));
    eventually("none is open", || net.broker.counts().open == 0).await;
}

#[tokio::test]
async fn requests_are_looked_at_by_what_does_that_or_refused() {
    struct Greets;
    impl Inspect for Greets {
        fn wants(&self, _: &Host, port: u16) -> bool {
            port == 80
        }

        fn inspect<'a>(&'a self, connection: Inspected<'a>) -> BoxFuture<'a, Result<(), Refusal>> {
            Box::pin(async move {
                let text = format!("{}:{}", connection.host, connection.port);
                connection.guest.write_all(text.as_bytes()).await.unwrap();
                connection.counts.down(text.len())?;
                connection
                    .report
                    .request("GET /x", Ok("by the test"), (0, 3));
                if connection.port == 80 {
                    connection.guest.shutdown().await.unwrap();
                    connection.guest.read_to_end(&mut Vec::new()).await.ok();
                    return Ok(());
                }
                Err(Refusal::new(Reason::Denied, "no rule allows this request"))
            })
        }
    }
    let at = echo().await;
    let rule = rules(Mode::List, &["GET https://a.example/x/**"], &[]);
    let without = Net::new(settings(), rule.clone());
    without.world.name("a.example", &[&[PUBLIC]]);
    let refusal = without.refused("a.example", 443).await;
    assert!(
        refusal.reason == Reason::Denied && refusal.text.contains("not possible here"),
        "{refusal}"
    );
    let with = Net::new(
        Settings {
            inspect: Some(Box::new(Greets)),
            ..settings()
        },
        rule,
    );
    with.world.name("a.example", &[&[PUBLIC]]);
    with.world.way(&format!("{PUBLIC}:443"), at);
    // A reset may arrive before the guest has looked at the stream.
    let ended = match with.connect("a.example", 443).await {
        Ok(stream) => exchange(stream, b"").await.unwrap_err(),
        Err(refusal) => refusal,
    };
    assert_eq!(ended.text, "no rule allows this request");
    eventually("it is counted", || {
        with.broker.counts().refused == 1 && with.broker.counts().open == 0
    })
    .await;
    assert!(with.broker.counts().down > 0);
    // It may want others.
    with.world.way(&format!("{PUBLIC}:80"), at);
    with.broker.set_rules(rules(Mode::Open, &[], &[]));
    let mut stream = with.connect("a.example", 80).await.unwrap();
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"a.example:80");
}

#[tokio::test]
async fn refusals_are_told_and_everything_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Some(Arc::new(Audit::open(directory.path()).unwrap()));
    let net = Net::new(
        Settings {
            audit,
            ..settings()
        },
        rules(Mode::List, &["a.example:9000"], &[]),
    );
    net.world.name("a.example", &[&[PUBLIC]]);
    net.world.way(&format!("{PUBLIC}:9000"), echo().await);
    net.refused("before.example", 443).await;
    let cursor = net.broker.refusals_cursor();
    for _ in 0..3 {
        net.refused("pypi.org", 443).await;
    }
    net.resolve("pypi.org").await.unwrap_err();
    let stream = net.connect("a.example", 9000).await.unwrap();
    exchange(stream, b"12345").await.unwrap();
    eventually("it ends", || net.broker.counts().open == 0).await;
    let told = net.broker.refusals_since(cursor);
    assert_eq!((told.events.len(), told.lost), (2, 0));
    let first = &told.events[0];
    assert_eq!(
        (
            first.host.as_str(),
            first.port,
            first.count,
            first.why.as_str()
        ),
        ("pypi.org", Some(443), 3, "no rule allows it")
    );
    let program = first.program.as_ref().unwrap();
    assert_eq!(
        (program.pid, program.name.as_str(), program.command.as_str()),
        (41, "pip", "pip\\u{1b} download x")
    );
    assert_eq!(told.events[1].port, None);
    assert_eq!(net.broker.refusals_since(told.next).events, []);
    assert_eq!(net.broker.counts().refused, 5);
    let mut follow = audit::follow(directory.path()).unwrap();
    let mut lines = Vec::new();
    while lines.len() < 5 {
        lines.extend(follow.read().unwrap());
        tokio::task::yield_now().await;
    }
    let of: Vec<_> = lines
        .iter()
        .map(|line| (line.event, line.decision, line.host.as_str()))
        .collect();
    assert_eq!(
        of,
        [
            (Event::Connect, Decision::Refused, "before.example"),
            (Event::Connect, Decision::Refused, "pypi.org"),
            (Event::Resolve, Decision::Refused, "pypi.org"),
            (Event::Connect, Decision::Allowed, "a.example"),
            (Event::Close, Decision::Allowed, "a.example"),
        ]
    );
    let closed = &lines[4];
    assert_eq!(
        (closed.up, closed.down, closed.rule.as_deref()),
        (5, 5, Some("a.example:9000"))
    );
    assert_eq!(
        closed.address.unwrap().to_string(),
        format!("{PUBLIC}:9000")
    );
}

#[tokio::test]
async fn connections_that_hide_a_name_end_with_the_rule_that_allowed_them() {
    let net = Net::to(echo().await, &["a.example"], &[443]);
    net.broker.set_rules(rules(Mode::Open, &[], &[]));
    let mut streams = Vec::new();
    for bytes in [
        hello("a.example"),
        extended(&hello("a.example"), 0xfe0d, &encrypted()),
    ] {
        let mut stream = net.connect("a.example", 443).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
        streams.push(stream);
    }
    net.broker.set_rules(rules(Mode::Open, &[], &["b.example"]));
    let refusal = reset(&streams[1].read_u8().await.unwrap_err());
    assert!(refusal.text.contains("hides a name"), "{refusal}");
    eventually("only that one ends", || net.broker.counts().open == 1).await;
}
