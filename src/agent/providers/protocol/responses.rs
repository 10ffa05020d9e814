//! OpenAI's Responses. Nothing is kept at the provider: the conversation is sent whole.

use serde_json::{Value, json};

use super::parts::{Parts, data_url, fields, plain};
use crate::agent::message::{Assistant, Message, Stop};
use crate::agent::providers::asked::Asked;
use crate::agent::providers::draft::{Draft, list, number, stop, text};
use crate::agent::providers::failure::Failure;

const PARTS: Parts = Parts {
    text: |text| json!({"type": "input_text", "text": text}),
    image: |image| json!({"type": "input_image", "detail": "auto", "image_url": data_url(image)}),
};

/// The request's body.
pub(super) fn body(asked: &Asked<'_>) -> Value {
    let said = |content: Vec<Value>| json!({"type": "message", "role": "user", "content": content});
    let mut input = Vec::new();
    for turn in &asked.turns {
        match turn {
            Message::User(user) => input.push(said(PARTS.said(user))),
            Message::Assistant(answer) => add_answer(answer, &mut input),
            Message::Results(results) => {
                let (results, images) = PARTS.results(results, |result, text| {
                    json!({"type": "function_call_output", "call_id": result.id, "output": plain(result, text)})
                });
                input.extend(results);
                if !images.is_empty() {
                    input.push(said(images));
                }
            }
        }
    }
    let reasons = asked.is_to_reason();
    let reasoning = json!({"summary": asked.summary.then_some("auto"), "effort": asked.effort});
    fields(json!({
        "model": asked.model(),
        "stream": true,
        "store": false,
        "prompt_cache_key": asked.request.session,
        "input": input,
        "instructions": asked.system(),
        "tools": asked.tools(|tool| {
            json!({"type": "function", "name": tool.name, "description": tool.description,
                "parameters": tool.object_schema(), "strict": false})
        }),
        "max_output_tokens": asked.set_longest,
        "reasoning": reasons.then(|| fields(reasoning)),
        "include": reasons.then_some(["reasoning.encrypted_content"]),
    }))
}

fn add_answer(answer: &Assistant, input: &mut Vec<Value>) {
    if let Value::Array(items) = &answer.blocks {
        input.extend(items.iter().cloned());
        return;
    }
    if !answer.text.is_empty() {
        let content = json!([{"type": "output_text", "text": answer.text}]);
        input.push(json!({"type": "message", "role": "assistant", "content": content}));
    }
    input.extend(answer.calls.iter().map(|call| {
        json!({"type": "function_call", "call_id": call.id, "name": call.name,
            "arguments": call.arguments.to_string()})
    }));
}

/// Reads an event of an answer.
pub(super) fn read(data: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let index = number(data, "/output_index").unwrap_or(0);
    let delta = text(data, "/delta");
    match text(data, "/type") {
        "response.output_text.delta" => draft.add_text(delta),
        "response.refusal.delta" => {
            draft.refused = true;
            draft.add_text(delta)
        }
        "response.reasoning_summary_part.added" if !draft.reasoning.is_empty() => {
            draft.add_reasoning("\n\n")
        }
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
            draft.add_reasoning(delta)
        }
        "response.output_item.added" if text(data, "/item/type") == "function_call" => {
            let (id, name) = (text(data, "/item/call_id"), text(data, "/item/name"));
            draft.open(index, id, name).map(|_| ())
        }
        "response.function_call_arguments.delta" => {
            let place = draft.place(index);
            place.map_or(Ok(()), |place| draft.add_arguments(place, delta))
        }
        "response.output_item.done" => add_item(index, &data["item"], draft),
        "response.completed" | "response.incomplete" => end(&data["response"], draft),
        _ => Ok(()),
    }
}

/// A whole item.
fn add_item(index: u64, item: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let mut item = item.clone();
    match text(&item, "/type") {
        "function_call" => {
            let place = match draft.place(index) {
                Some(place) => place,
                None => draft.open(index, text(&item, "/call_id"), text(&item, "/name"))?,
            };
            // Some servers send them at once.
            if draft.calls[place].1.arguments == "" {
                draft.add_arguments(place, text(&item, "/arguments"))?;
            }
        }
        // Without what it stands for, it is refused.
        "reasoning" if text(&item, "/encrypted_content").is_empty() => return Ok(()),
        "reasoning" => {
            if let Some(item) = item.as_object_mut() {
                item.remove("status");
            }
        }
        "message" => {}
        _ => return Ok(()),
    }
    let has = |key: &str| item.get(key).is_some_and(|value| !value.is_null());
    draft.goes_back |= has("encrypted_content") || has("phase");
    draft.add_block(item)
}

fn end(response: &Value, draft: &mut Draft) -> Result<(), Failure> {
    // Some servers send no event for an item.
    if draft.blocks.is_empty() && draft.text.is_empty() && draft.calls.is_empty() {
        for (index, item) in (0..).zip(list(response, "/output")) {
            for part in list(item, "/content") {
                draft.add_text(text(part, "/text"))?;
            }
            add_item(index, item, draft)?;
        }
    }
    draft.count(
        &response["usage"],
        [
            &["/input_tokens"],
            &["/input_tokens_details/cached_tokens"],
            &["/input_tokens_details/cache_write_tokens"],
            &["/output_tokens"],
        ],
    );
    let is_cut = text(response, "/status") == "incomplete";
    let usual = if is_cut { Stop::Length } else { Stop::Done };
    draft.stop = stop(text(response, "/incomplete_details/reason")).or(Some(usual));
    draft.ended = true;
    Ok(())
}
