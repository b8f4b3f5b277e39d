//! Parameters of paths and queries. Every handler takes them through the two extractors of this file, so that a broken one is
//! a problem like every other; that the route knows them is checked before (see `query`).

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use tidewheel_proto::code::Code;

use super::route::Param;
use crate::problem::Failure;
use crate::service::list_tasks::{DEFAULT_LIMIT, ListRequest, MAX_LIMIT};
use crate::service::short_list::{self, Part};
use crate::text::nearest;
use crate::units::parse_duration_ms;

/// Parameters of one request, at most.
const MAX_PARAMS: usize = 64;
/// Letters of a wrong name that are said again.
const MAX_SHOWN: usize = 60;

pub(crate) const FILTER: Param = ("filter", "Which ones, in the filter grammar (docs/reference/filter).");
pub(crate) const CURSOR: Param = ("cursor", "`next_cursor` of the page before.");
pub(crate) const LIMIT: Param = ("limit", "Items of the page, 1 to 1,000; default 50.");
pub(crate) const SHORT_LIMIT: Param = ("limit", "Items of the page, 1 to 1,000; default 1,000.");
pub(crate) const FIELDS: Param = ("fields", "Only these top-level fields, separated by commas.");
pub(crate) const SORT: Param = ("sort", "`-created` (the default): newest first.");
pub(crate) const WAIT: Param = ("wait", "Waits so long for the end of the task, such as `30s`.");

/// The placeholders of a path, as texts.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        // A name that cannot be decoded names nothing: the uniform answer.
        let broken =
            |_| Failure::new(Code::NotFound, "There is nothing at this path: it is not percent-encoded UTF-8.");
        read.map(|axum::extract::Path(read)| Path(read)).map_err(broken)
    }
}

/// The parameters of a query, and which version of the answer the caller has.
#[derive(Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    /// `If-None-Match`.
    has: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let has = parts.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Params { has, ..Params::parse(parts.uri.query())? })
    }
}

impl Params {
    pub(crate) fn parse(query: Option<&str>) -> Result<Params, Failure> {
        let Some(query) = query else { return Ok(Params::default()) };
        let mut out: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(Failure::query(pair, "the parameter is not valid percent-encoded UTF-8"));
            };
            if out.iter().any(|(known, _)| *known == name) {
                return Err(Failure::query(&name, "the parameter occurs twice"));
            }
            out.push((name, value));
            if out.len() > MAX_PARAMS {
                return Err(Failure::query("", "too many parameters"));
            }
        }
        Ok(Params { pairs: out, has: None })
    }

    /// Whether the caller already has the answer with this tag.
    pub(crate) fn has(&self, etag: &str) -> bool {
        let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
        let is = |tag: &str| tag == "*" || opaque(tag) == opaque(etag);
        self.has.as_deref().is_some_and(|list| list.split(',').any(|tag| is(tag.trim())))
    }

    /// Refuses what the route does not know.
    pub(crate) fn only(&self, known: &[Param]) -> Result<(), Failure> {
        for (name, _) in &self.pairs {
            if !known.iter().any(|(k, _)| k == name) {
                let hint = match nearest(name, known.iter().map(|(k, _)| *k)) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None if known.is_empty() => "this path takes none".to_owned(),
                    None => format!("known are {}", known.iter().map(|(k, _)| *k).collect::<Vec<_>>().join(", ")),
                };
                return Err(Failure::query(name, format!("unknown parameter; {hint}")));
            }
        }
        Ok(())
    }

    /// Refuses fields that no answer of the route has.
    pub(crate) fn fields(&self, known: &[String]) -> Result<(), Failure> {
        let Some(text) = self.get("fields") else { return Ok(()) };
        let mut names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).peekable();
        let refused = |what: String| Failure::query("fields", format!("{what}; known are {}", known.join(", ")));
        if names.peek().is_none() {
            return Err(refused("no field is named".to_owned()));
        }
        match names.find(|name| !known.iter().any(|k| k == name)) {
            None => Ok(()),
            Some(name) => {
                let near = nearest(name, known.iter().map(String::as_str));
                let near = near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
                let shown: String = name.chars().take(MAX_SHOWN).collect();
                Err(refused(format!("there is no field '{shown}'{near}")))
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A flag: present alone, or `true`, `1`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Failure::query(name, "a flag is true or false")),
        }
    }

    pub(crate) fn number(&self, name: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse::<u64>().ok().filter(|n| bounds.contains(n));
        let detail = || format!("a whole number from {} to {} is needed", bounds.start(), bounds.end());
        number.map(Some).ok_or_else(|| Failure::query(name, detail()))
    }

    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse_duration_ms(text).map(|ms| Some(Duration::from_millis(ms))).map_err(|detail| Failure::query(name, detail))
    }

    /// Filter, cursor, limit and sort of a list.
    pub(crate) fn list(&self) -> Result<ListRequest, Failure> {
        if self.get("sort").is_some_and(|s| !matches!(s, "-created" | "-id")) {
            return Err(Failure::query("sort", "lists can be sorted by -created (newest first) only"));
        }
        Ok(ListRequest {
            filter: self.get("filter").unwrap_or_default().to_owned(),
            cursor: self.get("cursor").map(str::to_owned),
            limit: self.number("limit", 1..=MAX_LIMIT as u64)?.map_or(DEFAULT_LIMIT, |n| n as usize),
        })
    }

    /// Filter, cursor and limit of a list that is held in memory.
    pub(crate) fn short(&self) -> Result<Part, Failure> {
        let limit = self.number("limit", 1..=MAX_LIMIT as u64)?;
        Ok(Part {
            filter: self.get("filter").unwrap_or_default().to_owned(),
            cursor: self.get("cursor").map(str::to_owned),
            limit: limit.map_or(short_list::DEFAULT_LIMIT, |n| n as usize),
        })
    }

    /// The same query with another cursor, for the `Link` header.
    pub(crate) fn with_cursor(&self, cursor: &str) -> String {
        let mut out = String::new();
        for (name, value) in self.pairs.iter().filter(|(name, _)| name != "cursor") {
            out.push_str(&format!("{}={}&", encode(name), encode(value)));
        }
        out.push_str("cursor=");
        out.push_str(cursor);
        out
    }
}

pub(crate) fn decode(text: &str) -> Option<String> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = (bytes.next()? as char).to_digit(16)?;
                let low = (bytes.next()? as char).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once() {
        let params = Params::parse(Some("filter=state%3Afailed+%22time%20out%22&limit=5&flag")).unwrap();
        assert_eq!(params.get("filter"), Some("state:failed \"time out\""));
        assert!(params.flag("flag").unwrap());
        assert_eq!(params.list().unwrap().limit, 5);
        assert_eq!(Params::parse(Some(&params.with_cursor("x"))).unwrap().get("filter"), params.get("filter"));
    }

    #[test]
    fn broken_parameters_are_named() {
        for query in ["a=%", "a=%zz", "a=%ff", "a=1&a=2"] {
            assert!(Params::parse(Some(query)).is_err(), "{query}");
        }
        let params = Params::parse(Some("filtr=x")).unwrap();
        assert!(params.only(&[FILTER]).unwrap_err().0.detail.contains("did you mean 'filter'?"));
        let known = ["id".to_owned(), "state".to_owned()];
        let fields = |query: &str| Params::parse(Some(query)).unwrap().fields(&known).map_err(|e| e.0.detail.clone());
        assert!(fields("fields=id,%20state,").is_ok() && fields("limit=1").is_ok());
        assert!(fields("fields=id,stat").unwrap_err().contains("no field 'stat'; did you mean 'state'?; known are id"));
        assert!(fields("fields=,").unwrap_err().contains("no field is named; known are id, state"));
        for query in ["limit=0", "limit=1001", "limit=x", "sort=name"] {
            assert!(Params::parse(Some(query)).unwrap().list().is_err(), "{query}");
        }
    }
}
