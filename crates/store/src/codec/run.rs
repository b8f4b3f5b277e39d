//! Durable runs as bytes: heads, turns and events.
//!
//! Written by hand, for these are the largest records and are written most often: a field goes straight into the buffer,
//! without a copy in between. The bytes are those of the other records: a version, then fields by number, of which unknown ones
//! are passed over. A number is never used again; a field that a later program adds may not stand in for one that is there.

use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::head::{HEAD_VERSION, Head};
use tidewheel_engine::run::journal::{REVISION, Segment};

use super::{Decoded, VERSION, damaged, migrate};
use crate::Error;
use fields::{Fields, Part, Values, Writer};

mod act;
mod code;
mod event;
mod fields;
mod head;
mod journal;
mod state;
mod undo;

#[cfg(test)]
mod tests;

pub use act::phase_number;
pub use head::RunFacts;

/// Appends the head of a run. What finds the run in its plan again quickly is left out.
pub fn encode_run(head: &Head, out: &mut Vec<u8>) {
    write(head, out);
}

/// Reads a head.
pub fn decode_run(bytes: &[u8]) -> Decoded<Head> {
    let head: Head = read("a run's head", bytes)?;
    if head.version > HEAD_VERSION {
        return Err(Error::TooNew(format!("a run's head of layout {}", head.version)));
    }
    // Later layouts add to earlier ones.
    Ok(Head { version: HEAD_VERSION, ..head })
}

/// Reads of a head what lists show; the rest is passed over.
pub fn decode_run_facts(bytes: &[u8]) -> Decoded<RunFacts> {
    read("a run's head", bytes)
}

/// Appends a turn.
pub fn encode_turn(segment: &Segment, out: &mut Vec<u8>) {
    write(segment, out);
}

/// Reads a turn.
pub fn decode_turn(bytes: &[u8]) -> Decoded<Segment> {
    let segment: Segment = read("a run's turn", bytes)?;
    if segment.revision > REVISION {
        return Err(Error::TooNew(format!("a run's turn of revision {}", segment.revision)));
    }
    Ok(segment)
}

/// Appends something that came for a run.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) {
    write(event, out);
}

/// Reads something that came for a run.
pub fn decode_event(bytes: &[u8]) -> Decoded<Event> {
    read("a run's event", bytes)
}

fn write(part: &impl Part, out: &mut Vec<u8>) {
    out.push(VERSION);
    part.write(&mut Writer::new(out));
}

fn read<T: Part>(what: &str, bytes: &[u8]) -> Decoded<T> {
    T::read(Fields::new(migrate(what, bytes)?), &mut Values::default())
}

/// A run that cannot be read.
fn wrong(why: &str) -> Error {
    damaged("a run", why)
}

/// What a field has to have.
fn needed<T>(found: Option<T>, what: &str) -> Decoded<T> {
    found.ok_or_else(|| wrong(&format!("it has no {what}")))
}
