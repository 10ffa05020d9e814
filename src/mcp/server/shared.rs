//! What the servers of all clients share: made once.

use std::sync::Arc;

use rmcp::ErrorData;
use rmcp::model::{Implementation, ServerCapabilities, ServerConfig, Tool};

use crate::config::Config;
use crate::mcp::confirm::Confirmation;
use crate::mcp::facts::Facts;
use crate::mcp::icons;
use crate::mcp::instructions::instructions;
use crate::mcp::metrics::Metrics;
use crate::mcp::tools::{Entry, table};
use crate::sandbox::Sandbox;
use crate::text::nearest;

/// What the servers of all clients share.
pub(crate) struct Shared {
    tools: Vec<Entry>,
    pub(super) info: ServerConfig,
    pub(super) confirmation: Confirmation,
    pub(crate) metrics: Arc<Metrics>,
}

impl Shared {
    /// For the sandboxes of a fleet, which calls may name.
    pub(crate) fn fleet(config: &Config) -> Arc<Self> {
        Self::of(&Facts::of(config), config, true)
    }

    /// For one sandbox; `kept`: whether it stays when the client leaves.
    pub(crate) fn single(sandbox: &Sandbox, kept: bool) -> Arc<Self> {
        let facts = Facts {
            kept,
            ..Facts::of_sandbox(sandbox)
        };
        Self::of(&facts, sandbox.config(), false)
    }

    fn of(facts: &Facts, config: &Config, pooled: bool) -> Arc<Self> {
        let mut tools = table(facts);
        if pooled {
            tools = tools.into_iter().map(Entry::with_handle).collect();
        }
        Arc::new(Self {
            tools,
            info: info(facts),
            confirmation: Confirmation::new(config.calls.confirm, config.calls.confirm_apply),
            metrics: Arc::new(Metrics::new()),
        })
    }

    /// The tools as clients list them.
    pub(super) fn listings(&self) -> Vec<Tool> {
        self.tools.iter().map(|tool| tool.listing.clone()).collect()
    }

    /// The tool of that name.
    pub(super) fn tool(&self, name: &str) -> Result<&Entry, ErrorData> {
        let found = self.tools.iter().find(|tool| tool.name() == name);
        found.ok_or_else(|| {
            let known = self.tools.iter().map(Entry::name);
            let hint = nearest(name, known.clone())
                .map(|nearest| format!("did you mean `{nearest}`? "))
                .unwrap_or_default();
            let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
            ErrorData::invalid_params(
                format!(
                    "unknown tool `{name}`: {hint}the tools are {}",
                    known.join(", ")
                ),
                None,
            )
        })
    }
}

/// What the server says about itself.
fn info(facts: &Facts) -> ServerConfig {
    let server = Implementation::new("snowglobe", env!("CARGO_PKG_VERSION"))
        .with_title("Snowglobe")
        .with_description(env!("CARGO_PKG_DESCRIPTION"))
        .with_icons(vec![icons::icon(icons::SERVER)]);
    let capabilities = ServerCapabilities::builder()
        .enable_tools()
        .enable_resources()
        .enable_resources_subscribe()
        .enable_resources_list_changed()
        .enable_prompts()
        .enable_completions()
        .build();
    ServerConfig::new(capabilities)
        .with_server_info(server)
        .with_instructions(instructions(facts))
}
