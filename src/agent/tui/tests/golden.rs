//! Whole screens, at three sizes, beside this file. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

use tokio::sync::oneshot;

use super::*;
use crate::agent::event::{PlanItem, PlanStatus, Question, SandboxState, Spent};
use crate::agent::message::{Message, User};
use crate::agent::session::EntryId;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

fn check(name: &str, play: &Play) {
    let (rows, columns) = play.size();
    let file = format!("src/agent/tui/tests/golden/{name}-{columns}x{rows}.txt");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let (y, x) = play.terminal.screen().cursor_position();
    let cursor = match play.terminal.screen().hide_cursor() {
        true => "no cursor".to_owned(),
        false => format!("cursor in row {y}, column {x}"),
    };
    let shown = format!("{}({cursor})\n", play.shown());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &shown).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        shown,
        expected,
        "{}: set UPDATE_GOLDEN=1 to accept",
        path.display()
    );
}

fn plan(done: usize) -> Event {
    let steps = ["Find the failing test", "Mend the parser", "Run all tests"];
    let status = |at: usize| match at.cmp(&done) {
        std::cmp::Ordering::Less => PlanStatus::Done,
        std::cmp::Ordering::Equal => PlanStatus::Active,
        std::cmp::Ordering::Greater => PlanStatus::Pending,
    };
    let items = steps.iter().enumerate().map(|(at, step)| PlanItem {
        step: (*step).to_owned(),
        status: status(at),
    });
    Event::Plan(items.collect())
}

/// A task: up to the moment when a command runs.
fn task(columns: u16, rows: u16) -> Play {
    let mut play = Play::new(columns, rows);
    play.event(Event::Session {
        id: "2026-11-27-a".to_owned(),
        messages: Vec::new(),
    });
    play.event(Event::Model {
        name: "scripted/example-1".to_owned(),
        window: 200_000,
    });
    play.event(Event::Sandbox(SandboxState::Off));
    play.event(Event::Said {
        entry: EntryId(1),
        text: "The test `parses_dates` fails. Mend it, please.".to_owned(),
    });
    play.event(Event::TurnBegan);
    play.event(Event::Reasoning("I look at the test first.".to_owned()));
    play.wait(Duration::from_secs(2));
    play.event(plan(0));
    play.event(Event::Text("I run the tests first.\n".to_owned()));
    play.event(answered("I run the tests first.\n"));
    let test = exec("1", "make test");
    play.event(began(&test));
    play.event(Event::Sandbox(SandboxState::Running));
    let output: String = (1..=20).map(|at| format!("test {at} ... ok\n")).collect();
    let output = format!("{output}FAILED: parses_dates\n[exit code 2, 1.20 s]");
    play.event(ended(&test, &output));
    play.event(plan(1));
    let edit = call("2", "edit", json!({"path": "src/date.c"}));
    play.event(began(&edit));
    let diff = "--- src/date.c\n+++ src/date.c\n@@ -1,3 +1,3 @@\n int month;\n-  return 12;\n+  return month;\n\
                [1 replacement in /workspace/src/date.c]";
    play.event(ended(&edit, diff));
    play.event(Event::Spent(Spent {
        usage: Usage {
            input: 12_345,
            output: 678,
            ..Usage::default()
        },
        context: 24_000,
        dollars: Some(0.0421),
    }));
    play.event(plan(2));
    let again = exec("3", "make test");
    play.event(began(&again));
    for at in 1..=9 {
        play.event(Event::CallProgress {
            id: "3".to_owned(),
            line: format!("test {at} ... ok"),
        });
    }
    play.event(Event::Jobs(1));
    play.wait(Duration::from_secs(3));
    play.draw();
    play
}

const ANSWER: &str = "The month was a constant. I made it the field's value:\n\n```c\nreturn month;\n```\n\n\
    - all **21** tests pass\n- see [the file](src/date.c)\n\n| test | before | now |\n|---|---|---|\n\
    | parses_dates | fails | passes |\n";

#[test]
fn the_first_frame() {
    for (columns, rows) in SIZES {
        check("first", &Play::new(columns, rows));
    }
}

#[test]
fn a_command_runs() {
    for (columns, rows) in SIZES {
        check("runs", &task(columns, rows));
    }
}

#[test]
fn an_answer_streams_and_ends() {
    for (columns, rows) in SIZES {
        let mut play = task(columns, rows);
        play.event(ended(
            &exec("3", "make test"),
            "all 21 passed\n[exit code 0, 1.20 s]",
        ));
        play.event(Event::Text(ANSWER[..150].to_owned()));
        play.typed("and then 日本?");
        play.event(Event::Waiting(vec!["Commit it".to_owned()]));
        check("streams", &play);
        play.event(Event::Text(ANSWER[150..].to_owned()));
        play.event(answered(ANSWER));
        play.event(plan(3));
        play.event(Event::TurnEnded(crate::agent::event::TurnEnd::Done));
        check("ended", &play);
    }
}

#[test]
fn a_question_is_asked() {
    for (columns, rows) in SIZES {
        let mut play = task(columns, rows);
        let (answer, _reply) = oneshot::channel();
        play.typed("a draft");
        play.event(Event::Ask(Question {
            from: "snowglobe".to_owned(),
            text: "Restore the snapshot `before`? Everything that changed in the sandbox since then is lost."
                .to_owned(),
            fields: Vec::new(),
            lasting: true,
            answer,
        }));
        check("asks", &play);
    }
}

#[test]
fn commands_are_offered() {
    for (columns, rows) in SIZES {
        let mut play = Play::new(columns, rows);
        play.typed("/");
        check("commands", &play);
    }
}

#[test]
fn an_earlier_session_is_shown() {
    for (columns, rows) in SIZES {
        let mut play = Play::new(columns, rows);
        let said = |at: u64| {
            let text = format!("message {at}\nwith a second line");
            (
                EntryId(at),
                Message::User(User {
                    text,
                    images: Vec::new(),
                }),
            )
        };
        play.event(Event::Session {
            id: "s".to_owned(),
            messages: (0..10_000).map(said).collect(),
        });
        play.key(KeyCode::Esc);
        play.key(KeyCode::Esc);
        check("earlier", &play);
    }
}
