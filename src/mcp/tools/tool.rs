//! What a tool is.

use std::sync::Arc;

use rmcp::model::{CallToolResult, JsonObject, ToolAnnotations};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::schema;
use crate::mcp::call::Call;
use crate::mcp::confirm::Reach;
use crate::mcp::facts::{Facts, Network};
use crate::mcp::refusal::Refusal;
use crate::sandbox::Sandbox;

/// One tool of the server.
pub(crate) trait Tool: 'static {
    /// The arguments of a call.
    type Parameters: DeserializeOwned + JsonSchema + Send;

    /// The name, of `[a-z_]{1,40}`.
    const NAME: &'static str;
    /// The title that people see.
    const TITLE: &'static str;
    /// The shape of the icon: SVG elements in a square of 24 by 24.
    const ICON: &'static str;
    /// What clients may assume of a call.
    const HINTS: Hints;

    /// What a call changes that a person is asked about ([`Self::question`]).
    const REACH: Reach = Reach::Sandbox;

    /// What the tool does, for the model: one short paragraph.
    fn description(facts: &Facts) -> String;

    /// The schema of the parameters.
    fn parameters(_facts: &Facts) -> JsonObject {
        schema::input::<Self::Parameters>()
    }

    /// The schema of the structured result, if the tool declares one.
    fn output() -> Option<Arc<JsonObject>>;

    /// The question to a person before a call that can't be undone, where such questions are configured.
    fn question(_parameters: &Self::Parameters, _facts: &Facts) -> Result<Option<String>, Refusal> {
        Ok(None)
    }

    /// Does what the call asks for.
    fn run(
        parameters: Self::Parameters,
        context: Context<'_>,
    ) -> impl Future<Output = Result<CallToolResult, Refusal>> + Send;
}

/// What a tool's call acts on.
pub(crate) struct Context<'a> {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) facts: &'a Facts,
    pub(crate) call: &'a Call,
}

/// What clients may assume of a tool's calls; some ask a person before a call that may destroy something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hints {
    pub(super) read_only: bool,
    destructive: bool,
    idempotent: bool,
    /// Whether a call runs commands, which reach what the sandbox reaches.
    pub(super) runs_commands: bool,
}

impl Hints {
    /// A call changes nothing.
    pub(super) const READS: Self = Self {
        read_only: true,
        destructive: false,
        idempotent: true,
        runs_commands: false,
    };
    /// A call may change or remove something.
    pub(super) const CHANGES: Self = Self {
        read_only: false,
        destructive: true,
        idempotent: false,
        runs_commands: false,
    };
    /// A call removes something, and a second one right after it changes nothing more.
    pub(super) const RESETS: Self = Self {
        read_only: false,
        destructive: true,
        idempotent: true,
        runs_commands: false,
    };

    /// A call changes something, destroys nothing, and a second one right after it changes nothing more.
    pub(super) const OPENS: Self = Self {
        read_only: false,
        destructive: false,
        idempotent: true,
        runs_commands: false,
    };

    /// A call runs a command, or goes on with one.
    pub(super) const RUNS: Self = Self {
        runs_commands: true,
        ..Self::CHANGES
    };

    pub(super) fn annotations(self, title: &str, facts: &Facts) -> ToolAnnotations {
        ToolAnnotations::with_title(title)
            .read_only(self.read_only)
            .destructive(self.destructive)
            .idempotent(self.idempotent)
            // Without a network a tool reaches nothing outside of the sandbox.
            .open_world(self.runs_commands && facts.network != Network::Off)
    }
}
