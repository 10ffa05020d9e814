//! The login that a request to a registry carries.

use oci_client::secrets::RegistryAuth;

/// The login of this user at a registry.
#[derive(Debug, PartialEq)]
pub(super) struct Login {
    pub(super) auth: RegistryAuth,
    /// Why the credentials that are stored for the registry can't be used.
    pub(super) problem: Option<String>,
}

/// The login that was sent, for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginSent {
    /// None: no credentials are stored.
    None,
    /// None: the stored credentials are broken. The text says how, and what to do.
    Broken(String),
    /// The stored credentials.
    Stored,
}

impl Login {
    /// The login that requests carry.
    pub(super) fn sent(&self) -> LoginSent {
        match (&self.auth, &self.problem) {
            (RegistryAuth::Anonymous, Some(problem)) => LoginSent::Broken(problem.clone()),
            (RegistryAuth::Anonymous, None) => LoginSent::None,
            _ => LoginSent::Stored,
        }
    }
}
