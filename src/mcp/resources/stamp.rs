//! Change stamps: texts that are compared to notice that a resource has changed.

use std::sync::Arc;

use super::address::Subject;
use super::jobs;
use crate::sandbox::{JobInfo, Sandbox};

/// The change stamp of a resource. It changes when the resource does; that of an output never does.
pub(super) async fn stamp(sandbox: &Arc<Sandbox>, subject: &Subject) -> String {
    let output = |info: &JobInfo| {
        let (id, bytes, outcome) = (&info.id, info.output_bytes, &info.outcome);
        format!("{id} {bytes} {outcome:?}")
    };
    match subject {
        Subject::Workspace(path) => format!("{:?}", sandbox.workspace().stamp(path).await),
        Subject::Console => format!("{:?}", sandbox.console_stamp().await),
        Subject::Snapshots | Subject::Snapshot(_) => {
            let saved = sandbox.snapshot_list().await.ok().map(|all| {
                let stamps = all
                    .iter()
                    .map(|one| format!("{} {}", one.name, one.created));
                stamps.collect::<Vec<_>>()
            });
            format!("{saved:?}")
        }
        Subject::Jobs => jobs::jobs(sandbox)
            .await
            .iter()
            .map(|info| format!("{} {:?}", info.id, info.outcome))
            .collect(),
        Subject::Job(id) => jobs::jobs(sandbox)
            .await
            .iter()
            .find(|info| info.id == *id)
            .map_or_else(String::new, output),
        Subject::Output(_) => String::new(),
        Subject::Network => format!("{:?}", sandbox.network().status()),
        // To compare the trees each second would take too much.
        Subject::Changes => sandbox.file_requests().to_string(),
    }
}

/// The change stamp of the resource list.
pub(super) async fn list_stamp(sandbox: Option<&Arc<Sandbox>>) -> String {
    match sandbox {
        Some(sandbox) => {
            let files = sandbox.workspace().stamp("").await;
            format!("{} {files:?}", sandbox.changes())
        }
        None => String::new(),
    }
}
