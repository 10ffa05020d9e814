//! The user's name and e-mail address as git on this host knows them, for commits that are made in the guest.
//!
//! git itself is asked, in the workspace, since the user's configuration may depend on the directory (`includeIf`). The
//! repository's own configuration is left out, since the guest can write it; no program of the workspace is run.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use snowglobe_init::boot::GitIdentity;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::blocking::blocking;
use crate::workspace::git_program;

/// How long git may take: a repository's configuration can include a file that never ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of git's output is read, in bytes.
const MOST: u64 = 1 << 20;

/// The identity for commits, if git on this host has one.
pub(super) async fn identity(workspace: &Path) -> Option<GitIdentity> {
    let outside = workspace.to_owned();
    let program = blocking(move || git_program(&outside)).await?;
    let read = tokio::time::timeout(PATIENCE, ask(&program, workspace)).await;
    let text = read.ok()?.ok()?;
    parse(&text)
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
