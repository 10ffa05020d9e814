//! Reads from a registry: the few requests that a pull needs, with bounds.
//!
//! The client library reads answers of any length and follows every redirect, so only its types are used. Here,
//! manifests, tokens and error texts have a maximum length. Redirects and token servers are checked: a registry can send
//! this client neither from TLS to plain HTTP nor from outside into the local network ([`check_redirect`]). A login is
//! sent only if the registry asks for it. Pushing is in `writer`.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_auth::parser::ChallengeParser;
use oci_client::errors::{OciDistributionError as Oci, OciEnvelope};
use oci_client::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode, Url};

use crate::image::manifest::MAX_JSON;

/// The most redirects of a request.
const MAX_REDIRECTS: usize = 5;
/// The most that is read of the text of an error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// The longest answer with a token, in bytes.
const MAX_TOKEN: u64 = 64 << 10;
/// How long a manifest, a token or an error may take to arrive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How to connect to a registry.
pub(super) struct Connection<'a> {
    /// Its host, with the port.
    pub(super) host: &'a str,
    pub(super) repository: &'a str,
    /// Whether to connect without TLS.
    pub(super) http: bool,
    /// Certificates (PEM) that are trusted besides those that this machine trusts.
    pub(super) certificates: &'a [Vec<u8>],
    /// How long the connection may take.
    pub(super) connect_timeout: Duration,
    /// How long an answer may pause.
    pub(super) read_timeout: Duration,
}

/// The authorization of a request.
#[derive(Clone)]
enum Authorization {
    Token(String),
    Login(String, String),
}

/// Reads a repository of a registry.
pub(super) struct Reader {
    http: reqwest::Client,
    /// For uploads: it follows no redirects, and waits for answers without a timeout.
    pub(super) upload: reqwest::Client,
    read_timeout: Duration,
    base: Url,
    repository: String,
    /// The actions that a token must allow.
    actions: &'static str,
    login: Option<(String, String)>,
    authorization: Mutex<Option<Authorization>>,
}

/// The answer to a request for a part of a blob: that part, or the whole blob.
pub(super) enum Blob {
    Rest(Response),
    Whole(Response),
}

impl Reader {
    pub(super) fn new(connection: &Connection<'_>, login: &RegistryAuth) -> Result<Self, Oci> {
        let scheme = if connection.http { "http" } else { "https" };
        let base = format!(
            "{scheme}://{}/v2/{}/",
            connection.host, connection.repository
        );
        let base = Url::parse(&base).map_err(|error| Oci::UrlParseError(error.to_string()))?;
        let from = base.clone();
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("it redirects more often than is followed");
            }
            match check_redirect(&from, attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(why) => attempt.error(why),
            }
        });
        let mut certificates = Vec::new();
        for pem in connection.certificates {
            certificates.extend(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        let builder = || {
            crate::web::client()
                .connect_timeout(connection.connect_timeout)
                .tls_certs_merge(certificates.clone())
        };
        let http = builder()
            .read_timeout(connection.read_timeout)
            .redirect(redirects)
            .build()?;
        // The body of an upload can't be sent twice.
        let upload = builder().redirect(Policy::none()).build()?;
        let login = match login {
            RegistryAuth::Basic(user, password) => Some((user.clone(), password.clone())),
            _ => None,
        };
        Ok(Self {
            http,
            upload,
            read_timeout: connection.read_timeout,
            base,
            repository: connection.repository.to_owned(),
            actions: "pull",
            login,
            authorization: Mutex::default(),
        })
    }

    /// The same reader, with tokens that also allow pushing.
    pub(super) fn for_pushing(self) -> Self {
        Self {
            actions: "pull,push",
            ..self
        }
    }

    /// The URL of the repository.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// How long an answer or an upload may pause.
    pub(super) fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// The URL of a path in the repository.
    pub(super) fn url(&self, path: &str) -> Result<Url, Oci> {
        let url = self.base.join(path);
        url.map_err(|error| Oci::UrlParseError(error.to_string()))
    }

    /// A manifest or index, by tag or digest.
    pub(super) async fn manifest(&self, of: &str, accept: &[&str]) -> Result<Vec<u8>, Oci> {
        let read = async {
            let response = self.get("manifests", of, &accept.join(", "), 0).await?;
            match response.status() {
                StatusCode::OK => read_all(response, MAX_JSON, "manifest").await,
                _ => Err(error_of(response).await),
            }
        };
        within_timeout(read).await
    }

    /// A blob from an offset on.
    pub(super) async fn blob(&self, digest: &str, from: u64) -> Result<Blob, Oci> {
        let response = self.get("blobs", digest, "*/*", from).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok(Blob::Rest(response)),
            StatusCode::OK => Ok(Blob::Whole(response)),
            _ => Err(within_timeout(async { Ok(error_of(response).await) }).await?),
        }
    }

    async fn get(&self, kind: &str, name: &str, accept: &str, from: u64) -> Result<Response, Oci> {
        let url = self.url(&format!("{kind}/{name}"))?;
        let request = |http: &reqwest::Client| {
            let request = http.get(url.clone()).header(ACCEPT, accept);
            match from {
                0 => request,
                from => request.header(RANGE, format!("bytes={from}-")),
            }
        };
        self.send(request).await
    }

    /// Sends a request to the registry, and sends it again with the authorization that the registry asks for.
    pub(super) async fn send(
        &self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Oci> {
        let response = self.authorized(request(&self.http)).send().await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.authorize(&response).await? {
            Some(authorization) => {
                *self.authorization() = Some(authorization);
                Ok(self.authorized(request(&self.http)).send().await?)
            }
            None => Ok(response),
        }
    }

    /// Adds the authorization to a request, if there is one.
    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match self.authorization().clone() {
            Some(Authorization::Token(token)) => request.bearer_auth(token),
            Some(Authorization::Login(user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// Adds the authorization to a request, unless its URL is on another server.
    pub(super) fn authorized_at(&self, to: &Url, request: RequestBuilder) -> RequestBuilder {
        match self.base.origin() == to.origin() {
            true => self.authorized(request),
            false => request,
        }
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<Authorization>> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The authorization that an answer asks for; `None` if there is none.
    async fn authorize(&self, response: &Response) -> Result<Option<Authorization>, Oci> {
        let asked = response.headers().get_all(WWW_AUTHENTICATE).iter();
        for asked in asked.filter_map(|value| value.to_str().ok()) {
            for challenge in ChallengeParser::new(asked).flatten() {
                let param = |name: &str| {
                    let mut params = challenge.params.iter();
                    let found = params.find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = param("realm")
                {
                    let token = self.token(&realm, param("service"));
                    return within_timeout(token)
                        .await
                        .map(|token| Some(Authorization::Token(token)));
                }
                if challenge.scheme.eq_ignore_ascii_case("basic")
                    && let Some((user, password)) = self.login.clone()
                {
                    return Ok(Some(Authorization::Login(user, password)));
                }
            }
        }
        Ok(None)
    }

    async fn token(&self, realm: &str, service: Option<String>) -> Result<String, Oci> {
        let refuse = |why: String| Oci::SpecViolationError(format!("to get a token, {why}"));
        let url =
            Url::parse(realm).map_err(|error| refuse(format!("it names {realm:?} ({error})")))?;
        check_redirect(&self.base, &url).map_err(refuse)?;
        let scope = format!("repository:{}:{}", self.repository, self.actions);
        let mut request: RequestBuilder = self.http.get(url).query(&[("scope", scope)]);
        if let Some(service) = service {
            request = request.query(&[("service", service)]);
        }
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        let response = request.send().await?;
        if response.status() != StatusCode::OK {
            let text = read_start(response, MAX_ERROR).await;
            return Err(Oci::AuthenticationFailure(text));
        }
        let answer = read_all(response, MAX_TOKEN, "token").await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)
            .map_err(|error| Oci::RegistryTokenDecodeError(error.to_string()))?;
        let token = ["token", "access_token"]
            .iter()
            .find_map(|name| answer.get(name)?.as_str());
        token
            .map(str::to_owned)
            .ok_or_else(|| Oci::RegistryTokenDecodeError("it holds no token".to_owned()))
    }
}

pub(super) async fn within_timeout<T>(
    work: impl Future<Output = Result<T, Oci>>,
) -> Result<T, Oci> {
    let late = |_| {
        let why = format!(
            "its answer was not complete after {} s",
            ANSWER_TIMEOUT.as_secs()
        );
        Oci::IoError(std::io::Error::new(std::io::ErrorKind::TimedOut, why))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, work)
        .await
        .map_err(late)?
}

/// Reads an answer of at most `most` bytes.
async fn read_all(mut response: Response, most: u64, what: &str) -> Result<Vec<u8>, Oci> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if (bytes.len() + piece.len()) as u64 > most {
            return Err(Oci::SpecViolationError(format!(
                "its {what} is longer than {most} bytes, the most that is read"
            )));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Reads the first `most` bytes of a text.
async fn read_start(mut response: Response, most: usize) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Ok(Some(piece)) = response.chunk().await
    {
        bytes.extend_from_slice(&piece[..piece.len().min(most - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The error in an answer.
pub(super) async fn error_of(response: Response) -> Oci {
    let (status, url) = (response.status(), response.url().to_string());
    if status == StatusCode::UNAUTHORIZED {
        return Oci::UnauthorizedError { url };
    }
    let message = read_start(response, MAX_ERROR).await;
    match serde_json::from_str::<OciEnvelope>(&message) {
        Ok(envelope) if status.is_client_error() => Oci::RegistryError { envelope, url },
        _ => Oci::ServerError {
            code: status.as_u16(),
            url,
            message,
        },
    }
}

/// Refuses a redirect, or a token server, that an outside registry must not send this client to.
pub(super) fn check_redirect(from: &Url, to: &Url) -> Result<(), String> {
    // Path and query are not shown: they may hold a secret.
    let place = to.host_str().unwrap_or_default();
    if to.scheme() != "https" && (to.scheme() != "http" || from.scheme() != "http") {
        return Err(format!(
            "it redirects to {place} by {}, without TLS",
            to.scheme()
        ));
    }
    let elsewhere = (from.host_str(), from.port_or_known_default())
        != (to.host_str(), to.port_or_known_default());
    if elsewhere && is_local(to) && !is_local(from) {
        return Err(format!("it redirects to {place}, in the local network"));
    }
    Ok(())
}

/// Whether the host of a URL is this machine or in its network, by its form alone: names are not resolved.
fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.');
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical());
    match address {
        Ok(IpAddr::V4(address)) => {
            let [a, b, ..] = address.octets();
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || a == 0
                || (a == 100 && (64..128).contains(&b))
        }
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local()
        }
        Err(_) => {
            let host = host.to_lowercase();
            let names = ["localhost", "local", "internal", "localdomain"];
            names
                .iter()
                .any(|name| host == *name || host.ends_with(&format!(".{name}")))
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
