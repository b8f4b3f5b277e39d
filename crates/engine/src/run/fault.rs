//! Errors of a run: problem details (RFC 7807) with the types of the standard.

use std::sync::Arc;

use super::data::{Data, measure};
use super::eval::Json;
use super::plan::Profile;

/// The types that the standard names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// The workflow or its surroundings are set up wrongly. 400.
    Configuration,
    /// Data do not fit. 400.
    Validation,
    /// An expression failed. 400.
    Expression,
    /// Not known who asks. 401.
    Authentication,
    /// Not allowed. 403.
    Authorization,
    /// Took too long. 408.
    Timeout,
    /// The other side failed or could not be reached. 500.
    Communication,
    /// The run cannot go on so. 500.
    Runtime,
}

const NAMES: [(Standard, &str, u16, &str); 8] = [
    (Standard::Configuration, "configuration", 400, "Configuration Error"),
    (Standard::Validation, "validation", 400, "Validation Error"),
    (Standard::Expression, "expression", 400, "Expression Error"),
    (Standard::Authentication, "authentication", 401, "Authentication Error"),
    (Standard::Authorization, "authorization", 403, "Authorization Error"),
    (Standard::Timeout, "timeout", 408, "Timeout Error"),
    (Standard::Communication, "communication", 500, "Communication Error"),
    (Standard::Runtime, "runtime", 500, "Runtime Error"),
];
const HOSTS: [&str; 2] = ["serverlessworkflow.io", "open-workflow-specification.org"];
const PATHS: [&str; 2] = ["/spec/1.0.0/errors/", "/dsl/errors/types/"];

impl Standard {
    /// Its row; the table has one for each.
    fn row(self) -> (&'static str, u16, &'static str) {
        NAMES.iter().find(|row| row.0 == self).map_or(("runtime", 500, "Runtime Error"), |row| (row.1, row.2, row.3))
    }

    /// The address by which a profile calls it.
    pub fn uri(self, profile: Profile) -> String {
        let host = match profile {
            Profile::V1_0_3 => HOSTS[0],
            Profile::Next => HOSTS[1],
        };
        format!("https://{host}{}{}", PATHS[0], self.row().0)
    }

    /// The type behind an address of either host and either path; `None` = not one of the standard's.
    pub fn read(uri: &str) -> Option<Standard> {
        let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"))?;
        let rest = HOSTS.iter().find_map(|host| rest.strip_prefix(host))?;
        let name = PATHS.iter().find_map(|path| rest.strip_prefix(path))?;
        NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

/// Whether two types are the same: the standard's by meaning, others by their text.
pub fn same_type(a: &str, b: &str) -> bool {
    match (Standard::read(a), Standard::read(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a == b,
        _ => false,
    }
}

/// An error: an object with `type`, `status`, `title`, `detail`, `instance`, and what else came with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault(pub Arc<Json>);

impl Fault {
    /// One of the standard's.
    pub fn new(standard: Standard, profile: Profile, detail: &str, instance: &str) -> Fault {
        let (_, status, title) = standard.row();
        Fault(Arc::new(serde_json::json!({
            "type": standard.uri(profile), "status": status, "title": title, "detail": detail, "instance": instance,
        })))
    }

    /// What was raised or came from outside, made whole: a standard type in the words of the profile, a status, and
    /// `instance` where it has none. What is no object becomes the detail of a `runtime` error.
    pub fn complete(value: &Json, profile: Profile, instance: &str) -> Fault {
        let Json::Object(given) = value else {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return Fault::new(Standard::Runtime, profile, &text, instance);
        };
        let mut error = given.clone();
        let standard = given.get("type").and_then(Json::as_str).map_or(Some(Standard::Runtime), Standard::read);
        if let Some(standard) = standard {
            error.insert("type".into(), standard.uri(profile).into());
        }
        let absent = |error: &serde_json::Map<String, Json>, key: &str| error.get(key).is_none_or(Json::is_null);
        if absent(&error, "status") {
            error.insert("status".into(), standard.map_or(500, |standard| standard.row().1).into());
        }
        if absent(&error, "title")
            && let Some(standard) = standard
        {
            error.insert("title".into(), standard.row().2.into());
        }
        // An error of a run that was started, or that could not be, may be of no statement of its own: then it is of the one that waits.
        if absent(&error, "instance") || error["instance"] == "" {
            error.insert("instance".into(), instance.into());
        }
        Fault(Arc::new(Json::Object(error)))
    }

    /// As a value.
    pub fn data(&self) -> Data {
        Data::Inline { size: measure(&self.0) as u32, value: self.0.clone() }
    }

    /// Its type.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Json::as_str).unwrap_or_default()
    }

    /// Whether it is what became of this when it was made whole ([`Fault::complete`]).
    pub fn says(&self, given: &Json) -> bool {
        match given {
            Json::Object(given) => given.iter().all(|(key, value)| match (key.as_str(), value.as_str()) {
                ("type", Some(kind)) => same_type(kind, self.kind()),
                _ => value.is_null() || self.0.get(key) == Some(value),
            }),
            _ => self.0.get("detail").and_then(Json::as_str) == given.as_str() && given.is_string(),
        }
    }

    /// Whether it is like a filter: each of the five members that the filter has is equal.
    pub fn fits(&self, filter: &Json) -> bool {
        let Json::Object(filter) = filter else { return filter.is_null() };
        ["type", "status", "instance", "title", "detail"].iter().all(|key| {
            let Some(wanted) = filter.get(*key).filter(|wanted| !wanted.is_null()) else { return true };
            let Some(found) = self.0.get(*key) else { return false };
            match (*key, wanted.as_str(), found.as_str()) {
                ("type", Some(wanted), Some(found)) => same_type(wanted, found),
                _ => wanted == found || wanted.as_f64().is_some() && wanted.as_f64() == found.as_f64(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_type_is_the_same_under_either_host_and_path() {
        let spec = "https://serverlessworkflow.io/spec/1.0.0/errors/communication";
        for other in [
            "https://serverlessworkflow.io/dsl/errors/types/communication",
            "https://open-workflow-specification.org/spec/1.0.0/errors/communication",
            "https://open-workflow-specification.org/dsl/errors/types/communication",
        ] {
            assert!(same_type(spec, other), "{other}");
        }
        assert!(!same_type(spec, "https://serverlessworkflow.io/spec/1.0.0/errors/timeout"));
        assert!(!same_type("https://a.org/x", "https://b.org/x"), "others literally");
    }

    #[test]
    fn what_came_from_outside_is_made_whole() {
        let given = serde_json::json!({"type": "https://open-workflow-specification.org/dsl/errors/types/timeout"});
        let fault = Fault::complete(&given, Profile::V1_0_3, "/do/0/a");
        assert_eq!(fault.kind(), "https://serverlessworkflow.io/spec/1.0.0/errors/timeout");
        assert_eq!(fault.0["status"], 408);
        assert_eq!(fault.0["instance"], "/do/0/a");
        assert!(fault.fits(&serde_json::json!({"status": 408.0})));
        assert!(!fault.fits(&serde_json::json!({"status": 400})));
    }
}
