use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A local registry that answers each path with a head and an endless body.
pub(crate) async fn endless(heads: fn(&str) -> String) -> Reader {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", heads(&path));
                let _ = stream.write_all(answer.as_bytes()).await;
                while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
            });
        }
    });
    reader(&host)
}

/// A local registry whose answers have only a head, made from the request; and all requests.
pub(crate) async fn registry(
    heads: impl Fn(&str) -> String + Send + 'static,
) -> (Reader, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let all = Arc::new(Mutex::new(Vec::new()));
    let asked = all.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let answer = format!("HTTP/1.1 {}\r\nConnection: close\r\n\r\n", heads(&head));
            asked.lock().unwrap().push(head);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (reader(&host), all)
}

fn reader(host: &str) -> Reader {
    let connection = Connection {
        host,
        repository: "owner/image",
        http: true,
        certificates: &[],
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(5),
    };
    Reader::new(
        &connection,
        &RegistryAuth::Basic("me".into(), "secret".into()),
    )
    .unwrap()
}

async fn fails(reader: &Reader, of: &str) -> Oci {
    reader.manifest(of, &["*/*"]).await.unwrap_err()
}

#[tokio::test]
async fn no_answer_is_read_without_a_bound() {
    let reader = endless(|path| match path.rsplit('/').next() {
        Some("error") => "404 Not Found".into(),
        Some("down") => "503 Down".into(),
        Some("locked") => "401 No\r\nWWW-Authenticate: Bearer realm=\"/nowhere\"".into(),
        _ => "200 OK".into(),
    })
    .await;
    for (of, expected) in [("error", 404), ("down", 503)] {
        match fails(&reader, of).await {
            Oci::ServerError { code, message, .. } => {
                assert_eq!((code, message.len()), (expected, MAX_ERROR));
            }
            other => panic!("{other}"),
        }
    }
    let long = fails(&reader, "latest").await.to_string();
    assert!(long.contains("longer than"), "{long}");
    let locked = fails(&reader, "locked").await.to_string();
    assert!(locked.contains("to get a token, it names"), "{locked}");
    let blob = reader.blob("sha256:error", 5).await;
    assert!(
        matches!(blob, Ok(Blob::Whole(_))),
        "the download checks its size"
    );
}

#[tokio::test]
async fn endless_redirects_are_refused() {
    let reader = endless(|path| format!("302 Found\r\nLocation: {path}x")).await;
    match fails(&reader, "latest").await {
        Oci::RequestError(error) => {
            assert!(error.is_redirect(), "{error:?}");
            let said = format!("{error:?}");
            assert!(said.contains("more often than is followed"), "{said}");
        }
        other => panic!("{other}"),
    }
    let reader = endless(|_| "302 Found\r\nLocation: file:///etc/passwd".into()).await;
    assert!(!fails(&reader, "latest").await.to_string().contains("root:"));
}

fn leads(from: &str, to: &str) -> bool {
    check_redirect(&from.parse().unwrap(), &to.parse().unwrap()).is_ok()
}

#[test]
fn a_registry_redirects_neither_out_of_tls_nor_into_this_network() {
    let far = "https://registry.example/v2/";
    for to in [
        "https://cdn.example/x?y",
        "https://registry.example/z",
        "https://93.184.216.34/x",
    ] {
        assert!(leads(far, to), "{to}");
    }
    for to in [
        "http://cdn.example/x",
        "http://registry.example/x",
        "ftp://cdn.example/x",
        "file:///etc/passwd",
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0/x",
        "https://10.0.0.1/x",
        "https://192.168.1.1:8443/x",
        "https://169.254.169.254/latest/meta-data",
        "https://100.100.100.200/",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[fd00:ec2::254]/x",
        "https://[fe80::1]/x",
        "https://localhost/x",
        "https://LOCALHOST./x",
        "https://metadata.google.internal/x",
    ] {
        assert!(!leads(far, to), "{to}");
    }
    // A local registry may redirect there, and without TLS if it has none.
    assert!(leads(
        "http://localhost:5000/v2/",
        "http://127.0.0.1:5001/token"
    ));
    assert!(leads("https://10.0.0.1/v2/", "https://10.0.0.2/token"));
    assert!(!leads("https://localhost/v2/", "http://localhost/token"));
}
