use serde_json::json;

use super::*;
use crate::agent::message::{
    Assistant, Call, CallResult, Content, Image, Message, Stop, Usage, User,
};
use crate::agent::providers::failure::Kind;
use crate::agent::providers::name::ModelName;
use crate::agent::providers::request::{Request, Tool};
use crate::agent::providers::turns::turns;

fn tools() -> Vec<Tool> {
    let tool = |name: &str, schema| Tool {
        name: name.to_owned(),
        description: "does it".to_owned(),
        schema,
    };
    vec![
        tool(
            "exec",
            json!({"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}),
        ),
        tool("reboot", json!({"$schema": "x", "type": "object"})),
    ]
}

fn answer(model: &str, blocks: Value, calls: &[(&str, Value)]) -> Message {
    let call = |(id, arguments): &(&str, Value)| Call {
        id: (*id).to_owned(),
        name: "exec".to_owned(),
        arguments: arguments.clone(),
    };
    Message::Assistant(Assistant {
        model: model.to_owned(),
        text: "I look.".to_owned(),
        reasoning: "hm".to_owned(),
        calls: calls.iter().map(call).collect(),
        blocks,
        usage: Usage::default(),
        stop: Stop::Calls,
    })
}

fn image() -> Image {
    Image {
        mime: "image/png".to_owned(),
        data: "AAAA".to_owned(),
    }
}

/// A conversation with two calls, an image in a result and a failed call.
fn conversation(model: &str, blocks: Value) -> Vec<Message> {
    let result = |id: &str, content, is_error| CallResult {
        id: id.to_owned(),
        name: "exec".to_owned(),
        content,
        is_error,
    };
    vec![
        Message::User(User {
            text: "Look.".to_owned(),
            images: vec![image()],
        }),
        answer(
            model,
            blocks,
            &[("one", json!({"command": "ls"})), ("two", json!("{\"comm"))],
        ),
        Message::Results(vec![
            result(
                "one",
                vec![Content::Text("a b".to_owned()), Content::Image(image())],
                false,
            ),
            result(
                "two",
                vec![Content::Text("no such argument".to_owned())],
                true,
            ),
        ]),
    ]
}

fn name(name: &str) -> &'static ModelName {
    Box::leak(Box::new(name.parse().unwrap()))
}

fn asked<'a>(messages: &'a [Message], tools: &'a [Tool], reasons: bool) -> Asked<'a> {
    let request = Request {
        model: name("p/m"),
        system: "Be brief.",
        tools,
        messages,
        session: "session-1",
    };
    Asked {
        request,
        turns: turns(messages, "p/m", true),
        longest: 8192,
        set_longest: None,
        reasons,
        effort: None,
        summary: true,
        host: "host.example",
    }
}

#[test]
fn messages_say_it_in_their_words() {
    let (messages, tools) = (conversation("p/m", Value::Null), tools());
    let body = Protocol::Messages.body(&asked(&messages, &tools, true));
    let cached = json!({"type": "ephemeral"});
    let picture = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
    assert_eq!(
        body["system"],
        json!([{"type": "text", "text": "Be brief.", "cache_control": cached}])
    );
    assert_eq!(body["max_tokens"], 8192);
    assert_eq!(
        body["tools"][1]["input_schema"],
        json!({"type": "object", "properties": {}})
    );
    assert_eq!(
        (
            &body["tools"][0]["cache_control"],
            &body["tools"][1]["cache_control"]
        ),
        (&Value::Null, &cached)
    );
    assert_eq!(body["thinking"]["type"], "adaptive");
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": [picture, {"type": "text", "text": "Look.", "cache_control": cached}]},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "one", "name": "exec", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "two", "name": "exec", "input": {"not_an_object": "{\"comm"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "one", "content": [{"type": "text", "text": "a b"}, picture]},
                {"type": "tool_result", "tool_use_id": "two", "content": [{"type": "text", "text": "no such argument"}],
                    "is_error": true, "cache_control": cached}]},
        ])
    );
}

#[test]
fn chat_completions_say_it_in_their_words() {
    let (messages, tools) = (conversation("p/m", Value::Null), tools());
    let mut given = asked(&messages, &tools, false);
    let body = Protocol::Chat.body(&given);
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    assert_eq!(
        body["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [picture, {"type": "text", "text": "Look."}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [
                {"type": "function", "id": "one", "function": {"name": "exec", "arguments": "{\"command\":\"ls\"}"}},
                {"type": "function", "id": "two", "function": {"name": "exec", "arguments": "{\"not_an_object\":\"{\\\"comm\"}"}}]},
            {"role": "tool", "tool_call_id": "one", "content": "a b\n[image 1: see below]"},
            {"role": "tool", "tool_call_id": "two", "content": "The call failed:\nno such argument"},
            {"role": "user", "content": [{"type": "text", "text": "Image 1 of the result of `exec`, call one:"}, picture]},
        ])
    );
    assert_eq!(body["tools"][0]["function"]["parameters"], tools[0].schema);
    for unset in ["max_tokens", "reasoning_effort", "prompt_cache_key"] {
        assert_eq!(body[unset], Value::Null, "{unset}");
    }
    given.host = "api.openai.com";
    given.set_longest = Some(8192);
    given.effort = Some("low".to_owned());
    let body = Protocol::Chat.body(&given);
    assert_eq!(
        (&body["prompt_cache_key"], &body["reasoning_effort"]),
        (&json!("session-1"), &json!("low"))
    );
    assert_eq!(
        (&body["max_completion_tokens"], &body["max_tokens"]),
        (&json!(8192), &Value::Null)
    );
    given.host = "openrouter.ai";
    given.request.model = name("p/anthropic/claude-x");
    let body = Protocol::Chat.body(&given);
    assert_eq!(body["reasoning"], json!({"effort": "low"}));
    let marks = body["messages"]
        .to_string()
        .matches("cache_control")
        .count();
    assert_eq!(marks, 3);
}

#[test]
fn responses_say_it_in_their_words() {
    let (messages, tools) = (conversation("p/m", Value::Null), tools());
    let body = Protocol::Responses.body(&asked(&messages, &tools, true));
    let picture =
        json!({"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AAAA"});
    assert_eq!(
        body["input"],
        json!([
            {"type": "message", "role": "user", "content": [picture, {"type": "input_text", "text": "Look."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "one", "name": "exec", "arguments": "{\"command\":\"ls\"}"},
            {"type": "function_call", "call_id": "two", "name": "exec", "arguments": "{\"not_an_object\":\"{\\\"comm\"}"},
            {"type": "function_call_output", "call_id": "one", "output": "a b\n[image 1: see below]"},
            {"type": "function_call_output", "call_id": "two", "output": "The call failed:\nno such argument"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Image 1 of the result of `exec`, call one:"}, picture]},
        ])
    );
    assert_eq!(
        (&body["instructions"], &body["store"]),
        (&json!("Be brief."), &json!(false))
    );
    assert_eq!(
        (&body["prompt_cache_key"], &body["include"][0]),
        (&json!("session-1"), &json!("reasoning.encrypted_content"))
    );
    assert_eq!(
        (&body["tools"][0]["strict"], &body["reasoning"]),
        (&json!(false), &json!({"summary": "auto"}))
    );
    let plain = Protocol::Responses.body(&asked(&messages, &tools, false));
    assert_eq!(
        (&plain["include"], &plain["reasoning"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn gemini_says_it_in_its_words() {
    let (messages, tools) = (conversation("p/m", Value::Null), tools());
    let body = Protocol::Gemini.body(&asked(&messages, &tools, true));
    let picture = json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}});
    assert_eq!(
        body["contents"],
        json!([
            {"role": "user", "parts": [picture, {"text": "Look."}]},
            {"role": "model", "parts": [{"text": "I look."},
                {"functionCall": {"name": "exec", "args": {"command": "ls"}}, "thoughtSignature": "skip_thought_signature_validator"},
                {"functionCall": {"name": "exec", "args": {"not_an_object": "{\"comm"}}}]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "exec", "response": {"output": "a b\n[image 1: see below]"}}},
                {"functionResponse": {"name": "exec", "response": {"error": "no such argument"}}},
                {"text": "Image 1 of the result of `exec`, call one:"}, picture]},
        ])
    );
    assert_eq!(
        body["systemInstruction"],
        json!({"parts": [{"text": "Be brief."}]})
    );
    assert_eq!(body["generationConfig"]["maxOutputTokens"], 8192);
    assert_eq!(
        body["generationConfig"]["thinkingConfig"],
        json!({"includeThoughts": true})
    );
    assert_eq!(
        body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"],
        tools[0].schema
    );
    let old = Protocol::Gemini.body(&asked(&messages, &tools, false));
    assert_eq!(old["generationConfig"]["thinkingConfig"], Value::Null);
    assert!(!old.to_string().contains("skip_thought"));
}

#[test]
fn no_tool_and_no_system_leave_nothing_empty() {
    let messages = [Message::User(User {
        text: "x".to_owned(),
        images: Vec::new(),
    })];
    use Protocol::{Chat, Gemini, Messages, Responses};
    for protocol in [Messages, Responses, Chat, Gemini] {
        let mut given = asked(&messages, &[], false);
        given.request.system = " ";
        let body = protocol.body(&given);
        for absent in ["tools", "system", "instructions", "systemInstruction"] {
            assert_eq!(body[absent], Value::Null, "{protocol:?}: {absent}");
        }
    }
}

#[test]
fn an_effort_is_said_in_every_protocol() {
    let (messages, tools) = (conversation("p/m", Value::Null), tools());
    let mut given = asked(&messages, &tools, false);
    given.effort = Some("high".to_owned());
    let body = Protocol::Messages.body(&given);
    assert_eq!(body["output_config"], json!({"effort": "high"}));
    assert_eq!(body["thinking"]["type"], "adaptive");
    let body = Protocol::Responses.body(&given);
    assert_eq!(
        body["reasoning"],
        json!({"summary": "auto", "effort": "high"})
    );
    let body = Protocol::Gemini.body(&given);
    assert_eq!(
        body["generationConfig"]["thinkingConfig"],
        json!({"includeThoughts": true, "thinkingLevel": "high"})
    );
    let body = Protocol::Chat.body(&given);
    assert_eq!(body["reasoning_effort"], "high");
}

#[test]
fn what_the_model_made_goes_back_unchanged() {
    let tools = tools();
    let body = |protocol: Protocol, blocks: Value| {
        let messages = conversation("p/m", blocks);
        protocol.body(&asked(&messages, &tools, true))
    };
    let blocks = json!([
        {"type": "thinking", "thinking": "hm", "signature": "s1"}, {"type": "text", "text": "I look."},
        {"type": "thinking", "thinking": "again", "signature": "s2"},
        {"type": "tool_use", "id": "one", "name": "exec", "input": {"command": "ls"}}]);
    assert_eq!(
        body(Protocol::Messages, blocks.clone())["messages"][1]["content"],
        blocks
    );
    let items = json!([{"type": "reasoning", "id": "rs", "encrypted_content": "x", "summary": []},
        {"type": "function_call", "call_id": "one", "name": "exec", "arguments": "{}"}]);
    let input = &body(Protocol::Responses, items.clone())["input"];
    assert_eq!((&input[1], &input[2]), (&items[0], &items[1]));
    let parts = json!([{"text": "I look."},
        {"functionCall": {"id": "one", "name": "exec", "args": {}}, "thoughtSignature": "s"}]);
    let contents = &body(Protocol::Gemini, parts.clone())["contents"];
    assert_eq!(contents[1]["parts"], parts);
    assert_eq!(contents[2]["parts"][0]["functionResponse"]["id"], "one");
    assert_eq!(
        contents[2]["parts"][1]["functionResponse"]["id"],
        Value::Null
    );
    let detail = json!({"type": "reasoning.encrypted", "data": "x"});
    let answer = &body(Protocol::Chat, json!(["reasoning_content", detail]))["messages"][2];
    assert_eq!(answer["reasoning_content"], "hm");
    assert_eq!(answer["reasoning_details"], json!([detail]));
}

fn read(protocol: Protocol, events: &[Value]) -> Result<Assistant, Failure> {
    let mut draft = Draft::default();
    for event in events {
        protocol.read(event, &mut draft)?;
    }
    Ok(draft.finish("p/m".to_owned()))
}

fn deltas(deltas: &[Value]) -> Assistant {
    let events = deltas
        .iter()
        .map(|delta| json!({"choices": [{"delta": delta}]}));
    read(Protocol::Chat, &events.collect::<Vec<_>>()).unwrap()
}

fn names(answer: &Assistant) -> Vec<(&str, &str, String)> {
    let calls = answer.calls.iter();
    calls
        .map(|call| {
            (
                call.id.as_str(),
                call.name.as_str(),
                call.arguments.to_string(),
            )
        })
        .collect()
}

#[test]
fn servers_send_calls_in_many_ways() {
    let piece = |piece: Value| json!({"tool_calls": [piece]});
    let both = [
        ("a", "exec", "{\"x\":1}".to_owned()),
        ("b", "read", "{\"y\":2}".to_owned()),
    ];
    // By number, in turns.
    let answer = deltas(&[
        piece(json!({"index": 0, "id": "a", "function": {"name": "exec", "arguments": ""}})),
        piece(json!({"index": 1, "id": "b", "function": {"name": "read"}})),
        piece(json!({"index": 0, "function": {"arguments": "{\"x\""}})),
        piece(json!({"index": 1, "function": {"arguments": "{\"y\":2}"}})),
        piece(json!({"index": 0, "id": "", "function": {"name": "", "arguments": ":1}"}})),
    ]);
    assert_eq!(names(&answer), both);
    // Each whole, and all with the same number.
    let answer = deltas(&[
        piece(
            json!({"index": 0, "id": "a", "function": {"name": "exec", "arguments": "{\"x\":1}"}}),
        ),
        piece(
            json!({"index": 0, "id": "b", "function": {"name": "read", "arguments": "{\"y\":2}"}}),
        ),
    ]);
    assert_eq!(names(&answer), both);
    // Without numbers, and the arguments as an object.
    let answer = deltas(&[json!({"tool_calls": [
        {"id": "a", "function": {"name": "exec", "arguments": {"x": 1}}},
        {"id": "b", "function": {"name": "read", "arguments": {"y": 2}}}]})]);
    assert_eq!(names(&answer), both);
    // With the identifier in every piece.
    let answer = deltas(&[
        piece(json!({"index": 0, "id": "a", "function": {"name": "exec", "arguments": "{\"x\""}})),
        piece(json!({"index": 0, "id": "a", "function": {"arguments": ":1}"}})),
        piece(
            json!({"index": 1, "id": "b", "function": {"name": "read", "arguments": "{\"y\":2}"}}),
        ),
    ]);
    assert_eq!(names(&answer), both);
    // A number that would be a place in a list takes no memory.
    let answer = deltas(&[piece(
        json!({"index": u64::MAX, "id": "a", "function": {"name": "exec", "arguments": "{}"}}),
    )]);
    assert_eq!(answer.calls.len(), 1);
}

#[test]
fn pieces_of_reasoning_are_put_together() {
    let detail = |detail: Value| json!({"reasoning_details": [detail]});
    let answer = deltas(&[
        detail(json!({"type": "reasoning.text", "index": 0, "text": "I ", "signature": null})),
        detail(json!({"type": "reasoning.text", "index": 0, "text": "think", "signature": "s"})),
        detail(json!({"type": "reasoning.encrypted", "index": 1, "data": "x"})),
        json!({"reasoning": "I think", "content": "so"}),
    ]);
    let whole = json!([{"type": "reasoning.text", "index": 0, "text": "I think", "signature": "s"},
        {"type": "reasoning.encrypted", "index": 1, "data": "x"}]);
    assert_eq!(answer.blocks, whole);
    assert_eq!(
        (answer.text.as_str(), answer.reasoning.as_str()),
        ("so", "I think")
    );
}

#[test]
fn a_cut_off_call_keeps_what_came_of_it() {
    let events = [
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "a", "name": "exec", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"comm"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}}),
    ];
    let answer = read(Protocol::Messages, &events).unwrap();
    assert_eq!(
        (answer.stop, &answer.calls[0].arguments),
        (Stop::Length, &json!("{\"comm"))
    );
    assert_eq!(
        answer.blocks[0],
        json!({"type": "thinking", "thinking": "hm", "signature": "s"})
    );
    let messages = [Message::Assistant(answer)];
    let body = Protocol::Messages.body(&asked(&messages, &[], true));
    assert_eq!(
        body["messages"][0]["content"][1]["input"],
        json!({"not_an_object": "{\"comm"})
    );
}

#[test]
fn a_server_without_events_for_its_items_is_understood() {
    let response = json!({"status": "completed", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "a", "name": "exec", "arguments": "{\"x\":1}"}],
        "usage": {"input_tokens": 7, "output_tokens": 3}});
    let answer = read(
        Protocol::Responses,
        &[json!({"type": "response.completed", "response": response})],
    )
    .unwrap();
    assert_eq!((answer.text.as_str(), answer.stop), ("hello", Stop::Calls));
    assert_eq!(names(&answer), [("a", "exec", "{\"x\":1}".to_owned())]);
    assert_eq!((answer.usage.input, answer.usage.output), (7, 3));
}

#[test]
fn gemini_refuses_and_fails_in_its_own_way() {
    let ended = |reason: &str| {
        read(
            Protocol::Gemini,
            &[json!({"candidates": [{"finishReason": reason}]})],
        )
    };
    assert_eq!(ended("SAFETY").unwrap().stop, Stop::Refused);
    assert_eq!(ended("MAX_TOKENS").unwrap().stop, Stop::Length);
    let malformed = ended("MALFORMED_FUNCTION_CALL").unwrap_err();
    assert_eq!(malformed.kind, Kind::Passing(None));
    let blocked = read(
        Protocol::Gemini,
        &[json!({"promptFeedback": {"blockReason": "OTHER"}})],
    );
    assert_eq!(blocked.unwrap_err().kind, Kind::Refused);
    // Calls of the same tool in events of their own.
    let call = json!({"candidates": [{"content": {"parts": [{"functionCall": {"name": "exec", "args": {}}}]}}]});
    let answer = read(Protocol::Gemini, &[call.clone(), call]).unwrap();
    assert_ne!(answer.calls[0].id, answer.calls[1].id);
}

#[test]
fn addresses_are_understood_however_they_are_given() {
    let at = |protocol: Protocol, base: &str| {
        protocol
            .address(&Url::parse(base).unwrap(), "m/x")
            .to_string()
    };
    for base in ["https://h", "https://h/", "https://h/v1", "https://h/v1/"] {
        assert_eq!(at(Protocol::Messages, base), "https://h/v1/messages");
    }
    for base in ["http://h:1", "http://h:1/v1"] {
        assert_eq!(at(Protocol::Chat, base), "http://h:1/v1/chat/completions");
    }
    assert_eq!(
        at(Protocol::Chat, "https://h/api/v1"),
        "https://h/api/v1/chat/completions"
    );
    assert_eq!(
        at(Protocol::Chat, "https://h/openai"),
        "https://h/openai/chat/completions"
    );
    assert_eq!(
        at(Protocol::Responses, "https://h/v1?version=2"),
        "https://h/v1/responses?version=2"
    );
    assert_eq!(
        at(Protocol::Gemini, "https://h"),
        "https://h/v1beta/models/m%2Fx:streamGenerateContent?alt=sse"
    );
    let list =
        |protocol: Protocol, base: &str| protocol.listing(&Url::parse(base).unwrap()).to_string();
    assert_eq!(list(Protocol::Chat, "http://h/v1"), "http://h/v1/models");
    assert_eq!(
        list(Protocol::Messages, "http://h"),
        "http://h/v1/models?limit=1000"
    );
}

#[test]
fn a_list_has_models_that_answer() {
    let list = json!({"models": [{"name": "models/a"}, {"name": 3}, {"name": "x".repeat(300)}]});
    assert_eq!(models(&list), ["a"]);
    assert_eq!(models(&json!({"data": [{"id": "x"}, {}]})), ["x"]);
    assert!(models(&json!([])).is_empty());
}
