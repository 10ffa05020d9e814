//! Reads a resource.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rmcp::ErrorData;
use rmcp::model::{MetaObject, ReadResourceResult, ResourceContents};
use serde::Serialize;
use serde_json::json;

use super::address::{Address, Subject, media_type};
use crate::blocking::blocking;
use crate::guest::GuestError;
use crate::mcp::call::{Call, Work};
use crate::mcp::output::terminal;
use crate::mcp::output::utf8::{whole_at_end, whole_at_start};
use crate::mcp::records::{JobRecord, SnapshotRecord, directory_entries};
use crate::mcp::refusal::Refusal;
use crate::mcp::selector::Selector;
use crate::network::audit::{self, Record};
use crate::sandbox::{
    ErrorKind, JobAction, OUTPUT_DIRECTORY, ReadContent, Sandbox, SandboxError, WORKSPACE,
};
use crate::shown;

/// How much is read of an address that sets no limit, and at most, in bytes.
const DEFAULT_LIMIT: u64 = 1 << 20;
const MAX_LIMIT: u64 = 8 << 20;

/// How many lines of the network's log are shown.
const NEWEST: usize = 200;

/// The members of a content's `_meta`: the address of the rest, and the length of the whole.
const NEXT: &str = "snowglobe/next";
const SIZE: &str = "snowglobe/size";

/// Why a resource was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// No resource has this address.
    #[error("{0}")]
    NotFound(String),
    /// The resource could not be read.
    #[error("{0}")]
    Failed(String),
}

impl From<Refusal> for ReadError {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.message().to_owned())
    }
}

impl From<SandboxError> for ReadError {
    fn from(error: SandboxError) -> Self {
        let message = format!("failed to {}", crate::describe(&error));
        let not_found = match &error {
            SandboxError::NoJobs { .. } => true,
            SandboxError::Guest(GuestError::Guest(wire)) => {
                matches!(wire.kind, ErrorKind::NotFound | ErrorKind::InvalidRequest)
            }
            _ => false,
        };
        match not_found {
            true => Self::NotFound(message),
            false => Self::Failed(message),
        }
    }
}

impl ReadError {
    /// As the protocol's error. Parts of the message may come from the guest, so control characters are removed.
    pub(crate) fn into_protocol_error(self, uri: &str) -> ErrorData {
        let data = Some(json!({"uri": uri}));
        let shown = |message: &str| shown::text(&terminal::plain(message.as_bytes())).into_owned();
        match self {
            Self::NotFound(message) => ErrorData::resource_not_found(shown(&message), data),
            Self::Failed(message) => ErrorData::internal_error(shown(&message), data),
        }
    }
}

/// Reads the resource at `uri`.
pub(crate) async fn read(
    selector: &Selector,
    uri: &str,
    session: bool,
    call: &Call,
) -> Result<ReadResourceResult, ReadError> {
    let address = Address::parse(uri).map_err(|error| ReadError::NotFound(error.to_string()))?;
    let named = address.sandbox.as_deref();
    if named.is_none() && selector.has_fleet() && !session {
        return Err(ReadError::NotFound(format!(
            "{uri:?} does not name a sandbox: add `?sandbox=HANDLE`, with the handle from a tool's result"
        )));
    }
    let lease = selector.lease(named, session).await?;
    let sandbox = lease.sandbox.clone();
    let wanted = address.clone();
    let content = call
        .run(|work| async move { content(&sandbox, &wanted, &work).await })
        .await??;
    Ok(ReadResourceResult::new(vec![content.encode(&address, uri)]))
}

/// The content of a resource, or a part of it.
struct Content {
    bytes: Vec<u8>,
    media_type: &'static str,
    /// Its first byte in the whole.
    offset: u64,
    /// The length of the whole, in bytes.
    size: u64,
}

impl Content {
    fn json(value: &impl Serialize) -> Result<Self, ReadError> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| ReadError::Failed(format!("failed to write it as JSON: {error}")))?;
        let size = bytes.len() as u64;
        Ok(Self {
            bytes,
            media_type: "application/json",
            offset: 0,
            size,
        })
    }

    /// As text in whole characters, or as base64 if it is no text.
    fn encode(self, address: &Address, uri: &str) -> ResourceContents {
        let read = self.bytes.len() as u64;
        let start = match self.offset {
            0 => &self.bytes[..],
            _ => whole_at_start(&self.bytes),
        };
        let skipped = read - start.len() as u64;
        let last = self.offset + read >= self.size;
        let whole = if last { start } else { whole_at_end(start) };
        let (contents, used) = match std::str::from_utf8(whole) {
            Ok(text) if !text.contains('\0') => {
                let contents = ResourceContents::text(text, uri).with_mime_type(self.media_type);
                (contents, skipped + whole.len() as u64)
            }
            _ => {
                let media_type = match self.media_type {
                    "text/plain" => "application/octet-stream",
                    other => other,
                };
                let contents = ResourceContents::blob(STANDARD.encode(&self.bytes), uri);
                (contents.with_mime_type(media_type), read)
            }
        };
        let next = self.offset + used;
        let mut meta = MetaObject::new();
        meta.insert(SIZE.to_owned(), self.size.into());
        if next < self.size && used > 0 {
            let next = address.clone().starting(next).to_string();
            meta.insert(NEXT.to_owned(), next.into());
        }
        contents.with_meta(meta)
    }
}

/// Reads from the sandbox what the address names.
async fn content(
    sandbox: &Arc<Sandbox>,
    address: &Address,
    work: &Work,
) -> Result<Content, ReadError> {
    let offset = address.offset.unwrap_or(0);
    let limit = address.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    match &address.subject {
        Subject::Workspace(path) => {
            let path = format!("{WORKSPACE}/{path}");
            file(sandbox, path.trim_end_matches('/'), offset, limit, work).await
        }
        Subject::Output(name) => {
            let path = format!("{OUTPUT_DIRECTORY}/{name}");
            if sandbox.processes().is_none() {
                return Err(ReadError::NotFound(format!(
                    "there is no output {name:?}: no VM runs, and long outputs are removed with their VM"
                )));
            }
            file(sandbox, &path, offset, limit, work).await
        }
        Subject::Console => {
            let console = sandbox.console().await;
            let mut shown = console.text;
            if let Some(trouble) = console.trouble {
                shown.push_str(&format!("\n[{trouble}]\n"));
            }
            if shown.is_empty() {
                shown.push_str(
                    "[no VM has booted yet: the first call of a tool that needs one boots it]\n",
                );
            }
            let bytes = shown.into_bytes();
            let size = bytes.len() as u64;
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            let take = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(Content {
                bytes: bytes.into_iter().skip(skip).take(take).collect(),
                media_type: "text/plain",
                offset,
                size,
            })
        }
        Subject::Snapshots => {
            let saved = sandbox.snapshot_list().await?;
            Content::json(&saved.iter().map(SnapshotRecord::from).collect::<Vec<_>>())
        }
        Subject::Snapshot(name) => {
            let saved = sandbox.snapshot_list().await?;
            match saved.iter().find(|saved| saved.name.as_str() == name) {
                Some(saved) => Content::json(&SnapshotRecord::from(saved)),
                None => Err(ReadError::NotFound(format!(
                    "there is no snapshot {name:?}"
                ))),
            }
        }
        Subject::Network => {
            let path = sandbox.network().log().to_owned();
            let log = blocking(move || newest(&path)).await;
            let log = log.map_err(|error| {
                ReadError::Failed(format!("failed to read the log of the network: {error}"))
            })?;
            let status = sandbox.network().status();
            Content::json(&json!({"now": status, "log": log}))
        }
        Subject::Changes => Content::json(&sandbox.review(&work.progress).await?),
        Subject::Jobs => {
            let jobs = sandbox.jobs(&work.progress).await?;
            Content::json(&jobs.iter().map(JobRecord::from).collect::<Vec<_>>())
        }
        Subject::Job(id) => {
            let action = JobAction::Output {
                offset: Some(offset),
                limit,
            };
            let (report, data) = sandbox
                .job(id, action, Bytes::new(), &work.progress)
                .await?;
            Ok(Content {
                bytes: data.to_vec(),
                media_type: "text/plain",
                offset: report.offset,
                size: report.job.kept_bytes,
            })
        }
    }
}

/// The newest lines of the network's log. Blocks.
fn newest(path: &Path) -> io::Result<VecDeque<Record>> {
    let mut log = audit::follow(path)?;
    let mut newest = VecDeque::new();
    loop {
        let records = log.read()?;
        if records.is_empty() {
            return Ok(newest);
        }
        newest.extend(records);
        newest.drain(..newest.len().saturating_sub(NEWEST));
    }
}

async fn file(
    sandbox: &Arc<Sandbox>,
    path: &str,
    offset: u64,
    limit: u64,
    work: &Work,
) -> Result<Content, ReadError> {
    let read = sandbox.bytes(path, offset, limit, &work.progress).await?;
    match read.content {
        ReadContent::Directory { entries: all } => {
            let entries = directory_entries(&read.data)?;
            if entries.len() as u64 != all {
                return Err(ReadError::Failed(format!(
                    "failed to read {path}: its {all} entries are more than a resource holds; page through them \
                     with the tool `read`"
                )));
            }
            Content::json(&entries)
        }
        ReadContent::Binary { description } => Err(ReadError::Failed(format!(
            "failed to read {path}: it is a {description}"
        ))),
        _ => Ok(Content {
            bytes: read.data.to_vec(),
            media_type: media_type(path),
            offset,
            size: read.size,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn encoded(bytes: &[u8], offset: u64, size: u64) -> Value {
        let content = Content {
            bytes: bytes.to_vec(),
            media_type: "text/plain",
            offset,
            size,
        };
        let address = Address::from(Subject::Job("job-1".to_owned())).starting(offset);
        serde_json::to_value(content.encode(&address, "snowglobe://jobs/job-1")).unwrap()
    }

    #[test]
    fn characters_are_never_cut_and_the_rest_has_an_address() {
        let text = "aé€";
        let bytes = text.as_bytes();
        let first = encoded(&bytes[..4], 0, 6);
        assert_eq!(first["text"], "aé");
        assert_eq!(first["_meta"][NEXT], "snowglobe://jobs/job-1?offset=3");
        let rest = encoded(&bytes[2..], 2, 6);
        assert_eq!(rest["text"], "€", "what the offset cut is left out");
        assert_eq!(rest["_meta"].get(NEXT), None);
        assert_eq!(rest["_meta"][SIZE], 6);
    }

    #[test]
    fn binary_content_is_base64() {
        let blob = encoded(b"\xff\x00", 0, 2);
        assert_eq!(blob["blob"], "/wA=");
        assert_eq!(blob["mimeType"], "application/octet-stream");
    }
}
