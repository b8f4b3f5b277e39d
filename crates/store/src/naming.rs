//! Which values a change of a run names: what is kept of them and when they may go, once for all backends.
//!
//! A value that is too large to be carried along is stored once and named by its hash. It is kept while anything names it: a run
//! that made it, was given it or has it in its journal, a task that has it as input, another value whose text has its hash. A
//! backend writes down each name in the commit that gives it, and forgets a value with the last thing that names it.

use memchr::memmem;
use tidewheel_engine::mutation::Mutation;
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head;
use tidewheel_engine::task::Payload;

use crate::Hash;

/// How a hash begins in a text.
const PREFIX: &[u8] = b"sha256:";

/// The values that a change names, each at least once. `encoded`: what the change is stored as, where it is a turn or an event;
/// a hash may also stand in the text of a value that is carried along.
pub fn names(mutation: &Mutation, encoded: &[u8], mut see: impl FnMut(&Hash)) {
    match mutation {
        // What it was given is in the turns and events that it is made of; pages of results are in the head alone.
        Mutation::PutRun(record) => head::blobs(&record.head).iter().for_each(|hash| see(&hash.0)),
        Mutation::AppendTurn { segment, .. } => {
            in_event(&segment.event, &mut see);
            segment.values.iter().for_each(|data| in_data(data, &mut see));
            in_text(encoded, see);
        }
        Mutation::PutRunEvent { event, .. } => {
            in_event(event, &mut see);
            in_text(encoded, see);
        }
        Mutation::PutValue { hash, .. } => see(hash),
        Mutation::InsertTask(task) => {
            if let Payload::Blob { hash, .. } = &task.input {
                see(hash);
            }
        }
        _ => {}
    }
}

fn in_data(data: &Data, see: &mut impl FnMut(&Hash)) {
    if let Data::Ref { hash, .. } = data {
        see(&hash.0);
    }
}

fn in_outcome(outcome: &Outcome, see: &mut impl FnMut(&Hash)) {
    if let Outcome::Ok(data) = outcome {
        in_data(data, see);
    }
}

fn in_event(event: &Event, see: &mut impl FnMut(&Hash)) {
    match event {
        Event::Start { input: data, .. } | Event::Arrived { event: data } | Event::Signal { data, .. } => {
            in_data(data, see);
        }
        Event::Done { outcome, .. } => in_outcome(outcome, see),
        Event::Items { outcomes, .. } => outcomes.iter().for_each(|outcome| in_outcome(outcome, see)),
        Event::Many { ended, .. } => {
            ended.iter().flat_map(|(_, outcomes)| outcomes).for_each(|outcome| in_outcome(outcome, see));
        }
        Event::Reset { input, .. } => input.iter().for_each(|data| in_data(data, see)),
        Event::Continue
        | Event::Fired { .. }
        | Event::Cancel { .. }
        | Event::Terminate { .. }
        | Event::Suspend { .. }
        | Event::Resume
        | Event::Retry
        | Event::Moved { .. }
        | Event::Accepted { .. } => {}
    }
}

/// The hashes that stand in a text as `sha256:` and 64 hexadecimal digits.
pub fn in_text(text: &[u8], mut see: impl FnMut(&Hash)) {
    for at in memmem::find_iter(text, PREFIX) {
        let digits = text.get(at + PREFIX.len()..at + PREFIX.len() + 64);
        if let Some(hash) = digits.and_then(hash) {
            see(&hash);
        }
    }
}

fn hash(digits: &[u8]) -> Option<Hash> {
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_in_a_text_is_a_name() {
        let found = |text: &str| {
            let mut found = Vec::new();
            in_text(text.as_bytes(), |hash| found.push(hash[0]));
            found
        };
        let digits = |digit: &str| digit.repeat(64);
        let text = format!(r#"{{"a":"sha256:{}","b":["sha256:{}"]}}"#, digits("1"), digits("a"));
        assert_eq!(found(&text), [0x11, 0xaa]);
        for text in ["sha256:", "sha256:11", &format!("sha256:{}", digits("x")), "sha256:sha256:"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
