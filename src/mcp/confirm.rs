//! Asking the person before something that can't be undone: restoring or deleting a snapshot, rebooting.
//!
//! Off unless the configuration says otherwise. A client of 2025-11-25 or earlier is asked by `elicitation/create`
//! while its call waits; a later one gets `input_required` with a sealed state, and calls again with the answer.
//! The state is bound to the very call, is good for ten minutes and for one use: it can neither be forged nor be
//! taken for another call. A client that can't ask is never waited for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitResult,
    ElicitationAction, ElicitationSchema, InputRequest, InputRequiredResult, ProtocolVersion,
    RequestStateCodec, SealOptions,
};
use rmcp::service::RequestContext;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::Confirm;
use crate::mcp::call::{Call, Refusal};

/// How long a person has.
const PATIENCE: Duration = Duration::from_secs(600);

/// The question's name among a result's.
const QUESTION: &str = "confirm";

/// How the asking came out.
pub(crate) enum Asked {
    /// Go on.
    Yes,
    /// The client must ask, and call again.
    First(Box<InputRequiredResult>),
}

/// Who asks, and knows its own questions again.
pub(crate) struct Asker {
    mode: Confirm,
    codec: RequestStateCodec,
    used: Mutex<HashMap<u128, Instant>>,
}

impl Asker {
    pub(crate) fn new(mode: Confirm) -> Self {
        Self {
            mode,
            codec: RequestStateCodec::new_unchecked(rand::random::<[u8; 32]>().to_vec()),
            used: Mutex::default(),
        }
    }

    /// Whether anything is asked at all.
    pub(crate) fn asks(&self) -> bool {
        self.mode != Confirm::Never
    }

    /// Asks `question` about this call; what is refused was not done.
    pub(crate) async fn ask(
        &self,
        question: &str,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
        call: &Call,
    ) -> Result<Asked, Refusal> {
        if !can_ask(context.client_capabilities()) {
            return match self.mode {
                Confirm::Require => Err(Refusal::new(
                    "this server lets a person confirm such a call (`confirm` in its configuration), and this \
                     client can't ask one: nothing was done",
                )),
                Confirm::Ask | Confirm::Never => Ok(Asked::Yes),
            };
        }
        let stateless = context
            .protocol_version()
            .is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        if stateless {
            return self.by_rounds(question, request);
        }
        let asked = call.asking(form(question), PATIENCE).await?;
        decided(&asked.action)
    }

    fn by_rounds(&self, question: &str, request: &CallToolRequestParams) -> Result<Asked, Refusal> {
        let bound = digest(request);
        let Some(state) = &request.request_state else {
            return Ok(self.first(question, &bound));
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
            return Ok(self.first(question, &bound));
        };
        let answer: ElicitResult = serde_json::from_value(answer.clone()).map_err(|error| {
            Refusal::new(format!(
                "the answer to `{QUESTION}` can't be understood: {error}"
            ))
        })?;
        self.spend(opened)?;
        decided(&answer.action)
    }

    fn first(&self, question: &str, bound: &[u8]) -> Asked {
        let options = SealOptions::new().associated_data(bound).ttl(PATIENCE);
        let nonce = rand::random::<u128>();
        let state = self.codec.seal_json_with(&nonce, &options).ok();
        let request = InputRequest::Elicitation(ElicitRequest::new(form(question)));
        let questions = BTreeMap::from([(QUESTION.to_owned(), request)]);
        Asked::First(Box::new(InputRequiredResult::new(Some(questions), state)))
    }

    /// An answer counts once.
    fn spend(&self, nonce: u128) -> Result<(), Refusal> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, when| when.elapsed() < PATIENCE + Duration::from_secs(60));
        match used.insert(nonce, Instant::now()) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(
                "that confirmation was used already: nothing was done; call again without `requestState`",
            )),
        }
    }
}

fn can_ask(capabilities: Option<ClientCapabilities>) -> bool {
    let elicitation = capabilities.and_then(|all| all.elicitation);
    // One that names no mode can show forms.
    elicitation.is_some_and(|can| can.form.is_some() || can.url.is_none())
}

fn form(question: &str) -> ElicitRequestParams {
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question.to_owned(),
        requested_schema: ElicitationSchema::new(BTreeMap::new()),
    }
}

fn decided(action: &ElicitationAction) -> Result<Asked, Refusal> {
    match action {
        ElicitationAction::Accept => Ok(Asked::Yes),
        ElicitationAction::Decline => Err(Refusal::new("the person said no: nothing was done")),
        _ => Err(Refusal::new(
            "the person closed the question without an answer: nothing was done",
        )),
    }
}

/// What a confirmation is bound to: the tool and its arguments, in whatever order they come.
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

    fn state(asker: &Asker) -> String {
        match asker.by_rounds("sure?", &call("good")) {
            Ok(Asked::First(asked)) => asked.request_state.unwrap(),
            _ => panic!("it asks first"),
        }
    }

    fn refused(asker: &Asker, request: &CallToolRequestParams) -> String {
        match asker.by_rounds("sure?", request) {
            Err(refusal) => refusal.message().to_owned(),
            Ok(_) => panic!("it is refused"),
        }
    }

    #[test]
    fn an_answer_counts_for_its_own_call_and_once() {
        let asker = Asker::new(Confirm::Ask);
        let state = state(&asker);
        let other = answered(call("bad"), &state, "accept");
        assert!(refused(&asker, &other).contains("not the one this call was given"));
        let yes = answered(call("good"), &state, "accept");
        assert!(matches!(asker.by_rounds("sure?", &yes), Ok(Asked::Yes)));
        assert!(refused(&asker, &yes).contains("used already"));
    }

    #[test]
    fn no_means_no_and_forged_states_are_refused() {
        let asker = Asker::new(Confirm::Ask);
        let state = state(&asker);
        assert!(refused(&asker, &answered(call("good"), &state, "decline")).contains("said no"));
        let mut forged = state.clone().into_bytes();
        let last = forged.len() - 2;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        for state in [forged.as_str(), "", "rs1.x.y"] {
            let said = refused(&asker, &answered(call("good"), state, "accept"));
            assert!(said.contains("nothing was done"), "{said}");
        }
        let another = Asker::new(Confirm::Ask);
        assert!(
            refused(&another, &answered(call("good"), &state, "accept")).contains("not the one")
        );
    }
}
