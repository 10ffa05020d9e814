//! One host that is asked for an image: its registry, or a mirror of that.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};

use super::super::blobs::Digest;
use super::super::content::MAX_JSON;
use super::super::reference::RegistryRef;
use super::credentials::{self, Login};
use super::error::Shown;
use super::{Registries, RegistryError};
use crate::progress::Progress;

/// How long a host may take to answer at all.
const CONNECT: Duration = Duration::from_secs(20);
/// How long it may say nothing in the middle of an answer.
const STALL: Duration = Duration::from_secs(30);
/// How long a manifest may take to come in.
const MANIFEST: Duration = Duration::from_secs(60);

const ACCEPT: &[&str] = &[
    manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
    manifest::OCI_IMAGE_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_MEDIA_TYPE,
];

/// A host, ready to be asked.
pub(super) struct Endpoint {
    pub(super) client: Client,
    pub(super) reference: Reference,
    login: Login,
    /// The image, for a person.
    pub(super) image: String,
    pub(super) host: String,
}

fn use_ring() {
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
        let http = registries.is_http(&host);
        let config = ClientConfig {
            protocol: if http {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            extra_root_certificates: certificates(registries, &host)?,
            platform_resolver: None,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(STALL),
            use_monolithic_push: true,
            user_agent: concat!("snowglobe/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| RegistryError::Settings {
            host: host.clone(),
            problem: e.to_string(),
        })?;
        Ok(Self {
            client,
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

    /// Makes itself known, as far as the host wants that.
    pub(super) async fn log_in(&self, operation: RegistryOperation) -> Result<(), RegistryError> {
        let done = self
            .client
            .auth(&self.reference, &self.login.auth, operation)
            .await;
        done.map(|_| ()).map_err(|e| self.explain(e))
    }

    /// The manifest or index of a digest, or of the reference; checked against the digest that was asked for.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, RegistryError> {
        let reference = match digest {
            Some(digest) => self.reference.clone_with_digest(digest.to_string()),
            None => self.reference.clone(),
        };
        let pull = self
            .client
            .pull_manifest_raw(&reference, &self.login.auth, ACCEPT);
        let pulled = tokio::time::timeout(MANIFEST, pull).await;
        let pulled = pulled.map_err(|_| RegistryError::Unreachable {
            host: self.host.clone(),
            problem: format!("its answer was not complete after {} s", MANIFEST.as_secs()),
            passing: true,
        })?;
        let (bytes, _) = pulled.map_err(|e| self.explain(e))?;
        if bytes.len() as u64 > MAX_JSON {
            return Err(self.wrong(format!(
                "its manifest has {} bytes; at most {MAX_JSON} are taken",
                bytes.len()
            )));
        }
        let found = Digest::of(&bytes);
        match reference.digest() {
            Some(wanted) if wanted != found.as_str() => {
                Err(self.wrong(format!("asked for {wanted} it gave {found}")))
            }
            _ => Ok(bytes.to_vec()),
        }
    }
}

/// Who vouches for a registry, besides those that the machine trusts: as set here, or as Docker keeps them.
fn certificates(registries: &Registries, host: &str) -> Result<Vec<Certificate>, RegistryError> {
    let pem = |path: &Path| {
        std::fs::read(path)
            .map(|data| Certificate {
                encoding: CertificateEncoding::Pem,
                data,
            })
            .map_err(|e| RegistryError::Settings {
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
