//! The loop: it asks the model, makes the calls that the model wants, and keeps the session.
//!
//! One task owns a conversation. It is idle or in a turn; a turn alternates between an answer of the model and the calls in
//! it, until an answer has none. Requests of the front end are read meanwhile ([`Conversation::attend`]): what was sent
//! steers the turn at its next step, and an interrupt cancels what runs. Whatever happens, each call in the session has a
//! result, so the conversation can always go on.

mod brain;
mod call;
mod compaction;
mod error;
mod instructions;
mod permission;
mod plan;
mod savepoint;
mod turn;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::brain::Brain;
use self::error::TurnError;
use self::permission::Permissions;
use super::event::{Command, Event, Handle, Prompt, Reports, Spent, TurnEnd};
use super::message::{Message, Usage, User};
use super::providers::{Facts, ModelName};
use super::servers::{Own, Servers};
use super::session::{Body, EntryId, Session};
use crate::blocking::blocking_here;
use crate::config::Config;
use crate::describe;

/// What a conversation needs.
pub(crate) struct Setup {
    /// What answers.
    pub(crate) brain: Brain,
    /// The model to ask.
    pub(crate) model: ModelName,
    /// How Snowglobe's server is reached, and the configuration.
    pub(crate) own: Own,
    /// The session, new or continued.
    pub(crate) session: Session,
    /// What may be used.
    pub(crate) limits: Limits,
    /// Whether what stays inside the sandbox needs no question.
    pub(crate) yes_inside: bool,
}

/// What may be used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Answers of the model in a turn.
    pub(crate) turns: Option<u32>,
    /// US dollars in this run.
    pub(crate) dollars: Option<f64>,
}

/// Starts the loop.
pub(crate) fn start(setup: Setup) -> Handle {
    let (commands, requests) = mpsc::unbounded_channel();
    let (reports, events) = mpsc::unbounded_channel();
    let (finished, notes) = mpsc::unbounded_channel();
    let config = setup.own.config.clone();
    let conversation = Conversation {
        facts: setup.brain.facts(&setup.model),
        brain: Arc::new(setup.brain),
        model: setup.model,
        servers: Arc::new(Servers::start(setup.own, &reports)),
        session: setup.session,
        permissions: Arc::new(Permissions::load(&config, setup.yes_inside)),
        limits: setup.limits,
        config,
        events: reports,
        commands: commands.downgrade(),
        requests,
        finished,
        notes,
        steering: VecDeque::new(),
        queued: VecDeque::new(),
        deferred: VecDeque::new(),
        spent: Spent::nothing(),
        turn_is_saved: false,
        cannot_save: false,
        quitting: false,
        tasks: TaskTracker::new(),
        over: CancellationToken::new(),
    };
    tokio::spawn(conversation.run());
    Handle { commands, events }
}

/// The loop's state.
struct Conversation {
    config: Config,
    brain: Arc<Brain>,
    model: ModelName,
    facts: Facts,
    servers: Arc<Servers>,
    session: Session,
    permissions: Arc<Permissions>,
    limits: Limits,
    events: Reports,
    /// For what becomes a request later.
    commands: mpsc::WeakUnboundedSender<Command>,
    requests: mpsc::UnboundedReceiver<Command>,
    /// Where the commands that a person ran report what the model is told of them.
    finished: mpsc::UnboundedSender<String>,
    notes: mpsc::UnboundedReceiver<String>,
    /// What was said for the running turn's next step.
    steering: VecDeque<Prompt>,
    /// What was said for afterwards.
    queued: VecDeque<Prompt>,
    /// Requests that wait for the turn's end, which they have caused.
    deferred: VecDeque<Command>,
    spent: Spent,
    /// Whether the present turn has a state of the machine to go back to.
    turn_is_saved: bool,
    /// Whether saving the machine failed, so that it is said once.
    cannot_save: bool,
    quitting: bool,
    /// What a person has asked for beside the turns.
    tasks: TaskTracker,
    /// Cancelled at the loop's end.
    over: CancellationToken,
}

impl Conversation {
    async fn run(mut self) {
        self.show_session();
        self.show_model();
        while !self.quitting {
            if !self.steering.is_empty() {
                self.take_turn().await;
            } else if let Some(prompt) = self.queued.pop_front() {
                self.steering.push_back(prompt);
                self.show_waiting();
            } else if let Some(command) = self.deferred.pop_front() {
                if let Err(error) = self.between_turns(command).await {
                    self.failed(&error);
                }
            } else {
                tokio::select! {
                    command = self.requests.recv() => self.take(command.unwrap_or(Command::Quit), None),
                    Some(note) = self.notes.recv() => self.note(note),
                }
            }
        }
        // A person's commands end with the loop.
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.servers.close().await;
    }

    /// One turn, and what it is told.
    async fn take_turn(&mut self) {
        self.emit(Event::TurnBegan);
        let end = self.turn().await;
        let end = end.unwrap_or_else(|error| TurnEnd::Failed(describe(&error)));
        if matches!(end, TurnEnd::Failed(_) | TurnEnd::Limit(_)) {
            // What waits is not thrown into the next failure.
            self.give_back();
        }
        if let Some(jobs) = self.servers.jobs().await {
            self.emit(Event::Jobs(jobs));
        }
        self.emit(Event::TurnEnded(end));
    }

    /// Takes a request of the front end. `cancel` belongs to the running turn.
    fn take(&mut self, command: Command, cancel: Option<&CancellationToken>) {
        let interrupt = || {
            if let Some(cancel) = cancel {
                cancel.cancel();
            }
        };
        match command {
            Command::Queue(prompt) if cancel.is_some() => {
                self.queued.push_back(prompt);
                self.show_waiting();
            }
            Command::Send(prompt) | Command::Queue(prompt) => {
                self.steering.push_back(prompt);
                if cancel.is_some() {
                    self.show_waiting();
                }
            }
            Command::Unsend => self.give_back(),
            Command::Interrupt => interrupt(),
            Command::Quit => {
                self.quitting = true;
                interrupt();
            }
            Command::Rewind { .. } | Command::Compact(_) | Command::Clear | Command::Open(_) => {
                self.deferred.push_back(command);
                interrupt();
            }
            Command::Model(name) => {
                if let Err(error) = self.set_model(&name) {
                    self.failed(&error);
                }
            }
            Command::Export(path) => self.export(path),
            Command::Run(line) => self.run_for_person(line),
            Command::Tool { name, arguments } => self.call_for_person(name, arguments),
            Command::Sessions | Command::Paths(_) | Command::Prompt { .. } => self.look_up(command),
        }
    }

    /// Looks something up for the front end.
    fn look_up(&self, command: Command) {
        let (config, servers) = (self.config.clone(), self.servers.clone());
        let (events, commands) = (self.events.clone(), self.commands.clone());
        self.tasks.spawn(async move {
            let found = match command {
                Command::Sessions => {
                    let (data_dir, project) = (config.host.dirs.data, config.sandbox.project_dir);
                    let list = move || Session::list(&data_dir, &project);
                    let (sessions, unreadable) = crate::blocking::blocking(list).await;
                    for problem in unreadable {
                        events.send(Event::Notice(problem)).ok();
                    }
                    Event::Sessions(sessions)
                }
                Command::Paths(asked) => Event::Paths {
                    found: servers.paths(&asked).await,
                    asked,
                },
                Command::Prompt { name, argument } => {
                    match servers.prompt(&name, &argument).await {
                        Ok(text) => {
                            let said = Command::Send(Prompt::text(text));
                            if let Some(commands) = commands.upgrade() {
                                commands.send(said).ok();
                            }
                            return;
                        }
                        Err(why) => Event::Notice(format!("failed to {why}")),
                    }
                }
                _ => return,
            };
            events.send(found).ok();
        });
    }

    /// Waits for some work of a turn, and takes the front end's requests meanwhile.
    async fn attend<T>(&mut self, cancel: &CancellationToken, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                command = self.requests.recv(), if !self.quitting => {
                    self.take(command.unwrap_or(Command::Quit), Some(cancel));
                }
                done = &mut work => return done,
            }
        }
    }

    /// Does what needs a pause between turns.
    async fn between_turns(&mut self, command: Command) -> Result<(), TurnError> {
        match command {
            Command::Rewind { to, machine } => self.rewind(to, machine).await?,
            Command::Compact(keep) => {
                let cancel = CancellationToken::new();
                if !self.compact(&keep, &cancel).await? {
                    self.notice("there is nothing to summarize, or it was interrupted");
                }
            }
            Command::Clear => {
                let (dirs, project) = (&self.config.host.dirs, &self.config.sandbox.project_dir);
                self.hold(Session::create(&dirs.data, project));
            }
            Command::Open(path) => {
                let (session, mended) = blocking_here(|| Session::open(&path))?;
                mended.iter().for_each(|mended| self.notice(mended));
                let model = session.model().map(|name| self.brain.model(name));
                self.hold(session);
                if let Some(model) = model {
                    self.use_model(model?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Goes back to just before what a person said.
    async fn rewind(&mut self, to: EntryId, machine: bool) -> Result<(), TurnError> {
        match (machine, self.saved_after(to)) {
            (false, _) => {}
            (true, Some(name)) => {
                if let Err(why) = self.restore(&name).await {
                    self.notice(&format!("failed to {why}; the conversation stays as it is"));
                    return Ok(());
                }
            }
            (true, None) => self.notice(
                "the machine was not changed since, or what was saved of it then is gone: it stays as it is",
            ),
        }
        self.session.append(Body::Rewind(to))?;
        self.spent.context = 0;
        self.show_session();
        self.emit(Event::Spent(self.spent));
        Ok(())
    }

    fn set_model(&mut self, name: &str) -> Result<(), TurnError> {
        self.use_model(self.brain.model(name)?);
        self.session.append(Body::Model(self.model.to_string()))?;
        Ok(())
    }

    fn use_model(&mut self, model: ModelName) {
        self.facts = self.brain.facts(&model);
        self.model = model;
        self.show_model();
    }

    /// Goes on with another session.
    fn hold(&mut self, session: Session) {
        self.session = session;
        self.spent = Spent::nothing();
        self.cannot_save = false;
        self.show_session();
        self.emit(Event::Spent(self.spent));
    }

    fn export(&self, path: Option<PathBuf>) {
        let path = path.unwrap_or_else(|| format!("{}.md", self.session.id()).into());
        let path = std::path::absolute(&path).unwrap_or(path);
        let written = std::fs::File::create_new(&path).and_then(|mut file| {
            std::io::Write::write_all(&mut file, self.session.markdown().as_bytes())
        });
        self.notice(&match written {
            Ok(()) => format!("wrote {}", path.display()),
            Err(error) => format!("failed to write {}: {error}", path.display()),
        });
    }

    /// Tells the model what a person did in the sandbox.
    fn note(&mut self, text: String) {
        if let Err(error) = self.say(Message::User(User::text(text))) {
            self.failed(&error);
        }
    }

    /// Adds a message to the session.
    fn say(&mut self, message: Message) -> Result<EntryId, TurnError> {
        Ok(self.session.append(Body::Message(message))?)
    }

    fn spend(&mut self, usage: Usage) {
        let spent = &mut self.spent;
        spent.usage += usage;
        let price = self.facts.price;
        spent.dollars = spent
            .dollars
            .zip(price)
            .map(|(sum, price)| sum + price.of(usage));
    }

    fn give_back(&mut self) {
        let (now, later) = (self.steering.drain(..), self.queued.drain(..));
        let waiting: Vec<Prompt> = now.chain(later).collect();
        if !waiting.is_empty() {
            self.emit(Event::Unsent(waiting));
            self.show_waiting();
        }
    }

    fn show_session(&self) {
        let messages = self.session.messages();
        let id = self.session.id().to_owned();
        self.emit(Event::Session { id, messages });
    }

    fn show_model(&self) {
        let (name, window) = (self.model.to_string(), self.facts.window);
        self.emit(Event::Model { name, window });
    }

    fn show_waiting(&self) {
        let waiting = self.steering.iter().chain(&self.queued);
        let texts = waiting.map(|prompt| prompt.text.clone()).collect();
        self.emit(Event::Waiting(texts));
    }

    fn failed(&self, error: &TurnError) {
        self.notice(&format!("failed to {}", describe(error)));
    }

    fn notice(&self, text: &str) {
        self.emit(Event::Notice(text.to_owned()));
    }

    fn emit(&self, event: Event) {
        // A front end that has gone drops `commands`, too, which ends the loop.
        self.events.send(event).ok();
    }
}
