//! Reading from a registry: the few requests that pulling takes, each answer within bounds. Pushing is in `writer`.
//!
//! The client library reads answers whole, however long they are, and follows wherever it is sent. Here a manifest, a token and the text of an error have each a length, and a registry leads
//! (by a redirect, or to the server that gives tokens) neither from TLS to none nor from elsewhere into this
//! machine's own network ([`may_lead`]). A login is shown only where it is asked for.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_auth::parser::ChallengeParser;
use oci_client::errors::{OciDistributionError as Oci, OciEnvelope};
use oci_client::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode, Url};

use crate::image::content::MAX_JSON;

/// How often one request may be led elsewhere.
const MOST_REDIRECTS: usize = 5;
/// How much of an error's text is read, in bytes.
const LONGEST_ERROR: usize = 64 << 10;
/// The longest answer with a token, in bytes.
const LONGEST_TOKEN: usize = 64 << 10;
/// How long an answer that is read whole may take.
const WHOLE: Duration = Duration::from_secs(60);

/// How a registry is reached.
pub(super) struct Reach<'a> {
    /// Its name, with its port.
    pub(super) host: &'a str,
    pub(super) repository: &'a str,
    /// Whether without TLS.
    pub(super) http: bool,
    /// Who vouches for it beside those that the machine trusts, as PEM.
    pub(super) vouching: &'a [Vec<u8>],
    /// How long it may take to answer at all.
    pub(super) connect: Duration,
    /// How long it may say nothing in the middle of an answer.
    pub(super) stall: Duration,
}

/// What a request shows.
#[derive(Clone)]
enum Key {
    Token(String),
    Login(String, String),
}

/// A registry, ready to be read from.
pub(super) struct Reader {
    http: reqwest::Client,
    /// For uploads, during which nothing is read for long.
    pub(super) upload: reqwest::Client,
    stall: Duration,
    base: Url,
    repository: String,
    /// What a token is to allow.
    actions: &'static str,
    login: Option<(String, String)>,
    key: Mutex<Option<Key>>,
}

/// A blob as it comes: from where it was asked for, or from its beginning.
pub(super) enum Blob {
    Rest(Response),
    Whole(Response),
}

impl Reader {
    pub(super) fn new(reach: &Reach<'_>, login: &RegistryAuth) -> Result<Self, Oci> {
        let scheme = if reach.http { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}/", reach.host, reach.repository);
        let base = Url::parse(&base).map_err(|error| Oci::UrlParseError(error.to_string()))?;
        let from = base.clone();
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > MOST_REDIRECTS {
                return attempt.error("it leads from one place to another without an end");
            }
            match may_lead(&from, attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(why) => attempt.error(why),
            }
        });
        let mut vouching = Vec::new();
        for pem in reach.vouching {
            vouching.extend(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        let builder = || {
            reqwest::Client::builder()
                .user_agent(super::endpoint::USER_AGENT)
                .connect_timeout(reach.connect)
                .tls_certs_merge(vouching.clone())
        };
        let http = builder().read_timeout(reach.stall).redirect(redirects);
        let http = http.build()?;
        // What is sent can't be sent again.
        let upload = builder().redirect(Policy::none()).build()?;
        let login = match login {
            RegistryAuth::Basic(user, password) => Some((user.clone(), password.clone())),
            _ => None,
        };
        Ok(Self {
            http,
            upload,
            stall: reach.stall,
            base,
            repository: reach.repository.to_owned(),
            actions: "pull",
            login,
            key: Mutex::default(),
        })
    }

    /// The same, to push to, too.
    pub(super) fn for_pushing(self) -> Self {
        Self {
            actions: "pull,push",
            ..self
        }
    }

    /// Where it is.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// How long it may do nothing.
    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// A place below it.
    pub(super) fn place(&self, path: &str) -> Result<Url, Oci> {
        let url = self.base.join(path);
        url.map_err(|error| Oci::UrlParseError(error.to_string()))
    }

    /// A manifest or index, by tag or digest.
    pub(super) async fn manifest(&self, of: &str, accept: &[&str]) -> Result<Vec<u8>, Oci> {
        let read = async {
            let response = self.get("manifests", of, &accept.join(", "), 0).await?;
            match response.status() {
                StatusCode::OK => whole(response, MAX_JSON as usize, "manifest").await,
                _ => Err(refused(response).await),
            }
        };
        in_time(read).await
    }

    /// A blob, from a place in it on.
    pub(super) async fn blob(&self, digest: &str, from: u64) -> Result<Blob, Oci> {
        let response = self.get("blobs", digest, "*/*", from).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok(Blob::Rest(response)),
            StatusCode::OK => Ok(Blob::Whole(response)),
            _ => Err(in_time(async { Ok(refused(response).await) }).await?),
        }
    }

    async fn get(&self, kind: &str, name: &str, accept: &str, from: u64) -> Result<Response, Oci> {
        let url = self.place(&format!("{kind}/{name}"))?;
        let ask = |http: &reqwest::Client| {
            let request = http.get(url.clone()).header(ACCEPT, accept);
            match from {
                0 => request,
                from => request.header(RANGE, format!("bytes={from}-")),
            }
        };
        self.ask(ask).await
    }

    /// Makes a request of the registry itself, once more with what it asks to be shown.
    pub(super) async fn ask(
        &self,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Oci> {
        let response = self.shown(request(&self.http)).send().await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.find_key(&response).await? {
            Some(key) => {
                *self.key() = Some(key);
                Ok(self.shown(request(&self.http)).send().await?)
            }
            None => Ok(response),
        }
    }

    /// The request with what is known to open the registry.
    fn shown(&self, request: RequestBuilder) -> RequestBuilder {
        match self.key().clone() {
            Some(Key::Token(token)) => request.bearer_auth(token),
            Some(Key::Login(user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// The same, unless the registry is led away from by it.
    pub(super) fn shown_at(&self, to: &Url, request: RequestBuilder) -> RequestBuilder {
        match self.base.origin() == to.origin() {
            true => self.shown(request),
            false => request,
        }
    }

    fn key(&self) -> std::sync::MutexGuard<'_, Option<Key>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an answer asks to be shown, if that can be had.
    async fn find_key(&self, response: &Response) -> Result<Option<Key>, Oci> {
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
                    return in_time(token).await.map(|token| Some(Key::Token(token)));
                }
                if challenge.scheme.eq_ignore_ascii_case("basic")
                    && let Some((user, password)) = self.login.clone()
                {
                    return Ok(Some(Key::Login(user, password)));
                }
            }
        }
        Ok(None)
    }

    async fn token(&self, realm: &str, service: Option<String>) -> Result<String, Oci> {
        let leads = |why: String| Oci::SpecViolationError(format!("to get a token {why}"));
        let url =
            Url::parse(realm).map_err(|error| leads(format!("it leads to {realm:?} ({error})")))?;
        may_lead(&self.base, &url).map_err(leads)?;
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
            let text = start(response, LONGEST_ERROR).await;
            return Err(Oci::AuthenticationFailure(text));
        }
        let answer = whole(response, LONGEST_TOKEN, "token").await?;
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

pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, Oci>>) -> Result<T, Oci> {
    let late = |_| {
        let why = format!("its answer was not complete after {} s", WHOLE.as_secs());
        Oci::IoError(std::io::Error::new(std::io::ErrorKind::TimedOut, why))
    };
    tokio::time::timeout(WHOLE, work).await.map_err(late)?
}

/// All of an answer, if it is not too long.
async fn whole(mut response: Response, most: usize, what: &str) -> Result<Vec<u8>, Oci> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if bytes.len() + piece.len() > most {
            return Err(Oci::SpecViolationError(format!(
                "its {what} is longer than the {most} bytes that are taken"
            )));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The beginning of a text.
async fn start(mut response: Response, most: usize) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Ok(Some(piece)) = response.chunk().await
    {
        bytes.extend_from_slice(&piece[..piece.len().min(most - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What an answer means that is none to what was asked.
pub(super) async fn refused(response: Response) -> Oci {
    let (status, url) = (response.status(), response.url().to_string());
    if status == StatusCode::UNAUTHORIZED {
        return Oci::UnauthorizedError { url };
    }
    let message = start(response, LONGEST_ERROR).await;
    match serde_json::from_str::<OciEnvelope>(&message) {
        Ok(envelope) if status.is_client_error() => Oci::RegistryError { envelope, url },
        _ => Oci::ServerError {
            code: status.as_u16(),
            url,
            message,
        },
    }
}

/// Whether a registry may lead to another place.
pub(super) fn may_lead(from: &Url, to: &Url) -> Result<(), String> {
    // Neither its path nor its query: they may hold what opens it.
    let place = to.host_str().unwrap_or_default();
    if to.scheme() != "https" && (to.scheme() != "http" || from.scheme() != "http") {
        return Err(format!(
            "it leads to {place} by {}, without TLS",
            to.scheme()
        ));
    }
    let elsewhere = (from.host_str(), from.port_or_known_default())
        != (to.host_str(), to.port_or_known_default());
    if elsewhere && is_near(to) && !is_near(from) {
        return Err(format!(
            "it leads to {place}, into this machine's own network"
        ));
    }
    Ok(())
}

/// Whether an address is this machine's or its network's, as far as it says so itself.
fn is_near(url: &Url) -> bool {
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
pub(super) mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A registry at the loopback that answers each path with a head, and after it without an end.
    pub(crate) async fn endless(heads: fn(&str) -> String) -> Reader {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..read]).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    let answer = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", heads(&path));
                    let _ = stream.write_all(answer.as_bytes()).await;
                    while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
                });
            }
        });
        reader(&host)
    }

    /// A registry at the loopback whose answers have a head only, made of what was asked; and all that was asked.
    pub(crate) async fn registry(
        heads: impl Fn(&str) -> String + Send + 'static,
    ) -> (Reader, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let all = Arc::new(Mutex::new(Vec::new()));
        let asked = all.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let answer = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", heads(&head));
                asked.lock().unwrap().push(head);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (reader(&host), all)
    }

    fn reader(host: &str) -> Reader {
        let reach = Reach {
            host,
            repository: "owner/image",
            http: true,
            vouching: &[],
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(5),
        };
        super::super::endpoint::use_ring();
        Reader::new(&reach, &RegistryAuth::Basic("me".into(), "secret".into())).unwrap()
    }

    async fn fails(reader: &Reader, of: &str) -> Oci {
        reader.manifest(of, &["*/*"]).await.unwrap_err()
    }

    #[tokio::test]
    async fn no_answer_is_read_without_an_end() {
        let reader = endless(|path| match path.rsplit('/').next() {
            Some("error") => "404 Not Found".into(),
            Some("down") => "503 Down".into(),
            Some("locked") => "401 No\r\nWWW-Authenticate: Bearer realm=\"/nowhere\"".into(),
            _ => "200 OK".into(),
        })
        .await;
        for (of, expected) in [("error", 404), ("down", 503)] {
            match fails(&reader, of).await {
                Oci::ServerError { code, message, .. } => {
                    assert_eq!((code, message.len()), (expected, LONGEST_ERROR));
                }
                other => panic!("{other}"),
            }
        }
        let long = fails(&reader, "latest").await.to_string();
        assert!(long.contains("longer than"), "{long}");
        let locked = fails(&reader, "locked").await.to_string();
        assert!(locked.contains("to get a token it leads to"), "{locked}");
        let blob = reader.blob("sha256:error", 5).await;
        assert!(
            matches!(blob, Ok(Blob::Whole(_))),
            "its size is checked by who takes it"
        );
    }

    #[tokio::test]
    async fn nobody_is_led_round_in_circles() {
        let reader = endless(|path| format!("302 Found\r\nLocation: {path}x")).await;
        match fails(&reader, "latest").await {
            Oci::RequestError(error) => {
                assert!(error.is_redirect(), "{error:?}");
                let said = format!("{error:?}");
                assert!(said.contains("without an end"), "{said}");
            }
            other => panic!("{other}"),
        }
        let reader = endless(|_| "302 Found\r\nLocation: file:///etc/passwd".into()).await;
        assert!(!fails(&reader, "latest").await.to_string().contains("root:"));
    }

    fn leads(from: &str, to: &str) -> bool {
        may_lead(&from.parse().unwrap(), &to.parse().unwrap()).is_ok()
    }

    #[test]
    fn a_registry_leads_neither_out_of_tls_nor_into_this_network() {
        let far = "https://registry.example/v2/";
        for to in [
            "https://cdn.example/x?y",
            "https://registry.example/z",
            "https://93.184.216.34/x",
        ] {
            assert!(leads(far, to), "{to}");
        }
        for to in [
            "http://cdn.example/x",
            "http://registry.example/x",
            "ftp://cdn.example/x",
            "file:///etc/passwd",
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://2130706433/x",
            "https://0/x",
            "https://10.0.0.1/x",
            "https://192.168.1.1:8443/x",
            "https://169.254.169.254/latest/meta-data",
            "https://100.100.100.200/",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[fd00:ec2::254]/x",
            "https://[fe80::1]/x",
            "https://localhost/x",
            "https://LOCALHOST./x",
            "https://metadata.google.internal/x",
        ] {
            assert!(!leads(far, to), "{to}");
        }
        // One of this machine's own may lead there, and without TLS where it has none.
        assert!(leads(
            "http://localhost:5000/v2/",
            "http://127.0.0.1:5001/token"
        ));
        assert!(leads("https://10.0.0.1/v2/", "https://10.0.0.2/token"));
        assert!(!leads("https://localhost/v2/", "http://localhost/token"));
    }
}
