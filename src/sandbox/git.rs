//! The user's name and e-mail address as git on this host knows them, for commits that are made in the guest.
//!
//! git itself is asked, in the workspace, since the user's configuration may depend on the directory (`includeIf`). The
//! repository's own configuration is left out, since the guest can write it; no program of the workspace is run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use snowglobe_init::boot::GitIdentity;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::blocking::blocking;

/// How long git may take: a repository's configuration can include a file that never ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of git's output is read, in bytes.
const MOST: u64 = 1 << 20;

/// The identity for commits, if git on this host has one.
pub(super) async fn identity(workspace: &Path) -> Option<GitIdentity> {
    let (outside, path) = (workspace.to_owned(), std::env::var_os("PATH")?);
    let program = blocking(move || program(&outside, &path)).await?;
    let read = tokio::time::timeout(PATIENCE, ask(&program, workspace)).await;
    let text = read.ok()?.ok()?;
    parse(&text)
}

/// The first git in PATH outside the workspace: some users have directories of a project in PATH, and the guest can
/// write there.
fn program(workspace: &Path, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let outside = |program: &PathBuf| {
        let found = program.canonicalize();
        found.is_ok_and(|found| found.is_file() && !found.starts_with(workspace))
    };
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("git"))
        .find(outside)
}

async fn ask(program: &Path, workspace: &Path) -> std::io::Result<Vec<u8>> {
    let mut git = Command::new(program)
        // Not an argument, which every user of the host can read.
        .current_dir(workspace)
        .args(["config", "--show-scope", "-z", "--get-regexp"])
        .arg(r"^user\.(name|email)$")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut text = Vec::new();
    if let Some(stdout) = git.stdout.take() {
        stdout.take(MOST).read_to_end(&mut text).await?;
    }
    git.wait().await?;
    Ok(text)
}

/// The last value of each key that is not the repository's. The text is `SCOPE NUL KEY LF VALUE NUL`, repeated.
fn parse(text: &[u8]) -> Option<GitIdentity> {
    let text = String::from_utf8_lossy(text);
    let mut identity = GitIdentity {
        name: None,
        email: None,
    };
    let mut fields = text.split('\0');
    while let (Some(scope), Some(entry)) = (fields.next(), fields.next()) {
        if !["system", "global", "command"].contains(&scope) {
            continue;
        }
        match entry.split_once('\n') {
            Some(("user.name", value)) => identity.name = Some(value.to_owned()),
            Some(("user.email", value)) => identity.email = Some(value.to_owned()),
            _ => {}
        }
    }
    (identity.name.is_some() || identity.email.is_some()).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_of_the_workspace_is_run() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (workspace, bin) = (root.join("workspace"), root.join("bin"));
        for dir in [&workspace, &bin] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("git"), "").unwrap();
        }
        let linked = root.join("linked");
        std::os::unix::fs::symlink(&workspace, &linked).unwrap();
        let path = |dirs: &[&Path]| std::env::join_paths(dirs).unwrap();
        let found = program(
            &workspace,
            &path(&[".".as_ref(), &workspace, &linked, &bin]),
        );
        assert_eq!(found, Some(bin.join("git")));
        assert_eq!(program(&workspace, &path(&[&linked])), None);
    }

    #[test]
    fn the_users_own_settings_count_and_the_repositorys_do_not() {
        let said = "system\0user.name\nMachine\0global\0user.name\nA \"B\"\nC\0local\0user.name\nEvil\0\
                    global\0user.email\na@b\0worktree\0user.email\nevil@b\0";
        let identity = parse(said.as_bytes()).unwrap();
        assert_eq!(identity.name.as_deref(), Some("A \"B\"\nC"));
        assert_eq!(identity.email.as_deref(), Some("a@b"));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"local\0user.name\nEvil\0"), None);
        assert_eq!(parse(b"global\0user.name\0"), None);
    }
}
