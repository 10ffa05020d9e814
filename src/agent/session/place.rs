//! Where sessions are.

use std::path::{Path, PathBuf};

use crate::names::SandboxName;

/// The directory with the sessions of all projects.
pub(super) fn agent_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("agent")
}

/// The directory with the sessions of a project.
pub(crate) fn project_dir(data_dir: &Path, project: &Path) -> PathBuf {
    agent_dir(data_dir).join(SandboxName::of_workspace(project).as_str())
}

/// Whether a file there is a session.
pub(super) fn is_session(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "jsonl")
}
