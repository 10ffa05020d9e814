//! The state of the front end, and how the loop's reports change it. No I/O, and no clock but the caller's: a moment is
//! the time since the front end's start.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui_core::style::Style;
use ratatui_core::text::{Line, Span};

use super::blocks::{self, Running};
use super::complete::{self, Completion, Word};
use super::editor::Editor;
use super::highlight;
use super::history::History;
use super::lines::{self, Page, bounded, end};
use super::markdown::Stream;
use super::picker::{Picker, first_line};
use super::question::Asked;
use super::theme::Theme;
use crate::agent::event::{Command, Event, PlanItem, PlanStatus, Prompt, SandboxState};
use crate::agent::event::{Spent, TurnEnd};
use crate::agent::message::{Call, CallResult, Content, Image, Message};
use crate::agent::session::EntryId;
use crate::network::rules::Mode;
use crate::{shown, text};

/// How many folded outputs can still be shown whole.
const FOLDED: usize = 20;

/// How many rows of one are printed.
const FOLDED_ROWS: usize = 10_000;

/// How much of a model's reasoning is kept.
const REASONING: usize = 128 << 10;

/// How many of an earlier session's last messages are shown.
const REPLAYED: usize = 12;

/// How many images of a result are shown.
const PICTURES: usize = 4;

/// How much of a text of the loop is shown.
const SHOWN: usize = 32 << 10;

/// How many finished lines may wait before no more reports are taken: the terminal may be slow, or another program's.
const WAITING: usize = 5_000;

/// What is to be done outside of the state.
#[derive(Debug)]
pub(super) enum Action {
    /// Ask the loop.
    Command(Command),
    /// Open the text in the user's editor.
    Edit,
    /// Hand the terminal to a shell in the sandbox.
    Shell,
    /// Stop this process until it is continued.
    Suspend,
    /// Draw all anew.
    Redraw,
    /// Show an image, where the terminal can.
    Show(Image),
    /// Put a text into the clipboard.
    Copy(String),
    /// Keep a prompt in the history's file.
    Remember(String),
    /// Leave at once.
    Leave,
}

/// The state.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) page: Page,
    pub(super) rows: usize,
    pub(super) now: Duration,
    pub(super) editor: Editor,
    pub(super) history: History,
    /// A list that has the keys.
    pub(super) picker: Option<Picker>,
    pub(super) questions: VecDeque<Asked>,
    pub(super) completion: Option<Completion>,
    /// A word that is asked for at that time.
    pub(super) wanted: Option<(Word, Duration)>,
    /// Where a word begins that is not to be completed.
    pub(super) dismissed: Option<usize>,
    pub(super) answer: Stream,
    /// Whether the present answer's text has come in pieces.
    streamed: bool,
    has_session: bool,
    /// What the model thinks, and since when.
    reasoning: Option<(String, Duration)>,
    pub(super) calls: Vec<Running>,
    pub(super) expanded: bool,
    pub(super) plan: Vec<PlanItem>,
    pub(super) waiting: Vec<String>,
    pub(super) said: Vec<(EntryId, String)>,
    pub(super) last_answer: String,
    /// Outputs that are not all on the terminal, each with what it is; the newest is the last.
    folded: VecDeque<(String, String)>,
    pub(super) model: String,
    pub(super) window: u64,
    pub(super) spent: Spent,
    pub(super) sandbox: SandboxState,
    pub(super) sandbox_since: Duration,
    /// How much of the network the sandbox reaches at its start.
    pub(super) network: Mode,
    pub(super) jobs: usize,
    /// When the turn began.
    pub(super) turn: Option<Duration>,
    /// What the turn does, unless it just works.
    pub(super) doing: Option<String>,
    /// A hint in the footer's place, until that time.
    pub(super) hint: Option<(String, Duration)>,
    pub(super) escaped: Option<Duration>,
    pub(super) leaving: bool,
    /// Whether the next list of snapshots is to pick from.
    pub(super) restoring: bool,
    pub(super) actions: Vec<Action>,
    finished: Vec<Line<'static>>,
    /// Whether the last finished line has text.
    pub(super) has_text_above: bool,
}

impl App {
    pub(super) fn new(theme: Theme, (columns, rows): (u16, u16)) -> Self {
        let mut app = Self::default();
        app.page.theme = theme;
        app.resize(columns, rows);
        app
    }

    pub(super) fn resize(&mut self, columns: u16, rows: u16) {
        self.page.columns = usize::from(columns.max(1));
        self.rows = usize::from(rows.max(1));
    }

    pub(super) fn command(&mut self, command: Command) {
        self.actions.push(Action::Command(command));
    }

    /// The oldest lines that are finished and not printed, so many at most.
    pub(super) fn take_finished(&mut self, most: usize) -> Vec<Line<'static>> {
        let count = self.finished.len().min(most);
        self.finished.drain(..count).collect()
    }

    /// Whether there are finished lines.
    pub(super) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Whether more reports may be taken now.
    pub(super) fn is_ready(&self) -> bool {
        self.finished.len() < WAITING
    }

    /// Moves on what streams, a bounded part of it. Whether there is more to do.
    pub(super) fn advance(&mut self) -> bool {
        let mut lines = Vec::new();
        let more = self.answer.advance(self.page, &mut lines);
        self.print(lines);
        more
    }

    pub(super) fn print(&mut self, lines: impl IntoIterator<Item = Line<'static>>) {
        let before = self.finished.len();
        self.finished.extend(lines);
        if let [.., last] = &self.finished[before..] {
            self.has_text_above = last.width() > 0;
        }
    }

    /// An empty line, unless there is one.
    pub(super) fn gap(&mut self) {
        if self.has_text_above {
            self.print([Line::default()]);
        }
    }

    pub(super) fn notice(&mut self, text: &str, style: Style) {
        self.end_answer();
        let text = bounded(text, SHOWN);
        self.print(lines::text(text, style, Span::default(), self.page));
    }

    pub(super) fn warn(&mut self, text: &str) {
        self.notice(text, self.page.theme.warn());
    }

    pub(super) fn hint(&mut self, text: &str) {
        self.hint = Some((text.to_owned(), self.now + Duration::from_secs(2)));
    }

    /// The loop's report.
    pub(super) fn on_event(&mut self, event: Event, now: Duration) {
        self.now = now;
        let theme = self.page.theme;
        match event {
            Event::Session { id, messages } => self.on_session(bounded(&id, 80), messages),
            Event::Model { name, window } => {
                if !self.model.is_empty() && self.model != name {
                    self.notice(&format!("the model is {name} now"), theme.dim());
                }
                (self.model, self.window) = (bounded(&name, 200).to_owned(), window);
            }
            Event::Said { entry, text } => {
                self.show_said(&text);
                self.said.push((entry, first_line(&text)));
                self.last_answer.clear();
            }
            Event::Waiting(waiting) => self.waiting = waiting,
            Event::Unsent(prompts) => self.on_unsent(prompts),
            Event::TurnBegan => {
                highlight::prepare();
                (self.turn, self.doing) = (Some(now), None);
            }
            Event::Text(text) => self.on_text(&text),
            Event::Reasoning(text) => self.on_reasoning(&text),
            Event::Calling { name, bytes } => {
                self.end_answer();
                let (name, bytes) = (bounded(&name, 100), text::size(bytes as u64));
                self.doing = Some(format!("calling {name}, {bytes}"));
            }
            Event::Void => self.on_void(),
            Event::Answered(answer) => self.on_answered(answer.text),
            Event::CallBegan { call, by_person } => {
                self.end_answer();
                self.doing = None;
                self.calls.push(Running::new(call, by_person, now));
            }
            Event::CallProgress { id, line } => {
                if let Some(call) = self.calls.iter_mut().find(|call| call.call.id == id) {
                    call.progress(&line);
                }
            }
            Event::CallEnded { result, took } => self.on_call_ended(&result, took),
            Event::Plan(plan) => self.plan = plan,
            Event::Retrying { why, after } => {
                let after = text::duration(after);
                self.warn(&format!("{why}; trying again in {after}"));
                self.doing = Some(format!("waiting {after} to try again"));
            }
            Event::Compacting => self.doing = Some("summarizing the conversation".to_owned()),
            Event::Compacted { summary } => {
                self.doing = None;
                let said = "the conversation was summarized; ctrl-O shows the summary";
                self.notice(said, theme.dim());
                self.fold("the summary", summary);
            }
            Event::Spent(spent) => self.spent = spent,
            Event::Sandbox(state) => self.on_sandbox(state),
            Event::Jobs(jobs) => self.jobs = jobs,
            Event::Sessions(sessions) => self.pick_session(sessions),
            Event::Paths { asked, found } => self.on_paths(&asked, found),
            Event::Ask(question) => {
                let asked = Asked::new(question, now);
                if asked.rows(self.page).len() > self.rows / 3 {
                    self.gap();
                    self.notice(asked.text(), Style::new());
                }
                self.questions.push_back(asked);
            }
            Event::Notice(text) => self.notice(&text, theme.dim()),
            Event::TurnEnded(end) => self.on_turn_ended(end),
        }
    }

    fn on_session(&mut self, id: &str, messages: Vec<(EntryId, Message)>) {
        self.end_answer();
        self.calls.clear();
        self.last_answer.clear();
        self.plan.clear();
        self.spent = Spent::default();
        let said = messages
            .iter()
            .filter_map(|(entry, message)| match message {
                Message::User(user) => Some((*entry, first_line(&user.text))),
                _ => None,
            });
        self.said = said.collect();
        let is_another = std::mem::replace(&mut self.has_session, true);
        let earlier = messages.len().saturating_sub(REPLAYED);
        let count = text::grouped(messages.len() as u64);
        let head = match (messages.len(), earlier) {
            (0, _) if !is_another => return,
            (0, _) => format!("session {id}, from its beginning"),
            (_, 0) => format!("session {id}, {count} messages"),
            _ => format!("session {id}, {count} messages; the last {REPLAYED}:"),
        };
        self.gap();
        self.notice(&head, self.page.theme.dim());
        let mut calls: Vec<Call> = Vec::new();
        for (_, message) in messages.into_iter().skip(earlier) {
            match message {
                Message::User(user) => self.show_said(&user.text),
                Message::Assistant(answer) => {
                    self.on_text(bounded(&answer.text, SHOWN));
                    self.on_answered(answer.text);
                    calls = answer.calls;
                }
                Message::Results(results) => {
                    for result in &results {
                        let call = calls.iter().find(|call| call.id == result.id).cloned();
                        self.show_result(call, result, None, false);
                    }
                }
            }
        }
        self.gap();
    }

    fn show_said(&mut self, text: &str) {
        self.end_answer();
        self.gap();
        self.print(blocks::said(text, self.page));
        self.gap();
    }

    fn on_unsent(&mut self, prompts: Vec<Prompt>) {
        let mut texts: Vec<String> = prompts.into_iter().map(|prompt| prompt.text).collect();
        if !self.editor.is_empty() {
            texts.push(self.editor.take());
        }
        self.editor.set(&texts.join("\n\n"));
    }

    fn on_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.streamed = true;
        self.doing = None;
        self.end_reasoning();
        if self.answer.is_new() {
            self.gap();
        }
        let mut lines = Vec::new();
        self.answer.push(&shown::text(text), self.page, &mut lines);
        self.print(lines);
    }

    fn on_answered(&mut self, text: String) {
        if !std::mem::take(&mut self.streamed) {
            self.on_text(&text);
        }
        self.end_answer();
        self.streamed = false;
        self.doing = None;
        self.last_answer = text;
    }

    fn on_reasoning(&mut self, text: &str) {
        self.doing = None;
        let begun = || (String::new(), self.now);
        let (thought, _) = self.reasoning.get_or_insert_with(begun);
        thought.push_str(bounded(text, REASONING.saturating_sub(thought.len())));
    }

    /// The newest of what the model thinks.
    pub(super) fn thinking(&self) -> Option<&str> {
        let (text, _) = self.reasoning.as_ref()?;
        Some(end(text, 1_000))
    }

    fn end_reasoning(&mut self) {
        if let Some((text, since)) = self.reasoning.take()
            && !text.trim().is_empty()
        {
            let took = text::duration(self.now.saturating_sub(since));
            self.gap();
            let said = format!("thought for {took}; ctrl-O shows it");
            self.print([lines::line(&said, self.page.theme.dim())]);
            self.fold("what the model thought", text);
        }
    }

    /// Finishes what streams.
    pub(super) fn end_answer(&mut self) {
        self.end_reasoning();
        let mut lines = Vec::new();
        self.answer.finish(self.page, &mut lines);
        self.print(lines);
    }

    fn on_void(&mut self) {
        self.end_answer();
        self.doing = None;
        if std::mem::take(&mut self.streamed) {
            self.warn("the stream broke: the answer begins again");
        }
        self.last_answer.clear();
    }

    fn on_call_ended(&mut self, result: &CallResult, took: Duration) {
        let at = self.calls.iter().position(|call| call.call.id == result.id);
        let running = at.map(|at| self.calls.remove(at));
        self.end_answer();
        if std::mem::take(&mut self.restoring) && result.name == "snapshot" && !result.is_error {
            return self.pick_snapshot(&blocks::whole(result));
        }
        let by_person = running.as_ref().is_some_and(|running| running.by_person);
        let call = running.map(|running| running.call);
        self.show_result(call, result, Some(took), by_person);
    }

    fn show_result(
        &mut self,
        call: Option<Call>,
        result: &CallResult,
        took: Option<Duration>,
        by_person: bool,
    ) {
        let call = call.unwrap_or_else(|| Call {
            id: result.id.clone(),
            name: result.name.clone(),
            arguments: serde_json::Value::Null,
        });
        let (lines, folded) = blocks::ended(&call, result, took, by_person, self.page);
        self.gap();
        self.print(lines);
        if took.is_some() {
            let images = result.content.iter().filter_map(|part| match part {
                Content::Image(image) => Some(Action::Show(image.clone())),
                Content::Text(_) => None,
            });
            self.actions.extend(images.take(PICTURES));
        }
        if let Some(text) = folded {
            self.fold(&first_line(&call.name), text);
        }
    }

    /// Keeps a text that is not all on the terminal.
    fn fold(&mut self, what: &str, text: String) {
        self.folded.push_back((what.to_owned(), text));
        if self.folded.len() > FOLDED {
            self.folded.pop_front();
        }
    }

    /// Prints the newest folded text whole; the next time it is the one before.
    pub(super) fn unfold(&mut self) {
        let Some((what, text)) = self.folded.pop_back() else {
            return self.hint("nothing is folded");
        };
        self.gap();
        self.notice(&format!("{what}:"), self.page.theme.accent());
        let mut rows = lines::text(&text, Style::new(), Span::default(), self.page);
        self.print(rows.by_ref().take(FOLDED_ROWS));
        if rows.next().is_some() {
            self.print([Line::styled("…", self.page.theme.dim())]);
        }
        self.gap();
    }

    fn on_sandbox(&mut self, state: SandboxState) {
        if let SandboxState::Lost(why) = &state {
            self.warn(&format!(
                "the server is gone: {why}; the next call connects anew"
            ));
        }
        if state != self.sandbox {
            self.sandbox_since = self.now;
        }
        self.sandbox = state;
    }

    fn on_paths(&mut self, asked: &str, found: Vec<String>) {
        if let Some(word) = self.word()
            && word.kind == complete::Kind::Paths
            && word.text == asked
        {
            self.completion = Completion::paths(word, found);
        }
    }

    fn on_turn_ended(&mut self, end: TurnEnd) {
        let theme = self.page.theme;
        self.end_answer();
        (self.turn, self.doing) = (None, None);
        match end {
            TurnEnd::Done => {}
            TurnEnd::Interrupted => self.warn("interrupted"),
            TurnEnd::Refused => self.notice("the model refused to answer", theme.bad()),
            TurnEnd::Limit(limit) => self.warn(&format!("stopped: {limit}")),
            TurnEnd::Failed(what) => self.notice(&format!("failed to {what}"), theme.bad()),
        }
        if self.plan.iter().all(|item| item.status == PlanStatus::Done) {
            self.plan.clear();
        }
        self.gap();
    }

    /// Does what is due at that time; gives when the next thing is.
    pub(super) fn tick(&mut self, now: Duration) -> Option<Duration> {
        self.now = now;
        if let Some((word, _)) = self.wanted.take_if(|(_, due)| *due <= now) {
            self.command(Command::Paths(word.text));
        }
        self.hint.take_if(|(_, until)| *until <= now);
        self.questions.retain(|asked| !asked.is_closed());
        let wanted = self.wanted.as_ref().map(|(_, due)| *due);
        let hint = self.hint.as_ref().map(|(_, until)| *until);
        let moves = self.turn.is_some()
            || !self.calls.is_empty()
            || self.sandbox == SandboxState::Booting
            || !self.questions.is_empty();
        let frame = moves.then(|| now + Duration::from_millis(100));
        [wanted, hint, frame].into_iter().flatten().min()
    }
}
