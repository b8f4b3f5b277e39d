//! Reading and changing what is inside of values.

use std::rc::Rc;

use super::ops::{describe, insert};
use super::tank::{Fault, Tank};
use super::value::{Arr, Kind, MAX_DEPTH, Obj, Text, Val, fits};

type Run<'a, T> = Result<T, Fault<'a>>;

/// Items of an array that an assignment may make.
const MAX_INDEX: f64 = 536_870_911.0;

/// The key of a slice.
pub(super) fn slice_key<'a>(from: Val<'a>, to: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let object = Val::object(super::value::Entries::new())?;
    let object = insert(object, Text::Ref("start"), from, tank)?;
    insert(object, Text::Ref("end"), to, tank)
}

/// What is at a key.
pub(super) fn index<'a>(from: &Val<'a>, key: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    match (from.kind(), key.kind()) {
        (Kind::Object, Kind::String) => Ok(key.as_str().and_then(|key| from.get(key)).unwrap_or(Val::Null)),
        (Kind::Array, Kind::Number) => {
            let at = key.as_f64().unwrap_or(f64::NAN).floor();
            let at = if at < 0.0 { at + from.len() as f64 } else { at };
            let inside = at >= 0.0 && at < from.len() as f64;
            Ok(if inside { from.item(at as usize) } else { None }.unwrap_or(Val::Null))
        }
        (Kind::Null, Kind::String | Kind::Number | Kind::Null) => Ok(Val::Null),
        (Kind::Null, Kind::Object) => bounds(key, 0).map(|_| Val::Null),
        (Kind::Array, Kind::Object) => {
            let (start, end) = bounds(key, from.len())?;
            tank.work(end - start)?;
            let items = (start..end).filter_map(|at| from.item(at)).collect();
            Val::charged(items, tank)
        }
        (Kind::String, Kind::Object) => slice_text(from, key, tank),
        (Kind::Array, Kind::Array) => positions(from, key, tank),
        (kind, _) => Err(Fault::raise(format!("Cannot index {} with {}", kind.name(), describe(key)))),
    }
}

/// Start and end of a slice within a length.
fn bounds<'a>(key: &Val<'a>, length: usize) -> Run<'a, (usize, usize)> {
    let bound = |name: &str, none: f64| match key.get(name) {
        None | Some(Val::Null) => Ok(none),
        Some(value) => match value.as_f64() {
            Some(value) if value.is_nan() => Ok(none),
            Some(value) if value < 0.0 => Ok((value + length as f64).max(0.0)),
            Some(value) => Ok(value),
            None => Err(Fault::raise("Start and end indices of an array slice must be numbers")),
        },
    };
    let whole = length as f64;
    let start = bound("start", 0.0)?.floor().min(whole);
    let end = bound("end", whole)?.ceil().min(whole).max(start);
    Ok((start as usize, end as usize))
}

fn slice_text<'a>(from: &Val<'a>, key: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let text = from.as_str().unwrap_or("");
    tank.work(text.len() / 16)?;
    if text.is_ascii() {
        let (start, end) = bounds(key, text.len())?;
        return Val::text(&text[start..end], tank);
    }
    let (start, end) = bounds(key, text.chars().count())?;
    let byte = |count: usize| text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    Val::text(&text[byte(start)..byte(end)], tank)
}

/// Where an array is in another.
pub(super) fn positions<'a>(whole: &Val<'a>, part: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let mut found = Vec::new();
    if part.len() == 0 {
        return Ok(Val::Null);
    }
    for at in 0..=whole.len().saturating_sub(part.len()) {
        let mut same = whole.len() >= part.len();
        for offset in 0..part.len() {
            tank.step(1)?;
            same = same
                && match (whole.item(at + offset), part.item(offset)) {
                    (Some(a), Some(b)) => a.equal(&b, tank)?,
                    _ => false,
                };
            if !same {
                break;
            }
        }
        if same {
            found.push(Val::Int(at as i64));
        }
    }
    Val::charged(found, tank)
}

fn keys_of<'a>(path: &Val<'a>) -> Run<'a, usize> {
    if path.kind() != Kind::Array {
        return Err(Fault::raise("Path must be specified as an array"));
    }
    if path.len() > 10_000 {
        return Err(Fault::raise("Path too deep"));
    }
    Ok(path.len())
}

/// What is at a path; null where there is nothing.
pub(super) fn get_path<'a>(from: &Val<'a>, path: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let length = keys_of(path)?;
    tank.work(length)?;
    let mut found = from.clone();
    for at in 0..length {
        if matches!(found, Val::Null) {
            return Ok(Val::Null);
        }
        if let Some(key) = path.item(at) {
            found = index(&found, &key, tank)?;
        }
    }
    Ok(found)
}

/// A value with another at a path.
pub(super) fn set_path<'a>(value: Val<'a>, path: &[Val<'a>], to: Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let Some((key, rest)) = path.split_first() else { return Ok(to) };
    if path.len() > MAX_DEPTH as usize {
        return Err(Fault::raise("Path too deep"));
    }
    tank.step(1)?;
    match (value.kind(), key.kind()) {
        (Kind::Null | Kind::Object, Kind::String) => {
            let Val::Str(name) = key else { return Ok(value) };
            let depth = value.depth().max(1);
            let mut entries = value.into_entries(tank)?;
            let before = entries.get_mut(&**name).map(|before| std::mem::replace(before, Val::Null));
            if before.is_none() {
                tank.alloc(super::value::ENTRY)?;
            }
            let after = set_path(before.unwrap_or(Val::Null), rest, to, tank)?;
            let depth = fits(depth.max(after.depth() + 1))?;
            entries.insert(name.clone(), after);
            Ok(Val::Obj(Rc::new(Obj { depth, entries })))
        }
        (Kind::Null | Kind::Array, Kind::Number) => {
            let at = place(key, value.len())?;
            let depth = value.depth().max(1);
            if at >= value.len() {
                tank.alloc((at + 1 - value.len()) * size_of::<Val<'_>>())?;
                tank.work((at + 1 - value.len()) / 4)?;
            }
            let mut items = value.into_items(tank)?;
            if at >= items.len() {
                items.resize(at + 1, Val::Null);
            }
            let before = std::mem::replace(&mut items[at], Val::Null);
            let after = set_path(before, rest, to, tank)?;
            let depth = fits(depth.max(after.depth() + 1))?;
            items[at] = after;
            Ok(Val::Arr(Rc::new(Arr { depth, items })))
        }
        (Kind::Null | Kind::Array, Kind::Object) => {
            let (start, end) = bounds(key, value.len())?;
            let part = index(&value, key, tank)?;
            let part = set_path(part, rest, to, tank)?;
            if part.kind() != Kind::Array {
                return Err(Fault::raise("A slice of an array can only be assigned another array"));
            }
            let part = part.into_items(tank)?;
            let mut items = value.into_items(tank)?;
            tank.work(items.len() / 16 + part.len())?;
            items.splice(start..end, part);
            Val::array(items)
        }
        (Kind::String, Kind::Object) => Err(Fault::raise("Cannot update string slices")),
        (Kind::Array, Kind::Array) => Err(Fault::raise("Cannot update field at array index of array")),
        (Kind::Null | Kind::Array, _) => {
            Err(Fault::raise(format!("Cannot update field at {} index of array", key.kind().name())))
        }
        (kind, _) => Err(Fault::raise(format!("Cannot index {} with {}", kind.name(), describe(key)))),
    }
}

/// The position that a number means in an array of a length.
fn place<'a>(key: &Val<'a>, length: usize) -> Run<'a, usize> {
    let at = key.as_f64().unwrap_or(f64::NAN).floor();
    if at.is_nan() {
        return Err(Fault::raise("Cannot set array element at NaN index"));
    }
    let at = if at < 0.0 { at + length as f64 } else { at };
    if at < 0.0 {
        return Err(Fault::raise("Out of bounds negative array index"));
    }
    if at > MAX_INDEX {
        return Err(Fault::raise("Array index too large"));
    }
    Ok(at as usize)
}

/// A value without what is at the paths.
pub(super) fn delete_paths<'a>(value: Val<'a>, paths: &Val<'a>, tank: &mut Tank) -> Run<'a, Val<'a>> {
    if paths.kind() != Kind::Array {
        return Err(Fault::raise("Paths must be specified as an array"));
    }
    if paths.len() == 0 {
        return Ok(value);
    }
    let mut all = Vec::with_capacity(paths.len());
    for path in paths.items(tank)? {
        keys_of(&path)?;
        all.push(path.items(tank)?);
    }
    super::native::sort(&mut all, tank, |a, b, tank| {
        for (x, y) in a.iter().zip(b) {
            match x.compare(y, tank)? {
                std::cmp::Ordering::Equal => {}
                unequal => return Ok(unequal),
            }
        }
        Ok(a.len().cmp(&b.len()))
    })?;
    let all: Vec<&[Val<'a>]> = all.iter().map(Vec::as_slice).collect();
    delete(value, &all, tank)
}

/// Paths are sorted.
fn delete<'a>(mut value: Val<'a>, paths: &[&[Val<'a>]], tank: &mut Tank) -> Run<'a, Val<'a>> {
    if paths.iter().any(|path| path.is_empty()) {
        return Ok(Val::Null);
    }
    if matches!(value, Val::Null) {
        return Ok(value);
    }
    let mut gone: Vec<Val<'a>> = Vec::new();
    let mut at = 0;
    while at < paths.len() {
        let key = &paths[at][0];
        let mut end = at + 1;
        while end < paths.len() && paths[end][0].equal(key, tank)? {
            end += 1;
        }
        tank.work(end - at)?;
        // The shortest comes first: with it, all below is gone.
        if paths[at].len() == 1 {
            gone.push(key.clone());
        } else {
            let inner = index(&value, key, tank)?;
            if !matches!(inner, Val::Null) {
                let rest: Vec<&[Val<'a>]> = paths[at..end].iter().map(|path| &path[1..]).collect();
                let inner = delete(inner, &rest, tank)?;
                value = set_path(value, std::slice::from_ref(key), inner, tank)?;
            }
        }
        at = end;
    }
    if gone.is_empty() { Ok(value) } else { delete_keys(value, &gone, tank) }
}

fn delete_keys<'a>(value: Val<'a>, keys: &[Val<'a>], tank: &mut Tank) -> Run<'a, Val<'a>> {
    let wrong = |key: &Val<'a>, kind: Kind| {
        Err(Fault::raise(format!("Cannot delete field at {} index of {}", key.kind().name(), kind.name())))
    };
    let kind = value.kind();
    match kind {
        Kind::Object => {
            let depth = value.depth();
            let mut entries = value.into_entries(tank)?;
            let mut gone = std::collections::HashSet::new();
            for key in keys {
                match key.as_str() {
                    Some(name) => gone.insert(name),
                    None => return wrong(key, kind),
                };
            }
            tank.work(entries.len())?;
            entries.retain(|name, _| !gone.contains(&**name));
            Ok(Val::Obj(Rc::new(Obj { depth, entries })))
        }
        Kind::Array => {
            let length = value.len();
            tank.work(length)?;
            let mut keep = vec![true; length];
            for key in keys {
                match key.kind() {
                    Kind::Number => {
                        let at = key.as_f64().unwrap_or(f64::NAN).floor();
                        let at = if at < 0.0 { at + length as f64 } else { at };
                        if at >= 0.0 && at < length as f64 {
                            keep[at as usize] = false;
                        }
                    }
                    Kind::Object => {
                        let (start, end) = bounds(key, length)?;
                        tank.work(end - start)?;
                        keep[start..end].fill(false);
                    }
                    _ => return wrong(key, kind),
                }
            }
            let depth = value.depth();
            let mut flags = keep.into_iter();
            let mut items = value.into_items(tank)?;
            items.retain(|_| flags.next().unwrap_or(true));
            Ok(Val::Arr(Rc::new(Arr { depth, items })))
        }
        _ => wrong(keys.first().unwrap_or(&Val::Null), kind),
    }
}
