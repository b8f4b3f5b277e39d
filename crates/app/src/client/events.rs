//! Server-sent events: a reader that resumes where a broken connection left off.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Body, Request};
use crate::fail::{Exit, Failure, Outcome};

/// Longest single event; the server bounds log lines and task records far below.
const MAX_EVENT_BYTES: usize = 8 << 20;
/// Failed connects in a row before the stream is given up.
const MAX_RECONNECTS: u32 = 10;
/// A stream that says nothing for so long is opened again: the server sends a sign of life each 15 s.
const SILENCE: Duration = Duration::from_secs(75);
/// Pause before a stream that was cut off is opened again.
const PAUSE: Duration = Duration::from_millis(200);

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// `event:`; empty when not given.
    pub(crate) name: String,
    /// `data:` lines, joined.
    pub(crate) data: String,
}

type Chunks = BoxStream<'static, reqwest::Result<bytes::Bytes>>;

/// An open stream.
pub(crate) struct Events {
    request: Request,
    chunks: Option<Chunks>,
    buffer: BytesMut,
    last_id: Option<String>,
    failures: u32,
    /// A stream that never opened reports its failure instead of trying again.
    opened: bool,
}

impl Events {
    pub(super) fn new(request: Request) -> Events {
        Events { request, chunks: None, buffer: BytesMut::new(), last_id: None, failures: 0, opened: false }
    }

    /// The next event. `None` when there is nothing more to say: the server's last event is then `end`. A stream that
    /// ends without it was cut off (a restart, a proxy) and is opened again.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Event>> {
        loop {
            if let Some(event) = self.parse()? {
                if event.name != "end" {
                    return Ok(Some(event));
                }
                if event.data.contains("has ended") {
                    return Ok(None);
                }
                self.cut().await;
            }
            if self.chunks.is_none() {
                self.connect().await?;
            }
            let Some(chunks) = &mut self.chunks else { continue };
            match tokio::time::timeout(SILENCE, chunks.next()).await.unwrap_or(None) {
                Some(Ok(bytes)) => {
                    self.failures = 0;
                    self.buffer.extend_from_slice(&bytes);
                }
                Some(Err(_)) | None => self.cut().await,
            }
        }
    }

    async fn cut(&mut self) {
        self.chunks = None;
        self.buffer.clear();
        tokio::time::sleep(PAUSE).await;
    }

    async fn connect(&mut self) -> Outcome {
        let mut request = self.again();
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        match request.send().await {
            Ok(answer) => {
                self.opened = true;
                self.chunks = Some(answer.bytes_stream().boxed());
                Ok(())
            }
            Err(failure) if self.opened && failure.exit() == Exit::Unreachable && self.failures < MAX_RECONNECTS => {
                self.failures += 1;
                tokio::time::sleep(PAUSE * (1 << self.failures.min(5))).await;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    fn again(&self) -> Request {
        let r = &self.request;
        Request {
            client: r.client.clone(),
            method: r.method.clone(),
            url: r.url.clone(),
            query: r.query.clone(),
            headers: r.headers.clone(),
            body: Body::None,
            doing: r.doing.clone(),
            next: r.next.clone(),
            patient: r.patient,
            usual: r.usual,
        }
    }

    /// Takes one event off the buffer: everything up to an empty line.
    fn parse(&mut self) -> Outcome<Option<Event>> {
        loop {
            let Some((end, skip)) = blank_line(&self.buffer) else {
                if self.buffer.len() > MAX_EVENT_BYTES {
                    let why = "the server sent an event that is larger than 8 MiB";
                    return Err(Failure::new(Exit::Failed, format!("cannot {}", self.request.doing), why));
                }
                return Ok(None);
            };
            let block = self.buffer.split_to(end + skip);
            let text = String::from_utf8_lossy(&block[..end]);
            let mut event = Event::default();
            let mut any = false;
            for line in text.lines() {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "event" => value.clone_into(&mut event.name),
                    "id" => self.last_id = Some(value.to_owned()),
                    "data" => {
                        if any {
                            event.data.push('\n');
                        }
                        event.data.push_str(value);
                        any = true;
                    }
                    // A comment (keep-alive) or a field this client does not know.
                    _ => {}
                }
            }
            if any || !event.name.is_empty() {
                return Ok(Some(event));
            }
        }
    }
}

/// Where the first blank line is: (length of what stands before it, length of the separator).
fn blank_line(buffer: &[u8]) -> Option<(usize, usize)> {
    let lf = buffer.windows(2).position(|w| w == b"\n\n").map(|at| (at, 2));
    let crlf = buffer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| (at, 4));
    match (lf, crlf) {
        (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}
