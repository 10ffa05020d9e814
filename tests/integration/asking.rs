//! A person is asked about what the sandbox was refused: a real client, a real machine, a server on loopback.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rmcp::model::{ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData};
use rmcp::service::{RequestContext, RoleClient, RunningService};
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientHandler, ServiceExt as _};
use serde_json::{Value, json};

use crate::common::{Place, person, request};

/// A person who gives these answers, one after another, and then none.
#[derive(Clone, Default)]
struct Person {
    answers: Arc<Mutex<VecDeque<&'static str>>>,
    questions: Arc<Mutex<Vec<String>>>,
}

impl ClientHandler for Person {
    fn get_info(&self) -> ClientConfig {
        person(true)
    }

    async fn create_elicitation(
        &self,
        asked: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let asked = serde_json::to_value(asked).unwrap();
        let choices = &asked["requestedSchema"]["properties"]["allow"]["oneOf"];
        assert_eq!(choices.as_array().unwrap().len(), 4, "{asked}");
        let question = asked["message"].as_str().unwrap().to_owned();
        self.questions.lock().unwrap().push(question);
        let answer = self.answers.lock().unwrap().pop_front();
        Ok(match answer {
            Some(answer) => {
                ElicitResult::new(ElicitationAction::Accept).with_content(json!({"allow": answer}))
            }
            None => ElicitResult::new(ElicitationAction::Cancel),
        })
    }
}

/// A person's client.
struct Client {
    person: Person,
    service: RunningService<RoleClient, Person>,
}

impl Client {
    async fn new(place: &Place, answers: &[&'static str]) -> Self {
        let person = Person::default();
        person.answers.lock().unwrap().extend(answers);
        let mut command = place.command(&["serve", "--rm"]);
        command.env("XDG_CONFIG_HOME", place.dir.path().join("config"));
        let process = TokioChildProcess::new(command).unwrap();
        let service = person.clone().serve(process).await.unwrap();
        Self { person, service }
    }

    /// What a connection to a host says, the notes of the result, and the questions that came with it.
    async fn connects(&self, host: &str) -> (String, String, Vec<String>) {
        let line = format!(
            "python3 -c 'import socket; print(socket.create_connection((\"{host}\", 443), 20).recv(9).decode())'"
        );
        self.runs(&line).await
    }

    /// What a command prints, the notes of the result, and the questions that came with it.
    async fn runs(&self, line: &str) -> (String, String, Vec<String>) {
        let call = self
            .service
            .call_tool(request("exec", json!({"command": line})));
        let result = call.await.unwrap().structured_content.unwrap();
        let told = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
        let notes: Vec<&str> = match &result["notes"] {
            Value::Array(notes) => notes.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let questions = std::mem::take(&mut *self.person.questions.lock().unwrap());
        (told("stdout"), notes.join("\n"), questions)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_allows_once_for_the_session_and_always() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut tcp in server.incoming().flatten() {
            tcp.write_all(b"hello").ok();
        }
    });
    let place = Place::new("debian");
    let mut text = "# mine\n[network]\nmode = \"list\"\n[network.hosts]\n".to_owned();
    for name in ["one", "two", "three", "four"] {
        text += &format!("\"{name}.test:443\" = \"127.0.0.1:{port}\"\n");
    }
    let file = place.configure(&text);
    let client = Client::new(&place, &["no", "once", "session", "always"]).await;

    let (out, notes, questions) = client.connects("one.test").await;
    assert_eq!(out, "");
    assert!(
        questions[0].contains("refused one.test") && questions[0].contains("python3 -c"),
        "{questions:?}"
    );
    assert!(notes.contains("does not allow one.test"), "{notes}");
    let (out, _, questions) = client.connects("one.test").await;
    assert_eq!(
        (out.as_str(), questions.len()),
        ("", 0),
        "what was declined is not asked again"
    );

    // Once: for the next command, and then no longer.
    let (out, notes, _) = client.connects("two.test").await;
    assert_eq!(out, "");
    assert!(
        notes.contains("allows two.test until the next command has ended: run the command again"),
        "{notes}"
    );
    let (out, _, questions) = client.connects("two.test").await;
    assert_eq!((out.as_str(), questions.len()), ("hello\n", 0));
    let (out, notes, _) = client.connects("two.test").await;
    assert_eq!(out, "");
    assert!(
        notes.contains("allows two.test until the sandbox is stopped"),
        "{notes}"
    );
    for _ in 0..2 {
        assert_eq!(client.connects("two.test").await.0, "hello\n");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    let (_, notes, _) = client.connects("three.test").await;
    assert!(notes.contains("allows three.test from now on"), "{notes}");
    assert_eq!(client.connects("three.test").await.0, "hello\n");
    let saved = std::fs::read_to_string(&file).unwrap();
    assert!(
        saved.starts_with("# mine\n")
            && saved.contains("three.test")
            && !saved.contains("two.test\"]"),
        "{saved}"
    );

    // Nobody answers: it stays refused, and there is no further question.
    let (out, notes, questions) = client.connects("four.test").await;
    assert_eq!((out.as_str(), questions.len()), ("", 1));
    assert!(notes.contains("has not answered"), "{notes}");
    let (_, notes, questions) = client.connects("five.test").await;
    assert_eq!(questions.len(), 0);
    assert!(
        notes.contains("snowglobe network allow five.test"),
        "{notes}"
    );
    client.service.cancel().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_allows_changes_of_protected_files() {
    let place = Place::new("minimal");
    let text =
        "# mine\n[protect]\nvscode = \"ask\"\nclaude = \"ask\"\ncursor = \"ask\"\nzed = \"ask\"\n";
    let file = place.configure(text);
    let client = Client::new(&place, &["no", "once", "session", "always"]).await;
    let makes = async |directory: &str| {
        let line = format!(
            "mkdir -p {directory} && echo x >{directory}/settings.json && echo made; rm -rf {directory}"
        );
        client.runs(&line).await
    };

    // A rule that denies is not asked about. The note says what a person may do.
    let (out, notes, questions) = client.runs("echo x >.envrc; echo $?").await;
    assert_eq!((out.as_str(), questions.len()), ("1\n", 0));
    assert!(
        notes.contains("1 change in /workspace was refused: .envrc")
            && notes.contains("`snowglobe protect allow shell`"),
        "{notes}"
    );
    let (_, notes, _) = client.runs("true").await;
    assert_eq!(notes, "", "a refusal is told once");

    let (out, notes, questions) = makes(".claude").await;
    assert_eq!(out, "");
    assert!(
        questions[0].contains("refused to change .claude (the rule claude: "),
        "{questions:?}"
    );
    assert!(
        notes.contains("does not allow changes under the rule claude"),
        "{notes}"
    );
    let (_, notes, questions) = makes(".claude").await;
    assert_eq!(questions.len(), 0, "what was declined is not asked again");
    assert!(notes.contains("was refused: .claude"), "{notes}");

    // Once: for the next command, and then no longer.
    let (_, notes, _) = makes(".vscode").await;
    assert!(
        notes.contains("until the next command has ended: run the command again"),
        "{notes}"
    );
    assert_eq!(makes(".vscode").await.0, "made\n");
    let (out, notes, _) = makes(".vscode").await;
    assert_eq!(out, "");
    assert!(
        notes.contains("allows changes under the rule vscode until the sandbox is stopped"),
        "{notes}"
    );
    let reboot = client.service.call_tool(request("reboot", json!({})));
    assert_ne!(reboot.await.unwrap().is_error, Some(true));
    assert_eq!(makes(".vscode").await.0, "made\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    // Other tools, too: what is allowed always is in the configuration.
    let write = async || {
        let write = json!({"path": ".cursor/mcp.json", "content": "{}"});
        let result = client
            .service
            .call_tool(request("write", write))
            .await
            .unwrap();
        let said = result.content.iter().find_map(|block| block.as_text());
        client.person.questions.lock().unwrap().clear();
        (result.is_error == Some(true), said.unwrap().text.clone())
    };
    let (failed, said) = write().await;
    assert!(
        failed && said.contains("allows changes under the rule cursor from now on"),
        "{said}"
    );
    assert!(!write().await.0);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        text.replace("cursor = \"ask\"", "cursor = \"allow\"")
    );

    // Nobody answers: there is no further question.
    let (_, notes, questions) = makes(".zed").await;
    assert!(
        questions.len() == 1 && notes.contains("has not answered"),
        "{notes}"
    );
    assert_eq!(makes(".zed").await.2.len(), 0);
    client.service.cancel().await.unwrap();
}
