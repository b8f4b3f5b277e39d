//! Functions that are not written in the language itself. Each charges by the size of what it reads and makes.

mod collect;
mod format;
mod math;
mod regex;
mod text;
mod time;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use super::ops;
use super::tank::{Fault, Tank};
use super::value::Val;

pub(super) use format::into as format_into;

type Run<'a, T> = Result<T, Fault<'a>>;
/// Dot, arguments -> value.
type Args<'a> = [Val<'a>; 3];
type Call = for<'a> fn(&mut Host, Val<'a>, Args<'a>) -> Run<'a, Val<'a>>;

/// What functions have besides their arguments.
pub(super) struct Host {
    /// The fuel.
    pub(super) tank: Tank,
    /// Milliseconds since 1970: what `now` gives.
    pub(super) now: u64,
    /// Compiled regular expressions by pattern and flags.
    pub(super) regexes: HashMap<(String, String), Rc<regex::Compiled>>,
}

impl Host {
    pub(super) fn new(tank: Tank, now: u64) -> Host {
        Host { tank, now, regexes: HashMap::new() }
    }
}

/// A function: its number in the table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Native(u16);

/// Name, arguments, function.
type Row = (&'static str, u8, Call);

const TABLES: [&[Row]; 6] = [collect::TABLE, format::TABLE, math::TABLE, regex::TABLE, text::TABLE, time::TABLE];

fn rows() -> impl Iterator<Item = &'static Row> {
    TABLES.iter().flat_map(|table| table.iter())
}

/// The function of a name with so many arguments.
pub(super) fn find(name: &str, arity: usize) -> Option<Native> {
    rows().position(|(known, args, _)| *known == name && *args as usize == arity).map(|at| Native(at as u16))
}

/// The function of a format, `base64` for `@base64`.
pub(super) fn format(name: &str) -> Option<Native> {
    find(&format!("@{name}"), 0)
}

/// Their names, `name/arity`.
pub(super) fn names() -> impl Iterator<Item = String> {
    rows().filter(|(name, ..)| !name.starts_with('@')).map(|(name, arity, _)| format!("{name}/{arity}"))
}

/// Calls a function.
pub(super) fn run<'a>(native: Native, host: &mut Host, dot: Val<'a>, args: Args<'a>) -> Run<'a, Val<'a>> {
    let mut at = native.0 as usize;
    for table in TABLES {
        match table.get(at) {
            Some((_, _, call)) => return call(host, dot, args),
            None => at -= table.len(),
        }
    }
    Err(Fault::raise("no such function"))
}

/// Sorts, stable, whatever the order says.
pub(super) fn sort<'a, T>(
    items: &mut Vec<T>,
    tank: &mut Tank,
    mut order: impl FnMut(&T, &T, &mut Tank) -> Run<'a, Ordering>,
) -> Run<'a, ()> {
    tank.work(items.len())?;
    let mut width = 1;
    while width < items.len() {
        tank.alloc(items.len() * size_of::<T>())?;
        let mut merged = Vec::with_capacity(items.len());
        let mut rest = std::mem::take(items).into_iter();
        loop {
            let left: Vec<T> = rest.by_ref().take(width).collect();
            if left.is_empty() {
                break;
            }
            let right: Vec<T> = rest.by_ref().take(width).collect();
            let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
            while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
                let from = if order(a, b, tank)? == Ordering::Greater { &mut right } else { &mut left };
                merged.extend(from.next());
            }
            merged.extend(left);
            merged.extend(right);
        }
        *items = merged;
        width *= 2;
    }
    Ok(())
}

/// The text of an argument, or an error.
fn text_of<'v>(value: &'v Val<'_>, wrong: impl FnOnce() -> String) -> Result<&'v str, String> {
    value.as_str().ok_or_else(wrong)
}

/// An error that says what a value cannot be.
fn refuse<'a, T>(value: &Val<'a>, why: &str) -> Run<'a, T> {
    Err(Fault::raise(format!("{} {why}", ops::describe(value))))
}
