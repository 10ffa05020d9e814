//! Which other servers there are: those of the user's `mcp.json`, and those of the project's if a person has allowed it.
//!
//! Such a file names programs that run on the host. The guest can write the project's file, so without consent to its very
//! content nothing of it counts ([`Consent`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, Consent, MCP_FILES, find_in_project};

/// A server, as clients write it: a program that speaks on its standard streams, or an address. Members that other
/// clients have are no errors.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    /// Its name; empty for Snowglobe's own.
    #[serde(skip)]
    pub(super) name: String,
    /// The program.
    pub(super) command: Option<String>,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// What its environment has beside this process's.
    pub(super) env: BTreeMap<String, String>,
    /// Where it starts.
    pub(super) cwd: Option<PathBuf>,
    /// The address.
    #[serde(alias = "serverUrl", alias = "httpUrl")]
    pub(super) url: Option<String>,
    /// What every request to it has.
    pub(super) headers: BTreeMap<String, String>,
    /// Its transport, if that is stated.
    #[serde(rename = "type", alias = "transport")]
    pub(super) kind: Option<String>,
    /// Whether it is not used.
    pub(super) disabled: bool,
}

/// The value of an environment variable.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The servers that the user and the project name, and what a person should know about the files.
pub(super) fn read(config: &Config) -> (Vec<Named>, Vec<String>) {
    let (mut servers, mut notices) = (Vec::new(), Vec::new());
    let variable = |name: &str| std::env::var(name).ok();
    let dirs = &config.host.dirs;
    if let Some(path) = dirs.config.as_ref().map(|dir| dir.join("mcp.json")) {
        match std::fs::read_to_string(&path) {
            Ok(text) => (servers, notices) = of_file(&path, &text, &variable),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => notices.push(format!("failed to read {}: {error}", path.display())),
        }
    }
    let consent = Consent::new(&dirs.data);
    for name in MCP_FILES {
        let found = find_in_project(&config.sandbox.project_dir, name);
        let found = found.and_then(|file| match file {
            Some(file) => Ok(Some((consent.given(&file)?, file))),
            None => Ok(None),
        });
        match found {
            Ok(Some((allowed, file))) => {
                let (named, said) = of_file(&file.path, &file.text, &variable);
                if allowed {
                    servers.extend(named);
                    notices.extend(said);
                } else if !named.is_empty() {
                    notices.push(ignored(&file.path, &named));
                }
            }
            Ok(None) => {}
            Err(error) => notices.push(format!("failed to {}", crate::describe(&error))),
        }
    }
    // Of two with one name, that of the user's file counts.
    let mut names = BTreeSet::new();
    servers.retain(|server| names.insert(server.name.clone()));
    (servers, notices)
}

fn ignored(path: &Path, named: &[Named]) -> String {
    let names: Vec<&str> = named.iter().map(|server| server.name.as_str()).collect();
    format!(
        "{} does not count, since it was not allowed yet: its servers ({}) would run on this machine, outside of the sandbox. \
         To allow this content of it, run `snowglobe allow` there and start the agent anew",
        path.display(),
        names.join(", ")
    )
}

/// What the servers of a file are, a line each, for a person who may allow them.
pub(crate) fn described(path: &Path, text: &str) -> Result<Vec<String>, String> {
    let kept = |name: &str| Some(format!("${{{name}}}"));
    let (servers, notices) = of_file(path, text, &kept);
    if servers.is_empty() && !notices.is_empty() {
        return Err(notices.join("; "));
    }
    let lines = servers.iter().map(|server| {
        let name = &server.name;
        match (&server.command, &server.url) {
            (Some(command), _) => {
                let args = server.args.iter().map(|arg| format!(" {arg:?}"));
                let args: String = args.collect();
                format!("{name}: runs {command:?}{args} on this machine, outside of the sandbox")
            }
            (None, url) => format!("{name}: is asked at {}", url.as_deref().unwrap_or_default()),
        }
    });
    Ok(lines.collect())
}

/// The servers of a file, and what is wrong with others: that does not keep these from being used.
fn of_file(path: &Path, text: &str, variable: Variable<'_>) -> (Vec<Named>, Vec<String>) {
    let (mut servers, mut notices) = (Vec::new(), Vec::new());
    let path = path.display();
    let file: serde_json::Result<Value> = serde_json::from_str(text);
    let file = file.map_err(|error| error.to_string());
    let entries = file.and_then(
        |mut file| match file.get_mut("mcpServers").map(Value::take) {
            Some(Value::Object(entries)) => Ok(entries),
            _ => Err("expected an object {\"mcpServers\": {NAME: …}}".to_owned()),
        },
    );
    match entries {
        Ok(entries) => {
            for (name, entry) in entries {
                match server(&name, entry, variable) {
                    Ok(server) => servers.extend(server),
                    Err(why) => {
                        notices.push(format!(
                            "failed to use the server {name:?} in {path}: {why}"
                        ));
                    }
                }
            }
        }
        Err(error) => notices.push(format!("failed to read {path}: {error}")),
    }
    (servers, notices)
}

/// The server of an entry; none if it is disabled.
fn server(name: &str, mut entry: Value, variable: Variable<'_>) -> Result<Option<Named>, String> {
    expand(&mut entry, variable)?;
    let mut server: Named = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    name.clone_into(&mut server.name);
    match (&server.command, &server.url) {
        _ if server.disabled => Ok(None),
        _ if server.kind.as_deref() == Some("sse") => {
            Err("it speaks the older transport SSE; only stdio and HTTP are spoken here".to_owned())
        }
        (Some(_), Some(_)) => Err("it has both a command and a url; expected one".to_owned()),
        (None, None) => Err("it has neither a command nor a url".to_owned()),
        _ if is_snowglobe(&server) => {
            Err("it is Snowglobe itself, whose tools the agent has already".to_owned())
        }
        _ => Ok(Some(server)),
    }
}

/// Whether a server is this program's own, started by its path, by `env` or by `npx`.
fn is_snowglobe(server: &Named) -> bool {
    let words = server.command.iter().chain(&server.args);
    let own = |word: &&String| Path::new(word).ends_with("snowglobe");
    let mut after = words.skip_while(|word| !own(word)).skip(1);
    after.any(|word| word == "serve")
}

/// Replaces `${NAME}` and `${NAME:-default}` in every text.
fn expand(value: &mut Value, variable: Variable<'_>) -> Result<(), String> {
    match value {
        Value::String(text) => *text = expanded(text, variable)?,
        Value::Array(values) => {
            for value in values {
                expand(value, variable)?;
            }
        }
        Value::Object(members) => {
            for value in members.values_mut() {
                expand(value, variable)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn expanded(text: &str, variable: Variable<'_>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${")
        && let Some((inner, next)) = after.split_once('}')
    {
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let value = variable(name).filter(|value| default.is_none() || !value.is_empty());
        let value = value.or_else(|| default.map(str::to_owned));
        out.push_str(before);
        out.push_str(&value.ok_or_else(|| format!("the variable {name} is not set"))?);
        rest = next;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The configuration of a project of its own.
    fn config(home: &Path) -> Config {
        let project = home.join("project");
        fs::create_dir(&project).unwrap();
        let sources = crate::config::Sources {
            user_file: None,
            env: Vec::new(),
            flags: crate::config::Raw {
                data_dir: Some(home.join("data")),
                ..Default::default()
            },
            cwd: project,
        };
        let mut config = Config::load(sources).unwrap();
        config.host.dirs.config = None;
        config
    }

    fn of(text: &str) -> (Vec<Named>, Vec<String>) {
        let variable = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        of_file(Path::new("/p/mcp.json"), text, &variable)
    }

    #[test]
    fn servers_are_read_as_other_clients_do() {
        let (servers, notices) = of(r#"{"other": 1, "mcpServers": {
                "files": {"command": "npx", "args": ["-y", "${SET}/x", "${EMPTY:-d}${UNSET:-}"], "env": {"K": "${SET}"}, "cwd": "/", "alwaysAllow": []},
                "web": {"type": "http", "url": "https://example.com/${SET}", "headers": {"Authorization": "Bearer ${SET}"}},
                "off": {"command": "x", "disabled": true}
            }}"#);
        assert_eq!(notices, Vec::<String>::new());
        let (program, http) = (&servers[0], &servers[1]);
        assert_eq!(program.args, ["-y", "value/x", "d"]);
        assert_eq!(
            (program.env["K"].as_str(), program.cwd.as_deref()),
            ("value", Some(Path::new("/")))
        );
        assert_eq!(
            (
                http.url.as_deref().unwrap(),
                http.headers["Authorization"].as_str()
            ),
            ("https://example.com/value", "Bearer value")
        );
        assert_eq!(servers.len(), 2);
    }

    #[test]
    fn what_is_wrong_with_one_server_is_said_and_the_others_count() {
        let (servers, notices) = of(r#"{"mcpServers": {
                "a": {"command": "x ${UNSET}"}, "b": {"type": "sse", "url": "http://x"}, "c": {}, "d": {"command": "x", "url": "y"},
                "e": {"command": 5}, "f": {"command": "fine ${"}
            }}"#);
        assert_eq!(servers.len(), 1);
        for why in [
            "UNSET is not set",
            "SSE",
            "neither",
            "both",
            "expected a string",
        ] {
            assert!(
                notices.iter().any(|notice| notice.contains(why)),
                "{why}: {notices:?}"
            );
        }
        for text in ["", "[]", r#"{"mcpServers": []}"#, r#"{"servers": {}}"#, "{"] {
            let (servers, notices) = of(text);
            assert!(
                servers.is_empty() && notices[0].starts_with("failed to read /p/mcp.json: "),
                "{notices:?}"
            );
        }
    }

    #[test]
    fn snowglobe_is_not_started_twice() {
        for command in [
            r#""command": "snowglobe", "args": ["serve"]"#,
            r#""command": "/opt/bin/snowglobe", "args": ["--verbose", "serve", "--rm"]"#,
            r#""command": "env", "args": ["A=1", "snowglobe", "serve"]"#,
        ] {
            let (servers, notices) = of(&format!(r#"{{"mcpServers": {{"s": {{{command}}}}}}}"#));
            assert!(
                servers.is_empty() && notices[0].contains("Snowglobe itself"),
                "{notices:?}"
            );
        }
        assert_eq!(
            of(r#"{"mcpServers": {"s": {"command": "serve", "args": ["snowglobe"]}}}"#)
                .0
                .len(),
            1
        );
        let (servers, notices) = of(include_str!("../../../mcp.json"));
        assert!(servers.is_empty() && notices.len() == 1);
    }

    #[test]
    fn a_project_s_file_counts_once_it_was_allowed() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path());
        let file = config.sandbox.project_dir.join(".mcp.json");
        let text = r#"{"mcpServers": {"evil": {"command": "rm", "args": ["-rf", "/"]}}}"#;
        fs::write(&file, text).unwrap();
        let (servers, notices) = read(&config);
        assert!(
            servers.is_empty()
                && notices[0].contains("(evil)")
                && notices[0].contains("snowglobe allow"),
            "{notices:?}"
        );
        let found = find_in_project(&config.sandbox.project_dir, ".mcp.json")
            .unwrap()
            .unwrap();
        Consent::new(&config.host.dirs.data).give(&found).unwrap();
        assert_eq!(read(&config).0.len(), 1);
        fs::write(&file, text.replace("/", "/x")).unwrap();
        assert!(read(&config).0.is_empty());
        let lines = described(&file, text).unwrap();
        assert_eq!(
            lines,
            ["evil: runs \"rm\" \"-rf\" \"/\" on this machine, outside of the sandbox"]
        );
    }
}
