//! Programs as guests have them.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use super::*;

async fn run(program: &mut Command) -> Output {
    timeout(Duration::from_secs(60), program.kill_on_drop(true).output())
        .await
        .unwrap()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_both_versions() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let to = format!("{HOST}:{}:127.0.0.1", world.address.port());
    let curl = |version: &str| {
        let mut curl = Command::new("curl");
        curl.env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .args([
                "-sS",
                "-v",
                version,
                "--noproxy",
                "*",
                "--resolve",
                &to,
                "--cacert",
            ])
            .arg(world.ca());
        curl.args(["-H", &format!("Authorization: Bearer {}", world.holder)]);
        curl
    };
    for (version, expected) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let said = text(&run(curl(version).arg(world.url("/echo"))).await);
        assert!(
            said.contains(expected) && said.contains(&world.holder) && !said.contains("S3cret"),
            "{said}"
        );
        let file = world.dir.path().join("large");
        std::fs::write(&file, vec![7; 3 << 20]).unwrap();
        let said = text(&run(curl(version).arg("-T").arg(&file).arg(world.url("/upload"))).await);
        assert!(said.contains("3145728 bytes"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_accepts_the_certificate() {
    let world = World::new(Upstream::Both, Setup::default()).await;
    let script = r#"
import http.client, socket, ssl, sys
port, ca, holder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=ca)
context.verify_flags |= ssl.VERIFY_X509_STRICT
class There(http.client.HTTPSConnection):
    def connect(self):
        self.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=self.host)
there = There("api.example", port, context=context)
for path in ["/stream", "/echo"]:
    there.request("GET", path, headers={"Authorization": "Bearer " + holder})
    print(there.getresponse().read().decode())
"#;
    let mut python = Command::new("python3");
    python
        .args(["-c", script, &world.address.port().to_string()])
        .arg(world.ca())
        .arg(&world.holder);
    let said = text(&run(&mut python).await);
    assert_eq!(said.matches(&world.holder).count(), 5, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones_and_pushes_with_a_token_that_it_does_not_have() {
    let served = tempfile::tempdir().unwrap();
    let git = |dir: &Path| {
        let mut git = Command::new("git");
        git.current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0");
        git.args(["-c", "user.name=me", "-c", "user.email=me@example.org"]);
        git
    };
    assert!(
        run(git(served.path()).args(["init", "-q", "--bare", "-b", "main", "it.git"]))
            .await
            .status
            .success()
    );
    let world = World::new(Upstream::Git(served.path().to_owned()), Setup::default()).await;
    let port = world.address.port();
    let url = format!("https://me:{}@{HOST}:{port}/it.git", world.holder);
    let guest = |dir: &Path| {
        let mut guest = git(dir);
        guest
            .env("GIT_CURL_VERBOSE", "1")
            .env("no_proxy", "*")
            .env("GIT_SSL_CAINFO", world.ca());
        guest
            .arg("-c")
            .arg(format!("http.curloptResolve={HOST}:{port}:127.0.0.1"));
        guest
    };
    let work = world.dir.path();
    let said = text(&run(guest(work).args(["clone", "-q", &url, "copy"])).await);
    assert!(work.join("copy/.git").is_dir(), "{said}");
    let copy = work.join("copy");
    std::fs::write(copy.join("file"), vec![b'x'; 2 << 20]).unwrap();
    for words in [&["add", "."][..], &["commit", "-q", "-m", "one"]] {
        assert!(run(git(&copy).args(words)).await.status.success());
    }
    let pushed = run(guest(&copy).args(["push", "-q", "origin", "HEAD:main"])).await;
    assert!(pushed.status.success(), "{}", text(&pushed));
    let cloned = run(guest(work).args(["clone", "-q", &url, "again"])).await;
    assert_eq!(
        std::fs::read(work.join("again/file")).unwrap().len(),
        2 << 20
    );
    for output in [&pushed, &cloned] {
        assert!(!text(output).contains("S3cret"));
    }
    let wrong =
        run(guest(work).args(["clone", "-q", &url.replace("snowglobe", "other"), "wrong"])).await;
    assert!(!wrong.status.success());
}
