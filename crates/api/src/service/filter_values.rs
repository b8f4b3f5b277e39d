//! What the values of a filter mean: times, lengths, ranges, beginnings. The same for every resource.

use super::filter::{Op, Value};
use crate::text::nearest;
use crate::units::{parse_duration_ms, parse_time};

/// Values that have to be whole.
pub(super) fn exact(op: Op, values: &[Value]) -> Result<Vec<&String>, String> {
    let texts = values.iter().map(|value| match value {
        Value::Exact(text) if op == Op::Is => Ok(text),
        _ => Err("this field takes whole values with ':'".to_owned()),
    });
    texts.collect()
}

/// The inclusive ranges that a comparison stands for. `read` gives the first and last number that a value means.
pub(super) fn ranges(
    op: Op,
    values: &[Value],
    read: impl Fn(&str) -> Result<(u64, u64), String>,
) -> Result<Vec<(u64, u64)>, String> {
    let one = |value: &Value| match value {
        Value::Exact(text) => {
            let (first, last) = read(text)?;
            Ok(match op {
                Op::Is => (first, last),
                Op::Greater => (last.saturating_add(1), u64::MAX),
                Op::AtLeast => (first, u64::MAX),
                // An impossible range is empty, not an error: nothing is below zero.
                Op::Less => first.checked_sub(1).map_or((1, 0), |until| (0, until)),
                Op::AtMost => (0, last),
            })
        }
        Value::Range(from, to) => {
            let from = from.as_deref().map(&read).transpose()?.map_or(0, |(first, _)| first);
            let until = to.as_deref().map(&read).transpose()?.map_or(u64::MAX, |(_, last)| last);
            Ok((from, until))
        }
        Value::Any | Value::Prefix(_) => Err("this field takes a value, a comparison or a range a..b".to_owned()),
    };
    values.iter().map(one).collect()
}

/// The inclusive ranges of [`ranges`], or any number at all for `*`.
pub(super) fn numbers(
    op: Op,
    values: &[Value],
    read: impl Fn(&str) -> Result<(u64, u64), String>,
) -> Result<Vec<(u64, u64)>, String> {
    if values == [Value::Any] { Ok(vec![(0, u64::MAX)]) } else { ranges(op, values, read) }
}

/// That there is no such state, and which one was probably meant.
pub(super) fn no_state(text: &str, known: &[&str]) -> String {
    let shown: String = text.chars().take(80).collect();
    match nearest(text, known.iter().copied()) {
        Some(near) => format!("there is no state '{shown}'; did you mean '{near}'?"),
        None => format!("there is no state '{shown}'; states are {}", known.join(", ")),
    }
}

/// A whole number.
pub(super) fn whole(text: &str) -> Result<(u64, u64), String> {
    let number = text.parse::<u64>().map_err(|_| format!("'{text}' is not a whole number"))?;
    Ok((number, number))
}

/// A duration in milliseconds.
pub(super) fn length(text: &str) -> Result<(u64, u64), String> {
    let ms = parse_duration_ms(text)?;
    Ok((ms, ms))
}

const DAY_MS: u64 = 86_400_000;

/// A time: a duration means so long ago, a date means the whole day.
pub(crate) fn moment(text: &str, now: u64) -> Result<(u64, u64), String> {
    if text == "today" {
        let start = now - now % DAY_MS;
        return Ok((start, start + DAY_MS - 1));
    }
    if text.len() == 10 && text.as_bytes()[4] == b'-' {
        let start = parse_time(&format!("{text}T00:00:00Z"))?;
        return Ok((start, start + DAY_MS - 1));
    }
    if let Ok(ms) = parse_duration_ms(text) {
        let at = now.saturating_sub(ms);
        return Ok((at, at));
    }
    let at = parse_time(text)
        .map_err(|_| format!("'{text}' is not a time; write 2h (ago), today, 2026-11-21 or 2026-11-21T07:30:00Z"))?;
    Ok((at, at))
}

/// The range of times of `created`, `after` and `before`, both ends included.
pub(super) fn created(name: &str, op: Op, values: &[Value], now: u64) -> Result<Vec<(u64, u64)>, String> {
    let op = match (name, op, values) {
        ("after", Op::Is, [Value::Exact(_)]) => Op::AtLeast,
        ("before", Op::Is, [Value::Exact(_)]) => Op::Less,
        ("after" | "before", ..) => return Err(format!("'{name}' takes one time, such as 2h, today or 2026-11-21")),
        _ => op,
    };
    ranges(op, values, |text| moment(text, now))
}

/// Whether a text is what a value asks for.
pub(crate) fn matches(value: &Value, text: Option<&str>) -> bool {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return false };
    match value {
        Value::Any => true,
        Value::Exact(wanted) => text == wanted,
        Value::Prefix(prefix) => text.starts_with(prefix.as_str()),
        Value::Range(from, to) => {
            from.as_deref().is_none_or(|from| text >= from) && to.as_deref().is_none_or(|to| text <= to)
        }
    }
}
