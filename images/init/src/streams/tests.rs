use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::frame::{Kind, MAX_BODY};
use super::*;

const BOUNDS: Bounds = Bounds { streams: 8 };

type Requests = mpsc::UnboundedReceiver<Incoming>;

/// Two ends over a pipe of so many bytes.
fn pair(pipe: usize) -> ((Streams, Requests), (Streams, Requests)) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let (host, to_host, host_served) = over(ours, Side::Host, BOUNDS);
    let (guest, to_guest, guest_served) = over(theirs, Side::Guest, BOUNDS);
    tokio::spawn(host_served);
    tokio::spawn(guest_served);
    ((host, to_host), (guest, to_guest))
}

/// A host whose guest sends bytes of the test's own.
fn forged() -> (
    DuplexStream,
    Requests,
    tokio::task::JoinHandle<Result<(), Ended>>,
) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (streams, requests, served) = over(ours, Side::Host, BOUNDS);
    // The handle lives as long as the task.
    let served = tokio::spawn(async move {
        let _streams = streams;
        served.await
    });
    (theirs, requests, served)
}

fn frame(id: u32, kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    [&Head { id, kind, length }.encode()[..], body].concat()
}

async fn violation(frames: &[Vec<u8>]) -> Violation {
    let (mut guest, mut requests, served) = forged();
    for frame in frames {
        // An earlier one may have ended it.
        if guest.write_all(frame).await.is_err() {
            break;
        }
    }
    let mut streams = Vec::new();
    while let Some(asked) = requests.recv().await {
        streams.push(asked.accept(Bytes::new()));
    }
    match served.await.unwrap() {
        Err(Ended::Violation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the sizes, every stream carries its bytes, both ways, to their end.
    #[test]
    fn bytes_arrive_as_they_were_sent(
        lengths in prop::collection::vec((0..400_000_usize, 0..400_000_usize), 1..8),
        pipe in 1..70_000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let ((_host, mut requests), (guest, _unasked)) = pair(pipe);
            let serving = tokio::spawn(async move {
                while let Some(asked) = requests.recv().await {
                    let length: usize = String::from_utf8_lossy(&asked.request).parse().unwrap();
                    let mut stream = asked.accept("here");
                    tokio::spawn(async move {
                        let (mut reader, mut writer) = tokio::io::split(&mut stream);
                        let down = pattern(length);
                        let sending = async { writer.write_all(&down).await.unwrap(); writer.shutdown().await.unwrap(); };
                        let mut got = Vec::new();
                        let (_, read) = tokio::join!(sending, reader.read_to_end(&mut got));
                        read.unwrap();
                        assert_eq!(got, pattern(got.len()));
                    });
                }
            });
            let mut all = Vec::new();
            for (down, up) in lengths {
                let guest = guest.clone();
                all.push(tokio::spawn(async move {
                    let (mut stream, answer) = guest.open(down.to_string()).await.unwrap();
                    assert_eq!(answer, "here");
                    let (mut reader, mut writer) = tokio::io::split(&mut stream);
                    let sent = pattern(up);
                    let sending = async { writer.write_all(&sent).await.unwrap(); writer.shutdown().await.unwrap(); };
                    let mut got = Vec::new();
                    let (_, read) = tokio::join!(sending, reader.read_to_end(&mut got));
                    read.unwrap();
                    assert_eq!(got, pattern(down));
                }));
            }
            for one in all {
                one.await.unwrap();
            }
            // Nothing is left of them.
            while guest.count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            serving.abort();
        });
    }

    /// No bytes do harm: the connection goes on or ends with an error.
    #[test]
    fn any_bytes_end_in_order(bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(3), any::<u8>()], 0..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut guest, mut requests, served) = forged();
            guest.write_all(&bytes).await.unwrap();
            drop(guest);
            let mut streams = Vec::new();
            while let Some(asked) = requests.recv().await {
                streams.push(asked.accept(Bytes::new()));
            }
            prop_assert!(streams.len() <= BOUNDS.streams);
            served.await.unwrap().ok();
            Ok(())
        })?;
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 251) as u8).collect()
}

#[tokio::test]
async fn a_slow_reader_holds_up_only_its_own_stream() {
    let ((_host, mut requests), (guest, _unasked)) = pair(4096);
    let (slow, _) = tokio::join!(guest.open("slow"), async {
        let asked = requests.recv().await.unwrap();
        let mut stream = asked.accept("");
        tokio::spawn(async move {
            stream.write_all(&pattern(10 * WINDOW)).await.unwrap();
            stream.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
    });
    let (fast, _) = tokio::join!(guest.open("fast"), async {
        let asked = requests.recv().await.unwrap();
        let mut stream = asked.accept("");
        tokio::spawn(async move {
            stream.write_all(&pattern(10 * WINDOW)).await.unwrap();
            stream.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
    });
    let mut got = Vec::new();
    fast.unwrap().0.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 10 * WINDOW);
    // Its bytes were kept for it.
    got.clear();
    slow.unwrap().0.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, pattern(10 * WINDOW));
}

#[tokio::test]
async fn refusals_and_resets_have_their_reason() {
    let ((_host, mut requests), (guest, _unasked)) = pair(4096);
    let denied = Refusal::new(Reason::Denied, "no rule allows it");
    let (refused, ()) = tokio::join!(guest.open("a"), async {
        requests.recv().await.unwrap().refuse(denied.clone());
    });
    assert!(matches!(refused, Err(OpenError::Refused(refusal)) if refusal == denied));

    let (opened, theirs) = tokio::join!(guest.open("b"), async {
        requests.recv().await.unwrap().accept("")
    });
    drop(theirs);
    let read = opened.unwrap().0.read_u8().await.unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::ConnectionReset);

    // An answer is enough for some: the stream ends with it.
    let (opened, ()) = tokio::join!(guest.open("question"), async {
        drop(requests.recv().await.unwrap().accept("answer"));
    });
    assert_eq!(opened.unwrap().1, "answer");

    // One that is given up is withdrawn.
    let open = tokio::spawn({
        let guest = guest.clone();
        async move { guest.open("c").await.map(drop) }
    });
    let asked = requests.recv().await.unwrap();
    open.abort();
    asked.withdrawn().await;
}

#[tokio::test]
async fn streams_beyond_the_bound_are_refused() {
    let ((_host, mut requests), (guest, _unasked)) = pair(4096);
    let mut streams = Vec::new();
    for _ in 0..BOUNDS.streams {
        let (ours, theirs) = tokio::join!(guest.open("x"), async {
            requests.recv().await.unwrap().accept("")
        });
        streams.push((ours.unwrap(), theirs));
    }
    let Err(OpenError::Refused(refusal)) = guest.open("one more").await else {
        panic!("it was opened");
    };
    assert_eq!(refusal.reason, Reason::Busy);
    streams.pop();
    // The end of one makes room, as soon as both sides know of it.
    let serving = async { requests.recv().await.unwrap().accept("") };
    let asking = async {
        loop {
            match guest.open("again").await {
                Ok(opened) => break opened,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let (_ours, _theirs) = tokio::join!(asking, serving);
}

#[tokio::test]
async fn what_breaks_the_rules_ends_the_connection() {
    let open = |id| frame(id, Kind::Open, b"x");
    let data = |id, length| frame(id, Kind::Data, &vec![0; length]);
    let more = (MAX_WINDOW - WINDOW + 1) as u32;
    for beyond in [
        vec![data(1, MAX_BODY); 5],
        vec![frame(1, Kind::Window, &more.to_be_bytes())],
    ] {
        let (mut guest, mut requests, served) = forged();
        guest.write_all(&open(1)).await.unwrap();
        let _stream = requests.recv().await.unwrap().accept("");
        guest.write_all(&beyond.concat()).await.unwrap();
        let ended = served.await.unwrap();
        assert!(
            matches!(ended, Err(Ended::Violation(Violation::Window(1)))),
            "{ended:?}"
        );
    }
    for (frames, expected) in [
        (vec![open(2)], Violation::Number(2)),
        (vec![open(3), open(1)], Violation::Number(1)),
        (vec![open(3), open(3)], Violation::Number(3)),
        (
            vec![data(5, 1)],
            Violation::Order {
                id: 5,
                kind: "data",
            },
        ),
        (
            vec![frame(2, Kind::Opened, b"")],
            Violation::Order {
                id: 2,
                kind: "opened",
            },
        ),
        (
            vec![frame(0, Kind::Fin, b"")],
            Violation::Order { id: 0, kind: "fin" },
        ),
        (vec![vec![0, 0, 0, 1, 9, 0, 0, 0]], Violation::Kind(9)),
        (
            vec![vec![0, 0, 0, 1, 3, 1, 0, 0]],
            Violation::Length {
                kind: "data",
                length: 0,
            },
        ),
        (
            vec![vec![0, 0, 0, 1, 1, 0, 0xff, 0xff]],
            Violation::Length {
                kind: "open",
                length: 65535,
            },
        ),
    ] {
        assert_eq!(violation(&frames).await, expected);
    }
    let flood: Vec<_> = (0..60_000).map(|at| open(2 * at + 1)).collect();
    assert!(matches!(violation(&flood).await, Violation::Flood(_)));
}

/// A peer that sends its window byte by byte makes this side hold little more than the bytes.
#[tokio::test]
async fn small_pieces_are_joined() {
    let shared = Arc::new(Shared::new(Side::Host, BOUNDS));
    let receive = |kind, body: &[u8]| {
        let length = body.len();
        shared.receive(
            Head {
                id: 1,
                kind,
                length,
            },
            body.into(),
        )
    };
    let (id, _) = receive(Kind::Open, b"").unwrap().unwrap();
    let mut stream = Stream::new(shared.clone(), id);
    stream.accept(Bytes::new());
    for _ in 0..WINDOW {
        receive(Kind::Data, b"x").unwrap();
    }
    let pieces = shared.lock().entry(1).map(|entry| entry.received.len());
    assert!(pieces.is_some_and(|pieces| pieces <= 64), "{pieces:?}");
    receive(Kind::Fin, b"").unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, vec![b'x'; WINDOW]);
}

/// Readers that keep up get larger windows, until those of all streams have grown by so much together.
#[tokio::test]
async fn windows_grow_with_their_readers_up_to_a_bound() {
    const STREAMS: u32 = 200;
    let streams = STREAMS as usize;
    let shared = Arc::new(Shared::new(Side::Host, Bounds { streams }));
    let receive = |id, kind, body: &[u8]| {
        let length = body.len();
        shared.receive(Head { id, kind, length }, body.into())
    };
    let compose = || shared.compose(&mut Vec::new(), usize::MAX);
    let ids = (0..STREAMS).map(|at| 2 * at + 1);
    let mut all = Vec::new();
    for id in ids.clone() {
        receive(id, Kind::Open, b"").unwrap();
        let mut stream = Stream::new(shared.clone(), id);
        stream.accept(Bytes::new());
        compose();
        let mut piece = vec![0; WINDOW / 4];
        for _ in 0..20 {
            receive(id, Kind::Data, &piece).unwrap();
            stream.read_exact(&mut piece).await.unwrap();
            compose();
        }
        all.push(stream);
    }
    let windows: Vec<(usize, usize)> = {
        let mut state = shared.lock();
        let sizes = ids.clone().map(|id| {
            let entry = state.entry(id).unwrap();
            (entry.window, entry.left)
        });
        sizes.collect()
    };
    assert_eq!(windows[0].0, MAX_WINDOW);
    assert_eq!(windows[streams - 1].0, WINDOW);
    assert!(windows.iter().all(|(window, left)| left <= window));
    let sum: usize = windows.iter().map(|(window, _)| window).sum();
    assert_eq!(sum, streams * WINDOW + GROWTH);
    // A peer that sends beyond a window breaks the rules, whatever size that is.
    let left = windows[0].1;
    receive(1, Kind::Data, &vec![0; left]).unwrap();
    assert_eq!(receive(1, Kind::Data, b"x"), Err(Violation::Window(1)));
    // What a stream had is there for others once it has ended.
    drop(all);
    compose();
    for id in ids {
        receive(id, Kind::Reset, b"").unwrap();
    }
    let state = shared.lock();
    assert_eq!((state.entries.len(), state.grown), (0, 0));
}
