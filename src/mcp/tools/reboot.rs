//! `reboot`: a clean system.

use std::sync::Arc;
use std::time::Instant;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::call::{Call, Notes, Refusal, noted, result};
use crate::mcp::tools::arguments;
use crate::mcp::tools::schema;
use crate::sandbox::Sandbox;
use crate::text;

pub(crate) const NAME: &str = "reboot";

/// What a person is asked before.
pub(crate) const QUESTION: &str = "Reboot the sandbox into a clean system? Everything outside /workspace that is not in a \
    snapshot is lost, and what runs there ends.";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// How long it took until the clean system was ready, in milliseconds
    took_ms: u64,
}

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Throw the microVM away and boot a clean one, in seconds. Running processes and everything outside \
         /workspace are gone; /workspace and saved snapshots stay. Use it when the system is broken or hangs.",
        schema::input::<Params>(),
    )
    .with_title("Reboot into a clean system")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Reboot into a clean system")
            .read_only(false)
            .destructive(true)
            .idempotent(true)
            .open_world(false),
    )
}

pub(crate) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let Params {} = arguments::parse(tool, arguments)?;
    let began = Instant::now();
    call.run(|work| async move { sandbox.reboot(&work.progress).await })
        .await??;
    let took = began.elapsed();
    let text = format!("[a clean system is ready after {}]", text::duration(took));
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let mut notes = Notes::default();
    notes.add("/workspace is as it was; everything else is as the image has it");
    let done = result(vec![ContentBlock::text(text)], &Structured { took_ms })?;
    Ok(noted(done, notes))
}
