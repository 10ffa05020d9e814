//! A world of a test's own: a network namespace with servers, a resolver, addresses that a guest must not reach, and
//! traps behind them.

use std::path::PathBuf;
use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::common::{Place, SOON, Session, node};

/// The ports of the servers, and those of the traps, which record every connection.
pub(super) const TLS: u16 = 8443;
pub(super) const PLAIN: u16 = 8081;
pub(super) const ECHO: u16 = 8007;
pub(super) const FLOOD: u16 = 8009;
const TRAPS: [u16; 9] = [7, 22, 25, 53, 80, 443, 853, 3128, 8080];

/// Addresses that only this world has: private, of a cloud's metadata, public.
const ADDRESSES: [&str; 5] = [
    "10.1.2.3/32",
    "169.254.169.254/32",
    "192.0.2.80/32",
    "100.64.0.1/32",
    "fd00:ec2::254/128",
];

pub(super) struct World {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    authority: PathBuf,
}

impl World {
    /// Starts it. Its servers have certificates for these names.
    pub(super) async fn start(place: &Place, names: &[&str]) -> Self {
        let dir = place.dir.path().join("world");
        std::fs::create_dir(&dir).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (authority, certificate, key) = certificates(names);
        let authority = write("authority.pem", &authority);
        let certificate = write("certificate.pem", &certificate);
        let key = write("key.pem", &key);
        let resolver = write("resolv.conf", "nameserver 127.0.0.1\noptions attempts:1\n");
        let addresses: String = ADDRESSES
            .iter()
            .map(|address| format!("ip address add {address} dev lo\n"))
            .collect();
        let script = format!(
            "set -e\nip link set lo up\n{addresses}mount --bind {} /etc/resolv.conf\nexec \"$@\"",
            resolver.display()
        );
        let ports =
            json!({"tls": TLS, "plain": PLAIN, "echo": ECHO, "flood": FLOOD, "traps": TRAPS});
        let mut process = Command::new("unshare");
        process
            .args(["--net", "--mount", "sh", "-c", &script, "sh"])
            .arg(node())
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/integration/network/world.mjs"
            ))
            .arg(ports.to_string())
            .args([&certificate, &key]);
        let mut process = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("unshare runs, which takes root");
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut world = Self {
            process,
            input,
            output,
            authority,
        };
        assert_eq!(world.line().await, "ready");
        world
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(SOON, self.output.next_line()).await;
        line.expect("the world answers")
            .unwrap()
            .expect("the world goes on")
    }

    /// What was seen from the start: who was trapped, which names were asked for, which requests came.
    pub(super) async fn seen(&mut self) -> Value {
        self.input.write_all(b"\n").await.unwrap();
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// The program with the place's settings, in this world.
    pub(super) fn command(&self, place: &Place, arguments: &[&str]) -> Command {
        let program = place.command(arguments);
        let program = program.as_std();
        let mut command = Command::new("nsenter");
        command
            .args([
                "--net",
                "--mount",
                "--target",
                &self.process.id().unwrap().to_string(),
            ])
            .arg(format!("--wdns={}", place.workspace.display()))
            .arg("--")
            .arg(program.get_program())
            .args(program.get_args())
            .env_clear()
            .envs(
                program
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("XDG_CONFIG_HOME", place.dir.path().join("config"))
            .env("SSL_CERT_FILE", &self.authority)
            .kill_on_drop(true);
        command
    }

    /// A server with a sandbox of its own, in this world.
    pub(super) async fn serve(&self, place: &Place, variables: &[(&str, &str)]) -> Session {
        let mut command = self.command(place, &["serve", "--rm"]);
        command.envs(variables.iter().copied());
        Session::over(command).await
    }
}

/// An authority's certificate, a certificate of it for these names, and its key.
pub(super) fn certificates(names: &[&str]) -> (String, String, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A name of its own, or OpenSSL takes what it signs for self-signed.
    let name = &mut authority.distinguished_name;
    name.push(DnType::CommonName, "the authority of this test");
    let key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = leaf.signed_by(&key, &issuer).unwrap();
    (certificate, signed.pem(), key.serialize_pem())
}
