//! Bytes both ways, ends and resets.

use super::*;

#[tokio::test]
async fn bytes_go_both_ways_and_are_counted() {
    let net = Net::to(echo().await, &["db.example"], &[5432]);
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    let stream = net.connect("DB.example.", 5432).await.unwrap();
    assert_eq!(net.broker.counts().open, 1);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut got = Vec::new();
    let sending = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(sending, reader.read_to_end(&mut got));
    read.unwrap();
    assert!(got == sent);
    eventually("it ends", || {
        net.broker.counts().open == 0 && net.guest.count() == 1
    })
    .await;
    let counts = net.broker.counts();
    assert_eq!(
        (counts.made, counts.up, counts.down, counts.refused),
        (1, 3_000_000, 3_000_000, 0)
    );
    assert_eq!(net.world.connected(), [format!("{PUBLIC}:5432")]);
}

#[tokio::test]
async fn an_answer_after_the_end_of_the_request_arrives() {
    let at = server(|mut connection| async move {
        let mut asked = String::new();
        connection.read_to_string(&mut asked).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        connection
            .write_all(format!("answer to {asked}").as_bytes())
            .await
            .unwrap();
    })
    .await;
    let net = Net::to(at, &["db.example"], &[5432]);
    let stream = net.connect("db.example", 5432).await.unwrap();
    assert_eq!(exchange(stream, b"all").await.unwrap(), b"answer to all");
}

#[tokio::test]
async fn a_server_may_end_first_and_still_be_sent_to() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let at = server(move |mut connection| {
        let told = told.clone();
        async move {
            connection.write_all(b"220 hello\r\n").await.unwrap();
            connection.shutdown().await.unwrap();
            let mut rest = Vec::new();
            connection.read_to_end(&mut rest).await.unwrap();
            told.send(rest).unwrap();
        }
    })
    .await;
    let net = Net::to(at, &["mail.example"], &[25]);
    let mut stream = net.connect("mail.example", 25).await.unwrap();
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).await.unwrap();
    assert_eq!(greeting, b"220 hello\r\n");
    stream.write_all(b"EHLO me\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"EHLO me\r\n");
}

#[tokio::test]
async fn a_closed_port_is_refused_and_a_reset_stays_one() {
    let resets = server(|mut connection| async move {
        connection.read_u8().await.unwrap();
        connection.set_zero_linger().unwrap();
    })
    .await;
    let net = Net::to(resets, &["db.example"], &[5432, 5433, 5434]);
    net.world.way(
        &format!("{PUBLIC}:5433"),
        SocketAddr::from(([127, 0, 0, 1], 1)),
    );
    let refusal = net.refused("db.example", 5433).await;
    assert_eq!(refusal.reason, Reason::Refused, "{refusal}");
    // Also if it comes before the connection is seen here: then there was one.
    net.world.way(&format!("{PUBLIC}:5434"), RESETS);
    for port in [5432, 5434] {
        let stream = net.connect("db.example", port).await.unwrap();
        let refusal = exchange(stream, b"x").await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Reset, "{port}: {refusal}");
    }
}

#[tokio::test]
async fn a_reset_of_the_guest_reaches_the_server() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let at = server(move |mut connection| {
        let told = told.clone();
        async move {
            let mut rest = Vec::new();
            told.send(
                connection
                    .read_to_end(&mut rest)
                    .await
                    .map_err(|error| error.kind()),
            )
            .unwrap();
        }
    })
    .await;
    let net = Net::to(at, &["db.example"], &[5432]);
    let mut stream = net.connect("db.example", 5432).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    drop(stream);
    assert_eq!(
        heard.recv().await.unwrap(),
        Err(io::ErrorKind::ConnectionReset)
    );
    // The same when the whole guest is gone.
    let _stream = net.connect("db.example", 5432).await.unwrap();
    let Net { broker, guest, .. } = net;
    drop((guest, _stream));
    assert_eq!(
        heard.recv().await.unwrap(),
        Err(io::ErrorKind::ConnectionReset)
    );
    eventually("it ends", || broker.counts().open == 0).await;
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_server_and_nobody_else() {
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let floods = server(move |mut connection| {
        let counted = counted.clone();
        async move {
            while let Ok(written) = connection.write(&[7; 64 << 10]).await {
                counted.fetch_add(written, std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let net = Net::to(floods, &["big.example", "echo.example"], &[9000]);
    net.world.name("echo.example", &[&["151.101.0.2"]]);
    net.world.way("151.101.0.2:9000", echo().await);
    let slow = net.connect("big.example", 9000).await.unwrap();
    for _ in 0..50 {
        let stream = net.connect("echo.example", 9000).await.unwrap();
        assert_eq!(exchange(stream, b"beside").await.unwrap(), b"beside");
    }
    let counts = net.broker.counts();
    // A window, a piece, what waits to be sent, and what the sockets hold do not grow.
    assert!(counts.down < 1 << 20, "{counts:?}");
    drop(slow);
    eventually("it ends", || net.broker.counts().open == 0).await;
}

#[tokio::test]
async fn requests_that_can_not_be_understood_are_refused() {
    let net = Net::new(settings(), rules(Mode::Open, &[], &[]));
    for request in [
        "",
        "{}",
        "{\"ask\":\"connect\",\"host\":\"a.example\",\"port\":70000,\"by\":null}",
        "\u{1b}",
    ] {
        match net.guest.open(request).await {
            Err(OpenError::Refused(refusal)) => assert_eq!(refusal.reason, Reason::Failed),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn this_machine_s_network_is_used_as_it_is() {
    let at = echo().await.to_string();
    let hosts = Hosts::new([("db.local:5432", at.as_str())]).unwrap();
    let settings = Settings {
        hosts,
        ..settings()
    };
    let net = Net::over(World::default(), settings, rules(Mode::Open, &[], &[]));
    let stream = net.connect("db.local", 5432).await.unwrap();
    assert_eq!(exchange(stream, b"select 1").await.unwrap(), b"select 1");
    // Nothing leads there without an entry: by the host's own name it is this machine.
    let refusal = net.refused("localhost", 5432).await;
    assert_eq!(refusal.reason, Reason::Denied, "{refusal}");
    assert_eq!(
        net.refused("does-not-exist.invalid", 80).await.reason,
        Reason::NotFound
    );
}

#[tokio::test]
async fn a_guest_that_goes_after_its_last_byte_is_noticed() {
    let at = server(|mut connection| async move {
        connection.read_to_end(&mut Vec::new()).await.ok();
        std::future::pending::<()>().await;
    })
    .await;
    let net = Net::to(at, &["db.example"], &[5432]);
    let half_closed = async || {
        let before = net.broker.counts().up;
        let mut stream = net.connect("db.example", 5432).await.unwrap();
        stream.write_all(b"all").await.unwrap();
        stream.shutdown().await.unwrap();
        eventually("it is sent", || net.broker.counts().up == before + 3).await;
        stream
    };
    drop(half_closed().await);
    eventually("a reset is noticed", || net.broker.counts().open == 0).await;
    let stream = half_closed().await;
    let Net { broker, guest, .. } = net;
    drop((guest, stream));
    eventually("an end is noticed", || broker.counts().open == 0).await;
}
