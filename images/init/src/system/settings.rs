//! Settings that every guest needs: the machine's names, and git's settings.
//!
//! The image's own settings are kept, and missing ones are added. Each boot does this anew and adds nothing twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::boot::GitIdentity;

/// The loopback address of each family, and the further names of `localhost` there.
const LOOPBACK: [(&str, &str); 2] = [("127.0.0.1", ""), ("::1", " ip6-localhost ip6-loopback")];

/// The sources of host names, for images without this file. Without it some C libraries ask a server first.
const NSSWITCH: &str = "hosts: files dns\n";

/// Writes a file of the system. Replaces a link whose target can't be written.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).or_else(|_| {
        fs::remove_file(path)?;
        fs::write(path, text)
    })
}

/// Makes the machine's own name and `localhost` resolve to the machine.
pub(crate) fn names(root: &Path, hostname: &str) -> io::Result<()> {
    let etc = root.join("etc");
    let hosts = etc.join("hosts");
    let text = fs::read(&hosts).unwrap_or_default();
    let missing = missing_hosts(&String::from_utf8_lossy(&text), hostname);
    if !missing.is_empty() {
        let line_end: &[u8] = match text.last() {
            None | Some(b'\n') => b"",
            Some(_) => b"\n",
        };
        put(&hosts, &[&text, line_end, missing.as_bytes()].concat())?;
    }
    let nsswitch = etc.join("nsswitch.conf");
    if fs::read(&nsswitch).is_err() {
        put(&nsswitch, NSSWITCH.as_bytes())?;
    }
    // The guest's own resolver answers at once, also if nothing is allowed. `edns0` keeps questions in one datagram.
    let resolver = format!("nameserver {}\noptions edns0\n", crate::network::RESOLVER);
    put(&etc.join("resolv.conf"), resolver.as_bytes())?;
    put(&etc.join("hostname"), format!("{hostname}\n").as_bytes())
}

/// The lines that `/etc/hosts` lacks.
fn missing_hosts(text: &str, hostname: &str) -> String {
    let has = |name: &str, v6: bool| {
        let mut lines = text.lines().map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace()
        });
        lines.any(|mut fields| {
            fields
                .next()
                .is_some_and(|address| address.contains(':') == v6)
                && fields.any(|field| field.eq_ignore_ascii_case(name))
        })
    };
    let mut missing = String::new();
    for (address, more) in LOOPBACK {
        let v6 = address.contains(':');
        let localhost = if has("localhost", v6) {
            String::new()
        } else {
            format!(" localhost{more}")
        };
        let own = if has(hostname, v6) {
            String::new()
        } else {
            format!(" {hostname}")
        };
        let names = localhost + &own;
        if !names.is_empty() {
            missing += &format!("{address}\t{}\n", names.trim_start());
        }
    }
    missing
}

/// The paths of git, and the file with the settings for all users that it reads there.
const GIT: [(&str, &str); 2] = [
    ("usr/bin/git", "etc/gitconfig"),
    ("usr/local/bin/git", "usr/local/etc/gitconfig"),
];

/// Writes git's settings for all users to the file `ours`, and includes it at the start of the image's own settings. So
/// the image's settings, and those of users and repositories, win. `etc/gitconfig` is written in any case, for a git that
/// is installed later.
pub(crate) fn git(root: &Path, ours: &Path, git: &Git<'_>) -> io::Result<()> {
    put(ours, git_settings(git).as_bytes())?;
    let include = format!("[include]\n\tpath = {}\n", quoted(&ours.to_string_lossy()));
    for (number, (program, file)) in GIT.into_iter().enumerate() {
        if number > 0 && !root.join(program).exists() {
            continue;
        }
        let path: PathBuf = root.join(file);
        let text = fs::read(&path).unwrap_or_default();
        if !text.starts_with(include.as_bytes()) {
            put(&path, &[include.as_bytes(), &text].concat())?;
        }
    }
    Ok(())
}

/// What the guest's git is told.
#[derive(Debug, Default)]
pub(crate) struct Git<'a> {
    /// The author of commits.
    pub(crate) identity: Option<&'a GitIdentity>,
    /// Whether the workspace's repository may have worktrees that the guest can't see.
    pub(crate) other_worktrees: bool,
}

/// Git's collection of garbage would take worktrees that it can't see for removed, and would shorten their logs. The host
/// refuses that, and the collection would fail. It still packs objects, but only if it is asked to: the host's git collects
/// by itself.
const KEEP_WORKTREES: &str = "\
[gc]
\tauto = 0
\treflogExpire = never
\treflogExpireUnreachable = never
\tworktreePruneExpire = never
[maintenance]
\tauto = false
";

/// All users may use all repositories: the workspace belongs to one user, although root works in it, too, and the VM
/// serves one person. Only git 2.46 and later could limit this to repositories below the workspace.
///
/// Git compares only sizes and whole seconds of files with its index: owners and inodes are others on the host, and the
/// index that the host's git wrote would make the guest's read every file anew.
fn git_settings(git: &Git<'_>) -> String {
    let mut text = "[safe]\n\tdirectory = *\n[core]\n\tcheckStat = minimal\n".to_owned();
    if git.other_worktrees {
        text += KEEP_WORKTREES;
    }
    if let Some(identity) = git.identity {
        text += "[user]\n";
        for (key, value) in [("name", &identity.name), ("email", &identity.email)] {
            if let Some(value) = value {
                text += &format!("\t{key} = {}\n", quoted(value));
            }
        }
    }
    text
}

/// A value in the syntax of git's configuration.
fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for character in value.chars().filter(|character| *character != '\0') {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_names_that_are_missing_are_added() {
        let both = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback box\n";
        assert_eq!(missing_hosts("", "box"), both);
        assert_eq!(missing_hosts(both, "box"), "");
        assert_eq!(
            missing_hosts("127.0.0.1 localhost # box\n::1 LocalHost Box\n", "box"),
            "127.0.0.1\tbox\n"
        );
        assert_eq!(
            missing_hosts("127.0.0.1 localhost\n", "box"),
            "127.0.0.1\tbox\n::1\tlocalhost ip6-localhost ip6-loopback box\n"
        );
        assert!(missing_hosts("10.0.0.1 boxer\n", "box").contains("localhost box"));
    }

    #[test]
    fn what_an_image_has_is_kept_and_nothing_comes_twice() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir_all(&etc).unwrap();
        // No line end, a byte that is no UTF-8, and a link to nowhere.
        fs::write(etc.join("hosts"), b"10.1.2.3 caf\xe9").unwrap();
        std::os::unix::fs::symlink("/no/such/dir/hostname", etc.join("hostname")).unwrap();
        fs::write(etc.join("gitconfig"), "[user]\n\tname = Image\n").unwrap();
        let identity = GitIdentity {
            name: Some("Host".into()),
            email: Some("host@example".into()),
        };
        let ours = root.path().join("ours");
        for _ in 0..2 {
            names(root.path(), "box").unwrap();
            let settings = Git {
                identity: Some(&identity),
                other_worktrees: true,
            };
            git(root.path(), &ours, &settings).unwrap();
        }
        let hosts = fs::read(etc.join("hosts")).unwrap();
        assert!(hosts.starts_with(b"10.1.2.3 caf\xe9\n127.0.0.1\tlocalhost box\n"));
        assert_eq!(hosts.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(fs::read_to_string(etc.join("hostname")).unwrap(), "box\n");
        assert!(
            fs::read_to_string(etc.join("nsswitch.conf"))
                .unwrap()
                .contains("files")
        );
        let get = |key| read_with_git(&etc.join("gitconfig"), key);
        assert_eq!(get("user.name"), "Image");
        assert_eq!(get("user.email"), "host@example");
        assert_eq!(get("safe.directory"), "*");
        assert_eq!(get("core.checkStat"), "minimal");
        assert_eq!(get("gc.worktreePruneExpire"), "never");
        git(root.path(), &ours, &Git::default()).unwrap();
        let text = fs::read_to_string(etc.join("gitconfig")).unwrap();
        assert_eq!(text.matches("[include]").count(), 1, "{text}");
        let ours = fs::read_to_string(&ours).unwrap();
        assert!(!ours.contains("user") && !ours.contains("gc"), "{ours}");
    }

    fn read_with_git(file: &Path, key: &str) -> String {
        let git = Command::new("git")
            .args(["config", "--includes", "-z", "-f"])
            .arg(file)
            .args(["--get", key])
            .output()
            .unwrap();
        let value = String::from_utf8(git.stdout).unwrap();
        value.strip_suffix('\0').unwrap_or_default().to_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn git_reads_any_value_as_it_was(value in "[^\0]{1,20}") {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("gitconfig");
            let identity = GitIdentity { name: Some(value.clone()), email: None };
            let settings = Git { identity: Some(&identity), ..Git::default() };
            fs::write(&file, git_settings(&settings)).unwrap();
            prop_assert_eq!(read_with_git(&file, "user.name"), value);
        }
    }
}
