//! Images from end to end: real registries, layouts and archives made for the tests, real VMs, and a comparison with
//! `umoci unpack`.
mod compare;
mod full;
mod home;
mod layout;
mod registry;
mod soundness;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use home::{Home, tool};
use layout::{Packed, noise};
use registry::{Cutter, Registry, Wish, scripted};
use serde_json::json;

use crate::common::{SOON, lossy};

/// A layout with an image of three layers, each compressed differently.
fn three_layers(home: &Home) -> (String, Vec<String>) {
    let dir = home.path("layout");
    let big = noise(700_000, 1);
    let layers = [
        (layout::busybox(), Packed::Gzip),
        (
            layout::files(&[("data/big", 0o644, &big), ("data/gone", 0o600, b"x")]),
            Packed::Zstd,
        ),
        (
            layout::files(&[
                ("data/.wh.gone", 0, b""),
                ("etc/greeting", 0o640, b"hello\n"),
            ]),
            Packed::Plain,
        ),
    ];
    let run = json!({"Env": ["PATH=/bin", "GREETING=from the image"], "WorkingDir": "/data", "Entrypoint": ["/bin/false"]});
    let digests = layout::write(&dir, &layers, run);
    (format!("oci:{}:latest", dir.display()), digests)
}

const LOOK: &str = "cat /etc/greeting; ls /data; echo $GREETING; pwd";
const SEEN: &str = "hello\nbig\nfrom the image\n/workspace\n";

#[test]
fn what_skopeo_pushed_boots_with_and_without_the_registry() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let registry = Registry::start(&Wish::default());
    registry.fill(&layout, "team/app:1", None);
    let image = format!("{}/team/app:1", registry.host);
    let output = home
        .command(&[
            "-v", "exec", "--rm", "--image", &image, "--root", "--", LOOK,
        ])
        .output()
        .unwrap();
    let said = home::said(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), SEEN, "{said}");
    assert!(
        said.contains(&format!("pulling {image}")) && said.contains("unpacking layer 3 of 3"),
        "{said}"
    );
    assert!(home.works(&["image", "ls"]).contains(&image));
    let known = home.inspect(&image);
    assert_eq!(known["config"]["entrypoint"], json!(["/bin/false"]));
    assert_eq!(known["config"]["workdir"], "/data");
    assert!(
        home.run(&["image", "pull", &image])
            .1
            .contains("is up to date")
    );
    registry.stop();
    assert_eq!(
        home.works(&["exec", "--rm", "--image", &image, "--root", "--", LOOK]),
        SEEN
    );
    // Without a host directory, commands start in the image's working directory.
    let session = home.works(&[
        "exec",
        "--rm",
        "--image",
        &image,
        "--workspace-mode",
        "none",
        "--",
        "echo ok",
    ]);
    assert_eq!(session, "ok\n");
    let said = home.fails(&[
        "exec",
        "--rm",
        "--image",
        &image.replace("app:1", "other"),
        "--",
        "true",
    ]);
    assert!(
        said.contains("reach the registry localhost") && said.contains("boot without a network"),
        "{said}"
    );
}

#[test]
fn our_own_pushes_are_what_others_pull() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let registry = Registry::start(&Wish::default());
    home.works(&["image", "import", "mine", &layout]);
    let to = format!("{}/mine:2", registry.host);
    home.works(&["image", "push", "mine", &to]);
    let there = tool(
        "skopeo",
        &["inspect", "--tls-verify=false", &format!("docker://{to}")],
    );
    assert!(there.contains("GREETING=from the image"), "{there}");
    // Images with the same layers share one disk.
    home.works(&["image", "pull", &to]);
    assert_eq!(home.disk("mine"), home.disk(&to));
    assert_eq!(home.files("disks").len(), 2);
    let archive = home.path("saved.tar").display().to_string();
    home.works(&["image", "save", "mine", &archive]);
    let copied = format!("oci:{}:copied", home.path("copied").display());
    tool(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--quiet",
            &format!("docker-archive:{archive}"),
            &copied,
        ],
    );
    home.works(&[
        "image",
        "import",
        "again",
        &format!("docker-archive:{archive}"),
    ]);
    home.works(&["image", "import", "copied", &copied]);
    assert_eq!(home.disk("mine"), home.disk("again"));
    assert_eq!(home.disk("mine"), home.disk("copied"));
    home.works(&["image", "rm", "again", "copied", "mine", &to]);
    for part in ["names", "disks", "blobs/sha256", "building", "partial"] {
        assert!(
            home.files(part).is_empty(),
            "{part}: {:?}",
            home.files(part)
        );
    }
}

#[test]
fn logins_are_those_of_docker_and_a_wrong_one_is_reported() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let login = Some(("someone", "secret"));
    let registry = Registry::start(&Wish { login, tls: false });
    registry.fill(&layout, "app:1", login);
    let image = format!("{}/app:1", registry.host);
    let said = home.fails(&["image", "pull", &image]);
    assert!(
        said.contains(&format!("docker login {}", registry.host)),
        "{said}"
    );
    let keep = |user_password: &str| {
        use base64::Engine;
        let auth = base64::engine::general_purpose::STANDARD.encode(user_password);
        let config = json!({"auths": {registry.host.as_str(): {"auth": auth}}});
        std::fs::write(home.path("docker/config.json"), config.to_string()).unwrap();
    };
    keep("someone:wrong");
    let said = home.fails(&["image", "pull", &image]);
    assert!(said.contains("does not let the user"), "{said}");
    keep("someone:secret");
    home.works(&["image", "pull", &image]);
    home.works(&[
        "image",
        "push",
        &image,
        &format!("{}/pushed:1", registry.host),
    ]);
    home.works(&["image", "rm", &image]);
    // The credential helper is called with the registry's name.
    let helper = home.path("bin/docker-credential-test");
    let script = format!(
        "#!/bin/sh\nread host\n[ \"$1 $host\" = 'get {}' ] || exit 1\necho '{{\"Username\":\"someone\",\"Secret\":\"secret\"}}'\n",
        registry.host
    );
    crate::common::executable(&helper, &script);
    std::fs::write(home.path("docker/config.json"), r#"{"credsStore": "test"}"#).unwrap();
    home.works(&["image", "pull", &image]);
    crate::common::executable(
        &helper,
        "#!/bin/sh\nread host\necho 'the safe is locked' >&2; exit 1\n",
    );
    let said = home.fails(&["image", "pull", &image]);
    assert!(
        said.contains("docker-credential-test failed: the safe is locked"),
        "{said}"
    );
    std::fs::remove_file(&helper).unwrap();
    let said = home.fails(&["image", "pull", &image]);
    assert!(
        said.contains("docker-credential-test, which") && said.contains("is not installed"),
        "{said}"
    );
    // Public images need no login.
    let public = Registry::start(&Wish::default());
    public.fill(&layout, "app:1", None);
    let image = format!("{}/app:1", public.host);
    for (config, why) in [
        (r#"{"credsStore": "test"}"#, "is not installed"),
        (r#"{"auths": {"#, "is no credentials file of Docker"),
    ] {
        std::fs::write(home.path("docker/config.json"), config).unwrap();
        let (code, said) = home.run(&["image", "pull", &image]);
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains("going on without a login") && said.contains(why),
            "{said}"
        );
        home.works(&["image", "rm", &image]);
    }
}

#[test]
fn tls_is_trusted_only_with_a_known_authority() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let registry = Registry::start(&Wish {
        tls: true,
        login: None,
    });
    registry.fill(&layout, "app:1", None);
    let image = format!("{}/app:1", registry.host);
    home.configure(&format!("[registries.'{}']\nhttp = false\n", registry.host));
    let said = home.fails(&["image", "pull", &image]);
    assert!(
        said.contains("trust the registry") && said.contains("ca = \"/path/to/ca.pem\""),
        "{said}"
    );
    home.configure(&format!(
        "[registries.'{}']\nca = '{}'\n",
        registry.host,
        registry.ca().display()
    ));
    home.works(&["image", "pull", &image]);
    let plain = Registry::start(&Wish::default());
    home.configure(&format!("[registries.'{}']\nhttp = false\n", plain.host));
    let said = home.fails(&["image", "pull", &format!("{}/app:1", plain.host)]);
    assert!(said.contains("http = true"), "{said}");
}

#[test]
fn an_interrupted_download_is_resumed() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let registry = Registry::start(&Wish::default());
    registry.fill(&layout, "app:1", None);
    let cutter = Cutter::before(&registry, 300_000);
    home.works(&["image", "pull", &format!("{}/app:1", cutter.host)]);
    let (bytes, cuts) = (
        cutter.bytes.load(Ordering::SeqCst),
        cutter.cuts.load(Ordering::SeqCst),
    );
    let whole: u64 = home.inspect(&format!("{}/app:1", cutter.host))["layer_bytes"]
        .as_u64()
        .unwrap();
    // After an interruption at most one piece is sent again.
    assert!(
        cuts >= 4 && bytes < whole + cuts * 40_000,
        "{cuts} cuts, {bytes} bytes for {whole}"
    );
    assert!(home.files("partial").is_empty());
}

#[test]
fn a_wrong_blob_is_never_stored_and_is_fetched_from_another_host() {
    let home = Home::new();
    let (layout, digests) = three_layers(&home);
    let (wrong, right) = (
        Registry::start(&Wish::default()),
        Registry::start(&Wish::default()),
    );
    for registry in [&wrong, &right] {
        registry.fill(&layout, "app:1", None);
    }
    let path = wrong.blob(&digests[1]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[300_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let said = home.fails(&["image", "pull", &format!("{}/app:1", wrong.host)]);
    assert!(
        said.contains(&digests[1]) && said.contains("its content has the digest sha256:"),
        "{said}"
    );
    assert!(
        !home
            .files("blobs/sha256")
            .contains(&digests[1][7..].to_owned())
    );
    assert!(home.files("names").is_empty() && home.files("disks").is_empty());
    // A blob that ends early.
    std::fs::write(&path, &bytes[..200_000]).unwrap();
    home.fails(&["image", "pull", &format!("{}/app:1", wrong.host)]);
    assert!(
        !home
            .files("blobs/sha256")
            .contains(&digests[1][7..].to_owned())
    );
    // The wrong registry is a mirror of the right one; the first mirror does not exist.
    home.configure(&format!(
        "[registries.'{}']\nmirrors = ['localhost:1', '{}']\n",
        right.host, wrong.host
    ));
    home.works(&["image", "pull", &format!("{}/app:1", right.host)]);
    assert!(
        home.files("blobs/sha256")
            .contains(&digests[1][7..].to_owned())
    );
}

#[test]
fn bearer_tokens_are_fetched_and_limits_explained() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let blobs = home.path("layout/blobs/sha256");
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.path("layout/index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let failures = Arc::new(AtomicUsize::new(0));
    let failed = failures.clone();
    let host = scripted(move |asked, me| {
        if asked.path.starts_with("/token?") {
            assert!(
                asked.path.contains("app%3Apull") && asked.path.contains("service=here"),
                "{}",
                asked.path
            );
            return (200, String::new(), b"{\"token\": \"sesame\"}".to_vec());
        }
        if asked.path.contains("/limited/") {
            let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]});
            return (
                429,
                "Content-Type: application/json\r\n".into(),
                body.to_string().into_bytes(),
            );
        }
        if !asked.headers.contains("authorization: bearer sesame") {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{me}/token\",service=\"here\"\r\n"
            );
            return (401, challenge, b"{}".to_vec());
        }
        // The first two answers about a blob are temporary server errors.
        if asked.path.contains("/blobs/") && failed.fetch_add(1, Ordering::SeqCst) < 2 {
            return (503, String::new(), b"not now".to_vec());
        }
        let digest = asked.path.rsplit('/').next().unwrap_or_default().to_owned();
        let digest = if digest == "latest" {
            manifest.clone()
        } else {
            digest
        };
        match std::fs::read(blobs.join(digest.trim_start_matches("sha256:"))) {
            Ok(bytes) => (
                200,
                "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n".into(),
                bytes,
            ),
            Err(_) => (404, String::new(), Vec::new()),
        }
    });
    let (code, said) = home.run(&["-v", "image", "pull", &format!("{host}/app")]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("trying again to get") && said.contains("503"),
        "{said}"
    );
    let said = home.fails(&["image", "pull", &format!("{host}/limited/app")]);
    assert!(
        said.contains("limits how often one may pull")
            && said.contains("reached your pull rate limit")
            && said.contains("mirrors"),
        "{said}"
    );
    let _ = layout;
}

#[test]
fn several_processes_get_an_image_that_is_made_once() {
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let registry = Registry::start(&Wish::default());
    registry.fill(&layout, "app:1", None);
    registry.fill(&layout, "same:1", None);
    let images =
        ["app:1", "app:1", "same:1", "app:1"].map(|image| format!("{}/{image}", registry.host));
    let children: Vec<_> = images
        .iter()
        .map(|image| {
            home.command(&["-v", "image", "pull", image])
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let said: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", home::said(&output));
            home::said(&output)
        })
        .collect();
    assert_eq!(
        said.iter()
            .filter(|said| said.contains("unpacking layer 1"))
            .count(),
        1,
        "{said:?}"
    );
    assert_eq!(
        (home.files("disks").len(), home.files("names").len()),
        (2, 2)
    );
}

#[test]
fn the_images_own_user_runs_commands_and_owns_the_workspace() {
    let home = Home::new();
    let passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1234:55::/srv:/bin/sh\n";
    let layers = vec![
        (layout::busybox(), Packed::Gzip),
        (
            layout::files(&[("etc/passwd", 0o644, passwd)]),
            Packed::Gzip,
        ),
    ];
    for (n, (user, expected)) in [
        ("app", "uid=1234(app) gid=55"),
        ("4321:7", "uid=4321(sandbox) gid=7"),
        ("root", "uid=1000(sandbox) gid=1000"),
    ]
    .iter()
    .enumerate()
    {
        let dir = home.path(format!("layout-{n}"));
        layout::write(&dir, &layers, json!({"Env": ["PATH=/bin"], "User": user}));
        let image = format!("oci:{}", dir.display());
        let line = format!("id; touch made-{n} && stat -c %u made-{n}");
        let out = home.works(&["exec", "--rm", "--image", &image, "--", &line]);
        assert!(out.starts_with(expected), "{user}: {out}");
        assert!(home.path(format!("workspace/made-{n}")).exists());
        let root = home.works(&["exec", "--rm", "--image", &image, "--root", "--", "id"]);
        assert!(root.starts_with("uid=0(root)"), "{root}");
    }
    assert_eq!(home.files("disks").len(), 2, "one disk for all three");
}

#[test]
fn a_userland_of_musl_runs() {
    let home = Home::new();
    let root = home.path("root");
    for dir in ["lib", "bin"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy(
        "/lib/ld-musl-x86_64.so.1",
        root.join("lib/ld-musl-x86_64.so.1"),
    )
    .expect("Debian's package musl: run .ci/setup");
    let source = home.path("hello.c");
    std::fs::write(&source, "#include <stdio.h>\n#include <pwd.h>\n#include <unistd.h>\nint main(int n, char **a) {\n\
        printf(\"musl says %s to %d\\n\", n > 1 ? a[1] : \"nothing\", (int) getuid()); return 7; }\n").unwrap();
    tool(
        "musl-gcc",
        &[
            "-O1",
            "-o",
            root.join("bin/hello").to_str().unwrap(),
            source.to_str().unwrap(),
        ],
    );
    let archive = home.path("root.tar").display().to_string();
    tool("tar", &["-cf", &archive, "-C", root.to_str().unwrap(), "."]);
    let image = format!("tar:{archive}");
    let (code, said) = home.run(&[
        "exec",
        "--rm",
        "--image",
        &image,
        "--",
        "/bin/hello",
        "good morning",
    ]);
    assert!(
        code == 7 && said.contains("musl says good morning to 1000"),
        "{code} {said}"
    );
    // The image has no shell, and the error says so.
    let said = home.fails(&["exec", "--rm", "--image", &image, "--", "echo hi"]);
    assert!(said.contains("/bin/sh"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_empty_image_can_be_read_and_written() {
    let home = Home::new();
    let dir = home.path("layout");
    layout::write(&dir, &[], json!({}));
    let image = format!("oci:{}", dir.display());
    let mut command =
        tokio::process::Command::from(home.command(&["serve", "--rm", "--image", &image]));
    command
        .kill_on_drop(true)
        .stdin(std::process::Stdio::piped());
    let session = crate::common::Session::over(command).await;
    session
        .call(
            "write",
            json!({"path": "/tmp/note", "content": "from outside\n"}),
        )
        .await;
    let read = session.call("read", json!({"path": "/tmp/note"})).await;
    assert!(read.to_string().contains("from outside"), "{read}");
    let error = session.error("exec", json!({"command": "ls"})).await;
    assert!(
        error.contains("/bin/sh") && error.contains("image"),
        "{error}"
    );
    session.close().await;
}

/// A client that collects progress notifications.
#[derive(Clone, Debug, Default)]
struct Told(Arc<std::sync::Mutex<Vec<String>>>);

impl rmcp::ClientHandler for Told {
    async fn on_progress(
        &self,
        told: rmcp::model::ProgressNotificationParam,
        _context: rmcp::service::NotificationContext<rmcp::RoleClient>,
    ) {
        self.0.lock().unwrap().extend(told.message);
    }
}

impl Told {
    fn any(&self, steps: &[&str]) -> bool {
        let told = self.0.lock().unwrap();
        told.iter()
            .any(|told| steps.iter().any(|step| told.contains(step)))
    }
}

/// A proxy for a registry that has a blob only when the condition holds, and soon all the same. Its host.
fn waits(registry: &Registry, holds: impl Fn() -> bool + Clone + Send + 'static) -> String {
    let ask = move |request: &[u8]| {
        let began = Instant::now();
        while lossy(request).contains("/blobs/") && !holds() && began.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    registry::proxy(registry, ask, || |_: &[u8]| true)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_pulls_and_the_client_is_told() {
    use rmcp::ServiceExt;
    let home = Home::new();
    let (layout, _) = three_layers(&home);
    let registry = Registry::start(&Wish::default());
    registry.fill(&layout, "app:1", None);
    let told = Told::default();
    let pull_is_told = {
        let told = told.clone();
        move || told.any(&["asking", "pulling"])
    };
    let image = format!("{}/app:1", waits(&registry, pull_is_told));
    let mut command =
        tokio::process::Command::from(home.command(&["serve", "--rm", "--image", &image]));
    command.kill_on_drop(true);
    let process = rmcp::transport::TokioChildProcess::new(command).unwrap();
    let client = told.clone().serve(process).await.unwrap();
    let arguments = json!({"command": "cat /etc/greeting", "user": "root"});
    let call = rmcp::model::CallToolRequestParams::new("exec")
        .with_arguments(arguments.as_object().cloned().unwrap());
    let result = client.call_tool(call).await.unwrap();
    assert!(crate::common::text(&result).contains("hello"), "{result:?}");
    assert!(told.any(&["asking", "pulling"]), "{told:?}");
    assert!(told.any(&["starting", "booting"]), "{told:?}");
    let _ = client.cancel().await;
}

#[test]
fn hostile_layers_end_in_errors_that_say_why() {
    let home = Home::new();
    let raw = |name: &str, kind: tar::EntryType, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        if !link.is_empty() {
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        [header.as_bytes().to_vec(), vec![0; 1024]].concat()
    };
    let cases = [
        (
            raw("../../etc/evil", tar::EntryType::Regular, ""),
            "climbs out of the root",
        ),
        (
            raw("hard", tar::EntryType::Link, "../../init"),
            "climbs out of the root",
        ),
        (layout::busybox()[..100_000].to_vec(), "stream ended after"),
        (noise(100_000, 3), "no tar archive"),
    ];
    for (n, (tar, expected)) in cases.into_iter().enumerate() {
        let dir = home.path(format!("layout-{n}"));
        layout::write(&dir, &[(tar, Packed::Gzip)], json!({}));
        let said = home.fails(&["image", "import", "evil", &format!("oci:{}", dir.display())]);
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(
            home.files("names").is_empty()
                && home.files("disks").is_empty()
                && home.files("building").is_empty()
        );
    }
    // Links that point outside the root are resolved inside it.
    let mut builder = tar::Builder::new(Vec::new());
    for (link, target) in [("out", "/../../../etc"), ("self", "/proc/1/root")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, link, target).unwrap();
    }
    let links = builder.into_inner().unwrap();
    let through = layout::files(&[("out/planted", 0o644, b"x")]);
    layout::write(
        &home.path("links"),
        &[
            (layout::busybox(), Packed::Plain),
            (links, Packed::Plain),
            (through, Packed::Plain),
        ],
        json!({"Env": ["PATH=/bin"]}),
    );
    let said = home
        .run(&[
            "exec",
            "--rm",
            "--image",
            &format!("oci:{}", home.path("links").display()),
            "--",
            "cat /etc/planted",
        ])
        .1;
    assert!(
        said.contains('x') || said.contains("no directory"),
        "{said}"
    );
    assert!(!std::path::Path::new("/etc/planted").exists());
}
