//! A host that is asked for an image: its registry, or a mirror of it.

use std::path::Path;
use std::time::Duration;

use oci_client::Reference;
use oci_client::errors::OciDistributionError;
use oci_client::manifest;

use crate::blocking::blocking;
use crate::image::digest::Digest;
use crate::image::reference::RegistryRef;
use crate::image::source::registry::credentials;
use crate::image::source::registry::error::RegistryError;
use crate::image::source::registry::login::Login;
use crate::image::source::registry::reader::{Connection, Reader};
use crate::image::source::registry::settings::Registries;
use crate::progress::Progress;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an answer may pause.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

const ACCEPT: &[&str] = &[
    manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
    manifest::OCI_IMAGE_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_MEDIA_TYPE,
];

/// A host and the image that it is asked for.
pub(super) struct Endpoint {
    pub(super) reader: Reader,
    reference: Reference,
    login: Login,
    /// The reference of the image, for messages.
    pub(super) image: String,
    pub(super) host: String,
}

impl Endpoint {
    /// The hosts to ask for an image, in order: mirrors, then the registry.
    pub(super) async fn all(
        registries: &Registries,
        image: &RegistryRef,
        progress: &Progress,
    ) -> Result<Vec<Self>, RegistryError> {
        let mut hosts = registries.of(image.registry()).mirrors;
        hosts.push(image.registry().to_owned());
        let mut endpoints = Vec::new();
        for host in hosts {
            endpoints.push(Self::new(registries, image, host, progress).await?);
        }
        Ok(endpoints)
    }

    pub(super) async fn new(
        registries: &Registries,
        image: &RegistryRef,
        host: String,
        progress: &Progress,
    ) -> Result<Self, RegistryError> {
        let login = credentials::login(&host).await;
        if let Some(problem) = &login.problem {
            progress.say(format!("going on without a login for {host}: {problem}"));
            tracing::warn!("going on without a login for {host}: {problem}");
        }
        let repository = image.repository().to_owned();
        let reference = match (image.digest(), image.tag()) {
            (Some(digest), _) => {
                Reference::with_digest(host.clone(), repository, digest.to_string())
            }
            (None, tag) => {
                Reference::with_tag(host.clone(), repository, tag.unwrap_or("latest").to_owned())
            }
        };
        let connection = Connection {
            host: reference.resolve_registry(),
            repository: reference.repository(),
            http: registries.is_http(&host),
            certificates: &certificates(registries, &host).await?,
            connect_timeout: CONNECT_TIMEOUT,
            read_timeout: READ_TIMEOUT,
        };
        let reader =
            Reader::new(&connection, &login.auth).map_err(|e| RegistryError::Settings {
                host: host.clone(),
                problem: e.to_string(),
            })?;
        Ok(Self {
            reader,
            reference,
            login,
            image: image.to_string(),
            host,
        })
    }

    /// The meaning of an error of this host.
    pub(super) fn explain(&self, error: OciDistributionError) -> RegistryError {
        RegistryError::of(error, &self.image, &self.host, self.login.sent())
    }

    /// The error for a wrong answer of this host.
    pub(super) fn wrong(&self, problem: String) -> RegistryError {
        RegistryError::Wrong {
            image: self.image.clone(),
            host: self.host.clone(),
            problem,
        }
    }

    /// The same host, for pushing.
    pub(super) fn for_pushing(self) -> Self {
        Self {
            reader: self.reader.for_pushing(),
            ..self
        }
    }

    /// The digest of the reference, or else its tag.
    pub(super) fn digest_or_tag(&self) -> &str {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest,
            (None, tag) => tag.unwrap_or("latest"),
        }
    }

    /// The manifest or index with this digest, or that of the reference. A digest is checked.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, RegistryError> {
        let of = digest.map_or_else(|| self.digest_or_tag(), Digest::as_str);
        let read = self.reader.manifest(of, ACCEPT).await;
        let bytes = read.map_err(|e| self.explain(e))?;
        let found = Digest::of(&bytes);
        match of.contains(':') && of != found.as_str() {
            true => Err(self.wrong(format!("asked for {of} it gave {found}"))),
            false => Ok(bytes),
        }
    }
}

/// The certificates that are trusted for a registry, besides those that this machine trusts: from the settings, or else
/// from Docker's directory.
async fn certificates(registries: &Registries, host: &str) -> Result<Vec<Vec<u8>>, RegistryError> {
    let (ca, host) = (registries.of(host).ca, host.to_owned());
    blocking(move || match ca {
        Some(path) => Ok(vec![read_certificate(&host, &path)?]),
        None => {
            let dir = Path::new("/etc/docker/certs.d").join(&host);
            let Ok(entries) = std::fs::read_dir(dir) else {
                return Ok(Vec::new());
            };
            let files = entries.flatten().map(|entry| entry.path());
            let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "crt"));
            files.map(|path| read_certificate(&host, &path)).collect()
        }
    })
    .await
}

fn read_certificate(host: &str, path: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(path).map_err(|e| RegistryError::Settings {
        host: host.to_owned(),
        problem: format!("its ca, {}, can't be read ({e})", path.display()),
    })
}
