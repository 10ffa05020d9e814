//! One host that is asked for an image: its registry, or a mirror of that.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use oci_client::Reference;
use oci_client::errors::OciDistributionError;
use oci_client::manifest;
use oci_client::secrets::RegistryAuth;

use super::credentials::{self, Login};
use super::error::Shown;
use super::reader::{Reach, Reader};
use super::{Registries, RegistryError};
use crate::image::reference::RegistryRef;
use crate::image::store::blobs::Digest;
use crate::progress::Progress;

/// How long a host may take to answer at all.
const CONNECT: Duration = Duration::from_secs(20);
/// How long it may say nothing in the middle of an answer.
const STALL: Duration = Duration::from_secs(30);

const ACCEPT: &[&str] = &[
    manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
    manifest::OCI_IMAGE_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_MEDIA_TYPE,
];

/// What we say of ourselves.
pub(super) const USER_AGENT: &str = concat!("snowglobe/", env!("CARGO_PKG_VERSION"));

/// A host, ready to be asked.
pub(super) struct Endpoint {
    pub(super) reader: Reader,
    pub(super) reference: Reference,
    login: Login,
    /// The image, for a person.
    pub(super) image: String,
    pub(super) host: String,
}

pub(super) fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails where somebody chose before us: then theirs is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Endpoint {
    /// The hosts to ask for an image, in order.
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
        use_ring();
        let login = credentials::of(&host).await;
        if let Some(trouble) = &login.trouble {
            progress.say(format!("going on without a login for {host}: {trouble}"));
            tracing::warn!("going on without a login for {host}: {trouble}");
        }
        let repository = image.repository().to_owned();
        let reference = match (image.digest(), image.tag()) {
            (Some(digest), _) => {
                Reference::with_digest(host.clone(), repository, digest.to_owned())
            }
            (None, tag) => {
                Reference::with_tag(host.clone(), repository, tag.unwrap_or("latest").to_owned())
            }
        };
        let reach = Reach {
            host: reference.resolve_registry(),
            repository: reference.repository(),
            http: registries.is_http(&host),
            vouching: &certificates(registries, &host)?,
            connect: CONNECT,
            stall: STALL,
        };
        let reader = Reader::new(&reach, &login.auth).map_err(|e| RegistryError::Settings {
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

    /// What an error of this host means.
    pub(super) fn explain(&self, error: OciDistributionError) -> RegistryError {
        let shown = match (&self.login.auth, &self.login.trouble) {
            (RegistryAuth::Anonymous, Some(trouble)) => Shown::Broken(trouble.clone()),
            (RegistryAuth::Anonymous, None) => Shown::Nothing,
            _ => Shown::Login,
        };
        RegistryError::of(error, &self.image, &self.host, shown)
    }

    pub(super) fn wrong(&self, problem: String) -> RegistryError {
        RegistryError::Wrong {
            image: self.image.clone(),
            host: self.host.clone(),
            problem,
        }
    }

    /// The same host, to push to.
    pub(super) fn for_pushing(self) -> Self {
        Self {
            reader: self.reader.for_pushing(),
            ..self
        }
    }

    /// The digest or the tag that was named.
    pub(super) fn named(&self) -> &str {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest,
            (None, tag) => tag.unwrap_or("latest"),
        }
    }

    /// The manifest or index of a digest, or of the reference; checked against the digest that was asked for.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, RegistryError> {
        let of = digest.map_or_else(|| self.named(), Digest::as_str);
        let read = self.reader.manifest(of, ACCEPT).await;
        let bytes = read.map_err(|e| self.explain(e))?;
        let found = Digest::of(&bytes);
        match of.contains(':') && of != found.as_str() {
            true => Err(self.wrong(format!("asked for {of} it gave {found}"))),
            false => Ok(bytes),
        }
    }
}

/// Who vouches for a registry, besides those that the machine trusts: as set here, or as Docker keeps them.
fn certificates(registries: &Registries, host: &str) -> Result<Vec<Vec<u8>>, RegistryError> {
    let pem = |path: &Path| {
        std::fs::read(path).map_err(|e| RegistryError::Settings {
            host: host.to_owned(),
            problem: format!("its ca, {}, can't be read ({e})", path.display()),
        })
    };
    if let Some(path) = registries.of(host).ca {
        return Ok(vec![pem(&path)?]);
    }
    let Ok(entries) = std::fs::read_dir(Path::new("/etc/docker/certs.d").join(host)) else {
        return Ok(Vec::new());
    };
    let files = entries.flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "crt"));
    files.map(|path| pem(&path)).collect()
}
