//! What the loop reports to a front end, and what a front end asks of the loop.
//!
//! The two talk through channels, so a front end never waits for a model, a server or a disk.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::message::{Assistant, Call, CallResult, Message, Usage};
pub(crate) use super::message::{PlanItem, PlanStatus, User as Prompt};
use super::session::EntryId;

/// A front end's ends of the channels. When `commands` is dropped the loop ends, and then `events` does.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Requests to the loop.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// Reports of the loop.
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

/// Where the loop and the servers report.
pub(crate) type Reports = mpsc::UnboundedSender<Event>;

/// A request of a front end.
#[derive(Debug)]
pub(crate) enum Command {
    /// Says something to the model: at once if no turn runs, else at the running turn's next step.
    Send(Prompt),
    /// Says something to the model once the running turn has ended.
    Queue(Prompt),
    /// Takes back what was said and not yet read by the model; [`Event::Unsent`] brings it back.
    Unsend,
    /// Interrupts the running turn; the conversation stays sound.
    Interrupt,
    /// Goes back to just before an entry that a person wrote. With `machine`, the sandbox is restored to what it was then.
    Rewind {
        /// The entry.
        to: EntryId,
        /// Whether the sandbox is restored, too.
        machine: bool,
    },
    /// Sets the model from the next request on, as `PROVIDER/MODEL`.
    Model(String),
    /// Replaces the conversation so far by a summary; the text says what it must keep.
    Compact(String),
    /// Begins a new session.
    Clear,
    /// Lists the project's sessions; [`Event::Sessions`] brings them.
    Sessions,
    /// Goes on with another session.
    Open(std::path::PathBuf),
    /// Runs a line in the guest for the person; the model sees it with the next message.
    Run(String),
    /// Calls a tool of Snowglobe's server for the person: a snapshot, a restore, the jobs.
    Tool {
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: serde_json::Value,
    },
    /// Says a prompt of a server to the model, as [`Command::Send`] does.
    Prompt {
        /// Its name.
        name: String,
        /// Its first argument.
        argument: String,
    },
    /// Paths of the workspace that begin with or contain a text; [`Event::Paths`] brings them.
    Paths(String),
    /// Writes the session as Markdown; [`Event::Notice`] says where.
    Export(Option<std::path::PathBuf>),
    /// Ends the loop, after the running call was ended.
    Quit,
}

/// A report of the loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// The session: at the start, and again after each change of session or branch. A front end shows `messages`, which
    /// were said before, anew.
    Session {
        /// The session's name.
        id: String,
        /// The messages from the first one on.
        messages: Vec<(EntryId, Message)>,
    },
    /// The model, at the start and whenever it changes.
    Model {
        /// As `PROVIDER/MODEL`.
        name: String,
        /// How many tokens a conversation may have.
        window: u64,
    },
    /// What a person said was taken into the conversation.
    Said {
        /// Its entry.
        entry: EntryId,
        /// What was said.
        text: String,
    },
    /// What was said and waits, in order.
    Waiting(Vec<String>),
    /// What was taken back.
    Unsent(Vec<Prompt>),
    /// A turn began.
    TurnBegan,
    /// A piece of the answer's text.
    Text(String),
    /// A piece of what the model thinks.
    Reasoning(String),
    /// The model writes the arguments of a call; so many bytes have come.
    Calling {
        /// The tool.
        name: String,
        /// Bytes of arguments.
        bytes: usize,
    },
    /// The answer so far is void: its stream broke, and the request is made again.
    Void,
    /// An answer is whole.
    Answered(Box<Assistant>),
    /// A call began. `by_person`: a person made it, by `!` or a command.
    CallBegan {
        /// The call.
        call: Call,
        /// Whether a person made it.
        by_person: bool,
    },
    /// The newest line of a running call's output, or what its server does.
    CallProgress {
        /// The call.
        id: String,
        /// The line.
        line: String,
    },
    /// A call ended.
    CallEnded {
        /// Its result.
        result: CallResult,
        /// How long it took.
        took: Duration,
    },
    /// The model's list of what it has to do.
    Plan(Vec<PlanItem>),
    /// The request is made again after a wait.
    Retrying {
        /// Why, for a person.
        why: String,
        /// The wait.
        after: Duration,
    },
    /// The conversation is being summarized.
    Compacting,
    /// The conversation was summarized.
    Compacted {
        /// The summary.
        summary: String,
    },
    /// Tokens and cost.
    Spent(Spent),
    /// What the sandbox is doing.
    Sandbox(SandboxState),
    /// How many jobs run in the guest.
    Jobs(usize),
    /// The project's sessions, the newest first.
    Sessions(Vec<super::session::Summary>),
    /// Paths for a completion.
    Paths {
        /// What was asked.
        asked: String,
        /// Paths relative to the workspace; directories end with `/`.
        found: Vec<String>,
    },
    /// A question that a person must answer before the work goes on.
    Ask(Question),
    /// Something to know.
    Notice(String),
    /// A turn ended.
    TurnEnded(TurnEnd),
}

/// Why a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TurnEnd {
    /// The model is done.
    Done,
    /// A person interrupted it.
    Interrupted,
    /// The model or the provider refused.
    Refused,
    /// A limit was reached: of turns, of cost, of an answer's length; the text says which.
    Limit(String),
    /// It failed; a fragment that reads well after "failed to".
    Failed(String),
}

/// Tokens and cost of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spent {
    /// All tokens so far.
    pub(crate) usage: Usage,
    /// Tokens of the conversation as the model has it now.
    pub(crate) context: u64,
    /// US dollars, if the model's price is known.
    pub(crate) dollars: Option<f64>,
}

impl Spent {
    /// Nothing yet.
    pub(crate) fn nothing() -> Self {
        Self {
            dollars: Some(0.0),
            ..Self::default()
        }
    }
}

/// What the sandbox is doing, as far as a client can see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SandboxState {
    /// The server is being reached or started.
    #[default]
    Connecting,
    /// The server answers; no machine was needed so far.
    Off,
    /// A call waits for its boot.
    Booting,
    /// A call was answered by the machine.
    Running,
    /// The server is gone; the next call connects anew.
    Lost(String),
}

/// A question to a person.
#[derive(Debug)]
pub(crate) struct Question {
    /// The name of the server that asks, or `snowglobe`.
    pub(crate) from: String,
    /// The question.
    pub(crate) text: String,
    /// Fields to fill in; none for a question to confirm.
    pub(crate) fields: Vec<Field>,
    /// Whether an answer may hold for the session or always.
    pub(crate) lasting: bool,
    /// Where the answer goes. Dropped without an answer: the question was closed.
    pub(crate) answer: oneshot::Sender<Reply>,
}

/// A field of a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    /// Its name in the answer.
    pub(crate) name: String,
    /// What a person is shown.
    pub(crate) title: String,
    /// What it holds.
    pub(crate) kind: FieldKind,
    /// Whether it must be filled in.
    pub(crate) required: bool,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FieldKind {
    /// Text.
    Text,
    /// A number, or with `true` a whole one.
    Number(bool),
    /// Yes or no.
    Flag,
    /// One of these values.
    Choice(Vec<String>),
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// Yes, with the fields' values, and for how long.
    Accept(serde_json::Map<String, serde_json::Value>, Lasting),
    /// No.
    Decline,
}

/// How long an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// For this once.
    Once,
    /// Until the session ends.
    Session,
    /// For this project, until it is revoked.
    Always,
}
