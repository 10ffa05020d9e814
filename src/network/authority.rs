//! The certificate authority of a sandbox, for the connections that are inspected.
//!
//! The guest trusts the authority's certificate, so the host can stand in for the servers whose requests it must look
//! at. The key never leaves the sandbox's own directory on the host. Each sandbox has an authority of its own: what one
//! guest trusts is worth nothing to another one.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::rules::Host;
use crate::{files, presence, private};

/// The file with the key and the certificate.
const FILE: &str = "authority.pem";

/// The longest such file, in bytes.
const MAX_FILE: usize = 16 << 10;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// For how long the authority is good. It goes with its sandbox.
const VALID: Duration = DAY.saturating_mul(3650);

/// For how long a certificate of a host is good.
const LEAF_VALID: Duration = DAY.saturating_mul(3);

/// For how long a certificate of a host is given out again.
const LEAF_FRESH: Duration = DAY;

/// How far the guest's clock may be behind: a guest that was stopped, or restored, learns the time a moment later.
const BEHIND: Duration = DAY;

/// Certificates of hosts that are kept.
const MAX_LEAVES: usize = 256;

/// The longest common name of a certificate, in characters. The names that count are elsewhere in it.
const MAX_COMMON_NAME: usize = 64;

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The file of the authority can't be read or written.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file of the authority is not what was written.
    #[error(
        "read {path}: it holds no key with its certificate ({why}); remove it to have a new authority made"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate can't be made.
    #[error("make a certificate for {subject}: {why}")]
    Make {
        /// For what.
        subject: String,
        /// Why.
        why: String,
    },
}

/// A certificate of a host, and when it was made.
type Leaf = (SystemTime, Arc<CertifiedKey>);

/// The certificate authority of a sandbox.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    leaves: Mutex<HashMap<Host, Leaf>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority that a sandbox keeps in this directory; makes one if there is none.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(FILE);
        let failed = |operation| {
            let path = path.clone();
            move |source| AuthorityError::File {
                operation,
                path,
                source,
            }
        };
        if let Some(content) = presence::read(&path).map_err(failed("read"))? {
            return Self::parse(&content).map_err(|why| AuthorityError::Damaged { path, why });
        }
        private::dir(dir).map_err(failed("make the directory of"))?;
        let made = |why: rcgen::Error| AuthorityError::Make {
            subject: "the sandbox".to_owned(),
            why: why.to_string(),
        };
        let key = new_key().map_err(made)?;
        let certificate = params(&key)
            .and_then(|params| params.self_signed(&key))
            .map_err(made)?;
        let content = format!("{}{}", key.serialize_pem(), certificate.pem());
        files::replace(&path, content.as_bytes()).map_err(failed("write"))?;
        Self::parse(content.as_bytes()).map_err(|why| AuthorityError::Damaged { path, why })
    }

    fn parse(content: &[u8]) -> Result<Self, String> {
        if content.len() > MAX_FILE {
            return Err("it is too long".to_owned());
        }
        let text = std::str::from_utf8(content).map_err(|_| "it is no text".to_owned())?;
        let key = KeyPair::from_pem(text).map_err(|error| error.to_string())?;
        let certificate =
            CertificateDer::from_pem_slice(content).map_err(|error| error.to_string())?;
        if !holds(&certificate, key.public_key_raw()) {
            return Err("the certificate is another key's".to_owned());
        }
        let pem = text
            .find("-----BEGIN CERTIFICATE-----")
            .and_then(|at| text.get(at..));
        let pem = pem.ok_or("there is no certificate")?.to_owned();
        let issuer = Issuer::new(params(&key).map_err(|error| error.to_string())?, key);
        Ok(Self {
            issuer,
            certificate,
            pem,
            leaves: Mutex::default(),
        })
    }

    /// The certificate that the guest is to trust, as PEM.
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    /// A text of 16 hexadecimal digits for a purpose: the same one as long as the authority stays. It is no secret.
    pub fn tag(&self, purpose: &str) -> String {
        let digest = Sha256::new()
            .chain_update(&self.certificate)
            .chain_update(purpose)
            .finalize();
        hex::encode(&digest[..8])
    }

    /// The key and the certificate for a host.
    pub fn leaf(&self, host: &Host) -> Result<Arc<CertifiedKey>, AuthorityError> {
        self.leaf_at(host, SystemTime::now())
    }

    fn leaf_at(&self, host: &Host, now: SystemTime) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back is no reason to go on with a certificate of the future.
        let is_fresh =
            |made: SystemTime| now.duration_since(made).is_ok_and(|age| age < LEAF_FRESH);
        if let Some((made, leaf)) = leaves.get(host).filter(|(made, _)| is_fresh(*made)) {
            tracing::trace!(%host, ?made, "a certificate is used again");
            return Ok(leaf.clone());
        }
        let failed = |why: String| AuthorityError::Make {
            subject: host.to_string(),
            why,
        };
        let leaf = self.make(host, now).map_err(failed)?;
        if leaves.len() >= MAX_LEAVES {
            let oldest = leaves
                .iter()
                .min_by_key(|(_, (made, _))| *made)
                .map(|(host, _)| host.clone());
            oldest.and_then(|oldest| leaves.remove(&oldest));
        }
        leaves.insert(host.clone(), (now, leaf.clone()));
        Ok(leaf)
    }

    fn make(&self, host: &Host, now: SystemTime) -> Result<Arc<CertifiedKey>, String> {
        let text = |error: rcgen::Error| error.to_string();
        let key = new_key().map_err(text)?;
        let mut params = CertificateParams::default();
        let name = match host {
            Host::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(text)?),
            Host::Address(address) => SanType::IpAddress(*address),
        };
        params.subject_alt_names = vec![name];
        let shown = host.to_string();
        let common = if shown.len() <= MAX_COMMON_NAME {
            &shown
        } else {
            "snowglobe"
        };
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = (now - BEHIND).into();
        params.not_after = (now + LEAF_VALID).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(text)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = any_ecdsa_type(&private).map_err(|error| error.to_string())?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(Arc::new(CertifiedKey::new(chain, signing)))
    }
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

/// What the authority's certificate says. Its name holds a part of the key's digest, since programs look authorities up
/// by name.
fn params(key: &KeyPair) -> Result<CertificateParams, rcgen::Error> {
    let now = SystemTime::now();
    let mut params = CertificateParams::new(Vec::new())?;
    let digest = hex::encode(&Sha256::digest(key.public_key_raw())[..6]);
    let mut name = rcgen::DistinguishedName::new();
    name.push(
        DnType::CommonName,
        format!("Snowglobe authority of one sandbox, {digest}"),
    );
    params.distinguished_name = name;
    params.not_before = (now - BEHIND).into();
    params.not_after = (now + VALID).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Whether a certificate has this public key in it.
fn holds(certificate: &[u8], key: &[u8]) -> bool {
    certificate.windows(key.len()).any(|part| part == key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn an_authority_is_made_once_and_kept_to_this_user() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(
            (first.certificate(), first.tag("a")),
            (again.certificate(), again.tag("a"))
        );
        assert_ne!(first.tag("a"), first.tag("b"));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(
            Authority::open(other.path()).unwrap().certificate(),
            first.certificate()
        );
        let file = dir.path().join(FILE);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(
            !first.certificate().contains("PRIVATE") && !format!("{first:?}").contains("PRIVATE")
        );
    }

    #[test]
    fn a_damaged_file_is_an_error_that_says_what_helps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let other = tempfile::tempdir().unwrap();
        let (first, second) = (
            Authority::open(dir.path()).unwrap(),
            Authority::open(other.path()).unwrap(),
        );
        let content = std::fs::read_to_string(&file).unwrap();
        let mixed = content.replace(first.certificate(), second.certificate());
        for damaged in [
            "",
            "text",
            &content[..content.len() / 2],
            &mixed,
            &"x".repeat(MAX_FILE + 1),
        ] {
            std::fs::write(&file, damaged).unwrap();
            let error = Authority::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("remove it"), "{error}");
        }
    }

    #[test]
    fn certificates_are_kept_for_a_day_and_not_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let leaf = |name: &str, at| authority.leaf_at(&host(name), at).unwrap().cert[0].clone();
        let first = leaf("a.example", now);
        assert_eq!(leaf("a.example", now + DAY / 2), first);
        assert_ne!(leaf("a.example", now + DAY), first);
        assert_ne!(leaf("a.example", now - DAY), first);
        for number in 0..MAX_LEAVES + 10 {
            leaf(&format!("{number}.example"), now);
        }
        assert_eq!(authority.leaves.lock().unwrap().len(), MAX_LEAVES);
    }

    /// OpenSSL's strictest verification, for names and addresses, also with a clock that is behind or ahead.
    #[test]
    fn strict_verifiers_accept_the_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority.certificate()).unwrap();
        let long = format!("{}.example", ["a".repeat(60), "b".repeat(60)].join("."));
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        for (name, flag) in [
            ("api.example.com", "-verify_hostname"),
            ("192.0.2.7", "-verify_ip"),
            ("2001:db8::7", "-verify_ip"),
            (&long, "-verify_hostname"),
        ] {
            let leaf = authority.leaf(&host(name)).unwrap();
            let path = dir.path().join("leaf.der");
            std::fs::write(&path, &leaf.cert[0]).unwrap();
            let verify = |at: Duration, asked: &str| {
                let mut openssl = Command::new("openssl");
                openssl.args([
                    "verify",
                    "-x509_strict",
                    "-purpose",
                    "sslserver",
                    flag,
                    asked,
                    "-attime",
                    &at.as_secs().to_string(),
                    "-CAfile",
                ]);
                openssl.arg(&ca).arg(&path).output().unwrap()
            };
            for (at, good) in [
                (now, true),
                (now - DAY / 2, true),
                (now + DAY * 2, true),
                (now + DAY * 4, false),
                (now - DAY * 2, false),
            ] {
                let verified = verify(at, name);
                assert_eq!(
                    verified.status.success(),
                    good,
                    "{name}: {}",
                    String::from_utf8_lossy(&verified.stderr)
                );
            }
            let other = if flag == "-verify_ip" {
                "192.0.2.8"
            } else {
                "evil.example"
            };
            assert!(!verify(now, other).status.success());
        }
    }
}
