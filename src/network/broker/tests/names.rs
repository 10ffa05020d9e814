//! Names, addresses, and what lies between them.

use super::*;

fn open() -> Net {
    Net::new(
        settings(),
        rules(
            Mode::Open,
            &["10.1.2.3:80", "[::1]:80"],
            &["denied.example"],
        ),
    )
}

#[tokio::test]
async fn names_are_resolved_only_if_a_rule_allows_them() {
    let net = open();
    net.world.name("there.example", &[&[PUBLIC]]);
    assert_eq!(net.resolve("there.example").await, Ok(()));
    for (name, reason) in [
        ("denied.example", Reason::Denied),
        ("gone.example", Reason::NotFound),
        ("no name", Reason::NotFound),
        (&format!("{}.example", "x".repeat(64)), Reason::NotFound),
        ("127.0.0.1", Reason::Denied),
        ("2130706433", Reason::Denied),
    ] {
        assert_eq!(
            net.resolve(name).await.unwrap_err().reason,
            reason,
            "{name}"
        );
    }
    // No other name has left the host.
    assert_eq!(
        *net.world.0.looked_up.lock().unwrap(),
        ["there.example", "gone.example"]
    );
    eventually("no stream is left", || net.guest.count() == 0).await;
}

#[tokio::test]
async fn what_is_not_the_public_network_is_refused_in_every_form() {
    let net = open();
    for at in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "0.0.0.0",
    ] {
        net.world.name("private.example", &[&[at]]);
        let refusal = net.refused("private.example", 80).await;
        assert_eq!(refusal.reason, Reason::Denied);
        assert!(refusal.text.contains("network.hosts"), "{refusal}");
    }
    // Literal addresses need a rule, and one does not make them public.
    for (host, why) in [
        ("127.0.0.1", "rule of its own"),
        ("2130706433", "rule of its own"),
        ("0x7f.1", "rule of its own"),
        ("017700000001", "rule of its own"),
        ("[::ffff:7f00:1]", "rule of its own"),
        ("10.1.2.3", "private address"),
        ("0x0a010203", "private address"),
        ("::ffff:10.1.2.3", "private address"),
        ("[::1]", "this machine"),
        ("1.1.1.1", "rule of its own"),
    ] {
        let refusal = net.refused(host, 80).await;
        assert!(
            refusal.reason == Reason::Denied && refusal.text.contains(why),
            "{host}: {refusal}"
        );
    }
    assert_eq!(net.world.connected(), [""; 0]);
}

#[tokio::test]
async fn this_machine_s_own_public_address_is_refused() {
    let world = World(Arc::new(Pretended {
        own: vec![PUBLIC.parse().unwrap()],
        ..Pretended::default()
    }));
    let net = Net::with(world, settings(), rules(Mode::Open, &[], &[]));
    net.world
        .name("me.example", &[&[PUBLIC, "::ffff:151.101.0.1"]]);
    let refusal = net.refused("me.example", 22).await;
    assert!(refusal.text.contains("this machine"), "{refusal}");
    assert_eq!(net.world.connected(), [""; 0]);
}

#[tokio::test]
async fn the_checked_address_is_the_one_that_is_connected_to() {
    let net = Net::to(echo().await, &["rebinds.example"], &[9000]);
    net.world
        .name("rebinds.example", &[&[PUBLIC], &["127.0.0.1"]]);
    let stream = net.connect("rebinds.example", 9000).await.unwrap();
    assert_eq!(exchange(stream, b"hello").await.unwrap(), b"hello");
    assert_eq!(
        net.refused("rebinds.example", 9000).await.reason,
        Reason::Denied
    );
    assert_eq!(net.world.connected(), [format!("{PUBLIC}:9000")]);
    // A resolve before it settles nothing.
    net.world
        .name("rebinds.example", &[&[PUBLIC], &["169.254.169.254"]]);
    assert_eq!(net.resolve("rebinds.example").await, Ok(()));
    assert_eq!(
        net.refused("rebinds.example", 9000).await.reason,
        Reason::Denied
    );
    // Of mixed answers only the public ones are used.
    net.world
        .name("rebinds.example", &[&["10.0.0.1", PUBLIC, "127.0.0.1"]]);
    net.connect("rebinds.example", 9000).await.unwrap();
    assert_eq!(
        net.world.connected(),
        [format!("{PUBLIC}:9000"), format!("{PUBLIC}:9000")]
    );
}

#[tokio::test]
async fn one_address_after_another_is_tried() {
    let net = Net::to(echo().await, &["many.example"], &[9000]);
    // The first never answers, the second refuses.
    net.world
        .name("many.example", &[&["151.101.0.8", "151.101.0.9", PUBLIC]]);
    net.world
        .way("151.101.0.9:9000", SocketAddr::from(([127, 0, 0, 1], 1)));
    net.connect("many.example", 9000).await.unwrap();
    assert_eq!(
        net.world.connected(),
        [
            "151.101.0.8:9000",
            "151.101.0.9:9000",
            &format!("{PUBLIC}:9000")
        ]
    );
}

#[tokio::test]
async fn names_of_the_user_s_own_lead_where_others_do_not() {
    let at = echo().await;
    let entries = [
        ("db.local:5432", at.to_string()),
        ("10.9.9.9", format!("localhost:{}", at.port())),
    ];
    let hosts = Hosts::new(entries.iter().map(|(name, to)| (*name, to.as_str()))).unwrap();
    let allow = ["db.local:5432", "10.9.9.9:7", "db.local:5433"];
    let net = Net::new(
        Settings {
            hosts,
            ..settings()
        },
        rules(Mode::List, &allow, &[]),
    );
    net.world.name("localhost", &[&["127.0.0.1"]]);
    assert_eq!(net.resolve("db.local").await, Ok(()));
    for (host, port) in [("db.local", 5432), ("10.9.9.9", 7)] {
        let stream = net.connect(host, port).await.unwrap();
        assert_eq!(exchange(stream, b"select 1").await.unwrap(), b"select 1");
    }
    // Only with the port that the entry names, and only by the rules.
    assert_eq!(net.refused("db.local", 5433).await.reason, Reason::NotFound);
    assert_eq!(net.refused("10.9.9.9", 8).await.reason, Reason::Denied);
    net.broker.set_rules(rules(Mode::List, &[], &[]));
    assert_eq!(net.refused("db.local", 5432).await.reason, Reason::Denied);
    assert_eq!(
        net.resolve("db.local").await.unwrap_err().reason,
        Reason::Denied
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_without_end() {
    let net = Net::new(Settings::default(), rules(Mode::Open, &[], &[]));
    net.world.name("silent.example", &[&[PUBLIC]]);
    net.world.name("far.example", &[&[PUBLIC]]);
    assert_eq!(
        net.resolve("silent.example").await.unwrap_err().reason,
        Reason::TimedOut
    );
    assert_eq!(
        net.refused("silent.example", 80).await.reason,
        Reason::TimedOut
    );
    assert_eq!(
        net.refused("far.example", 80).await.reason,
        Reason::TimedOut
    );
}
