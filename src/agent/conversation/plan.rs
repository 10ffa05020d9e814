//! The agent's only tool of its own: the list of what the model has to do.

use serde_json::{Value, json};

use crate::agent::event::PlanItem;
use crate::agent::message::{Call, CallResult};
use crate::agent::providers::Tool;

/// Its name.
pub(super) const NAME: &str = "plan";

/// The most points of a list.
const MOST: usize = 50;

/// The longest text of a point, in bytes.
const LONGEST: usize = 400;

/// The tool.
pub(super) fn tool() -> Tool {
    Tool {
        name: NAME.into(),
        description: "Set the list of steps of a task that has several, which the person sees. Each call replaces the \
                      whole list. Exactly one step is active while you work; set it to done before you begin the next."
            .into(),
        schema: json!({
            "type": "object",
            "properties": {
                "items": {
                    "type": "array",
                    "description": "All steps, in order",
                    "items": {
                        "type": "object",
                        "properties": {
                            "step": {"type": "string", "description": "What is to be done, in a few words"},
                            "status": {"type": "string", "enum": ["pending", "active", "done"]}
                        },
                        "required": ["step", "status"],
                        "additionalProperties": false
                    }
                }
            },
            "required": ["items"],
            "additionalProperties": false
        }),
    }
}

/// The list that a call sets. An error is what the model is told.
pub(super) fn items(arguments: &Value) -> Result<Vec<PlanItem>, String> {
    let items = arguments.get("items").cloned().unwrap_or_default();
    let items: Vec<PlanItem> = serde_json::from_value(items)
        .map_err(|error| format!("`items` is not a list of steps: {error}"))?;
    match items.iter().any(|item| item.step.len() > LONGEST) || items.len() > MOST {
        true => Err(format!(
            "a list has at most {MOST} steps of at most {LONGEST} bytes"
        )),
        false => Ok(items),
    }
}

/// The result of a call.
pub(super) fn result(call: &Call) -> CallResult {
    match items(&call.arguments) {
        Ok(_) => CallResult::text(call, "the person sees the list", false),
        Err(why) => CallResult::text(call, why, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::event::PlanStatus;

    #[test]
    fn a_list_is_taken_whole_or_not_at_all() {
        let good = json!({"items": [{"step": "look", "status": "done"}, {"step": "mend", "status": "active"}]});
        let items_of = items(&good).unwrap();
        assert_eq!(items_of[1].status, PlanStatus::Active);
        assert_eq!(items(&json!({"items": []})).unwrap(), []);
        for bad in [
            json!({}),
            json!({"items": "look"}),
            json!({"items": [{"step": "look", "status": "maybe"}]}),
            json!({"items": vec![json!({"step": "x", "status": "done"}); 51]}),
            json!({"items": [{"step": "x".repeat(401), "status": "done"}]}),
            json!("text"),
        ] {
            assert!(items(&bad).is_err(), "{bad}");
        }
    }
}
