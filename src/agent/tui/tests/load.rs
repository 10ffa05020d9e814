//! Much at once. The bounds only tell a front end that works from one whose time grows with the square of the input.

use std::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_paste_of_10_mb_is_one_sign_until_it_is_sent() {
    let mut play = Play::new(80, 24);
    let began = Instant::now();
    let line = "a line of a paste, with 日本 in it\r";
    let text = line.repeat(10_000_000 / line.len());
    play.typed("look: ");
    play.input(Input::Paste(text.clone()));
    for _ in 0..200 {
        play.typed("x");
        play.key(KeyCode::Left);
        play.key(KeyCode::Right);
        play.key(KeyCode::Backspace);
    }
    let lines = crate::text::grouped(text.matches('\r').count() as u64);
    let shown = format!("[pasted 9.5 MiB, {lines} lines]");
    assert!(play.shown().contains(&shown), "{}", play.shown());
    play.commands();
    play.key(KeyCode::Enter);
    let [Command::Send(prompt)] = &play.commands()[..] else {
        panic!("it is sent");
    };
    assert!(prompt.text.starts_with("look: a line"));
    assert!(prompt.text.contains(&text.replace('\r', "\n")));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn a_paste_without_brackets_stays_fast() {
    let mut play = Play::new(80, 24);
    let began = Instant::now();
    for at in 0..300_000 {
        let code = KeyCode::Char(if at % 60 == 59 { ' ' } else { 'x' });
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        play.app.on_input(Input::Key(key), play.now);
        if at % 3_000 == 0 {
            play.draw();
        }
    }
    play.key(KeyCode::Enter);
    let [Command::Send(prompt)] = &play.commands()[..] else {
        panic!("it is sent");
    };
    assert_eq!(prompt.text.len(), 300_000);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn an_output_of_50_mb_is_bounded() {
    let mut play = Play::new(80, 24);
    let began = Instant::now();
    let call = exec("1", "yes");
    play.event(super::began(&call));
    let output = "y and more\n".repeat(50 << 20 >> 3);
    for _ in 0..100 {
        play.app.on_event(
            Event::CallProgress {
                id: "1".to_owned(),
                line: output[..100_000].to_owned(),
            },
            play.now,
        );
    }
    play.event(ended(&call, &output));
    play.typed("typed");
    assert!(play.shown().contains("typed"));
    assert!(play.bytes.len() < 1 << 20);
    // Whole still means bounded.
    play.control('u');
    play.control('o');
    assert!(play.all().lines().count() < 12_000);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn a_fast_stream_is_drawn_as_it_comes() {
    let mut play = Play::new(80, 24);
    let began = Instant::now();
    play.event(Event::TurnBegan);
    // As 2,000 tokens a second for 10 s come: 33 between two frames.
    for frame in 0..600 {
        for at in 0..33 {
            let text = match (frame + at) % 97 {
                0 => "\n\n```rust\nfn main() {}\n```\n\n",
                7 => "\n- an item ",
                _ => "token ",
            };
            play.app.on_event(Event::Text(text.to_owned()), play.now);
        }
        play.draw();
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(play.all().contains("fn main() {}"));
}

#[test]
fn a_session_of_10_000_messages_is_shown_at_once() {
    use crate::agent::message::{Message, User};
    use crate::agent::session::EntryId;
    let began = Instant::now();
    let message = |at: u64| match at % 2 {
        0 => Message::User(User {
            text: format!("message {at} ").repeat(20),
            images: Vec::new(),
        }),
        _ => match answered(&"some **words** ".repeat(200)) {
            Event::Answered(answer) => Message::Assistant(*answer),
            _ => unreachable!(),
        },
    };
    let messages = (0..10_000).map(|at| (EntryId(at), message(at))).collect();
    let mut play = Play::new(80, 24);
    play.event(Event::Session {
        id: "long".to_owned(),
        messages,
    });
    assert!(play.all().contains("10,000 messages"));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}
