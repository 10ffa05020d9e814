use std::time::{Duration, Instant};

use snowglobe_init::wire::network::Program;

use super::*;
use crate::jsonl::Gather as _;

pub(crate) fn record(host: &str, decision: Decision) -> Record {
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

#[test]
fn what_is_added_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut before = follow(directory.path()).unwrap();
    assert_eq!(before.read().unwrap(), []);
    let audit = Audit::open(directory.path()).unwrap();
    let hosts = ["a.example", "b.example", "c.example"];
    hosts
        .iter()
        .for_each(|host| audit.add(record(host, Decision::Allowed)));
    drop(audit);
    let read: Vec<String> = before
        .read_all()
        .unwrap()
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
fn equal_lines_become_one_with_a_count() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::open(directory.path()).unwrap();
    for _ in 0..200 {
        audit.add(record("denied.example", Decision::Refused));
        audit.add(record("allowed.example", Decision::Allowed));
    }
    drop(audit);
    let read = follow(directory.path()).unwrap().read_all().unwrap();
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
