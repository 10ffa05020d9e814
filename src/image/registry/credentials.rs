//! Credentials as Docker and Podman keep them: `config.json`, its helpers, `auth.json`.

use docker_credential::{CredentialRetrievalError as Problem, DockerCredential};
use oci_client::secrets::RegistryAuth;

use super::super::reference::HUB;
use super::RegistryError;

/// What this user has for a registry; nothing said anywhere means anonymously. Blocking: a helper may be asked.
pub(super) fn of(host: &str) -> Result<RegistryAuth, RegistryError> {
    let server = if host == HUB {
        "https://index.docker.io/v1/"
    } else {
        host
    };
    let found = match docker_credential::get_credential(server) {
        Err(
            Problem::ConfigNotFound | Problem::ConfigReadError | Problem::NoCredentialConfigured,
        ) => docker_credential::get_podman_credential(if host == HUB { HUB } else { host }),
        found => found,
    };
    match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(_)) => Err(RegistryError::Credentials {
            host: host.to_owned(),
            problem: "an identity token is kept for it, which is not supported; \
                      log in with a user name and a password or access token"
                .into(),
        }),
        Err(
            Problem::ConfigNotFound | Problem::ConfigReadError | Problem::NoCredentialConfigured,
        ) => Ok(RegistryAuth::Anonymous),
        // Helpers have no other way to say that they know nothing of a registry.
        Err(Problem::HelperFailure { stdout, stderr, .. })
            if format!("{stdout}{stderr}").contains("credentials not found") =>
        {
            Ok(RegistryAuth::Anonymous)
        }
        Err(Problem::HelperFailure {
            helper,
            stdout,
            stderr,
        }) => Err(RegistryError::Credentials {
            host: host.to_owned(),
            problem: format!("{helper} failed: {}", format!("{stdout}{stderr}").trim()),
        }),
        Err(Problem::HelperCommunicationError) => Err(RegistryError::Credentials {
            host: host.to_owned(),
            problem: "the credential helper that Docker's config.json names can't be run, or it ended without reading \
                      what it was asked for; try `docker-credential-NAME get` by hand"
                .into(),
        }),
        Err(other) => Err(RegistryError::Credentials {
            host: host.to_owned(),
            problem: other.to_string(),
        }),
    }
}
