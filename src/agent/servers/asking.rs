//! A server's form as a question to a person, and the person's answer as the form's content. Pure.

use rmcp::model::ElicitationSchema;
use serde_json::{Map, Value};

use super::super::event::{Field, FieldKind};

/// The most fields of a form, and the most choices of a field.
const MOST: usize = 100;

/// The most of a title, in characters.
const TITLE: usize = 300;

/// A form of a server.
#[derive(Debug)]
pub(super) struct Form(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    field: Field,
    /// The values of the choices; empty for other fields.
    values: Vec<String>,
    /// Whether several of them may be chosen.
    several: bool,
    default: Value,
}

impl Form {
    /// The form that a schema describes; none if it is longer than a person would fill in.
    pub(super) fn of(schema: &ElicitationSchema) -> Option<Self> {
        let order = schema.property_order.clone();
        let order = order.unwrap_or_else(|| schema.properties.keys().cloned().collect());
        let required = |name: &String| schema.required.iter().flatten().any(|one| one == name);
        let entries = order.iter().filter_map(|name| {
            // The schemas of all kinds have the same members as JSON.
            let property = serde_json::to_value(schema.properties.get(name)?).ok()?;
            Some(Entry::of(name, &property, required(name)))
        });
        let entries: Vec<Entry> = entries.collect();
        let fits = entries.len() <= MOST && entries.iter().all(|entry| entry.values.len() <= MOST);
        fits.then_some(Self(entries))
    }

    /// Its fields, as a person is asked for them.
    pub(super) fn fields(&self) -> Vec<Field> {
        self.0.iter().map(|entry| entry.field.clone()).collect()
    }

    /// The content for the server.
    pub(super) fn content(&self, mut answer: Map<String, Value>) -> Value {
        let mut content = Map::new();
        for entry in &self.0 {
            let given = answer.remove(&entry.field.name);
            let given = given.unwrap_or_else(|| entry.default.clone());
            if !given.is_null() {
                content.insert(entry.field.name.clone(), entry.value(given));
            }
        }
        Value::Object(content)
    }
}

impl Entry {
    fn of(name: &str, schema: &Value, required: bool) -> Self {
        let several = schema["type"] == "array";
        let (values, titles) = choices(if several { &schema["items"] } else { schema });
        let kind = match schema["type"].as_str() {
            Some("number") => FieldKind::Number(false),
            Some("integer") => FieldKind::Number(true),
            Some("boolean") => FieldKind::Flag,
            Some("string") if !values.is_empty() => FieldKind::Choice(titles),
            _ => FieldKind::Text,
        };
        let mut title = schema["title"].as_str().unwrap_or(name).to_owned();
        if let Some(about) = schema["description"].as_str() {
            title.push_str(&format!(": {about}"));
        }
        if several {
            let values = values.join(", ");
            title.push_str(&format!(" (some of {values}, separated by commas)"));
        }
        let default = schema["default"].clone();
        if !default.is_null() {
            title.push_str(&format!(" [{default}]"));
        }
        Self {
            field: Field {
                name: name.to_owned(),
                title: title.chars().take(TITLE).collect(),
                kind,
                required: required && default.is_null(),
            },
            values,
            several,
            default,
        }
    }

    /// What the server is told of a value that the person gave.
    fn value(&self, given: Value) -> Value {
        match (&self.field.kind, given.as_str()) {
            (FieldKind::Choice(titles), Some(text)) => {
                let chosen = titles.iter().position(|title| title == text);
                chosen.map_or(given, |at| self.values[at].as_str().into())
            }
            (FieldKind::Text, Some(text)) if self.several => {
                text.split(',').map(|word| word.trim()).collect()
            }
            _ => given,
        }
    }
}

/// The values of an enumeration, and what a person is shown of each.
fn choices(schema: &Value) -> (Vec<String>, Vec<String>) {
    let texts = |all: &Value, member: &str| -> Vec<String> {
        let all = all.as_array().into_iter().flatten();
        let texts = all.filter_map(|one| one.get(member).unwrap_or(one).as_str());
        texts.map(str::to_owned).collect()
    };
    let titled = schema.get("oneOf").or_else(|| schema.get("anyOf"));
    let (values, titles) = match titled {
        Some(titled) => (texts(titled, "const"), texts(titled, "title")),
        None => (texts(&schema["enum"], ""), texts(&schema["enumNames"], "")),
    };
    // Titles are shown only if they tell the values apart.
    let distinct: std::collections::BTreeSet<&String> = titles.iter().collect();
    match distinct.len() == values.len() && titles.len() == values.len() {
        true => (values, titles),
        false => (values.clone(), values),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form() -> Form {
        let schema = json!({"type": "object", "required": ["name", "size"], "properties": {
            "name": {"type": "string", "title": "Name", "description": "yours"},
            "size": {"type": "integer"},
            "ratio": {"type": "number", "default": 0.5},
            "sure": {"type": "boolean"},
            "color": {"type": "string", "enum": ["red", "blue"]},
            "fruit": {"type": "string", "oneOf": [{"const": "a", "title": "Apple"}, {"const": "b", "title": "Banana"}]},
            "old": {"type": "string", "enum": ["x", "y"], "enumNames": ["Ex", "Why"]},
            "many": {"type": "array", "items": {"type": "string", "enum": ["1", "2", "3"]}},
            "tags": {"type": "array", "items": {"anyOf": [{"const": "p", "title": "P"}, {"const": "q", "title": "Q"}]}},
        }});
        Form::of(&serde_json::from_value(schema).unwrap()).unwrap()
    }

    #[test]
    fn every_kind_of_field_is_asked_for() {
        let fields = form().fields();
        let of = |name: &str| fields.iter().find(|field| field.name == name).unwrap();
        assert_eq!(of("name").title, "Name: yours");
        assert!(of("name").required && !of("sure").required);
        assert_eq!(of("size").kind, FieldKind::Number(true));
        assert_eq!(
            (&of("ratio").kind, of("ratio").title.as_str()),
            (&FieldKind::Number(false), "ratio [0.5]")
        );
        assert_eq!(of("sure").kind, FieldKind::Flag);
        assert_eq!(
            of("color").kind,
            FieldKind::Choice(vec!["red".into(), "blue".into()])
        );
        assert_eq!(
            of("fruit").kind,
            FieldKind::Choice(vec!["Apple".into(), "Banana".into()])
        );
        assert_eq!(
            of("old").kind,
            FieldKind::Choice(vec!["Ex".into(), "Why".into()])
        );
        assert!(of("many").kind == FieldKind::Text && of("many").title.contains("some of 1, 2, 3"));
        assert!(of("tags").title.contains("some of p, q"));
    }

    #[test]
    fn answers_become_what_the_schema_asks_for() {
        let answer = json!({"name": " x ", "size": 5, "sure": true, "color": "red", "fruit": "Banana", "old": "Ex",
            "many": "1, 3", "tags": ["q"], "more": "not asked for"});
        let Value::Object(answer) = answer else {
            unreachable!();
        };
        let expected = json!({"name": " x ", "size": 5, "ratio": 0.5, "sure": true, "color": "red", "fruit": "b", "old": "x",
            "many": ["1", "3"], "tags": ["q"]});
        assert_eq!(form().content(answer), expected);
        assert_eq!(form().content(Map::new()), json!({"ratio": 0.5}));
    }

    #[test]
    fn an_endless_form_is_none() {
        let values: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let schema =
            json!({"type": "object", "properties": {"a": {"type": "string", "enum": values}}});
        assert!(Form::of(&serde_json::from_value(schema).unwrap()).is_none());
    }
}
