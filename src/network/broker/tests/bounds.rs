//! Floods, and what a sandbox may use.

use super::*;

fn bounded(bounds: Bounds, at: SocketAddr) -> Net {
    let net = Net::new(
        Settings {
            bounds,
            ..settings()
        },
        rules(Mode::Open, &[], &[]),
    );
    net.world.name("a.example", &[&[PUBLIC]]);
    net.world.name("silent.example", &[&[PUBLIC]]);
    net.world.way(&format!("{PUBLIC}:9000"), at);
    net
}

#[tokio::test]
async fn connections_at_once_are_bounded() {
    let net = bounded(
        Bounds {
            open: 3,
            ..Bounds::default()
        },
        echo().await,
    );
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(net.connect("a.example", 9000).await.unwrap());
    }
    assert_eq!(net.refused("a.example", 9000).await.reason, Reason::Busy);
    open.pop();
    eventually("one has ended", || net.broker.counts().open == 2).await;
    net.connect("a.example", 9000).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_slowed_down() {
    let five = NonZeroU32::new(5).unwrap();
    let net = bounded(
        Bounds {
            rate: five,
            burst: five,
            ..Bounds::default()
        },
        echo().await,
    );
    let began = std::time::Instant::now();
    for _ in 0..10 {
        // Refusals by rule are not slowed down: nothing is done for them.
        net.resolve("127.0.0.1").await.unwrap_err();
    }
    assert!(began.elapsed() < SOON);
    let paced = async {
        for _ in 0..8 {
            net.broker.paced().await;
        }
    };
    assert!(tokio::time::timeout(Duration::ZERO, paced).await.is_err());
}

#[tokio::test]
async fn a_crowd_is_served_with_few_pending() {
    let net = Arc::new(bounded(
        Bounds {
            pending: 2,
            ..Bounds::default()
        },
        echo().await,
    ));
    let one = |number: usize| {
        let net = net.clone();
        async move {
            let stream = net.connect("a.example", 9000).await.unwrap();
            let sent = vec![number as u8; 10_000];
            assert_eq!(exchange(stream, &sent).await.unwrap(), sent);
        }
    };
    let all: Vec<_> = (0..200).map(|number| tokio::spawn(one(number))).collect();
    for each in all {
        each.await.unwrap();
    }
    eventually("nothing is left", || {
        net.broker.counts().open == 0 && net.guest.count() == 0
    })
    .await;
    assert_eq!(net.broker.counts().made, 200);
}

#[tokio::test]
async fn a_request_that_is_withdrawn_ends_at_once() {
    let net = bounded(Bounds::default(), echo().await);
    let places = net.broker.open.available_permits();
    let asking = net.connect("silent.example", 9000);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), asking)
            .await
            .is_err()
    );
    eventually("its place is free", || {
        net.broker.open.available_permits() == places
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_moves_only_so_many_bytes() {
    let net = bounded(
        Bounds {
            bytes: Some(100_000),
            ..Bounds::default()
        },
        echo().await,
    );
    let stream = net.connect("a.example", 9000).await.unwrap();
    assert_eq!(exchange(stream, b"few").await.unwrap(), b"few");
    let stream = net.connect("a.example", 9000).await.unwrap();
    let refusal = exchange(stream, &[0; 60_000]).await.unwrap_err();
    assert!(
        refusal.reason == Reason::Denied && refusal.text.contains("100000 bytes"),
        "{refusal}"
    );
    assert!(
        net.refused("a.example", 9000)
            .await
            .text
            .contains("100000 bytes")
    );
}
