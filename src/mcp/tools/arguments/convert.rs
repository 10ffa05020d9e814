//! Converts a value to the type that its property's schema wants, if it plainly states a value of that type. Pure.
//!
//! Numbers, booleans, objects and arrays may be sent as text; a time may have its unit (`"30s"`); whole numbers and
//! booleans become strings; a choice may be in any case.

use rmcp::model::JsonObject;
use serde_json::{Value, json};

use super::names;
use crate::mcp::refusal::Refusal;
use crate::text;

/// Arguments for which a number could be meant as octal or as decimal: these must be strings.
const NO_NUMBERS: [&str; 1] = ["mode"];

/// Below this every whole number has a float of its own.
const EXACT_FLOATS: f64 = 9e15;

/// The longest string that an error shows, in characters.
const MAX_SHOWN_STRING: usize = 40;

/// The type that a property's schema wants; every property has one.
pub(super) fn expected_type(property: &Value) -> &str {
    property.get("type").and_then(Value::as_str).unwrap_or("")
}

/// One value as its property's schema wants it.
pub(super) fn convert(name: &str, property: &Value, value: Value) -> Result<Value, Refusal> {
    let wanted = expected_type(property);
    if wanted == "string" && value.is_string() && property.get("enum").is_none() {
        // It may be the content of a large file, so it is not copied.
        return Ok(value);
    }
    let converted = match (wanted, &value) {
        ("string", Value::String(text)) => Some(choice(property, text)),
        ("string", Value::Number(_) | Value::Bool(_)) => as_string(name, property, &value),
        // The flat schema can't say that an array is taken, too.
        ("string", Value::Array(list)) if name == "command" => Some(strings(name, list)?.into()),
        ("string", Value::Array(list)) if name == "glob" => {
            Some(strings(name, list)?.join("\n").into())
        }
        ("boolean", value) => boolean(value),
        ("number" | "integer", value) => number(wanted, value).or_else(|| seconds(name, value)),
        ("object", value) => object(name, value)?,
        ("array", Value::Array(_)) => Some(value.clone()),
        ("array", Value::String(text)) => json_in(text).filter(Value::is_array),
        _ => None,
    };
    converted.ok_or_else(|| Refusal::new(wrong_type(name, wanted, &value)))
}

/// The choice that the text spells, in any case and with any separators; the text itself if it spells none.
fn choice(property: &Value, text: &str) -> Value {
    let words = property.get("enum").and_then(Value::as_array);
    let same = |word: &&Value| {
        let word = word.as_str().unwrap_or_default();
        names::normalized(word) == names::normalized(text)
    };
    let word = words.and_then(|words| words.iter().find(same));
    word.cloned().unwrap_or_else(|| text.into())
}

/// A whole number or boolean as a string. Of any other number the original spelling is unknown.
fn as_string(name: &str, property: &Value, value: &Value) -> Option<Value> {
    let exact = value.is_boolean() || value.is_i64() || value.is_u64();
    let converts = exact && property.get("enum").is_none() && !NO_NUMBERS.contains(&name);
    converts.then(|| value.to_string().into())
}

/// The strings of an array.
fn strings(name: &str, list: &[Value]) -> Result<Vec<String>, Refusal> {
    list.iter()
        .enumerate()
        .map(|(index, value)| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
            other => Err(Refusal::new(wrong_type(
                &format!("{name}[{index}]"),
                "string",
                other,
            ))),
        })
        .collect()
}

/// The value whose JSON the string is.
fn json_in(text: &str) -> Option<Value> {
    serde_json::from_str(text.trim()).ok()
}

fn boolean(value: &Value) -> Option<Value> {
    let truth = match value {
        Value::Bool(truth) => *truth,
        Value::Number(number) => match number.as_i64()? {
            0 => false,
            1 => true,
            _ => return None,
        },
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => true,
            "false" | "no" | "off" | "0" => false,
            _ => return None,
        },
        _ => return None,
    };
    Some(Value::Bool(truth))
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
    // For JSON schema 3.0 is an integer. Without its fraction, a float is printed as that integer.
    let float = number.as_f64()?;
    let exact = float.fract() == 0.0 && float.abs() < EXACT_FLOATS;
    exact.then(|| format!("{float:.0}").parse::<i64>().ok().map(Value::from))?
}

/// The seconds of a time with its unit, where seconds are wanted: `30s`, `2 min`, `500ms`.
fn seconds(name: &str, value: &Value) -> Option<Value> {
    let text = value.as_str().filter(|_| name.ends_with("_s"))?;
    let time = text::parse_duration(text).ok()?;
    Some(json!(time.as_secs_f64()))
}

/// A map of strings, from an object, the JSON of one, or an array of `NAME=VALUE`.
fn object(name: &str, value: &Value) -> Result<Option<Value>, Refusal> {
    let sent;
    let value = match value {
        Value::String(text) => match json_in(text) {
            Some(value) => {
                sent = value;
                &sent
            }
            None => return Ok(None),
        },
        other => other,
    };
    match value {
        Value::Object(map) => Ok(Some(Value::Object(string_values(name, map)?))),
        Value::Array(list) => {
            let list = strings(name, list)?;
            let pairs = list.iter().map(|text| {
                text.split_once('=').ok_or_else(|| {
                    Refusal::new(format!(
                        "`{name}` must be an object of names and values, or an array of strings such as \"NAME=value\": \
                         there is no `=` in {}",
                        brief(&text.as_str().into())
                    ))
                })
            });
            let map = pairs.map(|pair| pair.map(|(key, value)| (key.to_owned(), value.into())));
            Ok(Some(Value::Object(map.collect::<Result<_, _>>()?)))
        }
        _ => Ok(None),
    }
}

fn string_values(name: &str, map: &JsonObject) -> Result<JsonObject, Refusal> {
    map.iter()
        .map(|(key, value)| match value {
            Value::String(_) => Ok((key.clone(), value.clone())),
            Value::Number(_) | Value::Bool(_) => Ok((key.clone(), value.to_string().into())),
            other => Err(Refusal::new(wrong_type(
                &format!("{name}.{key}"),
                "string",
                other,
            ))),
        })
        .collect()
}

fn wrong_type(name: &str, wanted: &str, value: &Value) -> String {
    let article = if matches!(wanted, "integer" | "object" | "array") {
        "an"
    } else {
        "a"
    };
    let advice = match (wanted, value) {
        ("string", Value::Object(_) | Value::Array(_)) => "; send JSON as text, in a string",
        ("string", Value::Number(_)) => "; send it as text, in quotes",
        ("object", _) => "; such as {\"NAME\": \"value\"}",
        _ => "",
    };
    format!(
        "`{name}` must be {article} {wanted}, not {}{advice}",
        brief(value)
    )
}

/// A value as an error shows it.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > MAX_SHOWN_STRING => {
            "a long string".to_owned()
        }
        other => other.to_string(),
    }
}
