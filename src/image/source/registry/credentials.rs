//! The credentials that Docker and Podman store: `config.json`, its credential helpers, `auth.json`.
//!
//! Broken credentials do not prevent pulling public images. They are reported, and no login is sent. If the registry then
//! asks for a login, the error says what is broken and what to do.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError as Problem, DockerCredential};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::blocking::blocking;
use crate::image::reference::HUB;
use crate::image::source::registry::login::Login;
use crate::presence;

/// The key of the hub's login in Docker's files.
const HUB_LOGIN: &str = "https://index.docker.io/v1/";

/// How long a credential helper may take. Some ask the user.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is read of a helper's output, in bytes.
const MAX_OUTPUT: u64 = 64 << 10;

/// User and password for a registry, if there are any. The error says what is broken, and what to do.
type Found = Result<Option<(String, String)>, String>;

/// Why the stored credentials for a registry can't be used; `None` if they can, or if there are none.
pub(crate) async fn problem(host: &str) -> Option<String> {
    login(host).await.problem
}

/// The login of this user at a registry: anonymous if no credentials are stored.
pub(super) async fn login(host: &str) -> Login {
    let mut problem = None;
    for path in files(|name| std::env::var_os(name).map(PathBuf::from)) {
        match in_file(&path, host, HELPER_TIMEOUT).await {
            Ok(Some((user, password))) => {
                return Login {
                    auth: RegistryAuth::Basic(user, password),
                    problem: None,
                };
            }
            Ok(None) => {}
            Err(broken) => problem = problem.or(Some(broken)),
        }
    }
    Login {
        auth: RegistryAuth::Anonymous,
        problem,
    }
}

/// The files that may hold credentials, in order.
fn files(var: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let var = |name: &str| var(name).filter(|value| !value.as_os_str().is_empty());
    let home = var("HOME");
    let in_home = |part: &str| home.as_ref().map(|home| home.join(part));
    let docker = var("DOCKER_CONFIG").or_else(|| in_home(".docker"));
    let mut files: Vec<PathBuf> = docker
        .map(|dir| dir.join("config.json"))
        .into_iter()
        .collect();
    match var("REGISTRY_AUTH_FILE") {
        Some(file) => files.push(file),
        None => {
            let config = var("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
            let dirs = [var("XDG_RUNTIME_DIR"), config];
            let auth = |dir: PathBuf| dir.join("containers/auth.json");
            files.extend(dirs.into_iter().flatten().map(auth));
        }
    }
    files
}

/// The credentials in a file.
async fn in_file(path: &Path, host: &str, timeout: Duration) -> Found {
    let shown = path.display();
    let file = path.to_owned();
    let text = blocking(move || presence::read(&file))
        .await
        .map_err(|error| {
            format!("{shown} can't be read ({error}): make it readable for you, or remove it")
        })?;
    let text = text.unwrap_or_default();
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let broken = |why: String| {
        format!(
            "{shown} is no credentials file of Docker ({why}): correct it, or move it away and {}",
            log_in(host)
        )
    };
    let mut config: Value =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let Some(members) = config.as_object_mut() else {
        return Err(broken("it is no JSON object".to_owned()));
    };
    // The library runs helpers without a timeout, so they are taken out and run here.
    let helpers = members.remove("credHelpers").unwrap_or_default();
    let store = members.remove("credsStore").unwrap_or_default();
    let server = if host == HUB { HUB_LOGIN } else { host };
    let names = [server, host, "index.docker.io"];
    let names = if host == HUB { &names[..] } else { &names[..1] };
    let own = names.iter().find_map(|name| helpers.get(*name)?.as_str());
    let run_helper = async |helper: &str| {
        let program = format!("docker-credential-{helper}");
        ask_helper(&program, server, path, host, timeout).await
    };
    if let Some(helper) = own.filter(|helper| !helper.is_empty()) {
        return run_helper(helper).await;
    }
    // The library also looks for the other names of the hub.
    match docker_credential::get_credential_from_reader(config.to_string().as_bytes(), host) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(Some((user, password))),
        Ok(DockerCredential::IdentityToken(_)) => Err(token(&shown.to_string(), host)),
        Err(Problem::NoCredentialConfigured) => match store.as_str() {
            None | Some("") => Ok(None),
            Some(helper) => run_helper(helper).await,
        },
        Err(Problem::CredentialDecodingError | Problem::CredentialMismatchError) => Err(format!(
            "the login for {host} in {shown} can't be decoded: {}",
            log_in(host)
        )),
        Err(other) => Err(broken(other.to_string())),
    }
}

fn log_in(host: &str) -> String {
    format!("log in anew (`docker login {host}`)")
}

fn token(place: &str, host: &str) -> String {
    format!(
        "{place} has an identity token for {host}, which is not supported: log in with a user name and a password or \
         access token (`docker login {host}`)"
    )
}

/// The answer of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The credentials that a helper has for a registry.
async fn ask_helper(
    program: &str,
    server: &str,
    path: &Path,
    host: &str,
    timeout: Duration,
) -> Found {
    let remedy = format!(
        "install or repair it, or take it out of {} and {}",
        path.display(),
        log_in(host)
    );
    let answered = tokio::time::timeout(timeout, run(program, server)).await;
    let (status, output, errors) = match answered {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "the credential helper {program}, which {} names, is not installed: {remedy}",
                path.display()
            ));
        }
        Ok(Err(error)) => {
            return Err(format!(
                "the credential helper {program} can't be run ({error}): {remedy}"
            ));
        }
        Err(_) => {
            let seconds = timeout.as_secs();
            return Err(format!(
                "the credential helper {program} did not answer within {seconds} s: {remedy}"
            ));
        }
    };
    if !status.success() {
        // Helpers report with this text that they have no credentials for a registry.
        if output.contains("credentials not found") || errors.contains("credentials not found") {
            return Ok(None);
        }
        let why = [&errors, &output].map(|text| one_line(text));
        let why = why.into_iter().find(|text| !text.is_empty());
        return Err(format!(
            "the credential helper {program} failed: {}; {remedy}",
            why.unwrap_or_else(|| status.to_string())
        ));
    }
    // The output may hold a secret, so it is not shown.
    match serde_json::from_str::<Answer>(&output) {
        Ok(Answer { username, .. }) if username == "<token>" => Err(token(program, host)),
        Ok(Answer { username, secret }) if username.is_empty() && secret.is_empty() => Ok(None),
        Ok(Answer { username, secret }) => Ok(Some((username, secret))),
        Err(_) => Err(format!(
            "the credential helper {program} did not answer with a login: {remedy}"
        )),
    }
}

async fn run(program: &str, server: &str) -> std::io::Result<(ExitStatus, String, String)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // A helper that does not read its input may still answer.
            if let Err(error) = input.write_all(server.as_bytes()).await {
                tracing::debug!(program, %error, "a credential helper did not read its input");
            }
        }
    };
    let ((), output, errors) = tokio::join!(write, read_output(output), read_output(errors));
    Ok((child.wait().await?, output?, errors?))
}

async fn read_output(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut output = Vec::new();
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT).read_to_end(&mut output).await?;
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// The output of a program as a part of one line.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .collect();
    let words = words.into_iter().filter(|word| !word.is_empty());
    words
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests;
