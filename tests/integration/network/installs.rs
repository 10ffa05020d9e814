//! Package managers as they are, with the public registries: by the guest's own route, and through its two proxies.

use super::guest::Guest;
use crate::common::node;

/// The guest's proxies, as variables name them.
const PROXIES: [&str; 2] = ["http://127.0.0.1:3128", "socks5h://127.0.0.1:1080"];

/// Takes the guest's route away: from now on only programs that use a proxy reach anything.
async fn take_the_route(guest: &Guest) {
    guest.root("ip route del default").await;
    let line = "curl -sS --max-time 20 -o /tmp/none https://pypi.org/simple/six/";
    guest.fails(line, "connect to pypi.org port 443").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pip_installs_a_package() {
    let guest = Guest::with_packages(384).await;
    // PySocks is what pip needs for the second proxy.
    guest
        .run("python3 -m venv --without-pip /tmp/own && pip3 --python /tmp/own install six PySocks")
        .await;
    let said = guest
        .run("/tmp/own/bin/python -c 'import six; print(six.PY3)'")
        .await;
    assert_eq!(said, "True\n");
    guest.root("pip3 install PySocks").await;
    take_the_route(&guest).await;
    for proxy in PROXIES {
        let line = format!(
            "HTTPS_PROXY={proxy} pip3 download --no-cache-dir --no-deps -d /tmp/found six && ls /tmp/found && rm -r /tmp/found"
        );
        let said = guest.run(&line).await;
        assert!(said.contains("six-"), "{said}");
    }
    guest.session.close().await;
}

/// Where npm is, once [`npm`] has brought it.
pub(super) const NPM: &str = "/workspace/node /tmp/package/bin/npm-cli.js";

/// Brings Node, and npm from the registry.
pub(super) async fn npm(guest: &Guest) {
    guest.bring(&node(), "node");
    let line = "cd /tmp && curl -sSf --retry 5 --retry-all-errors -o npm.tgz \
        https://registry.npmjs.org/npm/-/npm-10.9.4.tgz && tar xf npm.tgz";
    guest.run(line).await;
}

/// Installs a package in a directory of its own, with nothing of an earlier turn.
fn npm_install() -> String {
    format!(
        "rm -rf /tmp/own /tmp/cache && mkdir /tmp/own && cd /tmp/own && \
        {NPM} install --no-audit --no-update-notifier --cache /tmp/cache left-pad"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run `make installs`"]
async fn npm_installs_a_package() {
    let guest = Guest::with_packages(768).await;
    npm(&guest).await;
    guest.run(&npm_install()).await;
    let said = guest
        .run("cd /tmp/own && /workspace/node -e 'console.log(require(\"left-pad\")(7, 3, 0))'")
        .await;
    assert_eq!(said, "007\n");
    guest.session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run `make installs`"]
async fn npm_uses_a_proxy() {
    let guest = Guest::with_packages(768).await;
    npm(&guest).await;
    take_the_route(&guest).await;
    for proxy in PROXIES {
        let line = format!("export HTTPS_PROXY={proxy}; {}", npm_install());
        let said = guest.run(&line).await;
        assert!(said.contains("added 1 package"), "{said}");
    }
    guest.session.close().await;
}

/// A line that installs a package of Debian's.
fn apt(package: &str) -> String {
    format!("apt-get install -y -qq --no-install-recommends {package}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run `make installs`"]
async fn apt_installs_packages() {
    let guest = Guest::with_packages(768).await;
    guest.root("apt-get update").await;
    guest.root(&apt("hello")).await;
    assert_eq!(guest.run("hello").await, "Hello, world!\n");
    take_the_route(&guest).await;
    for (proxy, package, line) in [
        (PROXIES[0], "bc", "echo '6*7' | bc"),
        (PROXIES[1], "dc", "dc -e '6 7 * p'"),
    ] {
        guest
            .root(&format!("export http_proxy={proxy}; {}", apt(package)))
            .await;
        assert_eq!(guest.run(line).await, "42\n");
    }
    guest.session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour: run `make installs`"]
async fn cargo_builds_with_a_crate() {
    let guest = Guest::with_packages(1536).await;
    guest.root("apt-get update -qq").await;
    guest.root(&apt("cargo-web rustc-web")).await;
    guest
        .run(
            "cd /tmp && cargo new own && cd own && echo 'itoa = \"1\"' >>Cargo.toml && \
             echo 'fn main() { println!(\"{}\", itoa::Buffer::new().format(42u8)) }' >src/main.rs",
        )
        .await;
    let fetch = "cd /tmp/own && rm -rf ~/.cargo/registry Cargo.lock && cargo fetch";
    guest.run(fetch).await;
    take_the_route(&guest).await;
    for proxy in PROXIES {
        guest
            .run(&format!("export HTTPS_PROXY={proxy}; {fetch}"))
            .await;
    }
    let said = guest
        .run("cd /tmp/own && cargo build --offline && target/debug/own")
        .await;
    assert_eq!(said, "42\n");
    guest.session.close().await;
}
