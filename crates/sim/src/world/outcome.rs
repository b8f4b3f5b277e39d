//! What attempts report.

use bytes::Bytes;
use serde_json::Value as Json;
use tidewheel_engine::id::Token;
use tidewheel_engine::task::{Failure, Outcome, Payload};

use crate::event::How;

/// The error that is not tried again by its queue.
const FINAL: u8 = 3;

/// The result of an activation. By which attempt stands first, as in every result.
pub(super) fn made_by(token: Token, result: &Json) -> Outcome {
    let result = format!("{{\"by\":\"{}-{}\",{}", token.epoch, token.grant, &result.to_string()[1..]);
    Outcome::Ok { result: Payload::Inline(Bytes::from(result)), artifacts: Vec::new() }
}

/// What a worker makes of a step of a run: one more than it was given, and by which attempt.
pub(super) fn step_outcome(token: Token, how: How, input: Option<Payload>) -> Option<Outcome> {
    let Some(Payload::Inline(bytes)) = input.filter(|_| how == How::Ok) else { return None };
    let input = serde_json::from_slice::<Json>(&bytes).ok()?;
    if input["fails"] == true {
        return Some(outcome(token, How::Error(FINAL)));
    }
    let n = input["n"].as_i64()? + 1;
    let result = format!("{{\"by\":\"{}-{}\",\"n\":{n}}}", token.epoch, token.grant);
    Some(Outcome::Ok { result: Payload::Inline(Bytes::from(result)), artifacts: Vec::new() })
}

/// What a worker reports. It names its token, so that a result can be traced to the attempt that made it.
pub(super) fn outcome(token: Token, how: How) -> Outcome {
    let mark = format!("\"{}-{}\"", token.epoch, token.grant);
    match how {
        How::Ok | How::Poison => Outcome::Ok { result: Payload::Inline(Bytes::from(mark)), artifacts: Vec::new() },
        How::Error(kind) => Outcome::Failed {
            failure: Failure {
                kind: format!("E{kind}").into(),
                message: mark.into(),
                detail: "".into(),
                retryable: kind != FINAL,
            },
            artifacts: Vec::new(),
            cancelled: false,
        },
        How::Cancelled => Outcome::Failed {
            failure: Failure { message: mark.into(), ..Failure::ours("cancelled", "") },
            artifacts: Vec::new(),
            cancelled: true,
        },
    }
}
