//! The language spoken with the Python shim: frames and messages, both ways. Pure: it reads and writes bytes and does no
//! input or output. A task's input and result pass through as raw JSON text and are never built up as values.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use tidewheel_proto::v1::Grant;

use crate::error::Fault;

/// The largest frame either side may send.
pub(crate) const MAX_FRAME: usize = 16 << 20;
pub(crate) const PROTO: u32 = 1;
const JSON: u8 = 0;
const JSON_AND_BYTES: u8 = 1;

/// What the shim says.
#[derive(Debug)]
pub(crate) enum FromShim {
    Hello {
        python: String,
        sdk: String,
    },
    Started {
        lease: u64,
    },
    Done {
        lease: u64,
        outcome: Result<Bytes, Box<Fault>>,
    },
    Log {
        lease: u64,
        level: String,
        text: String,
        at_ms: i64,
    },
    Progress {
        lease: u64,
        fraction: f32,
        text: String,
    },
    Artifact {
        lease: u64,
        name: String,
        path: String,
        content_type: String,
    },
    Enqueue {
        req: Bytes,
        items: Bytes,
    },
    Asset {
        req: Bytes,
    },
    /// The turns of a workflow below a number, for an activation that has to replay it.
    History {
        req: Bytes,
        lease: u64,
        below: u64,
    },
    Handle {
        req: Bytes,
        op: String,
        id: String,
        body: Bytes,
    },
    /// Starts that it had not begun and gives back; nothing more is said of them.
    Recalled {
        leases: Vec<u64>,
    },
    /// The task that is about to end has started processes that still run.
    Left {
        count: u32,
    },
    LoadError {
        message: String,
        traceback: String,
    },
    Fatal {
        message: String,
    },
}

/// The connection has to end: what came is not the protocol.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub(crate) struct BadFrame(String);

/// Takes one whole frame off the front of `buffer`, or nothing if it is not there yet.
pub(crate) fn take_frame(buffer: &mut BytesMut) -> Result<Option<FromShim>, BadFrame> {
    if buffer.len() < 5 {
        return Ok(None);
    }
    let length = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(BadFrame(format!("a frame of {length} bytes")));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let mut frame = buffer.split_to(length).freeze();
    match frame.get_u8() {
        JSON => decode(&frame, None),
        JSON_AND_BYTES => {
            let header = if frame.len() >= 4 { frame.get_u32() as usize } else { usize::MAX };
            if header > frame.len() {
                return Err(BadFrame("a header longer than its frame".into()));
            }
            let header = frame.split_to(header);
            decode(&header, Some(frame))
        }
        codec => Err(BadFrame(format!("unknown codec {codec}"))),
    }
    .map(Some)
}

/// Every field any message has; absent ones stay empty. One flat struct is read faster than a tagged enum, which serde
/// has to buffer.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow)]
    t: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    lease: Option<std::borrow::Cow<'a, str>>,
    ok: bool,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    error: Option<RawFault>,
    level: String,
    msg: Option<String>,
    #[serde(borrow)]
    fields: Option<&'a RawValue>,
    at_ms: f64,
    fraction: Option<f32>,
    text: Option<String>,
    name: String,
    path: String,
    content_type: Option<String>,
    #[serde(borrow)]
    req: Option<&'a RawValue>,
    #[serde(borrow)]
    items: Option<&'a RawValue>,
    op: String,
    id: Option<String>,
    count: u32,
    below: u64,
    #[serde(borrow)]
    leases: Vec<std::borrow::Cow<'a, str>>,
    traceback: Option<String>,
    sdk: String,
    python: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawFault {
    r#type: String,
    message: String,
    traceback: Option<String>,
    retryable: Option<bool>,
    cancelled: bool,
}

fn decode(header: &Bytes, payload: Option<Bytes>) -> Result<FromShim, BadFrame> {
    let raw: Raw<'_> =
        serde_json::from_slice(header).map_err(|e| BadFrame(format!("not a message of the shim: {e}")))?;
    let lease = || -> Result<u64, BadFrame> {
        let text = raw.lease.as_deref().unwrap_or("");
        text.parse().map_err(|_| BadFrame(format!("unknown lease `{text}`")))
    };
    let bytes = |value: Option<&RawValue>| value.map(|v| header.slice_ref(v.get().as_bytes()));
    let req = || bytes(raw.req).unwrap_or_else(|| Bytes::from_static(b"null"));
    let message = || raw.msg.clone().unwrap_or_default();
    Ok(match raw.t.as_ref() {
        "hello" => FromShim::Hello { python: raw.python, sdk: raw.sdk },
        "started" => FromShim::Started { lease: lease()? },
        "task_done" if raw.ok => {
            let value = payload.or_else(|| bytes(raw.value)).unwrap_or_else(|| Bytes::from_static(b"null"));
            FromShim::Done { lease: lease()?, outcome: Ok(value) }
        }
        "task_done" => FromShim::Done { lease: lease()?, outcome: Err(Box::new(fault(raw.error.unwrap_or_default()))) },
        "log" => {
            let mut text = raw.msg.unwrap_or_default();
            if let Some(fields) = raw.fields.map(RawValue::get).filter(|f| *f != "{}" && *f != "null") {
                text.push(' ');
                text.push_str(fields);
            }
            // A line without a lease belongs to no attempt; 0 is never given out.
            let lease = raw.lease.as_deref().and_then(|l| l.parse().ok()).unwrap_or(0);
            FromShim::Log { lease, level: raw.level, text, at_ms: raw.at_ms as i64 }
        }
        "progress" => FromShim::Progress {
            lease: lease()?,
            fraction: raw.fraction.unwrap_or(0.0).clamp(0.0, 1.0),
            text: raw.text.unwrap_or_default(),
        },
        "artifact" => FromShim::Artifact {
            lease: lease()?,
            name: raw.name,
            path: raw.path,
            content_type: raw.content_type.unwrap_or_default(),
        },
        "enqueue" => FromShim::Enqueue {
            req: req(),
            items: bytes(raw.items).ok_or_else(|| BadFrame("enqueue without items".into()))?,
        },
        "asset" => FromShim::Asset { req: req() },
        "history" => FromShim::History { req: req(), lease: lease()?, below: raw.below },
        "handle" => FromShim::Handle { req: req(), op: raw.op, id: raw.id.unwrap_or_default(), body: header.clone() },
        "recalled" => {
            let read = |text: &std::borrow::Cow<'_, str>| {
                text.parse::<u64>().map_err(|_| BadFrame(format!("unknown lease `{text}`")))
            };
            FromShim::Recalled { leases: raw.leases.iter().map(read).collect::<Result<_, _>>()? }
        }
        "left" => FromShim::Left { count: raw.count },
        "load_error" => FromShim::LoadError { message: message(), traceback: raw.traceback.unwrap_or_default() },
        "fatal" => FromShim::Fatal { message: message() },
        other => return Err(BadFrame(format!("unknown message `{other}`"))),
    })
}

fn fault(raw: RawFault) -> Fault {
    let kind = if raw.r#type.is_empty() { "error" } else { &raw.r#type };
    Fault { cancelled: raw.cancelled, ..Fault::new(kind, raw.message, raw.retryable.unwrap_or(true)) }
        .with_detail(raw.traceback.unwrap_or_default())
}

/// Writes one JSON frame through `body`.
pub(crate) fn frame(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(JSON);
    body(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A frame of a value that is small or rare.
pub(crate) fn frame_of(value: &serde_json::Value) -> Bytes {
    let mut out = BytesMut::new();
    frame(&mut out, |out| serde_json::to_writer(out.writer(), value).expect("a JSON value is written to memory"));
    out.freeze()
}

/// One attempt as the shim gets it.
pub(crate) struct Start<'a> {
    pub(crate) lease: u64,
    pub(crate) task_id: &'a str,
    pub(crate) grant: &'a Grant,
}

pub(crate) fn task_start(out: &mut BytesMut, start: &Start<'_>) {
    frame(out, |out| {
        out.put_slice(b"{\"t\":\"task_start\",\"fn\":");
        text(out, &start.grant.entrypoint);
        out.put_u8(b',');
        body(out, start);
        out.put_u8(b'}');
    });
}

pub(crate) fn batch_start(out: &mut BytesMut, lease: u64, items: &[Start<'_>]) {
    frame(out, |out| {
        out.put_slice(b"{\"t\":\"batch_start\",\"lease\":\"");
        number(out, lease);
        out.put_slice(b"\",\"fn\":");
        text(out, items.first().map_or("", |i| &i.grant.entrypoint));
        out.put_slice(b",\"items\":[");
        for (i, item) in items.iter().enumerate() {
            out.put_slice(if i == 0 { b"{".as_slice() } else { b",{".as_slice() });
            body(out, item);
            out.put_u8(b'}');
        }
        out.put_slice(b"]}");
    });
}

fn body(out: &mut BytesMut, start: &Start<'_>) {
    let grant = start.grant;
    out.put_slice(b"\"lease\":\"");
    number(out, start.lease);
    out.put_slice(b"\",\"input\":");
    out.put_slice(if grant.input.is_empty() { b"null" } else { &grant.input });
    out.put_slice(b",\"ctx\":{\"task_id\":");
    text(out, start.task_id);
    out.put_slice(b",\"attempt\":");
    number(out, grant.attempt.into());
    out.put_slice(b",\"queue\":");
    text(out, &grant.queue);
    if grant.run_timeout_ms > 0 {
        out.put_slice(b",\"run_ms\":");
        number(out, grant.run_timeout_ms);
    }
    let optional = [
        ("idempotency_key", &grant.idempotency_key),
        ("correlation_id", &grant.correlation_id),
        ("traceparent", &grant.traceparent),
    ];
    for (name, value) in optional {
        if !value.is_empty() {
            out.put_slice(b",\"");
            out.put_slice(name.as_bytes());
            out.put_slice(b"\":");
            text(out, value);
        }
    }
    if grant.max_attempts > 0 {
        out.put_slice(b",\"max_attempts\":");
        number(out, grant.max_attempts.into());
    }
    if !grant.promises.is_empty() {
        // A secret of the run: it goes to the process that runs its program, and nowhere else.
        out.put_slice(b",\"promises\":\"");
        grant.promises.iter().for_each(|byte| hex(out, *byte));
        out.put_u8(b'"');
    }
    if !grant.labels.is_empty() {
        out.put_slice(b",\"labels\":");
        serde_json::to_writer((&mut *out).writer(), &grant.labels).expect("labels are written to memory");
    }
    out.put_u8(b'}');
}

fn text(out: &mut BytesMut, value: &str) {
    serde_json::to_writer(out.writer(), value).expect("text is written to memory");
}

fn hex(out: &mut BytesMut, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.put_u8(DIGITS[usize::from(byte >> 4)]);
    out.put_u8(DIGITS[usize::from(byte & 15)]);
}

fn number(out: &mut BytesMut, value: u64) {
    use std::io::Write;
    write!(out.writer(), "{value}").expect("a number is written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(json: &str) -> Result<Option<FromShim>, BadFrame> {
        let mut out = BytesMut::new();
        frame(&mut out, |out| out.put_slice(json.as_bytes()));
        take_frame(&mut out)
    }

    #[test]
    fn a_result_passes_as_the_text_it_is() {
        let Ok(Some(FromShim::Done { lease: 7, outcome: Ok(value) })) =
            feed(r#"{"t":"task_done","lease":"7","ok":true,"value":{"b":1, "a" : 1.50}}"#)
        else {
            panic!("a result is read")
        };
        assert_eq!(&value[..], br#"{"b":1, "a" : 1.50}"#);
    }

    #[test]
    fn a_result_may_come_as_bytes_behind_its_header() {
        let header = br#"{"t":"task_done","lease":"7","ok":true}"#;
        let mut out = BytesMut::new();
        out.put_u32((1 + 4 + header.len() + 3) as u32);
        out.put_u8(JSON_AND_BYTES);
        out.put_u32(header.len() as u32);
        out.put_slice(header);
        out.put_slice(b"123");
        let message = take_frame(&mut out);
        assert!(matches!(message, Ok(Some(FromShim::Done { outcome: Ok(v), .. })) if v == "123"));
        assert!(out.is_empty());
    }

    #[test]
    fn half_a_frame_waits_and_nonsense_ends_the_connection() {
        let mut out = BytesMut::from(&[0, 0, 0, 9, 0, b'{'][..]);
        assert!(matches!(take_frame(&mut out), Ok(None)));
        let mut out = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0][..]);
        assert!(take_frame(&mut out).is_err());
        let mut out = BytesMut::from(&[0, 0, 0, 2, 9, 1][..]);
        assert!(take_frame(&mut out).is_err());
        let mut out = BytesMut::from(&[0, 0, 0, 6, 1, 0xff, 0, 0, 0, 0][..]);
        assert!(take_frame(&mut out).is_err());
        assert!(feed(r#"{"t":"task_done","lease":"x","ok":true}"#).is_err());
        assert!(feed("[1]").is_err());
    }

    #[test]
    fn a_start_is_valid_json_with_the_input_untouched() {
        let grant = Grant {
            entrypoint: "m:\"f\"".into(),
            input: Bytes::from_static(br#"{"x": 1e5}"#),
            queue: "q".into(),
            attempt: 2,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            promises: Bytes::from_static(b"\x00\xA9"),
            ..Grant::default()
        };
        let mut out = BytesMut::new();
        batch_start(&mut out, 3, &[Start { lease: 4, task_id: "task_1", grant: &grant }]);
        let text = std::str::from_utf8(&out[5..]).expect("it is text");
        assert!(text.contains(r#""input":{"x": 1e5}"#));
        let value: serde_json::Value = serde_json::from_str(text).expect("it is JSON");
        assert_eq!(value["fn"], "m:\"f\"");
        assert_eq!(value["items"][0]["lease"], "4");
        assert_eq!(value["items"][0]["ctx"]["labels"]["a"], "b");
        assert_eq!(value["items"][0]["ctx"]["promises"], "00a9");
    }
}
