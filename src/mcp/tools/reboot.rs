//! `reboot`: a clean system.

use std::sync::Arc;
use std::time::Instant;

use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::facts::{Facts, Workspace};
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::text;
use crate::time::millis;

pub(crate) struct Reboot;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// How long it took until the clean system was ready, in milliseconds
    took_ms: u64,
}

impl Tool for Reboot {
    type Parameters = Parameters;

    const NAME: &'static str = "reboot";
    const TITLE: &'static str = "Reboot into a clean system";
    const ICON: &'static str = "<path d='M19 12a7 7 0 1 1-2-5M19 3v5h-5'/>";
    const HINTS: Hints = Hints::RESETS;

    fn description(facts: &Facts) -> String {
        let lost = match facts.workspace {
            Workspace::Shared | Workspace::Copied => {
                "everything outside /workspace are gone; /workspace and saved snapshots stay"
            }
            Workspace::OwnDisk => {
                "all files (those in /workspace, too) are gone; saved snapshots stay"
            }
        };
        format!(
            "Throw the microVM away and boot a clean one, in seconds. Running processes and {lost}. Use it when the \
             system is broken or hangs."
        )
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    fn question(_: &Parameters, facts: &Facts) -> Result<Option<String>, Refusal> {
        let lost = match facts.workspace {
            Workspace::Shared | Workspace::Copied => {
                "Everything outside /workspace that is not in a snapshot"
            }
            Workspace::OwnDisk => {
                "Everything in it that is not in a snapshot, the files in /workspace included,"
            }
        };
        Ok(Some(format!(
            "Reboot the sandbox into a clean system? {lost} is lost, and its processes end."
        )))
    }

    async fn run(_: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let sandbox = context.sandbox;
        let began = Instant::now();
        context
            .call
            .run(|work| async move { sandbox.reboot(&work.progress).await })
            .await??;
        let took = began.elapsed();
        let text = format!("[a clean system is ready after {}]", text::duration(took));
        let mut notes = Notes::default();
        notes.add(match context.facts.workspace {
            Workspace::Shared | Workspace::Copied => {
                "/workspace is as it was; everything else is as the image has it"
            }
            Workspace::OwnDisk => "everything is as the image has it, and /workspace is empty",
        });
        let structured = Structured {
            took_ms: millis(took),
        };
        success(vec![ContentBlock::text(text)], &structured, notes)
    }
}
