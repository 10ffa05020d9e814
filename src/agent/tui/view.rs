//! The live part, drawn from the state: the end of what streams, running calls, the plan, a question or a list, the
//! editor, the footer. Where there is no room, the oldest and the least important lines are left out.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::{Line, Span};

use super::app::App;
use super::footer::footer;
use super::lines::{cut_span, span, text, width};
use super::picker::{item, window};
use crate::agent::event::PlanStatus;
use crate::text::time;

/// The live part: its cells, and where the cursor is.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) cells: Buffer,
    pub(super) cursor: Option<(u16, u16)>,
}

/// What is left of the height, and the lines, the lowest first.
struct Room {
    left: usize,
    lines: Vec<Line<'static>>,
}

impl Room {
    /// Adds lines above the others: the first ones, as many as fit.
    fn add(&mut self, mut lines: Vec<Line<'static>>) {
        lines.truncate(self.left);
        self.left -= lines.len();
        self.lines.extend(lines.into_iter().rev());
    }

    /// Adds lines above the others: the last ones.
    fn add_end(&mut self, mut lines: Vec<Line<'static>>) {
        lines.drain(..lines.len().saturating_sub(self.left));
        self.add(lines);
    }
}

/// Draws the live part.
pub(super) fn live(app: &App) -> Live {
    let rows = app.rows;
    let mut room = Room {
        left: rows,
        lines: Vec::new(),
    };
    if rows >= 3 {
        room.add(vec![footer(app)]);
    }
    let (editor, (x, y)) = editor(app, (rows / 3).max(1));
    let below_cursor = room.lines.len() + editor.len() - y;
    room.add(editor);
    let boxed = match app.questions.is_empty() {
        true => boxed(app, (rows / 2).max(6).min(room.left)),
        // Nothing is more important than what is being answered.
        false => boxed(app, room.left),
    };
    room.add(boxed);
    room.add_end(waiting(app));
    if rows >= 6 {
        room.add(status(app));
        room.add(plan(app, rows / 4));
    }
    let mut tail = tail(app);
    if rows >= 8 && !tail.is_empty() {
        tail.push(Line::default());
    }
    room.add_end(tail);
    let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let (columns, height) = (number(app.page.columns), number(room.lines.len()));
    let mut cells = Buffer::empty(Rect::new(0, 0, columns, height));
    for (y, line) in (0..).zip(room.lines.iter().rev()) {
        cells.set_line(0, y, line, columns);
    }
    let has_keys = app.questions.is_empty() && app.picker.is_none();
    let at = (number(x).min(columns - 1), height - number(below_cursor));
    Live {
        cells,
        cursor: has_keys.then_some(at),
    }
}

impl App {
    /// How many columns the editor's text has; one is for the cursor behind it.
    pub(super) fn editor_columns(&self) -> usize {
        let columns = self.page.columns;
        columns.saturating_sub(self.prompt_columns() + 1).max(1)
    }

    fn prompt_columns(&self) -> usize {
        match self.page.columns {
            0..8 => 0,
            _ => width(self.page.theme.signs().prompt),
        }
    }
}

/// The editor in at most so many rows, and the cursor in it.
fn editor(app: &App, most: usize) -> (Vec<Line<'static>>, (usize, usize)) {
    let theme = app.page.theme;
    let prompt = app.prompt_columns();
    let (rows, (x, y)) = app.editor.layout(app.editor_columns());
    let from = (y + 1).saturating_sub(most);
    let style = match app.questions.is_empty() {
        true => theme.accent(),
        false => theme.dim(),
    };
    let shown = rows.into_iter().enumerate().skip(from).take(most);
    let lines = shown.map(|(at, row)| {
        let sign = match at {
            0 if prompt > 0 => Span::styled(theme.signs().prompt, style),
            _ => Span::raw(" ".repeat(prompt)),
        };
        Line::from(vec![sign, Span::raw(row)])
    });
    (lines.collect(), (prompt + x, y - from))
}

/// What is above the editor and has the keys, or some of them: a question, a list, completions.
fn boxed(app: &App, most: usize) -> Vec<Line<'static>> {
    let page = app.page;
    match (app.questions.front(), &app.picker, &app.completion) {
        (Some(asked), ..) => asked.lines(page, most),
        (_, Some(picker), _) => picker.lines(page, most),
        (.., Some(shown)) => window(&shown.items, shown.at, most.min(8))
            .map(|(at, (text, about))| item(text, about, at == shown.at, page))
            .collect(),
        _ => Vec::new(),
    }
}

fn waiting(app: &App) -> Vec<Line<'static>> {
    let dim = app.page.theme.dim();
    let shown = app.waiting.iter().take(3).map(|text| {
        let first = text.lines().next().unwrap_or_default();
        Line::from(cut_span(&format!("waits: {first}"), dim, app.page.columns))
    });
    let mut lines: Vec<Line<'static>> = shown.collect();
    if app.waiting.len() > 3 {
        let more = format!("and {} more", app.waiting.len() - 3);
        lines.push(Line::styled(more, dim));
    }
    lines
}

/// What the turn does.
fn status(app: &App) -> Vec<Line<'static>> {
    let Some(since) = app.turn else {
        return Vec::new();
    };
    let theme = app.page.theme;
    let took = app.now.saturating_sub(since);
    let mut signs = theme.signs().spinner.iter().cycle();
    let sign = signs
        .nth(took.as_millis() as usize / 100 % 100)
        .unwrap_or(&"");
    let what = match &app.doing {
        Some(doing) => doing,
        None if app.thinking().is_some() => "thinking",
        None => "working",
    };
    let rest = format!("  {} (Esc interrupts)", time(took.as_secs()));
    vec![Line::from(vec![
        Span::styled(*sign, theme.accent()),
        span(&format!(" {what}"), Style::new()),
        Span::styled(rest, theme.dim()),
    ])]
}

/// The plan, around the step that is being done.
fn plan(app: &App, most: usize) -> Vec<Line<'static>> {
    let theme = app.page.theme;
    let first = |status| app.plan.iter().position(|item| item.status == status);
    let at = first(PlanStatus::Active).or_else(|| first(PlanStatus::Pending));
    let shown = window(&app.plan, at.unwrap_or(0), most.clamp(1, 10)).map(|(_, item)| {
        let bold = theme.accent().add_modifier(Modifier::BOLD);
        let (sign, style) = match item.status {
            PlanStatus::Done => (theme.signs().done, theme.dim()),
            PlanStatus::Active => (theme.signs().active, bold),
            PlanStatus::Pending => (theme.signs().pending, Style::new()),
        };
        let room = app.page.columns.saturating_sub(2);
        let step = cut_span(&item.step, style, room);
        Line::from(vec![Span::styled(sign, style), step])
    });
    shown.collect()
}

/// The end of what streams, and the running calls.
fn tail(app: &App) -> Vec<Line<'static>> {
    let page = app.page;
    let mut lines = Vec::new();
    if let Some(thinking) = app.thinking() {
        let style = page.theme.dim().add_modifier(Modifier::ITALIC);
        lines.extend(text(thinking, style, Span::default(), page));
        lines.drain(..lines.len().saturating_sub(3));
    }
    lines.extend(app.answer.live(page));
    for call in &app.calls {
        if !lines.is_empty() || app.has_text_above {
            lines.push(Line::default());
        }
        lines.extend(call.lines(page, app.now, app.expanded));
    }
    lines
}
