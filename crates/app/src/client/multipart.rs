//! `multipart/form-data` with one JSON field and one file, streamed from disk with its length known beforehand.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::io::AsyncReadExt;

use crate::fail::{Exit, Failure, Outcome, While};

/// Bytes read from the file at once.
const CHUNK: usize = 256 << 10;

/// A file to send, with a JSON document beside it.
#[derive(Clone)]
pub(crate) struct Upload {
    /// The file.
    pub(crate) file: PathBuf,
    /// Name it is sent under.
    pub(crate) name: String,
    /// Field of the file.
    pub(crate) field: &'static str,
    /// Field and text of the JSON document.
    pub(crate) json: (&'static str, String),
    /// Bytes sent so far, for a progress bar.
    pub(crate) sent: Arc<AtomicU64>,
}

/// A file to send as a whole body.
#[derive(Clone)]
pub(crate) struct SentFile {
    pub(crate) path: PathBuf,
    /// Bytes sent so far, for a progress bar.
    pub(crate) sent: Arc<AtomicU64>,
}

impl SentFile {
    pub(super) async fn attach(&self, request: reqwest::RequestBuilder) -> Outcome<reqwest::RequestBuilder> {
        let (chunks, length) = chunks_of(&self.path, &self.sent).await?;
        let request = request.header("content-type", "application/octet-stream").header("content-length", length);
        Ok(request.body(reqwest::Body::wrap_stream(chunks)))
    }
}

/// The content of a file piece by piece, and its length.
async fn chunks_of(
    path: &std::path::Path,
    sent: &Arc<AtomicU64>,
) -> Outcome<(impl stream::Stream<Item = std::io::Result<Bytes>> + use<>, u64)> {
    let what = || format!("cannot read {}", path.display());
    let file = tokio::fs::File::open(path).await.doing(Exit::Usage, what)?;
    let length = file.metadata().await.doing(Exit::Usage, what)?.len();
    // A repeat starts from the beginning, and so does its bar.
    sent.store(0, Ordering::Relaxed);
    let sent = sent.clone();
    // `take`: a file that grows meanwhile must not break the length that was announced.
    let chunks = stream::unfold(file.take(length), move |mut file| {
        let sent = sent.clone();
        async move {
            let mut buffer = vec![0; CHUNK];
            match file.read(&mut buffer).await {
                Ok(0) => None,
                Ok(n) => {
                    buffer.truncate(n);
                    sent.fetch_add(n as u64, Ordering::Relaxed);
                    Some((Ok(Bytes::from(buffer)), file))
                }
                Err(error) => Some((Err(error), file)),
            }
        }
    });
    Ok((chunks, length))
}

impl Upload {
    pub(super) async fn attach(&self, request: reqwest::RequestBuilder) -> Outcome<reqwest::RequestBuilder> {
        let (chunks, length) = chunks_of(&self.file, &self.sent).await?;
        let boundary = format!("tidewheel-{}", super::random_hex());
        let head = self.head(&boundary)?;
        let tail = format!("\r\n--{boundary}--\r\n");
        let total = head.len() as u64 + length + tail.len() as u64;
        let whole = stream::iter([Ok(Bytes::from(head))]).chain(chunks).chain(stream::iter([Ok(Bytes::from(tail))]));
        Ok(request
            .header("content-type", format!("multipart/form-data; boundary={boundary}"))
            .header("content-length", total)
            .body(reqwest::Body::wrap_stream(whole)))
    }

    fn head(&self, boundary: &str) -> Outcome<String> {
        if self.name.contains(['"', '\r', '\n']) {
            let why = format!("the file name '{}' has a quote or a line end in it", crate::text::one_line(&self.name));
            return Err(Failure::new(Exit::Usage, "cannot send this file", why));
        }
        let (field, text) = &self.json;
        Ok(format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\nContent-Type: application/json\r\n\r\n\
             {text}\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            self.field, self.name
        ))
    }
}
