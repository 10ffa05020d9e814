use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn lines_of(content: &[u8]) -> Vec<&[u8]> {
    content.split_inclusive(|byte| *byte == b'\n').collect()
}

proptest! {
    /// A line is found at its place, independent of what was read before.
    #[test]
    fn lines_are_where_they_are(
        lengths in prop::collection::vec(0_usize..40_000, 0..40),
        last in 0_usize..3,
        asked in prop::collection::vec(0_u64..45, 1..6),
    ) {
        let mut content = Vec::new();
        for length in lengths {
            content.extend(std::iter::repeat_n(b'x', length));
            content.push(b'\n');
        }
        content.extend(std::iter::repeat_n(b'y', last));
        let all = lines_of(&content);
        let mut marks = Marks::default();
        for line in asked {
            let mut lines = Lines::new(Cursor::new(&content), marks, line).unwrap();
            let passed = lines.pass(line, later()).unwrap();
            let mut text = Vec::new();
            match all.get(line as usize) {
                Some(wanted) => {
                    prop_assert_eq!(passed, Passed::There);
                    prop_assert_eq!(lines.next(1 << 20, &mut text).unwrap(), Line::Whole);
                    prop_assert_eq!(&text.as_slice(), wanted);
                }
                None => prop_assert!(
                    passed == Passed::End || lines.next(1, &mut text).unwrap() == Line::End
                ),
            }
            prop_assert_eq!(lines.count(later()).unwrap(), Some(all.len() as u64));
            marks = lines.marks;
        }
    }
}

#[test]
fn a_line_can_be_taken_in_part() {
    let content = b"long line\nnext\n";
    let mut lines = Lines::new(Cursor::new(content), Marks::default(), 0).unwrap();
    let mut text = Vec::new();
    assert_eq!(lines.next(4, &mut text).unwrap(), Line::Longer);
    assert_eq!(text, b"long");
    assert_eq!(lines.pass(1, later()).unwrap(), Passed::There);
    assert_eq!(lines.next(5, &mut text).unwrap(), Line::Whole);
    assert_eq!(text, b"longnext\n");
    assert_eq!(lines.next(5, &mut text).unwrap(), Line::End);
    assert_eq!(lines.marks.total, Some(2));
}

#[test]
fn marks_are_bounded_and_time_is() {
    let mut marks = Marks::default();
    for line in 0..20_000_u64 {
        let offset = line * STRIDE as u64;
        marks.add(Mark { line, offset });
        assert!(marks.marks.len() <= MARKS);
    }
    assert_eq!(marks.before(0).offset, 0);
    let near = marks.before(12_345);
    assert!(near.line <= 12_345 && near.line > 12_000, "{near:?}");
    let mut lines = Lines::new(Cursor::new(b"a\nb\n"), Marks::default(), 0).unwrap();
    assert_eq!(lines.pass(1, Instant::now()).unwrap(), Passed::OutOfTime);
    assert_eq!(lines.count(Instant::now()).unwrap(), None);
}

#[test]
fn a_file_is_known_until_it_changes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a\nb\n").unwrap();
    let stamp = || Stamp::of(&file.as_file().metadata().unwrap());
    let (index, known) = (
        LineIndex::default(),
        Marks {
            total: Some(2),
            ..Marks::default()
        },
    );
    // Its times may not tell of a change that comes now.
    index.put(stamp(), known.clone());
    assert_eq!(index.get(&stamp()).total, None);
    let settled = Instant::now() + Duration::from_secs(5);
    while !stamp().is_reliable() {
        assert!(Instant::now() < settled, "it never settles");
        std::thread::yield_now();
    }
    index.put(stamp(), known);
    assert_eq!(index.get(&stamp()).total, Some(2));
    std::fs::write(file.path(), "a\nb\nc\n").unwrap();
    assert_eq!(index.get(&stamp()).total, None);
}
