//! Anthropic's Messages.

use serde_json::{Value, json};

use super::parts::{Parts, fields, mark};
use crate::agent::message::{Assistant, CallResult, Message};
use crate::agent::providers::asked::Asked;
use crate::agent::providers::draft::{Draft, number, stop, text};
use crate::agent::providers::failure::Failure;

const PARTS: Parts = Parts {
    text: |text| json!({"type": "text", "text": text}),
    image: |image| {
        let source = json!({"type": "base64", "media_type": image.mime, "data": image.data});
        json!({"type": "image", "source": source})
    },
};

/// The request's body.
pub(super) fn body(asked: &Asked<'_>) -> Value {
    let mut messages: Vec<Value> = asked.turns.iter().map(message).collect();
    mark(&mut messages);
    let cached = json!({"type": "ephemeral"});
    let system = asked
        .system()
        .map(|system| json!([{"type": "text", "text": system, "cache_control": cached}]));
    let mut tools = asked.tools(|tool| {
        json!({"name": tool.name, "description": tool.description, "input_schema": tool.object_schema()})
    });
    if let Some(last) = tools.as_mut().and_then(|tools| tools.last_mut()) {
        last["cache_control"] = cached;
    }
    let thinking = json!({"type": "adaptive", "display": "summarized"});
    let effort = asked.effort.as_ref();
    fields(json!({
        "model": asked.model(),
        "max_tokens": asked.longest,
        "stream": true,
        "messages": messages,
        "system": system,
        "tools": tools,
        "thinking": asked.is_to_reason().then_some(thinking),
        "output_config": effort.map(|effort| json!({"effort": effort})),
    }))
}

fn message(turn: &Message) -> Value {
    let (role, content) = match turn {
        Message::User(user) => ("user", PARTS.said(user)),
        Message::Assistant(answer) => ("assistant", answered(answer)),
        Message::Results(results) => ("user", results.iter().map(result).collect()),
    };
    json!({"role": role, "content": content})
}

fn answered(answer: &Assistant) -> Vec<Value> {
    if let Value::Array(blocks) = &answer.blocks {
        let mut calls = answer.calls.iter();
        let back = blocks.iter().cloned().map(|mut block| {
            if text(&block, "/type") == "tool_use" {
                block["input"] = json!(calls.next().map(|call| &call.arguments));
            }
            block
        });
        let empty = |block: &Value| block["text"].as_str().is_some_and(|t| t.trim().is_empty());
        return back.filter(|block| !empty(block)).collect();
    }
    let text = (!answer.text.is_empty()).then(|| (PARTS.text)(&answer.text));
    let calls = answer.calls.iter().map(|call| {
        json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    });
    text.into_iter().chain(calls).collect()
}

fn result(result: &CallResult) -> Value {
    fields(json!({
        "type": "tool_result",
        "tool_use_id": result.id,
        "content": PARTS.content(&result.content),
        "is_error": result.is_error.then_some(true),
    }))
}

/// Reads an event of an answer.
pub(super) fn read(data: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let index = number(data, "/index").unwrap_or(0);
    match text(data, "/type") {
        "message_start" => count(&data["message"]["usage"], draft),
        "content_block_start" => begin(index, &data["content_block"], draft)?,
        "content_block_delta" => go_on(index, &data["delta"], draft)?,
        "message_delta" => {
            count(&data["usage"], draft);
            draft.stop = stop(text(data, "/delta/stop_reason")).or(draft.stop);
        }
        "message_stop" => draft.ended = true,
        _ => {}
    }
    Ok(())
}

fn count(usage: &Value, draft: &mut Draft) {
    let (read, written) = ("/cache_read_input_tokens", "/cache_creation_input_tokens");
    let input = ["/input_tokens", read, written];
    draft.count(usage, [&input, &[read], &[written], &["/output_tokens"]]);
}

fn begin(index: u64, block: &Value, draft: &mut Draft) -> Result<(), Failure> {
    match text(block, "/type") {
        "tool_use" => {
            let place = draft.open(index, text(block, "/id"), text(block, "/name"))?;
            // Some servers send the whole input at once.
            if block["input"]
                .as_object()
                .is_some_and(|input| !input.is_empty())
            {
                draft.add_arguments(place, &block["input"].to_string())?;
            }
        }
        "text" => draft.add_text(text(block, "/text"))?,
        _ => draft.add_reasoning(text(block, "/thinking"))?,
    }
    draft.goes_back |= text(block, "/type").ends_with("thinking");
    draft.add_block(block.clone())
}

fn go_on(index: u64, delta: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let field = match text(delta, "/type") {
        "text_delta" => "text",
        "thinking_delta" => "thinking",
        "signature_delta" => "signature",
        "input_json_delta" => {
            let place = draft.place(index);
            let piece = text(delta, "/partial_json");
            return place.map_or(Ok(()), |place| draft.add_arguments(place, piece));
        }
        _ => return Ok(()),
    };
    let piece = delta[field].as_str().unwrap_or_default();
    match field {
        "text" => draft.add_text(piece)?,
        "thinking" => draft.add_reasoning(piece)?,
        _ => draft.grow(piece.len())?,
    }
    let at = usize::try_from(index).unwrap_or(usize::MAX);
    if let Some(Value::Object(block)) = draft.blocks.get_mut(at) {
        match block.entry(field).or_insert_with(|| json!("")) {
            Value::String(text) => text.push_str(piece),
            other => *other = json!(piece),
        }
    }
    Ok(())
}
