//! Real agents, installed as the README says, driven end to end by a scripted model on this machine: each lists the
//! tools, calls `exec` in a real VM, and shows the model the output.
//!
//! They take 1.3 GB, so they run by name: `make agents`. Each has a home of its own, a key that is none, and a network
//! in which there is nothing but the loopback.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{PROGRAM, Place, TOOLS};
use serde_json::{Value, json};
use tokio::process::Command;

/// An agent's own place: a workspace, an empty home, and `snowglobe` where it looks for programs.
struct Agent {
    place: Place,
    program: PathBuf,
    env: BTreeMap<String, String>,
}

/// The first of these that was installed.
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
        // Whatever an agent leaves of the environment, the server has this place's settings.
        let mut script = "#!/bin/sh\n".to_owned();
        for (name, value) in place.command(&[]).as_std().get_envs() {
            let value = value.expect("a value").to_string_lossy();
            script += &format!("export {}='{value}'\n", name.to_string_lossy());
        }
        let data = Place::data_dir();
        script += &format!("export SNOWGLOBE_DATA_DIR='{}'\n", data.display());
        script += &format!("exec '{PROGRAM}' \"$@\"\n");
        let wrapper = bin.join("snowglobe");
        std::fs::write(&wrapper, script).unwrap();
        std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
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

    fn home(&self, path: &str) -> PathBuf {
        self.place.dir.path().join("home").join(path)
    }

    /// A file in the agent's home.
    fn configure(&self, path: &str, text: &str) {
        let path = self.home(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command in the workspace that reaches nothing but this machine.
    fn alone(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--net", "sh", "-c"])
            .args(["ip link set lo up && exec \"$@\"", "alone"])
            .arg(program)
            .current_dir(&self.place.workspace)
            .env_clear()
            .envs(&self.env)
            .kill_on_drop(true);
        command
    }

    /// Runs one of the README's lines, `agent mcp add …`.
    async fn add(&self, arguments: &[&str]) {
        let done = self.alone(&self.program).args(arguments).output().await;
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {said}");
    }

    /// Lets the agent do as the scripted model says, and checks what the model saw.
    async fn works(&self, protocol: &str, arguments: &[&str]) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents");
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agents");
        // Modules are looked for beside the program.
        let own = beside.join(self.place.name());
        std::fs::create_dir_all(&own).unwrap();
        for script in ["drive.mjs", "responses.mjs"] {
            std::fs::copy(scripts.join(script), own.join(script)).unwrap();
        }
        let mut command = vec![self.program.to_string_lossy().into_owned()];
        command.extend(arguments.iter().map(|it| it.to_string()));
        let about = json!({"protocol": protocol, "command": command, "env": self.env,
            "cwd": self.place.workspace, "line": "echo out-$((6*7)); uname -n"});
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
        let result = saw["result"].as_str().unwrap_or_default();
        assert!(
            result.contains("out-42") && result.contains("snowglobe"),
            "{saw}"
        );
        let said = saw["said"].as_str().unwrap();
        assert!(said.contains("the model is done"), "{saw}");
    }
}

/// Agents put the server's name before a tool's.
fn is_ours(name: &str, tool: &str) -> bool {
    name.strip_suffix(tool)
        .is_some_and(|before| before.trim_end_matches('_').ends_with("snowglobe"))
}

fn json_of(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn claude_code() {
    let agent = Agent::new(
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
            // Else it hides tools until the model searches for them, which this one does not.
            ("ENABLE_TOOL_SEARCH", "false"),
        ],
    );
    agent
        .add(&["mcp", "add", "snowglobe", "--", "snowglobe", "serve"])
        .await;
    let config = json_of(&agent.home(".claude.json"));
    let project = &config["projects"][agent.place.workspace.to_str().unwrap()];
    let server = &project["mcpServers"]["snowglobe"];
    assert_eq!(server["command"], "snowglobe", "{config}");
    assert_eq!(server["args"], json!(["serve"]));
    let allowed = ["-p", "run it", "--allowedTools", "mcp__snowglobe__exec"];
    agent.works("messages", &allowed).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn codex() {
    let agent = Agent::new(
        &["@openai/codex/bin/codex.js"],
        &[("OPENAI_API_KEY", "none")],
    );
    agent
        .add(&["mcp", "add", "snowglobe", "--", "snowglobe", "serve"])
        .await;
    let text = std::fs::read_to_string(agent.home(".codex/config.toml")).unwrap();
    let config: toml::Value = toml::from_str(&text).unwrap();
    let server = &config["mcp_servers"]["snowglobe"];
    assert_eq!(server["command"].as_str(), Some("snowglobe"), "{text}");
    assert_eq!(
        server["args"].as_array().unwrap()[0].as_str(),
        Some("serve")
    );
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
async fn gemini_cli() {
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
        .add(&["mcp", "add", "snowglobe", "snowglobe", "serve"])
        .await;
    let config = json_of(&agent.place.workspace.join(".gemini/settings.json"));
    let server = json!({"command": "snowglobe", "args": ["serve"]});
    assert_eq!(config["mcpServers"]["snowglobe"], server, "{config}");
    let arguments = ["-m", "gemini-2.5-flash", "--approval-mode", "yolo"];
    let arguments = [&arguments[..], &["-p", "run it"]].concat();
    agent.works("gemini", &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agents take 1.3 GB: `make agents` installs and runs them"]
async fn opencode() {
    let agent = Agent::new(
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
    agent
        .add(&["mcp", "add", "snowglobe", "--", "snowglobe", "serve"])
        .await;
    let written = [
        ".config/opencode/opencode.json",
        ".config/opencode/opencode.jsonc",
    ]
    .iter()
    .map(|name| agent.home(name))
    .chain([agent.place.workspace.join("opencode.json")])
    .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("snowglobe")));
    let config = json_of(&written.expect("the configuration has the server"));
    let server = &config["mcp"]["snowglobe"];
    assert_eq!(server["type"], "local", "{config}");
    assert_eq!(server["command"], json!(["snowglobe", "serve"]));
    let model =
        json!({"name": "m", "tool_call": true, "limit": {"context": 100_000, "output": 4000}});
    let provider = json!({"npm": "@ai-sdk/openai-compatible", "name": "Scripted",
        "options": {"baseURL": "{model}/v1", "apiKey": "none"}, "models": {"m": model}});
    let settings = json!({"autoupdate": false, "share": "disabled", "model": "scripted/m",
        "small_model": "scripted/m", "enabled_providers": ["scripted"], "provider": {"scripted": provider}});
    let mut agent = agent;
    let name = "OPENCODE_CONFIG_CONTENT".to_owned();
    agent.env.insert(name, settings.to_string());
    agent.works("chat", &["run", "run it"]).await;
}
