//! A question to a person.
//!
//! Nothing that was typed before the question was there answers it: keys answer only after a pause, and until then they
//! go where they were meant to go. The answer that a mere Enter gives is no.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::{Line, Span};
use serde_json::{Map, Value};

use super::lines::{Page, bounded, end, line, safe, span, text};
use super::picker::item;
use crate::agent::event::{Field, FieldKind, Lasting, Question, Reply};

/// How long no key may have come before one can be an answer.
const PAUSE: Duration = Duration::from_millis(300);

/// How much of a question's text is shown.
const LONGEST: usize = 16 << 10;

/// The longest value of a field.
const LONGEST_VALUE: usize = 64 << 10;

/// A question that is being asked.
#[derive(Debug)]
pub(super) struct Asked {
    question: Question,
    /// The values of the fields, as text.
    values: Vec<String>,
    /// The field that is filled in; behind the last one are the answers.
    focus: usize,
    answer: usize,
    wrong: Option<String>,
    quiet_since: Duration,
}

/// What a key did.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It came too early, and is not for the question.
    Early,
    /// It goes on.
    Open,
    /// It was answered.
    Answered(Reply),
}

/// An answer: its text, its key, what it means.
type Answer = (&'static str, char, Option<Lasting>);

const LASTING: [Answer; 4] = [
    ("No", 'n', None),
    ("Yes, once", 'y', Some(Lasting::Once)),
    ("Yes, for this session", 's', Some(Lasting::Session)),
    ("Yes, always in this project", 'a', Some(Lasting::Always)),
];

const PLAIN: [Answer; 2] = [("No", 'n', None), ("Yes", 'y', Some(Lasting::Once))];

/// The values that a field may have, unless it is written in.
fn choices(kind: &FieldKind) -> Option<Vec<String>> {
    match kind {
        FieldKind::Flag => Some(vec!["no".to_owned(), "yes".to_owned()]),
        FieldKind::Choice(values) => Some(values.clone()),
        FieldKind::Text | FieldKind::Number(_) => None,
    }
}

impl Asked {
    pub(super) fn new(question: Question, now: Duration) -> Self {
        let fields = question.fields.iter();
        let first = |field: &Field| choices(&field.kind)?.into_iter().next();
        Self {
            values: fields
                .map(|field| first(field).unwrap_or_default())
                .collect(),
            question,
            focus: 0,
            answer: 0,
            wrong: None,
            quiet_since: now,
        }
    }

    /// The question is seen from now on.
    pub(super) fn seen(&mut self, now: Duration) {
        self.quiet_since = now;
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_closed(&self) -> bool {
        self.question.answer.is_closed()
    }

    /// Sends the answer to the asking loop or server. Returns a line that says what was answered.
    pub(super) fn reply(self, reply: Reply) -> String {
        let said = match &reply {
            Reply::Decline => "no",
            Reply::Accept(_, Lasting::Once) => "yes",
            Reply::Accept(_, Lasting::Session) => "yes, for this session",
            Reply::Accept(_, Lasting::Always) => "yes, always in this project",
        };
        let text = self.text().lines().next().unwrap_or_default().to_owned();
        // It may have been closed meanwhile.
        self.question.answer.send(reply).ok();
        format!("{text} {said}")
    }

    pub(super) fn text(&self) -> &str {
        bounded(self.question.text.trim(), LONGEST)
    }

    fn answers(&self) -> &'static [Answer] {
        match self.question.lasting {
            true => &LASTING,
            false => &PLAIN,
        }
    }

    pub(super) fn on_key(&mut self, key: KeyEvent, now: Duration) -> Outcome {
        if now.saturating_sub(self.quiet_since) < PAUSE {
            self.quiet_since = now;
            return Outcome::Early;
        }
        self.wrong = None;
        let in_field = self.focus < self.question.fields.len();
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return Outcome::Answered(Reply::Decline),
            KeyCode::Char('c' | 'd') if control => return Outcome::Answered(Reply::Decline),
            KeyCode::Tab | KeyCode::Enter | KeyCode::Down if in_field => self.focus += 1,
            KeyCode::BackTab => self.focus = self.focus.saturating_sub(1),
            KeyCode::Up if in_field || self.answer == 0 => {
                self.focus = self.focus.saturating_sub(1);
            }
            _ if in_field => self.fill(key.code, control),
            KeyCode::Up | KeyCode::Left => self.answer = self.answer.saturating_sub(1),
            KeyCode::Down | KeyCode::Right => {
                self.answer = (self.answer + 1).min(self.answers().len() - 1);
            }
            KeyCode::Enter => return self.chosen(),
            KeyCode::Char(typed) if !control => {
                let typed = typed.to_ascii_lowercase();
                let found = self.answers().iter().position(|(_, key, _)| *key == typed);
                if let Some(at) = found {
                    self.answer = at;
                    return self.chosen();
                }
            }
            _ => {}
        }
        Outcome::Open
    }

    /// A key in a field.
    fn fill(&mut self, code: KeyCode, control: bool) {
        let value = &mut self.values[self.focus];
        let Some(choices) = choices(&self.question.fields[self.focus].kind) else {
            match code {
                KeyCode::Backspace => {
                    value.pop();
                }
                KeyCode::Char('u') if control => value.clear(),
                KeyCode::Char(typed) if !control && value.len() < LONGEST_VALUE => {
                    value.push(typed);
                }
                _ => {}
            }
            return;
        };
        let count = choices.len();
        let at = choices.iter().position(|known| known == value).unwrap_or(0);
        let mut others = (at + 1..at + count).map(|at| &choices[at % count]);
        let other = match code {
            KeyCode::Left => others.next_back(),
            KeyCode::Right | KeyCode::Char(' ') => others.next(),
            KeyCode::Char(typed) => others.find(|other| other.starts_with(typed)),
            _ => None,
        };
        if let Some(other) = other {
            other.clone_into(value);
        }
    }

    /// Pasted text, for the field that is filled in.
    pub(super) fn paste(&mut self, text: &str) {
        let field = self.question.fields.get(self.focus);
        if field.is_some_and(|field| choices(&field.kind).is_none()) {
            let value = &mut self.values[self.focus];
            let room = LONGEST_VALUE.saturating_sub(value.len());
            value.push_str(bounded(text.trim_end_matches(['\r', '\n']), room));
        }
    }

    fn chosen(&mut self) -> Outcome {
        let Some(lasting) = self.answers()[self.answer].2 else {
            return Outcome::Answered(Reply::Decline);
        };
        let mut filled = Map::new();
        for (at, (field, value)) in self.question.fields.iter().zip(&self.values).enumerate() {
            match read(field, value) {
                Ok(Some(value)) => {
                    filled.insert(field.name.clone(), value);
                }
                Ok(None) => {}
                Err(wrong) => {
                    self.wrong = Some(format!("`{}` {wrong}", field.title));
                    self.focus = at;
                    return Outcome::Open;
                }
            }
        }
        Outcome::Answered(Reply::Accept(filled, lasting))
    }

    /// The question's text as rows.
    pub(super) fn rows(&self, page: Page) -> Vec<Line<'static>> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        text(self.text(), bold, Span::default(), page).collect()
    }

    /// The question: its text in at most so many rows, its fields, and its answers.
    pub(super) fn lines(&self, page: Page, most: usize) -> Vec<Line<'static>> {
        let theme = page.theme;
        let mut below = Vec::new();
        for (at, (field, value)) in self.question.fields.iter().zip(&self.values).enumerate() {
            below.push(shown(field, value, at == self.focus, page));
        }
        below.extend(self.wrong.iter().map(|wrong| line(wrong, theme.bad())));
        let on_answers = self.focus >= self.question.fields.len();
        for (at, (text, key, _)) in self.answers().iter().enumerate() {
            let label = format!("{text} ({key})");
            below.push(item(&label, "", on_answers && at == self.answer, page));
        }
        let from = format!("{} asks:", bounded(&self.question.from, 100));
        let mut lines = vec![line(&from, theme.warn())];
        let mut ask = self.rows(page);
        let room = most.saturating_sub(below.len() + 1).max(1);
        if ask.len() > room {
            ask.truncate(room - 1);
            ask.push(Line::styled("… (all of it is above)", theme.dim()));
        }
        lines.append(&mut ask);
        lines.append(&mut below);
        lines
    }
}

/// A field and its value.
fn shown(field: &Field, value: &str, has_focus: bool, page: Page) -> Line<'static> {
    let mark = if field.required { " *" } else { "" };
    let title = format!("{}{mark}: ", bounded(&field.title, 200));
    let mut line = item(&title, "", has_focus, page);
    // The end of a long value is where it grows.
    let value = end(&safe(value), 200).to_owned();
    line.spans.push(Span::raw(value));
    if has_focus {
        let hint = match &field.kind {
            FieldKind::Text => "_",
            FieldKind::Number(true) => "_ (a whole number)",
            FieldKind::Number(false) => "_ (a number)",
            FieldKind::Flag => "  (y or n)",
            FieldKind::Choice(_) => "  (left and right)",
        };
        line.spans.push(span(hint, page.theme.dim()));
    }
    line
}

/// The value of a field, none if it is left out, or what is wrong with it.
fn read(field: &Field, value: &str) -> Result<Option<Value>, &'static str> {
    match &field.kind {
        FieldKind::Flag => Ok(Some(Value::Bool(value == "yes"))),
        _ if value.is_empty() && field.required => Err("must be filled in"),
        _ if value.is_empty() => Ok(None),
        FieldKind::Text | FieldKind::Choice(_) => Ok(Some(value.into())),
        FieldKind::Number(true) => match value.trim().parse::<i64>() {
            Ok(number) => Ok(Some(number.into())),
            Err(_) => Err("must be a whole number"),
        },
        FieldKind::Number(false) => {
            let number = value.trim().parse().ok();
            match number.and_then(serde_json::Number::from_f64) {
                Some(number) => Ok(Some(number.into())),
                None => Err("must be a number"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn asked(
        fields: Vec<Field>,
        lasting: bool,
        now: Duration,
    ) -> (Asked, oneshot::Receiver<Reply>) {
        let (answer, reply) = oneshot::channel();
        let question = Question {
            from: "a server".to_owned(),
            text: "Do it?".to_owned(),
            fields,
            lasting,
            answer,
        };
        (Asked::new(question, now), reply)
    }

    fn press(asked: &mut Asked, code: KeyCode, now: Duration) -> Outcome {
        asked.on_key(KeyEvent::new(code, KeyModifiers::NONE), now)
    }

    #[test]
    fn what_was_typed_before_does_not_answer() {
        let began = Duration::ZERO;
        let (mut asked, _reply) = asked(Vec::new(), true, began);
        let mut now = began;
        for _ in 0..20 {
            now += Duration::from_millis(100);
            let early = press(&mut asked, KeyCode::Char('y'), now);
            assert!(matches!(early, Outcome::Early));
        }
        now += PAUSE;
        let yes = press(&mut asked, KeyCode::Char('y'), now);
        assert!(
            matches!(yes, Outcome::Answered(Reply::Accept(ref fields, Lasting::Once)) if fields.is_empty())
        );
    }

    #[test]
    fn no_is_what_enter_and_escape_say() {
        let began = Duration::ZERO;
        let later = began + PAUSE;
        for code in [KeyCode::Enter, KeyCode::Esc, KeyCode::Char('N')] {
            let (mut asked, _reply) = asked(Vec::new(), true, began);
            let said = press(&mut asked, code, later);
            assert!(
                matches!(said, Outcome::Answered(Reply::Decline)),
                "{code:?}"
            );
        }
        let (mut always, mut reply) = asked(Vec::new(), true, began);
        for _ in 0..3 {
            press(&mut always, KeyCode::Down, later);
        }
        let Outcome::Answered(said) = press(&mut always, KeyCode::Enter, later) else {
            panic!("it was answered");
        };
        assert_eq!(always.reply(said), "Do it? yes, always in this project");
        let expected = Reply::Accept(Map::new(), Lasting::Always);
        assert_eq!(reply.try_recv().unwrap(), expected);
        let (mut once, _reply) = asked(Vec::new(), false, began);
        let open = press(&mut once, KeyCode::Char('a'), later);
        assert!(matches!(open, Outcome::Open));
    }

    #[test]
    fn fields_are_filled_in_and_checked() {
        let field = |name: &str, kind, required| Field {
            name: name.to_owned(),
            title: name.to_owned(),
            kind,
            required,
        };
        let began = Duration::ZERO;
        let later = began + PAUSE;
        let fields = vec![
            field("name", FieldKind::Text, true),
            field("count", FieldKind::Number(true), false),
            field("deep", FieldKind::Flag, false),
            field("how", FieldKind::Choice(vec!["a".into(), "b".into()]), true),
        ];
        let (mut asked, _reply) = asked(fields, false, began);
        let all = "\t\t\t\ty";
        for typed in all.chars() {
            let code = match typed {
                '\t' => KeyCode::Tab,
                typed => KeyCode::Char(typed),
            };
            press(&mut asked, code, later);
        }
        let page = Page {
            columns: 40,
            ..Page::default()
        };
        let shown = asked.lines(page, 10);
        let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
        assert!(
            shown.iter().any(|line| line == "`name` must be filled in"),
            "{shown:?}"
        );
        for code in [
            KeyCode::Char('x'),
            KeyCode::Enter,
            KeyCode::Char('7'),
            KeyCode::Enter,
        ] {
            press(&mut asked, code, later);
        }
        for code in [
            KeyCode::Char(' '),
            KeyCode::Tab,
            KeyCode::Right,
            KeyCode::Tab,
        ] {
            press(&mut asked, code, later);
        }
        let Outcome::Answered(Reply::Accept(filled, _)) =
            press(&mut asked, KeyCode::Char('y'), later)
        else {
            panic!("it was accepted");
        };
        let expected = serde_json::json!({"name": "x", "count": 7, "deep": true, "how": "b"});
        assert_eq!(Value::Object(filled), expected);
    }
}
