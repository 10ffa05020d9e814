//! Lists the resources and their templates. Boots nothing.

use std::sync::Arc;

use rmcp::model::{Annotations, Resource, ResourceTemplate, Role};

use super::address::{self, Address, Subject};
use super::jobs;
use crate::mcp::records::describe_job;
use crate::sandbox::Sandbox;
use crate::text;

/// How many entries of the workspace are listed. All of them can be read.
const MAX_LISTED: usize = 500;

/// What can be read now, in a stable order: the fixed resources, snapshots, jobs, the top of the workspace.
pub(crate) async fn list(sandbox: Option<Arc<Sandbox>>, handle: Option<&str>) -> Vec<Resource> {
    let Some(sandbox) = sandbox else {
        return Vec::new();
    };
    let at = |subject| Address::from(subject).within(handle).to_string();
    let mut listed = vec![
        Resource::new(at(Subject::Console), "console")
            .with_title("Console")
            .with_description("What the microVM printed during its boot and since")
            .with_mime_type("text/plain")
            .with_annotations(for_user(0.3)),
        Resource::new(at(Subject::Snapshots), "snapshots")
            .with_title("Snapshots")
            .with_description("The saved states of the system disk")
            .with_mime_type("application/json"),
        Resource::new(at(Subject::Jobs), "jobs")
            .with_title("Background jobs")
            .with_description("The commands in the background and their state")
            .with_mime_type("application/json"),
        Resource::new(at(Subject::Workspace(String::new())), "workspace")
            .with_title("Workspace")
            .with_description("The entries of /workspace")
            .with_mime_type("application/json"),
        Resource::new(at(Subject::Network), "network")
            .with_title("Network")
            .with_description(
                "What of the network is reached, and the newest of what was asked of it",
            )
            .with_mime_type("application/json"),
    ];
    if sandbox.workspace().copied().is_some() {
        listed.push(
            Resource::new(at(Subject::Changes), "changes")
                .with_title("Changes of the workspace")
                .with_description("What changed in the copy of the user's directory")
                .with_mime_type("application/json"),
        );
    }
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
    for info in jobs::jobs(&sandbox).await {
        listed.push(
            Resource::new(at(Subject::Job(info.id.clone())), info.id.clone())
                .with_title(format!("Output of {}", info.id))
                .with_description(describe_job(&info))
                .with_mime_type("text/plain")
                .with_size(info.kept_bytes),
        );
    }
    let names = sandbox.workspace().names("", "").await;
    for name in names.first.into_iter().take(MAX_LISTED) {
        let resource = Resource::new(at(Subject::Workspace(name.name.clone())), name.name.clone());
        listed.push(resource.with_mime_type(match name.directory {
            true => "application/json",
            false => address::media_type(&name.name),
        }));
    }
    listed
}

fn for_user(priority: f32) -> Annotations {
    let mut annotations = Annotations::default();
    annotations.audience = Some(vec![Role::User, Role::Assistant]);
    annotations.priority = Some(priority);
    annotations
}

/// What else can be read, as templates. `pooled`: whether an address may name a sandbox.
pub(crate) fn templates(pooled: bool) -> Vec<ResourceTemplate> {
    let paged = if pooled {
        "{?offset,limit,sandbox}"
    } else {
        "{?offset,limit}"
    };
    let plain = if pooled { "{?sandbox}" } else { "" };
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
