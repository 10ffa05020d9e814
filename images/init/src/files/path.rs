//! The file that a path stands for. Every tool, and every command's working directory, uses these rules:
//!
//! - a relative path begins at the workspace;
//! - `~`, `~/x` and `$HOME/x` are in the home of the user that the caller acts for, `~name/x` in the home of `name`;
//! - a `file:` URI is percent-decoded, so it can name a file whose name is not UTF-8;
//! - `./~` and `./file:x` are files with exactly these names.
//!
//! A path that does not exist may stand for a file whose name looks the same: see [`super::names`].

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::names;
use crate::system::users;
use crate::wire::WireError;

/// The directories at which paths begin.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The start of relative paths.
    pub(crate) workspace: PathBuf,
    /// The directory `~`.
    pub(crate) home: PathBuf,
    /// The root of the file system, for `etc/passwd` and `~name`.
    pub(crate) root: PathBuf,
}

impl Places {
    /// The absolute path that `path` stands for. It need not exist.
    pub(crate) fn absolute(&self, path: &str) -> Result<PathBuf, WireError> {
        if path.is_empty() {
            return Err(WireError::invalid(
                "use an empty path: name a file or directory".to_owned(),
            ));
        }
        let decoded = plain_path(path)?;
        if decoded.contains(&0) {
            return Err(WireError::invalid(format!(
                "use the path {path:?}: it has a NUL, which no file's name can have"
            )));
        }
        let spelled = Path::new(OsStr::from_bytes(&decoded));
        match self.of_home(path, &decoded)? {
            Some(home) => Ok(home),
            None => Ok(self.workspace.join(spelled)),
        }
    }

    /// As [`Self::absolute`]; if it does not exist, the one file or directory whose name looks the same, with a note.
    pub(crate) fn find(&self, path: &str, notes: &mut Vec<String>) -> Result<PathBuf, WireError> {
        let path = self.absolute(path)?;
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => names::look_alike(path, notes),
            _ => Ok(path),
        }
    }

    /// The path below a home directory, if `path` begins with one.
    fn of_home(&self, path: &str, decoded: &[u8]) -> Result<Option<PathBuf>, WireError> {
        let end = memchr::memchr(b'/', decoded).unwrap_or(decoded.len());
        let (first, rest) = decoded.split_at(end);
        let below = |home: &Path| {
            let rest = &rest[rest.iter().take_while(|byte| **byte == b'/').count()..];
            match rest.is_empty() {
                true => home.to_owned(),
                false => home.join(OsStr::from_bytes(rest)),
            }
        };
        match first {
            b"~" | b"$HOME" | b"${HOME}" => Ok(Some(below(&self.home))),
            [b'~', name @ ..] => {
                let name = String::from_utf8_lossy(name);
                if let Some(home) = users::home_of(&self.root, &name) {
                    return Ok(Some(below(&home)));
                }
                let literal = self.workspace.join(OsStr::from_bytes(first));
                // Some programs use such names for temporary files.
                if literal.symlink_metadata().is_ok() {
                    return Ok(None);
                }
                Err(WireError::invalid(format!(
                    "use the path {path:?}: this machine has no user {name:?}; `~/` is your home, and `./~{name}` \
                     a file of that name in the workspace"
                )))
            }
            _ => Ok(None),
        }
    }
}

/// The bytes of a path; a `file:` URI is decoded.
fn plain_path(path: &str) -> Result<Cow<'_, [u8]>, WireError> {
    let scheme = path
        .get(..5)
        .filter(|scheme| scheme.eq_ignore_ascii_case("file:"));
    if scheme.is_none() {
        return Ok(Cow::Borrowed(path.as_bytes()));
    }
    let refuse = |why: String| {
        Err(WireError::invalid(format!(
            "use the URI {path:?}: {why}; send the plain path, or file:///DIR/NAME"
        )))
    };
    let rest = &path[5..];
    if let Some(at) = rest.find(['?', '#']) {
        let mark = &rest[at..=at];
        return refuse(format!(
            "what follows {mark:?} is no part of a path (in a name, it is written {})",
            if mark == "?" { "%3F" } else { "%23" }
        ));
    }
    let spelled = match rest.strip_prefix("//") {
        Some(rest) => {
            let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
            if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
                return refuse(format!(
                    "it names a file of another machine, {host:?}; a file of this one has three slashes"
                ));
            }
            &rest[host.len()..]
        }
        None => rest,
    };
    if spelled.is_empty() {
        return refuse("it has no path".to_owned());
    }
    Ok(percent_decode_str(spelled).collect::<Vec<u8>>().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            workspace: root.join("workspace"),
            home: "/home/me".into(),
            root: root.to_owned(),
        }
    }

    fn world() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::create_dir(root.path().join("workspace")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nme:x:1:1::/home/me:/bin/sh\nnohome:x:2:2:::\n";
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        let places = places(root.path());
        (root, places)
    }

    #[test]
    fn paths_mean_what_a_shell_and_a_uri_mean() {
        let (_root, places) = world();
        let workspace = |path: &str| places.workspace.join(path);
        for (path, means) in [
            ("a/b", workspace("a/b")),
            ("/etc/x", "/etc/x".into()),
            ("~", "/home/me".into()),
            ("~/", "/home/me".into()),
            ("~//a b", "/home/me/a b".into()),
            ("$HOME/x", "/home/me/x".into()),
            ("${HOME}", "/home/me".into()),
            ("~root/x", "/root/x".into()),
            ("~me", "/home/me".into()),
            ("~nohome/x", "/x".into()),
            ("./~", workspace("./~")),
            ("a/~/b", workspace("a/~/b")),
            ("./~root", workspace("./~root")),
            ("file:///workspace/a%20b", "/workspace/a b".into()),
            ("FILE:///x", "/x".into()),
            ("file://localhost/x", "/x".into()),
            ("file://LOCALHOST/x", "/x".into()),
            ("file:/x%2520", "/x%20".into()),
            ("file:src/x", workspace("src/x")),
            ("./file:x", workspace("./file:x")),
            ("files:x", workspace("files:x")),
            ("file", workspace("file")),
            ("file:~/x", "/home/me/x".into()),
        ] {
            assert_eq!(places.absolute(path).unwrap(), means, "{path}");
        }
        let latin = places.absolute("file:///caf%E9").unwrap();
        assert_eq!(latin.as_os_str().as_bytes(), b"/caf\xe9");
    }

    #[test]
    fn what_means_no_file_is_refused_with_advice() {
        let (_root, places) = world();
        for (path, says) in [
            ("", "empty"),
            ("a\0b", "NUL"),
            ("file:///a%00", "NUL"),
            ("file:", "no path"),
            ("file://", "no path"),
            ("file://otherhost/x", "another machine, \"otherhost\""),
            ("file://workspace", "three slashes"),
            ("file:///a#L10", "%23"),
            ("file:///a?x", "%3F"),
            ("~nobody-such/x", "no user \"nobody-such\""),
            ("~+", "no user"),
        ] {
            let refused = places.absolute(path).unwrap_err();
            assert!(
                refused.message.contains(says),
                "{path}: {}",
                refused.message
            );
        }
        std::fs::write(places.workspace.join("~$report.docx"), "").unwrap();
        assert_eq!(
            places.absolute("~$report.docx").unwrap(),
            places.workspace.join("~$report.docx")
        );
    }

    proptest! {
        #[test]
        fn every_path_has_its_uri(bytes in prop::collection::vec(1_u8..=255, 1..40)) {
            let (_root, places) = world();
            let uri: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            let found = places.absolute(&format!("file:///{uri}")).unwrap();
            prop_assert_eq!(&found.as_os_str().as_bytes()[1..], &bytes[..]);
        }

        #[test]
        fn plain_names_stay(path in "[a-zA-Z0-9_. -]{1,20}(/[^\0]{1,20})?") {
            let (_root, places) = world();
            prop_assert_eq!(places.absolute(&path).unwrap(), places.workspace.join(&path));
        }
    }
}
