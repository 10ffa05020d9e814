//! Checking a call's arguments against the tool's schema, with messages a model can act on.
//!
//! Lenient in spelling, strict in meaning. Taken as what they say: numbers, booleans, objects and lists that were sent
//! as text, a time with its unit (`"30s"`), whole numbers and booleans where a text is wanted, an enumeration's word in
//! any case. `null` means that an optional argument is absent, and so does an empty text where none is wanted; 0 where
//! counting starts at 1 means the default. A name that resembles an argument is refused ([`names`]), any other is left
//! out, and the result says so. Nothing else is guessed.
//!
//! Checking what was checked changes nothing.

pub(crate) mod names;

use rmcp::model::{JsonObject, Tool};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::mcp::call::{Notes, Refusal};

/// Arguments for which a number may be meant as octal or as decimal: only a text is taken.
const NO_NUMBERS: [&str; 1] = ["mode"];

/// The arguments as the tool's own type.
pub(crate) fn parse<T: DeserializeOwned>(
    tool: &Tool,
    arguments: Option<JsonObject>,
) -> Result<T, Refusal> {
    let (checked, _) = check(tool, arguments)?;
    serde_json::from_value(Value::Object(checked))
        .map_err(|error| Refusal::new(format!("the arguments of `{}`: {error}", tool.name)))
}

/// The known name that `unknown` most probably stands for.
pub(crate) fn nearest<'a>(
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

/// The arguments as the tool's schema wants them, and what is to be said about them.
pub(crate) fn check(
    tool: &Tool,
    arguments: Option<JsonObject>,
) -> Result<(JsonObject, Notes), Refusal> {
    let none = JsonObject::new();
    let schema = &tool.input_schema;
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
    let arguments = arguments.unwrap_or_default();
    let ignored = unknown(tool, properties, &arguments)?;
    let mut notes = Notes::default();
    let mut checked = JsonObject::new();
    for (name, value) in arguments {
        let Some(property) = properties.get(&name) else {
            continue;
        };
        let optional = !required.contains(&name.as_str());
        if optional && is_absent(property, &value) {
            continue;
        }
        let value = take(&name, property, value)?;
        if optional && means_default(&name, property, &value, &mut notes) {
            continue;
        }
        in_bounds(&name, property, &value)?;
        checked.insert(name, value);
    }
    if let Some(missing) = required.iter().find(|name| !checked.contains_key(**name)) {
        let unknown = match ignored.as_slice() {
            [] => String::new(),
            names => format!(" (not an argument: {})", names.join(", ")),
        };
        let described = described(properties.get(*missing));
        return Err(Refusal::new(format!(
            "`{missing}` is missing{described}{unknown}"
        )));
    }
    if !ignored.is_empty() {
        let what = match ignored.len() {
            1 => "no argument",
            _ => "no arguments",
        };
        notes.add(format!(
            "{what} of `{}`, so ignored: {}",
            tool.name,
            ignored.join(", ")
        ));
    }
    Ok((checked, notes))
}

/// The names that are no arguments, quoted; refuses those that were meant for one.
fn unknown(
    tool: &Tool,
    properties: &JsonObject,
    arguments: &JsonObject,
) -> Result<Vec<String>, Refusal> {
    let mut ignored = Vec::new();
    for name in arguments
        .keys()
        .filter(|name| !properties.contains_key(*name))
    {
        let known = properties.keys().map(String::as_str);
        let given = |name: &str| arguments.contains_key(name);
        if let Some(meant) = names::meant(name, known, given) {
            let known: Vec<String> = properties.keys().map(|key| format!("`{key}`")).collect();
            let about = described(properties.get(meant));
            let about = about
                .strip_prefix(": ")
                .map(|about| format!("({about}) "))
                .unwrap_or_default();
            return Err(Refusal::new(format!(
                "unknown argument {}: did you mean `{meant}`? {about}the arguments of `{}` are {}",
                quoted(name),
                tool.name,
                known.join(", ")
            )));
        }
        ignored.push(quoted(name));
    }
    // Names are the client's, and so is their number.
    let more = ignored.len().saturating_sub(10);
    if more > 0 {
        ignored.truncate(10);
        ignored.push(format!("and {more} more"));
    }
    Ok(ignored)
}

fn quoted(name: &str) -> String {
    let short: String = name.chars().take(40).collect();
    let rest = if short.len() < name.len() { "…" } else { "" };
    format!("`{short}{rest}`")
}

fn described(property: Option<&Value>) -> String {
    property
        .and_then(|property| property.get("description"))
        .and_then(Value::as_str)
        .map(|description| format!(": {}", description.replace('\n', " ")))
        .unwrap_or_default()
}

fn wanted(property: &Value) -> &str {
    property.get("type").and_then(Value::as_str).unwrap_or("")
}

/// Whether an optional argument is as good as not there: some models fill in every one they know of.
fn is_absent(property: &Value, value: &Value) -> bool {
    let is_text = wanted(property) == "string" && property.get("enum").is_none();
    match value {
        Value::Null => true,
        Value::String(text) if !is_text => {
            matches!(text.trim(), "" | "null" | "None" | "undefined")
        }
        _ => false,
    }
}

/// Whether a number below the least is no number but a way to say nothing in particular.
fn means_default(name: &str, property: &Value, value: &Value, notes: &mut Notes) -> bool {
    let least = property.get("minimum").and_then(Value::as_i64);
    let (Some(1), Some(number)) = (least, value.as_i64()) else {
        return false;
    };
    match (name, number) {
        // The first is the first, however it is counted.
        ("offset", 0) => true,
        ("limit", ..=0) => {
            notes.add(format!("`{name}` was {number}, so the default held"));
            true
        }
        _ => false,
    }
}

/// One value as its property's schema wants it.
fn take(name: &str, property: &Value, value: Value) -> Result<Value, Refusal> {
    let wanted = wanted(property);
    if wanted == "string" && value.is_string() && property.get("enum").is_none() {
        // It may be the whole of a large file.
        return Ok(value);
    }
    let taken = match (wanted, &value) {
        ("string", Value::String(text)) => Some(word(property, text)),
        ("string", Value::Number(_) | Value::Bool(_)) => as_text(name, property, &value),
        // What the schema, which is flat, can't say.
        ("string", Value::Array(list)) if name == "command" => Some(texts(name, list)?.into()),
        ("string", Value::Array(list)) if name == "glob" => {
            Some(texts(name, list)?.join("\n").into())
        }
        ("boolean", value) => boolean(value),
        ("number" | "integer", value) => number(wanted, value).or_else(|| seconds(name, value)),
        ("object", value) => object(name, value)?,
        ("array", Value::Array(_)) => Some(value.clone()),
        ("array", Value::String(text)) => sent_as_text(text).filter(Value::is_array),
        _ => None,
    };
    taken.ok_or_else(|| Refusal::new(wrong_type(name, wanted, &value)))
}

/// The text, or the enumeration's word that it spells.
fn word(property: &Value, text: &str) -> Value {
    let words = property.get("enum").and_then(Value::as_array);
    let same = |word: &&Value| {
        let word = word.as_str().unwrap_or_default();
        names::plain(word) == names::plain(text)
    };
    let word = words.and_then(|words| words.iter().find(same));
    word.cloned().unwrap_or_else(|| text.into())
}

/// A whole number or boolean as text. Of another number the spelling is lost already.
fn as_text(name: &str, property: &Value, value: &Value) -> Option<Value> {
    let exact = value.is_boolean() || value.is_i64() || value.is_u64();
    let taken = exact && property.get("enum").is_none() && !NO_NUMBERS.contains(&name);
    taken.then(|| value.to_string().into())
}

fn texts(name: &str, list: &[Value]) -> Result<Vec<String>, Refusal> {
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

fn sent_as_text(text: &str) -> Option<Value> {
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
    // 3.0 is an integer, as JSON schema has it; the range is where every such number is exact.
    let float = number.as_f64()?;
    let exact = float.fract() == 0.0 && float.abs() < 9e15;
    exact.then(|| Value::from(float as i64))
}

/// The seconds that a time with its unit is, where seconds are wanted: `30s`, `2 min`, `500ms`.
fn seconds(name: &str, value: &Value) -> Option<Value> {
    let text = value.as_str().filter(|_| name.ends_with("_s"))?;
    let time: jiff::SignedDuration = text.trim().to_lowercase().parse().ok()?;
    Some(json!(time.as_secs_f64()))
}

/// A map of texts: an object, the JSON of one, or a list of `NAME=VALUE`.
fn object(name: &str, value: &Value) -> Result<Option<Value>, Refusal> {
    let sent;
    let value = match value {
        Value::String(text) => match sent_as_text(text) {
            Some(value) => {
                sent = value;
                &sent
            }
            None => return Ok(None),
        },
        other => other,
    };
    match value {
        Value::Object(map) => Ok(Some(Value::Object(strings(name, map)?))),
        Value::Array(list) => {
            let texts = texts(name, list)?;
            let pairs = texts.iter().map(|text| {
                text.split_once('=').ok_or_else(|| {
                    Refusal::new(format!(
                        "`{name}` must be an object of names and values, or a list of texts such as \"NAME=value\": \
                         there is no `=` in {}",
                        shown(&text.as_str().into())
                    ))
                })
            });
            let map = pairs.map(|pair| pair.map(|(key, value)| (key.to_owned(), value.into())));
            Ok(Some(Value::Object(map.collect::<Result<_, _>>()?)))
        }
        _ => Ok(None),
    }
}

fn strings(name: &str, map: &JsonObject) -> Result<JsonObject, Refusal> {
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
        ("string", Value::Number(_)) => "; send it as text, in quotes",
        ("object", _) => "; such as {\"NAME\": \"value\"}",
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn tool() -> Tool {
        let text = json!({"type": "string", "description": "Which file"});
        let schema = json!({"type": "object", "required": ["path"], "properties": {
            "path": text, "offset": {"type": "integer", "minimum": 1}, "limit": {"type": "integer", "minimum": 1},
            "timeout_s": {"type": "number"}, "all": {"type": "boolean"}, "env": {"type": "object"},
            "mode": {"type": "string"}, "glob": {"type": "string"}, "command": {"type": "string"},
            "user": {"type": "string", "enum": ["sandbox", "root"]},
            "encoding": {"type": "string", "enum": ["utf-8"]},
        }});
        Tool::new("it", "", Arc::new(schema.as_object().cloned().unwrap()))
    }

    fn checked(mut arguments: Value) -> Result<(Value, Vec<String>), String> {
        arguments["path"] = "p".into();
        let (mut map, notes) = check(&tool(), arguments.as_object().cloned())
            .map_err(|refusal| refusal.message().to_owned())?;
        map.remove("path");
        Ok((map.into(), notes.all().to_vec()))
    }

    #[track_caller]
    fn takes(given: Value, taken: Value) {
        assert_eq!(checked(given.clone()), Ok((taken, vec![])), "{given}");
    }

    #[test]
    fn what_was_sent_as_text_is_what_it_says() {
        takes(
            json!({"limit": "10", "offset": " 3 "}),
            json!({"limit": 10, "offset": 3}),
        );
        takes(json!({"limit": 10.0}), json!({"limit": 10}));
        for truth in [
            json!("true"),
            json!("True"),
            json!(1),
            json!("1"),
            json!("yes"),
        ] {
            takes(json!({"all": truth}), json!({"all": true}));
        }
        takes(json!({"all": "FALSE"}), json!({"all": false}));
        for (time, seconds) in [
            ("30", 30.0),
            ("30s", 30.0),
            ("2 min", 120.0),
            ("500ms", 0.5),
            ("1h", 3600.0),
        ] {
            let (taken, _) = checked(json!({"timeout_s": time})).unwrap();
            assert_eq!(taken["timeout_s"].as_f64(), Some(seconds), "{time}");
        }
        let env = json!({"A": "1", "B": "true"});
        takes(json!({"env": {"A": 1, "B": true}}), json!({"env": env}));
        takes(
            json!({"env": "{\"A\":\"1\",\"B\":true}"}),
            json!({"env": env}),
        );
        takes(json!({"env": ["A=1", "B=true"]}), json!({"env": env}));
        takes(json!({"env": "[\"A=b=c\"]"}), json!({"env": {"A": "b=c"}}));
        takes(
            json!({"user": "ROOT", "encoding": "UTF8"}),
            json!({"user": "root", "encoding": "utf-8"}),
        );
        takes(json!({"command": ["a", 1]}), json!({"command": ["a", "1"]}));
        takes(
            json!({"glob": ["*.rs", "*.toml"]}),
            json!({"glob": "*.rs\n*.toml"}),
        );
        takes(json!({"glob": 404}), json!({"glob": "404"}));
    }

    #[test]
    fn what_says_nothing_is_absent() {
        takes(
            json!({"limit": null, "user": "", "env": "", "all": "null", "timeout_s": "None"}),
            json!({}),
        );
        takes(json!({"offset": 0}), json!({}));
        takes(json!({"glob": ""}), json!({"glob": ""}));
        let held = |limit: &str| vec![format!("`limit` was {limit}, so the default held")];
        assert_eq!(checked(json!({"limit": 0})), Ok((json!({}), held("0"))));
        assert_eq!(checked(json!({"limit": "-1"})), Ok((json!({}), held("-1"))));
    }

    #[test]
    fn what_was_meant_for_an_argument_is_refused_and_the_rest_ignored() {
        let (taken, notes) = checked(json!({"toolCallId": "x", "_meta": {}, "limit": 1})).unwrap();
        assert_eq!(taken, json!({"limit": 1}));
        assert_eq!(
            notes,
            ["no arguments of `it`, so ignored: `_meta`, `toolCallId`"]
        );
        let refused = checked(json!({"file_path": "x"})).unwrap_err();
        assert!(
            refused.starts_with("unknown argument `file_path`: did you mean `path`? (Which file) the arguments of `it` are `all`, "),
            "{refused}"
        );
        let many: JsonObject = (0..30).map(|n| (format!("x-{n}"), Value::Null)).collect();
        let (_, notes) = checked(many.into()).unwrap();
        assert!(notes[0].ends_with("`x-17`, and 20 more"), "{notes:?}");
        let missing = check(&tool(), json!({"toolCallId": 1}).as_object().cloned()).unwrap_err();
        assert_eq!(
            missing.message(),
            "`path` is missing: Which file (not an argument: `toolCallId`)"
        );
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for (arguments, says) in [
            (json!({"offset": -5}), "`offset` must be at least 1, not -5"),
            (json!({"limit": 1.5}), "`limit` must be an integer, not 1.5"),
            (
                json!({"limit": "many"}),
                "`limit` must be an integer, not \"many\"",
            ),
            (json!({"all": 2}), "`all` must be a boolean, not 2"),
            (
                json!({"timeout_s": true}),
                "`timeout_s` must be a number, not true",
            ),
            (
                json!({"mode": 755}),
                "`mode` must be a string, not 755; send it as text, in quotes",
            ),
            (json!({"glob": 1.0}), "`glob` must be a string, not 1.0"),
            (
                json!({"env": "A=1"}),
                "`env` must be an object, not \"A=1\"; such as {\"NAME\": \"value\"}",
            ),
            (json!({"env": ["A"]}), "there is no `=` in \"A\""),
            (
                json!({"env": {"A": []}}),
                "`env.A` must be a string, not an array",
            ),
            (
                json!({"user": "admin"}),
                "`user` must be one of \"sandbox\", \"root\", not \"admin\"",
            ),
        ] {
            let refused = checked(arguments.clone()).unwrap_err();
            assert!(refused.contains(says), "{arguments}: {refused}");
        }
    }

    /// JSON of any shape, the likely ones often.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-3_i64..4).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9 =\"{}:\\[\\].-]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn checking_what_was_checked_changes_nothing(
            name in prop::sample::select(vec![
                "path", "offset", "limit", "timeout_s", "all", "env", "mode", "glob", "command", "user", "other",
            ]),
            value in any_json(),
        ) {
            let mut arguments = json!({"path": "p"});
            arguments[name] = value;
            if let Ok((once, _)) = check(&tool(), arguments.as_object().cloned()) {
                let (twice, notes) = check(&tool(), Some(once.clone())).unwrap();
                prop_assert_eq!(once, twice);
                prop_assert_eq!(notes, Notes::default());
            }
        }
    }
}
