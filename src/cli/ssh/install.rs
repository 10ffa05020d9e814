//! Hosts in the user's own ssh configuration: one `Include` line in `~/.ssh/config`, and a file for each sandbox, which the
//! line takes in. Nothing else in that configuration is changed.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::nameable;
use crate::login::{self, Login};
use crate::names::SandboxName;
use crate::{files, presence, private};

/// What says that `--install` made a configuration, so that `--uninstall` removes it whole.
const MADE: &str = "# Made by `snowglobe ssh-config --install`.\n";

/// Adds a sandbox's hosts; says what was done.
pub(super) fn install(
    login: &Login,
    name: &SandboxName,
    hosts: &str,
    own: &Path,
) -> anyhow::Result<Vec<String>> {
    let line = include(login)?;
    let file = login.hosts(name);
    let written = login.write(&file, hosts)?;
    let changed = change(own, |text| with(text, &line)).with_context(|| {
        format!(
            "have {} include {}; what does that is this line at its start: {line}",
            own.display(),
            file.display()
        )
    })?;
    Ok(vec![
        match written {
            true => format!("wrote the hosts to {}", file.display()),
            false => format!("{} has the hosts already", file.display()),
        },
        match changed {
            true => format!("added `{line}` to {}", own.display()),
            false => format!("{} includes them already", own.display()),
        },
        format!("connect with: ssh {}", login::host(name)),
    ])
}

/// Removes a sandbox's hosts, and the line if no others are left; says what was done.
pub(super) fn uninstall(
    login: &Login,
    name: &SandboxName,
    own: &Path,
) -> anyhow::Result<Vec<String>> {
    let file = login.hosts(name);
    let mut done = Vec::new();
    if file.symlink_metadata().is_ok() {
        files::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        done.push(format!("removed {}", file.display()));
    }
    let others = login.any_hosts();
    let others = others.with_context(|| format!("list {}", login.dir().display()))?;
    if let Some(line) = include(login).ok().filter(|_| !others) {
        let changed = change(own, |text| without(text, &line)).with_context(|| {
            format!(
                "remove the line `{line}` from {}, which includes nothing any more",
                own.display()
            )
        })?;
        if changed {
            done.push(format!("removed `{line}` from {}", own.display()));
        }
    }
    if others && !done.is_empty() {
        let own = own.display();
        done.push(format!("{own} still includes the hosts of other sandboxes"));
    }
    if done.is_empty() {
        done.push(format!("{} is not installed", login::host(name)));
    }
    Ok(done)
}

/// The line that includes every sandbox's hosts.
fn include(login: &Login) -> anyhow::Result<String> {
    let dir = nameable(login.dir())?;
    // ssh takes the path for a pattern; unlike elsewhere it expands no `%` there.
    anyhow::ensure!(
        !dir.contains(['*', '?', '[', '%']),
        "include {}: ssh takes it for a pattern; print the hosts with `snowglobe ssh-config`, or keep Snowglobe's data \
         elsewhere (SNOWGLOBE_DATA_DIR)",
        login.dir().display()
    );
    Ok(format!("Include \"{dir}/*{}\"", login::HOSTS))
}

/// A configuration with a line at its start: after a `Host` it would count for that host alone. None if it has it.
/// `text` is none if there is no configuration.
fn with(text: Option<&[u8]>, line: &str) -> Option<Vec<u8>> {
    let Some(text) = text else {
        return Some(format!("{MADE}{line}\n").into_bytes());
    };
    let added = format!("{line}\n");
    find(text, line)
        .is_none()
        .then(|| [added.as_bytes(), text].concat())
}

/// A configuration without a line, and without the mark of one that was made for it; none if it lacks the line.
fn without(text: Option<&[u8]>, line: &str) -> Option<Vec<u8>> {
    let text = text?;
    let place = find(text, line)?;
    let kept = [&text[..place.start], &text[place.end..]].concat();
    let others = kept.strip_prefix(MADE.as_bytes()).map(<[u8]>::to_vec);
    Some(others.unwrap_or(kept))
}

/// Where a line is among the lines that count for every host.
fn find(text: &[u8], line: &str) -> Option<Range<usize>> {
    let mut start = 0;
    for own in text.split_inclusive(|byte| *byte == b'\n') {
        let end = start + own.len();
        let own = own.trim_ascii();
        if own == line.as_bytes() {
            return Some(start..end);
        }
        let word = own.split(|byte| matches!(byte, b' ' | b'\t' | b'=')).next();
        let begins =
            |name: &str| word.is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()));
        if begins("host") || begins("match") {
            return None;
        }
        start = end;
    }
    None
}

/// Changes the user's configuration, whole or not at all; says whether it was changed. A link to it stays one, and its
/// mode and owner stay. One that becomes empty because `--install` made it is removed.
fn change(own: &Path, new: impl Fn(Option<&[u8]>) -> Option<Vec<u8>>) -> io::Result<bool> {
    let path = match own.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => target(own)?,
        Ok(_) => own.to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => own.to_owned(),
        Err(error) => return Err(error),
    };
    let text = presence::read(&path)?;
    let Some(new) = new(text.as_deref()) else {
        return Ok(false);
    };
    let meta = text.is_some().then(|| fs::metadata(&path)).transpose()?;
    // A rename would replace it all the same.
    if meta.as_ref().is_some_and(|meta| meta.mode() & 0o222 == 0) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the file is read-only",
        ));
    }
    match new.is_empty() && text.is_some_and(|text| text.starts_with(MADE.as_bytes())) {
        true => fs::remove_file(&path)?,
        false => replace(&path, &new, meta.as_ref())?,
    }
    Ok(true)
}

/// What a link leads to.
fn target(link: &Path) -> io::Result<PathBuf> {
    link.canonicalize().map_err(|error| {
        let to = fs::read_link(link).unwrap_or_default();
        let why = format!("it is a link to {}: {error}", to.display());
        io::Error::new(error.kind(), why)
    })
}

fn replace(path: &Path, text: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if !dir.exists() {
        private::dir(dir)?;
    }
    // Not `files::temporary`: what others left in this directory is not Snowglobe's to remove.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text)?;
    if let Some(old) = old {
        let new = file.as_file().metadata()?;
        // As root, in a home that is another user's.
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        file.as_file().set_permissions(old.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    files::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "Include \"/d/ssh/*.conf\"";

    /// A home directory, and data in a directory whose name has spaces.
    struct Home {
        dir: tempfile::TempDir,
        login: Login,
        own: PathBuf,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                login: Login::of(&dir.path().join("a data 'directory'")),
                own: dir.path().join(".ssh/config"),
                dir,
            }
        }

        /// One with such a configuration.
        fn with(text: &[u8]) -> Self {
            let home = Self::new();
            fs::create_dir(home.own.parent().unwrap()).unwrap();
            fs::write(&home.own, text).unwrap();
            home
        }

        fn install(&self, name: &str) -> anyhow::Result<String> {
            let hosts = format!("Host snowglobe-{name}\n  User user-{name}\n");
            let done = install(&self.login, &name.parse().unwrap(), &hosts, &self.own)?;
            Ok(done.join("; "))
        }

        fn uninstall(&self, name: &str) -> anyhow::Result<String> {
            let done = uninstall(&self.login, &name.parse().unwrap(), &self.own)?;
            Ok(done.join("; "))
        }

        /// The user's name that ssh itself finds for a sandbox's host.
        fn user(&self, name: &str) -> String {
            let output = Command::new("ssh")
                .args(["-G", "-F"])
                .arg(&self.own)
                .arg(format!("snowglobe-{name}"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let user = text.lines().find_map(|line| line.strip_prefix("user "));
            user.expect("ssh reads the configuration").to_owned()
        }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn it_is_added_once_and_undone() {
        let home = Home::new();
        let done = home.install("a").unwrap();
        assert!(
            done.contains("wrote the hosts") && done.contains("added `Include"),
            "{done}"
        );
        assert_eq!(mode(&home.own), 0o600);
        assert_eq!(mode(home.own.parent().unwrap()), 0o700);
        let first = fs::read(&home.own).unwrap();
        let done = home.install("a").unwrap();
        assert!(done.contains("has the hosts already"), "{done}");
        assert!(done.contains("includes them already"), "{done}");
        home.install("b").unwrap();
        assert_eq!(fs::read(&home.own).unwrap(), first);
        assert_eq!(home.user("a"), "user-a");
        assert_eq!(home.user("b"), "user-b");
        let done = home.uninstall("a").unwrap();
        assert!(done.contains("still includes"), "{done}");
        assert_eq!(fs::read(&home.own).unwrap(), first, "b still needs it");
        let done = home.uninstall("b").unwrap();
        assert!(done.contains("Include"), "{done}");
        assert!(!home.own.exists(), "there was none");
        let done = home.uninstall("b").unwrap();
        assert!(done.contains("not installed"), "{done}");
        assert!(!home.own.exists());
    }

    #[test]
    fn every_byte_of_the_users_own_lines_stays() {
        for text in [
            &b""[..],
            b"\n",
            b"Host other\n  User me\n",
            b"Host other\n  User me",
            b"# caf\xe9\r\nHost *\r\n  User me\r\n",
            b"Match all\n  Include other",
        ] {
            let home = Home::with(text);
            home.install("a").unwrap();
            assert_eq!(home.user("a"), "user-a", "{text:?}");
            let with = fs::read(&home.own).unwrap();
            assert!(with.ends_with(text));
            home.install("a").unwrap();
            assert_eq!(fs::read(&home.own).unwrap(), with);
            home.uninstall("a").unwrap();
            assert_eq!(fs::read(&home.own).unwrap(), text);
        }
        // What is added later to a file that was made for the line stays, too.
        let home = Home::new();
        home.install("a").unwrap();
        let later = [&fs::read(&home.own).unwrap()[..], b"Host later"].concat();
        fs::write(&home.own, later).unwrap();
        home.uninstall("a").unwrap();
        assert_eq!(fs::read(&home.own).unwrap(), b"Host later");
    }

    #[test]
    fn a_link_a_mode_and_an_owner_stay() {
        let home = Home::with(b"");
        let file = home.dir.path().join("dotfiles");
        fs::write(&file, "Host other\n").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let owner = match rustix::process::geteuid().is_root() {
            true => 12345,
            false => rustix::process::geteuid().as_raw(),
        };
        std::os::unix::fs::chown(&file, Some(owner), None).unwrap();
        fs::remove_file(&home.own).unwrap();
        symlink("../dotfiles", &home.own).unwrap();
        let above = mode(home.dir.path());
        home.install("a").unwrap();
        assert!(home.own.symlink_metadata().unwrap().is_symlink());
        assert_eq!(
            (mode(&file), file.metadata().unwrap().uid()),
            (0o640, owner)
        );
        assert!(fs::read(&file).unwrap().starts_with(b"Include "));
        home.uninstall("a").unwrap();
        assert!(home.own.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"Host other\n");
        assert_eq!(
            (mode(&file), file.metadata().unwrap().uid()),
            (0o640, owner)
        );
        assert_eq!(mode(home.dir.path()), above);
    }

    #[test]
    fn what_can_not_be_changed_is_left_and_the_line_is_said() {
        let home = Home::with(b"Host other\n");
        fs::set_permissions(&home.own, PermissionsExt::from_mode(0o400)).unwrap();
        let said = format!("{:#}", home.install("a").unwrap_err());
        assert!(
            said.contains("read-only") && said.contains("start: Include "),
            "{said}"
        );
        assert_eq!(fs::read(&home.own).unwrap(), b"Host other\n");
        // The line can be added by hand: the hosts are there.
        fs::set_permissions(&home.own, PermissionsExt::from_mode(0o600)).unwrap();
        let line = said
            .lines()
            .next()
            .unwrap()
            .split_once("start: ")
            .unwrap()
            .1;
        let line = line.split_inclusive('"').take(2).collect::<String>();
        fs::write(&home.own, format!("{line}\nHost other\n")).unwrap();
        assert_eq!(home.user("a"), "user-a");
        fs::set_permissions(&home.own, PermissionsExt::from_mode(0o400)).unwrap();
        let said = format!("{:#}", home.uninstall("a").unwrap_err());
        assert!(
            said.contains("read-only") && said.contains("Include "),
            "{said}"
        );
        // A link that leads nowhere, and what is no file.
        for put in [
            &|path: &Path| symlink("/no/such/file", path).unwrap(),
            &|path: &Path| fs::create_dir(path).unwrap() as (),
        ] as [&dyn Fn(&Path); 2]
        {
            let home = Home::with(b"");
            fs::remove_file(&home.own).unwrap();
            put(&home.own);
            let said = format!("{:#}", home.install("a").unwrap_err());
            assert!(said.contains("start: Include "), "{said}");
        }
    }

    #[test]
    fn a_directory_that_is_a_pattern_is_refused() {
        for odd in ["/d[a]", "/d*", "/d?", "/d%h", "/d\"e"] {
            assert!(include(&Login::of(Path::new(odd))).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn adding_and_removing_change_nothing_else(
            text in "([hH]ost( |=)x\n|  User y\r?\n|# z\n|Include other\n|\n|  Include \"/d/ssh/\\*.conf\"\n){0,6}(# end)?",
        ) {
            let text = text.as_bytes();
            match with(Some(text), LINE) {
                Some(added) => {
                    prop_assert_eq!(with(Some(&added), LINE), None);
                    prop_assert_eq!(without(Some(&added), LINE).unwrap(), text);
                    prop_assert_eq!(without(Some(text), LINE), None);
                }
                // The user's own line counts for every host.
                None => prop_assert!(without(Some(text), LINE).is_some()),
            }
            // One below a host counts for that host alone.
            let below = format!("Host x\n  {LINE}\n");
            prop_assert!(with(Some(below.as_bytes()), LINE).is_some());
        }
    }
}
