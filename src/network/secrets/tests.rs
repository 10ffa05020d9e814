use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use tempfile::TempDir;

use super::held::{MAX_USES, REFUSED};
use super::*;

const VALUE: &str = "ghp_0123456789abcdef";

pub(crate) fn secret(name: &str, hosts: &[&str]) -> Secret {
    Secret {
        name: name.to_owned(),
        from: KeySource::Variable(name.to_owned()),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        header: "Authorization".to_owned(),
    }
}

fn secrets(all: Vec<Secret>) -> (TempDir, Secrets) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path()).unwrap();
    let environment = |name: &str| (name != "MISSING").then(|| VALUE.to_owned());
    let secrets = Secrets::new(all, &authority, Arc::new(environment)).unwrap();
    (dir, secrets)
}

async fn put(secrets: &Secrets, to: &str, header: &str) -> (usize, String) {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, header.parse().unwrap());
    headers.insert("x-other", header.parse().unwrap());
    let asked = Asked {
        method: "GET",
        secure: true,
        path: "/data",
    };
    let used = secrets
        .put_in(&Host::parse(to).unwrap(), 443, &asked, &mut headers)
        .await
        .unwrap();
    assert_eq!(headers["x-other"], header);
    (
        used.names().count(),
        headers[AUTHORIZATION].to_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn a_value_goes_into_its_header_for_its_hosts_only() {
    let (_dir, secrets) = secrets(vec![secret(
        "TOKEN",
        &[
            "api.example",
            "*.git.example",
            "GET https://part.example/data",
        ],
    )]);
    let (name, holder) = secrets
        .variables()
        .next()
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert!(
        name == "TOKEN" && holder.starts_with("snowglobe-secret-TOKEN-") && holder.len() == 23 + 16
    );
    assert!(secrets.patterns().is_none());
    let bearer = format!("Bearer {holder}");
    for (to, expected) in [
        ("api.example", 1),
        ("a.git.example", 1),
        ("part.example", 1),
        ("git.example", 0),
        ("evil.example", 0),
    ] {
        let (count, sent) = put(&secrets, to, &bearer).await;
        assert_eq!(count, expected, "{to}");
        assert_eq!(sent == format!("Bearer {VALUE}"), expected == 1, "{to}");
        assert_eq!(sent == bearer, expected == 0, "{to}");
    }
    assert!(secrets.are_for(&Host::parse("api.example").unwrap(), 443));
    assert!(!secrets.are_for(&Host::parse("evil.example").unwrap(), 443));
    let hidden = secrets
        .patterns()
        .unwrap()
        .hidden(VALUE.as_bytes(), mask::Fit::Exact);
    assert_eq!(hidden.unwrap(), holder.as_bytes());
    let (count, sent) = put(&secrets, "api.example", "Bearer mine").await;
    assert_eq!((count, sent.as_str()), (0, "Bearer mine"));
    assert!(!format!("{secrets:?}").contains("ghp_"));
}

#[tokio::test]
async fn basic_authentication_is_encoded_anew() {
    let (_dir, secrets) = secrets(vec![secret("TOKEN", &["api.example"])]);
    let holder = secrets.variables().next().unwrap().1.to_owned();
    for (pair, expected) in [
        (format!("git:{holder}"), format!("git:{VALUE}")),
        (format!("{holder}:"), format!("{VALUE}:")),
        (
            format!("{holder}:x-oauth-basic"),
            format!("{VALUE}:x-oauth-basic"),
        ),
    ] {
        for header in [
            format!("Basic {}", STANDARD.encode(&pair)),
            format!("basic {}", STANDARD.encode(&pair).trim_end_matches('=')),
        ] {
            let (count, sent) = put(&secrets, "api.example", &header).await;
            assert_eq!(
                (count, sent),
                (1, format!("Basic {}", STANDARD.encode(&expected))),
                "{pair}"
            );
        }
    }
    let many = format!("Bearer {}", holder.repeat(100));
    let (_, sent) = put(&secrets, "api.example", &many).await;
    assert_eq!(sent.matches(VALUE).count(), MAX_USES);
}

#[tokio::test]
async fn a_value_that_can_not_be_read_is_an_error_without_it() {
    let (_dir, secrets) = secrets(vec![secret("MISSING", &["api.example"])]);
    let holder = secrets.variables().next().unwrap().1.to_owned();
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, holder.parse().unwrap());
    let asked = Asked {
        method: "GET",
        secure: true,
        path: "/",
    };
    let host = Host::parse("api.example").unwrap();
    let error = secrets
        .put_in(&host, 443, &asked, &mut headers)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "read the secret MISSING: there is no key; set MISSING"
    );
    assert_eq!(headers[AUTHORIZATION], holder);
}

#[tokio::test(start_paused = true)]
async fn a_refused_value_of_a_file_is_read_anew_and_the_former_one_stays_hidden() {
    use std::os::unix::fs::PermissionsExt;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("token");
    let write = |value: &str| {
        std::fs::write(&path, value).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("first-value");
    let mut of_file = secret("TOKEN", &["api.example"]);
    of_file.from = KeySource::File(path.clone());
    let (_dir, secrets) = secrets(vec![of_file]);
    let holder = secrets.variables().next().unwrap().1.to_owned();
    let sent = || put(&secrets, "api.example", &holder);
    assert_eq!(sent().await.1, "first-value");
    write("second-value");
    let used = Used(vec![secrets.all[0].clone()]);
    used.refused().await;
    assert_eq!(sent().await.1, "first-value");
    secrets.all[0].reading.lock().await.read = Instant::now().checked_sub(REFUSED);
    used.refused().await;
    assert_eq!(sent().await.1, "second-value");
    let patterns = secrets.patterns().unwrap();
    for value in ["first-value", "second-value"] {
        assert!(
            patterns
                .hidden(value.as_bytes(), mask::Fit::Exact)
                .is_some()
        );
    }
}

#[test]
fn wrong_definitions_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path()).unwrap();
    let good = secret("TOKEN", &["api.example"]);
    for (wrong, expected) in [
        (
            Secret {
                name: "A-B".into(),
                ..good.clone()
            },
            "environment variable",
        ),
        (
            Secret {
                name: "1A".into(),
                ..good.clone()
            },
            "environment variable",
        ),
        (
            Secret {
                header: "Host".into(),
                ..good.clone()
            },
            "no header that can hold",
        ),
        (
            Secret {
                header: "a b".into(),
                ..good.clone()
            },
            "no header that can hold",
        ),
        (
            Secret {
                hosts: vec![],
                ..good.clone()
            },
            "has no `hosts`",
        ),
        (
            Secret {
                hosts: vec!["ex*mple.org".into()],
                ..good
            },
            "define the secret TOKEN",
        ),
    ] {
        let error = Secrets::new(vec![wrong], &authority, Arc::new(|_: &str| None))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
