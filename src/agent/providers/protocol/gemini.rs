//! Google's Gemini.

use serde_json::{Value, json};

use super::parts::{Parts, fields};
use crate::agent::message::{Assistant, Message, Stop};
use crate::agent::providers::asked::Asked;
use crate::agent::providers::draft::{Draft, list, stop, text};
use crate::agent::providers::failure::{Failure, Kind};
use crate::agent::providers::turns::object;

/// Stands for the signature of a call that another model made; newer models demand one.
const UNSIGNED: &str = "skip_thought_signature_validator";

const PARTS: Parts = Parts {
    text: |text| json!({"text": text}),
    image: |image| json!({"inlineData": {"mimeType": image.mime, "data": image.data}}),
};

/// The request's body.
pub(super) fn body(asked: &Asked<'_>) -> Value {
    let mut contents: Vec<Value> = Vec::new();
    // The newest answer's parts: its results carry those identifiers that the provider gave.
    let mut newest = Vec::new();
    for turn in &asked.turns {
        let (role, parts) = match turn {
            Message::User(user) => ("user", PARTS.said(user)),
            Message::Assistant(answer) => {
                newest = answered(answer, asked.reasons);
                ("model", newest.clone())
            }
            Message::Results(results) => {
                let (mut parts, images) = PARTS.results(results, |result, text| {
                    let key = if result.is_error { "error" } else { "output" };
                    let mut response = json!({"name": result.name, "response": {key: text}});
                    let is_named = |part: &Value| part["functionCall"]["id"] == json!(result.id);
                    if newest.iter().any(is_named) {
                        response["id"] = json!(result.id);
                    }
                    json!({"functionResponse": response})
                });
                parts.extend(images);
                ("user", parts)
            }
        };
        contents.push(json!({"role": role, "parts": parts}));
    }
    let thinking = json!({"includeThoughts": true, "thinkingLevel": asked.effort});
    let tools = asked.tools(|tool| {
        json!({"name": tool.name, "description": tool.description,
            "parametersJsonSchema": tool.object_schema()})
    });
    fields(json!({
        "contents": contents,
        "systemInstruction": asked.system().map(|system| json!({"parts": [{"text": system}]})),
        "tools": tools.map(|tools| json!([{"functionDeclarations": tools}])),
        "generationConfig": fields(json!({
            "maxOutputTokens": asked.longest,
            "thinkingConfig": asked.is_to_reason().then(|| fields(thinking)),
        })),
    }))
}

fn answered(answer: &Assistant, signed: bool) -> Vec<Value> {
    if let Value::Array(parts) = &answer.blocks {
        return parts.clone();
    }
    let text = (!answer.text.is_empty()).then(|| (PARTS.text)(&answer.text));
    let calls = answer
        .calls
        .iter()
        .map(|call| json!({"functionCall": {"name": call.name, "args": call.arguments}}));
    let mut calls: Vec<Value> = calls.collect();
    if let Some(first) = calls.first_mut().filter(|_| signed) {
        first["thoughtSignature"] = json!(UNSIGNED);
    }
    text.into_iter().chain(calls).collect()
}

/// Reads an event of an answer.
pub(super) fn read(data: &Value, draft: &mut Draft) -> Result<(), Failure> {
    draft.count(
        &data["usageMetadata"],
        [
            &["/promptTokenCount", "/toolUsePromptTokenCount"],
            &["/cachedContentTokenCount"],
            &[],
            &["/candidatesTokenCount", "/thoughtsTokenCount"],
        ],
    );
    let blocked = text(data, "/promptFeedback/blockReason");
    if !blocked.is_empty() {
        let why = format!("the provider blocks it: {blocked}");
        return Err(Failure::new(Kind::Refused, why));
    }
    for part in list(data, "/candidates/0/content/parts") {
        add_part(part, draft)?;
    }
    draft.stop = match text(data, "/candidates/0/finishReason") {
        "" => draft.stop,
        reason @ ("STOP" | "MAX_TOKENS") => stop(reason),
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "MALFORMED_RESPONSE" => {
            let why = "the model makes a call that can't be read";
            return Err(Failure::passing(why));
        }
        "OTHER" | "FINISH_REASON_UNSPECIFIED" => {
            return Err(Failure::passing("its answer ends without a reason"));
        }
        _ => Some(Stop::Refused),
    };
    Ok(())
}

fn add_part(part: &Value, draft: &mut Draft) -> Result<(), Failure> {
    let piece = text(part, "/text");
    let is_signed = |part: &Value| part.get("thoughtSignature").is_some();
    if part["thought"] == true {
        // A summary for people, which is not sent back.
        return draft.add_reasoning(piece);
    }
    draft.goes_back |= is_signed(part);
    if let Some(call) = part.get("functionCall") {
        let index = draft.calls.len() as u64;
        let place = draft.open(index, text(call, "/id"), text(call, "/name"))?;
        match &call["args"] {
            Value::Null => {}
            Value::String(text) => draft.add_arguments(place, text)?,
            other => draft.add_arguments(place, &other.to_string())?,
        }
        // It is sent back with an object.
        let mut part = part.clone();
        let args = &mut part["functionCall"]["args"];
        *args = object(args.take());
        return draft.add_block(part);
    }
    draft.add_text(piece)?;
    match draft.blocks.last_mut() {
        Some(last) if !is_signed(part) && !is_signed(last) && last["text"].is_string() => {
            if let Value::String(text) = &mut last["text"] {
                text.push_str(piece);
            }
            Ok(())
        }
        _ if piece.is_empty() && !is_signed(part) => Ok(()),
        _ => {
            let mut part = part.clone();
            part["text"] = json!(piece);
            draft.add_block(part)
        }
    }
}
