//! Asks a person whether the sandbox may do what it was just refused, a connection or a change of a protected file: once,
//! for this session, or always.
//!
//! It was refused at once; the question comes with the result of the command that wanted it, so nothing in the guest waits
//! for a person. It is asked where a client can ask while a call runs, for one question at a
//! time. Whoever does not answer is not asked again in this session, and what was declined is not asked about again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::{
    ConstTitle, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema,
    EnumSchema, PrimitiveSchemaDefinition, SingleSelectEnumSchema, TitledSingleSelectEnumSchema,
};
use snowglobe_runner::protection::Effect;
use tokio::sync::Mutex;

use crate::blocking::blocking;
use crate::config::{Raw, Sources, save_effects, save_rules};
use crate::mcp::call::Call;
use crate::network::settings::{Change as NetworkChange, ONCE};
use crate::sandbox::{Sandbox, SandboxError};
use crate::timeline;
use crate::workspace::Effects;

/// How long a person may take to answer: a result waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Who states a rule that a person allows for the session, or always.
const SESSION: &str = "a person who was asked";

/// The only field of the form.
const FIELD: &str = "allow";

/// The answers, and how each is put to the person. The first one is the default.
const ANSWERS: [(&str, &str); 4] = [
    ("no", "No"),
    ("once", "Once: until the next command has ended"),
    ("session", "For this session: until the sandbox is stopped"),
    ("always", "Always: also put it into my configuration"),
];

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Connections.
    Network,
    /// Changes of files.
    Workspace,
}

/// What a person is asked to allow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The rules that would allow it: hosts, or ids of the workspace's rules.
    pub(crate) rules: Vec<String>,
    /// What is allowed then, in words.
    pub(crate) named: String,
    /// The question.
    pub(crate) question: String,
}

/// The questions of one session.
#[derive(Debug, Default)]
pub(crate) struct Permission {
    /// Held while a question is open.
    open: Mutex<()>,
    past: StdMutex<Past>,
}

/// What came of the earlier questions.
#[derive(Debug, Default)]
struct Past {
    /// A question got no answer, so nobody is there.
    unattended: bool,
    declined: HashSet<(Subject, String)>,
    /// Of these, something is allowed until the next command has ended.
    once: HashSet<Subject>,
}

/// What a person says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    No,
    Once,
    Session,
    Always,
    /// Nothing.
    None,
}

impl Permission {
    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something of a kind is allowed until the next command has ended.
    pub(crate) fn has_once(&self, of: Subject) -> bool {
        self.past().once.contains(&of)
    }

    /// Takes back what was allowed until a command had ended.
    pub(crate) async fn take_back(&self, of: Subject, sandbox: &Arc<Sandbox>) {
        self.past().once.remove(&of);
        let taken = match of {
            Subject::Network => sandbox.take_back_once().await,
            Subject::Workspace => sandbox.take_back_effects().await,
        };
        if let Err(error) = taken {
            tracing::warn!("failed to {}", crate::describe(&error));
        }
    }

    /// Asks about refusals, and does what the person says. Gives what the result says of it, if there was a question.
    /// `wish`: what to ask for, given what was declined before.
    pub(crate) async fn ask(
        &self,
        of: Subject,
        wish: impl FnOnce(&dyn Fn(&str) -> bool) -> Option<Wish>,
        sandbox: &Arc<Sandbox>,
        call: &Call,
    ) -> Option<String> {
        if !call.can_ask() {
            return None;
        }
        let _open = self.open.try_lock().ok()?;
        let wish = {
            let past = self.past();
            if past.unattended {
                return None;
            }
            wish(&|rule| past.declined.contains(&(of, rule.to_owned())))?
        };
        let asked = call.ask_person(form(&wish.question), ANSWER_TIMEOUT).await;
        let answer = asked.map_or(Answer::None, |answer| Answer::of(&answer));
        note(&wish.question, answer, sandbox);
        Some(self.obey(of, answer, wish, sandbox).await)
    }

    async fn obey(
        &self,
        of: Subject,
        answer: Answer,
        Wish { rules, named, .. }: Wish,
        sandbox: &Arc<Sandbox>,
    ) -> String {
        let how_long = match answer {
            Answer::None => {
                self.past().unattended = true;
                return "a person was asked about that and has not answered: it stays refused, and this session does \
                        not ask again"
                    .to_owned();
            }
            Answer::No => {
                let declined = rules.into_iter().map(|rule| (of, rule));
                self.past().declined.extend(declined);
                return format!("a person was asked, and does not allow {named}");
            }
            Answer::Once => "until the next command has ended",
            Answer::Session => "until the sandbox is stopped",
            Answer::Always => "from now on",
        };
        let change = Change::to(of, rules);
        let once = answer == Answer::Once;
        if let Err(error) = change.apply(once, sandbox).await {
            return format!(
                "a person allows {named}, but that failed: {}",
                crate::describe(&error)
            );
        }
        if once {
            self.past().once.insert(of);
        }
        let mut told =
            format!("a person was asked, and allows {named} {how_long}: run the command again");
        if answer == Answer::Always
            && let Err(error) = blocking(move || change.save()).await
        {
            told.push_str(&format!(
                "; it holds until the sandbox is stopped only, since the configuration can't be changed: {error:#}"
            ));
        }
        told
    }
}

/// What a person allows.
#[derive(Debug)]
enum Change {
    Network(NetworkChange),
    Workspace(Effects),
}

impl Change {
    fn to(of: Subject, rules: Vec<String>) -> Self {
        match of {
            Subject::Network => Self::Network(NetworkChange {
                allow: rules,
                deny: Vec::new(),
            }),
            Subject::Workspace => {
                let allowed = rules.into_iter().map(|rule| (rule, Effect::Allow));
                Self::Workspace(allowed.collect())
            }
        }
    }

    async fn apply(&self, once: bool, sandbox: &Arc<Sandbox>) -> Result<(), SandboxError> {
        match self {
            Self::Network(change) => {
                let origin = if once { ONCE } else { SESSION };
                sandbox.change_network(change, origin).await.map(drop)
            }
            Self::Workspace(effects) => sandbox.change_protection(effects, once).await.map(drop),
        }
    }

    /// Puts it into the user's file.
    fn save(&self) -> anyhow::Result<()> {
        let file = Sources::of_process(Raw::default())?.user_file;
        let file = file.ok_or_else(|| anyhow::anyhow!("HOME is not set"))?;
        match self {
            Self::Network(change) => save_rules(&file, change)?,
            Self::Workspace(effects) => save_effects(&file, effects)?,
        };
        Ok(())
    }
}

/// Adds a question and its answer to the sandbox's timeline.
fn note(question: &str, answer: Answer, sandbox: &Sandbox) {
    let (said, choice) = match answer {
        Answer::None => (timeline::Answer::None, None),
        Answer::No => (timeline::Answer::Declined, None),
        Answer::Once => (timeline::Answer::Accepted, Some("once")),
        Answer::Session => (timeline::Answer::Accepted, Some("session")),
        Answer::Always => (timeline::Answer::Accepted, Some("always")),
    };
    sandbox.timeline().asked(question, said, choice);
}

impl Answer {
    fn of(answer: &ElicitResult) -> Self {
        let said = answer
            .content
            .as_ref()
            .and_then(|content| content.get(FIELD));
        match (&answer.action, said.and_then(|said| said.as_str())) {
            (ElicitationAction::Accept, Some("once")) => Self::Once,
            (ElicitationAction::Accept, Some("session")) => Self::Session,
            (ElicitationAction::Accept, Some("always")) => Self::Always,
            (ElicitationAction::Accept | ElicitationAction::Decline, _) => Self::No,
            _ => Self::None,
        }
    }
}

fn form(question: &str) -> ElicitRequestParams {
    let answers = ANSWERS.map(|(value, title)| ConstTitle::new(value, title));
    let mut choice = TitledSingleSelectEnumSchema::new(answers.to_vec());
    choice.title = Some("Allow it?".into());
    choice.default = Some(ANSWERS[0].0.to_owned());
    let choice = EnumSchema::Single(SingleSelectEnumSchema::Titled(choice));
    let schema = ElicitationSchema::builder()
        .required_property(FIELD, PrimitiveSchemaDefinition::Enum(choice))
        .build_unchecked();
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question.to_owned(),
        requested_schema: schema,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        let answer = |action: &str, content: serde_json::Value| {
            let answer = json!({"action": action, "content": content});
            Answer::of(&serde_json::from_value(answer).unwrap())
        };
        assert_eq!(answer("accept", json!({"allow": "once"})), Answer::Once);
        assert_eq!(
            answer("accept", json!({"allow": "session"})),
            Answer::Session
        );
        assert_eq!(answer("accept", json!({"allow": "always"})), Answer::Always);
        for content in [
            json!({}),
            json!({"allow": "no"}),
            json!({"allow": "Yes"}),
            json!({"allow": true}),
            json!(null),
        ] {
            assert_eq!(answer("accept", content), Answer::No);
        }
        assert_eq!(answer("decline", json!({"allow": "always"})), Answer::No);
        assert_eq!(answer("cancel", json!({"allow": "always"})), Answer::None);
    }
}
