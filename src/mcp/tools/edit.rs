//! `edit`: replaces an exact text in a file.

use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::call::{Call, Notes, Refusal, noted, result};
use crate::mcp::tools::arguments;
use crate::mcp::tools::schema;
use crate::sandbox::{EditRequest, Sandbox, User};

pub(crate) const NAME: &str = "edit";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
    /// File, absolute or relative to /workspace
    path: String,
    /// The text to replace, exactly as in the file (without the line numbers that read shows)
    old_string: String,
    /// What takes its place
    new_string: String,
    /// Replace every occurrence; otherwise there must be exactly one (default false)
    replace_all: Option<bool>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// Absolute path of the file
    path: String,
    /// How many occurrences were replaced
    replacements: u64,
    /// What changed, as a unified diff
    diff: String,
}

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Replace an exact text in a file of the microVM, once or everywhere, as the user `sandbox`. Refused if \
         the text is absent or ambiguous. Line breaks match whichever kind the file has; encoding, line endings and \
         mode stay. Gives the diff.",
        schema::input::<Params>(),
    )
    .with_title("Edit a file")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Edit a file")
            .read_only(false)
            .destructive(true)
            .idempotent(false)
            .open_world(false),
    )
}

pub(crate) async fn call(
    tool: &Tool,
    arguments: Option<JsonObject>,
    sandbox: Arc<Sandbox>,
    call: &Call,
) -> Result<CallToolResult, Refusal> {
    let params: Params = arguments::parse(tool, arguments)?;
    if params.path.is_empty() || params.path.ends_with('/') {
        return Err(Refusal::new(format!(
            "`path` must name a file, not {:?}",
            params.path
        )));
    }
    let edit = EditRequest {
        path: params.path,
        user: User::Sandbox,
        old: params.old_string,
        new: params.new_string,
        all: params.replace_all.unwrap_or(false),
    };
    let done = call
        .run(|work| async move { sandbox.edit(edit, &work.progress).await })
        .await??;
    let times = match done.replacements {
        1 => "1 replacement".to_owned(),
        many => format!("{many} replacements"),
    };
    let text = format!("{}[{times} in {}]", done.diff, done.path);
    let structured = Structured {
        path: done.path,
        replacements: done.replacements,
        diff: done.diff,
    };
    let result = result(vec![ContentBlock::text(text)], &structured)?;
    Ok(noted(result, Notes::of_guest(done.notes)))
}
