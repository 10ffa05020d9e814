//! `snowglobe allow`: the user's consent to the settings in the project's file, and to the servers that the project names
//! for `snowglobe agent`.
//!
//! Each file is read once, so exactly the text that is shown is allowed, whatever the guest writes there meanwhile.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Done;
use super::confirm::Yes;
use super::json::AsJson;
use crate::agent::servers::described_servers;
use crate::config::{Config, ProjectFile, Raw, Sources};
use crate::config::{
    Consent, MCP_FILES, PROJECT_FILE, find_in_project, find_project, project_root,
};
use crate::shown;

/// Allow what this project's snowglobe.toml asks for, and the servers that its .mcp.json names: their present content, at
/// their present paths.
#[derive(Debug, Args)]
pub(super) struct Allow {
    /// Withdraw the consent
    #[arg(long)]
    revoke: bool,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    json: AsJson,
    /// Where images, snapshots and consents are kept [default: snowglobe in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// A file that asks for something.
struct Asking {
    file: ProjectFile,
    /// What the file's content leads to, where that does not say it.
    leads_to: Vec<String>,
}

impl Allow {
    pub(super) fn run(self) -> Done {
        let sources = Sources::of_process(Raw {
            data_dir: self.data_dir.clone(),
            ..Raw::default()
        })?;
        let dirs = Config::dirs(&sources)?;
        let files = files(&sources, dirs.home.as_deref())?;
        let consent = Consent::new(&dirs.data);
        if self.revoke {
            for file in &files {
                let was = consent.withdraw(file)?;
                say!(
                    "{} {}",
                    file.path.display(),
                    if was {
                        "is allowed no longer"
                    } else {
                        "was not allowed"
                    }
                );
            }
            self.json.print(&result(&files, false))?;
            return Ok(ExitCode::SUCCESS);
        }
        let files = asking(files)?;
        if !self.yes.given() {
            files.iter().for_each(show);
        }
        if !self.yes.confirmed("Allow this?", "allow it")? {
            say!("nothing is allowed");
            return Ok(ExitCode::FAILURE);
        }
        for asking in &files {
            consent.give(&asking.file)?;
        }
        say!("allowed, for sandboxes and agents that start from now on");
        let files: Vec<ProjectFile> = files.into_iter().map(|asking| asking.file).collect();
        self.json.print(&result(&files, true))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The project's files.
fn files(sources: &Sources, home: Option<&Path>) -> anyhow::Result<Vec<ProjectFile>> {
    let mut files: Vec<ProjectFile> = find_project(&sources.cwd, home)?.into_iter().collect();
    let project = project_root(&sources.cwd, home);
    for name in MCP_FILES {
        files.extend(find_in_project(&project, name)?);
    }
    anyhow::ensure!(
        !files.is_empty(),
        "find {PROJECT_FILE} or {}: there is none in {} nor in the directories of its repository above it",
        MCP_FILES.join(" or "),
        sources.cwd.display()
    );
    Ok(files)
}

/// Those of the files that ask for something.
fn asking(files: Vec<ProjectFile>) -> anyhow::Result<Vec<Asking>> {
    let mut asking = Vec::new();
    for file in files {
        let settings = file
            .path
            .file_name()
            .is_some_and(|name| name == PROJECT_FILE);
        let leads_to = match settings {
            true => Config::check_project(&file).map(|()| Vec::new())?,
            false => match described_servers(&file.path, &file.text) {
                Ok(servers) if !servers.is_empty() => servers,
                Ok(_) => continue,
                Err(why) => {
                    say!("{why}");
                    continue;
                }
            },
        };
        asking.push(Asking { file, leads_to });
    }
    anyhow::ensure!(
        !asking.is_empty(),
        "allow what this project asks for: it asks for nothing"
    );
    Ok(asking)
}

fn show(asking: &Asking) {
    let indented = |lines: &mut dyn Iterator<Item = &str>| -> String {
        lines.map(|line| format!("    {line}\n")).collect()
    };
    shown::complain(format_args!(
        "content of {}:\n{}",
        asking.file.path.display(),
        indented(&mut asking.file.text.lines()).trim_end()
    ));
    if !asking.leads_to.is_empty() {
        let mut lines = asking.leads_to.iter().map(String::as_str);
        shown::complain(format_args!(
            "so `snowglobe agent` uses these servers:\n{}",
            indented(&mut lines).trim_end()
        ));
    }
}

fn result(files: &[ProjectFile], allowed: bool) -> serde_json::Value {
    let files = files.iter().map(
        |file| serde_json::json!({"path": file.path.display().to_string(), "allowed": allowed}),
    );
    files.collect()
}
