//! Resources: the workspace's files, the console, snapshots, jobs and their output, the whole of long outputs.
//!
//! Listing and completing never boot anything; reading a file of the workspace does, as the tool `read` would, since
//! only the guest looks at files. What is read is bounded; the address of the rest comes with it. Where there are
//! many sandboxes, a client without a session names one in the address.

pub(crate) mod address;
pub(crate) mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::ErrorData;
use rmcp::model::{
    Annotations, CompleteRequestParams, CompletionInfo, MetaObject, ReadResourceResult, Reference,
    Resource, ResourceContents, ResourceTemplate, Role,
};
use serde::Serialize;
use serde_json::json;

use crate::guest::GuestError;
use crate::mcp::call::{Call, Refusal, Work};
use crate::mcp::output::terminal;
use crate::mcp::output::utf8::{whole_at_end, whole_at_start};
use crate::mcp::resources::address::{Address, Subject};
use crate::mcp::sandboxes::Desk;
use crate::mcp::tools::job;
use crate::mcp::tools::snapshot;
use crate::progress::Progress;
use crate::sandbox::{
    DirEntry, ErrorKind, JobAction, JobInfo, OUTPUT_DIRECTORY, Outcome, ReadContent, Sandbox,
    SandboxError, WORKSPACE, lines,
};
use crate::shown;
use crate::text;

/// How much is read at once where the address says nothing, and at most, in bytes.
const DEFAULT_LIMIT: u64 = 1 << 20;
const LONGEST_LIMIT: u64 = 8 << 20;

/// How many files and directories of the workspace are listed; all of them can be read.
const LISTED: usize = 500;

/// How long the list waits for a guest that is busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the rest is, in a content's `_meta`.
const NEXT: &str = "snowglobe/next";
/// How long the whole is, in a content's `_meta`.
const SIZE: &str = "snowglobe/size";

/// What there is now, in an order that stays: the fixed ones, snapshots, jobs, the workspace's top.
pub(crate) async fn list(sandbox: Option<Arc<Sandbox>>, handle: Option<&str>) -> Vec<Resource> {
    let Some(sandbox) = sandbox else {
        return Vec::new();
    };
    let at = |subject| Address::from(subject).within(handle).to_string();
    let mut listed = vec![
        Resource::new(at(Subject::Console), "console")
            .with_title("Console")
            .with_description("What the microVM printed while it booted, and since")
            .with_mime_type("text/plain")
            .with_annotations(for_user(0.3)),
        Resource::new(at(Subject::Snapshots), "snapshots")
            .with_title("Snapshots")
            .with_description("The saved states of the system disk")
            .with_mime_type("application/json"),
        Resource::new(at(Subject::Jobs), "jobs")
            .with_title("Background jobs")
            .with_description("The commands in the background, and how they are doing")
            .with_mime_type("application/json"),
        Resource::new(at(Subject::Workspace(String::new())), "workspace")
            .with_title("Workspace")
            .with_description("The entries of /workspace")
            .with_mime_type("application/json"),
    ];
    for saved in sandbox.snapshot_list().await.unwrap_or_default() {
        let described = format!("Saved {:.0}, {}", saved.created, text::size(saved.bytes));
        listed.push(
            Resource::new(
                at(Subject::Snapshot(saved.name.to_string())),
                format!("snapshot {}", saved.name),
            )
            .with_title(format!("Snapshot {}", saved.name))
            .with_description(described)
            .with_mime_type("application/json"),
        );
    }
    for info in jobs(&sandbox).await {
        listed.push(
            Resource::new(at(Subject::Job(info.id.clone())), info.id.clone())
                .with_title(format!("Output of {}", info.id))
                .with_description(job::described(&info))
                .with_mime_type("text/plain")
                .with_size(info.kept_bytes),
        );
    }
    let names = sandbox.workspace().names("", "").await;
    for name in names.first.into_iter().take(LISTED) {
        let resource = Resource::new(at(Subject::Workspace(name.name.clone())), name.name.clone());
        listed.push(resource.with_mime_type(match name.directory {
            true => "application/json",
            false => media_type(&name.name),
        }));
    }
    listed
}

/// The jobs, if a guest that runs says so soon.
async fn jobs(sandbox: &Arc<Sandbox>) -> Vec<JobInfo> {
    let progress = Progress::none();
    let asked = tokio::time::timeout(PATIENCE, sandbox.jobs(&progress)).await;
    asked.map(Result::unwrap_or_default).unwrap_or_default()
}

fn for_user(priority: f32) -> Annotations {
    let mut annotations = Annotations::default();
    annotations.audience = Some(vec![Role::User, Role::Assistant]);
    annotations.priority = Some(priority);
    annotations
}

/// What else can be read, as templates. `many`: whether a sandbox can be named.
pub(crate) fn templates(many: bool) -> Vec<ResourceTemplate> {
    let paged = if many {
        "{?offset,limit,sandbox}"
    } else {
        "{?offset,limit}"
    };
    let plain = if many { "{?sandbox}" } else { "" };
    vec![
        ResourceTemplate::new(
            format!("snowglobe://workspace/{{+path}}{paged}"),
            "workspace file",
        )
        .with_title("File of the workspace")
        .with_description(
            "A file in /workspace, or a directory's entries; offset and limit are bytes",
        ),
        ResourceTemplate::new(format!("snowglobe://jobs/{{id}}{paged}"), "job output")
            .with_title("Output of a background job")
            .with_description("Both streams in the order they came; offset and limit are bytes")
            .with_mime_type("text/plain"),
        ResourceTemplate::new(format!("snowglobe://output/{{name}}{paged}"), "long output")
            .with_title("The whole of a long output")
            .with_description(
                "All that a command of `exec` wrote, where its result holds only head and tail",
            )
            .with_mime_type("text/plain"),
        ResourceTemplate::new(format!("snowglobe://snapshots/{{name}}{plain}"), "snapshot")
            .with_title("Snapshot")
            .with_description("A saved state of the system disk: its size and time")
            .with_mime_type("application/json"),
    ]
}

/// Why something could not be read.
pub(crate) enum Unread {
    /// There is nothing of that address.
    Missing(String),
    /// It could not be done.
    Failed(String),
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.message().to_owned())
    }
}

impl From<SandboxError> for Unread {
    fn from(error: SandboxError) -> Self {
        let message = format!("failed to {}", crate::describe(&error));
        let missing = match &error {
            SandboxError::NoJobs { .. } => true,
            SandboxError::Guest(GuestError::Guest(wire)) => {
                matches!(wire.kind, ErrorKind::NotFound | ErrorKind::InvalidRequest)
            }
            _ => false,
        };
        match missing {
            true => Self::Missing(message),
            false => Self::Failed(message),
        }
    }
}

impl Unread {
    pub(crate) fn into_error(self, uri: &str) -> ErrorData {
        let data = Some(json!({"uri": uri}));
        let shown = |message: &str| shown::text(&terminal::plain(message.as_bytes())).into_owned();
        match self {
            Self::Missing(message) => ErrorData::resource_not_found(shown(&message), data),
            Self::Failed(message) => ErrorData::internal_error(shown(&message), data),
        }
    }
}

/// Reads what is at `uri`.
pub(crate) async fn read(
    desk: &Desk,
    uri: &str,
    session: bool,
    call: &Call,
) -> Result<ReadResourceResult, Unread> {
    let address = Address::parse(uri).map_err(Unread::Missing)?;
    let named = address.sandbox.as_deref();
    if named.is_none() && desk.has_many() && !session {
        return Err(Unread::Missing(format!(
            "{uri:?} does not say in which sandbox: add `?sandbox=HANDLE`, with the handle that a tool's result gave"
        )));
    }
    let lease = desk.lease(named, session)?;
    let sandbox = lease.sandbox.clone();
    let of_task = address.clone();
    let found = call
        .run(|work| async move { look(&sandbox, &of_task, &work).await })
        .await??;
    Ok(ReadResourceResult::new(vec![found.contents(&address, uri)]))
}

/// What was found, before it is made text or not.
struct Found {
    bytes: Vec<u8>,
    media_type: &'static str,
    /// Where it starts.
    offset: u64,
    /// How long the whole is.
    size: u64,
}

impl Found {
    fn json(value: &impl Serialize) -> Result<Self, Unread> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| Unread::Failed(format!("failed to write it as JSON: {error}")))?;
        let size = bytes.len() as u64;
        Ok(Self {
            bytes,
            media_type: "application/json",
            offset: 0,
            size,
        })
    }

    /// Text where it is some, whole characters of it; else base64.
    fn contents(self, address: &Address, uri: &str) -> ResourceContents {
        let read = self.bytes.len() as u64;
        let start = match self.offset {
            0 => &self.bytes[..],
            _ => whole_at_start(&self.bytes),
        };
        let skipped = read - start.len() as u64;
        let last = self.offset + read >= self.size;
        let whole = if last { start } else { whole_at_end(start) };
        let (contents, given) = match std::str::from_utf8(whole) {
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
        let next = self.offset + given;
        let mut meta = MetaObject::new();
        meta.insert(SIZE.to_owned(), self.size.into());
        if next < self.size && given > 0 {
            let next = address.clone().starting(next).to_string();
            meta.insert(NEXT.to_owned(), next.into());
        }
        contents.with_meta(meta)
    }
}

async fn look(sandbox: &Arc<Sandbox>, address: &Address, work: &Work) -> Result<Found, Unread> {
    let offset = address.offset.unwrap_or(0);
    let limit = address
        .limit
        .unwrap_or(DEFAULT_LIMIT)
        .clamp(1, LONGEST_LIMIT);
    match &address.subject {
        Subject::Workspace(path) => {
            let path = format!("{WORKSPACE}/{path}");
            file(sandbox, path.trim_end_matches('/'), offset, limit, work).await
        }
        Subject::Output(name) => {
            let path = format!("{OUTPUT_DIRECTORY}/{name}");
            if sandbox.processes().is_none() {
                return Err(Unread::Missing(format!(
                    "there is no output {name:?}: no machine runs, and long outputs go with theirs"
                )));
            }
            file(sandbox, &path, offset, limit, work).await
        }
        Subject::Console => {
            let console = sandbox.console();
            let mut shown = console.text;
            if let Some(trouble) = console.trouble {
                shown.push_str(&format!("\n[{trouble}]\n"));
            }
            if shown.is_empty() {
                shown.push_str("[no machine has booted yet: the first call of a tool that needs one boots it]\n");
            }
            let bytes = shown.into_bytes();
            let size = bytes.len() as u64;
            let from = offset.min(size) as usize;
            let to = from + (limit as usize).min(bytes.len() - from);
            Ok(Found {
                bytes: bytes[from..to].to_vec(),
                media_type: "text/plain",
                offset,
                size,
            })
        }
        Subject::Snapshots => {
            let saved = sandbox.snapshot_list().await?;
            Found::json(&saved.iter().map(snapshot::saved).collect::<Vec<_>>())
        }
        Subject::Snapshot(name) => {
            let saved = sandbox.snapshot_list().await?;
            match saved.iter().find(|saved| saved.name.as_str() == name) {
                Some(saved) => Found::json(&snapshot::saved(saved)),
                None => Err(Unread::Missing(format!("there is no snapshot {name:?}"))),
            }
        }
        Subject::Jobs => {
            let jobs = sandbox.jobs(&work.progress).await?;
            Found::json(&jobs.iter().map(job::job).collect::<Vec<_>>())
        }
        Subject::Job(id) => {
            let action = JobAction::Output {
                offset: Some(offset),
                limit,
            };
            let (report, data) = sandbox
                .job(id, action, bytes::Bytes::new(), &work.progress)
                .await?;
            Ok(Found {
                bytes: data.to_vec(),
                media_type: "text/plain",
                offset: report.offset,
                size: report.job.kept_bytes,
            })
        }
    }
}

async fn file(
    sandbox: &Arc<Sandbox>,
    path: &str,
    offset: u64,
    limit: u64,
    work: &Work,
) -> Result<Found, Unread> {
    let read = sandbox.bytes(path, offset, limit, &work.progress).await?;
    match read.content {
        ReadContent::Directory { entries: all } => {
            let entries: Vec<DirEntry> = lines::decode(&read.data).map_err(|error| {
                Unread::Failed(format!("failed to read the directory's listing: {error}"))
            })?;
            if entries.len() as u64 != all {
                return Err(Unread::Failed(format!(
                    "failed to read {path}: its {all} entries are more than a resource holds; page through them \
                     with the tool `read`"
                )));
            }
            Found::json(&entries)
        }
        ReadContent::Binary { description } => Err(Unread::Failed(format!(
            "failed to read {path}: it is a {description}"
        ))),
        _ => Ok(Found {
            bytes: read.data.to_vec(),
            media_type: media_type(path),
            offset,
            size: read.size,
        }),
    }
}

/// What a file most probably is, by its name.
fn media_type(path: &str) -> &'static str {
    mime_guess::from_path(path)
        .first_raw()
        // Source files of some languages bear the names of films.
        .filter(|kind| !kind.starts_with("video/") || !path.ends_with(".ts"))
        .unwrap_or("text/plain")
}

/// Something that is another when what is at the address has changed.
pub(crate) async fn stamp(sandbox: &Arc<Sandbox>, subject: &Subject) -> String {
    let state = |info: &JobInfo| {
        let ended = info
            .outcome
            .as_ref()
            .map(|outcome: &Outcome| format!("{outcome:?}"));
        format!("{} {} {ended:?}", info.id, info.output_bytes)
    };
    match subject {
        Subject::Workspace(path) => format!("{:?}", sandbox.workspace().stamp(path)),
        Subject::Console => format!("{:?}", sandbox.console_stamp()),
        Subject::Snapshots | Subject::Snapshot(_) => {
            format!(
                "{:?}",
                sandbox.snapshot_list().await.map_or(None, |all| {
                    Some(
                        all.iter()
                            .map(|one| format!("{} {}", one.name, one.created))
                            .collect::<Vec<_>>(),
                    )
                })
            )
        }
        Subject::Jobs => jobs(sandbox)
            .await
            .iter()
            .map(|info| format!("{} {:?}", info.id, info.outcome))
            .collect(),
        Subject::Job(id) => jobs(sandbox)
            .await
            .iter()
            .find(|info| info.id == *id)
            .map_or_else(String::new, state),
        Subject::Output(_) => String::new(),
    }
}

/// Something that is another when the list has changed.
pub(crate) fn list_stamp(sandbox: Option<&Arc<Sandbox>>) -> String {
    match sandbox {
        Some(sandbox) => format!("{} {:?}", sandbox.changes(), sandbox.workspace().stamp("")),
        None => String::new(),
    }
}

/// What a template's argument may be.
pub(crate) async fn complete(
    sandbox: Option<Arc<Sandbox>>,
    request: &CompleteRequestParams,
) -> Result<CompletionInfo, ErrorData> {
    let Reference::Resource(template) = &request.r#ref else {
        return Ok(CompletionInfo::default());
    };
    let known = templates(true).into_iter().chain(templates(false));
    let wanted = |known: &str| known == template.uri;
    if !known
        .map(|known| known.uri_template)
        .any(|known| wanted(&known))
    {
        return Err(ErrorData::invalid_params(
            format!(
                "there is no template {:?}: resources/templates/list has them",
                template.uri
            ),
            None,
        ));
    }
    let Some(sandbox) = sandbox else {
        return Ok(CompletionInfo::default());
    };
    let begun = request.argument.value.as_str();
    let kind = template.uri.trim_start_matches("snowglobe://");
    let mut unseen = false;
    let mut values: Vec<String> = match (kind.split('/').next(), request.argument.name.as_str()) {
        (Some("workspace"), "path") => {
            let (dir, name) = begun.rsplit_once('/').unwrap_or(("", begun));
            let prefix = if dir.is_empty() {
                String::new()
            } else {
                format!("{dir}/")
            };
            let names = sandbox.workspace().names(dir, name).await;
            unseen = names.more;
            names
                .first
                .into_iter()
                .map(|name| {
                    format!(
                        "{prefix}{}{}",
                        name.name,
                        if name.directory { "/" } else { "" }
                    )
                })
                .collect()
        }
        (Some("jobs"), "id") => jobs(&sandbox)
            .await
            .into_iter()
            .map(|info| info.id)
            .collect(),
        (Some("snapshots"), "name") => {
            let saved = sandbox.snapshot_list().await.unwrap_or_default();
            saved
                .into_iter()
                .map(|saved| saved.name.to_string())
                .collect()
        }
        _ => Vec::new(),
    };
    values.retain(|value| value.starts_with(begun));
    let total = values.len();
    values.truncate(CompletionInfo::MAX_VALUES);
    let more = unseen || values.len() < total;
    let total = u32::try_from(total).ok().filter(|_| !unseen);
    CompletionInfo::with_pagination(values, total, more)
        .map_err(|error| ErrorData::internal_error(error, None))
}

/// The link to the whole of an output that is kept in `file`, if it is one.
pub(crate) fn output_uri(file: &str, handle: Option<&str>) -> Option<String> {
    let name = file.strip_prefix(OUTPUT_DIRECTORY)?.strip_prefix('/')?;
    Some(
        Address::from(Subject::Output(name.to_owned()))
            .within(handle)
            .to_string(),
    )
}

/// The address of a job's output.
pub(crate) fn job_uri(id: &str, handle: Option<&str>) -> String {
    Address::from(Subject::Job(id.to_owned()))
        .within(handle)
        .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn contents(bytes: &[u8], offset: u64, size: u64) -> Value {
        let found = Found {
            bytes: bytes.to_vec(),
            media_type: "text/plain",
            offset,
            size,
        };
        let address = Address::from(Subject::Job("job-1".to_owned())).starting(offset);
        serde_json::to_value(found.contents(&address, "snowglobe://jobs/job-1")).unwrap()
    }

    #[test]
    fn characters_are_never_cut_and_the_rest_has_an_address() {
        let text = "aé€";
        let bytes = text.as_bytes();
        let first = contents(&bytes[..4], 0, 6);
        assert_eq!(first["text"], "aé");
        assert_eq!(first["_meta"][NEXT], "snowglobe://jobs/job-1?offset=3");
        let rest = contents(&bytes[2..], 2, 6);
        assert_eq!(rest["text"], "€", "what the offset cut is left out");
        assert_eq!(rest["_meta"].get(NEXT), None);
        assert_eq!(rest["_meta"][SIZE], 6);
    }

    #[test]
    fn what_is_no_text_is_base64() {
        let blob = contents(b"\xff\x00", 0, 2);
        assert_eq!(blob["blob"], "/wA=");
        assert_eq!(blob["mimeType"], "application/octet-stream");
    }

    #[test]
    fn media_types_are_guessed_by_name() {
        assert_eq!(media_type("a.png"), "image/png");
        assert_eq!(media_type("a.ts"), "text/plain");
        assert_eq!(media_type("Makefile"), "text/plain");
    }
}
