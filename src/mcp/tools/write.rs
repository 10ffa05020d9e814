//! `write`: writes a whole file, atomically where that is possible, or adds to its end.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::tool::{Context, Hints, Tool};
use crate::mcp::facts::Facts;
use crate::mcp::notes::{Notes, success};
use crate::mcp::refusal::Refusal;
use crate::sandbox::{User, Write as Request, Written};
use crate::text;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) struct Write;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    /// File: absolute, relative to /workspace, or below a home (~/x); missing parent directories are made
    path: String,
    /// What to write
    content: String,
    /// How `content` is encoded (default utf-8); base64 is for binary files
    encoding: Option<Encoding>,
    /// Permissions in octal, as a string such as "0755" (default: as the file had, 0644 if new)
    mode: Option<String>,
    /// Add to the end of the file instead of replacing it (default false)
    append: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Structured {
    /// Absolute path of the file
    path: String,
    /// How many bytes were written
    bytes: u64,
}

impl Tool for Write {
    type Parameters = Parameters;

    const NAME: &'static str = "write";
    const TITLE: &'static str = "Write a file";
    const ICON: &'static str = "<path d='M6 2h9l4 4v16H6zM12 18v-8M9 13l3-3 3 3'/>";
    const HINTS: Hints = Hints::CHANGES;

    fn description(_: &Facts) -> String {
        "Write a file in the microVM, as the user `sandbox`: the whole file at once, or with `append` an \
         addition to its end. For files that belong to root use exec."
            .to_owned()
    }

    fn output() -> Option<Arc<JsonObject>> {
        Some(schema::output::<Structured>())
    }

    async fn run(parameters: Parameters, context: Context<'_>) -> Result<CallToolResult, Refusal> {
        let request = request(parameters)?;
        let append = request.append;
        let sandbox = context.sandbox;
        let Written { path, bytes, notes } = context
            .call
            .run(|work| async move { sandbox.write(request, &work.progress).await })
            .await??;
        let size = text::size(bytes);
        let text = match append {
            true => format!("[added {size} to {path}]"),
            false => format!("[wrote {size} to {path}]"),
        };
        success(
            vec![ContentBlock::text(text)],
            &Structured { path, bytes },
            Notes::from_guest(notes),
        )
    }
}

fn request(parameters: Parameters) -> Result<Request, Refusal> {
    if parameters.path.is_empty() || parameters.path.ends_with('/') {
        return Err(Refusal::new(format!(
            "`path` must name a file, not {:?}",
            parameters.path
        )));
    }
    Ok(Request {
        path: parameters.path,
        content: match parameters.encoding {
            Some(Encoding::Base64) => decode(parameters.content)?,
            Some(Encoding::Utf8) | None => Bytes::from(parameters.content),
        },
        mode: parameters.mode.as_deref().map(mode).transpose()?,
        append: parameters.append.unwrap_or(false),
        user: User::Sandbox,
    })
}

fn decode(mut content: String) -> Result<Bytes, Refusal> {
    content.retain(|char| !char.is_ascii_whitespace());
    BASE64.decode(content).map(Bytes::from).map_err(|error| {
        Refusal::new(format!(
            "`content` is not base64: {error}; for text leave `encoding` out"
        ))
    })
}

fn mode(text: &str) -> Result<u32, Refusal> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal =
        (1..=5).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o7777 => Ok(mode),
        _ => Err(Refusal::new(format!(
            "`mode` must be octal digits from 0 to 7777, such as \"0755\", not {text:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mcp::tools::entry::tests::parameters;

    fn parsed(arguments: serde_json::Value) -> Result<Request, String> {
        request(parameters::<Write>(arguments)?).map_err(|refusal| refusal.message().to_owned())
    }

    #[test]
    fn arguments_become_a_file() {
        let write = parsed(json!({
            "path": "a/b", "content": "aGk\n=", "encoding": "base64", "mode": "755", "append": "true",
        }))
        .unwrap();
        assert_eq!(write.content.as_ref(), b"hi");
        assert_eq!(write.mode, Some(0o755));
        assert!(write.append);
        let write = parsed(json!({"path": "a", "content": "é", "mode": null})).unwrap();
        assert_eq!((write.content.as_ref(), write.mode), ("é".as_bytes(), None));
        assert!(!write.append);
    }

    #[test]
    fn modes_are_octal_strings() {
        assert_eq!(mode("0755"), Ok(0o755));
        assert_eq!(mode("0o644"), Ok(0o644));
        assert_eq!(mode("04755"), Ok(0o4755));
        for bad in ["", "0o", "rwx", "0888", "+755", "77777", "-1"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        let number = parsed(json!({"path": "a", "content": "", "mode": 755})).unwrap_err();
        assert_eq!(
            number,
            "`mode` must be a string, not 755; send it as text, in quotes"
        );
    }

    #[test]
    fn a_wrong_argument_is_refused_with_advice() {
        assert!(
            parsed(json!({"path": "a", "content": "é!", "encoding": "base64"}))
                .unwrap_err()
                .starts_with("`content` is not base64: ")
        );
        assert!(
            parsed(json!({"path": "a", "content": {"a": 1}}))
                .unwrap_err()
                .contains("send JSON as text")
        );
        assert!(
            parsed(json!({"file_path": "a", "content": ""}))
                .unwrap_err()
                .contains("did you mean `path`?")
        );
        assert!(parsed(json!({"path": "dir/", "content": ""})).is_err());
    }
}
