//! Asks a person to confirm a call that can't be undone: one that restores or deletes a snapshot, or reboots.
//!
//! Off by default (`confirm` in the configuration). A client of protocol 2025-11-25 or earlier gets the request
//! `elicitation/create` while its call waits; a later client gets the result `input_required` with a sealed state, and
//! repeats the call with the answer. The state is bound to that call and valid for ten minutes and one use, so it can
//! neither be forged nor used for another call. A client that can't ask a person is never waited for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationSchema, InputRequest, InputRequiredResult, ProtocolVersion, RequestStateCodec,
    SealOptions,
};
use rmcp::service::RequestContext;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::Confirm;
use crate::mcp::call::{Call, can_ask};
use crate::mcp::refusal::Refusal;
use crate::timeline::Answer;

/// How long a person may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// The name of the question in a result.
const QUESTION: &str = "confirm";

/// What a call that is confirmed changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The sandbox.
    Sandbox,
    /// The host's directory.
    Host,
}

/// What to do with a call after the check.
pub(crate) enum Decision {
    /// Do it.
    Proceed,
    /// Send this result: the client asks the person, and repeats the call.
    AskFirst(Box<InputRequiredResult>),
}

/// Asks questions, and recognizes the answers to them.
pub(crate) struct Confirmation {
    mode: Confirm,
    apply: Confirm,
    codec: RequestStateCodec,
    used: Mutex<HashMap<u128, Instant>>,
}

impl Confirmation {
    /// `mode` counts for what can't be undone, `apply` for changes of the host's directory.
    pub(crate) fn new(mode: Confirm, apply: Confirm) -> Self {
        Self {
            mode,
            apply,
            codec: RequestStateCodec::new_unchecked(rand::random::<[u8; 32]>().to_vec()),
            used: Mutex::default(),
        }
    }

    /// When such a call is confirmed.
    pub(crate) fn mode(&self, reaches: Reach) -> Confirm {
        match reaches {
            Reach::Sandbox => self.mode,
            Reach::Host => self.apply,
        }
    }

    /// Asks `question` about a call; `answered` gets what the person said, if there was a person. A refused call was not
    /// done.
    pub(crate) async fn ask(
        &self,
        (question, reaches): (&str, Reach),
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
        call: &Call,
        answered: &mut Option<Answer>,
    ) -> Result<Decision, Refusal> {
        if !can_ask(context.client_capabilities()) {
            return match self.mode(reaches) {
                Confirm::Require => Err(Refusal::new(match reaches {
                    Reach::Sandbox => {
                        "a person must confirm such a call (`confirm` in the server's configuration), and this client \
                         can't ask one: nothing was done"
                    }
                    Reach::Host => {
                        "a person must confirm that changes are applied, and this client can't ask one: nothing was \
                         done; the user applies them with `snowglobe apply`, and `confirm_apply` in the user's \
                         configuration changes this"
                    }
                })),
                Confirm::Ask | Confirm::Never => Ok(Decision::Proceed),
            };
        }
        let stateless = context
            .protocol_version()
            .is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        if stateless {
            return self.ask_by_result(question, request, answered);
        }
        let asked = call.ask_person(form(question), ANSWER_TIMEOUT).await;
        let asked = asked.map_err(|error| {
            *answered = Some(Answer::None);
            Refusal::new(format!("{error}: nothing was done"))
        })?;
        decide(&asked.action, answered)
    }

    /// Asks by a result, or takes the answer that the repeated call brings.
    fn ask_by_result(
        &self,
        question: &str,
        request: &CallToolRequestParams,
        answered: &mut Option<Answer>,
    ) -> Result<Decision, Refusal> {
        let bound = digest(request);
        let Some(state) = &request.request_state else {
            return self.ask_first(question, &bound);
        };
        let opened: u128 = self
            .codec
            .open_json_with(state, &bound)
            .map_err(|error| {
                Refusal::new(format!(
                    "the `requestState` is not the one this call was given ({error}): nothing was done; call \
                     again without it"
                ))
            })?;
        let answer = request
            .input_responses
            .as_ref()
            .and_then(|answers| answers.get(QUESTION));
        let Some(answer) = answer else {
            return self.ask_first(question, &bound);
        };
        let answer: ElicitResult = serde_json::from_value(answer.clone()).map_err(|error| {
            Refusal::new(format!(
                "the answer to `{QUESTION}` can't be understood: {error}"
            ))
        })?;
        self.use_once(opened)?;
        decide(&answer.action, answered)
    }

    fn ask_first(&self, question: &str, bound: &[u8]) -> Result<Decision, Refusal> {
        let options = SealOptions::new()
            .associated_data(bound)
            .ttl(ANSWER_TIMEOUT);
        let nonce = rand::random::<u128>();
        let sealed = self.codec.seal_json_with(&nonce, &options);
        let state = sealed.map_err(|error| {
            Refusal::new(format!(
                "failed to have a person confirm the call: {error}; nothing was done"
            ))
        })?;
        let request = InputRequest::Elicitation(ElicitRequest::new(form(question)));
        let questions = BTreeMap::from([(QUESTION.to_owned(), request)]);
        let asked = InputRequiredResult::new(Some(questions), Some(state));
        Ok(Decision::AskFirst(Box::new(asked)))
    }

    /// Accepts the answer to a question once.
    fn use_once(&self, nonce: u128) -> Result<(), Refusal> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, when| when.elapsed() < ANSWER_TIMEOUT + Duration::from_secs(60));
        match used.insert(nonce, Instant::now()) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(
                "that confirmation was used already: nothing was done; call again without `requestState`",
            )),
        }
    }
}

fn form(question: &str) -> ElicitRequestParams {
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question.to_owned(),
        requested_schema: ElicitationSchema::new(BTreeMap::new()),
    }
}

fn decide(action: &ElicitationAction, answered: &mut Option<Answer>) -> Result<Decision, Refusal> {
    let answer = match action {
        ElicitationAction::Accept => Answer::Accepted,
        ElicitationAction::Decline => Answer::Declined,
        _ => Answer::None,
    };
    *answered = Some(answer);
    match answer {
        Answer::Accepted => Ok(Decision::Proceed),
        Answer::Declined => Err(Refusal::new("the person declined: nothing was done")),
        Answer::None => Err(Refusal::new(
            "the person closed the question without an answer: nothing was done",
        )),
    }
}

/// What a confirmation is bound to: the tool and its arguments, in any order.
fn digest(request: &CallToolRequestParams) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(request.name.as_bytes());
    hash.update([0]);
    let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
    hash.update(sorted(&arguments).to_string().as_bytes());
    hash.finalize().to_vec()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map
                .iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(
                ordered
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str) -> CallToolRequestParams {
        let arguments = json!({"action": "restore", "name": name});
        CallToolRequestParams::new("snapshot")
            .with_arguments(arguments.as_object().cloned().unwrap())
    }

    fn answered(
        mut call: CallToolRequestParams,
        state: &str,
        action: &str,
    ) -> CallToolRequestParams {
        call.request_state = Some(state.to_owned());
        call.input_responses = Some(BTreeMap::from([(
            QUESTION.to_owned(),
            json!({"action": action}),
        )]));
        call
    }

    fn state(asker: &Confirmation) -> String {
        match asker.ask_by_result("sure?", &call("good"), &mut None) {
            Ok(Decision::AskFirst(asked)) => asked.request_state.unwrap(),
            _ => panic!("it asks first"),
        }
    }

    fn refused(asker: &Confirmation, request: &CallToolRequestParams) -> String {
        match asker.ask_by_result("sure?", request, &mut None) {
            Err(refusal) => refusal.message().to_owned(),
            Ok(_) => panic!("it is refused"),
        }
    }

    #[test]
    fn an_answer_is_valid_for_its_own_call_and_once() {
        let asker = Confirmation::new(Confirm::Ask, Confirm::Require);
        let state = state(&asker);
        let other = answered(call("bad"), &state, "accept");
        assert!(refused(&asker, &other).contains("not the one this call was given"));
        let yes = answered(call("good"), &state, "accept");
        assert!(matches!(
            asker.ask_by_result("sure?", &yes, &mut None),
            Ok(Decision::Proceed)
        ));
        assert!(refused(&asker, &yes).contains("used already"));
    }

    #[test]
    fn declined_calls_and_forged_states_are_refused() {
        let asker = Confirmation::new(Confirm::Ask, Confirm::Require);
        let state = state(&asker);
        assert!(refused(&asker, &answered(call("good"), &state, "decline")).contains("declined"));
        let mut forged = state.clone().into_bytes();
        let last = forged.len() - 2;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        for state in [forged.as_str(), "", "rs1.x.y"] {
            let said = refused(&asker, &answered(call("good"), state, "accept"));
            assert!(said.contains("nothing was done"), "{said}");
        }
        let another = Confirmation::new(Confirm::Ask, Confirm::Require);
        assert!(
            refused(&another, &answered(call("good"), &state, "accept")).contains("not the one")
        );
    }
}
