//! Whole requests to a scripted model, in every protocol.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::transport::Patience;
use super::*;
use crate::agent::message::{CallResult, Content, Image, Stop};

#[path = "../../../tests/integration/agent/scripted.rs"]
mod scripted;

use scripted::{Answer, ScriptedModel, signature};

const KEY: &str = "key-abcdefgh-12345678";

/// Each protocol with a model whose reasoning is known.
const PROTOCOLS: [(&str, &str); 4] = [
    ("messages", "claude-sonnet-5-5"),
    ("responses", "gpt-6-sol"),
    ("chat", "scripted"),
    ("gemini", "gemini-4-argon"),
];

/// Waits that a test has time for.
fn pace() -> Pace {
    Pace {
        patience: Patience {
            beginning: Duration::from_secs(60),
            silence: Duration::from_secs(60),
        },
        first: Duration::from_millis(1),
        longest: Duration::from_millis(4),
        ..Pace::default()
    }
}

/// A model server, and the models of a configuration that knows it as the provider `p`.
struct Rig {
    server: ScriptedModel,
    models: Models,
    model: ModelName,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(protocol: (&str, &str), answers: Vec<Answer>) -> Self {
        Self::with(
            protocol,
            ScriptedModel::start(answers),
            pace(),
            "key_env = 'KEY'",
        )
    }

    fn with((protocol, model): (&str, &str), server: ScriptedModel, pace: Pace, key: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = server.url();
        let file = format!(
            "[providers.p]\nprotocol = '{protocol}'\nurl = '{url}'\n{key}\n[models.'p/{model}']\nimages = true\n"
        );
        std::fs::write(dir.path().join("agent.toml"), file).unwrap();
        let environment = |name: &str| (name == "KEY").then(|| KEY.to_owned());
        Self {
            server,
            models: Models::with(dir.path(), Box::new(environment), pace).unwrap(),
            model: format!("p/{model}").parse().unwrap(),
            dir,
        }
    }

    async fn ask(&self, messages: &[Message]) -> (Result<Assistant, ProviderError>, Vec<Delta>) {
        let mut deltas = Vec::new();
        let tools = [Tool {
            name: "exec".to_owned(),
            description: "runs a line".to_owned(),
            schema: json!({"type": "object", "properties": {"command": {"type": "string"}}}),
        }];
        let request = Request {
            model: &self.model,
            system: "Be brief.",
            tools: &tools,
            messages,
            session: "session-1",
        };
        let answer = self
            .models
            .ask(
                request,
                &mut |delta| deltas.push(delta),
                &CancellationToken::new(),
            )
            .await;
        (answer, deltas)
    }

    /// Asks with a short conversation, and gets an answer.
    async fn answered(&self) -> (Assistant, Vec<Delta>) {
        let (answer, deltas) = self.ask(&hello()).await;
        (answer.unwrap(), deltas)
    }

    /// Asks with a short conversation, and gets none.
    async fn failed(&self) -> (String, Vec<Delta>) {
        let (answer, deltas) = self.ask(&hello()).await;
        let error = answer.unwrap_err().to_string();
        assert!(
            !error.contains(KEY) && !error.contains("12345678"),
            "{error}"
        );
        assert!(error.len() < 1000, "{error}");
        (error, deltas)
    }
}

fn hello() -> [Message; 1] {
    [Message::User(User {
        text: "Hello".to_owned(),
        images: Vec::new(),
    })]
}

fn retries(deltas: &[Delta]) -> Vec<&str> {
    let why = |delta: &'_ Delta| matches!(delta, Delta::Retrying { .. });
    let retries = deltas.iter().filter(|delta| why(delta));
    retries
        .map(|delta| match delta {
            Delta::Retrying { why, .. } => why.as_str(),
            _ => "",
        })
        .collect()
}

#[tokio::test]
async fn an_answer_comes_in_pieces_in_every_protocol() {
    for protocol in PROTOCOLS {
        let answer = Answer::reasoning("I think, thus é. ")
            .and_text("Hello 日本 👩‍💻. ")
            .and_call("exec", json!({"command": "ls -l 'ä ö'"}))
            .and_call("read", json!({"path": "/workspace/a"}))
            .costing(1000, 600, 0, 50)
            .chopped(3);
        let rig = Rig::new(protocol, vec![answer]);
        let (answer, deltas) = rig.answered().await;
        assert_eq!(answer.model, rig.model.to_string());
        assert_eq!(answer.text, "Hello 日本 👩‍💻. ", "{protocol:?}");
        assert_eq!(answer.reasoning, "I think, thus é. ", "{protocol:?}");
        let calls: Vec<(&str, &Value)> = answer
            .calls
            .iter()
            .map(|call| (call.name.as_str(), &call.arguments))
            .collect();
        let (ls, read) = (
            json!({"command": "ls -l 'ä ö'"}),
            json!({"path": "/workspace/a"}),
        );
        assert_eq!(calls, [("exec", &ls), ("read", &read)], "{protocol:?}");
        assert_ne!(answer.calls[0].id, answer.calls[1].id);
        assert_eq!(answer.stop, Stop::Calls);
        let usage = answer.usage;
        assert_eq!(
            (usage.input, usage.cache_read, usage.output),
            (1000, 600, 50),
            "{protocol:?}"
        );
        let pieces = deltas.iter().filter_map(|delta| match delta {
            Delta::Text(piece) => Some(piece.as_str()),
            _ => None,
        });
        assert!(pieces.clone().count() > 2, "{deltas:?}");
        assert_eq!(pieces.collect::<String>(), answer.text);
        assert!(deltas.iter().any(
            |delta| matches!(delta, Delta::Calling { name, bytes } if name == "read" && *bytes > 20)
        ));
        let asked = &rig.server.requests()[0];
        assert_eq!(
            asked.headers["user-agent"],
            concat!("snowglobe/", env!("CARGO_PKG_VERSION"))
        );
        assert!(
            !asked.headers.contains_key("accept-encoding"),
            "{:?}",
            asked.headers
        );
        assert!(asked.headers.values().any(|value| value.contains(KEY)));
    }
}

#[tokio::test]
async fn reasoning_goes_back_to_its_model_and_to_no_other() {
    for protocol in [PROTOCOLS[0], PROTOCOLS[1], PROTOCOLS[3]] {
        let first = Answer::reasoning("First. ")
            .and_text("Look. ")
            .and_redacted("opaque")
            .and_call("exec", json!({"command": "ls"}));
        let rig = Rig::new(
            protocol,
            vec![first, Answer::text("done"), Answer::text("done")],
        );
        let (answer, _) = rig.answered().await;
        assert!(answer.blocks.is_array(), "{protocol:?}: {answer:?}");
        let mut conversation = hello().to_vec();
        let result = CallResult {
            content: vec![
                Content::Text("a".to_owned()),
                Content::Image(Image {
                    mime: "image/png".to_owned(),
                    data: "AAAA".to_owned(),
                }),
            ],
            ..CallResult::text(&answer.calls[0], "", true)
        };
        conversation.push(Message::Assistant(answer.clone()));
        conversation.push(Message::Results(vec![result]));
        rig.ask(&conversation).await.0.unwrap();
        let mut other = answer;
        other.model = "p/another".to_owned();
        conversation[1] = Message::Assistant(other);
        rig.ask(&conversation).await.0.unwrap();
        let asked = rig.server.requests();
        let (own, other) = (asked[1].body.to_string(), asked[2].body.to_string());
        let sign = if protocol.0 == "gemini" {
            signature(0, 3)
        } else {
            signature(1, 0)
        };
        for (body, has) in [(&own, true), (&other, false)] {
            assert_eq!(body.contains("opaque"), has, "{protocol:?}: {body}");
            assert_eq!(body.contains(&sign), has, "{protocol:?}: {body}");
            assert!(body.contains("AAAA"), "{body}");
        }
    }
    // The order of the blocks stays.
    let answer = Answer::reasoning("One. ")
        .and_text("Text. ")
        .and_reasoning("Two. ")
        .and_call("exec", json!({}));
    let rig = Rig::new(PROTOCOLS[0], vec![answer]);
    let (answer, _) = rig.answered().await;
    let kinds: Vec<&str> = answer
        .blocks
        .as_array()
        .unwrap()
        .iter()
        .map(|block| block["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["thinking", "text", "thinking", "tool_use"]);
    assert_eq!(answer.blocks[2]["signature"], signature(1, 2));
}

#[tokio::test]
async fn malformed_arguments_and_invented_tools_are_answers() {
    for protocol in PROTOCOLS {
        let answer = Answer::text("x ")
            .and_malformed_call("exec", "{\"command\": \"ls")
            .and_malformed_call("functions.invented:0", "");
        let rig = Rig::new(protocol, vec![answer, Answer::text("sorry")]);
        let (answer, _) = rig.answered().await;
        assert_eq!(
            answer.calls[0].arguments,
            json!("{\"command\": \"ls").clone(),
            "{protocol:?}"
        );
        assert_eq!(answer.calls[1].name, "functions.invented:0");
        let results = answer
            .calls
            .iter()
            .map(|call| CallResult::text(call, "no", true))
            .collect();
        let mut conversation = hello().to_vec();
        conversation.push(Message::Assistant(answer));
        conversation.push(Message::Results(results));
        rig.ask(&conversation).await.0.unwrap();
        let body = rig.server.requests()[1].body.to_string();
        assert!(body.contains("not_an_object"), "{protocol:?}: {body}");
    }
}

#[tokio::test]
async fn what_passes_is_waited_for_and_told() {
    for protocol in PROTOCOLS {
        let answers = vec![
            Answer::failure(429, "rate_limit_error", "slow down").header("retry-after-ms", "20"),
            Answer::failure(529, "overloaded_error", "busy"),
            Answer::status(503, "<html><h1>no</h1></html>"),
            Answer::text("half an ").broken(),
            Answer::text("half an ").without_end(),
            Answer::text("half an ").failing("overloaded_error", "too busy"),
            Answer::text("half ").and_event("data: {no json"),
            Answer::text("whole"),
        ];
        let rig = Rig::new(protocol, answers);
        let (answer, deltas) = rig.answered().await;
        assert_eq!(answer.text, "whole", "{protocol:?}");
        let told = retries(&deltas);
        assert_eq!(rig.server.requests().len(), 8);
        for (told, why) in told.iter().zip([
            "p: it limits the rate: slow down",
            "p: it is overloaded: busy",
            "p: it answers 503 Service Unavailable",
            "p: the connection broke",
            "p: its answer ended too early",
            "p: it reports an error: too busy",
            "p: it sends an event that is no JSON",
        ]) {
            assert!(told.starts_with(why), "{protocol:?}: {told} is not {why}");
        }
        assert!(
            matches!(&deltas[0], Delta::Retrying { after, .. } if *after == Duration::from_millis(20))
        );
    }
}

#[tokio::test]
async fn silence_is_not_waited_out() {
    let quick = Pace {
        patience: Patience {
            beginning: Duration::from_secs(10),
            silence: Duration::from_millis(60),
        },
        ..pace()
    };
    let answers = vec![Answer::text("half ").silent(), Answer::text("whole")];
    let rig = Rig::with(
        PROTOCOLS[0],
        ScriptedModel::start(answers),
        quick,
        "key_env = 'KEY'",
    );
    let (answer, deltas) = rig.answered().await;
    assert_eq!(answer.text, "whole");
    assert!(
        retries(&deltas)[0].contains("nothing came for"),
        "{deltas:?}"
    );
}

#[tokio::test]
async fn what_does_not_pass_ends_at_once() {
    for protocol in PROTOCOLS {
        for (answer, why) in [
            (
                Answer::failure(401, "authentication_error", &format!("bad key {KEY}")),
                "p does not accept the key from KEY: bad key [key]",
            ),
            (
                Answer::failure(429, "insufficient_quota", "You exceeded your current quota"),
                "the quota at p is used up",
            ),
            (
                Answer::failure(402, "x", "pay"),
                "the quota at p is used up: pay",
            ),
            (
                Answer::failure(400, "invalid_request_error", "bad request"),
                "it answers 400 Bad Request: bad request",
            ),
            (
                Answer::failure(400, "invalid_request_error", "prompt is too long: 9 > 8"),
                "the conversation is too long for it: prompt is",
            ),
            (
                Answer::text("x").failing("context_length_exceeded", "too long"),
                "the conversation is too long for it: too long",
            ),
            (
                Answer::failure(429, "rate_limit_error", "later").header("retry-after", "7200"),
                "takes no request before 20",
            ),
            (
                Answer::status(307, "").header("location", "https://elsewhere.example/"),
                "it redirects to https://elsewhere.example/",
            ),
        ] {
            let rig = Rig::new(protocol, vec![answer]);
            let (error, deltas) = rig.failed().await;
            assert!(error.contains(why), "{protocol:?}: {error}");
            assert_eq!(
                (rig.server.requests().len(), retries(&deltas).len()),
                (1, 0)
            );
        }
    }
}

#[tokio::test]
async fn a_refusal_and_a_limit_are_answers() {
    for protocol in PROTOCOLS {
        let answers = vec![
            Answer::text("I will not. ").refused(),
            Answer::text("It is so lo").cut_short(),
            Answer::failure(400, "content_filter", "filtered"),
        ];
        let rig = Rig::new(protocol, answers);
        for (stop, text) in [
            (Stop::Refused, "I will not. "),
            (Stop::Length, "It is so lo"),
            (Stop::Refused, "filtered"),
        ] {
            let (answer, _) = rig.answered().await;
            assert_eq!(
                (answer.stop, answer.text.as_str()),
                (stop, text),
                "{protocol:?}"
            );
        }
    }
}

#[tokio::test]
async fn it_gives_up_after_so_many_tries() {
    let rig = Rig::with(
        PROTOCOLS[2],
        ScriptedModel::answering(|_| Answer::failure(500, "server_error", "broken")),
        pace(),
        "key_env = 'KEY'",
    );
    let (error, deltas) = rig.failed().await;
    assert!(
        error.ends_with("it answers 500 Internal Server Error: broken; tried 9 times"),
        "{error}"
    );
    assert_eq!(
        (rig.server.requests().len(), retries(&deltas).len()),
        (9, 8)
    );
}

#[tokio::test]
async fn a_server_that_does_not_run_is_not_waited_for_long() {
    let dir = tempfile::tempdir().unwrap();
    // A port that is taken, and that nothing listens at.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = taken.local_addr().unwrap();
    let file = format!("[providers.ollama]\nurl = 'http://{address}'");
    std::fs::write(dir.path().join("agent.toml"), file).unwrap();
    let models = Models::with(dir.path(), Box::new(|_| None), pace()).unwrap();
    let name = models.model("ollama/qwen3").unwrap();
    let request = Request {
        model: &name,
        system: "",
        tools: &[],
        messages: &hello(),
        session: "s",
    };
    let answer = models
        .ask(request, &mut |_| {}, &CancellationToken::new())
        .await;
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("does it run?; tried 5 times"), "{error}");
}

/// The most memory that this process has had so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_a_provider_sends_has_bounds() {
    let before = peak();
    for code in [500, 400] {
        let huge = Answer::status(code, vec![b'x'; 1 << 20]).times(1024);
        let rig = Rig::new(PROTOCOLS[2], vec![huge, Answer::text("ok")]);
        let (answer, deltas) = rig.ask(&hello()).await;
        let told = match answer {
            Ok(_) => retries(&deltas)[0].to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(told.len() < 700 && told.contains("xxx"), "{told}");
    }
    let line = format!("data: {{\"x\": \"{}\"}}", "x".repeat(5 << 20));
    for (answer, why) in [
        (Answer::text("x").and_event(&line), "its answer is too long"),
        (
            Answer::text(format!("{} ", "y".repeat(1 << 20)).repeat(9)),
            "its answer is longer than 8 MiB",
        ),
        (
            (0..200).fold(Answer::text("x"), |answer, _| {
                answer.and_call("exec", json!({}))
            }),
            "more than 128 calls",
        ),
        (
            Answer::text("").and_call(&"n".repeat(5000), json!({})),
            "an endless name",
        ),
    ] {
        let rig = Rig::new(PROTOCOLS[2], vec![answer]);
        let (error, _) = rig.failed().await;
        assert!(error.contains(why), "{error}");
    }
    let grown = peak() - before;
    assert!(grown < 300 << 10, "{grown} KiB");
}

#[tokio::test]
async fn a_cancelled_request_ends_at_once() {
    let slow = Answer::text("one two three").every(Duration::from_secs(600));
    for answer in [
        slow,
        Answer::text("half ").silent(),
        Answer::failure(429, "rate_limit_error", "later").header("retry-after", "100"),
    ] {
        let rig = Rig::new(PROTOCOLS[0], vec![answer]);
        let cancel = CancellationToken::new();
        let request = Request {
            model: &rig.model,
            system: "",
            tools: &[],
            messages: &hello(),
            session: "s",
        };
        let began = Instant::now();
        let mut take = |_| {};
        let asked = rig.models.ask(request, &mut take, &cancel);
        let (answer, ()) = tokio::join!(asked, async {
            while rig.server.requests().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cancel.cancel();
        });
        assert!(
            matches!(answer, Err(ProviderError::Cancelled(_))),
            "{answer:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}

#[tokio::test]
async fn a_key_that_was_replaced_is_read_again() {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let server = ScriptedModel::answering(|asked| {
        let told = asked.headers.get("x-api-key").cloned().unwrap_or_default();
        match told.as_str() {
            "old-key-1"
                if asked.body.to_string().contains("Hello")
                    && !asked.body.to_string().contains("again") =>
            {
                Answer::text("old")
            }
            "new-key-2" => Answer::text("new"),
            _ => Answer::failure(401, "authentication_error", "invalid x-api-key"),
        }
    });
    let rig = Rig::with(PROTOCOLS[0], server, pace(), "key_file = 'key'");
    let write = |key: &str| {
        let file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(rig.dir.path().join("key"));
        file.unwrap().write_all(key.as_bytes()).unwrap();
    };
    write("old-key-1\n");
    assert_eq!(rig.answered().await.0.text, "old");
    write("new-key-2\n");
    let again = [Message::User(User {
        text: "Hello again".to_owned(),
        images: Vec::new(),
    })];
    assert_eq!(rig.ask(&again).await.0.unwrap().text, "new");
    write("bad-key-3\n");
    let rig = Rig::with(
        PROTOCOLS[0],
        ScriptedModel::start(vec![Answer::failure(401, "x", "no")]),
        pace(),
        "key_file = 'none'",
    );
    assert!(rig.failed().await.0.contains("none can't be read"));
}

#[tokio::test]
async fn a_model_that_may_not_tell_its_thoughts_is_asked_without() {
    let refusal = "Your organization must be verified to generate reasoning summaries.";
    let answers = vec![
        Answer::failure(400, "invalid_request_error", refusal),
        Answer::text("ok"),
    ];
    let rig = Rig::new(PROTOCOLS[1], answers);
    let (answer, deltas) = rig.answered().await;
    assert_eq!((answer.text.as_str(), retries(&deltas).len()), ("ok", 0));
    let asked = rig.server.requests();
    assert_eq!(asked[0].body["reasoning"]["summary"], "auto");
    assert_eq!(asked[1].body["reasoning"], json!({}));
}

#[tokio::test]
async fn models_are_listed_and_tested() {
    for protocol in PROTOCOLS {
        let rig = Rig::new(
            protocol,
            vec![
                Answer::text("ok"),
                Answer::failure(404, "x", "no such model"),
            ],
        );
        let listed = rig.models.list().await;
        let listed: BTreeMap<&str, &Listed> = listed
            .iter()
            .map(|listed| (listed.provider.as_str(), listed))
            .collect();
        let own = listed["p"];
        let names: Vec<String> = own
            .models
            .as_ref()
            .unwrap()
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!((own.usable, own.key.as_deref()), (true, Some("KEY")));
        assert_eq!(names, ["p/scripted", "p/scripted-small"]);
        let openai = listed["openai"];
        assert_eq!(
            (openai.usable, openai.models.as_ref().unwrap_err().as_str()),
            (false, "there is no key; set OPENAI_API_KEY")
        );
        let cancel = CancellationToken::new();
        rig.models.test(&rig.model, &cancel).await.unwrap();
        let error = rig
            .models
            .test(&rig.model, &cancel)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such model"), "{error}");
    }
}

#[test]
fn a_model_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = "[providers.mine]\nprotocol = 'chat'\nurl = 'http://127.0.0.1:1'\n[models.'mine/big']\n[models.'mine/gpt-6-sol']\n\
        [models.'ollama/two']\n[models.'mine/two']\n";
    std::fs::write(dir.path().join("agent.toml"), file).unwrap();
    let models = Models::with(dir.path(), Box::new(|_| None), pace()).unwrap();
    let found = |name: &str| {
        models
            .model(name)
            .map(|name| name.to_string())
            .map_err(|error| error.to_string())
    };
    assert_eq!(found("anthropic/claude-x").unwrap(), "anthropic/claude-x");
    assert_eq!(
        found("claude-sonnet-5-5").unwrap(),
        "anthropic/claude-sonnet-5-5"
    );
    assert_eq!(
        found("gemini-3.8-flash").unwrap(),
        "gemini/gemini-3.8-flash"
    );
    assert_eq!(found(" big ").unwrap(), "mine/big");
    assert_eq!(found("gpt-6-sol").unwrap(), "mine/gpt-6-sol");
    assert!(
        found("two")
            .unwrap_err()
            .contains("say which: mine/two, ollama/two")
    );
    assert!(
        found("antropic/x")
            .unwrap_err()
            .contains("did you mean `anthropic`?")
    );
    assert!(
        found("nothing-known")
            .unwrap_err()
            .contains("expected PROVIDER/MODEL")
    );
}

#[test]
fn the_default_is_what_is_set_or_what_has_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let default = |variable: Option<&'static str>| {
        let environment = move |name: &str| (variable == Some(name)).then(|| "x".to_owned());
        let models = Models::with(dir.path(), Box::new(environment), pace()).unwrap();
        models
            .default_model()
            .map(|name| name.provider)
            .map_err(|error| error.to_string())
    };
    assert_eq!(default(Some("GEMINI_API_KEY")).unwrap(), "gemini");
    assert_eq!(default(Some("OPENAI_API_KEY")).unwrap(), "openai");
    let error = default(None).unwrap_err();
    assert!(
        error.starts_with("choose a model: no provider has a key; set ANTHROPIC_API_KEY or"),
        "{error}"
    );
    std::fs::write(dir.path().join("agent.toml"), "model = 'ollama/qwen3'").unwrap();
    assert_eq!(default(Some("OPENAI_API_KEY")).unwrap(), "ollama");
    std::fs::write(dir.path().join("agent.toml"), "model = 'olama/qwen3'").unwrap();
    assert!(
        default(None)
            .unwrap_err()
            .contains("did you mean `ollama`?")
    );
}
