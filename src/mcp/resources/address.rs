//! The addresses of resources: `snowglobe://KIND[/NAME][?offset=N&limit=N&sandbox=HANDLE]`. Pure.
//!
//! Offsets and limits count bytes. Names are percent-encoded, but for the slashes of a path. `.` and `..` are refused, so
//! each resource has one address.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::sandbox::OUTPUT_DIRECTORY;

const SCHEME: &str = "snowglobe://";

/// What is encoded in a path: all but slashes and the characters that never need encoding.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// The subject of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A file or directory of the workspace, relative to it; empty: the workspace itself.
    Workspace(String),
    /// What the VM printed during its boot and since.
    Console,
    /// Every snapshot.
    Snapshots,
    /// One snapshot.
    Snapshot(String),
    /// Every job.
    Jobs,
    /// A job's output.
    Job(String),
    /// The whole of a long output.
    Output(String),
    /// What of the network is reached, and the newest of what was asked of it.
    Network,
    /// The changes of a workspace that is a copy.
    Changes,
}

/// Why an address names no resource.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{uri:?} is no resource of this server: {why}; `resources/list` and `resources/templates/list` name all resources"
)]
pub(crate) struct InvalidAddress {
    uri: String,
    why: &'static str,
}

/// The parts of an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) subject: Subject,
    /// The first byte; none: 0.
    pub(crate) offset: Option<u64>,
    /// How many bytes at most.
    pub(crate) limit: Option<u64>,
    /// The handle of the sandbox.
    pub(crate) sandbox: Option<String>,
}

impl From<Subject> for Address {
    fn from(subject: Subject) -> Self {
        Self {
            subject,
            offset: None,
            limit: None,
            sandbox: None,
        }
    }
}

impl Address {
    /// The same address in the sandbox of a handle.
    pub(crate) fn within(mut self, sandbox: Option<&str>) -> Self {
        self.sandbox = sandbox.map(str::to_owned);
        self
    }

    /// The same address from another byte on.
    pub(crate) fn starting(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Parses an address.
    pub(crate) fn parse(uri: &str) -> Result<Self, InvalidAddress> {
        let refuse = |why| InvalidAddress {
            uri: uri.to_owned(),
            why,
        };
        let rest = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| refuse("addresses begin with snowglobe://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = percent_decode_str(name)
            .decode_utf8()
            .map_err(|_| refuse("its name is not UTF-8"))?
            .into_owned();
        if name.contains('\0') {
            return Err(refuse("its name holds a NUL"));
        }
        let subject = match (kind, name) {
            ("workspace", name) => {
                if name.starts_with('/') || name.split('/').any(|part| matches!(part, "." | "..")) {
                    return Err(refuse(
                        "a path there is relative to /workspace, without `.` and `..`",
                    ));
                }
                Subject::Workspace(name)
            }
            ("console", name) if name.is_empty() => Subject::Console,
            ("snapshots", name) if name.is_empty() => Subject::Snapshots,
            ("jobs", name) if name.is_empty() => Subject::Jobs,
            ("network", name) if name.is_empty() => Subject::Network,
            ("changes", name) if name.is_empty() => Subject::Changes,
            ("snapshots" | "jobs" | "output", name)
                if name.is_empty() || name.contains('/') || name.starts_with('.') =>
            {
                return Err(refuse("there is no such name"));
            }
            ("snapshots", name) => Subject::Snapshot(name),
            ("jobs", name) => Subject::Job(name),
            ("output", name) => Subject::Output(name),
            _ => {
                return Err(refuse(
                    "the kinds are workspace, console, snapshots, jobs, network and output",
                ));
            }
        };
        let mut address = Self::from(subject);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || value.parse().map_err(|_| refuse("that is no number"));
            match key {
                _ if value.is_empty() => {}
                "offset" => address.offset = Some(number()?),
                "limit" => address.limit = Some(number()?),
                "sandbox" => address.sandbox = Some(value.to_owned()),
                _ => return Err(refuse("the parameters are offset, limit and sandbox")),
            }
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.subject {
            Subject::Workspace(path) => ("workspace/", path.as_str()),
            Subject::Console => ("console", ""),
            Subject::Snapshots => ("snapshots", ""),
            Subject::Snapshot(name) => ("snapshots/", name.as_str()),
            Subject::Jobs => ("jobs", ""),
            Subject::Job(id) => ("jobs/", id.as_str()),
            Subject::Output(name) => ("output/", name.as_str()),
            Subject::Network => ("network", ""),
            Subject::Changes => ("changes", ""),
        };
        write!(f, "{SCHEME}{kind}{}", utf8_percent_encode(name, PATH))?;
        let numbers = [("offset", self.offset), ("limit", self.limit)];
        let mut mark = '?';
        for (key, value) in numbers {
            if let Some(value) = value {
                write!(f, "{mark}{key}={value}")?;
                mark = '&';
            }
        }
        match &self.sandbox {
            Some(handle) => write!(f, "{mark}sandbox={handle}"),
            None => Ok(()),
        }
    }
}

/// The address of a whole output as a resource, if `file` holds one.
pub(crate) fn output_uri(file: &str, handle: Option<&str>) -> Option<String> {
    let name = file.strip_prefix(OUTPUT_DIRECTORY)?.strip_prefix('/')?;
    Some(
        Address::from(Subject::Output(name.to_owned()))
            .within(handle)
            .to_string(),
    )
}

/// The address of a job's output.
pub(crate) fn job_uri(id: &str, handle: Option<&str>) -> String {
    Address::from(Subject::Job(id.to_owned()))
        .within(handle)
        .to_string()
}

/// The media type of a file, guessed from its name.
pub(super) fn media_type(path: &str) -> &'static str {
    mime_guess::from_path(path)
        .first_raw()
        // `.ts` is TypeScript here, not a video.
        .filter(|kind| !kind.starts_with("video/") || !path.ends_with(".ts"))
        .unwrap_or("text/plain")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_say_what_is_wrong_with_them() {
        for (uri, says) in [
            ("file:///etc/passwd", "begin with snowglobe://"),
            ("snowglobe://workspace/../etc", "without `.` and `..`"),
            ("snowglobe://workspace/%2e%2e/etc", "without `.` and `..`"),
            ("snowglobe://workspace//etc", "relative to /workspace"),
            ("snowglobe://disk", "the kinds are"),
            ("snowglobe://jobs/a/b", "no such name"),
            ("snowglobe://output/.hidden", "no such name"),
            ("snowglobe://console?offset=-1", "no number"),
            ("snowglobe://console?of=1", "the parameters are"),
            ("snowglobe://workspace/%ff", "not UTF-8"),
        ] {
            let error = Address::parse(uri).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(says), "{uri}: {error}");
        }
        assert_eq!(
            Address::parse("snowglobe://workspace").map(|address| address.subject),
            Ok(Subject::Workspace(String::new()))
        );
    }

    fn subject() -> impl Strategy<Value = Subject> {
        let name = "[a-zA-Z0-9é %?#&=_-]{1,12}";
        prop_oneof![
            "[a-zé %?#&=_-]{1,8}(/[a-z%?#&= ]{1,8}){0,3}".prop_map(Subject::Workspace),
            Just(Subject::Console),
            Just(Subject::Snapshots),
            name.prop_map(Subject::Snapshot),
            Just(Subject::Jobs),
            name.prop_map(Subject::Job),
            name.prop_map(Subject::Output),
            Just(Subject::Network),
            Just(Subject::Changes),
        ]
    }

    #[test]
    fn media_types_are_guessed_by_name() {
        assert_eq!(media_type("a.png"), "image/png");
        assert_eq!(media_type("a.ts"), "text/plain");
        assert_eq!(media_type("Makefile"), "text/plain");
    }

    proptest! {
        #[test]
        fn every_address_comes_back_as_it_was(
            subject in subject(),
            offset in any::<Option<u64>>(),
            limit in any::<Option<u64>>(),
            sandbox in prop::option::of("sb-[0-9a-f]{32}"),
        ) {
            let address = Address { subject, offset, limit, sandbox };
            prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }

        #[test]
        fn nothing_makes_it_panic(uri in "(snowglobe://)?(workspace|jobs|console|output)?.*") {
            let _ = Address::parse(&uri);
        }
    }
}
