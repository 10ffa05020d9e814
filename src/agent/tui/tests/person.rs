//! What a person does, and what comes of it.

use tokio::sync::oneshot;

use super::*;
use crate::agent::event::{Lasting, Prompt, Question, Reply, TurnEnd};
use crate::agent::session::EntryId;

fn prompt(text: &str) -> Prompt {
    Prompt {
        text: text.to_owned(),
        images: Vec::new(),
    }
}

fn said(play: &mut Play, entry: u64, text: &str) {
    play.event(Event::Said {
        entry: EntryId(entry),
        text: text.to_owned(),
    });
}

#[test]
fn enter_sends_and_alt_enter_queues() {
    let mut play = Play::new(80, 24);
    play.typed("one");
    play.control('j');
    play.typed("two\\");
    play.key(KeyCode::Enter);
    play.typed("three");
    play.press(KeyCode::Enter, KeyModifiers::SHIFT);
    play.key(KeyCode::Enter);
    play.typed("later");
    play.press(KeyCode::Enter, KeyModifiers::ALT);
    play.key(KeyCode::Enter);
    let commands = play.commands();
    let [Command::Send(sent), Command::Queue(queued)] = &commands[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(*sent, prompt("one\ntwo\nthree\n"));
    assert_eq!(*queued, prompt("later"));
}

#[test]
fn what_waits_comes_back_and_then_the_history() {
    let mut play = Play::new(80, 24);
    play.typed("first");
    play.key(KeyCode::Enter);
    play.event(Event::Waiting(vec!["waiting".to_owned()]));
    play.commands();
    play.key(KeyCode::Up);
    assert!(matches!(&play.commands()[..], [Command::Unsend]));
    play.event(Event::Waiting(Vec::new()));
    play.event(Event::Unsent(vec![prompt("waiting")]));
    assert_eq!(play.app.editor.whole(), "waiting");
    play.key(KeyCode::Up);
    assert_eq!(play.app.editor.whole(), "first");
    play.key(KeyCode::Down);
    assert_eq!(play.app.editor.whole(), "waiting");
    play.control('r');
    play.typed("IRS");
    let shown = play.shown();
    assert!(shown.contains("Earlier prompts  IRS\n▸ first"), "{shown}");
    play.key(KeyCode::Enter);
    assert_eq!(play.app.editor.whole(), "first");
}

#[test]
fn escape_interrupts_and_twice_goes_back() {
    let mut play = Play::new(80, 24);
    said(&mut play, 4, "earlier");
    said(&mut play, 9, "later");
    play.event(Event::TurnBegan);
    play.key(KeyCode::Esc);
    assert!(matches!(&play.commands()[..], [Command::Interrupt]));
    play.event(Event::TurnEnded(TurnEnd::Interrupted));
    play.wait(Duration::from_secs(3));
    play.key(KeyCode::Esc);
    play.wait(Duration::from_secs(2));
    play.key(KeyCode::Esc);
    assert!(!play.shown().contains("Go back"));
    play.key(KeyCode::Esc);
    assert!(
        play.shown().contains("Go back to just before"),
        "{}",
        play.shown()
    );
    play.key(KeyCode::Up);
    play.key(KeyCode::Enter);
    play.key(KeyCode::Up);
    play.key(KeyCode::Enter);
    let commands = play.commands();
    let [Command::Rewind { to, machine: true }] = &commands[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(*to, EntryId(4));
    assert_eq!(play.app.editor.whole(), "earlier");
}

#[test]
fn leaving_takes_two_keys_and_clearing_loses_nothing() {
    let mut play = Play::new(80, 24);
    play.typed("draft");
    play.control('c');
    assert!(play.app.editor.is_empty());
    play.key(KeyCode::Up);
    assert_eq!(play.app.editor.whole(), "draft");
    play.control('c');
    play.control('c');
    assert!(play.commands().is_empty());
    play.control('c');
    assert!(matches!(&play.commands()[..], [Command::Quit]));
    let mut play = Play::new(80, 24);
    play.control('d');
    assert!(matches!(&play.commands()[..], [Command::Quit]));
    play.control('d');
    assert!(matches!(play.app.actions[..], [Action::Leave]));
}

#[test]
fn a_question_takes_the_keys_once_it_was_seen() {
    let mut play = Play::new(80, 24);
    let (answer, mut reply) = oneshot::channel();
    play.typed("hel");
    play.event(Event::Ask(Question {
        from: "a server".to_owned(),
        text: "Really?\u{1b}[2J".to_owned(),
        fields: Vec::new(),
        lasting: false,
        answer,
    }));
    play.typed("lo y");
    play.key(KeyCode::Enter);
    assert!(reply.try_recv().is_err());
    assert_eq!(play.app.editor.whole(), "hello y");
    play.wait(Duration::from_millis(300));
    play.typed("y");
    let accepted = Reply::Accept(serde_json::Map::new(), Lasting::Once);
    assert_eq!(reply.try_recv().unwrap(), accepted);
    assert_eq!(play.app.editor.whole(), "hello y");
    assert!(play.shown().contains("Really?\\u{1b}[2J yes"));
}

#[test]
fn files_and_commands_are_completed() {
    let mut play = Play::new(80, 24);
    play.typed("see @sr");
    assert!(play.commands().is_empty());
    play.wait(Duration::from_millis(100));
    let commands = play.commands();
    assert!(
        matches!(&commands[..], [Command::Paths(asked)] if asked == "sr"),
        "{commands:?}"
    );
    play.event(Event::Paths {
        asked: "other".to_owned(),
        found: vec!["no".to_owned()],
    });
    assert!(play.app.completion.is_none());
    play.event(Event::Paths {
        asked: "sr".to_owned(),
        found: vec!["src/".to_owned(), "src/main.c".to_owned()],
    });
    assert!(play.shown().contains("@src/main.c"));
    play.key(KeyCode::Down);
    play.key(KeyCode::Enter);
    assert_eq!(play.app.editor.whole(), "see @src/main.c ");
    play.control('u');
    play.typed("/qu");
    play.key(KeyCode::Tab);
    assert_eq!(play.app.editor.whole(), "/quit ");
    play.key(KeyCode::Enter);
    assert!(matches!(&play.commands()[..], [Command::Quit]));
}

#[test]
fn commands_do_what_they_say() {
    let mut play = Play::new(80, 24);
    let mut entered = |text: &str| {
        play.app.editor.set(text);
        play.key(KeyCode::Enter);
        play.commands()
    };
    assert!(matches!(&entered("!ls -l")[..], [Command::Run(line)] if line == "ls -l"));
    assert!(matches!(&entered("/model a/b")[..], [Command::Model(name)] if name == "a/b"));
    assert!(
        matches!(&entered("/compact the plan")[..], [Command::Compact(what)] if what == "the plan")
    );
    assert!(matches!(
        &entered("/export x.md")[..],
        [Command::Export(Some(_))]
    ));
    assert!(matches!(&entered("/clear")[..], [Command::Clear]));
    assert!(matches!(&entered("/jobs")[..], [Command::Tool { name, .. }] if name == "job"));
    assert!(
        matches!(&entered("/snapshot a")[..], [Command::Tool { arguments, .. }] if arguments["name"] == "a")
    );
    assert!(matches!(
        &entered("/workspace/x is wrong")[..],
        [Command::Send(_)]
    ));
    assert!(entered("/modle").is_empty());
    assert_eq!(play.app.editor.whole(), "/modle");
    assert!(
        play.all().contains("did you mean `model`?"),
        "{}",
        play.all()
    );
}

#[test]
fn restoring_lists_and_asks_first() {
    let mut play = Play::new(80, 24);
    play.typed("/restore");
    play.key(KeyCode::Enter);
    assert!(
        matches!(&play.commands()[..], [Command::Tool { arguments, .. }] if arguments["action"] == "list")
    );
    let list = call("1", "snapshot", json!({"action": "list"}));
    play.event(Event::CallBegan {
        call: list.clone(),
        by_person: true,
    });
    let text =
        "saved snapshots:\n  before     12 bytes  2026-11-27\n  later      12 bytes  2026-11-27\n";
    play.event(ended(&list, text));
    assert!(play.shown().contains("Restore"), "{}", play.shown());
    play.key(KeyCode::Up);
    play.key(KeyCode::Enter);
    assert!(play.commands().is_empty());
    // A mere Enter means no.
    play.key(KeyCode::Enter);
    assert!(play.commands().is_empty());
    play.app.editor.set("/restore before");
    play.key(KeyCode::Enter);
    play.key(KeyCode::Up);
    play.key(KeyCode::Enter);
    let commands = play.commands();
    let [Command::Tool { arguments, .. }] = &commands[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(*arguments, json!({"action": "restore", "name": "before"}));
}

#[test]
fn folded_output_is_shown_whole() {
    let mut play = Play::new(80, 24);
    let command = exec("1", "seq 50");
    play.event(began(&command));
    let output: String = (1..=50).map(|at| format!("line {at}\n")).collect();
    play.event(ended(&command, &format!("{output}[exit code 0, 0.01 s]")));
    assert!(!play.all().contains("line 7\n"));
    assert!(play.all().contains("… 44 lines above"));
    play.control('o');
    assert!(play.all().contains("line 7\n"));
    let chart = call("2", "chart", json!({"a": 1}));
    play.event(began(&chart));
    play.event(picture(&chart));
    assert!(
        play.all().contains("└ image/png, 117 KiB, 0.03 s"),
        "{}",
        play.all()
    );
}

#[test]
fn the_last_answer_is_copied() {
    let mut play = Play::new(80, 24);
    play.event(Event::TurnBegan);
    play.event(answered("see\n```\ncode\n```\n"));
    play.event(Event::TurnEnded(TurnEnd::Done));
    assert!(play.all().contains("see"));
    play.app.editor.set("/copy");
    play.key(KeyCode::Enter);
    let mut actions = play.app.actions.iter();
    let copied =
        actions.any(|it| matches!(it, Action::Copy(text) if text.ends_with("code\n```\n")));
    assert!(copied);
}

#[test]
fn a_broken_stream_begins_again() {
    let mut play = Play::new(80, 24);
    play.event(Event::TurnBegan);
    play.event(Event::Text("half an ans".to_owned()));
    play.event(Event::Void);
    play.event(Event::Text("the whole answer".to_owned()));
    play.event(answered("the whole answer"));
    let all = play.all();
    assert!(
        all.contains("the stream broke: the answer begins again"),
        "{all}"
    );
    assert_eq!(all.matches("the whole answer").count(), 1);
}

#[test]
fn an_answer_is_shown_once_however_it_comes() {
    let mut play = Play::new(80, 24);
    play.event(Event::TurnBegan);
    play.event(Event::Text("in pieces".to_owned()));
    play.event(Event::Calling {
        name: "exec".to_owned(),
        bytes: 9,
    });
    play.event(answered("in pieces"));
    play.event(answered("at once"));
    let all = play.all();
    for text in ["in pieces", "at once"] {
        assert_eq!(all.matches(text).count(), 1, "{all}");
    }
}
