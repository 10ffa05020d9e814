//! Registries on the loopback: Debian's docker-registry, and one with scripted answers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::home::tool;

/// A registry's settings.
#[derive(Default)]
pub(crate) struct Wish {
    /// USER:PASSWORD, if the registry needs a login.
    pub(crate) login: Option<(&'static str, &'static str)>,
    pub(crate) tls: bool,
}

pub(crate) struct Registry {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) host: String,
    child: Child,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Registry {
    pub(crate) fn start(wish: &Wish) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let host = format!("localhost:{}", free_port());
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {host}\n",
            path("data")
        );
        if wish.tls {
            certify(dir.path());
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                path("leaf.pem"),
                path("leaf.key")
            );
        }
        if let Some((user, password)) = wish.login {
            std::fs::write(
                path("htpasswd"),
                tool("htpasswd", &["-Bbn", user, password]),
            )
            .unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                path("htpasswd")
            );
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed: run .ci/setup");
        let registry = Self { dir, host, child };
        for _ in 0..600 {
            if TcpStream::connect(&registry.host).is_ok() {
                return registry;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen at {}", registry.host);
    }

    /// Copies an image from an OCI layout into the registry.
    pub(crate) fn fill(&self, layout: &str, image: &str, login: Option<(&str, &str)>) {
        let to = format!("docker://{}/{image}", self.host);
        let credentials = login.map(|(user, password)| format!("--dest-creds={user}:{password}"));
        let mut arguments = vec![
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ];
        arguments.extend(credentials.as_deref());
        arguments.extend([layout, &to]);
        tool("skopeo", &arguments);
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The registry's file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.dir.path().join(format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        ))
    }

    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

/// A certificate for localhost and the CA that signed it.
fn certify(dir: &Path) {
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(
        dir.join("ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n",
    )
    .unwrap();
    let key = ["-newkey", "rsa:2048", "-nodes"];
    let (ca_key, ca, leaf_key, request) = (
        path("ca.key"),
        path("ca.pem"),
        path("leaf.key"),
        path("leaf.csr"),
    );
    tool(
        "openssl",
        &[
            &[
                "req", "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", &ca_key, "-out", &ca,
            ][..],
            &key,
        ]
        .concat(),
    );
    tool(
        "openssl",
        &[
            &[
                "req",
                "-subj",
                "/CN=localhost",
                "-keyout",
                &leaf_key,
                "-out",
                &request,
            ][..],
            &key,
        ]
        .concat(),
    );
    let (extensions, leaf) = (path("ext"), path("leaf.pem"));
    tool(
        "openssl",
        &[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &extensions,
            "-out",
            &leaf,
        ],
    );
}

/// A proxy for a registry, its host. `ask` sees what a client sends before the registry does. Every connection has a
/// `pass` of its own: it sees what the registry answers, and cuts the connection by saying no.
pub(crate) fn proxy<Pass>(
    registry: &Registry,
    ask: impl Fn(&[u8]) + Clone + Send + 'static,
    pass: impl Fn() -> Pass + Send + 'static,
) -> String
where
    Pass: FnMut(&[u8]) -> bool + Send + 'static,
{
    fn copy(mut from: &TcpStream, mut to: &TcpStream, mut sees: impl FnMut(&[u8]) -> bool) {
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if !sees(&buffer[..n]) || to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("localhost:{}", listener.local_addr().unwrap().port());
    let to = registry.host.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&to).unwrap();
            let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (ask, pass) = (ask.clone(), pass());
            std::thread::spawn(move || {
                copy(&ends.0, &ends.1, |request| {
                    ask(request);
                    true
                });
                let _ = ends.1.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                copy(&server, &client, pass);
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    host
}

/// A proxy for a registry that cuts each connection after a number of answer bytes.
pub(crate) struct Cutter {
    pub(crate) host: String,
    pub(crate) bytes: Arc<AtomicU64>,
    pub(crate) cuts: Arc<AtomicU64>,
}

impl Cutter {
    pub(crate) fn before(registry: &Registry, after: u64) -> Self {
        let (bytes, cuts) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (counted, cut) = (bytes.clone(), cuts.clone());
        let host = proxy(
            registry,
            |_| (),
            move || {
                let (counted, cut, mut left) = (counted.clone(), cut.clone(), after);
                move |answer| {
                    let Some(rest) = left.checked_sub(answer.len() as u64) else {
                        cut.fetch_add(1, Ordering::SeqCst);
                        return false;
                    };
                    left = rest;
                    counted.fetch_add(answer.len() as u64, Ordering::SeqCst);
                    true
                }
            },
        );
        Self { host, bytes, cuts }
    }
}

/// A request: its path with the query, and its headers in lowercase.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: String,
}

/// A registry with scripted answers: a status, headers, a body.
pub(crate) fn scripted(
    answer: impl Fn(&Asked, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (answer, me) = (Arc::new(answer), host.clone());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (answer, me) = (answer.clone(), me.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let Some((first, headers)) = head.split_once("\r\n") else {
                    return;
                };
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let asked = Asked {
                    path,
                    headers: headers.to_lowercase(),
                };
                let (status, headers, body) = answer(&asked, &me);
                let head = format!(
                    "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
                    body.len()
                );
                let _ = stream
                    .write_all(head.as_bytes())
                    .and_then(|()| stream.write_all(&body));
            });
        }
    });
    host
}
