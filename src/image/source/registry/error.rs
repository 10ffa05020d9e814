//! The errors of registries. Each says what to do.

use oci_client::errors::{OciDistributionError as Oci, OciErrorCode as Code};

use crate::image::source::registry::login::LoginSent;
use crate::shown;

/// Why a request to a registry failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// It can't be reached.
    #[error(
        "reach the registry {host}: {problem}; images that are here already boot without a network \
         (`snowglobe image ls` lists them)"
    )]
    Unreachable {
        /// The registry.
        host: String,
        /// The problem.
        problem: String,
        /// Whether to try again.
        temporary: bool,
    },
    /// This machine does not trust its certificate.
    #[error(
        "trust the registry {host}: {problem}; if its certificate is right, name the certificate authority in the user's \
         configuration: [registries.\"{host}\"] ca = \"/path/to/ca.pem\""
    )]
    Certificate {
        /// The registry.
        host: String,
        /// What is wrong with its certificate.
        problem: String,
    },
    /// It denies access.
    #[error("{}", denied(.image, .host, .login))]
    Denied {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// The login that was sent.
        login: LoginSent,
    },
    /// There is no such image.
    #[error(
        "find the image {image}: {host} has no such tag, digest or repository; look for a typing error in its name"
    )]
    NotFound {
        /// The image.
        image: String,
        /// The registry.
        host: String,
    },
    /// It limits the number of pulls.
    #[error(
        "pull {image}: {host} limits how often one may pull, and it was too often now{}; wait (hours, with Docker Hub), \
         log in for a higher limit (`docker login {host}`), or name a mirror in the user's configuration: \
         [registries.\"{host}\"] mirrors = [\"HOST\"]{}", quoted(.message), unused(.login)
    )]
    RateLimited {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// Its message.
        message: String,
        /// The login that was sent.
        login: LoginSent,
    },
    /// It failed.
    #[error("get {image}: the registry {host} answered with an error of its own, {status}{}; try again later", quoted(.message))]
    Server {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// Its answer is wrong.
    #[error("use what {host} gives for {image}: {problem}")]
    Wrong {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// The problem.
        problem: String,
    },
    /// Its settings can't be used.
    #[error("use the settings of the registry {host}: {problem}")]
    Settings {
        /// The registry.
        host: String,
        /// The problem.
        problem: String,
    },
}

fn denied(image: &str, host: &str, login: &LoginSent) -> String {
    match login {
        LoginSent::Stored => format!(
            "get {image}: {host} does not let the user that you are logged in as; look for a typing error, ask for access, \
             or log in as another user (`docker login {host}`)"
        ),
        LoginSent::None => format!(
            "get {image}: {host} does not give it without a login, or has no such image; look for a typing error, \
             or log in (`docker login {host}`)"
        ),
        LoginSent::Broken(trouble) => format!(
            "get {image}: {host} does not give it without a login, or has no such image; no login was sent, since \
             {trouble}"
        ),
    }
}

/// Why no login was sent.
fn unused(login: &LoginSent) -> String {
    match login {
        LoginSent::Broken(trouble) => format!("; no login was sent, since {trouble}"),
        LoginSent::None | LoginSent::Stored => String::new(),
    }
}

fn quoted(message: &str) -> String {
    let message = message.trim();
    let short: String = shown::line(message).chars().take(200).collect();
    if short.is_empty() {
        short
    } else {
        format!(" (\"{short}\")")
    }
}

impl RegistryError {
    /// The meaning of an error of the client library.
    pub(super) fn of(error: Oci, image: &str, host: &str, login: LoginSent) -> Self {
        let (image, host) = (image.to_owned(), host.to_owned());
        let limited = |message: String, image, host, login| Self::RateLimited {
            image,
            host,
            message,
            login,
        };
        let wrong = |problem: String, image, host| Self::Wrong {
            image,
            host,
            problem,
        };
        match error {
            Oci::RequestError(error) if error.is_redirect() => {
                wrong(innermost(&error), image, host)
            }
            Oci::SpecViolationError(problem) => wrong(problem, image, host),
            Oci::RequestError(error) => {
                let temporary = !is_name_unknown(&error);
                Self::transport(&error, temporary, image, host)
            }
            Oci::IoError(error) => Self::transport(&error, true, image, host),
            Oci::UnauthorizedError { .. } => Self::Denied { image, host, login },
            Oci::AuthenticationFailure(says) if says.to_uppercase().contains("TOOMANYREQUESTS") => {
                limited(says, image, host, login)
            }
            Oci::AuthenticationFailure(_) => Self::Denied { image, host, login },
            Oci::ServerError {
                code: 401 | 403, ..
            } => Self::Denied { image, host, login },
            Oci::ServerError { code: 404, .. } => Self::NotFound { image, host },
            Oci::ServerError {
                code: 429, message, ..
            } => limited(message, image, host, login),
            Oci::ServerError { code, message, .. } => Self::Server {
                image,
                host,
                status: code,
                message,
            },
            Oci::RegistryError { envelope, .. } => {
                let Some(first) = envelope.errors.into_iter().next() else {
                    return wrong(
                        "it answered with an error without a code".into(),
                        image,
                        host,
                    );
                };
                match first.code {
                    Code::Unauthorized | Code::Denied => Self::Denied { image, host, login },
                    Code::ManifestUnknown
                    | Code::NameUnknown
                    | Code::NotFound
                    | Code::BlobUnknown
                    | Code::NameInvalid => Self::NotFound { image, host },
                    Code::Toomanyrequests => limited(first.message, image, host, login),
                    code => wrong(
                        format!("it answered {code:?}{}", quoted(&first.message)),
                        image,
                        host,
                    ),
                }
            }
            other => wrong(other.to_string(), image, host),
        }
    }

    fn transport(
        error: &(dyn std::error::Error + 'static),
        temporary: bool,
        image: String,
        host: String,
    ) -> Self {
        let problem = innermost(error);
        if problem.contains("certificate") {
            return Self::Certificate { host, problem };
        }
        if problem.contains("InvalidContentType") {
            let problem = format!(
                "it does not use TLS; if that is intended, set [registries.\"{host}\"] http = true"
            );
            return Self::Wrong {
                image,
                host,
                problem,
            };
        }
        Self::Unreachable {
            host,
            problem,
            temporary,
        }
    }

    /// Whether trying again may help.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { temporary, .. } => *temporary,
            Self::Server { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }
}

/// The innermost error. The errors around it explain nothing.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Whether the name of the host could not be resolved. That means no network, or a typing error.
fn is_name_unknown(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("dns error") {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: Oci) -> RegistryError {
        RegistryError::of(error, "ghcr.io/o/i:1", "ghcr.io", LoginSent::None)
    }

    fn answered(code: &str) -> Oci {
        let envelope = serde_json::json!({"errors": [{"code": code, "message": "so it is"}]});
        Oci::RegistryError {
            envelope: serde_json::from_value(envelope).unwrap(),
            url: "https://x".into(),
        }
    }

    fn status(code: u16) -> Oci {
        Oci::ServerError {
            code,
            url: "https://x".into(),
            message: "it\nbroke".into(),
        }
    }

    #[test]
    fn each_answer_says_what_to_do() {
        let cases = [
            (answered("TOOMANYREQUESTS"), "docker login ghcr.io"),
            (status(429), "mirrors = [\"HOST\"]"),
            (
                Oci::AuthenticationFailure("{\"code\":\"TOOMANYREQUESTS\"}".into()),
                "limits how often",
            ),
            (answered("MANIFEST_UNKNOWN"), "typing error"),
            (answered("DENIED"), "log in (`docker login ghcr.io`)"),
            (
                Oci::UnauthorizedError { url: String::new() },
                "without a login",
            ),
            (status(503), "503 (\"it broke\"); try again later"),
        ];
        for (error, said) in cases {
            let error = of(error).to_string();
            assert!(
                error.contains(said) && error.contains("ghcr.io/o/i:1"),
                "{said}: {error}"
            );
        }
    }

    #[test]
    fn only_temporary_errors_are_tried_again() {
        assert!(of(status(503)).is_temporary());
        assert!(of(Oci::IoError(std::io::ErrorKind::ConnectionReset.into())).is_temporary());
        for error in [
            status(429),
            status(404),
            answered("DENIED"),
            answered("TOOMANYREQUESTS"),
        ] {
            assert!(!of(error).is_temporary());
        }
    }
}
