//! `snowglobe ssh-config` and its proxy command: access for the user's own `ssh`, `scp`, `sftp` and editors.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use tokio::io::AsyncWriteExt;

use super::{Done, load};
use crate::client;
use crate::config::{Config, Raw};
use crate::rundir::{self, Id, Running, SSH_HOST};
use crate::shown::{self, Stream};

/// Print a configuration for your own ssh, valid while the sandbox of this workspace runs.
#[derive(Debug, Args)]
pub(super) struct SshConfig {
    #[command(flatten)]
    config: Box<Raw>,
}

fn running(config: &Config) -> anyhow::Result<Running> {
    client::find(config)?.ok_or_else(|| {
        anyhow::anyhow!(
            "find a running sandbox for {}: none runs; an MCP client starts one, and so does `snowglobe shell`",
            config.sandbox.project_dir.display()
        )
    })
}

impl SshConfig {
    pub(super) fn run(self) -> Done {
        let config = load(*self.config)?;
        let running = running(&config)?;
        let text = configuration(&std::env::current_exe()?, &running)?;
        shown::raw(Stream::Output, text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The configuration for the user's own ssh.
fn configuration(program: &Path, running: &Running) -> anyhow::Result<String> {
    let (program, id) = (for_shell(program)?, &running.id);
    let key = word(&running.dir.join("id_ed25519"))?;
    let hosts = word(&running.dir.join("known_hosts"))?;
    let mut out = String::new();
    for (host, user) in [
        (SSH_HOST.to_owned(), "sandbox"),
        (format!("{SSH_HOST}-root"), "root"),
    ] {
        out.push_str(&format!(
            "Host {host}\n  User {user}\n  HostKeyAlias {SSH_HOST}\n  ProxyCommand {program} ssh-proxy {id}\n  \
             IdentityFile {key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {hosts}\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
        ));
    }
    out.push_str("# use it:  snowglobe ssh-config >ssh.conf; ssh -F ssh.conf snowglobe\n");
    Ok(out)
}

/// A path as an ssh configuration can name it. Inside quotes ssh still expands `%` and `${`, and only `%` can be escaped;
/// versions of ssh differ in the meaning of a backslash.
fn nameable(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| {
        !text.contains("${") && !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\'))
    });
    match text {
        Some(text) => Ok(text.replace('%', "%%")),
        None => anyhow::bail!(
            "name {path:?} in an ssh configuration: it holds a control character, a quotation mark, a backslash or \
             `${{`, or is not UTF-8; move Snowglobe and its runtime directory (SNOWGLOBE_RUNTIME_DIR) to another path"
        ),
    }
}

/// A path as one word of a configuration's line.
fn word(path: &Path) -> anyhow::Result<String> {
    Ok(format!("\"{}\"", nameable(path)?))
}

/// A path as one word of the line that ssh passes to a shell.
fn for_shell(path: &Path) -> anyhow::Result<String> {
    Ok(format!("'{}'", nameable(path)?.replace('\'', "'\\''")))
}

/// Carry one SSH connection to a running sandbox.
#[derive(Debug, Args)]
pub(super) struct SshProxy {
    /// The instance, as ssh-config names it
    instance: Id,
    #[command(flatten)]
    config: Box<Raw>,
}

impl SshProxy {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let found = rundir::running(&config.host.dirs.runtime)?
            .into_iter()
            .find(|running| running.id == self.instance);
        let running = found.ok_or_else(|| {
            anyhow::anyhow!("reach the sandbox {}: it no longer runs", self.instance)
        })?;
        let (mut from, mut to) = client::connect(&running.ssh_socket()).await?.into_split();
        tokio::spawn(async move {
            // Either error means that the other side has ended, which the copy below sees, too.
            drop(tokio::io::copy(&mut tokio::io::stdin(), &mut to).await);
            drop(to.shutdown().await);
        });
        let mut stdout = tokio::io::stdout();
        let copied = tokio::io::copy(&mut from, &mut stdout).await;
        let written = copied.and(stdout.flush().await);
        written.map_err(|error| Stream::Output.copied(error))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::rundir::Info;

    fn running(dir: PathBuf) -> Running {
        Running {
            id: "0123abcd".parse().unwrap(),
            dir,
            info: Info {
                name: "n".into(),
                workspace: "/w".into(),
                pid: 1,
                image: "i".into(),
                started: jiff::Timestamp::UNIX_EPOCH,
                settings: Vec::new(),
                program: Box::default(),
                protocol: Box::default(),
            },
        }
    }

    /// The user's own ssh takes each word whole, and runs nothing that is in it.
    #[test]
    fn ssh_itself_takes_each_word_whole() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir
            .path()
            .join("a %h 'b' $(touch owned) `touch owned` #; $HOME");
        std::fs::create_dir(&odd).unwrap();
        let program = odd.join("snow globe");
        let script = "#!/bin/sh\necho \"$0|$*\" >\"${0%/*}/called\"\n";
        crate::files::tests::executable(&program, script);
        let file = dir.path().join("ssh.conf");
        std::fs::write(
            &file,
            configuration(&program, &running(odd.clone())).unwrap(),
        )
        .unwrap();
        let output = Command::new("ssh")
            .arg("-F")
            .arg(&file)
            .args(["snowglobe", "true"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(!output.status.success(), "nothing answers there");
        let called = std::fs::read_to_string(odd.join("called")).unwrap();
        assert_eq!(
            called,
            format!("{}|ssh-proxy 0123abcd\n", program.display())
        );
        assert!(!dir.path().join("owned").exists());
        let shown = Command::new("ssh")
            .arg("-G")
            .arg("-F")
            .arg(&file)
            .arg("snowglobe")
            .output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        let identities: Vec<_> = shown
            .lines()
            .filter(|line| line.starts_with("identityfile"))
            .collect();
        assert_eq!(identities.len(), 1, "{identities:?}");
        assert!(identities[0].contains("$(touch owned)"), "{identities:?}");
    }

    #[test]
    fn a_path_that_can_not_be_quoted_is_refused() {
        for path in [
            "/a\nProxyCommand x",
            "/a\"b",
            "/a\\",
            "/${HOME}",
            "/a\u{1b}",
        ] {
            for refused in [word(Path::new(path)), for_shell(Path::new(path))] {
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("SNOWGLOBE_RUNTIME_DIR"), "{error}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_word_never_ends_before_its_end(path in "/\\PC{0,20}") {
            if let Ok(word) = word(Path::new(&path)) {
                let inner = &word[1..word.len() - 1];
                prop_assert!(!inner.contains(['"', '\\', '\n']));
                prop_assert_eq!(inner.replace("%%", ""), path.replace('%', ""));
            }
            if let Ok(word) = for_shell(Path::new(&path)) {
                let said = Command::new("sh").arg("-c").arg(format!("printf %s {word}")).output().unwrap();
                prop_assert_eq!(String::from_utf8(said.stdout).unwrap(), path.replace('%', "%%"));
            }
        }
    }
}
