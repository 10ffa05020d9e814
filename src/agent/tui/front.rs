//! The loop that reads keys and the loop's reports, and draws.

use std::io;
use std::time::{Duration, Instant};

use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{Event as Input, EventStream};
use futures_util::StreamExt;
use ratatui_core::buffer::Buffer;
use rustix::process::{Signal, getpid, kill_process};
use tokio::process::Command as Process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::app::{Action, App};
use super::history::File;
use super::picture::{Graphics, Space, picture};
use super::screen::Screen;
use super::terminal::{self, Answers, Terminal};
use super::theme::Theme;
use super::{Options, view};
use crate::agent::event::{Event, Handle};
use crate::agent::message::Image;

/// How often the live part is drawn at most.
const FRAME: Duration = Duration::from_millis(16);

/// How long the loop's reports may be taken before keys are looked for.
const SLICE: Duration = Duration::from_millis(4);

/// How many finished lines are printed in a frame.
const LINES: usize = 500;

/// How long a signal that stops this process may take.
const STOPPING: Duration = Duration::from_millis(200);

/// The largest text that terminals take into the clipboard.
const CLIPBOARD: usize = 70_000;

/// What comes from this process itself.
#[derive(Debug)]
enum Inner {
    /// A signal came.
    Signal(Signal),
    /// The prompts of earlier sessions are read.
    History(Vec<String>),
    /// The bytes that show an image.
    Picture(Vec<u8>),
}

/// The front end at work.
pub(super) struct Front {
    options: Options,
    handle: Handle,
    app: App,
    screen: Screen,
    answers: Answers,
    history: File,
    inner: mpsc::UnboundedReceiver<Inner>,
    report: mpsc::UnboundedSender<Inner>,
    /// What the moments of the state are counted from.
    began: Instant,
    /// When the live part may be drawn next.
    next_frame: Duration,
    /// The same, if a key was pressed: keys that come faster than they are drawn share a frame.
    next_for_key: Duration,
    /// Whether a key was pressed since it was drawn.
    has_key: bool,
    is_dirty: bool,
    is_over: bool,
    /// The signal that ended this front end.
    ended_by: Option<u8>,
    /// None while another program has the terminal.
    input: Option<EventStream>,
    terminal: Option<Terminal>,
}

impl Front {
    /// Takes the terminal, and draws the first frame.
    pub(super) fn begin(options: Options, handle: Handle, theme: Theme) -> io::Result<Self> {
        let size = terminal::size();
        let history = File::of(&options.data_dir, &options.project);
        let (report, inner) = mpsc::unbounded_channel();
        for number in [Signal::TERM, Signal::HUP, Signal::INT, Signal::CONT] {
            let mut signals = signal(SignalKind::from_raw(number.as_raw()))?;
            let report = report.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() && report.send(Inner::Signal(number)).is_ok() {
                }
            });
        }
        let mut front = Self {
            options,
            handle,
            app: App::new(theme, size),
            screen: Screen::new(size.0, terminal::reflows()),
            answers: Answers::default(),
            history: history.clone(),
            inner,
            report: report.clone(),
            began: Instant::now(),
            next_frame: Duration::ZERO,
            next_for_key: Duration::ZERO,
            has_key: false,
            is_dirty: true,
            is_over: false,
            ended_by: None,
            input: None,
            terminal: Some(Terminal::enter()?),
        };
        front.app.network = front.options.network;
        front.draw()?;
        front.answers.ask(front.now())?;
        front.input = Some(EventStream::new());
        tokio::task::spawn_blocking(move || match history.load() {
            // Without a front end nobody needs it.
            Ok(prompts) => drop(report.send(Inner::History(prompts))),
            Err(error) => tracing::debug!(%error, "the history of prompts can't be read"),
        });
        if front.options.resume {
            front.app.submit("/resume".to_owned(), false);
        }
        if let Some(prompt) = front.options.prompt.take() {
            front.app.submit(prompt, false);
        }
        Ok(front)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Works until its end; gives the signal that ended it.
    pub(super) async fn run(mut self) -> io::Result<Option<u8>> {
        let ended = self.turns().await;
        self.app.end_answer();
        // What is finished stays; the live part goes.
        let drawn = match self.terminal {
            Some(_) => self.draw_last(),
            None => Ok(()),
        };
        self.terminal = None;
        ended.and(drawn)?;
        Ok(self.ended_by)
    }

    async fn turns(&mut self) -> io::Result<()> {
        loop {
            let wake = self.due();
            self.perform().await?;
            if self.is_over {
                return Ok(());
            }
            if self.is_dirty && self.now() >= self.next_frame {
                self.draw()?;
            }
            let wake = match self.is_dirty {
                true => Some(self.next_frame),
                false => wake,
            };
            self.wait(wake).await?;
        }
    }

    /// Does what is due, and says when the next thing is.
    fn due(&mut self) -> Option<Duration> {
        let now = self.now();
        let (inputs, held) = self.answers.overdue(now);
        for input in inputs {
            self.app.on_input(input, now);
            self.is_dirty = true;
        }
        let tick = self.app.tick(now);
        [held, tick].into_iter().flatten().min()
    }

    /// Waits for a key, a report or that time, in this order.
    async fn wait(&mut self, wake: Option<Duration>) -> io::Result<()> {
        let Some(input) = &mut self.input else {
            return Ok(());
        };
        let sleep = tokio::time::sleep_until((self.began + wake.unwrap_or_default()).into());
        let is_ready = self.app.is_ready();
        tokio::select! {
            biased;
            Some(inner) = self.inner.recv() => self.on_inner(inner)?,
            read = input.next() => match read {
                Some(read) => self.on_input(read?)?,
                // The terminal is gone.
                None => self.is_over = true,
            },
            event = self.handle.events.recv(), if is_ready => match event {
                Some(event) => self.on_event(event),
                None => self.is_over = true,
            },
            () = sleep, if wake.is_some() => self.is_dirty = true,
        }
        Ok(())
    }

    fn on_inner(&mut self, inner: Inner) -> io::Result<()> {
        match inner {
            Inner::Signal(Signal::CONT) => self.come_back()?,
            Inner::Signal(signal) => {
                self.ended_by = u8::try_from(signal.as_raw()).ok();
                self.is_over = true;
            }
            Inner::History(prompts) => self.app.history.load(prompts),
            // What is finished by now is above it.
            Inner::Picture(bytes) => {
                self.draw()?;
                terminal::write(&self.screen.erase())?;
                terminal::write(&bytes)?;
                self.is_dirty = true;
            }
        }
        Ok(())
    }

    /// Takes a key, and draws what it did: at once, unless keys come faster than frames are drawn.
    fn on_input(&mut self, input: Input) -> io::Result<()> {
        let now = self.now();
        if let Input::Resize(columns, _) = input {
            terminal::write(&self.screen.resized(columns))?;
        }
        for input in self.answers.filter(input, now) {
            self.app.on_input(input, now);
        }
        self.app.page.theme.light = self.answers.light.unwrap_or_default();
        self.next_frame = self.next_frame.min(self.next_for_key);
        self.has_key = true;
        self.is_dirty = true;
        Ok(())
    }

    /// Takes a report and those that are there already, for a short time.
    fn on_event(&mut self, first: Event) {
        let began = Instant::now();
        let mut next = Some(first);
        while let Some(event) = next {
            self.app.on_event(event, self.began.elapsed());
            next = match began.elapsed() < SLICE && self.app.is_ready() {
                true => self.handle.events.try_recv().ok(),
                false => None,
            };
        }
        self.is_dirty = true;
    }

    fn draw(&mut self) -> io::Result<()> {
        let began = self.now();
        let more = self.app.advance();
        let finished = self.app.take_finished(LINES);
        let live = view::live(&self.app);
        terminal::write(&self.screen.frame(&finished, &live.cells, live.cursor))?;
        self.is_dirty = more || self.app.has_finished();
        let drawn = self.now();
        self.next_frame = drawn + FRAME;
        if std::mem::take(&mut self.has_key) {
            self.next_for_key = drawn + (drawn - began);
        }
        Ok(())
    }

    /// Prints all that is finished, and takes the live part away.
    fn draw_last(&mut self) -> io::Result<()> {
        let finished = self.app.take_finished(usize::MAX);
        let nothing = Buffer::default();
        terminal::write(&self.screen.frame(&finished, &nothing, Some((0, 0))))
    }

    async fn perform(&mut self) -> io::Result<()> {
        for action in std::mem::take(&mut self.app.actions) {
            self.is_dirty = true;
            match action {
                // Without a loop the reports end, too.
                Action::Command(command) => drop(self.handle.commands.send(command)),
                Action::Remember(prompt) => {
                    let history = self.history.clone();
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = history.add(&prompt) {
                            tracing::debug!(%error, "the prompt was not kept in the history");
                        }
                    });
                }
                Action::Copy(text) if text.len() > CLIPBOARD => {
                    let said =
                        "too long for the clipboard of a terminal; /export writes it to a file";
                    self.app.warn(said);
                }
                Action::Copy(text) => {
                    let mut bytes = Vec::new();
                    crossterm::queue!(bytes, CopyToClipboard::to_clipboard_from(text))?;
                    terminal::write(&bytes)?;
                    self.app.hint("copied");
                }
                Action::Show(image) => self.show(image),
                Action::Redraw => terminal::write(&self.screen.clear(self.app.rows))?,
                Action::Suspend => self.suspend().await?,
                Action::Shell => self.shell().await?,
                Action::Edit => self.edit().await?,
                Action::Leave => self.is_over = true,
            }
        }
        Ok(())
    }

    /// Makes a picture of an image, where the terminal shows them.
    fn show(&self, image: Image) {
        let graphics = self.answers.graphics;
        let cell = terminal::cell().or((graphics == Graphics::Kitty).then_some((8, 16)));
        let size = terminal::size();
        if let (Graphics::Kitty | Graphics::Sixel, Some(cell)) = (graphics, cell) {
            let space = Space {
                columns: size.0.min(80),
                rows: size.1 / 2,
                cell,
            };
            let report = self.report.clone();
            tokio::task::spawn_blocking(move || {
                let bytes = picture(&image, graphics, space)?;
                report.send(Inner::Picture(bytes)).ok()
            });
        }
    }

    async fn suspend(&mut self) -> io::Result<()> {
        self.go_away()?;
        kill_process(getpid(), Signal::TSTP)?;
        // The process stops a moment later, and not at all where no shell could continue it.
        while let Ok(Some(inner)) = tokio::time::timeout(STOPPING, self.inner.recv()).await {
            match inner {
                Inner::Signal(Signal::CONT) => break,
                inner => self.on_inner(inner)?,
            }
        }
        self.come_back()
    }

    /// Gives the terminal back as it was.
    fn go_away(&mut self) -> io::Result<()> {
        let erased = terminal::write(&self.screen.erase());
        self.input = None;
        self.terminal = None;
        erased
    }

    /// Takes the terminal again.
    fn come_back(&mut self) -> io::Result<()> {
        let now = self.now();
        self.terminal = None;
        self.terminal = Some(Terminal::enter()?);
        let (columns, rows) = terminal::size();
        self.screen = Screen::new(columns, terminal::reflows());
        self.app.resize(columns, rows);
        if let Some(asked) = self.app.questions.front_mut() {
            asked.seen(now);
        }
        self.input.get_or_insert_with(EventStream::new);
        self.is_dirty = true;
        Ok(())
    }

    /// Runs another program on the terminal; the loop's reports are taken meanwhile. A ctrl-C is the other program's.
    async fn hand_over(&mut self, mut process: Process) -> io::Result<std::process::ExitStatus> {
        self.go_away()?;
        let spawned = process
            .kill_on_drop(true)
            .current_dir(&self.options.project)
            .spawn();
        let ran = match spawned {
            Err(error) => Err(error),
            Ok(mut child) => loop {
                tokio::select! {
                    status = child.wait() => break status,
                    Some(inner) = self.inner.recv() => match inner {
                        Inner::Signal(Signal::INT | Signal::CONT) => {}
                        inner => self.on_inner(inner)?,
                    },
                    Some(event) = self.handle.events.recv(), if self.app.is_ready() => {
                        self.app.on_event(event, self.began.elapsed());
                    }
                }
                if self.is_over {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            },
        };
        self.come_back()?;
        ran
    }

    async fn shell(&mut self) -> io::Result<()> {
        let Some(flags) = &self.options.shell else {
            let said = "there is no shell in a sandbox that is reached by an address; `!COMMAND` runs a command";
            self.app.warn(said);
            return Ok(());
        };
        let mut process = Process::new(std::env::current_exe()?);
        process.arg("shell").args(flags);
        let ran = self.hand_over(process).await;
        let theme = self.app.page.theme;
        match ran {
            // The shell's own status is that of its last command.
            Ok(_) => self.app.notice("back from the shell", theme.dim()),
            Err(_) if self.is_over => {}
            Err(error) => {
                let said = format!("failed to open a shell: {error}");
                self.app.notice(&said, theme.bad());
            }
        }
        Ok(())
    }

    /// Opens the text in the user's editor, and takes what it has become.
    async fn edit(&mut self) -> io::Result<()> {
        match self.edited().await {
            Ok(text) => {
                self.app.editor.set(&text);
                self.app.edited();
            }
            Err(_) if self.is_over => {}
            Err(error) => {
                let said = format!("failed to edit the text in an editor: {error}");
                self.app.notice(&said, self.app.page.theme.bad());
            }
        }
        Ok(())
    }

    async fn edited(&mut self) -> io::Result<String> {
        let mut named = tempfile::Builder::new();
        let file = named.prefix("prompt-").suffix(".md").tempfile()?;
        std::fs::write(file.path(), self.app.editor.whole())?;
        let variables = ["VISUAL", "EDITOR"].into_iter();
        let mut chosen = variables.filter_map(|name| std::env::var(name).ok());
        let editor = chosen.find(|editor| !editor.trim().is_empty());
        let editor = editor.unwrap_or_else(|| "vi".to_owned());
        // The variable may hold arguments, so a shell reads it.
        let mut process = Process::new("sh");
        let script = format!("{editor} \"$1\"");
        process.args(["-c", &script, "sh"]).arg(file.path());
        let status = self.hand_over(process).await?;
        if !status.success() {
            return Err(io::Error::other(format!("`{editor}` failed: {status}")));
        }
        let text = std::fs::read_to_string(file.path())?;
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Given up in the middle: the live part goes before the terminal is as it was.
        if self.terminal.is_some() {
            terminal::write(&self.screen.erase()).ok();
        }
    }
}
