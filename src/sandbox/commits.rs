//! Commits that were made in a copied workspace, brought to the host's repository.
//!
//! The guest packs what the host does not have into a bundle, and the host's git fetches that file into
//! `refs/snowglobe/NAME/`. The file is the guest's, as any remote's pack is: git checks every object of it, and no hook
//! and no other program runs. The working tree, the index and the host's branches stay as they are.

use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Output as Ended, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::commits_error::{CommitsError, io_error};
use super::exec::{Exec, Limit, Ran};
use super::{Outcome, Program, Sandbox, SandboxError, WORKSPACE};
use crate::blocking::blocking;
use crate::guest::Output;
use crate::progress::Progress;
use crate::workspace::{Git, Workspace, git_program};

/// How long the guest may take to pack its commits.
const PACKING: Duration = Duration::from_secs(600);

/// The most branches that are fetched.
const BRANCHES: usize = 1000;

/// The longest file of what git ignores, in bytes.
const EXCLUDES: u64 = 1 << 20;

/// The longest line of a bundle's head, in bytes.
const LINE: u64 = 4096;

/// Packs the commits that none of the arguments reaches. Without any, it exits with 3.
const PACK: &str = r#"cd "$1" || exit 2
shift
git rev-parse --git-dir >/dev/null 2>&1 || exit 3
[ -n "$(git rev-list --ignore-missing --max-count=1 --branches HEAD --not "$@" 2>/dev/null)" ] || exit 3
exec git bundle create --quiet - --ignore-missing --branches HEAD --not "$@"
"#;

/// A branch of the sandbox in the host's repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The reference, such as `refs/snowglobe/NAME/main`.
    pub reference: String,
    /// The commit.
    pub commit: String,
}

impl Sandbox {
    /// Fetches the commits of the guest's branches that the host's repository does not have; gives the references. None if
    /// there is no repository, or nothing new.
    pub async fn fetch_commits(
        self: &Arc<Self>,
        progress: &Progress,
    ) -> Result<Vec<Branch>, SandboxError> {
        let host = HostGit::of(self.workspace());
        let (host, known) = blocking(move || {
            let known = host.as_ref().map(HostGit::tips).transpose();
            known.map(|known| (host, known.unwrap_or_default()))
        })
        .await?;
        let Some(host) = host else {
            return Ok(Vec::new());
        };
        progress.say("looking for commits of the sandbox");
        let Some(bundle) = self.bundle(known, progress).await? else {
            return Ok(Vec::new());
        };
        let prefix = format!(
            "refs/snowglobe/{}",
            self.config.sandbox.name.without_session()
        );
        Ok(blocking(move || host.fetch(bundle, &prefix)).await?)
    }

    /// What the host's git ignores by the user's own configuration.
    pub(super) async fn excludes(&self) -> String {
        let host = HostGit::of(self.workspace());
        blocking(move || host.and_then(|host| host.excludes()).unwrap_or_default()).await
    }

    /// The guest's new commits as a bundle; none if there are none.
    async fn bundle(
        self: &Arc<Self>,
        known: Vec<String>,
        progress: &Progress,
    ) -> Result<Option<tempfile::NamedTempFile>, SandboxError> {
        let mut words: Vec<_> = ["sh", "-c", PACK, "pack", WORKSPACE]
            .map(String::from)
            .into();
        words.extend(known);
        let command = Program::Argv(words.into_iter().map(Into::into).collect());
        let exec = Exec {
            limit: Limit::After(PACKING),
            ..Exec::new(command)
        };
        let most = self.config.sandbox.disk_bytes;
        let (pieces, received) = mpsc::unbounded_channel();
        let writing = tokio::task::spawn_blocking(move || written(received, most));
        let mut said = Vec::new();
        let cancel = CancellationToken::new();
        let mut output = |output| match output {
            // The writer has failed if it takes no more; its error is reported.
            Output::Stdout(bytes) => {
                if pieces.send(bytes).is_err() {
                    cancel.cancel();
                }
            }
            Output::Stderr(bytes) if said.len() < 4096 => said.extend_from_slice(&bytes),
            Output::Stderr(_) => {}
        };
        let ran = self.exec_own(exec, &mut output, &cancel, progress).await;
        drop(pieces);
        let bundle = writing.await.unwrap_or_else(|error| {
            Err(io_error("write the commits of the sandbox")(error.into()))
        });
        match ran? {
            Ran::Ended(end) if end.outcome == (Outcome::Exited { code: 0 }) => Ok(Some(bundle?)),
            Ran::Ended(end) if end.outcome == (Outcome::Exited { code: 3 }) => Ok(None),
            _ => {
                // A bundle that is too large has ended the command.
                bundle?;
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                Err(CommitsError::Pack(said).into())
            }
        }
    }
}

/// Writes pieces to a temporary file.
fn written(
    mut pieces: mpsc::UnboundedReceiver<Bytes>,
    most: u64,
) -> Result<tempfile::NamedTempFile, CommitsError> {
    let failed = || io_error("write the commits of the sandbox");
    let mut file = tempfile::NamedTempFile::new().map_err(failed())?;
    let mut bytes = 0_u64;
    while let Some(piece) = pieces.blocking_recv() {
        bytes = bytes.saturating_add(piece.len() as u64);
        if bytes > most {
            return Err(CommitsError::Bound(format!("{most} bytes")));
        }
        file.write_all(&piece).map_err(failed())?;
    }
    file.flush().map_err(failed())?;
    Ok(file)
}

/// The host's git in the directory of a repository.
struct HostGit {
    program: PathBuf,
    dir: PathBuf,
    /// The git directory, if it is outside of the directory.
    outside: Option<PathBuf>,
}

impl HostGit {
    /// Git in the directory that was copied. None if there is no repository, or if one elsewhere does not lead back.
    fn of(workspace: &Workspace) -> Option<Self> {
        let Workspace::Copy { dir, git } = workspace else {
            return None;
        };
        let outside = match git {
            Git::Inside => None,
            Git::Shared(repository) => Some(repository.git_dir()),
            Git::Apart(_) => return None,
        };
        let dir = dir.path();
        dir.join(".git").symlink_metadata().ok()?;
        Some(Self {
            program: git_program(dir)?,
            dir: dir.to_owned(),
            outside,
        })
    }

    /// Runs git without hooks, and without programs that the repository's configuration names for its own convenience.
    fn run(&self, words: &[&str]) -> Result<Ended, CommitsError> {
        let mut git = Command::new(&self.program);
        git.env_remove("GIT_DIR");
        if let Some(outside) = &self.outside {
            // The one that leads back to the directory, whatever its `.git` file says by now.
            git.env("GIT_DIR", outside);
        }
        git.current_dir(&self.dir)
            .args(["-c", "core.hooksPath=/dev/null"])
            .args(["-c", "core.fsmonitor=false"])
            .args(["-c", "gc.auto=0"])
            .args(["-c", "maintenance.auto=false"])
            .args(["-c", "fetch.fsckObjects=true"])
            .args(words)
            .env_remove("GIT_COMMON_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .stdin(Stdio::null())
            .output()
            .map_err(io_error("run git"))
    }

    /// What git ignores by the user's own configuration, as in a `.gitignore` file.
    fn excludes(&self) -> Option<String> {
        let found = self
            .run(&["config", "--path", "--get", "core.excludesFile"])
            .ok()?;
        let named = String::from_utf8(found.stdout)
            .ok()
            .filter(|_| found.status.success());
        let path = match named {
            Some(path) => PathBuf::from(path.trim_end()),
            None => {
                let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
                let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
                config.or_else(home)?.join("git/ignore")
            }
        };
        let meta = std::fs::metadata(&path).ok()?;
        (meta.is_file() && meta.len() <= EXCLUDES).then_some(())?;
        std::fs::read_to_string(path).ok()
    }

    /// The commits that the host's references name.
    fn tips(&self) -> Result<Vec<String>, CommitsError> {
        let found = self.run(&["for-each-ref", "--format=%(objectname)", "--count=2000"])?;
        if !found.status.success() {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let mut tips: Vec<_> = text.lines().map(str::to_owned).collect();
        tips.sort();
        tips.dedup();
        Ok(tips)
    }

    fn fetch(
        &self,
        mut bundle: tempfile::NamedTempFile,
        prefix: &str,
    ) -> Result<Vec<Branch>, CommitsError> {
        let branches = branches(bundle.as_file_mut())?;
        let Some(path) = bundle.path().to_str() else {
            return Ok(Vec::new());
        };
        let into = format!("+refs/heads/*:{prefix}/*");
        let options = [
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
        ];
        let words = [&["fetch"], &options[..], &["--", path, &into]].concat();
        let fetched = self.run(&words)?;
        if !fetched.status.success() {
            let said = String::from_utf8_lossy(&fetched.stderr).trim().to_owned();
            return Err(CommitsError::Fetch(said));
        }
        Ok(branches
            .into_iter()
            .map(|(commit, branch)| Branch {
                reference: format!("{prefix}/{branch}"),
                commit,
            })
            .collect())
    }
}

/// The branches that a bundle's head names, with their commits.
fn branches(bundle: &mut std::fs::File) -> Result<Vec<(String, String)>, CommitsError> {
    let failed = || io_error("read the commits of the sandbox");
    bundle.rewind().map_err(failed())?;
    let mut head = BufReader::new(bundle);
    let mut branches = Vec::new();
    for _ in 0..100 * BRANCHES {
        let mut line = Vec::new();
        let read = io::Read::take(&mut head, LINE).read_until(b'\n', &mut line);
        if read.map_err(failed())? == 0 || line == b"\n" {
            return Ok(branches);
        }
        let line = String::from_utf8_lossy(&line);
        let named = line.trim_end().split_once(" refs/heads/");
        if let Some((commit, branch)) = named.filter(|(commit, _)| is_id(commit)) {
            branches.push((commit.to_owned(), branch.to_owned()));
        }
        if branches.len() > BRANCHES {
            break;
        }
    }
    Err(CommitsError::Bound(format!("{BRANCHES} branches")))
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
