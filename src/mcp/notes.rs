//! What a result says beyond its data, in both of its forms.

use rmcp::model::{CallToolResult, ContentBlock};
use serde::Serialize;
use serde_json::{Value, json};

use crate::mcp::output::terminal;
use crate::mcp::refusal::Refusal;
use crate::shown;

/// The field of the structured form that holds the notes.
pub(crate) const FIELD: &str = "notes";

/// How many notes of the guest's are taken, and how long each may be, in characters.
const MAX_GUEST_NOTES: usize = 20;
const MAX_GUEST_NOTE_LENGTH: usize = 600;

/// Advice, marks, and what was assumed or ignored.
///
/// Each note is written once and put into both forms of a result, since some clients show the model only one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notes(Vec<String>);

impl Notes {
    /// Notes that the guest sent. The guest is not trusted: their number and length are bounded, and each becomes a
    /// single line without control characters.
    pub(crate) fn from_guest(notes: Vec<String>) -> Self {
        let clean = |note: String| -> String {
            let note = shown::line(&terminal::plain(note.as_bytes())).into_owned();
            match note.char_indices().nth(MAX_GUEST_NOTE_LENGTH) {
                Some((end, _)) => format!("{}…", &note[..end]),
                None => note,
            }
        };
        Self(notes.into_iter().take(MAX_GUEST_NOTES).map(clean).collect())
    }

    /// Adds a note: a fragment, without brackets and without a full stop.
    pub(crate) fn add(&mut self, note: impl Into<String>) {
        self.0.push(shown::line(&note.into()).into_owned());
    }

    /// Adds several notes.
    pub(crate) fn add_all(&mut self, notes: impl IntoIterator<Item = String>) {
        notes.into_iter().for_each(|note| self.add(note));
    }

    /// Appends the notes to a result: each as a line in brackets at the end of the text, and as an entry of the
    /// structured form's `notes`. Notes that the result has already stay before them.
    pub(crate) fn append_to(self, mut result: CallToolResult) -> CallToolResult {
        if self.0.is_empty() {
            return result;
        }
        let lines: String = self.0.iter().map(|note| format!("\n[{note}]")).collect();
        let text = result.content.iter_mut().find_map(|block| match block {
            ContentBlock::Text(text) => Some(&mut text.text),
            _ => None,
        });
        match text {
            Some(text) => {
                text.truncate(text.trim_end_matches('\n').len());
                let lines = match text.is_empty() {
                    true => lines.trim_start(),
                    false => &lines,
                };
                text.push_str(lines);
            }
            None => result
                .content
                .push(ContentBlock::text(lines.trim_start().to_owned())),
        }
        if let Some(Value::Object(structured)) = &mut result.structured_content {
            let all = structured.entry(FIELD).or_insert_with(|| json!([]));
            if let Value::Array(all) = all {
                all.extend(self.0.into_iter().map(Value::String));
            }
        }
        result
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> &[String] {
        &self.0
    }
}

/// A successful result in both of its forms.
pub(crate) fn success(
    content: Vec<ContentBlock>,
    structured: &impl Serialize,
    notes: Notes,
) -> Result<CallToolResult, Refusal> {
    let structured = serde_json::to_value(structured)
        .map_err(|error| Refusal::new(format!("failed to write the result as JSON: {error}")))?;
    let mut result = CallToolResult::success(content);
    result.structured_content = Some(structured);
    Ok(notes.append_to(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_in_both_forms() {
        let notes = |all: &[&str]| Notes(all.iter().map(|note| (*note).to_owned()).collect());
        let done = |notes| success(vec![ContentBlock::text("out\n")], &json!({"a": 1}), notes);
        let plain = done(Notes::default()).unwrap();
        assert_eq!(plain.content[0].as_text().unwrap().text, "out\n");
        assert_eq!(plain.structured_content, Some(json!({"a": 1})));
        let result = notes(&["two"]).append_to(done(notes(&["one"])).unwrap());
        assert_eq!(
            result.content[0].as_text().unwrap().text,
            "out\n[one]\n[two]"
        );
        assert_eq!(
            result.structured_content,
            Some(json!({"a": 1, "notes": ["one", "two"]}))
        );
        let empty = success(vec![ContentBlock::text("")], &json!({}), notes(&["one"])).unwrap();
        assert_eq!(empty.content[0].as_text().unwrap().text, "[one]");
        let refused = notes(&["one"]).append_to(Refusal::new("\u{1b}[1mno").into_result());
        assert_eq!(refused.content[0].as_text().unwrap().text, "no\n[one]");
        assert_eq!(refused.structured_content, None);
    }

    #[test]
    fn a_guests_notes_are_few_short_lines() {
        let notes = Notes::from_guest(vec!["é\n".repeat(10_000); 1000]);
        assert_eq!(notes.all().len(), 20);
        for note in notes.all() {
            assert_eq!(note.chars().count(), 601);
            assert!(!note.contains('\n'));
        }
        let short = Notes::from_guest(vec!["short\u{1b}[1m".to_owned()]);
        assert_eq!(short.all(), ["short"]);
    }
}
