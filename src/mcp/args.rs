//! Checking a call's arguments against the tool's schema, with messages a model can act on.
//!
//! Strict in names and meaning, lenient in spelling: `null` for an optional argument means that it is absent;
//! a number or boolean sent as a string (`"120"`, `"true"`) is taken as what it says, and so is a number or
//! boolean where a map of strings wants a string. Nothing else is guessed.

use rmcp::model::{JsonObject, Tool};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call::Refusal;

/// The arguments as the tool's own type.
pub(super) fn parse<T: DeserializeOwned>(
    tool: &Tool,
    arguments: Option<JsonObject>,
) -> Result<T, Refusal> {
    let checked = check(&tool.input_schema, arguments.unwrap_or_default())?;
    serde_json::from_value(Value::Object(checked))
        .map_err(|error| Refusal::new(format!("the arguments of `{}`: {error}", tool.name)))
}

/// The known name that `unknown` most probably stands for.
pub(super) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    known
        .into_iter()
        .map(|name| {
            let likeness = if unknown.contains(name) || name.contains(unknown.as_str()) {
                0.95
            } else if abbreviates(&unknown, name) {
                0.9
            } else {
                strsim::jaro_winkler(&unknown, name)
            };
            (likeness, name)
        })
        .filter(|(likeness, _)| *likeness >= 0.7)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

/// Whether `short` is `long` with letters left out, the first one not among them, as `cmd` is `command`.
fn abbreviates(short: &str, long: &str) -> bool {
    let mut letters = long.chars();
    short.chars().next() == long.chars().next()
        && short
            .chars()
            .all(|wanted| letters.any(|letter| letter == wanted))
}

fn check(schema: &JsonObject, arguments: JsonObject) -> Result<JsonObject, Refusal> {
    let none = JsonObject::new();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut checked = JsonObject::new();
    for (name, value) in arguments {
        let Some(property) = properties.get(&name) else {
            return Err(unknown_argument(&name, properties));
        };
        if value.is_null() && !required.contains(&name.as_str()) {
            continue;
        }
        checked.insert(name.clone(), take(&name, property, value)?);
    }
    match required.iter().find(|name| !checked.contains_key(**name)) {
        Some(missing) => Err(Refusal::new(format!(
            "`{missing}` is missing{}",
            described(properties.get(*missing))
        ))),
        None => Ok(checked),
    }
}

fn unknown_argument(name: &str, properties: &JsonObject) -> Refusal {
    if properties.is_empty() {
        return Refusal::new(format!(
            "unknown argument `{name}`: this tool takes no arguments"
        ));
    }
    let hint = nearest(name, properties.keys().map(String::as_str))
        .map(|nearest| format!("did you mean `{nearest}`? "))
        .unwrap_or_default();
    let known: Vec<String> = properties.keys().map(|key| format!("`{key}`")).collect();
    Refusal::new(format!(
        "unknown argument `{name}`: {hint}the arguments are {}",
        known.join(", ")
    ))
}

fn described(property: Option<&Value>) -> String {
    property
        .and_then(|property| property.get("description"))
        .and_then(Value::as_str)
        .map(|description| format!(": {description}"))
        .unwrap_or_default()
}

/// One value as its property's schema wants it.
fn take(name: &str, property: &Value, value: Value) -> Result<Value, Refusal> {
    let wanted = property.get("type").and_then(Value::as_str).unwrap_or("");
    let refuse = |value: &Value| Err(Refusal::new(wrong_type(name, wanted, value)));
    let value = match (wanted, value) {
        ("string", value @ Value::String(_))
        | ("boolean", value @ Value::Bool(_))
        | ("number", value @ Value::Number(_))
        | ("array", value @ Value::Array(_)) => value,
        ("boolean", Value::String(text)) if text == "true" || text == "false" => {
            Value::Bool(text == "true")
        }
        ("number" | "integer", value @ (Value::String(_) | Value::Number(_))) => {
            match number(wanted, &value) {
                Some(number) => number,
                None => return refuse(&value),
            }
        }
        ("object", Value::Object(map)) => Value::Object(strings(name, map)?),
        (_, value) => return refuse(&value),
    };
    in_bounds(name, property, &value)?;
    Ok(value)
}

/// The number that `value` is or spells.
fn number(wanted: &str, value: &Value) -> Option<Value> {
    let number = match value {
        Value::String(text) => serde_json::from_str::<serde_json::Number>(text.trim()).ok()?,
        Value::Number(number) => number.clone(),
        _ => return None,
    };
    if wanted == "number" || number.is_u64() || number.is_i64() {
        return Some(Value::Number(number));
    }
    // 3.0 is an integer, as JSON schema has it; the range is where every such number is exact.
    let float = number.as_f64()?;
    let exact = float.fract() == 0.0 && float.abs() < 9e15;
    exact.then(|| Value::from(float as i64))
}

fn strings(name: &str, map: JsonObject) -> Result<JsonObject, Refusal> {
    map.into_iter()
        .map(|(key, value)| match value {
            Value::String(_) => Ok((key, value)),
            Value::Number(_) | Value::Bool(_) => {
                let text = value.to_string();
                Ok((key, Value::String(text)))
            }
            other => Err(Refusal::new(wrong_type(
                &format!("{name}.{key}"),
                "string",
                &other,
            ))),
        })
        .collect()
}

fn in_bounds(name: &str, property: &Value, value: &Value) -> Result<(), Refusal> {
    if let Some(choices) = property.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<String> = choices.iter().map(shown).collect();
        return Err(Refusal::new(format!(
            "`{name}` must be one of {}, not {}",
            choices.join(", "),
            shown(value)
        )));
    }
    if let (Some(least), Some(number)) = (
        property.get("minimum").and_then(Value::as_f64),
        value.as_f64(),
    ) && number < least
    {
        return Err(Refusal::new(format!(
            "`{name}` must be at least {least}, not {value}"
        )));
    }
    Ok(())
}

fn wrong_type(name: &str, wanted: &str, value: &Value) -> String {
    let article = if matches!(wanted, "integer" | "object" | "array") {
        "an"
    } else {
        "a"
    };
    let advice = match (wanted, value) {
        ("string", Value::Object(_) | Value::Array(_)) => "; send JSON as text, in a string",
        _ => "",
    };
    format!(
        "`{name}` must be {article} {wanted}, not {}{advice}",
        shown(value)
    )
}

/// A value as an error shows it: short.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > 40 => "a long string".to_owned(),
        other => other.to_string(),
    }
}
