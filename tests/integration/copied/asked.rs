//! A model asks that changes are applied, and a person answers in a real client: in both eras of the protocol.

use std::sync::{Arc, Mutex};

use rmcp::ClientHandler;
use rmcp::model::{
    ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData, ProtocolVersion,
    ReadResourceRequestParams,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt as _, RequestContext, RoleClient, RunningService,
};
use rmcp::transport::TokioChildProcess;
use serde_json::{Value, json};

use super::{host, repository};
use crate::common::{Place, person, request, text};

/// What the next question gets, and the questions so far.
#[derive(Clone)]
struct Person {
    can_answer: bool,
    answer: Arc<Mutex<ElicitationAction>>,
    questions: Arc<Mutex<Vec<String>>>,
}

impl ClientHandler for Person {
    fn get_info(&self) -> ClientConfig {
        person(self.can_answer)
    }

    async fn create_elicitation(
        &self,
        asked: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let asked = serde_json::to_value(asked).unwrap();
        let question = asked["message"].as_str().unwrap().to_owned();
        self.questions.lock().unwrap().push(question);
        let answer = self.answer.lock().unwrap().clone();
        Ok(ElicitResult::new(answer.clone()).with_content(json!({})))
    }
}

struct Client {
    person: Person,
    service: RunningService<RoleClient, Person>,
}

impl Client {
    async fn new(place: &Place, modern: bool, can_answer: bool, confirm: &str) -> Self {
        let person = Person {
            can_answer,
            answer: Arc::new(Mutex::new(ElicitationAction::Accept)),
            questions: Arc::default(),
        };
        let mut command = place.command(&["serve"]);
        command
            .env("SNOWGLOBE_WORKSPACE_MODE", "copy")
            .env("SNOWGLOBE_CONFIRM_APPLY", confirm);
        let process = TokioChildProcess::new(command).unwrap();
        let mode = match modern {
            true => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
            false => ClientLifecycleMode::Initialize,
        };
        let service = person.clone().serve_with_lifecycle(process, mode);
        Self {
            person,
            service: service.await.unwrap(),
        }
    }

    /// Whether a call works, what it says, and the questions that came with it.
    async fn calls(&self, tool: &'static str, arguments: Value) -> (bool, String, Vec<String>) {
        let called = self.service.call_tool(request(tool, arguments)).await;
        let result = called.unwrap();
        let questions = std::mem::take(&mut *self.person.questions.lock().unwrap());
        (result.is_error != Some(true), text(&result), questions)
    }

    async fn runs(&self, line: &str) {
        let (worked, said, _) = self.calls("exec", json!({"command": line})).await;
        assert!(worked && said.contains("exit code 0"), "{said}");
    }

    async fn applies(&self, paths: &[&str]) -> (bool, String, Vec<String>) {
        let apply = json!({"action": "apply", "paths": paths});
        self.calls("changes", apply).await
    }

    fn answers(&self, answer: ElicitationAction) {
        *self.person.answer.lock().unwrap() = answer;
    }

    /// The resource, as JSON.
    async fn resource(&self) -> Value {
        let read = ReadResourceRequestParams::new("snowglobe://changes");
        let read = self.service.read_resource(read).await.unwrap();
        let read = serde_json::to_value(&read.contents[0]).unwrap();
        assert_eq!(read["mimeType"], "application/json");
        serde_json::from_str(read["text"].as_str().unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_agrees_before_a_model_applies() {
    let place = repository("debian");
    let has = |path: &str| place.workspace.join(path).exists();
    for modern in [false, true] {
        let client = Client::new(&place, modern, true, "require").await;
        client
            .runs(
                "rm -rf made other; echo made >made; mkdir other; echo x >other/x; echo y >other/y",
            )
            .await;
        // To look asks nobody.
        let (worked, said, questions) = client.calls("changes", json!({"action": "diff"})).await;
        assert!(worked && said.contains("+made") && questions.is_empty());

        client.answers(ElicitationAction::Decline);
        let (worked, said, questions) = client.applies(&["made", "other/x"]).await;
        assert!(!worked && said.contains("the person declined"), "{said}");
        assert!(
            questions.len() == 1 && questions[0].contains("the changes of made, other/x"),
            "{questions:?}"
        );
        client.answers(ElicitationAction::Cancel);
        let (worked, said, _) = client.applies(&[]).await;
        assert!(!worked && said.contains("without an answer"), "{said}");
        assert!(!has("made") && !has("other"), "nothing was done");

        client.answers(ElicitationAction::Accept);
        let (worked, said, questions) = client.applies(&["made"]).await;
        assert!(worked && said.contains("made: written"), "{said}");
        assert_eq!(questions.len(), 1);
        assert_eq!(host(&place, "made"), "made\n");
        assert!(!has("other"), "what was not named is not applied");
        let (worked, said, questions) = client.applies(&[]).await;
        assert!(
            worked && said.contains("2 files applied") && questions[0].contains("all changes"),
            "{said} {questions:?}"
        );
        assert!(has("other/x") && has("other/y"));
        // What is flagged is named by the model and by the question, or left.
        client.runs("echo 'echo hello' >.envrc").await;
        let (_, said, _) = client.applies(&[]).await;
        assert!(said.contains("left: .envrc") && !has(".envrc"), "{said}");
        let (_, said, questions) = client.applies(&[".envrc"]).await;
        assert!(questions[0].contains(".envrc") && has(".envrc"), "{said}");

        // Both eras do the same with the same tree.
        client.runs("rm -rf made other .envrc").await;
        let (worked, said, _) = client.applies(&["made", "other", ".envrc"]).await;
        assert!(worked && !has("made") && !has("other"), "{said}");
        client.service.cancel().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cannot_ask_applies_only_if_the_user_said_so() {
    let place = repository("debian");
    for (confirm, may) in [("require", false), ("ask", true), ("never", true)] {
        // A running sandbox has the setting that it was started with.
        place.run(&["stop"]).await;
        for modern in [false, true] {
            let client = Client::new(&place, modern, false, confirm).await;
            let name = format!("{confirm}-{modern}");
            client.runs(&format!("echo made >{name}")).await;
            let (worked, said, _) = client.applies(&[&name]).await;
            assert_eq!(worked, may, "{name}: {said}");
            assert_eq!(place.workspace.join(&name).exists(), may, "{name}");
            assert!(
                may || said.contains("the user applies them with `snowglobe apply`"),
                "{said}"
            );
            client.service.cancel().await.unwrap();
        }
    }
    // A client that can ask is not asked where the user said never.
    let client = Client::new(&place, false, true, "never").await;
    client.runs("echo made >unasked").await;
    let (worked, said, questions) = client.applies(&["unasked"]).await;
    assert!(worked && questions.is_empty(), "{said} {questions:?}");
    client.service.cancel().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_are_a_resource() {
    let place = repository("debian");
    let client = Client::new(&place, false, true, "require").await;
    let listed = client.service.list_all_resources().await.unwrap();
    let listed = listed.iter().map(|one| one.uri.as_str());
    assert_eq!(
        listed.filter(|uri| *uri == "snowglobe://changes").count(),
        1
    );
    assert_eq!(client.resource().await["changes"], json!([]));
    client
        .runs("echo made >made; echo '{}' >.mcp.json; rm src/a.c; git mv numbers renamed; git -c user.name=a -c user.email=a@b commit -qam guest")
        .await;
    let changes = client.resource().await;
    let rows: Vec<String> = changes["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let flags = one["flags"].as_array().map_or(0, Vec::len);
            let (kind, path) = (one["kind"].as_str().unwrap(), one["path"].as_str().unwrap());
            format!("{kind} {path} {flags}")
        })
        .collect();
    assert_eq!(
        rows,
        [
            "added .mcp.json 1",
            "added made 0",
            "renamed renamed 0",
            "removed src/a.c 0"
        ]
    );
    assert_eq!(changes["changes"][2]["from"], "numbers");
    let name = place.name();
    assert_eq!(
        changes["branches"][0]["reference"],
        format!("refs/snowglobe/{name}/main")
    );
    client.service.cancel().await.unwrap();
    // A shared workspace has none.
    let session = place.serve().await;
    let listed = session.client.list_all_resources().await.unwrap();
    assert!(!listed.iter().any(|one| one.uri == "snowglobe://changes"));
    let read = ReadResourceRequestParams::new("snowglobe://changes");
    let error = session.client.read_resource(read).await.unwrap_err();
    assert!(error.to_string().contains("copy"), "{error}");
    session.close().await;
}
