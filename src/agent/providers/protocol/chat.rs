//! Chat Completions, as OpenAI began it and many servers speak it.

use serde_json::{Value, json};

use super::parts::{Parts, data_url, fields, mark, plain};
use crate::agent::message::{Assistant, Message};
use crate::agent::providers::asked::Asked;
use crate::agent::providers::draft::{Draft, list, number, stop, text};
use crate::agent::providers::failure::Failure;

const PARTS: Parts = Parts {
    text: |text| json!({"type": "text", "text": text}),
    image: |image| json!({"type": "image_url", "image_url": {"url": data_url(image)}}),
};

/// Among the blocks, it says that the reasoning came in the field of that name, which some providers demand back.
const CONTENT: &str = "reasoning_content";

/// The request's body.
pub(super) fn body(asked: &Asked<'_>) -> Value {
    let system = asked.system();
    let system = system.map(|system| json!({"role": "system", "content": system}));
    let mut messages = Vec::from_iter(system);
    let is_said = |turn: &Message| matches!(turn, Message::User(_));
    let last_said = asked.turns.iter().rposition(is_said);
    for (at, turn) in asked.turns.iter().enumerate() {
        match turn {
            // Text alone is sent as such: not every server knows parts.
            Message::User(user) if user.images.is_empty() => {
                messages.push(json!({"role": "user", "content": user.text}));
            }
            Message::User(user) => {
                messages.push(json!({"role": "user", "content": PARTS.said(user)}));
            }
            Message::Assistant(answer) => {
                messages.push(answered(answer, Some(at) > last_said));
            }
            Message::Results(results) => {
                let (results, images) = PARTS.results(results, |result, text| {
                    json!({"role": "tool", "tool_call_id": result.id, "content": plain(result, text)})
                });
                messages.extend(results);
                if !images.is_empty() {
                    messages.push(json!({"role": "user", "content": images}));
                }
            }
        }
    }
    let is_openai = asked.host == "api.openai.com";
    let is_router = asked.host == "openrouter.ai";
    // The router passes such marks on.
    if is_router && asked.model().starts_with("anthropic/") {
        mark(&mut messages);
    }
    let (effort, longest) = (asked.effort.as_ref(), asked.set_longest);
    fields(json!({
        "model": asked.model(),
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": messages,
        "tools": asked.tools(|tool| {
            json!({"type": "function", "function": {
                "name": tool.name, "description": tool.description, "parameters": tool.object_schema()}})
        }),
        "prompt_cache_key": is_openai.then_some(asked.request.session),
        // What is not set is left to the server, which knows the model.
        "max_completion_tokens": longest.filter(|_| is_openai),
        "max_tokens": longest.filter(|_| !is_openai),
        "reasoning": effort.filter(|_| is_router).map(|effort| json!({"effort": effort})),
        "reasoning_effort": effort.filter(|_| !is_router),
    }))
}

fn answered(answer: &Assistant, of_this_turn: bool) -> Value {
    let calls = answer.calls.iter().map(|call| {
        json!({"type": "function", "id": call.id,
            "function": {"name": call.name, "arguments": call.arguments.to_string()}})
    });
    let calls = (!answer.calls.is_empty()).then(|| calls.collect::<Vec<_>>());
    let blocks = answer.blocks.as_array().map_or(&[][..], Vec::as_slice);
    let details: Vec<&Value> = blocks.iter().filter(|block| **block != CONTENT).collect();
    // Those that have it demand it back while the turn lasts, and some refuse it afterwards.
    let has_content = details.len() < blocks.len() && of_this_turn && calls.is_some();
    let has_text = !answer.text.is_empty() || calls.is_none();
    let mut message = fields(json!({
        "role": "assistant",
        "tool_calls": calls,
        "reasoning_details": (!details.is_empty()).then_some(details),
        "reasoning_content": has_content.then_some(&answer.reasoning),
    }));
    message["content"] = json!(has_text.then_some(&answer.text));
    message
}

/// Reads an event of an answer.
pub(super) fn read(data: &Value, draft: &mut Draft) -> Result<(), Failure> {
    draft.count(
        &data["usage"],
        [
            &["/prompt_tokens"],
            &["/prompt_tokens_details/cached_tokens"],
            &["/prompt_tokens_details/cache_write_tokens"],
            &["/completion_tokens"],
        ],
    );
    let choice = &data["choices"][0];
    let delta = &choice["delta"];
    let reasoning = text(delta, "/reasoning_content");
    if !reasoning.is_empty() && draft.reasoning.is_empty() {
        draft.goes_back = true;
        draft.add_block(json!(CONTENT))?;
    }
    draft.add_reasoning(match reasoning {
        "" => text(delta, "/reasoning"),
        reasoning => reasoning,
    })?;
    draft.add_text(text(delta, "/content"))?;
    let refusal = text(delta, "/refusal");
    draft.refused |= !refusal.is_empty();
    draft.add_text(refusal)?;
    for detail in list(delta, "/reasoning_details") {
        add_detail(detail, draft)?;
    }
    for call in list(delta, "/tool_calls") {
        add_call(call, draft)?;
    }
    match text(choice, "/finish_reason") {
        "error" => return Err(Failure::passing("its answer ends with an error")),
        reason => draft.stop = stop(reason).or(draft.stop),
    }
    Ok(())
}

/// A piece of a call. Servers number the calls, or name them, or send each whole and all with the same number.
fn add_call(piece: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let (id, name) = (text(piece, "/id"), text(piece, "/function/name"));
    let index = number(piece, "/index");
    let known = match (id, index) {
        ("", None) if !name.is_empty() => None,
        _ if !id.is_empty() && !name.is_empty() => {
            draft.calls.iter().rposition(|(_, call)| call.id == id)
        }
        (_, Some(index)) => draft.place(index),
        (_, None) => draft.calls.len().checked_sub(1),
    };
    let place = match known {
        Some(place) => place,
        None => draft.open(index.unwrap_or(draft.calls.len() as u64), id, name)?,
    };
    match &piece["function"]["arguments"] {
        Value::String(arguments) => draft.add_arguments(place, arguments),
        Value::Null => Ok(()),
        whole => draft.add_arguments(place, &whole.to_string()),
    }
}

/// A piece of a block of reasoning; pieces with the same number belong together.
fn add_detail(piece: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let same = |block: &&mut Value| {
        let is_same = |key: &str| block[key] == piece[key];
        is_same("type") && is_same("index") && !piece["index"].is_null()
    };
    draft.goes_back = true;
    let Some(block) = draft.blocks.iter_mut().rev().find(same) else {
        return draft.add_block(piece.clone());
    };
    for (key, value) in piece.as_object().into_iter().flatten() {
        match (key.as_str(), &mut block[key], value) {
            ("text" | "summary" | "data" | "signature", Value::String(old), Value::String(new)) => {
                old.push_str(new);
            }
            (_, old @ Value::Null, new) => *old = new.clone(),
            _ => {}
        }
    }
    draft.grow(piece.to_string().len())
}
