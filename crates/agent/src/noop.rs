//! Task types the agent does itself, for benchmarks and demonstrations: `builtin.noop`, `builtin.echo`, `builtin.sleep`
//! and `builtin.fail`. They touch nothing outside this process.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tidewheel_proto::builtin::PREFIX;
use tidewheel_proto::v1::Grant;

use crate::error::Fault;

/// A sleep cannot outlive any sensible demonstration.
const MAX_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a built-in task.
#[derive(Debug, PartialEq)]
pub(crate) enum Builtin {
    Done(Result<Bytes, Fault>),
    Sleep(Duration),
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

/// A type is served by its longest known prefix, so that `builtin.noop.a` and `builtin.noop.b` can be told apart.
pub(crate) fn run(grant: &Grant) -> Builtin {
    let name = &grant.r#type[PREFIX.len()..];
    match name.split('.').next().unwrap_or_default() {
        "noop" => Builtin::Done(Ok(Bytes::from_static(b"null"))),
        "echo" if grant.input.is_empty() => Builtin::Done(Ok(Bytes::from_static(b"null"))),
        "echo" => Builtin::Done(Ok(grant.input.clone())),
        "sleep" => match serde_json::from_slice::<Sleep>(&grant.input) {
            Ok(sleep) => Builtin::Sleep(Duration::from_millis(sleep.ms).min(MAX_SLEEP)),
            Err(e) => Builtin::Done(Err(Fault::new(
                "invalid-input",
                format!("builtin.sleep takes {{\"ms\": n}}: {e}"),
                false,
            ))),
        },
        "fail" => Builtin::Done(Err(Fault::new("builtin-failure", "this task fails on purpose", true))),
        _ => Builtin::Done(Err(Fault::new(
            "unknown-type",
            format!("there is no built-in type `{}`", grant.r#type),
            false,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtins_answer_by_prefix() {
        let run = |name: &str, input: &'static str| {
            run(&Grant { r#type: name.into(), input: Bytes::from_static(input.as_bytes()), ..Grant::default() })
        };
        assert_eq!(run("builtin.noop.x", "7"), Builtin::Done(Ok(Bytes::from_static(b"null"))));
        assert_eq!(run("builtin.echo", "[1]"), Builtin::Done(Ok(Bytes::from_static(b"[1]"))));
        assert_eq!(run("builtin.sleep", r#"{"ms":5}"#), Builtin::Sleep(Duration::from_millis(5)));
        assert!(matches!(run("builtin.sleep", "{}"), Builtin::Done(Err(f)) if !f.retryable));
        assert!(matches!(run("builtin.what", "{}"), Builtin::Done(Err(_))));
    }
}
