//! Programs as they are, with servers of this machine that guests know by name.

use std::process::Command;

use serde_json::json;

use super::server::{Server, TOKEN, files_with};

/// What `base64` makes of `me:` and the token.
const TOKEN_IN_BASIC: &str = "bWU6UzNjcmV0VG9rZW4tOTg3NjU0MzIxMC16eXh3dnU=";

fn git(line: &[&str]) -> String {
    let output = Command::new("git")
        .args(line)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{line:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn git_pushes_with_a_token_that_the_guest_does_not_have() {
    let server = Server::start().await;
    let repository = server.repository();
    let repository = repository.to_str().unwrap();
    git(&["init", "-q", "--bare", "-b", "main", repository]);
    let guest = server.guest("debian").await;
    let mut seen = Vec::new();

    // Everything that git sends and gets is shown, also what it hides by default.
    let traced = "export GIT_TERMINAL_PROMPT=0 GIT_TRACE_CURL=1 GIT_TRACE_REDACT=0; cd /tmp;";
    for line in [
        "env",
        "git clone https://me:$GIT_TOKEN@git.test/it.git one",
        "cd one && head -c 2000000 /dev/urandom >large && echo \"of the guest $GIT_TOKEN\" >file && git add . && \
         git -c user.name=me -c user.email=me@example.org commit -q -m 'from the guest'",
        "cd one && git push origin HEAD:main",
        "git clone https://me:$GIT_TOKEN@git.test/it.git two && cmp one/large two/large",
        "curl -sS -v -u me:$GIT_TOKEN 'https://git.test/it.git/info/refs?service=git-receive-pack'",
    ] {
        let result = guest.result("sandbox", format!("{traced} {line}")).await;
        assert_eq!(result["exit_code"], 0, "{line}: {result:#}");
        seen.push(result.to_string());
    }
    assert!(
        seen[0].contains("GIT_TOKEN=snowglobe-secret-"),
        "{}",
        seen[0]
    );
    assert!(seen[1].contains("Authorization: Basic "), "{}", seen[1]);
    let log = git(&["-C", repository, "log", "--format=%s", "main"]);
    assert_eq!(log, "from the guest\n");

    // The server refuses a client without the token.
    for wrong in [
        "https://git.test/it.git",
        "https://me:wrong@git.test/it.git",
    ] {
        let line = format!("{traced} git clone {wrong} wrong");
        guest.fails(&line, "401").await;
    }

    // The token is nowhere but in its file: not in what the guest saw, its disk, or anything that the host keeps of it.
    let save = json!({"action": "save", "name": "after"});
    guest.session.call("snapshot", save).await;
    for line in ["cat /proc/[0-9]*/environ | tr '\\0' '\\n'", "dmesg"] {
        seen.push(guest.result("root", line).await.to_string());
    }
    let place = &guest.place;
    for text in [TOKEN, TOKEN_IN_BASIC] {
        assert!(seen.iter().all(|seen| !seen.contains(text)), "{seen:#?}");
        for dir in [place.dir.path(), &place.store()] {
            assert_eq!(files_with(text, dir), [""; 0]);
        }
    }
    // The placeholder is there, so the search finds what there is.
    assert_ne!(
        files_with("of the guest snowglobe-secret-", &place.store()),
        [""; 0]
    );
    guest.session.close().await;
}

/// The first command after a boot has the network, however early it asks.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_command_has_the_network() {
    let server = Server::start().await;
    let guest = server.guest("minimal").await;
    let line = "wget -q -O - http://web.test/";
    for _ in 0..3 {
        assert_eq!(guest.run(line).await, "hello web.test\n");
        guest.session.call("reboot", json!({})).await;
    }
    guest.session.close().await;
}

/// Every user of the guest has the network, with and without the variables that name the authorities.
#[tokio::test(flavor = "multi_thread")]
async fn every_user_has_the_network() {
    let server = Server::start().await;
    let guest = server.guest("debian").await;
    let curl = "curl -sS --max-time 60 http://web.test/ https://git.test/";
    let said = "hello web.test\nhello git.test\n";
    assert_eq!(guest.run(curl).await, said);
    let other = "setpriv --reuid 4321 --regid 4321 --clear-groups";
    for line in [
        curl.to_owned(),
        format!("{other} {curl}"),
        format!("{other} --inh-caps=-all --bounding-set=-all --no-new-privs {curl}"),
        format!("sudo -u nobody {curl}"),
        format!("env -i {curl}"),
    ] {
        assert_eq!(guest.root(&line).await, said, "{line}");
    }
    let refused = format!("{other} curl -sS --max-time 60 https://other.test/");
    let result = guest.result("root", refused).await;
    assert!(result.to_string().contains("Could not resolve"), "{result}");
    guest.session.close().await;
}

/// Makes a network namespace as containers have one: a bridge, a pair of devices, a resolver elsewhere.
const BOX: &str = "set -e
ip link add name bridge0 type bridge
ip address add 172.17.0.1/16 dev bridge0
ip link set bridge0 up
ip netns add box
ip link add outer type veth peer name inner netns box
ip link set outer master bridge0 up
ip -n box link set lo up
ip -n box address add 172.17.0.2/16 dev inner
ip -n box link set inner up
ip -n box route add default via 172.17.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
mkdir -p /etc/netns/box
echo nameserver 192.0.2.53 >/etc/netns/box/resolv.conf";

#[tokio::test(flavor = "multi_thread")]
async fn another_network_namespace_has_the_network() {
    let server = Server::start().await;
    let guest = server.guest("debian").await;
    guest.root(BOX).await;
    let inside = "ip netns exec box";
    let said = guest
        .root(&format!(
            "{inside} curl -sS --max-time 60 http://web.test/ https://git.test/"
        ))
        .await;
    assert_eq!(said, "hello web.test\nhello git.test\n");
    // What is refused is refused there, too, and at once.
    for (to, expected) in [
        ("http://192.0.2.1/", "connect to 192.0.2.1 port 80"),
        (
            "http://169.254.169.254/",
            "connect to 169.254.169.254 port 80",
        ),
        ("https://other.test/", "Could not resolve host"),
        ("http://git.test/", "connect to git.test port 80"),
    ] {
        let result = guest
            .result("root", format!("{inside} curl -sS --max-time 60 {to}"))
            .await;
        let said = result["stderr"].as_str().unwrap();
        assert!(said.contains(expected), "{to}: {result:#}");
        assert!(!said.contains("timed out"), "{to}: {result:#}");
    }
    // Much goes through in both directions.
    let line = format!(
        "head -c 3000000 /dev/urandom >/tmp/large && {inside} curl -sS --max-time 120 -T /tmp/large https://tls.test/sum && \
         sha256sum </tmp/large"
    );
    let said = guest.root(&line).await;
    let sums: Vec<_> = said.split_whitespace().collect();
    assert_eq!(sums[0], sums[1], "{said}");
    guest.session.close().await;
}

/// A static program of musl's, which reads `/etc/resolv.conf` itself.
const REACH: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int failed = getaddrinfo(words[1], words[2], &hints, &found);
    if (failed) return printf("%s\n", gai_strerror(failed)), 1;
    int s = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(s, found->ai_addr, found->ai_addrlen)) return perror("connect"), 1;
    char buffer[4096];
    int length = snprintf(buffer, sizeof buffer, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", words[1]);
    if (write(s, buffer, length) != length) return perror("write"), 1;
    for (ssize_t n; (n = read(s, buffer, sizeof buffer)) > 0;) fwrite(buffer, 1, n, stdout);
    return 0;
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_busybox_has_the_network() {
    let server = Server::start().await;
    let guest = server.guest("minimal").await;
    let source = guest.place.dir.path().join("reach.c");
    std::fs::write(&source, REACH).unwrap();
    let built = Command::new("musl-gcc")
        .args(["-static", "-o"])
        .arg(guest.place.workspace.join("reach"))
        .arg(&source)
        .status()
        .expect("Debian's package musl-tools: run .ci/setup");
    assert!(built.success());
    for line in [
        "wget -q -O - http://web.test/",
        "http_proxy=http://127.0.0.1:3128 wget -q -O - http://web.test/",
        "printf 'GET / HTTP/1.0\\r\\nHost: web.test\\r\\n\\r\\n' | nc web.test 80",
        "./reach web.test 80",
    ] {
        let said = guest.run(line).await;
        assert!(said.ends_with("hello web.test\n"), "{line}: {said}");
    }
    // This client of TLS sends a server name, and no algorithms of signatures.
    let said = guest.run("wget -q -O - https://tls.test/").await;
    assert_eq!(said, "hello tls.test\n");
    guest
        .fails("wget -q -O - http://other.test/", "bad address")
        .await;
    guest.fails("./reach other.test 80", "not resolve").await;
    guest.fails("./reach 192.0.2.1 80", "refused").await;
    guest.session.close().await;
}
