//! `snowglobe agent --demo`: a task of which only the model is scripted. The sandbox, its calls and their results are real.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::message::{Assistant, Message};
use super::providers::{Delta, Facts, ProviderError, Request};

/// The scripted model's name.
pub(crate) const MODEL: &str = "demo/scripted";

/// What the person says in the demo.
pub(crate) const PROMPT: &str = "`make test` fails in this project. Find out why and mend it.";

/// How long the scripted model takes for a word.
const WORD: Duration = Duration::from_millis(25);

/// The model's answers, in order; the last one is given again and again.
const SCRIPT: &str = include_str!("demo/script.json");

/// The project's files.
const FILES: [(&str, &str); 4] = [
    ("Makefile", include_str!("demo/Makefile")),
    ("roman.h", include_str!("demo/roman.h")),
    ("roman.c", include_str!("demo/roman.c")),
    ("tests.c", include_str!("demo/tests.c")),
];

/// Makes the project of the demo in an empty directory.
pub(crate) fn make_project(dir: &Path) -> std::io::Result<()> {
    for (name, text) in FILES {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(())
}

/// What is known of the scripted model.
pub(crate) fn facts() -> Facts {
    Facts {
        window: 100_000,
        longest_answer: 8_000,
        price: None,
        images: false,
    }
}

/// The scripted model's next answer.
pub(crate) async fn ask(
    request: Request<'_>,
    take: &mut (dyn FnMut(Delta) + Send),
    cancel: &CancellationToken,
) -> Result<Assistant, ProviderError> {
    let answers = request.messages.iter();
    let answers = answers.filter(|message| matches!(message, Message::Assistant(_)));
    let answered = answers.count();
    let script: Vec<Assistant> = serde_json::from_str(SCRIPT).unwrap_or_default();
    let over = || ProviderError::Cancelled(MODEL.into());
    let answer = script.get(answered).or(script.last());
    let mut answer = answer.cloned().ok_or_else(over)?;
    for word in answer.text.split_inclusive(' ') {
        tokio::select! {
            () = tokio::time::sleep(WORD) => take(Delta::Text(word.to_owned())),
            () = cancel.cancelled() => return Err(over()),
        }
    }
    let read = request.messages.iter();
    let read: usize = read.map(|one| json!(one).to_string().len()).sum();
    answer.usage.input = read as u64 / 4;
    answer.usage.output = answer.text.len() as u64 / 4;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_and_its_edit_fits() {
        let script: Vec<Assistant> = serde_json::from_str(SCRIPT).unwrap();
        assert!(script.len() > 5 && script[script.len() - 2].calls.is_empty());
        let calls = script.iter().flat_map(|answer| &answer.calls);
        let edit = calls.clone().find(|call| call.name == "edit").unwrap();
        let (_, source) = FILES.iter().find(|(name, _)| *name == "roman.c").unwrap();
        assert!(source.contains(edit.arguments["old_string"].as_str().unwrap()));
    }
}
