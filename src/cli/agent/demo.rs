//! The stage of `snowglobe agent --demo`: a project of its own, with a sandbox that is removed afterwards.

use anyhow::Context;

use crate::agent::{demo, session};
use crate::cli::{load_to_share, rm};
use crate::config::{Config, Raw};
use crate::files;

/// A project for the demo.
pub(super) struct Stage {
    /// Removed when it is dropped.
    _dir: tempfile::TempDir,
    pub(super) config: Config,
    pub(super) flags: Raw,
}

impl Stage {
    /// Makes the project.
    pub(super) fn make(flags: Raw) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("snowglobe-demo-")
            .tempdir()
            .context("make a directory for the demo")?;
        let project = dir.path().join("roman");
        let made = std::fs::create_dir(&project).and_then(|()| demo::make_project(&project));
        made.with_context(|| format!("make the demo's project in {}", project.display()))?;
        let flags = Raw {
            workspace: Some(project),
            // Its own, whatever the environment says: it is removed afterwards.
            name: Some(format!("demo-{:08x}", rand::random::<u32>())),
            ..flags
        };
        Ok(Self {
            _dir: dir,
            config: load_to_share(flags.clone())?,
            flags,
        })
    }

    /// Stops the demo's sandbox and removes its data.
    pub(super) async fn clear(self) -> anyhow::Result<()> {
        let Config { host, sandbox, .. } = &self.config;
        let sessions = session::project_dir(&host.dirs.data, &sandbox.project_dir);
        files::remove_dir(&sessions).context("remove the demo's session")?;
        rm::remove(&self.config, &sandbox.name, true, false).await
    }
}
