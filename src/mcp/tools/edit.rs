//! `edit`: replaces an exact text in a file.

use std::sync::Arc;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::sandbox::{EditRequest, User};

pub(crate) struct Edit;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// File, absolute or relative to /workspace
    path: String,
    /// The text to replace, exactly as in the file (without the line numbers that read shows)
    old_string: String,
    /// The text that replaces it
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
    /// The changes as a unified diff
    diff: String,
}

impl Tool for Edit {
    type Parameters = Parameters;

    const NAME: &'static str = "edit";
    const TITLE: &'static str = "Edit a file";
    const ICON: &'static str = "<path d='M4 20l1-5L16 4l4 4L9 19z'/>";
    const HINTS: Hints = Hints::CHANGES;

    fn description(_: &Facts) -> String {
        "Replace an exact text in a file of the microVM, once or everywhere, as the user `sandbox`. Refused if \
         the text is absent or ambiguous. Line breaks match whichever kind the file has; encoding, line endings and \
         mode stay. Gives the diff."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        if parameters.path.is_empty() || parameters.path.ends_with('/') {
            return Err(Refusal::new(format!(
                "`path` must name a file, not {:?}",
                parameters.path
            )));
        }
        let request = EditRequest {
            path: parameters.path,
            user: User::Sandbox,
            old: parameters.old_string,
            new: parameters.new_string,
            all: parameters.replace_all.unwrap_or(false),
        };
        let sandbox = context.sandbox;
        let edited = context
            .call
            .run(|work| async move { sandbox.edit(request, &work.progress).await })
            .await??;
        let times = match edited.replacements {
            1 => "1 replacement".to_owned(),
            many => format!("{many} replacements"),
        };
        let text = format!("{}[{times} in {}]", edited.diff, edited.path);
        let structured = Structured {
            path: edited.path,
            replacements: edited.replacements,
            diff: edited.diff,
        };
        success(
            vec![ContentBlock::text(text)],
            &structured,
            Notes::from_guest(edited.notes),
        )
    }
}
