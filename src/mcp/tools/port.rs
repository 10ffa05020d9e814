//! `port`: makes what listens in the sandbox reachable from this machine.

use std::net::SocketAddr;
use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::network::ports::Port as State;
use crate::shown;

pub(crate) struct Port;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// What to do
    action: Action,
    /// Port in the sandbox; needed for open and close
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Open,
    Close,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// What was done
    action: Action,
    /// Where the opened port is reached from this machine
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// The ports on which programs listen, and those that are open
    ports: Vec<Record>,
}

#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Record {
    /// Its number in the sandbox
    port: u16,
    /// Whether a program listens there
    listening: bool,
    /// The program, if known
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    /// Where it is reached from this machine, if it is open
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl Tool for Port {
    type Parameters = Parameters;

    const NAME: &'static str = "port";
    const TITLE: &'static str = "Reach a server in the sandbox";
    const ICON: &'static str = "<circle cx='12' cy='12' r='9'/><path d='M3 12h18M12 3c5 5 5 13 0 18M12 3c-5 5-5 13 0 18'/>";
    const HINTS: Hints = Hints::OPENS;

    fn description(_: &Facts) -> String {
        "List what listens in the microVM, open one of its ports on the user's machine, or close it. Open gives a URL on \
         127.0.0.1 that the user's browser reaches; the server may listen on localhost or on all addresses. It needs no \
         network and stays open over a reboot. Inside the microVM use the port itself."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let sandbox = context.sandbox;
        let mut notes = Notes::default();
        let mut url = None;
        match (parameters.action, parameters.port) {
            (Action::List, _) => {}
            (_, None | Some(0)) => {
                return Err(Refusal::new("`port` is missing: a number from 1 to 65535"));
            }
            (Action::Open, Some(port)) => {
                let open = sandbox.open_port(port, None).await?;
                if open.address.port() != port {
                    notes.add(format!(
                        "port {port} of this machine is taken, so it is another one"
                    ));
                }
                url = Some(address_of(open.address));
            }
            (Action::Close, Some(port)) if sandbox.close_port(port) => {}
            (Action::Close, Some(port)) => {
                return Err(Refusal::new(format!(
                    "port {port} is not open: `list` shows those that are"
                )));
            }
        }
        let ports = sandbox.ports().await?;
        if let (Action::Open, Some(port)) = (parameters.action, parameters.port)
            && !ports.iter().any(|one| one.port == port && one.listening)
        {
            notes.add(format!(
                "nothing listens on port {port} yet; it is reached as soon as something does"
            ));
        }
        let text = as_text(url.as_deref(), &ports);
        let ports = ports.into_iter().map(Record::from).collect();
        let action = parameters.action;
        success(
            vec![ContentBlock::text(text)],
            &Structured { action, url, ports },
            notes,
        )
    }
}

impl From<State> for Record {
    fn from(state: State) -> Self {
        Self {
            port: state.port,
            listening: state.listening,
            program: state.program.map(|name| shown::line(&name).into_owned()),
            url: state.address.map(address_of),
        }
    }
}

fn address_of(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn as_text(url: Option<&str>, ports: &[State]) -> String {
    let head = url.map_or_else(String::new, |url| format!("{url}\n"));
    if ports.is_empty() {
        return head + "nothing listens";
    }
    let lines = ports.iter().map(|one| {
        let by = match (&one.program, one.listening) {
            (Some(name), _) => shown::line(name).into_owned(),
            (None, true) => "a program".to_owned(),
            (None, false) => "nothing listens".to_owned(),
        };
        let open = one
            .address
            .map_or_else(String::new, |at| format!("  {}", address_of(at)));
        format!("  {:<5}  {by}{open}\n", one.port)
    });
    head + "ports:\n" + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_what_listens_and_where_it_is_reached() {
        let ports = [
            State {
                port: 80,
                listening: false,
                program: None,
                address: Some("127.0.0.1:4000".parse().unwrap()),
            },
            State {
                port: 5173,
                listening: true,
                program: Some("no\u{1b}de".into()),
                address: None,
            },
        ];
        let text = as_text(Some("http://127.0.0.1:4000"), &ports);
        assert!(
            text.starts_with(
                "http://127.0.0.1:4000\nports:\n  80     nothing listens  http://127.0.0.1:4000\n"
            ),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(as_text(None, &[]), "nothing listens");
    }
}
