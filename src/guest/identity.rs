//! Keys: ed25519, made in this process. Those of a VM are worthless once it is gone; only the host key of a sandbox that is
//! kept may stay ([`crate::login`]).

use std::sync::Arc;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};

/// What a client needs to log in to one guest: its own key, and the expected host key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The client's private key.
    pub key: Arc<PrivateKey>,
    /// The guest's host key.
    pub host_key: PublicKey,
}

/// A key could not be made or encoded.
#[derive(Debug, thiserror::Error)]
#[error("make a key: {0}")]
pub struct KeyError(String);

impl From<russh::keys::ssh_key::Error> for KeyError {
    fn from(error: russh::keys::ssh_key::Error) -> Self {
        Self(error.to_string())
    }
}

/// The keys of one VM.
#[derive(Debug, Clone)]
pub struct VmKeys {
    host: PrivateKey,
    control: Arc<PrivateKey>,
}

/// Makes a key.
pub fn generate() -> Result<PrivateKey, KeyError> {
    Ok(PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?)
}

impl VmKeys {
    /// Makes the keys of a new VM.
    pub fn generate() -> Result<Self, KeyError> {
        Self::with_host(generate()?)
    }

    /// Makes the keys of a new VM with this host key.
    pub fn with_host(host: PrivateKey) -> Result<Self, KeyError> {
        Ok(Self {
            host,
            control: Arc::new(generate()?),
        })
    }

    /// The guest's private host key, OpenSSH PEM.
    pub fn host_pem(&self) -> Result<String, KeyError> {
        Ok(self.host.to_openssh(LineEnding::LF)?.to_string())
    }

    /// The guest's public host key, one line.
    pub fn host_public(&self) -> Result<String, KeyError> {
        Ok(self.host.public_key().to_openssh()?)
    }

    /// The public key that controls the guest, one line.
    pub fn control_public(&self) -> Result<String, KeyError> {
        Ok(self.control.public_key().to_openssh()?)
    }

    /// The private key that controls the guest, OpenSSH PEM.
    pub fn control_pem(&self) -> Result<String, KeyError> {
        Ok(self.control.to_openssh(LineEnding::LF)?.to_string())
    }

    /// The host's identity for logging in.
    pub fn identity(&self) -> Identity {
        Identity {
            key: self.control.clone(),
            host_key: self.host.public_key().clone(),
        }
    }
}

impl Identity {
    /// Decodes an identity; a key that can't be decoded is an error, never "accept any".
    pub fn decode(key_pem: &str, host_public: &str) -> Result<Self, KeyError> {
        Ok(Self {
            key: Arc::new(PrivateKey::from_openssh(key_pem)?),
            host_key: PublicKey::from_openssh(host_public)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_being_written_down_and_garbage_is_refused() {
        let keys = VmKeys::generate().unwrap();
        let read =
            Identity::decode(&keys.control_pem().unwrap(), &keys.host_public().unwrap()).unwrap();
        assert_eq!(
            read.host_key.key_data(),
            keys.identity().host_key.key_data()
        );
        assert!(Identity::decode(&keys.control_pem().unwrap(), "ssh-ed25519 AAAA").is_err());
        assert!(Identity::decode("", &keys.host_public().unwrap()).is_err());
    }
}
