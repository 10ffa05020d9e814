use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test]
async fn what_belongs_to_no_request_ends_the_link() {
    let guard = Guard::default();
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let mut link = Guarded::new(ours, guard.clone());
    let guest = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut theirs, &[0; 1000])
            .await
            .is_ok()
        {}
    });
    let (mut buffer, mut read) = (vec![0; 1000], 0);
    while let Ok(bytes) = link.read(&mut buffer).await {
        read += bytes as u64;
    }
    assert!((BESIDE - 1000..=BESIDE).contains(&read), "{read}");
    assert_eq!(guard.violation(), Some(Violation::Chatter));
    guard.violated(Violation::Packet(0));
    assert_eq!(
        guard.violation(),
        Some(Violation::Chatter),
        "the first counts"
    );
    drop(link);
    guest.await.unwrap();
}

#[tokio::test]
async fn a_link_that_is_given_up_wakes_who_waits_for_it() {
    let guard = Guard::default();
    let (ours, _theirs) = tokio::io::duplex(16);
    let mut link = Guarded::new(ours, guard.clone());
    let waiting = tokio::spawn(async move { link.read_u8().await });
    tokio::task::yield_now().await;
    guard.give_up();
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(guard.violation(), None);
}

#[test]
fn what_was_on_its_way_for_a_request_that_was_given_up_is_forgiven() {
    let guard = Guard::default();
    guard.forsake();
    for _ in 0..(ON_ITS_WAY + BESIDE) / 60_000 {
        guard.count(60_000).unwrap();
    }
    guard.count(60_000).unwrap_err();
    assert_eq!(guard.violation(), Some(Violation::Chatter));
}

proptest! {
    /// Whatever the number and size of the pieces.
    #[test]
    fn a_guest_that_only_answers_never_breaks_a_rule(messages in prop::collection::vec(0..40_000_usize, 1..400)) {
        let guard = Guard::default();
        for bytes in messages {
            // A header, padding up to a block and an authentication code.
            guard.count(bytes + 9 + 4 + 5 + 16 + 16).unwrap();
            guard.brought(bytes);
        }
        prop_assert!(!guard.is_broken());
    }
}
