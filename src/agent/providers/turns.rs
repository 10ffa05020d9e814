//! A conversation as every provider accepts it.
//!
//! The session sees to it that each call has one result, right after its answer. Here, arguments become objects; no text is
//! empty; a model that sees no images gets a word instead; calls that another model made get identifiers that any provider
//! takes. So the protocols only translate.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::agent::message::{Assistant, CallResult, Content, Image, Message, User};

/// The conversation for a model; `sees`: whether it sees images.
pub(super) fn turns(messages: &[Message], model: &str, sees: bool) -> Vec<Message> {
    let mut turns = Vec::new();
    // Whether the newest answer is of that model.
    let mut own = true;
    for message in messages {
        let mut turn = message.clone();
        match &mut turn {
            Message::User(user) => say(user, sees),
            Message::Results(results) => {
                for result in results {
                    bring(result, own, sees);
                }
            }
            Message::Assistant(answer) => {
                own = answer.model == model;
                answer_as(answer, own);
                if answer.text.is_empty() && answer.calls.is_empty() && answer.blocks.is_null() {
                    continue;
                }
            }
        }
        turns.push(turn);
    }
    turns
}

fn say(user: &mut User, sees: bool) {
    if !sees {
        let images = std::mem::take(&mut user.images);
        let text = std::mem::take(&mut user.text);
        let texts = images.iter().map(unseen).chain([text]);
        user.text = texts.collect::<Vec<_>>().join("\n");
    }
    if user.text.trim().is_empty() {
        user.text.clear();
        if user.images.is_empty() {
            user.text.push_str("(nothing)");
        }
    }
}

fn answer_as(answer: &mut Assistant, own: bool) {
    if !own {
        answer.blocks = Value::Null;
    }
    if answer.text.trim().is_empty() {
        answer.text.clear();
    }
    for call in &mut answer.calls {
        call.id = identifier(&call.id, own);
        call.name = tool_name(&call.name);
        call.arguments = object(call.arguments.take());
    }
}

fn bring(result: &mut CallResult, own: bool, sees: bool) {
    result.id = identifier(&result.id, own);
    result.name = tool_name(&result.name);
    let empty = |part: &Content| matches!(part, Content::Text(text) if text.trim().is_empty());
    result.content.retain(|part| !empty(part));
    for part in &mut result.content {
        if let (Content::Image(image), false) = (&part, sees) {
            *part = Content::Text(unseen(image));
        }
    }
    if result.content.is_empty() {
        let nothing = "(no output)".to_owned();
        result.content.push(Content::Text(nothing));
    }
}

fn unseen(image: &Image) -> String {
    format!("[an image ({}), which this model does not see]", image.mime)
}

/// Arguments as an object. A text that is none is shown to the model as what it is.
pub(super) fn object(arguments: Value) -> Value {
    match arguments {
        Value::Object(_) => arguments,
        Value::Null => json!({}),
        other => json!({"not_an_object": other}),
    }
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// An identifier that the provider takes: its own, or one that every provider takes.
fn identifier(id: &str, own: bool) -> String {
    match own || (id.len() <= 64 && !id.is_empty() && id.chars().all(plain)) {
        true => id.to_owned(),
        false => format!("call-{}", &hex::encode(Sha256::digest(id))[..24]),
    }
}

/// A tool's name that every provider takes; a model may have invented another.
fn tool_name(name: &str) -> String {
    let mut name = name.replace(|c| !plain(c), "_");
    name.truncate(64);
    match name.is_empty() {
        true => "unknown".to_owned(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::message::{Call, Stop, Usage};

    fn user(text: &str) -> Message {
        Message::User(User {
            text: text.to_owned(),
            images: Vec::new(),
        })
    }

    fn call(id: &str) -> Call {
        Call {
            id: id.to_owned(),
            name: "exec".to_owned(),
            arguments: json!({}),
        }
    }

    fn answer(model: &str, text: &str, ids: &[&str]) -> Message {
        Message::Assistant(Assistant {
            model: model.to_owned(),
            text: text.to_owned(),
            reasoning: String::new(),
            calls: ids.iter().map(|id| call(id)).collect(),
            blocks: json!([1]),
            usage: Usage::default(),
            stop: Stop::Calls,
        })
    }

    fn result(id: &str, content: Vec<Content>) -> CallResult {
        CallResult {
            id: id.to_owned(),
            name: "exec".to_owned(),
            content,
            is_error: false,
        }
    }

    #[test]
    fn no_text_is_empty() {
        let messages = [
            user(" "),
            answer("a/b", "\n", &["one"]),
            Message::Results(vec![result("one", vec![Content::Text(" ".into())])]),
            answer("a/c", " ", &[]),
        ];
        let turns = turns(&messages, "a/b", true);
        assert_eq!((turns.len(), &turns[0]), (3, &user("(nothing)")));
        let nothing = Content::Text("(no output)".into());
        assert_eq!(turns[1], answer("a/b", "", &["one"]));
        assert_eq!(
            turns[2],
            Message::Results(vec![result("one", vec![nothing])])
        );
    }

    #[test]
    fn another_model_gets_no_blocks_and_plain_identifiers() {
        let messages = [
            user("x"),
            answer("a/b", "t", &["call#exec#0"]),
            Message::Results(vec![result("call#exec#0", vec![])]),
        ];
        let (own, other) = (turns(&messages, "a/b", true), turns(&messages, "a/c", true));
        let Message::Assistant(own) = &own[1] else {
            panic!()
        };
        assert_eq!(
            (&own.blocks, own.calls[0].id.as_str()),
            (&json!([1]), "call#exec#0")
        );
        let (Message::Assistant(answered), Message::Results(results)) = (&other[1], &other[2])
        else {
            panic!()
        };
        assert_eq!(answered.blocks, Value::Null);
        assert!(answered.calls[0].id.chars().all(plain), "{answered:?}");
        assert_eq!(answered.calls[0].id, results[0].id);
    }

    #[test]
    fn images_are_marked_or_replaced() {
        let image = Image {
            mime: "image/png".into(),
            data: "AAAA".into(),
        };
        let messages = [
            user("x"),
            answer("a/b", "", &["one"]),
            Message::Results(vec![result(
                "one",
                vec![Content::Text("a".into()), Content::Image(image.clone())],
            )]),
            Message::User(User {
                text: "and".into(),
                images: vec![image],
            }),
        ];
        let blind = turns(&messages, "a/b", false);
        let Message::Results(results) = &blind[2] else {
            panic!()
        };
        let unseen = "[an image (image/png), which this model does not see]";
        assert_eq!(results[0].content[1], Content::Text(unseen.into()));
        assert_eq!(blind[3], user(&format!("{unseen}\nand")));
        assert_eq!(turns(&messages, "a/b", true), messages);
    }

    #[test]
    fn an_invented_name_and_arguments_that_are_no_object_can_be_sent() {
        assert_eq!(tool_name("functions.exec:0"), "functions_exec_0");
        assert_eq!(tool_name(""), "unknown");
        let text = json!("{\"path\": ");
        assert_eq!(object(text), json!({"not_an_object": "{\"path\": "}));
        assert_eq!(object(Value::Null), json!({}));
    }

    fn any_exchange() -> impl Strategy<Value = Vec<Message>> {
        let ids = prop::collection::btree_set("[a-d#]{0,2}", 0..3);
        ("a/[bc]", "[a-z ]{0,2}", ids).prop_map(|(model, text, ids)| {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let results = ids.iter().map(|id| result(id, vec![])).collect();
            let mut messages = vec![user(&text), answer(&model, &text, &ids)];
            if !ids.is_empty() {
                messages.push(Message::Results(results));
            }
            messages
        })
    }

    proptest! {
        #[test]
        fn results_follow_their_calls(exchanges in prop::collection::vec(any_exchange(), 0..6), model in "a/[bc]") {
            let turns = turns(&exchanges.concat(), &model, true);
            for (at, turn) in turns.iter().enumerate() {
                match turn {
                    Message::Assistant(answered) if !answered.calls.is_empty() => {
                        let Some(Message::Results(results)) = turns.get(at + 1) else { panic!("{turns:?}") };
                        let ids = results.iter().map(|result| &result.id);
                        prop_assert!(ids.eq(answered.calls.iter().map(|call| &call.id)));
                        prop_assert!(answered.model == model || answered.calls.iter().all(|call| call.id.chars().all(plain)));
                    }
                    Message::Results(_) => {
                        prop_assert!(matches!(&turns[at - 1], Message::Assistant(answered) if !answered.calls.is_empty()));
                    }
                    Message::User(user) => prop_assert!(!user.text.trim().is_empty()),
                    Message::Assistant(_) => {}
                }
            }
        }
    }
}
