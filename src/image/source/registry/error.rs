//! What can go wrong with a registry, and what to do about it.

use oci_client::errors::{OciDistributionError as Oci, OciErrorCode as Code};

use crate::shown;

/// Why a registry did not give, or take, what it was to.
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
        /// What happened.
        problem: String,
        /// Whether it is worth trying again.
        passing: bool,
    },
    /// It is not who it says it is, as far as this machine can tell.
    #[error(
        "trust the registry {host}: {problem}; where its certificate is right, name who vouches for it in the user's \
         configuration: [registries.\"{host}\"] ca = \"/path/to/ca.pem\""
    )]
    Certificate {
        /// The registry.
        host: String,
        /// What is wrong with its certificate.
        problem: String,
    },
    /// It doesn't let us.
    #[error("{}", denied(.image, .host, .shown))]
    Denied {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// What it was shown.
        shown: Shown,
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
    /// It was asked too often.
    #[error(
        "pull {image}: {host} limits how often one may pull, and says it was too often now{}; wait (hours, with Docker Hub), \
         log in for a higher limit (`docker login {host}`), or name a mirror in the user's configuration: \
         [registries.\"{host}\"] mirrors = [\"HOST\"]{}", said(.message), unused(.shown)
    )]
    RateLimited {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// What it said.
        message: String,
        /// What it was shown.
        shown: Shown,
    },
    /// It has a problem of its own.
    #[error("get {image}: the registry {host} answered with an error of its own, {status}{}; try again later", said(.message))]
    Server {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It gave something that is not what it should be.
    #[error("use what {host} gives for {image}: {problem}")]
    Wrong {
        /// The image.
        image: String,
        /// The registry.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// A registry's settings can't be used.
    #[error("use the settings of the registry {host}: {problem}")]
    Settings {
        /// The registry.
        host: String,
        /// What is wrong.
        problem: String,
    },
}

/// What a registry was shown to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// Nothing, since what is kept for it is broken: what that is, and what to do.
    Broken(String),
    /// A login.
    Login,
}

fn denied(image: &str, host: &str, shown: &Shown) -> String {
    match shown {
        Shown::Login => format!(
            "get {image}: {host} does not let the user it knows you as; look for a typing error, ask for access, \
             or log in as somebody else (`docker login {host}`)"
        ),
        Shown::Nothing => format!(
            "get {image}: {host} does not give it to just anybody, or has no such image; look for a typing error, \
             or log in (`docker login {host}`)"
        ),
        Shown::Broken(trouble) => format!(
            "get {image}: {host} does not give it to just anybody, or has no such image; no login was shown, since \
             {trouble}"
        ),
    }
}

/// Why no login was shown.
fn unused(shown: &Shown) -> String {
    match shown {
        Shown::Broken(trouble) => format!("; no login was shown, since {trouble}"),
        Shown::Nothing | Shown::Login => String::new(),
    }
}

fn said(message: &str) -> String {
    let message = message.trim();
    let short: String = shown::line(message).chars().take(200).collect();
    if short.is_empty() {
        short
    } else {
        format!(" (\"{short}\")")
    }
}

impl RegistryError {
    /// What an error of the client library means.
    pub(super) fn of(error: Oci, image: &str, host: &str, shown: Shown) -> Self {
        let (image, host) = (image.to_owned(), host.to_owned());
        let limited = |message: String, image, host, shown| Self::RateLimited {
            image,
            host,
            message,
            shown,
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
                let passing = !is_name_unknown(&error);
                Self::transport(&error, passing, image, host)
            }
            Oci::IoError(error) => Self::transport(&error, true, image, host),
            Oci::UnauthorizedError { .. } => Self::Denied { image, host, shown },
            Oci::AuthenticationFailure(says) if says.to_uppercase().contains("TOOMANYREQUESTS") => {
                limited(says, image, host, shown)
            }
            Oci::AuthenticationFailure(_) => Self::Denied { image, host, shown },
            Oci::ServerError {
                code: 401 | 403, ..
            } => Self::Denied { image, host, shown },
            Oci::ServerError { code: 404, .. } => Self::NotFound { image, host },
            Oci::ServerError {
                code: 429, message, ..
            } => limited(message, image, host, shown),
            Oci::ServerError { code, message, .. } => Self::Server {
                image,
                host,
                status: code,
                message,
            },
            Oci::RegistryError { envelope, .. } => {
                let Some(first) = envelope.errors.into_iter().next() else {
                    return wrong(
                        "it answered with an error without saying which".into(),
                        image,
                        host,
                    );
                };
                match first.code {
                    Code::Unauthorized | Code::Denied => Self::Denied { image, host, shown },
                    Code::ManifestUnknown
                    | Code::NameUnknown
                    | Code::NotFound
                    | Code::BlobUnknown
                    | Code::NameInvalid => Self::NotFound { image, host },
                    Code::Toomanyrequests => limited(first.message, image, host, shown),
                    code => wrong(
                        format!("it answered {code:?}{}", said(&first.message)),
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
        passing: bool,
        image: String,
        host: String,
    ) -> Self {
        let problem = innermost(error);
        if problem.contains("certificate") {
            return Self::Certificate { host, problem };
        }
        if problem.contains("InvalidContentType") {
            let problem = format!(
                "it does not speak TLS; if that is meant, set [registries.\"{host}\"] http = true"
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
            passing,
        }
    }

    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { passing, .. } => *passing,
            Self::Server { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }
}

/// What an error is about at its bottom; the layers above it say nothing that helps.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Whether a host's name could not be resolved: that is the network's absence, or a typing error.
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
        RegistryError::of(error, "ghcr.io/o/i:1", "ghcr.io", Shown::Nothing)
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
                "to just anybody",
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
    fn only_what_passes_is_tried_again() {
        assert!(of(status(503)).is_passing());
        assert!(of(Oci::IoError(std::io::ErrorKind::ConnectionReset.into())).is_passing());
        for error in [
            status(429),
            status(404),
            answered("DENIED"),
            answered("TOOMANYREQUESTS"),
        ] {
            assert!(!of(error).is_passing());
        }
    }
}
