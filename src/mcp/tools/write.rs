//! `write`: a whole file, atomically where that can be, or an addition to its end.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::call::{Call, Notes, Refusal, noted, result};
use crate::mcp::tools::arguments;
use crate::mcp::tools::schema;
use crate::sandbox::{Sandbox, User, Write, Written};
use crate::text;

pub(crate) const NAME: &str = "write";

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Params {
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

pub(crate) fn tool() -> Tool {
    Tool::new(
        NAME,
        "Write a file in the microVM, as the user `sandbox`: the whole file at once, or with `append` an \
         addition to its end. For files that belong to root use exec.",
        schema::input::<Params>(),
    )
    .with_title("Write a file")
    .with_raw_output_schema(schema::output::<Structured>())
    .with_annotations(
        ToolAnnotations::with_title("Write a file")
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
    let file = parse(tool, arguments)?;
    let append = file.append;
    let Written { path, bytes, notes } = call
        .run(|work| async move { sandbox.write(file, &work.progress).await })
        .await??;
    let size = text::size(bytes);
    let text = if append {
        format!("[added {size} to {path}]")
    } else {
        format!("[wrote {size} to {path}]")
    };
    let done = result(vec![ContentBlock::text(text)], &Structured { path, bytes })?;
    Ok(noted(done, Notes::of_guest(notes)))
}

fn parse(tool: &Tool, mut arguments: Option<JsonObject>) -> Result<Write, Refusal> {
    // Refused, not guessed: 755 would mean rwxr-xr-x, the number that 0o755 is would be 493, and 420 is both.
    if let Some(arguments) = &mut arguments
        && let Some(mode) = arguments.get("mode").filter(|mode| mode.is_number())
    {
        return Err(Refusal::new(format!(
            "`mode` must be a string of octal digits such as \"0755\", not the number {mode}"
        )));
    }
    let params: Params = arguments::parse(tool, arguments)?;
    if params.path.is_empty() || params.path.ends_with('/') {
        return Err(Refusal::new(format!(
            "`path` must name a file, not {:?}",
            params.path
        )));
    }
    Ok(Write {
        path: params.path,
        content: match params.encoding {
            Some(Encoding::Base64) => decoded(params.content)?,
            Some(Encoding::Utf8) | None => Bytes::from(params.content),
        },
        mode: params.mode.as_deref().map(mode).transpose()?,
        append: params.append.unwrap_or(false),
        user: User::Sandbox,
    })
}

fn decoded(mut content: String) -> Result<Bytes, Refusal> {
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

    fn parsed(arguments: serde_json::Value) -> Result<Write, String> {
        parse(&tool(), arguments.as_object().cloned())
            .map_err(|refusal| refusal.message().to_owned())
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
            "`mode` must be a string of octal digits such as \"0755\", not the number 755"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_advice() {
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
