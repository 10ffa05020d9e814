//! A web server on this machine's loopback, which guests know by names.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::guest::Guest;
use super::world::certificates;
use crate::common::{Place, SOON, node};

/// What the server wants to see before it shows its repository. No guest may see it.
pub(super) const TOKEN: &str = "S3cretToken-9876543210-zyxwvu";

pub(super) struct Server {
    _process: Child,
    dir: tempfile::TempDir,
    ports: Value,
}

impl Server {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (authority, certificate, key) = certificates(&["git.test", "tls.test"]);
        write("authority.pem", &authority);
        write("token", TOKEN);
        let mut process = Command::new(node())
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/integration/network/server.mjs"
            ))
            .arg(write("certificate.pem", &certificate))
            .arg(write("key.pem", &key))
            .arg(dir.path())
            .env("TOKEN", TOKEN)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(SOON, lines.next_line()).await;
        let ports = serde_json::from_str(&line.unwrap().unwrap().unwrap()).unwrap();
        Self {
            _process: process,
            dir,
            ports,
        }
    }

    fn authority(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    /// The repository that is served.
    pub(super) fn repository(&self) -> PathBuf {
        self.dir.path().join("it.git")
    }

    /// A sandbox that knows the server by three names. Only for `git.test` there is a token.
    pub(super) async fn guest(&self, image: &'static str) -> Guest {
        self.guest_with(image, 384, &[]).await
    }

    /// The same with so much memory, and further rules.
    pub(super) async fn guest_with(
        &self,
        image: &'static str,
        memory_mib: u32,
        rules: &[&str],
    ) -> Guest {
        let configuration = format!(
            r#"[network]
allow = {allow:?}
trust_host_ca = true
[network.hosts]
"git.test:443" = "127.0.0.1:{tls}"
"tls.test:443" = "127.0.0.1:{tls}"
"web.test:80" = "127.0.0.1:{plain}"
[network.secrets.GIT_TOKEN]
from = {{ command = "cat {token}" }}
hosts = ["git.test"]
header = "Authorization"
"#,
            allow = [&["git.test", "tls.test", "web.test"], rules].concat(),
            tls = self.ports["tls"],
            plain = self.ports["plain"],
            token = self.dir.path().join("token").display(),
        );
        let trusted = [("SSL_CERT_FILE", self.authority())];
        Guest::start(Place::new(image), memory_mib, &configuration, &trusted).await
    }
}

/// The files below a directory that have this text.
pub(super) fn files_with(text: &str, dir: &Path) -> Vec<String> {
    let output = std::process::Command::new("grep")
        .args(["-r", "-l", "-a", "-F", "-e", text])
        .arg(dir)
        .output()
        .unwrap();
    // 1: there is none.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let found = String::from_utf8(output.stdout).unwrap();
    found.lines().map(str::to_owned).collect()
}
