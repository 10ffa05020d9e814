//! A tool in the table: its listing, and what happens with a call of it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rmcp::model::{CallToolResult, JsonObject, Tool as Listing};
use serde_json::{Value, json};

use super::tool::{Context, Tool};
use super::{arguments, schema};
use crate::mcp::confirm::Reach;
use crate::mcp::facts::Facts;
use crate::mcp::icons;
use crate::mcp::notes::Notes;
use crate::mcp::refusal::HANDLE;
use crate::mcp::refusal::Refusal;

type Question = fn(JsonObject, &Facts) -> Result<Option<String>, Refusal>;
type Run = for<'a> fn(JsonObject, Context<'a>) -> BoxFuture<'a, Result<CallToolResult, Refusal>>;

/// A tool in the table.
pub(crate) struct Entry {
    /// As clients see it.
    pub(crate) listing: Listing,
    /// What arguments are checked against.
    schema: JsonObject,
    question: Question,
    run: Run,
    runs_commands: bool,
    read_only: bool,
    reach: Reach,
}

impl Entry {
    pub(super) fn of<T: Tool>(facts: &Facts) -> Self {
        let schema = T::parameters(facts);
        let mut listing = Listing::new(T::NAME, T::description(facts), schema::listed(&schema))
            .with_title(T::TITLE)
            .with_icons(vec![icons::icon(T::ICON)])
            .with_annotations(T::HINTS.annotations(T::TITLE, facts));
        if let Some(output) = T::output() {
            listing = listing.with_raw_output_schema(output);
        }
        Self {
            listing,
            schema,
            runs_commands: T::HINTS.runs_commands,
            read_only: T::HINTS.read_only,
            reach: T::REACH,
            question: |arguments, facts| T::question(&arguments::parse(T::NAME, arguments)?, facts),
            run: |arguments, context| {
                Box::pin(
                    async move { T::run(arguments::parse(T::NAME, arguments)?, context).await },
                )
            },
        }
    }

    /// The same tool, where a call may name its sandbox by a handle.
    pub(crate) fn with_handle(mut self) -> Self {
        let add = |schema: &mut JsonObject, description: &str| {
            if let Some(Value::Object(properties)) = schema.get_mut("properties") {
                let property = json!({"type": "string", "description": description});
                properties.insert(HANDLE.to_owned(), property);
            }
        };
        let input = "Handle of the sandbox to use, from an earlier result; without one a client with a session has \
                     its own, any other gets a new one";
        add(&mut self.schema, input);
        add(Arc::make_mut(&mut self.listing.input_schema), input);
        if let Some(output) = &mut self.listing.output_schema {
            let output = Arc::make_mut(output);
            add(output, "Handle of the new sandbox, for the next calls");
        }
        self
    }

    /// Whether a call runs commands, or goes on with some.
    pub(crate) fn runs_commands(&self) -> bool {
        self.runs_commands
    }

    /// Whether a call changes nothing.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What a call changes that a person confirms.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    pub(crate) fn name(&self) -> &str {
        &self.listing.name
    }

    /// The arguments as the schema wants them, and what there is to say about them.
    pub(crate) fn check(
        &self,
        arguments: Option<JsonObject>,
    ) -> Result<(JsonObject, Notes), Refusal> {
        arguments::check(self.name(), &self.schema, arguments)
    }

    /// The question to a person before a call with these arguments, which were checked.
    pub(crate) fn question(
        &self,
        arguments: JsonObject,
        facts: &Facts,
    ) -> Result<Option<String>, Refusal> {
        (self.question)(arguments, facts)
    }

    /// Does what a call with these arguments asks for, which were checked.
    pub(crate) async fn run(
        &self,
        arguments: JsonObject,
        context: Context<'_>,
    ) -> Result<CallToolResult, Refusal> {
        (self.run)(arguments, context).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mcp::facts::{Network, Workspace};

    /// Facts of a sandbox that shares its workspace.
    pub(crate) const SHARED: Facts = Facts {
        repository: false,
        workspace: Workspace::Shared,
        exec_timeout: Duration::from_secs(60),
        kept: false,
        network: Network::Off,
    };

    /// Facts of a sandbox that shares nothing.
    pub(crate) const PRIVATE: Facts = Facts {
        workspace: Workspace::OwnDisk,
        ..SHARED
    };

    /// A call's arguments as the tool gets them, or what the model is told.
    pub(crate) fn parameters<T: Tool>(arguments: Value) -> Result<T::Parameters, String> {
        let checked = Entry::of::<T>(&SHARED)
            .check(arguments.as_object().cloned())
            .and_then(|(checked, _)| arguments::parse(T::NAME, checked));
        checked.map_err(|refusal| refusal.message().to_owned())
    }
}
