//! Languages with TLS and a resolver of their own, as Debian has them.

use super::guest::Guest;
use super::server::Server;

/// A sandbox that knows the server, and has these packages of Debian's.
async fn guest_with(server: &Server, packages: &str) -> Guest {
    let guest = server.guest_with("debian", 1536, &["packages"]).await;
    guest.root("apt-get update -qq").await;
    let line = format!("apt-get install -y -qq --no-install-recommends {packages}");
    guest.root(&line).await;
    guest
}

/// What a program must print that asks both: a server whose TLS passes unread, and one whose TLS the host reads.
const BOTH: &str = "hello tls.test\nhello git.test\n";

const GO: &str = r#"package main

import (
	"fmt"
	"io"
	"net/http"
)

func main() {
	for _, url := range []string{"https://tls.test/", "https://git.test/"} {
		answer, err := http.Get(url)
		if err != nil {
			panic(err)
		}
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			panic(err)
		}
		fmt.Print(string(text))
	}
}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run `make installs`"]
async fn go_has_the_network() {
    let server = Server::start().await;
    let guest = guest_with(&server, "golang-go").await;
    std::fs::write(guest.place.workspace.join("ask.go"), GO).unwrap();
    // With and without the system's own resolver.
    guest.run("go build -o /tmp/ask ask.go").await;
    guest
        .run("CGO_ENABLED=0 go build -o /tmp/static ask.go")
        .await;
    for line in [
        "/tmp/ask",
        "/tmp/static",
        "GODEBUG=netdns=go /tmp/ask",
        "HTTPS_PROXY=http://127.0.0.1:3128 /tmp/ask",
        "HTTPS_PROXY=socks5://127.0.0.1:1080 /tmp/ask",
    ] {
        assert_eq!(guest.run(line).await, BOTH, "{line}");
    }
    guest.session.close().await;
}

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Ask {
    public static void main(String[] words) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var url : new String[] {"https://tls.test/", "https://git.test/"}) {
            var request = HttpRequest.newBuilder(URI.create(url)).build();
            System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run `make installs`"]
async fn java_has_the_network() {
    let server = Server::start().await;
    let guest = guest_with(&server, "default-jdk-headless").await;
    std::fs::write(guest.place.workspace.join("Ask.java"), JAVA).unwrap();
    guest.run("javac -d /tmp Ask.java").await;
    for line in [
        "java -cp /tmp Ask",
        "java -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=3128 -cp /tmp Ask",
    ] {
        assert_eq!(guest.run(line).await, BOTH, "{line}");
    }
    guest.session.close().await;
}
