//! Arithmetic and comparison, and the text of values.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::Value as Json;

use super::ast::Binary;
use super::tank::{Fault, Tank};
use super::value::{Arr, ENTRY, Kind, Obj, Text, Val};

pub(super) use super::paths::{delete_paths, get_path, index, set_path, slice_key};

type Run<'a, T> = Result<T, Fault<'a>>;

/// Characters of a value that an error shows.
const SHOWN: usize = 29;

/// The result of an operator.
pub(super) fn binary<'a>(op: Binary, left: Val<'a>, right: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    Ok(match op {
        Binary::Add => return add(left, right, tank),
        Binary::Sub => return subtract(left, right, tank),
        Binary::Mul => return multiply(left, right, tank),
        Binary::Div => return divide(&left, &right, tank),
        Binary::Mod => return remainder(&left, &right),
        Binary::Eq => Val::Bool(left.equal(&right, tank)?),
        Binary::Ne => Val::Bool(!left.equal(&right, tank)?),
        Binary::Lt => Val::Bool(left.compare(&right, tank)? == Ordering::Less),
        Binary::Le => Val::Bool(left.compare(&right, tank)? != Ordering::Greater),
        Binary::Gt => Val::Bool(left.compare(&right, tank)? == Ordering::Greater),
        Binary::Ge => Val::Bool(left.compare(&right, tank)? != Ordering::Less),
    })
}

fn cannot<'a, T>(left: &Val<'a>, right: &Val<'a>, what: &str) -> Run<'a, T> {
    Err(Fault::raise(format!("{} and {} cannot be {what}", describe(left), describe(right))))
}

/// Two integers, or two numbers.
enum Numbers {
    Ints(i64, i64),
    Floats(f64, f64),
}

fn numbers(left: &Val<'_>, right: &Val<'_>) -> Option<Numbers> {
    match (left, right) {
        (Val::Int(a), Val::Int(b)) => Some(Numbers::Ints(*a, *b)),
        _ => Some(Numbers::Floats(left.as_f64()?, right.as_f64()?)),
    }
}

fn int<'a>(exact: Option<i64>, about: impl FnOnce() -> f64) -> Val<'a> {
    exact.map_or_else(|| Val::number(about()), Val::Int)
}

fn add<'a>(left: Val<'a>, right: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    match numbers(&left, &right) {
        Some(Numbers::Ints(a, b)) => return Ok(int(a.checked_add(b), || a as f64 + b as f64)),
        Some(Numbers::Floats(a, b)) => return Ok(Val::number(a + b)),
        None => {}
    }
    match (left.kind(), right.kind()) {
        (Kind::Null, _) => Ok(right),
        (_, Kind::Null) => Ok(left),
        (Kind::String, Kind::String) => {
            let (a, b) = (left.as_str().unwrap_or(""), right.as_str().unwrap_or(""));
            tank.alloc(16 + a.len() + b.len())?;
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Val::Str(Text::Own(Rc::from(text))))
        }
        (Kind::Array, Kind::Array) => {
            if right.len() == 0 {
                return Ok(left);
            }
            let depth = left.depth().max(right.depth());
            tank.work(right.len())?;
            tank.alloc(right.len() * size_of::<Val<'_>>())?;
            let mut items = left.into_items(tank)?;
            match &right {
                Val::Arr(array) => items.extend_from_slice(&array.items),
                Val::Json(Json::Array(more)) => items.extend(more.iter().map(Val::from_json)),
                _ => {}
            }
            Ok(Val::Arr(Rc::new(Arr { depth, items })))
        }
        (Kind::Object, Kind::Object) => {
            let depth = left.depth().max(right.depth());
            let more = right.pairs(tank)?;
            let mut entries = left.into_entries(tank)?;
            entries.extend(more);
            Ok(Val::Obj(Rc::new(Obj { depth, entries })))
        }
        _ => cannot(&left, &right, "added"),
    }
}

fn subtract<'a>(left: Val<'a>, right: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    match numbers(&left, &right) {
        Some(Numbers::Ints(a, b)) => return Ok(int(a.checked_sub(b), || a as f64 - b as f64)),
        Some(Numbers::Floats(a, b)) => return Ok(Val::number(a - b)),
        None => {}
    }
    if left.kind() != Kind::Array || right.kind() != Kind::Array {
        return cannot(&left, &right, "subtracted");
    }
    let gone = right.items(tank)?;
    let mut kept = Vec::new();
    for item in left.into_items(tank)? {
        let mut found = false;
        for other in &gone {
            tank.step(1)?;
            if item.equal(other, tank)? {
                found = true;
                break;
            }
        }
        if !found {
            kept.push(item);
        }
    }
    Val::charged(kept, tank)
}

fn multiply<'a>(left: Val<'a>, right: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    match numbers(&left, &right) {
        Some(Numbers::Ints(a, b)) => return Ok(int(a.checked_mul(b), || a as f64 * b as f64)),
        Some(Numbers::Floats(a, b)) => return Ok(Val::number(a * b)),
        None => {}
    }
    let (text, times) = match (left.as_str(), right.as_f64(), left.as_f64(), right.as_str()) {
        (Some(text), Some(times), _, _) | (_, _, Some(times), Some(text)) => (text, times),
        _ if left.kind() == Kind::Object && right.kind() == Kind::Object => return merge(left, &right, tank),
        _ => return cannot(&left, &right, "multiplied"),
    };
    if times.is_nan() || times < 0.0 {
        return Ok(Val::Null);
    }
    let bytes = times.floor() * text.len() as f64;
    if bytes > f64::from(i32::MAX) {
        return Err(Fault::raise("Repeat string result too long"));
    }
    tank.alloc(bytes as usize)?;
    let times = if text.is_empty() { 0 } else { times.floor() as usize };
    Ok(Val::Str(Text::Own(Rc::from(text.repeat(times)))))
}

/// The right object over the left one, object in object.
fn merge<'a>(left: Val<'a>, right: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let more = right.pairs(tank)?;
    let mut entries = left.into_entries(tank)?;
    for (key, value) in more {
        let before = entries.get_mut(&*key).map(|before| std::mem::replace(before, Val::Null));
        let value = match before {
            Some(before) if before.kind() == Kind::Object && value.kind() == Kind::Object => {
                merge(before, &value, tank)?
            }
            _ => value,
        };
        entries.insert(key, value);
    }
    Val::object(entries)
}

fn divide<'a>(left: &Val<'a>, right: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    if let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) {
        if b == 0.0 {
            return cannot(left, right, "divided because the divisor is zero");
        }
        if let (Val::Int(x), Val::Int(y)) = (left, right)
            && x.checked_rem(*y) == Some(0)
        {
            return Ok(int(x.checked_div(*y), || a / b));
        }
        return Ok(Val::number(a / b));
    }
    match (left.as_str(), right.as_str()) {
        (Some(text), Some(by)) => split(text, by, tank),
        _ => cannot(left, right, "divided"),
    }
}

/// The parts of a text between those that are `by`; with an empty one, its characters.
pub(super) fn split<'a>(text: &str, by: &str, tank: &mut Tank) -> Run<'a, Val<'a>> {
    tank.work(text.len() / 4 + by.len())?;
    let mut parts = Vec::new();
    let mut push = |part: &str, tank: &mut Tank| -> Run<'a, ()> {
        tank.alloc(size_of::<Val<'_>>())?;
        parts.push(Val::text(part, tank)?);
        Ok(())
    };
    let mut characters = [0; 4];
    if text.is_empty() {
    } else if by.is_empty() {
        for character in text.chars() {
            push(character.encode_utf8(&mut characters), tank)?;
        }
    } else {
        for part in text.split(by) {
            push(part, tank)?;
        }
    }
    Val::array(parts)
}

fn remainder<'a>(left: &Val<'a>, right: &Val<'a>) -> Run<'a, Val<'a>> {
    let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) else {
        return cannot(left, right, "divided");
    };
    if a.is_nan() || b.is_nan() {
        return Ok(Val::Num(f64::NAN));
    }
    let whole = |value: &Val<'_>, about: f64| match value {
        Val::Int(exact) => *exact,
        _ => about as i64,
    };
    let (a, b) = (whole(left, a), whole(right, b));
    if b == 0 {
        return cannot(left, right, "divided (remainder) because the divisor is zero");
    }
    Ok(Val::Int(a.checked_rem(b.checked_abs().unwrap_or(i64::MAX)).unwrap_or(0)))
}

/// `-` of a value.
pub(super) fn negate<'a>(value: &Val<'a>) -> Run<'a, Val<'a>> {
    match value {
        Val::Int(0) => Ok(Val::Num(-0.0)),
        Val::Int(value) => Ok(int(value.checked_neg(), || -(*value as f64))),
        _ => match value.as_f64() {
            Some(value) => Ok(Val::number(-value)),
            None => Err(Fault::raise(format!("{} cannot be negated", describe(value)))),
        },
    }
}

/// An array with one more item.
pub(super) fn append<'a>(array: Val<'a>, item: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    tank.alloc(size_of::<Val<'_>>())?;
    let depth = array.depth().max(item.depth() + 1);
    if let Val::Arr(mut shared) = array {
        if let Some(array) = Rc::get_mut(&mut shared) {
            array.items.push(item);
            array.depth = super::value::fits(depth)?;
            return Ok(Val::Arr(shared));
        }
        let mut items = Val::Arr(shared).into_items(tank)?;
        items.push(item);
        return Val::array(items);
    }
    let mut items = array.into_items(tank)?;
    items.push(item);
    Val::array(items)
}

/// An object with one more entry.
pub(super) fn insert<'a>(object: Val<'a>, key: Text<'a>, value: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    tank.alloc(ENTRY)?;
    let depth = super::value::fits(object.depth().max(value.depth() + 1))?;
    if let Val::Obj(mut shared) = object {
        if let Some(object) = Rc::get_mut(&mut shared) {
            object.entries.insert(key, value);
            object.depth = depth;
            return Ok(Val::Obj(shared));
        }
        let mut entries = Val::Obj(shared).into_entries(tank)?;
        entries.insert(key, value);
        return Ok(Val::Obj(Rc::new(Obj { depth, entries })));
    }
    let mut entries = object.into_entries(tank)?;
    entries.insert(key, value);
    Ok(Val::Obj(Rc::new(Obj { depth, entries })))
}

/// A value as errors show it: its kind, and the start of its JSON.
pub(super) fn describe(value: &Val<'_>) -> String {
    format!("{} ({})", value.kind().name(), dump(value))
}

/// The start of the JSON of a value.
pub(super) fn dump(value: &Val<'_>) -> String {
    let mut tank = Tank { steps: 2_000, bytes: 2_000 };
    let mut text = String::new();
    let whole = write(value, &mut text, &mut tank).is_ok();
    if whole && text.len() <= SHOWN {
        return text;
    }
    let end = match value.kind() {
        Kind::String => "...\"",
        Kind::Array => "...]",
        Kind::Object => "...}",
        _ => "...",
    };
    let mut cut = (SHOWN - end.len()).min(text.len());
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    text.truncate(cut);
    text + end
}

/// Writes a value as JSON.
pub(super) fn write<'a>(value: &Val<'a>, into: &mut String, tank: &mut Tank) -> Run<'a, ()> {
    tank.step(1)?;
    tank.alloc(8)?;
    match value {
        Val::Null => into.push_str("null"),
        Val::Bool(value) => into.push_str(if *value { "true" } else { "false" }),
        Val::Int(value) => into.push_str(&value.to_string()),
        Val::Num(value) => into.push_str(&number_text(*value)),
        Val::Str(text) => write_text(text, into, tank)?,
        Val::Json(Json::Number(number)) => into.push_str(&number.to_string()),
        Val::Arr(_) | Val::Json(Json::Array(_)) => {
            into.push('[');
            for at in 0..value.len() {
                if at > 0 {
                    into.push(',');
                }
                if let Some(item) = value.item(at) {
                    write(&item, into, tank)?;
                }
            }
            into.push(']');
        }
        Val::Obj(object) => {
            into.push('{');
            for (at, (key, value)) in object.entries.iter().enumerate() {
                write_entry(at, key, value, into, tank)?;
            }
            into.push('}');
        }
        Val::Json(Json::Object(entries)) => {
            into.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                write_entry(at, key, &Val::from_json(value), into, tank)?;
            }
            into.push('}');
        }
        Val::Json(_) => into.push_str("null"),
    }
    Ok(())
}

fn write_entry<'a>(at: usize, key: &str, value: &Val<'a>, into: &mut String, tank: &mut Tank) -> Run<'a, ()> {
    if at > 0 {
        into.push(',');
    }
    write_text(key, into, tank)?;
    into.push(':');
    write(value, into, tank)
}

fn write_text<'a>(text: &str, into: &mut String, tank: &mut Tank) -> Run<'a, ()> {
    // A long text is cut for the error that shows it, so that the charge may come after the first bytes.
    if tank.alloc(text.len() + 2).is_err() {
        into.push('"');
        into.extend(text.chars().take(SHOWN * 2));
        return Err(Fault::Dry);
    }
    into.push('"');
    for character in text.chars() {
        match character {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            '\u{8}' => into.push_str("\\b"),
            '\u{c}' => into.push_str("\\f"),
            control if (control as u32) < 0x20 || control == '\u{7f}' => {
                tank.alloc(6)?;
                into.push_str("\\u00");
                for digit in [control as u32 >> 4, control as u32 & 15] {
                    into.push(char::from_digit(digit, 16).unwrap_or('0'));
                }
            }
            other => into.push(other),
        }
    }
    into.push('"');
    Ok(())
}

/// A number that is no integer of ours.
pub(super) fn number_text(value: f64) -> String {
    if value.is_nan() {
        return "null".to_owned();
    }
    if value.is_infinite() {
        return number_text(f64::MAX.copysign(value));
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0.0" }.to_owned();
    }
    // Shortest digits that give the number again: `d.ddde±x`.
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count() as i32;
    let point = exponent + 1;
    if point > -5 && point <= digits + 15 {
        let plain = format!("{value}");
        // What came in as `1.0` stays so.
        return if value.trunc() == value && value.abs() <= 9_007_199_254_740_992.0 { plain + ".0" } else { plain };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
