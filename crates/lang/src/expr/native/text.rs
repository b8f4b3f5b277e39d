//! Strings.

use super::super::ops;
use super::super::tank::{Fault, Tank};
use super::super::value::{Kind, Val};
use super::{Args, Host, Row, Run, refuse, text_of};

pub(super) const TABLE: &[Row] = &[
    ("utf8bytelength", 0, |_, dot, _| match dot.as_str() {
        Some(text) => Ok(Val::Int(text.len() as i64)),
        None => refuse(&dot, "only strings have UTF-8 byte length"),
    }),
    ("tostring", 0, |host, dot, _| {
        if dot.kind() == Kind::String {
            return Ok(dot);
        }
        let mut text = String::new();
        ops::write(&dot, &mut text, &mut host.tank)?;
        Val::text(&text, &mut host.tank)
    }),
    ("tonumber", 0, to_number),
    ("toboolean", 0, |_, dot, _| match (&dot, dot.as_str()) {
        (Val::Bool(value), _) => Ok(Val::Bool(*value)),
        (_, Some("true")) => Ok(Val::Bool(true)),
        (_, Some("false")) => Ok(Val::Bool(false)),
        _ => refuse(&dot, "cannot be parsed as a boolean"),
    }),
    ("explode", 0, explode),
    ("implode", 0, implode),
    ("ascii_downcase", 0, |host, dot, _| change(host, &dot, "ascii_downcase", |text| text.to_ascii_lowercase())),
    ("ascii_upcase", 0, |host, dot, _| change(host, &dot, "ascii_upcase", |text| text.to_ascii_uppercase())),
    ("trim", 0, |host, dot, _| change(host, &dot, "trim", |text| text.trim().to_owned())),
    ("ltrim", 0, |host, dot, _| change(host, &dot, "trim", |text| text.trim_start().to_owned())),
    ("rtrim", 0, |host, dot, _| change(host, &dot, "trim", |text| text.trim_end().to_owned())),
    ("startswith", 1, |host, dot, [part, ..]| {
        let (text, part) = both(&dot, &part, "startswith() requires string inputs")?;
        host.tank.work(part.len() / 16)?;
        Ok(Val::Bool(text.starts_with(part)))
    }),
    ("endswith", 1, |host, dot, [part, ..]| {
        let (text, part) = both(&dot, &part, "endswith() requires string inputs")?;
        host.tank.work(part.len() / 16)?;
        Ok(Val::Bool(text.ends_with(part)))
    }),
    ("ltrimstr", 1, |host, dot, [part, ..]| trim(host, &dot, &part, true, false)),
    ("rtrimstr", 1, |host, dot, [part, ..]| trim(host, &dot, &part, false, true)),
    ("trimstr", 1, |host, dot, [part, ..]| trim(host, &dot, &part, true, true)),
    ("split", 1, |host, dot, [by, ..]| {
        let (text, by) = both(&dot, &by, "split input and separator must be strings")?;
        ops::split(text, by, &mut host.tank)
    }),
    ("join", 1, join),
    ("_concat", 0, concat),
    ("indices", 1, |host, dot, [part, ..]| indices(host, dot, part)),
    ("_strindices", 1, |host, dot, [part, ..]| string_indices(host, &dot, &part)),
    ("index", 1, |host, dot, [part, ..]| Ok(indices(host, dot, part)?.item(0).unwrap_or(Val::Null))),
    ("rindex", 1, |host, dot, [part, ..]| {
        let found = indices(host, dot, part)?;
        Ok(found.len().checked_sub(1).and_then(|last| found.item(last)).unwrap_or(Val::Null))
    }),
];

fn both<'v, 'a>(dot: &'v Val<'a>, part: &'v Val<'a>, wrong: &str) -> Run<'a, (&'v str, &'v str)> {
    match (dot.as_str(), part.as_str()) {
        (Some(text), Some(part)) => Ok((text, part)),
        _ => Err(Fault::raise(wrong)),
    }
}

fn change<'a>(host: &mut Host, dot: &Val<'a>, name: &str, make: fn(&str) -> String) -> Run<'a, Val<'a>> {
    let text = text_of(dot, || format!("{name} input must be a string")).map_err(Fault::raise)?;
    host.tank.work(text.len() / 8)?;
    host.tank.alloc(text.len())?;
    Val::text(&make(text), &mut host.tank)
}

fn trim<'a>(host: &mut Host, dot: &Val<'a>, part: &Val<'a>, start: bool, end: bool) -> Run<'a, Val<'a>> {
    let wrong = if start { "startswith() requires string inputs" } else { "endswith() requires string inputs" };
    let (text, part) = both(dot, part, wrong)?;
    host.tank.work(part.len() / 16)?;
    let mut kept = text;
    if start {
        kept = kept.strip_prefix(part).unwrap_or(kept);
    }
    if end {
        kept = kept.strip_suffix(part).unwrap_or(kept);
    }
    if kept.len() == text.len() { Ok(dot.clone()) } else { Val::text(kept, &mut host.tank) }
}

fn to_number<'a>(_: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    if dot.kind() == Kind::Number {
        return Ok(dot);
    }
    let parsed = dot.as_str().filter(|text| text.len() < 400).and_then(|text| {
        let plain = text.strip_prefix('+').unwrap_or(text);
        let digits = plain.strip_prefix('-').unwrap_or(plain);
        let number =
            digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
        let starts = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.');
        if !number || !starts || (text.starts_with('+') && plain.starts_with('-')) {
            return None;
        }
        match plain.parse::<i64>() {
            Ok(value) => Some(Val::Int(value)),
            Err(_) => plain.parse::<f64>().ok().map(Val::number),
        }
    });
    match parsed {
        Some(value) => Ok(value),
        None => refuse(&dot, "cannot be parsed as a number"),
    }
}

fn explode<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    let Some(text) = dot.as_str() else { return refuse(&dot, "cannot be exploded") };
    host.tank.work(text.len() / 4)?;
    host.tank.alloc(text.len() * size_of::<Val<'_>>())?;
    Val::array(text.chars().map(|character| Val::Int(i64::from(u32::from(character)))).collect())
}

fn implode<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    if dot.kind() != Kind::Array {
        return Err(Fault::raise("implode input must be an array"));
    }
    host.tank.work(dot.len())?;
    host.tank.alloc(dot.len() * 4)?;
    let mut text = String::new();
    for at in 0..dot.len() {
        let item = dot.item(at).unwrap_or(Val::Null);
        match item.as_f64().filter(|code| !code.is_nan()) {
            Some(code) => {
                let code = code.trunc();
                let code = if (0.0..=1_114_111.0).contains(&code) { code as u32 } else { 0xFFFD };
                text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            None => return refuse(&item, "can't be imploded, unicode codepoint needs to be numeric"),
        }
    }
    Val::text(&text, &mut host.tank)
}

fn join<'a>(host: &mut Host, dot: Val<'a>, [by, ..]: Args<'a>) -> Run<'a, Val<'a>> {
    let items = match dot.kind() {
        Kind::Object => dot.pairs(&mut host.tank)?.into_iter().map(|(_, value)| value).collect(),
        Kind::Array => dot.items(&mut host.tank)?,
        _ => return Err(Fault::raise(format!("Cannot iterate over {}", ops::describe(&dot)))),
    };
    let mut text = String::new();
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            match by.kind() {
                Kind::String => join_one(&mut text, &by, &mut host.tank)?,
                Kind::Null => {}
                _ => {
                    let left = Val::message(&*text);
                    let message = format!("{} and {} cannot be added", ops::describe(&left), ops::describe(&by));
                    return Err(Fault::raise(message));
                }
            }
        }
        join_one(&mut text, item, &mut host.tank)?;
    }
    Val::text(&text, &mut host.tank)
}

fn join_one<'a>(text: &mut String, value: &Val<'a>, tank: &mut Tank) -> Run<'a, ()> {
    match (value, value.kind()) {
        (Val::Null, _) => Ok(()),
        (_, Kind::Bool | Kind::Number) => ops::write(value, text, tank),
        (Val::Str(part), _) => {
            tank.alloc(part.len())?;
            text.push_str(part);
            Ok(())
        }
        _ => {
            let left = Val::message(&*text);
            let message = format!("{} and {} cannot be added", ops::describe(&left), ops::describe(value));
            Err(Fault::raise(message))
        }
    }
}

/// An array of strings as one.
fn concat<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    let mut text = String::new();
    for item in dot.items(&mut host.tank)? {
        match item.as_str() {
            Some(part) => {
                host.tank.alloc(part.len())?;
                text.push_str(part);
            }
            None => {
                let left = Val::message(&text);
                let message = format!("{} and {} cannot be added", ops::describe(&left), ops::describe(&item));
                return Err(Fault::raise(message));
            }
        }
    }
    Val::text(&text, &mut host.tank)
}

fn indices<'a>(host: &mut Host, dot: Val<'a>, part: Val<'a>) -> Run<'a, Val<'a>> {
    match (dot.kind(), part.kind()) {
        (Kind::Null, _) => Ok(Val::Null),
        (Kind::Array, Kind::Array) => ops::index(&dot, &part, &mut host.tank),
        (Kind::Array, _) => ops::index(&dot, &Val::array(vec![part])?, &mut host.tank),
        _ => string_indices(host, &dot, &part),
    }
}

/// Where a string is in another, in characters; occurrences may overlap.
fn string_indices<'a>(host: &mut Host, dot: &Val<'a>, part: &Val<'a>) -> Run<'a, Val<'a>> {
    let Some(text) = dot.as_str() else { return refuse(dot, "cannot be searched, as it is not a string") };
    let Some(part) = part.as_str() else { return refuse(part, "is not a string") };
    let mut found = Vec::new();
    if part.is_empty() {
        return Val::array(found);
    }
    host.tank.work(text.len() / 8)?;
    let (mut from, mut characters) = (0, 0);
    while let Some(at) = text[from..].find(part) {
        host.tank.work(1 + part.len() / 2 + at / 16)?;
        host.tank.alloc(size_of::<Val<'_>>())?;
        characters += text[from..from + at].chars().count();
        found.push(Val::Int(characters as i64));
        let first = text[from + at..].chars().next().map_or(1, char::len_utf8);
        from += at + first;
        characters += 1;
    }
    Val::array(found)
}
