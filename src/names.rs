//! Names that people give: checked once, where they come in, and believed from there on.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::text::checked_text;

/// Separates a sandbox's name from the id of a client's session. No name that a person gives contains it.
const SESSION: char = '@';

/// The rule, in words.
pub const RULE: &str =
    "1 to 64 of the characters A-Z a-z 0-9 . _ - , not `.` or `..`, and does not begin with `-`";

/// A name that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use the {what} name {name:?}: a name is {RULE}")]
pub struct NameError {
    what: &'static str,
    name: String,
}

/// The one rule for names: they become file names.
fn check(what: &'static str, name: &str) -> Result<String, NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=64).contains(&name.len())
        && name.chars().all(allowed)
        && name != "."
        && name != ".."
        && !name.starts_with('-');
    if good {
        Ok(name.to_owned())
    } else {
        Err(NameError {
            what,
            name: name.to_owned(),
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text).map(Self)
            }
        }

        checked_text!($name);
    };
}

name! {
    /// A snapshot's name.
    SnapshotName, "snapshot"
}

name! {
    /// A sandbox's name. Sandboxes of one name share their snapshots, except that each client's session over HTTP has
    /// its own ([`SandboxName::session`]).
    SandboxName, "sandbox"
}

impl SandboxName {
    /// A name made from the workspace's path: the directory's own name, and enough of a hash of the whole path that
    /// two directories of one name do not share snapshots.
    pub fn of_workspace(workspace: &Path) -> Self {
        let hash = Sha256::digest(workspace.as_os_str().as_encoded_bytes());
        let hash = hex::encode(&hash[..4]);
        let directory = workspace.file_name().unwrap_or_default().to_string_lossy();
        let plain = |c: char| match c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            true => c,
            false => '_',
        };
        let base: String = directory.chars().map(plain).take(40).collect();
        let base = match base.trim_start_matches('.') {
            "" => "root",
            base => base,
        };
        Self(format!("{base}-{hash}"))
    }

    /// A new name for the sandbox of a client's session.
    pub fn session(&self) -> Self {
        let id = rand::random::<u64>();
        Self(format!("{}{SESSION}{id:016x}", self.without_session()))
    }

    /// The name of a sandbox whose directory was found, whatever it is called.
    pub(crate) fn of_directory(directory: &std::ffi::OsStr) -> Self {
        Self(directory.to_string_lossy().into_owned())
    }

    /// Whether the sandbox belongs to a client's session.
    pub fn is_session(&self) -> bool {
        self.0.contains(SESSION)
    }

    /// The id of the client's session; none if it belongs to none.
    pub fn session_id(&self) -> Option<&str> {
        self.0.split_once(SESSION).map(|(_, id)| id)
    }

    /// The name without the session's id.
    pub fn without_session(&self) -> &str {
        self.0.split_once(SESSION).map_or(&self.0, |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_names_are_refused_with_the_rule() {
        let long = "a".repeat(65);
        for name in [
            "", ".", "..", "../evil", "a/b", "a b", " a", "a\n", "a\0", "a@b", "-a", "é", &long,
        ] {
            let error = name.parse::<SnapshotName>().unwrap_err().to_string();
            assert!(error.contains("1 to 64"), "{error}");
            assert!(name.parse::<SandboxName>().is_err());
            assert!(serde_json::from_value::<SnapshotName>(name.into()).is_err());
        }
        for name in ["a", "A.b_c-9", "...", "_-", &"a".repeat(64)] {
            assert_eq!(name.parse::<SnapshotName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn two_directories_of_one_name_differ() {
        let name = |path: &str| SandboxName::of_workspace(Path::new(path));
        assert_ne!(name("/a/project"), name("/b/project"));
        assert!(name("/a/project").as_str().starts_with("project-"));
    }

    proptest! {
        #[test]
        fn a_name_made_from_a_path_is_a_name(path in "(/.{0,60}){1,3}") {
            let name = SandboxName::of_workspace(Path::new(&path));
            prop_assert_eq!(name.as_str().parse::<SandboxName>(), Ok(name.clone()));
            let session = name.session();
            prop_assert!(session.session_id().is_some() && name.session_id().is_none());
            prop_assert!(session.is_session() && session.without_session() == name.as_str());
            prop_assert!(session.as_str().parse::<SandboxName>().is_err());
        }
    }
}
