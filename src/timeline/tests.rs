use proptest::prelude::*;
use snowglobe_init::wire::{Outcome, Program, User};

use super::*;
use crate::network::audit::{self, Audit};
use crate::review::report::Step;

fn read(directory: &Path) -> Vec<Line> {
    Reader::new(directory, directory).unwrap().read().unwrap()
}

fn summary(lines: &[Line]) -> Summary {
    let mut summary = Summary::default();
    lines.iter().for_each(|line| summary.add(line));
    summary
}

fn events(lines: &[Line]) -> Vec<&Event> {
    let events = lines.iter().filter_map(|line| match line {
        Line::Sandbox(record) => Some(&record.event),
        Line::Network(_) => None,
    });
    events.collect()
}

#[tokio::test]
async fn a_command_has_a_beginning_and_an_end_and_an_actor() {
    let directory = tempfile::tempdir().unwrap();
    let timeline = Timeline::open(directory.path(), Some("0a".into())).unwrap();
    let words = ["echo", "a b", "$x"].map(|word| snowglobe_init::wire::Word::Text(word.into()));
    let program = Program::Argv(words.into());
    acting("a client", async {
        let begun = timeline.command(&program, Some("src"), &User::Root);
        begun.ended(&Outcome::Exited { code: 3 });
    })
    .await;
    drop(timeline.command(&Program::LoginShell, None, &User::Sandbox));
    drop(timeline);
    let lines = read(directory.path());
    let text: Vec<String> = lines
        .iter()
        .map(|line| serde_json::to_string(line).unwrap())
        .collect();
    assert!(text[0].contains(r#""by":"a client","session":"0a","event":"command","id":"#));
    assert!(text[0].contains(r#""command":"echo 'a b' '$x'","cwd":"src","root":true"#));
    let [
        Event::Command { id, .. },
        Event::CommandEnded {
            id: ended,
            outcome: Outcome::Exited { code: 3 },
            ..
        },
        Event::Command { id: second, .. },
        Event::CommandLost { id: lost, .. },
    ] = events(&lines)[..]
    else {
        panic!("{text:?}");
    };
    assert!(id == ended && second == lost && id != second);
    let summary = summary(&lines);
    assert_eq!((summary.commands, summary.failed), (2, 2));
}

#[test]
fn both_logs_are_read_in_the_order_of_their_times() {
    let directory = tempfile::tempdir().unwrap();
    let mut reader = Reader::new(directory.path(), directory.path()).unwrap();
    assert_eq!(reader.read().unwrap(), []);
    let timeline = Timeline::open(directory.path(), None).unwrap();
    let network = Audit::open(directory.path()).unwrap();
    for count in 0..4 {
        timeline.add(Event::Lost { count });
        network.add(audit::Record {
            up: count,
            event: audit::Event::Close,
            decision: audit::Decision::Allowed,
            host: "pypi.org".into(),
            port: Some(443),
            ..audit::tests::record("pypi.org", audit::Decision::Allowed)
        });
    }
    drop((timeline, network));
    let lines = reader.read().unwrap();
    assert_eq!(lines.len(), 8);
    assert!(lines.is_sorted_by_key(Line::time));
    assert_eq!(reader.read().unwrap(), []);
    assert_eq!(
        summary(&lines).sent,
        [("pypi.org:443".to_owned(), 6)].into()
    );
}

#[test]
fn a_long_text_and_many_paths_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let timeline = Timeline::open(directory.path(), None).unwrap();
    timeline.begin(&"ä".repeat(1 << 20), None, false);
    let step = |number: usize| Step {
        path: format!("{number}"),
        what: "written".into(),
    };
    let steps: Vec<Step> = (0..1000).map(step).collect();
    let paths = Paths::of(&steps);
    assert_eq!((paths.paths.len(), paths.count), (100, 1000));
    let change = WorkspaceChange::Applied;
    timeline.add(Event::Workspace {
        change,
        paths,
        conflicts: 0,
    });
    drop(timeline);
    let lines = read(directory.path());
    assert_eq!(lines.len(), 3);
    let length = |line| serde_json::to_string(line).unwrap().len();
    assert!(lines.iter().all(|line| length(line) < 10_000));
    assert_eq!(summary(&lines).applied, [1000]);
}

proptest! {
    #[test]
    fn what_is_undone_is_no_longer_applied(steps in prop::collection::vec((any::<bool>(), 0..3_usize), 0..40)) {
        let (mut summary, mut left) = (Summary::default(), Vec::new());
        for (applies, count) in steps {
            let change = match applies {
                true => WorkspaceChange::Applied,
                false => WorkspaceChange::Undone,
            };
            match (applies, count) {
                (_, 0) => {}
                (true, _) => left.push(count),
                (false, _) => drop(left.pop()),
            }
            let paths = Paths { paths: Vec::new(), count };
            summary.add_event(&Event::Workspace { change, paths, conflicts: 0 });
        }
        prop_assert_eq!(summary.applied, left);
    }
}
