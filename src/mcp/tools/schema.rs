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

use crate::mcp::notes;

/// The schema of a tool's parameters. It does not forbid other arguments: some clients check calls by it themselves, and
/// would refuse a call whose other arguments the server ignores.
pub(super) fn input<T: JsonSchema>() -> JsonObject {
    let mut schema = object::<T>(SchemaSettings::draft2020_12());
    schema
        .entry("properties")
        .or_insert_with(|| Value::Object(JsonObject::new()));
    schema.remove("additionalProperties");
    schema
}

/// The schema of a tool's parameters as clients see it: without the bounds of numbers. The server takes a number below
/// its bound for the default; some clients would refuse the call.
pub(super) fn listed(schema: &JsonObject) -> JsonObject {
    let mut schema = schema.clone();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|map| map.values_mut()) {
        if let Value::Object(property) = property {
            property.remove("minimum");
        }
    }
    schema
}

/// The schema of a tool's structured result: the type's own, and the notes that every result may have.
pub(super) fn output<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = object::<T>(SchemaSettings::draft2020_12().for_serialize());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        let notes = json!({"type": "array", "items": {"type": "string"},
            "description": "Advice, and what was assumed or ignored"});
        properties.insert(notes::FIELD.to_owned(), notes);
    }
    Arc::new(schema)
}

/// Sets the description of a parameter, where it depends on the configuration.
pub(super) fn describe(schema: &mut JsonObject, parameter: &str, description: String) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    let property = properties.and_then(|all| all.get_mut(parameter)?.as_object_mut());
    if let Some(property) = property {
        property.insert("description".to_owned(), description.into());
    }
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

/// Removes from one schema what not every client understands. An optional value that is absent is left out, so `null`
/// is never among the types.
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
