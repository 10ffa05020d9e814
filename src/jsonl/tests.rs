use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;

use serde::{Deserialize, Serialize};

use super::writer::write;
use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    number: usize,
    text: String,
}

fn line(number: usize) -> Line {
    Line {
        number,
        text: "x".repeat(number % 40),
    }
}

/// Writes each record as it is.
struct Each;

impl Gather<Line> for Each {
    fn lost(&self, count: u64) -> Line {
        Line {
            number: usize::try_from(count).unwrap(),
            text: "lost".into(),
        }
    }
}

struct Log {
    directory: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn place(&self) -> Place {
        Place::new(self.directory.path(), "test")
    }

    fn follow(&self) -> Follow<Line> {
        Follow::new(self.place()).unwrap()
    }

    fn lengths(&self) -> Vec<u64> {
        let files = std::fs::read_dir(self.directory.path()).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect()
    }
}

#[test]
fn files_are_rotated_and_a_reader_misses_no_line_that_is_kept() {
    let log = Log::new();
    let mut files = Files::open(log.place(), 500).unwrap();
    let (mut follow, mut read) = (log.follow(), Vec::new());
    for number in 0..200 {
        files.write(&line(number)).unwrap();
        // At times more than one rotation lies between.
        if number % 17 == 0 {
            read.extend(follow.read_all().unwrap());
        }
    }
    read.extend(follow.read_all().unwrap());
    assert_eq!(read, (0..200).map(line).collect::<Vec<_>>());
    let lengths = log.lengths();
    assert!(
        lengths.len() == KEPT && lengths.iter().all(|length| *length <= 500),
        "{lengths:?}"
    );
    let late = log.follow().read_all().unwrap();
    assert_eq!(late.last(), Some(&line(199)));
    assert!(late.len() > 10 && late.len() < 200);
}

#[test]
fn several_writers_share_a_log_also_while_it_is_rotated() {
    let log = Log::new();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut files = Files::open(log.place(), 4000).unwrap();
            std::thread::spawn(move || {
                for number in 0..50 {
                    files.write(&line(writer * 1000 + number)).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let read = log.follow().read_all().unwrap();
    // All 200 fit into the files that are kept.
    assert_eq!(read.len(), 200);
    for writer in 0..4 {
        let of = read.iter().filter(|line| line.number / 1000 == writer);
        let of: Vec<_> = of.map(|line| line.number % 1000).collect();
        assert_eq!(of, (0..50).collect::<Vec<_>>());
    }
    assert!(log.lengths().len() > 1, "nothing was rotated");
}

#[test]
fn a_line_that_was_cut_harms_no_other() {
    let log = Log::new();
    std::fs::write(log.place().file(0), "{\"number\":20").unwrap();
    let mut files = Files::open(log.place(), MOST).unwrap();
    let odd = Line {
        number: 1,
        text: "a\u{202e}\u{1b}[2J\n".into(),
    };
    files.write(&odd).unwrap();
    let text = std::fs::read_to_string(log.place().file(0)).unwrap();
    assert!(
        !text.contains(['\u{202e}', '\u{1b}']) && text.lines().count() == 2,
        "{text}"
    );
    assert_eq!(log.follow().read_all().unwrap().len(), 1);
}

#[test]
fn a_log_that_was_removed_is_made_again_if_its_directory_is_there() {
    let log = Log::new();
    let mut files = Files::open(log.place(), MOST).unwrap();
    files.write(&line(1)).unwrap();
    std::fs::remove_file(log.place().file(0)).unwrap();
    files.write(&line(2)).unwrap();
    assert_eq!(log.follow().read_all().unwrap(), [line(2)]);
    let place = log.place();
    drop(log);
    assert!(files.write(&line(3)).is_err() && !place.file(0).exists());
}

#[test]
fn lines_that_the_writer_has_no_room_for_are_counted() {
    let (records, received) = sync_channel(2);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = Writer {
        records: Some(records),
        lost: lost.clone(),
        thread: None,
    };
    (0..10).for_each(|number| writer.add(line(number)));
    drop(writer);
    let log = Log::new();
    let files = Files::open(log.place(), MOST).unwrap();
    write(files, Each, &received, &lost);
    let read = log.follow().read_all().unwrap();
    let lost = read.iter().find(|line| line.text == "lost").unwrap();
    assert_eq!((read.len(), lost.number), (3, 8));
}
