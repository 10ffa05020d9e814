//! Flat JSON schemas from Rust types.
//!
//! Flat: no `$ref` or `$defs`, no tuples, no `null` among the types, no integer `format`. Clients translate
//! schemas for the model they talk to, and each of these is refused or lost by one of them.

use std::sync::Arc;

use rmcp::model::JsonObject;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::mcp::call::NOTES;

/// The schema of a tool's parameters. It does not forbid others: some clients check calls by it themselves, and would
/// refuse what the server ignores.
pub(crate) fn input<T: JsonSchema>() -> JsonObject {
    let mut schema = object::<T>(SchemaSettings::draft2020_12());
    schema
        .entry("properties")
        .or_insert_with(|| Value::Object(JsonObject::new()));
    schema.remove("additionalProperties");
    schema
}

/// The schema of a tool's parameters as clients see it: without the bounds of numbers, since the server takes what is
/// below them for the default, and some clients would refuse it.
pub(crate) fn shown(mut schema: JsonObject) -> JsonObject {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|map| map.values_mut()) {
        if let Value::Object(property) = property {
            property.remove("minimum");
        }
    }
    schema
}

/// The schema of a tool's structured result: the type's own, and the notes that any result may have.
pub(crate) fn output<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = object::<T>(SchemaSettings::draft2020_12().for_serialize());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        let notes = json!({"type": "array", "items": {"type": "string"},
            "description": "What else is to be said: advice, what was assumed or ignored"});
        properties.insert(NOTES.to_owned(), notes);
    }
    Arc::new(schema)
}

fn object<T: JsonSchema>(settings: SchemaSettings) -> JsonObject {
    let generator = settings
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(RecursiveTransform(flatten))
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    // The Rust type's own name and documentation mean nothing to a client.
    schema.remove("title");
    schema.remove("description");
    std::mem::take(schema.ensure_object())
}

/// Takes from one schema what not every client understands. An absent optional value is simply left out,
/// so `null` is never among the types.
fn flatten(schema: &mut Schema) {
    schema.remove("format");
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                if schema.get(&key).is_none() {
                    schema.insert(key, value);
                }
            }
        }
    }
}
