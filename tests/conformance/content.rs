//! The exact content that the suite's scenarios expect.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rmcp::model::{InputRequest, InputRequests};
use serde_json::{Value, json};

/// A PNG of one pixel.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

/// A WAV without samples.
fn silence() -> String {
    let mut wav = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    wav.extend(8000u32.to_le_bytes());
    wav.extend(8000u32.to_le_bytes());
    wav.extend(b"\x01\0\x08\0data\0\0\0\0");
    STANDARD.encode(wav)
}

fn resource_part(uri: &str, kind: &str, text: &str) -> Value {
    json!({"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": text}})
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn pixel() -> Value {
    json!({"type": "image", "data": PIXEL, "mimeType": "image/png"})
}

/// The result of a tool with a fixed answer.
pub(crate) fn result(tool: &str) -> Option<Value> {
    let content = match tool {
        "test_simple_text" => json!([text("This is a simple text response for testing.")]),
        "test_image_content" => json!([pixel()]),
        "test_audio_content" => {
            json!([{"type": "audio", "data": silence(), "mimeType": "audio/wav"}])
        }
        "test_embedded_resource" => json!([resource_part(
            "test://embedded-resource",
            "text/plain",
            "This is an embedded resource content."
        )]),
        "test_multiple_content_types" => json!([
            text("Multiple content types test:"),
            pixel(),
            resource_part(
                "test://mixed-content-resource",
                "application/json",
                r#"{"test":"data","value":123}"#
            )
        ]),
        "test_error_handling" => {
            let content = json!([text("This tool intentionally returns an error for testing")]);
            return Some(json!({"isError": true, "content": content}));
        }
        _ => return None,
    };
    Some(json!({"content": content}))
}

/// Every tool, as `tools/list` shows it.
pub(crate) fn tools() -> Vec<Value> {
    let plain = [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_tool_with_logging",
        "test_logging_tool",
        "test_error_handling",
        "test_tool_with_progress",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_missing_capability",
        "test_streaming_elicitation",
        "test_trigger_tool_change",
        "test_trigger_prompt_change",
        "test_input_required_result_elicitation",
        "test_input_required_result_sampling",
        "test_input_required_result_list_roots",
        "test_input_required_result_request_state",
        "test_input_required_result_multiple_inputs",
        "test_input_required_result_multi_round",
        "test_input_required_result_tampered_state",
        "test_input_required_result_capabilities",
    ];
    let with = |name: &str, schema: Value| json!({"name": name, "description": "For the suite", "inputSchema": schema});
    let string = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]});
    let mut tools: Vec<Value> = plain
        .iter()
        .map(|name| with(name, json!({"type": "object", "properties": {}})))
        .collect();
    tools.push(with("test_sampling", string("prompt")));
    tools.push(with("test_elicitation", string("message")));
    tools.push(with("json_schema_2020_12_tool", newest_schema()));
    tools.push(with(
        "test_header",
        json!({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}, "required": ["region"]}),
    ));
    tools
}

/// A schema that uses the new keywords of JSON Schema 2020-12.
fn newest_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    })
}

pub(crate) fn person() -> Value {
    let about = |text: &str| json!({"type": "string", "description": text});
    json!({"type": "object", "required": ["username", "email"], "properties": {
        "username": about("User's response"), "email": about("User's email address")}})
}

pub(crate) fn defaults() -> Value {
    json!({"type": "object", "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": true}}})
}

pub(crate) fn enums() -> Value {
    let titled = |kind: &str| -> Vec<Value> {
        let each = [
            ("value1", "First"),
            ("value2", "Second"),
            ("value3", "Third"),
        ];
        each.iter()
            .map(|(value, title)| json!({"const": value, "title": format!("{title} {kind}")}))
            .collect()
    };
    json!({"type": "object", "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": titled("Option")},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}}}})
}

/// The questions that a tool or prompt asks the client, by key.
pub(crate) fn questions(name: &str, state: Option<&str>) -> InputRequests {
    let question = |key: &str, method: &str, params: Value| -> (String, InputRequest) {
        let value = json!({"method": method, "params": params});
        let question = serde_json::from_value(value).expect("it has the protocol's shape");
        (key.to_owned(), question)
    };
    let form = |key: &str, message: &str, field: &str, kind: &str| {
        let schema =
            json!({"type": "object", "properties": {field: {"type": kind}}, "required": [field]});
        question(
            key,
            "elicitation/create",
            json!({"mode": "form", "message": message, "requestedSchema": schema}),
        )
    };
    let sampling = |key: &str, words: &str, tokens: u32| {
        let messages = json!([{"role": "user", "content": text(words)}]);
        question(
            key,
            "sampling/createMessage",
            json!({"messages": messages, "maxTokens": tokens}),
        )
    };
    let roots = || question("client_roots", "roots/list", json!({}));
    let name_of = || form("user_name", "What is your name?", "name", "string");
    let all = match (name, state) {
        ("sampling", _) => vec![sampling(
            "capital_question",
            "What is the capital of France?",
            100,
        )],
        ("list_roots", _) => vec![roots()],
        ("request_state" | "tampered_state", _) => {
            vec![form("confirm", "Please confirm", "ok", "boolean")]
        }
        ("multiple_inputs", _) => {
            let greeting = sampling("greeting", "Generate a greeting", 50);
            vec![name_of(), greeting, roots()]
        }
        ("capabilities", _) => vec![name_of(), sampling("greeting", "Generate a greeting", 50)],
        ("multi_round", Some("2")) => {
            let message = "Step 2: What is your favorite color?";
            vec![form("step2", message, "color", "string")]
        }
        ("multi_round", _) => vec![form(
            "step1",
            "Step 1: What is your name?",
            "name",
            "string",
        )],
        ("prompt", _) => vec![form(
            "user_context",
            "What context should the prompt use?",
            "context",
            "string",
        )],
        _ => vec![name_of()],
    };
    all.into_iter().collect()
}

pub(crate) fn resources() -> Value {
    let one = |name: &str, kind: &str| json!({"uri": format!("test://{name}"), "name": name, "description": "For the suite", "mimeType": kind});
    json!([
        one("static-text", "text/plain"),
        one("static-binary", "image/png"),
        one("watched-resource", "text/plain")
    ])
}

pub(crate) fn templates() -> Value {
    json!([{"uriTemplate": "test://template/{id}/data", "name": "template", "description": "For the suite", "mimeType": "application/json"}])
}

/// The resource at the address, if there is one.
pub(crate) fn resource(uri: &str) -> Option<Value> {
    let of_text =
        |kind: &str, text: &str| Some(json!({"uri": uri, "mimeType": kind, "text": text}));
    match uri {
        "test://static-text" => of_text(
            "text/plain",
            "This is the content of the static text resource.",
        ),
        "test://watched-resource" => of_text("text/plain", "watched"),
        "test://static-binary" => Some(json!({"uri": uri, "mimeType": "image/png", "blob": PIXEL})),
        _ => {
            let id = uri
                .strip_prefix("test://template/")?
                .strip_suffix("/data")?;
            let data =
                json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            of_text("application/json", &data.to_string())
        }
    }
}

pub(crate) fn prompts() -> Value {
    let one = |name: &str, arguments: &[&str]| {
        let arguments: Vec<Value> = arguments
            .iter()
            .map(|name| json!({"name": name, "description": "For the suite", "required": true}))
            .collect();
        json!({"name": name, "description": "For the suite", "arguments": arguments})
    };
    json!([
        one("test_simple_prompt", &[]),
        one("test_prompt_with_arguments", &["arg1", "arg2"]),
        one("test_prompt_with_embedded_resource", &["resourceUri"]),
        one("test_prompt_with_image", &[]),
        one("test_input_required_result_prompt", &[])
    ])
}

/// The messages of a prompt.
pub(crate) fn messages(prompt: &str, arguments: &Value) -> Option<Value> {
    let argument = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
    let content = match prompt {
        "test_simple_prompt" => vec![text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            let (first, second) = (argument("arg1"), argument("arg2"));
            vec![text(&format!(
                "Prompt with arguments: arg1='{first}', arg2='{second}'"
            ))]
        }
        "test_prompt_with_embedded_resource" => vec![
            resource_part(
                &argument("resourceUri"),
                "text/plain",
                "Embedded resource content for testing.",
            ),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image" => vec![pixel(), text("Please analyze the image above.")],
        "test_input_required_result_prompt" => vec![text("This prompt knows its context.")],
        _ => return None,
    };
    let messages: Vec<Value> = content
        .into_iter()
        .map(|content| json!({"role": "user", "content": content}))
        .collect();
    Some(messages.into())
}
