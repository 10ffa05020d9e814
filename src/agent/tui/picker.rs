//! A list to pick one of. What is typed leaves only what contains it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::{Line, Span};

use super::lines::{Page, bounded, cut_span, line, span, wrap};
use crate::agent::event::Command;
use crate::agent::session::EntryId;

/// What an item of a list stands for.
#[derive(Debug)]
pub(super) enum Choice {
    /// The list closes, and nothing is done.
    Nothing,
    /// The loop is asked for this.
    Command(Command),
    /// A prompt for the editor.
    Prompt(String),
    /// A message to go back to; the next list asks how.
    Message(EntryId),
    /// A snapshot to restore; the next list asks whether that is meant.
    Snapshot(String),
}

/// A list.
#[derive(Debug)]
pub(super) struct Picker {
    title: String,
    items: Vec<(String, Choice)>,
    filter: String,
    /// The chosen one of those that are shown.
    at: usize,
}

impl Picker {
    /// A list with the last item first in reach.
    pub(super) fn new(title: impl Into<String>, items: Vec<(String, Choice)>) -> Self {
        Self {
            title: title.into(),
            at: items.len().saturating_sub(1),
            items,
            filter: String::new(),
        }
    }

    /// The indices of the items that contain what was typed.
    fn shown(&self) -> Vec<usize> {
        let filter = self.filter.to_lowercase();
        let fits = |at: &usize| self.items[*at].0.to_lowercase().contains(&filter);
        (0..self.items.len()).filter(fits).collect()
    }

    /// A choice ends the list.
    pub(super) fn on_key(&mut self, key: KeyEvent) -> Option<Choice> {
        let shown = self.shown();
        let last = shown.len().saturating_sub(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return Some(Choice::Nothing),
            KeyCode::Char('c' | 'd' | 'g') if control => return Some(Choice::Nothing),
            KeyCode::Enter => {
                let at = *shown.get(self.at)?;
                return Some(self.items.swap_remove(at).1);
            }
            KeyCode::Up => self.at = self.at.saturating_sub(1),
            KeyCode::Char('p' | 'r') if control => self.at = self.at.saturating_sub(1),
            KeyCode::Down => self.at = (self.at + 1).min(last),
            KeyCode::Char('n') if control => self.at = (self.at + 1).min(last),
            KeyCode::PageUp => self.at = self.at.saturating_sub(10),
            KeyCode::PageDown => self.at = (self.at + 10).min(last),
            KeyCode::Backspace => {
                self.filter.pop();
                self.at = self.shown().len().saturating_sub(1);
            }
            KeyCode::Char(typed) if !control && self.filter.len() < 200 => {
                self.filter.push(typed);
                self.at = self.shown().len().saturating_sub(1);
            }
            _ => {}
        }
        None
    }

    pub(super) fn lines(&self, page: Page, most: usize) -> Vec<Line<'static>> {
        let theme = page.theme;
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let mut lines = wrap(&line(&self.title, bold), page.columns, &[], &[]);
        lines.truncate(3);
        if let Some(last) = lines.last_mut() {
            last.spans.push(match &self.filter[..] {
                "" => span("  (Enter picks, Esc closes)", theme.dim()),
                filter => span(&format!("  {filter}"), theme.accent()),
            });
        }
        let shown = self.shown();
        if shown.is_empty() {
            lines.push(Line::styled("  nothing", theme.dim()));
        }
        let room = most.saturating_sub(lines.len());
        for (at, index) in window(&shown, self.at, room) {
            lines.push(item(&self.items[*index].0, "", at == self.at, page));
        }
        lines
    }
}

/// The part of a list around one of its items that fits.
pub(super) fn window<T>(items: &[T], at: usize, most: usize) -> impl Iterator<Item = (usize, &T)> {
    let from = (at + 1).saturating_sub(most.div_ceil(2));
    let from = from.min(items.len().saturating_sub(most));
    items.iter().enumerate().skip(from).take(most)
}

/// An item of a list, with what is said about it.
pub(super) fn item(label: &str, about: &str, is_chosen: bool, page: Page) -> Line<'static> {
    let theme = page.theme;
    let (sign, style) = match is_chosen {
        true => (
            theme.signs().active,
            theme.accent().add_modifier(Modifier::BOLD),
        ),
        false => ("  ", Style::new()),
    };
    let label = cut_span(label, style, page.columns.saturating_sub(2));
    let mut line = Line::from(vec![Span::styled(sign, style), label]);
    if !about.is_empty() {
        line.spans.push(span(&format!("  {about}"), theme.dim()));
    }
    line
}

/// The first line of a text, for a list.
pub(super) fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    bounded(lines.next().unwrap_or_default(), 300).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn keys_move_and_search() {
        let picker = || {
            let item = |label: &str| (label.to_owned(), Choice::Prompt(label.to_owned()));
            Picker::new("Pick", ["one", "two", "three"].map(item).into())
        };
        let picked = |keys: &[KeyCode]| {
            let mut picker = picker();
            for code in keys {
                assert!(picker.on_key(key(*code)).is_none());
            }
            match picker.on_key(key(KeyCode::Enter)) {
                Some(Choice::Prompt(text)) => text,
                other => format!("{other:?}"),
            }
        };
        assert_eq!(picked(&[]), "three");
        assert_eq!(picked(&[KeyCode::Up]), "two");
        let one = ['O', 'N', 'E'].map(KeyCode::Char);
        assert_eq!(picked(&one), "one");
        assert_eq!(picked(&[KeyCode::Char('z')]), "None");
        let closed = picker().on_key(key(KeyCode::Esc));
        assert!(matches!(closed, Some(Choice::Nothing)));
    }

    #[test]
    fn a_window_holds_the_chosen_item() {
        let items: Vec<usize> = (0..100).collect();
        for at in [0, 1, 50, 99] {
            let shown: Vec<usize> = window(&items, at, 7).map(|(at, _)| at).collect();
            assert_eq!(shown.len(), 7);
            assert!(shown.contains(&at), "{at}: {shown:?}");
        }
    }
}
