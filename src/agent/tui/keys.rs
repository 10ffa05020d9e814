//! What keys and pastes do.

use std::time::Duration;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::json;

use super::app::{Action, App};
use super::complete::{self, Completion, Kind, Word};
use super::editor::{Edit, To};
use super::picker::{Choice, Picker, first_line};
use super::question::Outcome;
use crate::agent::event::{Command, Reply};
use crate::agent::session::Summary;
use crate::text;

/// How soon a second press of the same key has to follow.
const AGAIN: Duration = Duration::from_millis(800);

/// How long typing rests before files are asked for.
const REST: Duration = Duration::from_millis(60);

/// What a key does to a text, by the habits of Emacs and of other editors.
fn edit(key: KeyEvent) -> Option<Edit> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    let by_word = control || alt;
    Some(match key.code {
        KeyCode::Left if by_word => Edit::Go(To::WordLeft),
        KeyCode::Left => Edit::Go(To::Left),
        KeyCode::Right if by_word => Edit::Go(To::WordRight),
        KeyCode::Right => Edit::Go(To::Right),
        KeyCode::Home if control => Edit::Go(To::Start),
        KeyCode::Home => Edit::Go(To::Home),
        KeyCode::End if control => Edit::Go(To::Finish),
        KeyCode::End => Edit::Go(To::End),
        KeyCode::Backspace if by_word => Edit::Kill(To::WordLeft),
        KeyCode::Backspace => Edit::Remove(To::Left),
        KeyCode::Delete if by_word => Edit::Kill(To::WordRight),
        KeyCode::Delete => Edit::Remove(To::Right),
        KeyCode::Char(typed) if !by_word => Edit::Insert(typed),
        KeyCode::Char(typed) => match (typed, control) {
            ('a', true) => Edit::Go(To::Home),
            ('b', true) => Edit::Go(To::Left),
            ('b', false) => Edit::Go(To::WordLeft),
            ('d', true) => Edit::Remove(To::Right),
            ('d', false) => Edit::Kill(To::WordRight),
            ('e', true) => Edit::Go(To::End),
            ('f', true) => Edit::Go(To::Right),
            ('f', false) => Edit::Go(To::WordRight),
            ('h', true) => Edit::Remove(To::Left),
            ('j', true) => Edit::Insert('\n'),
            ('k', true) => Edit::Kill(To::End),
            ('u', true) => Edit::Kill(To::Home),
            ('w', true) => Edit::Kill(To::WordLeft),
            ('y', true) => Edit::Yank,
            ('<', false) => Edit::Go(To::Start),
            ('>', false) => Edit::Go(To::Finish),
            _ => return None,
        },
        KeyCode::Enter if key.modifiers.contains(KeyModifiers::SHIFT) => Edit::Insert('\n'),
        _ => return None,
    })
}

impl App {
    /// A key, a paste, another size.
    pub(super) fn on_input(&mut self, input: Input, now: Duration) {
        self.now = now;
        match input {
            Input::Key(key) if key.kind != KeyEventKind::Release => self.on_key(key),
            Input::Paste(text) => match self.questions.front_mut() {
                Some(asked) => asked.paste(&text),
                None if self.picker.is_some() => {}
                None => {
                    self.editor.paste(&text);
                    self.edited();
                }
            },
            Input::Resize(columns, rows) => self.resize(columns, rows),
            _ => {}
        }
    }

    fn on_key(&mut self, key: KeyEvent) {
        let escaped = self.escaped.take();
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('l') if control => return self.actions.push(Action::Redraw),
            KeyCode::Char('z') if control => return self.actions.push(Action::Suspend),
            _ => {}
        }
        self.questions.retain(|asked| !asked.is_closed());
        if let Some(asked) = self.questions.front_mut() {
            match asked.on_key(key, self.now) {
                // Text goes on where it was meant to go; no other key does anything.
                Outcome::Early => {
                    if let (None, Some(edit @ Edit::Insert(_))) = (&self.picker, edit(key)) {
                        self.editor.apply(edit);
                    }
                }
                Outcome::Open => {}
                Outcome::Answered(reply) => self.answered(reply),
            }
        } else if let Some(picker) = &mut self.picker {
            if let Some(choice) = picker.on_key(key) {
                self.picker = None;
                self.picked(choice);
            }
        } else {
            self.on_edit_key(key, escaped);
        }
    }

    fn answered(&mut self, reply: Reply) {
        if let Some(asked) = self.questions.pop_front() {
            let said = asked.reply(reply);
            self.notice(&said, self.page.theme.dim());
        }
        let now = self.now;
        if let Some(next) = self.questions.front_mut() {
            next.seen(now);
        }
    }

    fn on_edit_key(&mut self, key: KeyEvent, escaped: Option<Duration>) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        let shift = key.modifiers.contains(KeyModifiers::SHIFT);
        match (key.code, &mut self.completion) {
            (KeyCode::Esc, _) => self.on_escape(escaped),
            (KeyCode::Char('c'), _) if control => self.on_interrupt_key(),
            (KeyCode::Char('d'), _) if control && self.editor.is_empty() => self.leave(),
            (KeyCode::Char('g'), _) if control => self.actions.push(Action::Edit),
            // Unfolds the running call, or prints the newest folded output.
            (KeyCode::Char('o'), _) if control => match self.calls.is_empty() {
                false => self.expanded = !self.expanded,
                true => self.unfold(),
            },
            (KeyCode::Char('r'), _) if control => self.pick_prompt(),
            (KeyCode::Enter, _) if !shift || alt => self.on_enter(alt),
            (KeyCode::Tab, Some(_)) => self.complete(),
            (KeyCode::Up | KeyCode::BackTab, Some(shown)) => shown.step(false),
            (KeyCode::Down, Some(shown)) => shown.step(true),
            (KeyCode::Up, _) => self.on_vertical(false),
            (KeyCode::Down, _) => self.on_vertical(true),
            (KeyCode::Char('p'), _) if control => self.on_vertical(false),
            (KeyCode::Char('n'), _) if control => self.on_vertical(true),
            _ => {
                if let Some(edit) = edit(key) {
                    self.editor.apply(edit);
                    self.edited();
                }
            }
        }
    }

    /// The word at the cursor that can be completed.
    pub(super) fn word(&self) -> Option<Word> {
        let (text, cursor) = self.editor.raw();
        complete::word(text, cursor)
    }

    /// Offers what fits the text as it is now.
    pub(super) fn edited(&mut self) {
        self.wanted = None;
        let word = self.word();
        let start = word.as_ref().map(|word| word.range.start);
        // What was found for a shorter word stays until there is more.
        let shown = self.completion.take();
        let shown = shown.filter(|shown| Some(shown.word.range.start) == start);
        self.dismissed = self.dismissed.filter(|at| Some(*at) == start);
        match word {
            Some(word) if self.dismissed.is_none() => match word.kind {
                Kind::Commands => self.completion = Completion::commands(word),
                Kind::Paths => {
                    self.completion = shown.map(|shown| Completion {
                        word: word.clone(),
                        ..shown
                    });
                    self.wanted = Some((word, self.now + REST));
                }
            },
            _ => {}
        }
    }

    /// Puts what is chosen in the word's place.
    fn complete(&mut self) {
        if let Some(shown) = self.completion.take() {
            let chosen = shown.chosen();
            self.editor.replace(shown.word.range, &chosen);
            self.edited();
        }
    }

    fn on_escape(&mut self, escaped: Option<Duration>) {
        if let Some(shown) = self.completion.take() {
            self.dismissed = Some(shown.word.range.start);
            return;
        }
        let again = escaped.is_some_and(|at| self.now.saturating_sub(at) < AGAIN);
        if again && self.turn.is_none() {
            return self.pick_message();
        }
        self.escaped = Some(self.now);
        if self.turn.is_some() || !self.calls.is_empty() {
            self.command(Command::Interrupt);
            self.hint("interrupting");
        } else {
            self.hint("Esc again goes back to an earlier message");
        }
    }

    fn on_interrupt_key(&mut self) {
        const HINT: &str = "ctrl-C again leaves";
        self.completion = None;
        if !self.editor.is_empty() {
            let text = self.editor.take();
            self.remember(&text);
        } else if self.hint.as_ref().is_some_and(|(hint, _)| hint == HINT) {
            self.leave();
        } else {
            self.hint(HINT);
        }
    }

    fn remember(&mut self, prompt: &str) {
        if self.history.add(prompt) {
            self.actions.push(Action::Remember(prompt.to_owned()));
        }
    }

    pub(super) fn leave(&mut self) {
        match std::mem::replace(&mut self.leaving, true) {
            false => {
                self.command(Command::Quit);
                self.hint("leaving; ctrl-C leaves at once");
            }
            true => self.actions.push(Action::Leave),
        }
    }

    fn on_enter(&mut self, queue: bool) {
        let (text, cursor) = self.editor.raw();
        if text[..cursor].ends_with('\\') && !queue {
            self.editor.replace(cursor - 1..cursor, "\n");
            return self.edited();
        }
        if let Some(shown) = &self.completion {
            let whole = format!("/{}", shown.word.text);
            let is_whole = shown.items.iter().any(|(item, _)| *item == whole);
            if shown.word.kind == Kind::Paths || !is_whole {
                return self.complete();
            }
        }
        (self.completion, self.wanted) = (None, None);
        if self.editor.whole().trim().is_empty() {
            return;
        }
        let text = self.editor.take();
        self.remember(&text);
        self.submit(text, queue);
    }

    /// Up and down go by rows, and beyond them to what waits and to the history.
    fn on_vertical(&mut self, down: bool) {
        if self.editor.vertical(self.editor_columns(), down) {
            return;
        }
        if !down && !self.waiting.is_empty() {
            return self.command(Command::Unsend);
        }
        let prompt = match down {
            true => self.history.newer(),
            false => self.history.older(&self.editor.whole()),
        };
        if let Some(prompt) = prompt {
            self.editor.set(prompt);
            self.completion = None;
        }
    }

    fn pick(&mut self, title: &str, items: Vec<(String, Choice)>, none: &str) {
        match items.is_empty() {
            true => self.hint(none),
            false => {
                (self.hint, self.completion) = (None, None);
                self.picker = Some(Picker::new(title, items));
            }
        }
    }

    /// Offers the earlier prompts.
    fn pick_prompt(&mut self) {
        let prompts = self.history.prompts().iter();
        let items = prompts.map(|prompt| (first_line(prompt), Choice::Prompt(prompt.clone())));
        let items = items.collect();
        self.pick("Earlier prompts", items, "there is no earlier prompt");
    }

    /// Offers the earlier messages.
    pub(super) fn pick_message(&mut self) {
        let said = self.said.iter();
        let items = said.map(|(entry, text)| (text.clone(), Choice::Message(*entry)));
        let items = items.collect();
        self.pick(
            "Go back to just before",
            items,
            "there is no earlier message",
        );
    }

    /// Offers the project's sessions, the newest as the nearest.
    pub(super) fn pick_session(&mut self, sessions: Vec<Summary>) {
        let items = sessions.into_iter().rev().map(|session| {
            let when = text::moment(session.changed);
            let title = format!("{when}  {}  ({} messages)", session.title, session.messages);
            (title, Choice::Command(Command::Open(session.path)))
        });
        let none = "there is no earlier session here";
        self.pick("Go on with", items.collect(), none);
    }

    /// Offers the snapshots of a list.
    pub(super) fn pick_snapshot(&mut self, list: &str) {
        let lines = list.lines().filter(|line| line.starts_with("  "));
        let items = lines.filter_map(|line| {
            let name = line.split_whitespace().next()?;
            Some((line.trim().to_owned(), Choice::Snapshot(name.to_owned())))
        });
        let none = "no snapshots are saved; /snapshot saves one";
        self.pick("Restore", items.collect(), none);
    }

    /// Asks whether a snapshot is to be restored.
    pub(super) fn sure_to_restore(&mut self, name: &str) {
        let title = format!("Restore `{name}`? What changed in the sandbox since then is lost");
        let restore = Command::Tool {
            name: "snapshot".to_owned(),
            arguments: json!({"action": "restore", "name": name}),
        };
        let yes = ("Yes".to_owned(), Choice::Command(restore));
        self.pick(&title, vec![yes, ("No".to_owned(), Choice::Nothing)], "");
    }

    fn picked(&mut self, choice: Choice) {
        match choice {
            Choice::Nothing => {}
            Choice::Prompt(prompt) => {
                self.editor.set(&prompt);
                self.edited();
            }
            Choice::Snapshot(name) => self.sure_to_restore(&name),
            Choice::Message(to) => {
                let back = |machine| Choice::Command(Command::Rewind { to, machine });
                let items = vec![
                    ("The conversation and the machine".to_owned(), back(true)),
                    ("The conversation only".to_owned(), back(false)),
                ];
                self.pick("Go back with", items, "");
            }
            Choice::Command(command) => {
                if let Command::Rewind { to, .. } = &command
                    && self.editor.is_empty()
                    && let Some((_, text)) = self.said.iter().find(|(entry, _)| entry == to)
                {
                    self.editor.set(text);
                }
                self.command(command);
            }
        }
    }
}
