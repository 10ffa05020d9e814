//! Users of the guest: the accounts in `/etc/passwd`, and the user `sandbox`, which every image gets.
//!
//! If the image names a user of its own that isn't root, `sandbox` stands for that user, since the image's files belong
//! to it. A user without a name is called `sandbox`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::user_thread::Credentials;
use crate::boot::{ImageUser, SANDBOX_ID};
use crate::wire::User;

/// A user that commands run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// The name.
    pub(crate) name: String,
    /// The home directory.
    pub(crate) home: PathBuf,
    /// The login shell.
    pub(crate) shell: String,
    /// The user and group ids.
    pub(crate) credentials: Credentials,
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or_default()
}

/// The supplementary groups of a user.
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

/// The account of a [`User`], from the image's files.
pub(crate) fn account(root: &Path, user: User, image_user: Option<&ImageUser>) -> Account {
    let image_user = image_user.filter(|_| user == User::Sandbox);
    let (name, uid, home) = match (user, image_user) {
        (User::Root, _) => ("root", 0, "/root"),
        (User::Sandbox, None) => ("sandbox", SANDBOX_ID, "/home/sandbox"),
        (User::Sandbox, Some(image)) => (
            image.name.as_deref().unwrap_or("sandbox"),
            image.uid,
            "/home/sandbox",
        ),
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
    let gid = image_user.map_or_else(|| field(line, 3).parse().unwrap_or(uid), |image| image.gid);
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
        credentials: Credentials {
            uid: field(line, 2).parse().unwrap_or(uid),
            gid,
            groups,
        },
    }
}

/// The home directory of the user with this name.
pub(crate) fn home_of(root: &Path, name: &str) -> Option<PathBuf> {
    let passwd = fs::read_to_string(root.join("etc/passwd")).ok()?;
    let line = passwd
        .lines()
        .find(|line| !name.is_empty() && field(line, 0) == name)?;
    match field(line, 5) {
        "" => Some("/".into()),
        home => Some(home.into()),
    }
}

/// Adds the user `sandbox` with its home, before any other name of its uid.
pub(crate) fn ensure_sandbox(root: &Path, image_user: Option<&ImageUser>) -> io::Result<()> {
    let (uid, gid) = match image_user {
        None => (SANDBOX_ID, SANDBOX_ID),
        Some(ImageUser { name: Some(_), .. }) => return Ok(()),
        Some(ImageUser {
            uid,
            gid,
            name: None,
        }) => (*uid, *gid),
    };
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    let shell = default_shell(root);
    let ours = format!("sandbox:x:{uid}:{gid}:Snowglobe:/home/sandbox:{shell}");
    put_line(
        &etc.join("passwd"),
        "sandbox",
        uid,
        &ours,
        "root:x:0:0:root:/root:/bin/sh",
    )?;
    // The image's own group keeps its name.
    if gid == SANDBOX_ID {
        put_line(
            &etc.join("group"),
            "sandbox",
            gid,
            &format!("sandbox:x:{gid}:"),
            "root:x:0:",
        )?;
    }
    let home = root.join("home/sandbox");
    if !home.exists() {
        fs::create_dir_all(&home)?;
        for file in [".bashrc", ".profile"] {
            // Best effort: some images have none.
            fs::copy(root.join("etc/skel").join(file), home.join(file)).ok();
        }
    }
    if fs::metadata(&home)?.uid() != uid {
        for file in [".bashrc", ".profile"] {
            std::os::unix::fs::lchown(home.join(file), Some(uid), Some(gid)).ok();
        }
        std::os::unix::fs::chown(&home, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Adds `sandbox` to `/etc/shadow`, without a password, since `sudo` requires an entry. An image without that file, or
/// with an entry of its own, stays unchanged.
pub(crate) fn ensure_shadow(root: &Path) -> io::Result<()> {
    let path = root.join("etc/shadow");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(());
    };
    if text.lines().any(|line| field(line, 0) == "sandbox") {
        return Ok(());
    }
    let line_end = match text.ends_with('\n') || text.is_empty() {
        true => "",
        false => "\n",
    };
    fs::write(
        path,
        format!("{text}{line_end}sandbox:*:19000:0:99999:7:::\n"),
    )
}

/// Adds `line` to a file of `name:x:id:…` lines, unless it has one with this name and id.
fn put_line(path: &Path, name: &str, id: u32, line: &str, root_line: &str) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!("{root_line}\n"),
        Err(e) => return Err(e),
    };
    let id_text = id.to_string();
    if text
        .lines()
        .any(|line| field(line, 0) == name && field(line, 2) == id_text)
    {
        return Ok(());
    }
    // An older line with the name belongs to a former `sandbox` with another id.
    let mut lines: Vec<&str> = text.lines().filter(|line| field(line, 0) != name).collect();
    let same_id = lines.iter().position(|line| field(line, 2) == id_text);
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
        ensure_sandbox(root.path(), None).unwrap();
        let account = account(root.path(), User::Sandbox, None);
        assert_eq!(
            (account.name.as_str(), account.home.to_str()),
            ("sandbox", Some("/home/sandbox"))
        );
        assert_eq!(account.credentials.uid, 1000);
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
        ensure_sandbox(root.path(), None).unwrap();
        ensure_sandbox(root.path(), None).unwrap();
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
        let account = account(root.path(), User::Sandbox, None);
        assert_eq!(account.credentials.groups, [1000, 5, 7]);
    }

    #[test]
    fn sandbox_stands_for_the_images_own_user() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:7:8::/srv/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.path().join("etc/group"), "web:x:9:app\n").unwrap();
        let app = ImageUser {
            uid: 7,
            gid: 80,
            name: Some("app".into()),
        };
        ensure_sandbox(root.path(), Some(&app)).unwrap();
        let found = account(root.path(), User::Sandbox, Some(&app));
        assert_eq!(
            (found.name.as_str(), found.home.to_str()),
            ("app", Some("/srv/app"))
        );
        let credentials = found.credentials;
        assert_eq!(
            (credentials.uid, credentials.gid, credentials.groups),
            (7, 80, vec![80, 9])
        );
        assert_eq!(
            account(root.path(), User::Root, Some(&app)).credentials.uid,
            0
        );
    }

    /// Only root may give files away.
    #[test]
    fn a_number_gets_the_name_sandbox() {
        assert!(rustix::process::geteuid().is_root(), "run as root");
        let root = tempfile::tempdir().unwrap();
        ensure_sandbox(root.path(), None).unwrap();
        let number = ImageUser {
            uid: 4321,
            gid: 0,
            name: None,
        };
        ensure_sandbox(root.path(), Some(&number)).unwrap();
        let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
        let named = passwd.lines().filter(|line| line.starts_with("sandbox:"));
        assert_eq!(named.count(), 1, "{passwd}");
        let found = account(root.path(), User::Sandbox, Some(&number));
        let credentials = found.credentials;
        assert_eq!((credentials.uid, credentials.gid), (4321, 0));
        assert_eq!(
            fs::metadata(root.path().join("home/sandbox"))
                .unwrap()
                .uid(),
            4321
        );
    }
}
