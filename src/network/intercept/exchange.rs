//! One request of the guest: checked, given its secrets, sent to the server, answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use http::header::{ACCEPT_ENCODING, CONNECTION, IF_RANGE, RANGE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::OnUpgrade;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Body, BodyError, Gate, Upload};
use super::report::{Account, Outcome, Reporter};
use super::target::{Limits, Target};
use super::{answer, head};
use crate::network::rules::{Asked, Verdict};
use crate::network::secrets::{SecretError, Secrets, Used};

const WEBSOCKET_EXTENSIONS: HeaderName = HeaderName::from_static("sec-websocket-extensions");

/// The server's side of the connection.
pub(super) enum Server {
    /// HTTP/1.1.
    First(Mutex<http1::SendRequest<Upload>>),
    /// HTTP/2.
    Second(http2::SendRequest<Upload>),
    /// There is none, for this reason.
    Unreachable(String),
}

/// What the requests of one connection share.
pub(super) struct Exchange {
    pub(super) to: Target,
    pub(super) secure: bool,
    pub(super) server: Server,
    pub(super) secrets: Arc<Secrets>,
    pub(super) limits: Limits,
    pub(super) reporter: Reporter,
    /// The guest's connection ends after the answers under way.
    pub(super) ending: CancellationToken,
    /// The server's connection has ended, or belongs to a tunnel.
    pub(super) server_gone: Arc<AtomicBool>,
    /// The request under way may turn the connection into a tunnel.
    pub(super) upgrading: Arc<AtomicBool>,
    pub(super) tunnels: TaskTracker,
}

/// Why a request gets no answer of the server.
pub(super) enum Failure {
    /// The guest gets this answer.
    Answer(StatusCode, String),
    /// The guest's connection or stream breaks as the server's did: clients know what that means.
    Broken(BodyError),
}

/// The guest's end of the connection after an upgrade, and the protocol that it asks for.
pub(super) type Upgrade = (OnUpgrade, HeaderValue);

/// A request that goes to the server.
struct Prepared {
    request: Request<Upload>,
    upgrade: Option<Upgrade>,
    gate: Gate,
    used: Used,
}

impl Exchange {
    /// Answers a request.
    pub(super) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, BodyError> {
        let account = Account::new(
            request.method().as_str(),
            request.uri().path(),
            self.reporter.clone(),
        );
        let mut response = match self.answer(request, &account).await {
            Ok(response) => response,
            Err(Failure::Answer(status, text)) => answer::plain(status, &text),
            Err(Failure::Broken(error)) => {
                account.outcome(Outcome::Failed {
                    why: error.to_string(),
                });
                return Err(error);
            }
        };
        account.status(response.status());
        if self.ending.is_cancelled() && !matches!(self.server, Server::Second(_)) {
            // A further request may have been read already.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        account: &Account,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let rule = self.check(&parts, account)?;
        if let Server::Unreachable(why) = &self.server {
            self.ending.cancel();
            return Err(self.failed(account, StatusCode::BAD_GATEWAY, why.clone()));
        }
        let method = parts.method.clone();
        let Prepared {
            request,
            upgrade,
            gate,
            used,
        } = self.prepare(parts, body, account).await?;
        let patterns = self
            .has_secrets()
            .then(|| self.secrets.patterns())
            .flatten();
        self.upgrading.store(upgrade.is_some(), SeqCst);
        let sent = self.send(request, account).await;
        let changed = sent
            .as_ref()
            .is_ok_and(|response| response.status() == StatusCode::SWITCHING_PROTOCOLS);
        if !changed {
            self.upgrading.store(false, SeqCst);
            if self.server_gone.load(SeqCst) {
                self.ending.cancel();
            }
        }
        let response = sent?;
        gate.answered.cancel();
        account.outcome(Outcome::Allowed { rule });
        match changed {
            true => self.change(response, upgrade, patterns, account),
            false => {
                self.respond(response, &method, &used, patterns, account)
                    .await
            }
        }
    }

    /// Whether the request may be sent. Gives the rule that allows it.
    fn check(&self, head: &request::Parts, account: &Account) -> Result<String, Failure> {
        let refuse =
            |why: String, remedy: Option<String>| account.outcome(Outcome::Refused { why, remedy });
        if head.method == Method::CONNECT {
            self.ending.cancel();
            let why = "a connection through a connection (CONNECT) is never allowed; connect to the host itself".to_owned();
            refuse(why.clone(), None);
            return Err(Failure::Answer(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        if let Err(other) = head::agrees(head, &self.to, self.secure) {
            self.ending.cancel();
            refuse(other.to_string(), None);
            return Err(Failure::Answer(
                StatusCode::MISDIRECTED_REQUEST,
                other.to_string(),
            ));
        }
        let (method, path) = (head.method.as_str(), head.uri.path());
        let asked = Asked {
            method,
            secure: self.secure,
            path,
        };
        let verdict = self
            .to
            .rules
            .borrow()
            .request(&self.to.host, self.to.port, &asked);
        match verdict {
            Verdict::Allowed { rule, .. } => Ok(rule),
            Verdict::Refused(why) => {
                let remedy = answer::remedy(&why, &self.to, self.secure, method, path);
                let host = head::authority(&self.to, self.secure);
                let text = format!("{method} {path} of {host} is refused: {why}; {remedy}");
                refuse(why.to_string(), Some(remedy));
                Err(Failure::Answer(StatusCode::FORBIDDEN, text))
            }
        }
    }

    /// Whether secrets may go to this host.
    fn has_secrets(&self) -> bool {
        self.secure && self.secrets.are_for(&self.to.host, self.to.port)
    }

    async fn prepare(
        &self,
        mut head: request::Parts,
        body: Incoming,
        account: &Account,
    ) -> Result<Prepared, Failure> {
        let upgrade = head.extensions.remove::<OnUpgrade>();
        let version = match self.server {
            Server::Second(_) => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let wishes = head::forward(&mut head, &self.to, self.secure, version)
            .map_err(|error| self.failed(account, StatusCode::BAD_REQUEST, error.to_string()))?;
        let mut used = Used::default();
        if self.has_secrets() {
            // Values are found in what is neither compressed nor cut out of something longer.
            head.headers
                .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            head.headers.remove(WEBSOCKET_EXTENSIONS);
            let asked = Asked {
                method: method.as_str(),
                secure: self.secure,
                path: &path,
            };
            let put = self
                .secrets
                .put_in(&self.to.host, self.to.port, &asked, &mut head.headers)
                .await;
            used = put.map_err(|error| self.unread(account, &error))?;
            account.secrets(used.names());
        }
        if !used.is_empty() {
            head.headers.remove(RANGE);
            head.headers.remove(IF_RANGE);
        }
        let gate = Gate::default();
        let waits = wishes.expects.then(|| (gate.clone(), self.limits.expect));
        let mut request = Request::from_parts(head, Upload::new(body, waits, account.clone()));
        if wishes.expects {
            let wanted = gate.wanted.clone();
            hyper::ext::on_informational(&mut request, move |told| {
                if told.status() == StatusCode::CONTINUE {
                    wanted.cancel();
                }
            });
        }
        let upgrade = upgrade.zip(wishes.upgrade);
        Ok(Prepared {
            request,
            upgrade,
            gate,
            used,
        })
    }

    /// Sends the request and waits for the answer, for as long as something moves.
    async fn send(
        &self,
        request: Request<Upload>,
        account: &Account,
    ) -> Result<Response<Incoming>, Failure> {
        let answered = async {
            match &self.server {
                Server::First(sender) => {
                    let mut sender = sender.lock().await;
                    sender.ready().await?;
                    let answered = sender.send_request(request);
                    drop(sender);
                    answered.await.map(Some)
                }
                Server::Second(sender) => {
                    let mut sender = sender.clone();
                    sender.ready().await?;
                    sender.send_request(request).await.map(Some)
                }
                Server::Unreachable(_) => Ok(None),
            }
        };
        let mut answered = std::pin::pin!(answered);
        loop {
            let before = account.moved();
            let error = match tokio::time::timeout(self.limits.answer, answered.as_mut()).await {
                Ok(Ok(Some(response))) => return Ok(response),
                Ok(Ok(None)) => {
                    return Err(self.failed(
                        account,
                        StatusCode::BAD_GATEWAY,
                        "there is no server".to_owned(),
                    ));
                }
                Ok(Err(error)) => error,
                Err(_) if account.moved() > before => continue,
                Err(_) => {
                    self.ending.cancel();
                    let why = format!(
                        "the server has not answered for {} s",
                        self.limits.answer.as_secs_f32()
                    );
                    return Err(self.failed(account, StatusCode::GATEWAY_TIMEOUT, why));
                }
            };
            // A request that was never sent is tried again by clients, if its connection breaks.
            if error.is_canceled() || matches!(self.server, Server::Second(_)) {
                return Err(Failure::Broken(error.into()));
            }
            self.ending.cancel();
            return Err(self.failed(
                account,
                StatusCode::BAD_GATEWAY,
                format!("the server's answer can't be used: {error}"),
            ));
        }
    }

    /// A failure of a request that the rules allow.
    pub(super) fn failed(&self, account: &Account, status: StatusCode, why: String) -> Failure {
        account.outcome(Outcome::Failed { why: why.clone() });
        Failure::Answer(
            status,
            format!("{}: {why}", head::authority(&self.to, self.secure)),
        )
    }

    /// The guest is not told what the host's commands and files say.
    fn unread(&self, account: &Account, error: &SecretError) -> Failure {
        account.outcome(Outcome::Failed {
            why: error.to_string(),
        });
        let text = "the host can't read the secret for this request; `snowglobe network log` on the host says why".to_owned();
        Failure::Answer(StatusCode::BAD_GATEWAY, text)
    }
}
