//! The fixed-width part of a task that changes with every transition.
//!
//! It keeps its length while a task lives, so that a store overwrites it in place instead of moving the rows around it;
//! measured against variable-length numbers that saved more page writes than the shorter rows did.

use tidewheel_engine::id::{QueueId, Token, TypeId, WorkerId};
use tidewheel_engine::task::{State, Task};

use super::{Decoded, damaged};
use crate::Error;

/// Bytes of the usual form.
pub const HEAD_BYTES: usize = 4 + NARROW * NUMBERS + 4 * COUNTS;

/// Version 2 added `started` at the end of the numbers.
const VERSION: u8 = 2;
/// Numbers of the head: seq, created, changed, due, run_at, granted, grant, started.
const NUMBERS: usize = 8;
/// Small numbers: queue, kind, attempt, attempt_base, epoch, worker.
const COUNTS: usize = 6;
/// Bytes of a number as a rule: 2^48 milliseconds are 8,900 years.
const NARROW: usize = 6;
/// Bytes of a number if one does not fit.
const WIDE: usize = 8;
/// Bits of the flag byte.
const CANCELLING: u8 = 1;
const IS_WIDE: u8 = 2;

/// Appends version, state, priority, flags, numbers, counts.
pub fn encode_head(task: &Task, out: &mut Vec<u8>) {
    let numbers =
        [task.seq, task.created, task.changed, task.due, task.run_at, task.granted, task.token.grant, task.started];
    let wide = numbers.iter().any(|n| n >> (8 * NARROW) != 0);
    let flags = u8::from(task.cancelling) * CANCELLING + u8::from(wide) * IS_WIDE;
    out.extend_from_slice(&[VERSION, task.state as u8, task.priority, flags]);
    let width = if wide { WIDE } else { NARROW };
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    for count in [task.queue.0, task.kind.0, task.attempt, task.attempt_base, task.token.epoch, task.worker.0] {
        out.extend_from_slice(&count.to_le_bytes());
    }
}

/// Fills the fields that [`encode_head`] wrote.
pub fn decode_head(bytes: &[u8], task: &mut Task) -> Decoded<()> {
    let wrong = |why| damaged("a task's head", why);
    let Some((&[version, state, priority, flags], body)) = bytes.split_first_chunk::<4>() else {
        return Err(wrong("it is too short"));
    };
    let numbers = match version {
        0 => return Err(wrong("it has no version")),
        1 => NUMBERS - 1,
        2 => NUMBERS,
        newer => return Err(Error::TooNew(format!("a task's head of version {newer}"))),
    };
    let width = if flags & IS_WIDE != 0 { WIDE } else { NARROW };
    if body.len() != width * numbers + 4 * COUNTS {
        return Err(wrong("its length is wrong"));
    }
    let number = |index: usize| {
        let mut bytes = [0u8; 8];
        bytes[..width].copy_from_slice(&body[index * width..(index + 1) * width]);
        u64::from_le_bytes(bytes)
    };
    let count = |index: usize| {
        let at = width * numbers + index * 4;
        u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]])
    };
    task.state = State::from_number(state).ok_or_else(|| wrong("it names an unknown state"))?;
    task.priority = priority;
    task.cancelling = flags & CANCELLING != 0;
    [task.seq, task.created, task.changed, task.due, task.run_at, task.granted] = std::array::from_fn(number);
    task.queue = QueueId(count(0));
    task.kind = TypeId(count(1));
    task.attempt = count(2);
    task.attempt_base = count(3);
    task.token = Token { epoch: count(4), grant: number(6) };
    task.worker = WorkerId(count(5));
    task.started = if numbers > 7 { number(7) } else { 0 };
    Ok(())
}
