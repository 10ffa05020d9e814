//! Whatever models, tools, servers and persons send: nothing panics, and no control sequence is written but our own.

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::agent::event::{
    Field, FieldKind, PlanItem, PlanStatus, Question, SandboxState, TurnEnd,
};
use crate::agent::session::EntryId;

/// The control sequences that the front end writes: cursor, erasing, graphics, modes.
fn assert_own(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() && !"\r\n".contains(c)) {
        rest = &rest[at..];
        let sequence = rest.strip_prefix("\x1b[").expect("only sequences");
        let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        let (parameters, last) = (&sequence[..end], sequence.as_bytes()[end]);
        let is_own = match last {
            b'A' | b'B' | b'G' | b'K' | b'J' | b'H' | b'm' => {
                parameters.chars().all(|c| c.is_ascii_digit() || c == ';')
            }
            b'h' | b'l' => ["?2026", "?25", "?7"].contains(&parameters),
            _ => false,
        };
        assert!(is_own, "{:?}", &sequence[..=end]);
        rest = &sequence[end + 1..];
    }
    for deceiving in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{e0041}'] {
        assert!(!text.contains(deceiving));
    }
}

/// Text as an attacker writes it.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        prop::sample::select(vec![
            "\x1b[2J",
            "\x1b]0;title\x07",
            "\x1b]52;c;aGk=\x1b\\",
            "\x1bP1$r\x1b\\",
            "\u{9b}31m",
            "\x1b[?1049h",
            "\r",
            "\n",
            "\t",
            "\0",
            "\u{202e}",
            "\u{2066}",
            "\u{200b}",
            "\u{e0041}",
            "日本",
            "👩‍💻",
            "é",
            "e\u{301}",
            "\u{f0000}",
            "ﾟ",
            "`",
            "```\n",
            "```rust\nfn x() {}\n",
            "* ",
            "1. ",
            "> ",
            "| a | b |\n|--|--|\n",
            "# ",
            "[a](b)",
            "&#27;",
            "עברית",
            "[exit code 0]",
            "[",
            "]",
        ])
        .prop_map(str::to_owned),
        "[a-z ]{0,12}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

fn event() -> impl Strategy<Value = Event> {
    let asked = |(text, title, lasting): (String, String, bool)| {
        let (answer, _reply) = oneshot::channel();
        let kinds = [
            FieldKind::Text,
            FieldKind::Number(true),
            FieldKind::Flag,
            FieldKind::Choice(vec![text.clone(), title.clone()]),
        ];
        let fields = kinds.into_iter().map(|kind| Field {
            name: text.clone(),
            title: title.clone(),
            kind,
            required: lasting,
        });
        Event::Ask(Question {
            from: title.clone(),
            text: text.clone(),
            fields: if lasting {
                Vec::new()
            } else {
                fields.collect()
            },
            lasting,
            answer,
        })
    };
    let names = prop::sample::select(vec!["exec", "edit", "write", "read", "job", "other\x1b[0c"]);
    prop_oneof![
        6 => hostile().prop_map(Event::Text),
        2 => hostile().prop_map(Event::Reasoning),
        1 => hostile().prop_map(|text| answered(&text)),
        1 => Just(()).prop_map(|()| Event::Void),
        1 => Just(()).prop_map(|()| Event::TurnBegan),
        1 => hostile().prop_map(|text| Event::Said { entry: EntryId(1), text }),
        1 => hostile().prop_map(|text| Event::Waiting(vec![text; 5])),
        1 => hostile().prop_map(|name| Event::Calling { name, bytes: 7 }),
        1 => hostile().prop_map(|name| Event::Model { name, window: 0 }),
        2 => (names.clone(), hostile()).prop_map(|(name, text)| began(&call("1", name, json!({"command": text, "path": text, "content": text})))),
        2 => hostile().prop_map(|line| Event::CallProgress { id: "1".to_owned(), line }),
        2 => (names, hostile()).prop_map(|(name, text)| ended(&call("1", name, json!(null)), &text)),
        1 => hostile().prop_map(|step| Event::Plan(vec![PlanItem { step, status: PlanStatus::Active }; 4])),
        1 => hostile().prop_map(|why| Event::Retrying { why, after: Duration::from_secs(1) }),
        1 => hostile().prop_map(|summary| Event::Compacted { summary }),
        1 => hostile().prop_map(|why| Event::Sandbox(SandboxState::Lost(why))),
        1 => hostile().prop_map(|path| Event::Paths { asked: String::new(), found: vec![path; 3] }),
        1 => (hostile(), hostile(), any::<bool>()).prop_map(asked),
        1 => hostile().prop_map(Event::Notice),
        1 => hostile().prop_map(|why| Event::TurnEnded(TurnEnd::Failed(why))),
    ]
}

/// What the outside does.
#[derive(Debug)]
enum Step {
    Event(Event),
    Input(Input),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let codes = prop::sample::select(vec![
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Backspace,
        KeyCode::Delete,
        KeyCode::PageUp,
    ]);
    let chars = prop_oneof![
        prop::char::range('a', 'z'),
        prop::sample::select(vec![
            '/',
            '@',
            '!',
            '\\',
            ' ',
            '日',
            '\u{301}',
            '\u{200d}',
            '👩',
            '_',
            '<',
            '>',
            '\u{f0001}',
            '\u{1b}'
        ]),
    ];
    let code = prop_oneof![codes, chars.prop_map(KeyCode::Char)];
    let modifiers = prop::sample::select(vec![
        KeyModifiers::NONE,
        KeyModifiers::NONE,
        KeyModifiers::CONTROL,
        KeyModifiers::ALT,
        KeyModifiers::SHIFT,
    ]);
    let key =
        (code, modifiers).prop_map(|(code, modifiers)| Input::Key(KeyEvent::new(code, modifiers)));
    prop_oneof![
        4 => event().prop_map(Step::Event),
        8 => key.prop_map(Step::Input),
        1 => hostile().prop_map(|text| Step::Input(Input::Paste(text.repeat(40)))),
        1 => (1u16..130, 1u16..50).prop_map(|(columns, rows)| Step::Input(Input::Resize(columns, rows))),
        1 => (0u64..2_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_that_comes_is_written_raw_or_makes_it_fail(
        columns in 1u16..100, rows in 1u16..40, steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut play = Play::new(columns, rows);
        for step in steps {
            match step {
                Step::Event(event) => play.event(event),
                Step::Input(input) => play.input(input),
                Step::Wait(time) => {
                    play.wait(Duration::from_millis(time));
                    play.draw();
                }
            }
            play.app.actions.clear();
        }
        assert_own(&play.bytes);
    }
}

#[test]
fn tiny_terminals_are_drawn() {
    for (columns, rows) in [(10, 3), (1, 1), (2, 2), (1, 30), (200, 1)] {
        let mut play = Play::new(columns, rows);
        play.event(Event::TurnBegan);
        play.event(Event::Text("some **text** 日本 that is longer".to_owned()));
        play.event(began(&exec("1", "ls")));
        play.typed("日 abc");
        play.control('r');
        play.key(KeyCode::Esc);
        let (answer, _reply) = oneshot::channel();
        play.event(Event::Ask(Question {
            from: "x".to_owned(),
            text: "a question".to_owned(),
            fields: Vec::new(),
            lasting: true,
            answer,
        }));
        assert_own(&play.bytes);
    }
}
