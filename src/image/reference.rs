//! References to images, as people write them.
//!
//! ```text
//! debian                          the image of this name in the store; else docker.io/library/debian:latest
//! python:3.12-slim                docker.io/library/python:3.12-slim
//! ghcr.io/owner/image:tag@sha256:…   the image with this digest; the tag is ignored
//! localhost:5000/image            the first part is a registry if it has a dot or a colon, or is localhost
//! oci:DIR[:NAME]                  an OCI image layout
//! docker-archive:FILE             an archive that `docker save` wrote
//! tar:FILE                        a tar archive of a root file system
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::image::name::ImageName;
use crate::text::serde_as_text;

/// The registry of references that name none: the hub.
pub(crate) const HUB: &str = "docker.io";

/// A reference to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// A single word: an image of the store, or an official image of the hub.
    Name(ImageName),
    /// An image of a registry.
    Registry(RegistryRef),
    /// An image in an OCI layout.
    OciLayout {
        /// The layout's directory.
        dir: PathBuf,
        /// The `org.opencontainers.image.ref.name` of one of its images; `None` if it holds only one.
        name: Option<String>,
    },
    /// A saved image, as `docker save` writes it.
    DockerArchive(PathBuf),
    /// The tar archive of a root file system.
    Tar(PathBuf),
}

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference: the part that is wrong, and the rule for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use the image {text:?}: {part} {problem}")]
pub struct RefError {
    text: String,
    part: String,
    problem: &'static str,
}

/// The prefixes of references to files and directories of the host.
const FILES: [&str; 3] = [LAYOUT, ARCHIVE, TAR];
const LAYOUT: &str = "oci:";
const ARCHIVE: &str = "docker-archive:";
const TAR: &str = "tar:";

const TAG_RULE: &str = "must be 1 to 128 of A-Z a-z 0-9 . _ - and not begin with . or -";
const PATH_RULE: &str =
    "must be lowercase letters and digits, with single . or _, __ or - between them";
const HOST_RULE: &str =
    "must be a host name or address, with a port from 1 to 65535 where one is given";
const DIGEST_RULE: &str = "must be sha256: and 64 digits of 0-9 a-f";
const FILE_RULE: &str =
    "would be taken for the name of a file; write its full host name, with a dot in it";
const TOO_LONG: &str = "must be at most 1024 characters long, with its registry and its tag";
const LONGEST: usize = 1024;

impl ImageRef {
    /// The text that all references to the same image share. Paths become absolute.
    pub fn canonical(&self) -> String {
        match self {
            Self::Name(name) => name.to_string(),
            Self::Registry(reference) => reference.to_string(),
            Self::OciLayout { dir, name: None } => format!("oci:{}", absolute(dir).display()),
            Self::OciLayout {
                dir,
                name: Some(name),
            } => format!("oci:{}:{name}", absolute(dir).display()),
            Self::DockerArchive(file) => format!("docker-archive:{}", absolute(file).display()),
            Self::Tar(file) => format!("tar:{}", absolute(file).display()),
        }
    }

    /// The file or directory of the host that it names.
    pub fn host_path(&self) -> Option<&Path> {
        match self {
            Self::OciLayout { dir: path, .. } | Self::DockerArchive(path) | Self::Tar(path) => {
                Some(path)
            }
            Self::Name(_) | Self::Registry(_) => None,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

impl FromStr for ImageRef {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let bad = |part: String, problem| RefError {
            text: text.to_owned(),
            part,
            problem,
        };
        if text.is_empty() || text.trim() != text {
            let part = "the reference".to_owned();
            return Err(bad(part, "must not be empty, nor have spaces around it"));
        }
        if let Some(rest) = text.strip_prefix(LAYOUT) {
            let (dir, name) = match rest.rsplit_once(':') {
                Some((dir, name)) if !name.contains('/') => (dir, Some(name.to_owned())),
                _ => (rest, None),
            };
            if dir.is_empty() || name.as_deref() == Some("") {
                return Err(bad(
                    LAYOUT.into(),
                    "must be followed by DIRECTORY or DIRECTORY:NAME",
                ));
            }
            let dir = dir.into();
            return Ok(Self::OciLayout { dir, name });
        }
        for prefix in [ARCHIVE, TAR] {
            let Some(file) = text.strip_prefix(prefix) else {
                continue;
            };
            if file.is_empty() {
                return Err(bad(prefix.into(), "must be followed by a file"));
            }
            let saved = prefix == ARCHIVE;
            return Ok(if saved {
                Self::DockerArchive(file.into())
            } else {
                Self::Tar(file.into())
            });
        }
        match text.parse::<ImageName>() {
            Ok(name) => Ok(Self::Name(name)),
            Err(_) => text.parse().map(Self::Registry),
        }
    }
}

impl RegistryRef {
    /// The official image of the hub with that name; `None` if the hub allows no such name.
    pub(crate) fn of_hub(name: &ImageName) -> Option<Self> {
        is_component(name.as_str()).then(|| Self {
            registry: HUB.into(),
            repository: format!("library/{name}"),
            tag: Some("latest".into()),
            digest: None,
        })
    }

    /// The host of the registry, with its port if one is given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` if the text has neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest. If there is one, the tag is ignored.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for RegistryRef {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let bad = |part: &str, problem| RefError {
            text: text.to_owned(),
            part: part.to_owned(),
            problem,
        };
        let too_long = || bad("the reference", TOO_LONG);
        if text.len() > LONGEST {
            return Err(too_long());
        }
        if let Some((scheme, _)) = text.split_once("://")
            && scheme != "docker"
        {
            let problem = "is no part of a reference; write HOST/REPOSITORY:TAG";
            return Err(bad(&format!("the scheme {scheme:?}"), problem));
        }
        let rest = text.strip_prefix("docker://").unwrap_or(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let digest = digest
            .map(|text| {
                let parsed = text.parse::<Digest>();
                parsed.map_err(|_| bad(&format!("the digest {text:?}"), DIGEST_RULE))
            })
            .transpose()?;
        let (registry, path) = match rest.split_once('/') {
            Some((host, path)) if is_named_host(host) => (host, path),
            _ => (HUB, rest),
        };
        if !is_host(registry) {
            return Err(bad(&format!("the registry {registry:?}"), HOST_RULE));
        }
        let (path, tag) = match path.rsplit_once(':') {
            // A colon before a slash is part of the path: the check of the repository reports it.
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (path, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad(&format!("the tag {tag:?}"), TAG_RULE));
        }
        if path.is_empty() {
            return Err(bad("the repository", "must not be empty"));
        }
        if let Some(part) = path.split('/').find(|part| !is_component(part)) {
            return Err(bad(&format!("the repository's part {part:?}"), PATH_RULE));
        }
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => HUB.into(),
            other => other.to_ascii_lowercase(),
        };
        if FILES.iter().any(|prefix| registry.starts_with(prefix)) {
            return Err(bad(&format!("the registry {registry:?}"), FILE_RULE));
        }
        let repository = if registry == HUB && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let tag = tag.map(str::to_owned);
        let reference = Self {
            registry,
            repository,
            tag: tag.or_else(|| digest.is_none().then(|| "latest".to_owned())),
            digest,
        };
        // Records hold the full text, which is longer.
        match reference.to_string().len() <= LONGEST {
            true => Ok(reference),
            false => Err(too_long()),
        }
    }
}

/// Whether the first part is a host, and not the first part of a repository of the hub.
fn is_named_host(part: &str) -> bool {
    part.contains(['.', ':', '[']) || part == "localhost"
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !digits(port) || !matches!(port.parse::<u16>(), Ok(1..))) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default();
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_component(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let mut separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    bytes.first().is_some_and(|byte| plain(*byte))
        && bytes.last().is_some_and(|byte| plain(*byte))
        && separators.all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-')
        })
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

serde_as_text!(RegistryRef);

#[cfg(test)]
mod tests;
