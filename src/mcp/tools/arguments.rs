//! Checks a call's arguments against the tool's schema, with messages that a model can act on.
//!
//! Lenient in spelling ([`convert`]), strict in meaning. `null` means that an optional argument is absent, and so does an
//! empty string where no string is wanted; 0 where counting starts at 1 means the default. A name that resembles an
//! argument is refused ([`names`]); any other is left out, and the result says so. Nothing else is guessed.
//!
//! Checking arguments a second time changes nothing.

mod convert;
mod names;

use rmcp::model::JsonObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::convert::{brief, convert, expected_type};
use crate::mcp::notes::Notes;
use crate::mcp::refusal::Refusal;

/// How many names that are no arguments a note lists, and how much it shows of each, in characters.
const MAX_LISTED_NAMES: usize = 10;
const MAX_LISTED_NAME: usize = 40;

/// Checked arguments as the tool's own type.
pub(super) fn parse<T: DeserializeOwned>(tool: &str, checked: JsonObject) -> Result<T, Refusal> {
    serde_json::from_value(Value::Object(checked))
        .map_err(|error| Refusal::new(format!("the arguments of `{tool}`: {error}")))
}

/// The arguments as the tool's schema wants them, and notes about those that were ignored.
pub(super) fn check(
    tool: &str,
    schema: &JsonObject,
    arguments: Option<JsonObject>,
) -> Result<(JsonObject, Notes), Refusal> {
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
        let value = convert(&name, property, value)?;
        if optional && means_default(&name, property, &value, &mut notes) {
            continue;
        }
        check_bounds(&name, property, &value)?;
        checked.insert(name, value);
    }
    if let Some(missing) = required.iter().find(|name| !checked.contains_key(**name)) {
        let unknown = match ignored.as_slice() {
            [] => String::new(),
            names => format!(" (not an argument: {})", names.join(", ")),
        };
        let described = description(properties.get(*missing));
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
            "{what} of `{tool}`, so ignored: {}",
            ignored.join(", ")
        ));
    }
    Ok((checked, notes))
}

/// The names that are no arguments, quoted. A name that stands for an argument is refused.
fn unknown(
    tool: &str,
    properties: &JsonObject,
    arguments: &JsonObject,
) -> Result<Vec<String>, Refusal> {
    let mut ignored = Vec::new();
    let mut names: Vec<&String> = arguments
        .keys()
        .filter(|name| !properties.contains_key(*name))
        .collect();
    // Whether a map keeps an order depends on what else is built.
    names.sort_unstable();
    for name in names {
        let known = properties.keys().map(String::as_str);
        let given = |name: &str| arguments.contains_key(name);
        if let Some(intended) = names::intended(name, known, given) {
            let known: Vec<String> = properties.keys().map(|key| format!("`{key}`")).collect();
            let about = description(properties.get(intended));
            let about = about
                .strip_prefix(": ")
                .map(|about| format!("({about}) "))
                .unwrap_or_default();
            return Err(Refusal::new(format!(
                "unknown argument {}: did you mean `{intended}`? {about}the arguments of `{tool}` are {}",
                quoted(name),
                known.join(", ")
            )));
        }
        ignored.push(quoted(name));
    }
    // The client chooses the names and their number, so both are bounded.
    let more = ignored.len().saturating_sub(MAX_LISTED_NAMES);
    if more > 0 {
        ignored.truncate(MAX_LISTED_NAMES);
        ignored.push(format!("and {more} more"));
    }
    Ok(ignored)
}

fn quoted(name: &str) -> String {
    let short: String = name.chars().take(MAX_LISTED_NAME).collect();
    let rest = if short.len() < name.len() { "…" } else { "" };
    format!("`{short}{rest}`")
}

/// The description of a property, as it follows its name.
fn description(property: Option<&Value>) -> String {
    property
        .and_then(|property| property.get("description"))
        .and_then(Value::as_str)
        .map(|description| format!(": {}", description.replace('\n', " ")))
        .unwrap_or_default()
}

/// Whether an optional argument counts as absent: some models fill in every argument that they know of.
fn is_absent(property: &Value, value: &Value) -> bool {
    let is_text = expected_type(property) == "string" && property.get("enum").is_none();
    match value {
        Value::Null => true,
        Value::String(text) if !is_text => {
            matches!(text.trim(), "" | "null" | "None" | "undefined")
        }
        _ => false,
    }
}

/// Whether a number below its bound stands for the default.
fn means_default(name: &str, property: &Value, value: &Value, notes: &mut Notes) -> bool {
    let least = property.get("minimum").and_then(Value::as_i64);
    let (Some(1), Some(number)) = (least, value.as_i64()) else {
        return false;
    };
    match (name, number) {
        // The first line is meant, counted from 0.
        ("offset", 0) => true,
        ("limit", ..=0) => {
            notes.add(format!("`{name}` was {number}, so the default held"));
            true
        }
        _ => false,
    }
}

/// Refuses a value that is none of the choices, or below the minimum.
fn check_bounds(name: &str, property: &Value, value: &Value) -> Result<(), Refusal> {
    if let Some(choices) = property.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<String> = choices.iter().map(brief).collect();
        return Err(Refusal::new(format!(
            "`{name}` must be one of {}, not {}",
            choices.join(", "),
            brief(value)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> JsonObject {
        let text = json!({"type": "string", "description": "Which file"});
        let schema = json!({"type": "object", "required": ["path"], "properties": {
            "path": text, "offset": {"type": "integer", "minimum": 1}, "limit": {"type": "integer", "minimum": 1},
            "timeout_s": {"type": "number"}, "all": {"type": "boolean"}, "env": {"type": "object"},
            "mode": {"type": "string"}, "glob": {"type": "string"}, "command": {"type": "string"},
            "user": {"type": "string", "enum": ["sandbox", "root"]},
            "encoding": {"type": "string", "enum": ["utf-8"]},
        }});
        schema.as_object().cloned().unwrap()
    }

    fn checked(mut arguments: Value) -> Result<(Value, Vec<String>), String> {
        arguments["path"] = "p".into();
        let (mut map, notes) = check("it", &schema(), arguments.as_object().cloned())
            .map_err(|refusal| refusal.message().to_owned())?;
        map.remove("path");
        Ok((map.into(), notes.all().to_vec()))
    }

    #[track_caller]
    fn takes(given: Value, taken: Value) {
        assert_eq!(checked(given.clone()), Ok((taken, vec![])), "{given}");
    }

    #[test]
    fn values_sent_as_text_are_converted() {
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
    fn empty_values_are_absent() {
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
    fn names_that_resemble_an_argument_are_refused_and_others_ignored() {
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
        let missing = check(
            "it",
            &schema(),
            json!({"toolCallId": 1}).as_object().cloned(),
        )
        .unwrap_err();
        assert_eq!(
            missing.message(),
            "`path` is missing: Which file (not an argument: `toolCallId`)"
        );
    }

    #[test]
    fn impossible_values_are_refused() {
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
        fn checking_twice_changes_nothing(
            name in prop::sample::select(vec![
                "path", "offset", "limit", "timeout_s", "all", "env", "mode", "glob", "command", "user", "other",
            ]),
            value in any_json(),
        ) {
            let mut arguments = json!({"path": "p"});
            arguments[name] = value;
            if let Ok((once, _)) = check("it", &schema(), arguments.as_object().cloned()) {
                let (twice, notes) = check("it", &schema(), Some(once.clone())).unwrap();
                prop_assert_eq!(once, twice);
                prop_assert_eq!(notes, Notes::default());
            }
        }
    }
}
