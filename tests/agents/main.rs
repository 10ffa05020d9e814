//! Real agents, installed as the README says, driven end to end by a scripted model on this machine. Each lists the
//! tools, makes a few calls in a real VM, and shows the model the results: output with its notes, an image, a directory,
//! an error. Two of them also work in a copy of the workspace, look at their changes, and ask to apply them.
//!
//! They take 1.3 GB, so they run by name: `make agents`. Each has its own home, an invalid key, and a network that has
//! only the loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

#[path = "../integration/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{PROGRAM, Place, TOOLS};
use serde_json::{Value, json};
use tokio::process::Command;

/// Runs a command in a separate network, with the server at the README's address if there is a token for it.
const ALONE: &str = r#"
ip link set lo up || exit
[[ -v MCP_TOKEN ]] || exec "$@"
snowglobe serve --http 127.0.0.1:8808 --token-file ~/token 2>~/server.log &
until (exec 3<>/dev/tcp/127.0.0.1/8808) 2>/dev/null; do sleep 0.05; kill -0 $! || { cat ~/server.log >&2; exit 1; }; done
"$@"
code=$?
kill $! && wait $!
exit $code
"#;

/// A PNG of 16 by 16 pixels.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR42mM4ISeHFeEQPsEwqmFUw/DVAAA6YgQQe59huAAAAABJRU5ErkJggg==";

/// The token that clients send over HTTP.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const URL: &str = "http://127.0.0.1:8808/mcp";

/// An agent's directories: a workspace, an empty home, and `snowglobe` in its `PATH`.
struct Agent {
    place: Place,
    program: PathBuf,
    env: BTreeMap<String, String>,
}

/// The first of these programs that is installed.
fn installed(candidates: &[&str]) -> PathBuf {
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agents/node_modules");
    let found = candidates.iter().map(|name| modules.join(name));
    let found = found.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("none of {candidates:?} is there: run `.ci/clients agents`"))
}

impl Agent {
    fn new(candidates: &[&str], env: &[(&str, &str)]) -> Self {
        let place = Place::new("minimal");
        let program = installed(candidates);
        let home = place.dir.path().join("home");
        let bin = place.dir.path().join("bin");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&bin).unwrap();
        // An agent may drop variables; the server still gets this place's settings.
        let mut script = "#!/bin/sh\n".to_owned();
        for (name, value) in place.command(&[]).as_std().get_envs() {
            let value = value.expect("a value").to_string_lossy();
            script += &format!("export {}='{value}'\n", name.to_string_lossy());
        }
        let data = Place::data_dir();
        script += &format!("export SNOWGLOBE_DATA_DIR='{}'\n", data.display());
        script += &format!("exec '{PROGRAM}' \"$@\"\n");
        let wrapper = bin.join("snowglobe");
        common::executable(&wrapper, &script);
        let node = common::node();
        let path = format!(
            "{}:{}:/usr/bin:/bin",
            bin.display(),
            node.parent().unwrap().display()
        );
        let mut all = BTreeMap::from([
            ("PATH".to_owned(), path),
            ("HOME".to_owned(), home.to_string_lossy().into_owned()),
        ]);
        all.extend(env.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        Self {
            place,
            program,
            env: all,
        }
    }

    /// The same agent with a server over HTTP.
    fn over_http(mut self) -> Self {
        self.configure("token", TOKEN);
        let private = PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(self.home("token"), private).unwrap();
        self.env.insert("MCP_TOKEN".into(), TOKEN.into());
        self
    }

    fn home(&self, path: &str) -> PathBuf {
        self.place.dir.path().join("home").join(path)
    }

    /// The same agent in a repository of which the sandbox has a copy.
    fn in_a_copy(self) -> Self {
        let wrapper = self.place.dir.path().join("bin/snowglobe");
        let script = std::fs::read_to_string(&wrapper).unwrap();
        let set = "#!/bin/sh\nexport SNOWGLOBE_WORKSPACE_MODE=copy\n";
        common::executable(&wrapper, &script.replace("#!/bin/sh\n", set));
        common::on_the_host(
            &self.place.workspace,
            "git init -q -b main . && seq 9 >numbers && git add -A && git commit -qm one",
        );
        self
    }

    /// A file in the agent's home.
    fn configure(&self, path: &str, text: &str) {
        let path = self.home(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command in the workspace that reaches only this machine, and the server over HTTP if there is one.
    fn alone(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--net", "bash", "-c", ALONE, "alone"])
            .arg(program)
            .current_dir(&self.place.workspace)
            .env_clear()
            .envs(&self.env)
            .kill_on_drop(true);
        command
    }

    /// Runs one of the README's lines, `agent mcp add snowglobe …`.
    async fn add(&self, arguments: &[&str]) {
        let mut add = self.alone(&self.program);
        let done = add.args(["mcp", "add", "snowglobe"]).args(arguments);
        let done = done.output().await;
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {said}");
    }

    /// Lets the agent follow a model that makes these calls, and gives what the model saw.
    async fn follows(&self, protocol: &str, arguments: &[&str], calls: Value) -> Value {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents");
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agents");
        // Node searches modules in the program's directory.
        let own = beside.join(self.place.name());
        std::fs::create_dir_all(&own).unwrap();
        for script in ["drive.mjs", "responses.mjs"] {
            std::fs::copy(scripts.join(script), own.join(script)).unwrap();
        }
        let mut command = vec![self.program.to_string_lossy().into_owned()];
        command.extend(arguments.iter().map(|it| it.to_string()));
        let about = json!({"protocol": protocol, "command": command, "env": self.env,
            "cwd": self.place.workspace, "calls": calls});
        let mut driven = self.alone(&common::node());
        driven.arg(own.join("drive.mjs")).arg(about.to_string());
        let done = driven.output().await.unwrap();
        std::fs::remove_dir_all(&own).unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        let saw: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{said}"));
        assert_eq!(saw["code"], 0, "{saw}");
        let listed = saw["tools"].as_array().unwrap();
        for tool in TOOLS {
            let ours = |name: &Value| name.as_str().is_some_and(|it| is_ours(it, tool));
            assert!(listed.iter().any(ours), "{tool} is listed: {saw}");
        }
        let said = saw["said"].as_str().unwrap();
        assert!(said.contains("the model is done"), "{saw}");
        saw
    }

    /// Lets the agent follow the scripted model, and checks what the model saw.
    async fn works(&self, protocol: &str, arguments: &[&str]) {
        let picture = STANDARD.decode(PICTURE).unwrap();
        std::fs::write(self.place.workspace.join("picture.png"), picture).unwrap();
        std::fs::write(self.place.workspace.join("notes.txt"), "line one\n").unwrap();
        let saw = self.follows(protocol, arguments, calls()).await;
        let conversation = saw["conversation"].to_string();
        for shown in SHOWN {
            assert!(conversation.contains(shown), "{shown:?} in {conversation}");
        }
        assert!(!conversation.contains("u001b[31m"), "{conversation}");
        let mut images = Vec::new();
        find_images(&saw["conversation"], &mut images);
        assert!(!images.is_empty(), "an image in {conversation}");
    }

    /// Lets the agent change its copy, look at that and ask to apply it. Nobody is there to agree, so only the user applies.
    async fn asks_to_apply(&self, protocol: &str, arguments: &[&str]) {
        let change = "sed -i 's/^3$/three/' numbers && echo made >made";
        let calls = json!([
            {"tool": "exec", "arguments": {"command": change}},
            {"tool": "changes", "arguments": {}},
            {"tool": "changes", "arguments": {"action": "diff", "paths": ["numbers"]}},
            {"tool": "changes", "arguments": {"action": "apply"}},
        ]);
        let saw = self.follows(protocol, arguments, calls).await;
        let conversation = saw["conversation"].to_string();
        for shown in [
            "modified numbers (+1 -1)",
            "added    made (+1 -0)",
            "+three",
            "nothing was done",
        ] {
            assert!(conversation.contains(shown), "{shown:?} in {conversation}");
        }
        let numbers = self.place.workspace.join("numbers");
        let has_three = || std::fs::read_to_string(&numbers).unwrap().contains("three");
        assert!(!has_three(), "{conversation}");
        let mut apply = self.place.command(&["apply"]);
        apply.env("SNOWGLOBE_WORKSPACE_MODE", "copy");
        let (code, _, said) = common::ended(apply).await;
        assert_eq!(code, 0, "{said}");
        assert!(
            has_three() && self.place.workspace.join("made").exists(),
            "{said}"
        );
    }
}

/// The model's calls, in order.
fn calls() -> Value {
    let line = "printf '\\033[31mout-%s\\033[0m\\n' $((6*7)); uname -n; (sleep 30 &)";
    json!([
        {"tool": "exec", "arguments": {"command": line, "description": "Says it"}},
        {"tool": "read", "arguments": {"path": "picture.png"}},
        {"tool": "read", "arguments": {"path": "."}},
        {"tool": "read", "arguments": {"path": "notes.txt", "limit": 1}},
        {"tool": "job", "arguments": {"action": "list", "limit": 0}},
        {"tool": "exec", "arguments": {"command": "true", "cwd": "/no/such/directory"}},
    ])
}

/// The texts that the model must see, whatever part of a result its agent passes on.
const SHOWN: [&str; 9] = [
    "out-42",
    "snowglobe",
    "background processes are still running",
    "stdout is as a terminal shows it",
    "picture.png",
    "line one",
    "no argument of `exec`, so ignored: `description`",
    "`limit` was 0, so the default held",
    "failed to start the command",
];

/// The data of every image in a conversation, in each form that agents use.
fn find_images<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| find_images(value, found)),
        Value::Object(map) => {
            let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
            let data = match kind {
                "image" => &value["source"]["data"],
                "input_image" => &value["image_url"],
                "image_url" => &value["image_url"]["url"],
                _ => &value["inlineData"]["data"],
            };
            // Agents may shrink the image and convert it to JPEG or WebP.
            let begins = ["iVBORw0KGgo", "/9j/", "UklGR"];
            let data = data
                .as_str()
                .map(|data| data.rsplit("base64,").next().unwrap_or(data));
            found.extend(data.filter(|data| begins.iter().any(|begin| data.starts_with(begin))));
            map.values().for_each(|value| find_images(value, found));
        }
        _ => {}
    }
}

/// Agents prefix a tool's name with the server's name.
fn is_ours(name: &str, tool: &str) -> bool {
    name.strip_suffix(tool)
        .is_some_and(|before| before.trim_end_matches('_').ends_with("snowglobe"))
}

fn json_of(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A client's configuration of a server on standard streams.
const SERVE: [&str; 2] = ["snowglobe", "serve"];

fn claude_code() -> Agent {
    Agent::new(
        &[
            "@anthropic-ai/claude-code-linux-x64/claude",
            "@anthropic-ai/claude-code-linux-arm64/claude",
        ],
        &[
            ("ANTHROPIC_BASE_URL", "{model}"),
            ("ANTHROPIC_API_KEY", "none"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("DISABLE_TELEMETRY", "1"),
            // Otherwise the agent hides tools until the model searches for them, which this model does not do.
            ("ENABLE_TOOL_SEARCH", "false"),
        ],
    )
}

async fn claude_code_works(agent: &Agent, expected: Value) {
    let config = json_of(&agent.home(".claude.json"));
    let project = &config["projects"][agent.place.workspace.to_str().unwrap()];
    let mut server = project["mcpServers"]["snowglobe"].clone();
    server.as_object_mut().unwrap().remove("env");
    assert_eq!(server, expected, "{config}");
    let tools = "mcp__snowglobe__exec,mcp__snowglobe__read,mcp__snowglobe__job";
    let allowed = ["-p", "run it", "--allowedTools", tools];
    agent.works("messages", &allowed).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn claude_code_shows_the_model_everything() {
    let agent = claude_code();
    agent.add(&["--", "snowglobe", "serve"]).await;
    let server = json!({"type": "stdio", "command": SERVE[0], "args": SERVE[1..]});
    claude_code_works(&agent, server).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn claude_code_asks_to_apply_what_it_changed() {
    let agent = claude_code().in_a_copy();
    agent.add(&["--", "snowglobe", "serve"]).await;
    let tools = "mcp__snowglobe__exec,mcp__snowglobe__changes";
    let allowed = ["-p", "run it", "--allowedTools", tools];
    agent.asks_to_apply("messages", &allowed).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn claude_code_shows_the_model_everything_over_http() {
    let agent = claude_code().over_http();
    let header = format!("Authorization: Bearer {TOKEN}");
    agent
        .add(&[URL, "--transport", "http", "--header", &header])
        .await;
    let headers = json!({"Authorization": format!("Bearer {TOKEN}")});
    let server = json!({"type": "http", "url": URL, "headers": headers});
    claude_code_works(&agent, server).await;
}

fn codex() -> Agent {
    Agent::new(
        &["@openai/codex/bin/codex.js"],
        &[("OPENAI_API_KEY", "none")],
    )
}

async fn codex_works(agent: &Agent, expected: Value) {
    let text = std::fs::read_to_string(agent.home(".codex/config.toml")).unwrap();
    let config: toml::Value = toml::from_str(&text).unwrap();
    let server = json!(config["mcp_servers"]["snowglobe"]);
    assert_eq!(server, expected, "{text}");
    let mut arguments = vec!["exec", "--skip-git-repo-check"];
    arguments.push("--dangerously-bypass-approvals-and-sandbox");
    for setting in [
        "model=\"scripted\"",
        "model_provider=\"scripted\"",
        "model_providers.scripted.name=\"scripted\"",
        "model_providers.scripted.base_url=\"{model}/v1\"",
        "model_providers.scripted.env_key=\"OPENAI_API_KEY\"",
        "model_providers.scripted.wire_api=\"responses\"",
        "analytics.enabled=false",
        "check_for_update_on_startup=false",
        "features.apps=false",
        "features.plugins=false",
    ] {
        arguments.extend(["-c", setting]);
    }
    arguments.push("run it");
    agent.works("responses", &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn codex_shows_the_model_everything() {
    let agent = codex();
    agent.add(&["--", "snowglobe", "serve"]).await;
    let server = json!({"command": SERVE[0], "args": SERVE[1..]});
    codex_works(&agent, server).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn codex_shows_the_model_everything_over_http() {
    let agent = codex().over_http();
    let arguments = ["--url", URL, "--bearer-token-env-var", "MCP_TOKEN"];
    agent.add(&arguments).await;
    let server = json!({"url": URL, "bearer_token_env_var": "MCP_TOKEN"});
    codex_works(&agent, server).await;
}

fn gemini_cli() -> Agent {
    let agent = Agent::new(
        &["@google/gemini-cli/bundle/gemini.js"],
        &[
            ("GOOGLE_GEMINI_BASE_URL", "{model}"),
            ("GEMINI_API_KEY", "none"),
            ("GEMINI_TELEMETRY_ENABLED", "false"),
            ("GEMINI_CLI_TRUST_WORKSPACE", "true"),
        ],
    );
    let settings = json!({"privacy": {"usageStatisticsEnabled": false},
        "general": {"enableAutoUpdate": false, "enableAutoUpdateNotification": false},
        "security": {"auth": {"selectedType": "gemini-api-key"}}});
    agent.configure(".gemini/settings.json", &settings.to_string());
    agent
}

async fn gemini_cli_works(agent: &Agent, expected: Value) {
    let config = json_of(&agent.place.workspace.join(".gemini/settings.json"));
    assert_eq!(config["mcpServers"]["snowglobe"], expected, "{config}");
    let arguments = ["-m", "gemini-2.5-flash", "--approval-mode", "yolo"];
    let arguments = [&arguments[..], &["-p", "run it"]].concat();
    agent.works("gemini", &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn gemini_cli_shows_the_model_everything() {
    let agent = gemini_cli();
    agent.add(&SERVE).await;
    let server = json!({"command": SERVE[0], "args": SERVE[1..]});
    gemini_cli_works(&agent, server).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn gemini_cli_shows_the_model_everything_over_http() {
    let agent = gemini_cli().over_http();
    let header = format!("Authorization: Bearer {TOKEN}");
    agent
        .add(&[URL, "--transport", "http", "--header", &header])
        .await;
    let headers = json!({"Authorization": format!("Bearer {TOKEN}")});
    let server = json!({"url": URL, "type": "http", "headers": headers});
    gemini_cli_works(&agent, server).await;
}

fn opencode() -> Agent {
    let mut agent = Agent::new(
        &[
            "opencode-linux-x64-baseline/bin/opencode",
            "opencode-linux-arm64/bin/opencode",
        ],
        &[
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
            ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
        ],
    );
    let model = json!({"name": "m", "tool_call": true, "attachment": true,
        "modalities": {"input": ["text", "image"], "output": ["text"]},
        "limit": {"context": 100_000, "output": 4000}});
    let provider = json!({"npm": "@ai-sdk/openai-compatible", "name": "Scripted",
        "options": {"baseURL": "{model}/v1", "apiKey": "none"}, "models": {"m": model}});
    let settings = json!({"autoupdate": false, "share": "disabled", "model": "scripted/m",
        "small_model": "scripted/m", "enabled_providers": ["scripted"], "provider": {"scripted": provider}});
    let name = "OPENCODE_CONFIG_CONTENT".to_owned();
    agent.env.insert(name, settings.to_string());
    agent
}

async fn opencode_works(agent: &Agent, expected: Value) {
    let user = agent.home(".config/opencode");
    let files = [&user, &agent.place.workspace]
        .map(|dir| ["opencode.json", "opencode.jsonc"].map(|name| dir.join(name)));
    let written = files
        .iter()
        .flatten()
        .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("snowglobe")));
    let config = json_of(written.expect("the configuration has the server"));
    assert_eq!(config["mcp"]["snowglobe"], expected, "{config}");
    agent.works("chat", &["run", "run it"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn opencode_shows_the_model_everything() {
    let agent = opencode();
    agent.add(&["--", "snowglobe", "serve"]).await;
    opencode_works(&agent, json!({"type": "local", "command": SERVE})).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn opencode_asks_to_apply_what_it_changed() {
    let agent = opencode().in_a_copy();
    agent.add(&["--", "snowglobe", "serve"]).await;
    agent.asks_to_apply("chat", &["run", "run it"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn opencode_shows_the_model_everything_over_http() {
    let agent = opencode().over_http();
    let header = format!("Authorization=Bearer {TOKEN}");
    agent.add(&["--url", URL, "--header", &header]).await;
    let headers = json!({"Authorization": format!("Bearer {TOKEN}")});
    let server = json!({"type": "remote", "url": URL, "headers": headers});
    opencode_works(&agent, server).await;
}
