//! The fixed-width part of a task that changes with every transition.
//!
//! It keeps its length while a task lives, so that a store overwrites it in place instead of moving the rows around it;
//! measured against variable-length numbers that saved more page writes than the shorter rows did.

use tidewheel_engine::id::{QueueId, RunId, Token, TypeId, WorkerId};
use tidewheel_engine::task::{State, Step, Task};

use super::{Decoded, damaged};
use crate::Error;

/// Bytes of the usual form.
pub const HEAD_BYTES: usize = 4 + NARROW * NUMBERS + 4 * COUNTS;

/// Version 2 added `started` at the end of the numbers.
const VERSION: u8 = 2;
/// Version 3 has the step of a run at the end. Other tasks stay at version 2, and pay nothing for it.
const STEP_VERSION: u8 = 3;
/// Bytes of a step: run, entry, first item, items.
const STEP_BYTES: usize = 16 + 8 + 8 + 4;
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
    let version = if task.step.is_some() { STEP_VERSION } else { VERSION };
    out.extend_from_slice(&[version, task.state as u8, task.priority, flags]);
    let width = if wide { WIDE } else { NARROW };
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    for count in [task.queue.0, task.kind.0, task.attempt, task.attempt_base, task.token.epoch, task.worker.0] {
        out.extend_from_slice(&count.to_le_bytes());
    }
    if let Some(step) = &task.step {
        out.extend_from_slice(&step.run.0.to_be_bytes());
        out.extend_from_slice(&step.entry.to_le_bytes());
        out.extend_from_slice(&step.first.to_le_bytes());
        out.extend_from_slice(&step.items.to_le_bytes());
    }
}

fn decode_step(bytes: &[u8; STEP_BYTES]) -> Step {
    fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        std::array::from_fn(|index| bytes[at + index])
    }
    Step {
        run: RunId(u128::from_be_bytes(part(bytes, 0))),
        entry: u64::from_le_bytes(part(bytes, 16)),
        first: u64::from_le_bytes(part(bytes, 24)),
        items: u32::from_le_bytes(part(bytes, 32)),
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
        VERSION | STEP_VERSION => NUMBERS,
        newer => return Err(Error::TooNew(format!("a task's head of version {newer}"))),
    };
    let width = if flags & IS_WIDE != 0 { WIDE } else { NARROW };
    let (body, step) = match version {
        STEP_VERSION => {
            let (body, step) = body.split_last_chunk::<STEP_BYTES>().ok_or_else(|| wrong("it is too short"))?;
            (body, Some(Box::new(decode_step(step))))
        }
        _ => (body, None),
    };
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
    task.step = step;
    task.started = if numbers > 7 { number(7) } else { 0 };
    Ok(())
}
