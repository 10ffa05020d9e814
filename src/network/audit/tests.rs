use std::time::Duration;

use snowglobe_init::wire::network::Program;

use super::*;

fn record(host: &str, decision: Decision) -> Record {
    let program = Some(Program {
        pid: 7,
        name: "pip".into(),
        command: "pip download x".into(),
    });
    Record {
        event: Event::Connect,
        decision,
        program,
        host: host.into(),
        port: Some(443),
        up: 1,
        count: 1,
        ..Record::lost(1)
    }
}

fn all(follow: &mut Follow) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        match follow.read().unwrap() {
            more if more.is_empty() => return records,
            more => records.extend(more),
        }
    }
}

#[test]
fn what_is_added_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut before = Follow::new(directory.path()).unwrap();
    assert_eq!(before.read().unwrap(), []);
    let audit = Audit::open(directory.path()).unwrap();
    let hosts = ["a.example", "b.example", "c.example"];
    hosts
        .iter()
        .for_each(|host| audit.add(record(host, Decision::Allowed)));
    drop(audit);
    let read: Vec<String> = all(&mut before)
        .into_iter()
        .map(|record| record.host)
        .collect();
    assert_eq!(read, hosts);
    let line = std::fs::read_to_string(directory.path().join("network.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["event"], &line["decision"], &line["program"]["pid"]),
        (&"connect".into(), &"allowed".into(), &7.into())
    );
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
}

#[test]
fn files_are_rotated_and_a_reader_misses_no_line_that_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Files::open(directory.path(), 2000).unwrap();
    let mut follow = Follow::new(directory.path()).unwrap();
    let mut read = Vec::new();
    for number in 0..200 {
        files
            .write(&record(&format!("{number}.example"), Decision::Allowed))
            .unwrap();
        // At times more than one rotation lies between.
        if number % 17 == 0 {
            read.extend(all(&mut follow));
        }
    }
    read.extend(all(&mut follow));
    let expected: Vec<String> = (0..200).map(|number| format!("{number}.example")).collect();
    assert_eq!(
        read.into_iter()
            .map(|record| record.host)
            .collect::<Vec<_>>(),
        expected
    );
    let kept: Vec<u64> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .collect();
    assert!(
        kept.len() == KEPT && kept.iter().all(|length| *length <= 2000),
        "{kept:?}"
    );
    let late = all(&mut Follow::new(directory.path()).unwrap());
    assert_eq!(late.last().unwrap().host, "199.example");
    assert!(late.len() > 10 && late.len() < 200);
}

#[test]
fn a_line_that_was_cut_harms_no_other() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("network.jsonl"), "{\"time\":\"20").unwrap();
    let mut files = Files::open(directory.path(), MOST).unwrap();
    files
        .write(&record("a\u{202e}\u{1b}[2J\n.example", Decision::Allowed))
        .unwrap();
    let text = std::fs::read_to_string(directory.path().join("network.jsonl")).unwrap();
    assert!(
        !text.contains(['\u{202e}', '\u{1b}']) && text.lines().count() == 2,
        "{text}"
    );
    let read = all(&mut Follow::new(directory.path()).unwrap());
    assert_eq!(read.len(), 1);
}

#[test]
fn equal_lines_become_one_with_a_count() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::open(directory.path()).unwrap();
    for _ in 0..200 {
        audit.add(record("denied.example", Decision::Refused));
        audit.add(record("allowed.example", Decision::Allowed));
    }
    drop(audit);
    let read = all(&mut Follow::new(directory.path()).unwrap());
    let of = |host: &str| -> Vec<(u64, u64)> {
        read.iter()
            .filter(|record| record.host == host)
            .map(|record| (record.count, record.up))
            .collect()
    };
    assert_eq!(of("denied.example"), [(1, 1), (199, 199)]);
    assert_eq!(
        (of("allowed.example").len(), of("allowed.example")[20]),
        (21, (180, 180))
    );
}

#[test]
fn a_flood_of_names_becomes_few_lines() {
    let mut fold = Fold::default();
    let began = Instant::now();
    let take = |fold: &mut Fold, number: u32, at: Instant| {
        fold.take(record(&format!("{number}.example"), Decision::Refused), at)
    };
    let written = (0..100_000)
        .filter(|number| take(&mut fold, *number, began).is_some())
        .count();
    assert_eq!(written, 512);
    assert_eq!(fold.take_due(began + Duration::from_secs(59), false), []);
    let due = fold.take_due(began + Duration::from_secs(60), false);
    assert_eq!(
        (due.len(), due[0].count, due[0].host.as_str()),
        (1, 99_488, "(many others)")
    );
    assert_eq!(fold.due(), None);
    assert!(take(&mut fold, 1, began + Duration::from_secs(61)).is_some());
}

#[test]
fn lines_that_the_writer_has_no_room_for_are_counted() {
    let (lines, received) = sync_channel(2);
    let lost = Arc::new(AtomicU64::new(0));
    let audit = Audit {
        lines: Some(lines),
        lost: lost.clone(),
        thread: None,
    };
    (0..10).for_each(|number| audit.add(record(&format!("{number}.example"), Decision::Refused)));
    drop(audit);
    let directory = tempfile::tempdir().unwrap();
    write(
        Files::open(directory.path(), MOST).unwrap(),
        &received,
        &lost,
    );
    let read = all(&mut Follow::new(directory.path()).unwrap());
    let lost = read
        .iter()
        .find(|record| record.event == Event::Lost)
        .unwrap();
    assert_eq!((read.len(), lost.count), (3, 8));
}
