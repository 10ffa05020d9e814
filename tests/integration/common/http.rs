//! The server over HTTP, and plain requests to it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use super::{Place, soon};

/// A server over HTTP.
pub struct Served {
    pub place: Place,
    pub server: Child,
    pub address: String,
    pub token: String,
}

/// Starts a server, and waits until it listens.
pub async fn serve_http(arguments: &[&str]) -> Served {
    let place = Place::new("minimal");
    let file = place.dir.path().join("token");
    let mut all = vec!["serve", "--http", "127.0.0.1:0", "--token-file"];
    let path = file.to_string_lossy().into_owned();
    all.push(&path);
    all.extend(arguments);
    let mut server = place.command(&all).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("it says where");
        if let Some(url) = line.strip_prefix("serving MCP at http://") {
            break url.trim_end_matches("/mcp").to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    Served {
        place,
        server,
        address,
        token,
    }
}

impl Served {
    /// Waits until no sandbox runs.
    pub async fn runs_none(&self) {
        let began = Instant::now();
        while !self
            .request("GET", "/healthz", &[], "")
            .await
            .1
            .contains("sandboxes 0")
        {
            soon(began);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends one plain request; returns status and body.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let answered = self.try_request(method, path, headers, body).await;
        answered.expect("a status")
    }

    /// As [`Served::request`]; none if the server closed the connection before an answer.
    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<(u16, String)> {
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.ok()?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        // A server may close as soon as it has refused.
        let _ = stream
            .write_all(format!("{head}\r\n{body}").as_bytes())
            .await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    /// Whether the server refuses more requests without the token.
    pub async fn is_refused(&self) -> bool {
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(&self.address).await?;
            let head = format!(
                "GET /mcp HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.address
            );
            stream.write_all(head.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer.contains(" 429 "))
        };
        ask.await.unwrap_or(false)
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub async fn initialize(&self, more: &[(&str, &str)]) -> (u16, String) {
        self.try_initialize(more).await.expect("a status")
    }

    pub async fn try_initialize(&self, more: &[(&str, &str)]) -> Option<(u16, String)> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
        let mut headers = vec![
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
        ];
        headers.extend_from_slice(more);
        self.try_request("POST", "/mcp", &headers, &body.to_string())
            .await
    }
}
