//! The front end through the bytes that it writes, as a terminal shows them.

mod fuzz;
mod golden;
mod load;
mod person;
mod pty;

use std::time::Duration;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::app::{Action, App};
use super::screen::Screen;
use super::theme::{Depth, Theme};
use super::view;
use crate::agent::event::{Command, Event};
use crate::agent::message::{Assistant, Call, CallResult, Content, Stop, Usage};

const THEME: Theme = Theme {
    depth: Depth::Basic,
    light: false,
    unicode: true,
};

/// A front end and a terminal.
struct Play {
    app: App,
    screen: Screen,
    terminal: vt100::Parser,
    /// All that was written.
    bytes: Vec<u8>,
    now: Duration,
}

impl Play {
    fn new(columns: u16, rows: u16) -> Self {
        let mut play = Self {
            app: App::new(THEME, (columns, rows)),
            screen: Screen::new(columns, false),
            terminal: vt100::Parser::new(nonzero(rows), nonzero(columns), 20_000),
            bytes: Vec::new(),
            now: Duration::ZERO,
        };
        play.draw();
        play
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.app.tick(self.now);
    }

    fn draw(&mut self) {
        loop {
            let more = self.app.advance();
            let finished = self.app.take_finished(500);
            let live = view::live(&self.app);
            let frame = self.screen.frame(&finished, &live.cells, live.cursor);
            self.write(&frame);
            if !more && !self.app.has_finished() {
                break;
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.terminal.process(bytes);
        self.bytes.extend(bytes);
    }

    fn event(&mut self, event: Event) {
        self.app.on_event(event, self.now);
        self.draw();
    }

    fn input(&mut self, input: Input) {
        if let Input::Resize(columns, rows) = input {
            let screen = self.terminal.screen_mut();
            screen.set_size(nonzero(rows), nonzero(columns));
            let bytes = self.screen.resized(columns);
            self.write(&bytes);
        }
        self.app.on_input(input, self.now);
        self.draw();
    }

    fn key(&mut self, code: KeyCode) {
        self.press(code, KeyModifiers::NONE);
    }

    fn press(&mut self, code: KeyCode, modifiers: KeyModifiers) {
        self.input(Input::Key(KeyEvent::new(code, modifiers)));
    }

    fn control(&mut self, key: char) {
        self.press(KeyCode::Char(key), KeyModifiers::CONTROL);
    }

    fn typed(&mut self, text: &str) {
        for key in text.chars() {
            self.key(KeyCode::Char(key));
        }
    }

    /// What is asked of the loop since the last call.
    fn commands(&mut self) -> Vec<Command> {
        let actions = std::mem::take(&mut self.app.actions).into_iter();
        let commands = actions.filter_map(|action| match action {
            Action::Command(command) => Some(command),
            _ => None,
        });
        commands.collect()
    }

    /// What the terminal shows.
    fn shown(&self) -> String {
        let rows = self.terminal.screen().rows(0, 500);
        let rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        rows.join("\n").trim_end().to_owned() + "\n"
    }

    fn size(&self) -> (u16, u16) {
        let (rows, columns) = self.terminal.screen().size();
        (rows.get(), columns.get())
    }

    /// What the terminal shows, and what has scrolled away.
    fn all(&mut self) -> String {
        let mut all = Vec::new();
        let (rows, columns) = self.size();
        self.terminal.screen_mut().set_scrollback(usize::MAX);
        let mut above = self.terminal.screen().scrollback();
        while above > 0 {
            self.terminal.screen_mut().set_scrollback(above);
            let count = above.min(usize::from(rows));
            all.extend(self.terminal.screen().rows(0, columns).take(count));
            above -= count;
        }
        self.terminal.screen_mut().set_scrollback(0);
        all.extend(self.terminal.screen().rows(0, columns));
        let rows: Vec<&str> = all.iter().map(|row| row.trim_end()).collect();
        rows.join("\n")
    }
}

fn nonzero(number: u16) -> std::num::NonZero<u16> {
    std::num::NonZero::new(number).unwrap()
}

fn call(id: &str, name: &str, arguments: serde_json::Value) -> Call {
    Call {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments,
    }
}

fn began(call: &Call) -> Event {
    Event::CallBegan {
        call: call.clone(),
        by_person: false,
    }
}

fn ended(call: &Call, text: &str) -> Event {
    Event::CallEnded {
        result: CallResult::text(call, text, false),
        took: Duration::from_millis(1_200),
    }
}

fn answered(text: &str) -> Event {
    Event::Answered(Box::new(Assistant {
        model: "scripted/one".to_owned(),
        text: text.to_owned(),
        reasoning: String::new(),
        calls: Vec::new(),
        blocks: json!(null),
        usage: Usage::default(),
        stop: Stop::Done,
    }))
}

fn exec(id: &str, command: &str) -> Call {
    call(id, "exec", json!({"command": command}))
}

fn picture(call: &Call) -> Event {
    let image = crate::agent::message::Image {
        mime: "image/png".to_owned(),
        data: "x".repeat(160_000),
    };
    let result = CallResult {
        content: vec![Content::Text("[a chart]".to_owned()), Content::Image(image)],
        ..CallResult::text(call, "", false)
    };
    let took = Duration::from_millis(30);
    Event::CallEnded { result, took }
}
