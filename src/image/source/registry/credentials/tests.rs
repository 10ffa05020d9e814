use super::*;
use crate::files::tests::executable;
use crate::presence::tests::UNREADABLE;
use std::fs;

const HOST: &str = "registry.example";

async fn kept(config: &str) -> Found {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(&path, config).unwrap();
    in_file(&path, HOST, Duration::from_millis(500)).await
}

/// The result of a helper that is this shell script.
async fn helped(script: &str) -> Found {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("docker-credential-test");
    executable(&program, &format!("#!/bin/sh\n{script}\n"));
    let program = program.to_str().unwrap();
    ask_helper(
        program,
        HOST,
        Path::new("config.json"),
        HOST,
        Duration::from_millis(500),
    )
    .await
}

#[tokio::test]
async fn logins_are_found_and_other_files_are_refused() {
    use base64::Engine;
    let auth = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let with = |auth: &str| format!(r#"{{"auths": {{"{HOST}": {{"auth": "{auth}"}}}}}}"#);
    assert_eq!(
        kept(&with(&auth("user:pass:word"))).await,
        credentials("user", "pass:word")
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
            "is no credentials file of Docker",
        ),
        ("[]".to_owned(), "no JSON object"),
        (
            r#"{"auths": []}"#.to_owned(),
            "is no credentials file of Docker",
        ),
        (with("!!"), "can't be decoded"),
        (with(&auth("without a colon")), "can't be decoded"),
        (
            format!(r#"{{"auths": {{"{HOST}": {{"identitytoken": "x"}}}}}}"#),
            "identity token",
        ),
        (
            r#"{"credsStore": "not-installed"}"#.to_owned(),
            "docker-credential-not-installed, which",
        ),
        (
            format!(r#"{{"credHelpers": {{"{HOST}": "not-installed"}}}}"#),
            "is not installed",
        ),
    ] {
        let error = kept(&config).await.unwrap_err();
        assert!(
            error.contains(said) && error.contains("docker login registry.example"),
            "{config}: {error}"
        );
    }
    // A helper of another registry is ignored.
    let other = format!(
        r#"{{"credHelpers": {{"other": "not-installed"}}, "auths": {{"{HOST}": {{"auth": "{}"}}}}}}"#,
        auth("a:b")
    );
    assert_eq!(kept(&other).await, credentials("a", "b"));
    for (how, make) in UNREADABLE {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        make(&path);
        let error = in_file(&path, HOST, HELPER_TIMEOUT).await.unwrap_err();
        assert!(error.contains("can't be read"), "{how}: {error}");
    }
}

#[tokio::test]
async fn a_helper_may_do_anything_but_run_forever() {
    let answer = r#"echo '{"Username":"user","Secret":"secret"}'"#;
    let asks = format!("read server\n[ \"$1 $server\" = 'get {HOST}' ] || exit 1\n{answer}");
    assert_eq!(helped(&asks).await, credentials("user", "secret"));
    assert_eq!(
        helped(answer).await,
        credentials("user", "secret"),
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
        ("echo secret garbage", "did not answer with a login"),
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

fn credentials(user: &str, password: &str) -> Found {
    Ok(Some((user.to_owned(), password.to_owned())))
}
