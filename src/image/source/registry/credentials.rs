//! Credentials as Docker and Podman keep them: `config.json`, its helpers, `auth.json`.
//!
//! What is broken among them keeps nobody from what a registry gives to everybody: it is told, no login is shown, and
//! if the registry then wants one, the error says what is broken and what to do about it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError as Problem, DockerCredential};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::image::reference::HUB;
use crate::presence;

/// The name by which Docker keeps the login of its hub.
const HUB_LOGIN: &str = "https://index.docker.io/v1/";

/// How long a credential helper may take; some ask a person.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most that is read of what a helper says, in bytes.
const MOST_SAID: u64 = 64 << 10;

/// What is shown to a registry.
#[derive(Debug, PartialEq)]
pub(super) struct Login {
    pub(super) auth: RegistryAuth,
    /// Why what is kept for it could not be used.
    pub(super) trouble: Option<String>,
}

/// What one file holds for a registry.
type Found = Result<Option<(String, String)>, String>;

/// What this user has for a registry; nothing said anywhere means anonymously.
pub(super) async fn of(host: &str) -> Login {
    let mut trouble = None;
    for path in files(|name| std::env::var_os(name).map(PathBuf::from)) {
        match in_file(&path, host, PATIENCE).await {
            Ok(Some((user, password))) => {
                return Login {
                    auth: RegistryAuth::Basic(user, password),
                    trouble: None,
                };
            }
            Ok(None) => {}
            Err(problem) => trouble = trouble.or(Some(problem)),
        }
    }
    Login {
        auth: RegistryAuth::Anonymous,
        trouble,
    }
}

/// The files that may hold it, in order.
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

/// What a file holds for a registry; the error says what is broken, and what to do.
async fn in_file(path: &Path, host: &str, patience: Duration) -> Found {
    let shown = path.display();
    let text = presence::read(path).map_err(|error| {
        format!("{shown} can't be read ({error}): make it readable for you, or remove it")
    })?;
    let text = text.unwrap_or_default();
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let broken = |why: String| {
        format!(
            "{shown} is no such file as Docker writes ({why}): correct it, or move it away and {}",
            log_in(host)
        )
    };
    let mut config: Value =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let Some(members) = config.as_object_mut() else {
        return Err(broken("it is no JSON object".to_owned()));
    };
    // Helpers are run here, with a deadline; the rest is for the library, which would run them without one.
    let helpers = members.remove("credHelpers").unwrap_or_default();
    let store = members.remove("credsStore").unwrap_or_default();
    let server = if host == HUB { HUB_LOGIN } else { host };
    let names = [server, host, "index.docker.io"];
    let names = if host == HUB { &names[..] } else { &names[..1] };
    let own = names.iter().find_map(|name| helpers.get(*name)?.as_str());
    let ask = async |helper: &str| {
        let program = format!("docker-credential-{helper}");
        ask(&program, server, path, host, patience).await
    };
    if let Some(helper) = own.filter(|helper| !helper.is_empty()) {
        return ask(helper).await;
    }
    // The library knows the hub's other names by this one.
    match docker_credential::get_credential_from_reader(config.to_string().as_bytes(), host) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(Some((user, password))),
        Ok(DockerCredential::IdentityToken(_)) => Err(token(&shown.to_string(), host)),
        Err(Problem::NoCredentialConfigured) => match store.as_str() {
            None | Some("") => Ok(None),
            Some(helper) => ask(helper).await,
        },
        Err(Problem::CredentialDecodingError | Problem::CredentialMismatchError) => Err(format!(
            "the login that {shown} keeps for {host} can't be decoded: {}",
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
        "{place} keeps an identity token for {host}, which is not supported: log in with a user name and a password or \
         access token (`docker login {host}`)"
    )
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What a helper has for a registry.
async fn ask(program: &str, server: &str, path: &Path, host: &str, patience: Duration) -> Found {
    let remedy = format!(
        "install or repair it, or take it out of {} and {}",
        path.display(),
        log_in(host)
    );
    let answered = tokio::time::timeout(patience, run(program, server)).await;
    let (status, said, complaint) = match answered {
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
            let seconds = patience.as_secs();
            return Err(format!(
                "the credential helper {program} did not answer within {seconds} s: {remedy}"
            ));
        }
    };
    if !status.success() {
        // Helpers have no other way to say that they know nothing of a registry.
        if said.contains("credentials not found") || complaint.contains("credentials not found") {
            return Ok(None);
        }
        let why = [&complaint, &said].map(|text| short(text));
        let why = why.into_iter().find(|text| !text.is_empty());
        return Err(format!(
            "the credential helper {program} failed: {}; {remedy}",
            why.unwrap_or_else(|| status.to_string())
        ));
    }
    // What it said may hold a secret, so it is not shown.
    match serde_json::from_str::<Answer>(&said) {
        Ok(Answer { username, .. }) if username == "<token>" => Err(token(program, host)),
        Ok(Answer { username, secret }) if username.is_empty() && secret.is_empty() => Ok(None),
        Ok(Answer { username, secret }) => Ok(Some((username, secret))),
        Err(_) => Err(format!(
            "the credential helper {program} answered with something else than a login: {remedy}"
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
    let give = async {
        if let Some(mut input) = input {
            // One that reads nothing may know the answer all the same.
            let _ = input.write_all(server.as_bytes()).await;
        }
    };
    let ((), said, complaint) = tokio::join!(give, all_of(output), all_of(errors));
    Ok((child.wait().await?, said?, complaint?))
}

async fn all_of(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut said = Vec::new();
    if let Some(stream) = stream {
        stream.take(MOST_SAID).read_to_end(&mut said).await?;
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// What a program said, as a part of one line.
fn short(text: &str) -> String {
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
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::presence::tests::UNREADABLE;

    const HOST: &str = "registry.example";

    async fn kept(config: &str) -> Found {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, config).unwrap();
        in_file(&path, HOST, Duration::from_millis(500)).await
    }

    /// What comes of a helper that is this shell script.
    async fn helped(script: &str) -> Found {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-test");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let program = program.to_str().unwrap();
        ask(
            program,
            HOST,
            Path::new("config.json"),
            HOST,
            Duration::from_millis(500),
        )
        .await
    }

    #[tokio::test]
    async fn logins_are_found_and_what_is_no_file_of_docker_is_said() {
        use base64::Engine;
        let auth = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let with = |auth: &str| format!(r#"{{"auths": {{"{HOST}": {{"auth": "{auth}"}}}}}}"#);
        assert_eq!(
            kept(&with(&auth("user:pass:word"))).await,
            login("user", "pass:word")
        );
        for nothing in [
            "",
            " \n",
            "{}",
            r#"{"auths": {}, "credsStore": ""}"#,
            r#"{"auths": {"other": {}}}"#,
        ] {
            assert_eq!(kept(nothing).await, Ok(None), "{nothing}");
        }
        for (config, said) in [
            (
                "{\"auths\": ".to_owned(),
                "is no such file as Docker writes",
            ),
            ("[]".to_owned(), "no JSON object"),
            (
                r#"{"auths": []}"#.to_owned(),
                "is no such file as Docker writes",
            ),
            (with("!!"), "can't be decoded"),
            (with(&auth("without a colon")), "can't be decoded"),
            (
                format!(r#"{{"auths": {{"{HOST}": {{"identitytoken": "x"}}}}}}"#),
                "identity token",
            ),
            (
                r#"{"credsStore": "of-nobody"}"#.to_owned(),
                "docker-credential-of-nobody, which",
            ),
            (
                format!(r#"{{"credHelpers": {{"{HOST}": "of-nobody"}}}}"#),
                "is not installed",
            ),
        ] {
            let error = kept(&config).await.unwrap_err();
            assert!(
                error.contains(said) && error.contains("docker login registry.example"),
                "{config}: {error}"
            );
        }
        // A helper of another registry is of no matter.
        let other = format!(
            r#"{{"credHelpers": {{"other": "of-nobody"}}, "auths": {{"{HOST}": {{"auth": "{}"}}}}}}"#,
            auth("a:b")
        );
        assert_eq!(kept(&other).await, login("a", "b"));
        for (how, make) in UNREADABLE {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            make(&path);
            let error = in_file(&path, HOST, PATIENCE).await.unwrap_err();
            assert!(error.contains("can't be read"), "{how}: {error}");
        }
    }

    #[tokio::test]
    async fn a_helper_may_do_anything_but_keep_us_waiting() {
        let answer = r#"echo '{"Username":"user","Secret":"secret"}'"#;
        let asks = format!("read server\n[ \"$1 $server\" = 'get {HOST}' ] || exit 1\n{answer}");
        assert_eq!(helped(&asks).await, login("user", "secret"));
        assert_eq!(
            helped(answer).await,
            login("user", "secret"),
            "reading nothing"
        );
        assert_eq!(
            helped("echo 'credentials not found in native keychain'; exit 1").await,
            Ok(None)
        );
        assert_eq!(
            helped(r#"echo '{"Username":"","Secret":""}'"#).await,
            Ok(None)
        );
        for (script, said) in [
            (
                "echo the safe is locked >&2; exit 1",
                "docker-credential-test failed: the safe is locked",
            ),
            ("exit 3", "exit status: 3"),
            ("kill -9 $$", "signal: 9"),
            ("echo secret garbage", "something else than a login"),
            (
                r#"echo '{"Username":"<token>","Secret":"x"}'"#,
                "identity token",
            ),
            ("exec sleep 60", "did not answer within"),
            ("sleep 3 & exit 0", "did not answer within"),
            ("exec cat /dev/zero", "signal: 13"),
        ] {
            let error = helped(script).await.unwrap_err();
            assert!(
                error.contains(said) && error.contains("docker login"),
                "{script}: {error}"
            );
            assert!(!error.contains("secret garbage"), "{error}");
        }
    }

    #[test]
    fn the_files_are_those_of_docker_and_podman() {
        let of = |set: &[(&str, &str)]| {
            let var = |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| PathBuf::from(value))
            };
            let files = files(var).into_iter();
            files
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            [
                "/h/.docker/config.json",
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json"
            ]
        );
        assert_eq!(
            of(&[
                ("HOME", "/h"),
                ("DOCKER_CONFIG", "/d"),
                ("REGISTRY_AUTH_FILE", "/a")
            ]),
            ["/d/config.json", "/a"]
        );
        assert_eq!(of(&[]), [""; 0]);
    }

    fn login(user: &str, password: &str) -> Found {
        Ok(Some((user.to_owned(), password.to_owned())))
    }
}
