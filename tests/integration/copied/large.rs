//! Large files in a copied workspace: their contents leave the sandbox only when they are taken.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use super::{changes, guest, json_of, run, works};
use crate::common::{Place, on_the_host};

/// A place whose workspace has a large file without holes.
fn with_random_file(size: u64) -> Place {
    let place = Place::new("minimal");
    let make = format!("head -c {size} /dev/urandom >large");
    on_the_host(&place.workspace, &make);
    place
}

/// The bytes of all contents that were read so far.
fn read_so_far(place: &Place) -> u64 {
    let contents = fs::read_dir(place.store().join("contents")).unwrap();
    contents
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

/// How much room a file takes, in bytes.
fn room(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// What the host has at a few places of the file, and its length.
fn spots(place: &Place, size: u64) -> Vec<u8> {
    let file = File::open(place.workspace.join("large")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut all = Vec::new();
    for at in [0, size / 3, size / 2, size - 100] {
        let mut spot = [0; 100];
        file.read_exact_at(&mut spot, at).unwrap();
        all.extend(spot);
    }
    all
}

/// The same of the guest's file.
async fn guest_spots(place: &Place, size: u64) -> String {
    let spot = |at: u64| format!("dd if=large bs=1 skip={at} count=100 2>/dev/null; ");
    let all = [0, size / 3, size / 2, size - 100].map(spot).concat();
    guest(place, &format!("{{ {all} }} | sha256sum")).await
}

fn timed(what: &str, began: &mut Instant) {
    eprintln!("{what}: {:.1?}", began.elapsed());
    *began = Instant::now();
}

/// Copies the file, changes a byte of it in the guest, and takes that over and back.
async fn a_byte_is_changed(place: &Place, size: u64) {
    let mut now = Instant::now();
    let before = spots(place, size);
    works(place, &["start"]).await;
    timed("start", &mut now);
    let at = size / 3 + 50;
    let put = |byte: &str| {
        format!("printf {byte} | dd of=large bs=1 seek={at} conv=notrunc 2>&1; stat -c %s large")
    };
    assert!(
        guest(place, &put("x"))
            .await
            .ends_with(&format!("{size}\n"))
    );
    timed("change", &mut now);
    assert_eq!(changes(place).await, ["modified large flagged"]);
    timed("changes", &mut now);
    let all = json_of(place, &["changes"]).await;
    let change = &all["changes"][0];
    assert_eq!(change["flags"][0]["flag"], "large", "{change}");
    assert_eq!(
        (&change["new_bytes"], &change["host_changed"]),
        (&size.into(), &false.into())
    );
    now = Instant::now();
    let diff = works(place, &["diff", "large"]).await;
    assert!(
        diff.contains("Binary files a/large and b/large differ"),
        "{diff}"
    );
    timed("diff", &mut now);
    let (code, _, said) = run(place, &["apply"]).await;
    assert!(code == 0 && said.contains("left: large"), "{said}");
    assert_eq!(read_so_far(place), 0, "nothing of it was read");
    assert_eq!(spots(place, size), before);

    // What was shown is what is applied.
    guest(place, &put("y")).await;
    let (_, _, said) = run(place, &["apply", "large"]).await;
    assert!(said.contains("look at it again"), "{said}");
    works(place, &["diff", "large"]).await;
    now = Instant::now();
    works(place, &["apply", "large"]).await;
    timed("apply", &mut now);
    let mut expected = before.clone();
    expected[150] = b'y';
    assert!(spots(place, size) == expected);
    assert_eq!(changes(place).await, Vec::<String>::new());
    now = Instant::now();
    works(place, &["apply", "--undo"]).await;
    timed("undo", &mut now);
    assert!(spots(place, size) == before);
    assert_eq!(changes(place).await, ["modified large flagged"]);
    let seen = guest_spots(place, size).await;
    now = Instant::now();
    works(place, &["discard", "--yes", "large"]).await;
    timed("discard", &mut now);
    assert_ne!(guest_spots(place, size).await, seen);
    assert_eq!(changes(place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_read_only_when_it_is_taken() {
    const SIZE: u64 = 11 << 20;
    let place = with_random_file(SIZE);
    a_byte_is_changed(&place, SIZE).await;
    // A renamed file is one change, whatever its size, and a touched one is none once it was named.
    guest(&place, "mv large larger && head -c 12000000 /dev/zero >new").await;
    assert_eq!(
        changes(&place).await,
        ["renamed larger flagged", "added new flagged"]
    );
    let (code, _, said) = run(&place, &["apply"]).await;
    assert!(code == 0 && said.contains("left: larger"), "{said}");
    assert!(place.workspace.join("large").exists());
    guest(&place, "mv larger large && rm new && touch large").await;
    assert_eq!(changes(&place).await, ["modified large flagged"]);
    let (_, out, said) = run(&place, &["apply", "large"]).await;
    assert!(said.contains("nothing changed there"), "{out}{said}");
    assert_eq!(changes(&place).await, Vec::<String>::new());
    // A removed one is removed, and comes back.
    guest(&place, "rm large").await;
    assert_eq!(changes(&place).await, ["removed large"]);
    works(&place, &["apply"]).await;
    assert!(!place.workspace.join("large").exists());
    works(&place, &["apply", "--undo"]).await;
    spots(&place, SIZE);
    works(&place, &["discard", "--yes", "."]).await;
    assert_eq!(guest(&place, "stat -c %s large").await, format!("{SIZE}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_stay_holes() {
    const SIZE: u64 = 24 << 20;
    let place = Place::new("minimal");
    let path = place.workspace.join("large");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"end", SIZE - 3).unwrap();
    a_byte_is_changed(&place, SIZE).await;
    let base = fs::read_dir(place.store().join("bases")).unwrap().next();
    let disk = base.unwrap().unwrap().path().join("disk.raw");
    for file in [&disk, &path] {
        assert!(
            room(file) < SIZE / 2,
            "{} takes {} bytes",
            file.display(),
            room(file)
        );
    }
    let contents = place.store().join("contents");
    let taken: u64 = fs::read_dir(contents)
        .unwrap()
        .map(|file| room(&file.unwrap().path()))
        .sum();
    assert!(taken < SIZE / 2, "the contents take {taken} bytes");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "moves gigabytes: `make workspace`"]
async fn a_gigabyte_comes_and_goes() {
    const SIZE: u64 = 1 << 30;
    let place = with_random_file(SIZE);
    a_byte_is_changed(&place, SIZE).await;
}
