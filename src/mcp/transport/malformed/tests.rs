use serde_json::Value;

use super::*;

fn answer(text: &[u8]) -> (Role, Value) {
    let malformed = parse(text).expect_err("it is none");
    // An id with half a surrogate pair is JSON by its grammar only.
    let answer = malformed.answer().replace("\\ud83d\"", "\\ufffd\"");
    (malformed.role, serde_json::from_str(&answer).unwrap())
}

#[test]
fn requests_that_are_not_json_are_answered_by_their_id() {
    let cases: [(&[u8], Value, &str); 9] = [
        (
            br#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":"\ud83d"}}"#,
            json!(7),
            "half of a character",
        ),
        (
            br#"{"method":"\ud83d","jsonrpc":"2.0","id":"a"}"#,
            json!("a"),
            "half of a character",
        ),
        (
            br#"{"jsonrpc":"2.0","id":"\ud83d","method":"ping"}"#,
            json!("\u{fffd}"),
            "half of a character",
        ),
        (
            b"{\"id\":7,\"method\":\"ping\",\"params\":{\"x\":\"\xff\"}}",
            json!(7),
            "not UTF-8 (from its byte 39 on)",
        ),
        (
            br#"{"id":7,"method":"ping","params":{"x":tru}}"#,
            json!(7),
            "not JSON",
        ),
        (br#"{"id":7,"method":"ping""#, json!(7), "not JSON"),
        (
            br#"{"jsonrpc":"2.0","id":7,"method":"ping"}{"id":8}"#,
            json!(7),
            "not JSON",
        ),
        (
            b"\xef\xbb\xbf{\"id\":7,\"method\":\"ping\",}",
            json!(7),
            "not JSON",
        ),
        (
            br#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":1e999}}"#,
            json!(7),
            "out of range",
        ),
    ];
    for (text, id, said) in cases {
        let shown = String::from_utf8_lossy(text);
        let (_, answer) = answer(text);
        assert_eq!(answer["id"], id, "{shown}");
        assert_eq!(answer["error"]["code"], -32700, "{shown}: {answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(said),
            "{shown}: {answer}"
        );
    }
    let deep = format!(
        r#"{{"id":7,"method":"ping","params":{}"#,
        "[".repeat(100_000)
    );
    assert_eq!(answer(deep.as_bytes()).1["id"], 7);
    assert_eq!(
        answer("[".repeat(100_000).as_bytes()).1["error"]["code"],
        -32700
    );
}

#[test]
fn json_that_is_no_message_is_told_what_is_missing() {
    let cases = [
        ("[]", Value::Null, "one by one"),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            Value::Null,
            "one by one",
        ),
        (
            r#"[[{"jsonrpc":"2.0","method":"notifications/initialized"}]]"#,
            Value::Null,
            "one by one",
        ),
        ("7", Value::Null, "JSON object"),
        ("\"text\"", Value::Null, "JSON object"),
        ("{}", Value::Null, "\"2.0\""),
        (r#"{"id":7,"method":"ping"}"#, json!(7), "\"2.0\""),
        (
            r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
            json!(7),
            "\"2.0\"",
        ),
        (r#"{"jsonrpc":"2.0","id":7}"#, json!(7), "no `method`"),
        (
            r#"{"jsonrpc":"2.0","id":7,"method":5}"#,
            json!(7),
            "`method` must be a string",
        ),
        (
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            Value::Null,
            "`id` must be",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            json!(1.5),
            "`id` must be",
        ),
        (
            r#"{"jsonrpc":"2.0","id":99999999999999999999,"method":"ping"}"#,
            json!(1e20),
            "`id` must be",
        ),
        (
            r#"{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}"#,
            Value::Null,
            "`id` must be",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
            Value::Null,
            "`id` more than once",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":7}"#,
            json!(1),
            "`params` must be an object",
        ),
    ];
    for (text, id, said) in cases {
        let (_, answer) = answer(text.as_bytes());
        assert_eq!(answer["id"], id, "{text}: {answer}");
        assert_eq!(answer["error"]["code"], -32600, "{text}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(said),
            "{text}: {answer}"
        );
    }
}

#[test]
fn notifications_and_answers_are_told_from_requests() {
    let role = |text: &str| answer(text.as_bytes()).0;
    assert_eq!(role(r#"{"method":"notifications/x"}"#), Role::Notification);
    assert_eq!(
        role(r#"{"jsonrpc":"2.0","method":"x","params":{"a":"\ud83d"}}"#),
        Role::Notification
    );
    assert_eq!(
        role(r#"{"jsonrpc":"2.0","method":"x","params":{"a":"#),
        Role::Unknown
    );
    let text = r#"{"jsonrpc":"2.0","id":3,"result":{"action":"\ud83d"}}"#;
    assert_eq!(role(text), Role::Response);
    let ended = parse(text.as_bytes())
        .unwrap_err()
        .as_error_response()
        .unwrap();
    let ended = serde_json::to_value(&ended).unwrap();
    assert_eq!(
        (&ended["id"], &ended["error"]["code"]),
        (&json!(3), &json!(-32700))
    );
}

#[test]
fn messages_of_every_kind_are_understood() {
    for text in [
        r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#,
        r#"  {"jsonrpc":"2.0","id":-1,"method":"no/such","params":{"x":"\ud83d\ude00"}} "#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\r",
    ] {
        assert!(parse(text.as_bytes()).is_ok(), "{text}");
    }
}
