//! Arrays and objects.

use std::cmp::Ordering;
use std::rc::Rc;

use serde_json::Value as Json;

use super::super::builtin;
use super::super::ops;
use super::super::tank::{Fault, Tank};
use super::super::value::{ENTRY, Entries, Kind, Text, Val};
use super::{Args, Host, Row, Run, refuse, sort};

pub(super) const TABLE: &[Row] = &[
    ("error", 0, |_, dot, _| Err(Fault::Raise(dot))),
    ("type", 0, |_, dot, _| Ok(Val::Str(Text::Ref(dot.kind().name())))),
    ("length", 0, length),
    ("keys", 0, |host, dot, _| keys(host, dot, true)),
    ("keys_unsorted", 0, |host, dot, _| keys(host, dot, false)),
    ("has", 1, has),
    ("contains", 1, |host, dot, [part, ..]| contains(&dot, &part, &mut host.tank).map(Val::Bool)),
    ("reverse", 0, reverse),
    ("sort", 0, |host, dot, _| by(host, &dot, &dot.clone(), Want::Sort)),
    ("unique", 0, |host, dot, _| by(host, &dot, &dot.clone(), Want::Unique)),
    ("min", 0, |host, dot, _| by(host, &dot, &dot.clone(), Want::Min)),
    ("max", 0, |host, dot, _| by(host, &dot, &dot.clone(), Want::Max)),
    ("_sort_by", 1, |host, dot, [keys, ..]| by(host, &dot, &keys, Want::Sort)),
    ("_group_by", 1, |host, dot, [keys, ..]| by(host, &dot, &keys, Want::Group)),
    ("_unique_by", 1, |host, dot, [keys, ..]| by(host, &dot, &keys, Want::Unique)),
    ("_min_by", 1, |host, dot, [keys, ..]| by(host, &dot, &keys, Want::Min)),
    ("_max_by", 1, |host, dot, [keys, ..]| by(host, &dot, &keys, Want::Max)),
    ("to_entries", 0, to_entries),
    ("from_entries", 0, from_entries),
    ("flatten", 0, |host, dot, _| flatten(host, &dot, f64::INFINITY)),
    ("flatten", 1, flatten_to),
    ("bsearch", 1, bsearch),
    ("setpath", 2, |host, dot, [path, value, _]| {
        if path.kind() != Kind::Array {
            return Err(Fault::raise("Path must be specified as an array"));
        }
        if path.len() > 10_000 {
            return Err(Fault::raise("Path too deep"));
        }
        let keys = path.items(&mut host.tank)?;
        ops::set_path(dot, &keys, value, &mut host.tank)
    }),
    ("delpaths", 1, |host, dot, [paths, ..]| ops::delete_paths(dot, &paths, &mut host.tank)),
    ("tojson", 0, |host, dot, _| {
        let mut text = String::new();
        ops::write(&dot, &mut text, &mut host.tank)?;
        Val::text(&text, &mut host.tank)
    }),
    ("fromjson", 0, from_json),
    ("builtins", 0, |host, _, _| {
        let mut names = Vec::new();
        for name in builtin::names() {
            names.push(Val::text(&name, &mut host.tank)?);
        }
        Val::charged(names, &mut host.tank)
    }),
];

fn length<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    match (&dot, dot.kind()) {
        (_, Kind::Null) => Ok(Val::Int(0)),
        (_, Kind::Bool) => refuse(&dot, "has no length"),
        (Val::Int(value), _) => Ok(value.checked_abs().map_or_else(|| Val::Num((*value as f64).abs()), Val::Int)),
        (Val::Num(value), _) => Ok(Val::Num(value.abs())),
        (Val::Str(text), _) => {
            host.tank.work(text.len() / 16)?;
            Ok(Val::Int(text.chars().count() as i64))
        }
        (_, Kind::Number) => Ok(dot),
        _ => Ok(Val::Int(dot.len() as i64)),
    }
}

fn keys<'a>(host: &mut Host, dot: Val<'a>, sorted: bool) -> Run<'a, Val<'a>> {
    match dot.kind() {
        Kind::Array => {
            host.tank.work(dot.len())?;
            Val::charged((0..dot.len() as i64).map(Val::Int).collect(), &mut host.tank)
        }
        Kind::Object if sorted => {
            let keys = dot.sorted_keys(&mut host.tank)?;
            Val::charged(keys.into_iter().map(Val::Str).collect(), &mut host.tank)
        }
        Kind::Object => {
            let pairs = dot.pairs(&mut host.tank)?;
            Val::charged(pairs.into_iter().map(|(key, _)| Val::Str(key)).collect(), &mut host.tank)
        }
        _ => refuse(&dot, "has no keys"),
    }
}

fn has<'a>(_: &mut Host, dot: Val<'a>, [key, ..]: Args<'a>) -> Run<'a, Val<'a>> {
    match (dot.kind(), key.as_str(), key.as_f64()) {
        (Kind::Object, Some(name), _) => Ok(Val::Bool(dot.get(name).is_some())),
        (Kind::Array, _, Some(at)) => Ok(Val::Bool(at >= 0.0 && at < dot.len() as f64)),
        (kind, ..) => {
            Err(Fault::raise(format!("Cannot check whether {} has a {} key", kind.name(), key.kind().name())))
        }
    }
}

fn contains<'a>(whole: &Val<'a>, part: &Val<'a>, tank: &mut Tank) -> Run<'a, bool> {
    tank.step(1)?;
    if whole.kind() != part.kind() {
        let message =
            format!("{} and {} cannot have their containment checked", ops::describe(whole), ops::describe(part));
        return Err(Fault::raise(message));
    }
    match whole.kind() {
        Kind::Object => {
            for (key, inner) in part.pairs(tank)? {
                match whole.get(&key) {
                    Some(outer) if outer.kind() == inner.kind() && contains(&outer, &inner, tank)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        Kind::Array => {
            for at in 0..part.len() {
                let Some(inner) = part.item(at) else { continue };
                let mut found = false;
                for other in 0..whole.len() {
                    tank.step(1)?;
                    if let Some(outer) = whole.item(other)
                        && outer.kind() == inner.kind()
                        && contains(&outer, &inner, tank)?
                    {
                        found = true;
                        break;
                    }
                }
                if !found {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Kind::String => {
            let (whole, part) = (whole.as_str().unwrap_or(""), part.as_str().unwrap_or(""));
            tank.work((whole.len() + part.len()) / 8)?;
            Ok(whole.contains(part))
        }
        _ => whole.equal(part, tank),
    }
}

fn reverse<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    match dot.kind() {
        Kind::Null => Val::array(Vec::new()),
        Kind::String => {
            let text = dot.as_str().unwrap_or("");
            host.tank.work(text.len() / 8)?;
            host.tank.alloc(text.len())?;
            let reversed: String = text.chars().rev().collect();
            Val::text(&reversed, &mut host.tank)
        }
        Kind::Array => {
            let mut items = dot.into_items(&mut host.tank)?;
            host.tank.work(items.len() / 8)?;
            items.reverse();
            Val::array(items)
        }
        _ => Err(Fault::raise(format!("Cannot reverse {}", ops::describe(&dot)))),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Want {
    Sort,
    Group,
    Unique,
    Min,
    Max,
}

/// Items by their keys.
fn by<'a>(host: &mut Host, dot: &Val<'a>, keys: &Val<'a>, want: Want) -> Run<'a, Val<'a>> {
    if dot.kind() != Kind::Array {
        let what = match want {
            Want::Sort | Want::Unique => "cannot be sorted, as it is not an array",
            Want::Group => "cannot be grouped, as it is not an array",
            Want::Min | Want::Max => "cannot be searched, as it is not an array",
        };
        return refuse(dot, what);
    }
    let tank = &mut host.tank;
    let items = dot.items(tank)?;
    let keys = keys.items(tank)?;
    let mut pairs: Vec<(Val<'a>, Val<'a>)> = keys.into_iter().zip(items).collect();
    if matches!(want, Want::Min | Want::Max) {
        let mut best: Option<(Val<'a>, Val<'a>)> = None;
        for (key, item) in pairs {
            let better = match &best {
                None => true,
                Some((least, _)) => (key.compare(least, tank)? == Ordering::Less) == (want == Want::Min),
            };
            if better {
                best = Some((key, item));
            }
        }
        return Ok(best.map_or(Val::Null, |(_, item)| item));
    }
    sort(&mut pairs, tank, |(a, _), (b, _), tank| a.compare(b, tank))?;
    if want == Want::Sort {
        return Val::charged(pairs.into_iter().map(|(_, item)| item).collect(), tank);
    }
    let mut groups: Vec<(Val<'a>, Vec<Val<'a>>)> = Vec::new();
    for (key, item) in pairs {
        match groups.last_mut() {
            Some((last, group)) if last.equal(&key, tank)? => {
                if want == Want::Group {
                    group.push(item);
                }
            }
            _ => groups.push((key, vec![item])),
        }
    }
    let mut made = Vec::with_capacity(groups.len());
    for (_, mut group) in groups {
        made.push(match want {
            Want::Group => Val::charged(group, tank)?,
            _ => group.swap_remove(0),
        });
    }
    Val::charged(made, tank)
}

fn to_entries<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    if dot.kind() != Kind::Object {
        return refuse(&dot, "has no keys");
    }
    let pairs = dot.pairs(&mut host.tank)?;
    let mut made = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        host.tank.alloc(2 * ENTRY)?;
        let mut entries = Entries::with_capacity(2);
        entries.insert(Text::Ref("key"), Val::Str(key));
        entries.insert(Text::Ref("value"), value);
        made.push(Val::object(entries)?);
    }
    Val::charged(made, &mut host.tank)
}

fn from_entries<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    let items = match dot.kind() {
        Kind::Array => dot.items(&mut host.tank)?,
        Kind::Object => dot.pairs(&mut host.tank)?.into_iter().map(|(_, value)| value).collect(),
        _ => return Err(Fault::raise(format!("Cannot iterate over {}", ops::describe(&dot)))),
    };
    let mut entries = Entries::new();
    for item in items {
        if !matches!(item.kind(), Kind::Object | Kind::Null) {
            return Err(Fault::raise(format!("Cannot index {} with \"key\"", item.kind().name())));
        }
        host.tank.step(8)?;
        host.tank.alloc(ENTRY)?;
        let mut key = item.get("key").unwrap_or(Val::Null);
        if matches!(key, Val::Null) {
            let others = ["k", "name", "Name", "K", "Key"];
            let found = others.iter().filter_map(|name| item.get(name)).find(Val::truthy);
            key = found.or_else(|| item.get("Key")).unwrap_or(Val::Null);
        }
        let key = match key {
            Val::Str(text) => text,
            Val::Null | Val::Bool(_) | Val::Int(_) | Val::Num(_) => {
                let mut text = String::new();
                ops::write(&key, &mut text, &mut host.tank)?;
                Text::Own(Rc::from(text))
            }
            other => {
                let message = format!("Cannot use {} as object key", ops::describe(&other));
                return Err(Fault::raise(message));
            }
        };
        let value = ["value", "v", "Value", "V"].iter().find_map(|name| item.get(name));
        entries.insert(key, value.unwrap_or(Val::Null));
    }
    Val::object(entries)
}

fn flatten_to<'a>(host: &mut Host, dot: Val<'a>, [depth, ..]: Args<'a>) -> Run<'a, Val<'a>> {
    match depth.as_f64() {
        Some(depth) if depth < 0.0 => Err(Fault::raise("flatten depth must not be negative")),
        Some(depth) => flatten(host, &dot, depth),
        None => Err(Fault::raise("flatten depth must be a number")),
    }
}

fn flatten<'a>(host: &mut Host, dot: &Val<'a>, depth: f64) -> Run<'a, Val<'a>> {
    let mut made = Vec::new();
    flatten_into(dot, depth, &mut made, &mut host.tank)?;
    Val::charged(made, &mut host.tank)
}

fn flatten_into<'a>(from: &Val<'a>, depth: f64, into: &mut Vec<Val<'a>>, tank: &mut Tank) -> Run<'a, ()> {
    let items = match from.kind() {
        Kind::Array => from.items(tank)?,
        Kind::Object => from.pairs(tank)?.into_iter().map(|(_, value)| value).collect(),
        _ => return Err(Fault::raise(format!("Cannot iterate over {}", ops::describe(from)))),
    };
    for item in items {
        if item.kind() == Kind::Array && depth > 0.0 {
            flatten_into(&item, depth - 1.0, into, tank)?;
        } else {
            into.push(item);
        }
    }
    Ok(())
}

fn bsearch<'a>(host: &mut Host, dot: Val<'a>, [wanted, ..]: Args<'a>) -> Run<'a, Val<'a>> {
    if dot.kind() != Kind::Array {
        return refuse(&dot, "cannot be searched from");
    }
    let (mut low, mut high) = (0, dot.len());
    while low < high {
        let middle = low.midpoint(high);
        let item = dot.item(middle).unwrap_or(Val::Null);
        match item.compare(&wanted, &mut host.tank)? {
            Ordering::Equal => return Ok(Val::Int(middle as i64)),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(Val::Int(-1 - low as i64))
}

fn from_json<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    let Some(text) = dot.as_str() else {
        return refuse(&dot, "only strings can be parsed");
    };
    if matches!(text.trim(), "nan" | "NaN" | "-nan" | "-NaN") {
        return Ok(Val::Num(f64::NAN));
    }
    if text.trim().is_empty() {
        return Ok(Val::Null);
    }
    let values = text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{' | b':')).count();
    host.tank.work(text.len() / 8 + values)?;
    host.tank.alloc(text.len() + values * 2 * size_of::<Json>())?;
    match serde_json::from_str::<Json>(text) {
        Ok(json) => own(json, &mut host.tank),
        Err(error) => Err(Fault::raise(format!("{error} (while parsing '{}')", cut(text)))),
    }
}

fn cut(text: &str) -> String {
    if text.len() <= 60 {
        return text.to_owned();
    }
    text.chars().take(50).chain("...".chars()).collect()
}

/// A parsed value as one of the program's.
fn own<'a>(json: Json, tank: &mut Tank) -> Run<'a, Val<'a>> {
    tank.step(1)?;
    Ok(match json {
        Json::Null => Val::Null,
        Json::Bool(value) => Val::Bool(value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Val::Int(value),
            None => Val::Num(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Val::text(&text, tank)?,
        Json::Array(items) => {
            let items = items.into_iter().map(|item| own(item, tank)).collect::<Result<Vec<_>, _>>()?;
            Val::charged(items, tank)?
        }
        Json::Object(map) => {
            let mut entries = Entries::with_capacity(map.len());
            for (key, value) in map {
                tank.alloc(ENTRY + key.len())?;
                entries.insert(Text::Own(Rc::from(key)), own(value, tank)?);
            }
            Val::object(entries)?
        }
    })
}
