//! Writes to a registry: blobs, each in one request, and a manifest.
//!
//! Answers have the same bounds as those of reads, and an upload is redirected only where a read may be. On other servers no
//! authorization is sent: the URL of an upload carries its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt;
use oci_client::errors::OciDistributionError as Oci;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use crate::image::source::registry::reader::{Reader, check_redirect, error_of, within_timeout};

/// Blobs are read in pieces of this size, in bytes.
const PIECE: usize = 256 << 10;

impl Reader {
    /// Whether the registry has a blob. A failure counts as no.
    pub(super) async fn has_blob(&self, digest: &str) -> bool {
        let Ok(url) = self.url(&format!("blobs/{digest}")) else {
            return false;
        };
        let asked = self.send(|http| http.head(url.clone())).await;
        asked.is_ok_and(|response| response.status() == StatusCode::OK)
    }

    /// Uploads a blob of this size.
    pub(super) async fn push_blob(
        &self,
        digest: &str,
        size: u64,
        file: tokio::fs::File,
    ) -> Result<(), Oci> {
        let begin = self.url("blobs/uploads/")?;
        let begun = self.send(|http| http.post(begin.clone()).header(CONTENT_LENGTH, 0));
        let begun = begun.await?;
        if begun.status() != StatusCode::ACCEPTED {
            return within_timeout(async { Err(error_of(begun).await) }).await;
        }
        let mut to = self.upload_url(&begun)?;
        to.query_pairs_mut().append_pair("digest", digest);
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        let pieces = ReaderStream::with_capacity(file, PIECE).inspect_ok(move |piece| {
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        });
        let request = self
            .authorized_at(&to, self.upload.put(to.clone()))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(Body::wrap_stream(pieces));
        accepted(self.while_sending(request.send(), &sent).await?).await
    }

    /// Uploads a manifest under a tag or its digest.
    pub(super) async fn push_manifest(
        &self,
        of: &str,
        kind: &str,
        json: Vec<u8>,
    ) -> Result<(), Oci> {
        let url = self.url(&format!("manifests/{of}"))?;
        let put = self.send(|http| {
            http.put(url.clone())
                .header(CONTENT_TYPE, kind)
                .body(json.clone())
        });
        accepted(put.await?).await
    }

    /// The URL of an upload that has begun.
    fn upload_url(&self, begun: &Response) -> Result<Url, Oci> {
        let refuse = |why: String| Oci::SpecViolationError(format!("to upload, {why}"));
        let to = begun
            .headers()
            .get(LOCATION)
            .and_then(|to| to.to_str().ok());
        let to = to.ok_or_else(|| refuse("it names no URL".into()))?;
        let to = begun.url().join(to);
        let to = to.map_err(|error| refuse(format!("it names no valid URL ({error})")))?;
        check_redirect(self.base(), &to).map_err(refuse)?;
        Ok(to)
    }

    /// The answer to an upload. It may take any time, but the bytes that were sent must grow.
    async fn while_sending(
        &self,
        request: impl Future<Output = reqwest::Result<Response>>,
        sent: &AtomicU64,
    ) -> Result<Response, Oci> {
        tokio::pin!(request);
        let mut before = None;
        loop {
            if let Ok(answer) = tokio::time::timeout(self.read_timeout(), &mut request).await {
                return Ok(answer?);
            }
            let now = Some(sent.load(Ordering::Relaxed));
            if now == before {
                let why = format!(
                    "it accepted no more bytes for {} s",
                    self.read_timeout().as_secs()
                );
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, why);
                return Err(Oci::IoError(late));
            }
            before = now;
        }
    }
}

/// The error in the answer to an upload, if it was not accepted.
async fn accepted(response: Response) -> Result<(), Oci> {
    match response.status().is_success() {
        true => Ok(()),
        false => within_timeout(async { Err(error_of(response).await) }).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::source::registry::reader::tests::{endless, registry};

    fn file() -> tokio::fs::File {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[tokio::test]
    async fn no_answer_to_a_push_is_read_without_an_end() {
        let reader = endless(|path| match path.contains("uploads") {
            true => "413 Too Large".into(),
            false => "500 Broken".into(),
        })
        .await;
        for (given, expected) in [
            (reader.push_blob("sha256:x", 0, file()).await, 413),
            (reader.push_manifest("latest", "x/y", Vec::new()).await, 500),
        ] {
            match given.unwrap_err() {
                Oci::ServerError { code, message, .. } => {
                    assert_eq!((code, message.len()), (expected, 64 << 10));
                }
                other => panic!("{other}"),
            }
        }
        assert!(!reader.has_blob("sha256:x").await);
    }

    #[tokio::test]
    async fn an_upload_is_led_neither_out_of_tls_nor_shown_a_login_elsewhere() {
        for (location, says) in [
            ("ftp://elsewhere/x", "without TLS"),
            ("http://[/x", "no valid URL"),
        ] {
            let head =
                move |_: &str| format!("202 Accepted\r\nLocation: {location}\r\nContent-Length: 0");
            let (host, _) = registry(head).await;
            let given = host.push_blob("sha256:x", 0, file()).await;
            let said = given.unwrap_err().to_string();
            assert!(said.contains(says), "{location}: {said}");
        }
        let (elsewhere, asked_elsewhere) =
            registry(|_| "201 Created\r\nContent-Length: 0".into()).await;
        let to = elsewhere.base().join("/put?a=b").unwrap();
        let (home, asked) = registry(move |head| match head.contains("Basic ") {
            true => format!("202 Accepted\r\nLocation: {to}\r\nContent-Length: 0"),
            false => "401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0".into(),
        })
        .await;
        home.push_blob("sha256:x", 0, file()).await.unwrap();
        let (asked, elsewhere) = (asked.lock().unwrap(), asked_elsewhere.lock().unwrap());
        assert!(
            asked.iter().any(|head| head.contains("Basic ")),
            "{asked:?}"
        );
        assert_eq!(elsewhere.len(), 1);
        assert!(
            elsewhere[0].starts_with("PUT /put?a=b&digest=sha256%3Ax "),
            "{elsewhere:?}"
        );
        assert!(
            !elsewhere[0].to_lowercase().contains("authorization"),
            "{elsewhere:?}"
        );
    }
}
