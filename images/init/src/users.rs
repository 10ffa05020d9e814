//! Users of the guest: what `/etc/passwd` says, and the user `sandbox`, which every image gets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::actor::Credentials;
use crate::wire::User;

/// The uid and gid of `sandbox`.
pub const SANDBOX_ID: u32 = 1000;

/// Somebody to run commands as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The home directory.
    pub home: PathBuf,
    /// The login shell.
    pub shell: String,
    /// The ids; absent: whoever this process is.
    pub credentials: Option<Credentials>,
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or_default()
}

/// The groups besides the primary one that list the user.
fn groups_of(root: &Path, name: &str) -> Vec<u32> {
    let text = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    text.lines()
        .filter(|line| field(line, 3).split(',').any(|member| member == name))
        .filter_map(|line| field(line, 2).parse().ok())
        .collect()
}

fn default_shell(root: &Path) -> String {
    let found = ["/bin/bash", "/usr/bin/bash", "/bin/sh"]
        .iter()
        .find(|shell| root.join(&shell[1..]).exists());
    (*found.unwrap_or(&"/bin/sh")).to_owned()
}

/// The account behind a [`User`], as the image has it.
pub fn account(root: &Path, user: User) -> Account {
    let (name, uid, home) = match user {
        User::Root => ("root", 0, "/root"),
        User::Sandbox => ("sandbox", SANDBOX_ID, "/home/sandbox"),
    };
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let line = passwd
        .lines()
        .find(|line| field(line, 0) == name)
        .unwrap_or_default();
    let or = |index, default: &str| match field(line, index) {
        "" => default.to_owned(),
        value => value.to_owned(),
    };
    let gid = field(line, 3).parse().unwrap_or(uid);
    let mut groups = vec![gid];
    groups.extend(groups_of(root, name));
    groups.dedup();
    let shell = or(6, "");
    let usable = !shell.is_empty()
        && !shell.ends_with("nologin")
        && root.join(shell.trim_start_matches('/')).exists();
    Account {
        name: name.into(),
        home: or(5, home).into(),
        shell: if usable { shell } else { default_shell(root) },
        credentials: Some(Credentials {
            uid: field(line, 2).parse().unwrap_or(uid),
            gid,
            groups,
        }),
    }
}

/// Sees to it that `sandbox` exists, with its home and in front of any other name of its uid.
pub fn ensure_sandbox(root: &Path) -> io::Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    let shell = default_shell(root);
    let ours = format!("sandbox:x:{SANDBOX_ID}:{SANDBOX_ID}:Snowglobe:/home/sandbox:{shell}");
    put_line(
        &etc.join("passwd"),
        "sandbox",
        SANDBOX_ID,
        &ours,
        "root:x:0:0:root:/root:/bin/sh",
    )?;
    put_line(
        &etc.join("group"),
        "sandbox",
        SANDBOX_ID,
        &format!("sandbox:x:{SANDBOX_ID}:"),
        "root:x:0:",
    )?;
    let home = root.join("home/sandbox");
    if !home.exists() {
        fs::create_dir_all(&home)?;
        for file in [".bashrc", ".profile"] {
            // What new users of this image get; images without it do without.
            let _ = fs::copy(root.join("etc/skel").join(file), home.join(file));
            let _ = std::os::unix::fs::chown(home.join(file), Some(SANDBOX_ID), Some(SANDBOX_ID));
        }
        std::os::unix::fs::chown(&home, Some(SANDBOX_ID), Some(SANDBOX_ID))?;
    }
    Ok(())
}

/// Puts `line` into a file of `name:x:id:…` lines unless one of that name is there.
fn put_line(path: &Path, name: &str, id: u32, line: &str, root_line: &str) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!("{root_line}\n"),
        Err(e) => return Err(e),
    };
    if text.lines().any(|line| field(line, 0) == name) {
        return Ok(());
    }
    let mut lines: Vec<&str> = text.lines().collect();
    let same_id = lines
        .iter()
        .position(|line| field(line, 2) == id.to_string());
    lines.insert(same_id.unwrap_or(lines.len()), line);
    let new = path.with_extension("snowglobe");
    fs::write(&new, lines.join("\n") + "\n")?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_comes_to_an_image_without_any_users() {
        let root = tempfile::tempdir().unwrap();
        ensure_sandbox(root.path()).unwrap();
        let account = account(root.path(), User::Sandbox);
        assert_eq!(
            (account.name.as_str(), account.home.to_str()),
            ("sandbox", Some("/home/sandbox"))
        );
        assert_eq!(account.credentials.unwrap().uid, 1000);
        assert!(
            fs::read_to_string(root.path().join("etc/passwd"))
                .unwrap()
                .starts_with("root:")
        );
    }

    #[test]
    fn sandbox_comes_before_another_name_of_its_uid_and_only_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n",
        )
        .unwrap();
        ensure_sandbox(root.path()).unwrap();
        ensure_sandbox(root.path()).unwrap();
        let names: Vec<String> = fs::read_to_string(root.path().join("etc/passwd"))
            .unwrap()
            .lines()
            .map(|l| field(l, 0).into())
            .collect();
        assert_eq!(names, ["root", "sandbox", "node"]);
    }

    #[test]
    fn groups_are_the_ones_that_list_the_user() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/group"),
            "a:x:5:sandbox,b\nb:x:6:b\nc:x:7:sandbox\n",
        )
        .unwrap();
        let account = account(root.path(), User::Sandbox);
        assert_eq!(account.credentials.unwrap().groups, [1000, 5, 7]);
    }
}
