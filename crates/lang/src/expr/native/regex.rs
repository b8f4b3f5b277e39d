//! Regular expressions, in time linear in the text: without look-around and back references.

use std::rc::Rc;

use ::regex::{Captures, Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

use super::super::ops;
use super::super::tank::Fault;
use super::super::value::{ENTRY, Entries, Kind, Text, Val};
use super::{Args, Host, Row, Run};

pub(super) const TABLE: &[Row] = &[("_match", 3, matches), ("_pieces", 2, pieces), ("_captures", 0, captures)];

/// Bytes that a compiled expression may take.
const MAX_SIZE: usize = 256 * 1024;
/// Expressions that an evaluation keeps.
const MAX_KEPT: usize = 16;
/// Steps for a match: about the time that making its object takes.
const MATCH_STEPS: u64 = 16;

struct Flags {
    global: bool,
    skip_empty: bool,
}

fn compile<'a>(host: &mut Host, pattern: &Val<'a>, flags: &Val<'a>) -> Run<'a, (Rc<Compiled>, Flags)> {
    let (Some(text), true) = (pattern.as_str(), matches!(flags.kind(), Kind::String | Kind::Null)) else {
        let wrong = if pattern.kind() == Kind::String { flags } else { pattern };
        return Err(Fault::raise(format!("{} cannot be matched, as it is not a string", ops::describe(wrong))));
    };
    let letters = flags.as_str().unwrap_or("");
    let mut chosen = Flags { global: false, skip_empty: false };
    let mut options = String::new();
    for letter in letters.chars() {
        match letter {
            'g' => chosen.global = true,
            'n' => chosen.skip_empty = true,
            'p' => {
                chosen.skip_empty = true;
                options.push('s');
            }
            'i' | 'x' | 's' => options.push(letter),
            'l' => {}
            _ => return Err(Fault::raise(format!("{letters} is not a valid modifier string"))),
        }
    }
    let key = (text.to_owned(), options);
    if let Some(known) = host.regexes.get(&key) {
        host.tank.work(text.len() / 16)?;
        return Ok((known.clone(), chosen));
    }
    // Repetitions and classes are what makes compiling dear.
    let dear = text.bytes().filter(|byte| matches!(byte, b'{' | b'\\' | b'.' | b'[')).count() as u64;
    host.tank.step(1_000 + 50 * text.len() as u64 + 2_000 * dear)?;
    host.tank.alloc(text.len() * 64)?;
    let built = RegexBuilder::new(text)
        .case_insensitive(key.1.contains('i'))
        .ignore_whitespace(key.1.contains('x'))
        .dot_matches_new_line(key.1.contains('s'))
        .size_limit(MAX_SIZE)
        .dfa_size_limit(MAX_SIZE)
        .nest_limit(64)
        .build();
    let regex = match built {
        Ok(regex) => {
            // It has been parsed, so that it can be again.
            let hir = regex_syntax::ParserBuilder::new()
                .case_insensitive(key.1.contains('i'))
                .ignore_whitespace(key.1.contains('x'))
                .nest_limit(64)
                .build()
                .parse(text);
            Rc::new(Compiled { regex, classes: hir.map_or(u64::MAX >> 32, |hir| classes(&hir)) })
        }
        Err(::regex::Error::CompiledTooBig(_)) => {
            return Err(Fault::raise(format!("{} (at offset 0) is too large a regex", ops::dump(pattern))));
        }
        Err(error) => {
            let text = error.to_string();
            let why = text.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
            let hint = if why.contains("look-around") || why.contains("backreference") {
                "; expressions have to be linear in time"
            } else {
                ""
            };
            return Err(Fault::raise(format!("{} is not a valid regex: {why}{hint}", ops::dump(pattern))));
        }
    };
    if host.regexes.len() >= MAX_KEPT {
        host.regexes.clear();
    }
    host.regexes.insert(key, regex.clone());
    Ok((regex, chosen))
}

fn subject<'v, 'a>(dot: &'v Val<'a>) -> Run<'a, &'v str> {
    match dot.as_str() {
        Some(text) => Ok(text),
        None => Err(Fault::raise(format!("{} cannot be matched, as it is not a string", ops::describe(dot)))),
    }
}

/// A compiled expression with what it costs.
pub(in super::super) struct Compiled {
    regex: Regex,
    /// Classes, those in repetitions as often as they repeat.
    classes: u64,
}

impl Compiled {
    /// Steps of a search through so many bytes. With few classes the automaton is small and takes a nanosecond or two for a
    /// byte; with more it may not fit into its bounds, and each byte then costs as much as there are classes.
    fn search(&self, bytes: usize) -> u64 {
        match self.classes {
            0..12 => 1 + bytes as u64 / 64,
            classes => 1 + bytes as u64 * classes / 16,
        }
    }
}

/// Counts the classes of an expression.
fn classes(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Class(_) => 1,
        HirKind::Repetition(repetition) => {
            let times = u64::from(repetition.max.unwrap_or(repetition.min + 1).max(1));
            classes(&repetition.sub).saturating_mul(times)
        }
        HirKind::Capture(capture) => classes(&capture.sub),
        // A choice is a class too: `(a|b)` is `[ab]`.
        HirKind::Alternation(parts) => parts.iter().map(classes).fold(1, u64::saturating_add),
        HirKind::Concat(parts) => parts.iter().map(classes).fold(0, u64::saturating_add),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) => 0,
    }
}

/// Calls `each` for the matches, with the bytes of the text that came before.
fn scan<'v, 'a>(
    host: &mut Host,
    compiled: &Compiled,
    flags: &Flags,
    text: &'v str,
    mut each: impl FnMut(&mut Host, &Captures<'v>) -> Run<'a, ()>,
) -> Run<'a, ()> {
    let mut from = 0;
    while from <= text.len() {
        // A search may look at all that is left, however near the match that it finds.
        host.tank.step(MATCH_STEPS + compiled.search(text.len() - from))?;
        let Some(found) = compiled.regex.captures_at(text, from) else { return Ok(()) };
        let Some(whole) = found.get(0) else { return Ok(()) };
        if !(whole.is_empty() && flags.skip_empty) {
            each(host, &found)?;
        }
        if !flags.global {
            return Ok(());
        }
        from = match whole.is_empty() {
            true => whole.end() + text[whole.end()..].chars().next().map_or(1, char::len_utf8),
            false => whole.end(),
        };
    }
    Ok(())
}

/// Counts characters up to positions that only rise.
struct Characters<'v> {
    text: &'v str,
    bytes: usize,
    count: usize,
}

impl<'v> Characters<'v> {
    fn new(text: &'v str) -> Characters<'v> {
        Characters { text, bytes: 0, count: 0 }
    }

    fn at(&mut self, bytes: usize) -> usize {
        if bytes < self.bytes {
            return self.text[..bytes].chars().count();
        }
        self.count += self.text[self.bytes..bytes].chars().count();
        self.bytes = bytes;
        self.count
    }
}

fn part<'a>(host: &mut Host, offset: i64, text: Option<&str>) -> Run<'a, Entries<'a>> {
    host.tank.alloc(4 * ENTRY)?;
    let length = text.map_or(0, |text| text.chars().count());
    let string = match text {
        Some(text) => Val::text(text, &mut host.tank)?,
        None => Val::Null,
    };
    let mut entries = Entries::with_capacity(4);
    entries.insert(Text::Ref("offset"), Val::Int(offset));
    entries.insert(Text::Ref("length"), Val::Int(length as i64));
    entries.insert(Text::Ref("string"), string);
    Ok(entries)
}

fn object<'v, 'a>(
    host: &mut Host,
    regex: &Regex,
    found: &Captures<'v>,
    characters: &mut Characters<'v>,
) -> Run<'a, Val<'a>> {
    let mut groups = Vec::new();
    let (mut start, mut whole) = (0, "");
    if let Some(all) = found.get(0) {
        start = characters.at(all.start());
        whole = all.as_str();
    }
    let base = found.get(0).map_or(0, |all| all.start());
    for (group, name) in found.iter().zip(regex.capture_names()).skip(1) {
        let offset = match group {
            Some(group) => (start + characters.text[base..group.start()].chars().count()) as i64,
            None => -1,
        };
        let mut entries = part(host, offset, group.map(|group| group.as_str()))?;
        let name = match name {
            Some(name) => Val::text(name, &mut host.tank)?,
            None => Val::Null,
        };
        entries.insert(Text::Ref("name"), name);
        groups.push(Val::object(entries)?);
    }
    let mut entries = part(host, start as i64, Some(whole))?;
    entries.insert(Text::Ref("captures"), Val::charged(groups, &mut host.tank)?);
    Val::object(entries)
}

/// The matches, or with a true third argument whether there is one.
fn matches<'a>(host: &mut Host, dot: Val<'a>, [pattern, flags, test]: Args<'a>) -> Run<'a, Val<'a>> {
    let text = subject(&dot)?;
    let (regex, flags) = compile(host, &pattern, &flags)?;
    if test.truthy() && !flags.skip_empty {
        host.tank.step(regex.search(text.len()))?;
        return Ok(Val::Bool(regex.regex.is_match(text)));
    }
    let mut found = Vec::new();
    let mut characters = Characters::new(text);
    scan(host, &regex, &flags, text, |host, captures| {
        found.push(object(host, &regex.regex, captures, &mut characters)?);
        Ok(())
    })?;
    match test.truthy() {
        true => Ok(Val::Bool(!found.is_empty())),
        false => Val::charged(found, &mut host.tank),
    }
}

/// Of each match the text before it and the match, and at the end the text after the last.
fn pieces<'a>(host: &mut Host, dot: Val<'a>, [pattern, flags, _]: Args<'a>) -> Run<'a, Val<'a>> {
    let text = subject(&dot)?;
    let (regex, flags) = compile(host, &pattern, &flags)?;
    let mut made = Vec::new();
    let mut characters = Characters::new(text);
    let mut done = 0;
    scan(host, &regex, &flags, text, |host, captures| {
        let Some(whole) = captures.get(0) else { return Ok(()) };
        let gap = Val::text(&text[done..whole.start()], &mut host.tank)?;
        done = whole.end();
        let found = object(host, &regex.regex, captures, &mut characters)?;
        made.push(Val::charged(vec![gap, found], &mut host.tank)?);
        Ok(())
    })?;
    made.push(Val::text(&text[done..], &mut host.tank)?);
    Val::charged(made, &mut host.tank)
}

/// The named groups of a match as an object.
fn captures<'a>(host: &mut Host, dot: Val<'a>, _: Args<'a>) -> Run<'a, Val<'a>> {
    let mut entries = Entries::new();
    let groups = dot.get("captures").unwrap_or(Val::Null);
    for at in 0..groups.len() {
        let Some(group) = groups.item(at) else { continue };
        if let (Some(Val::Str(name)), Some(value)) = (group.get("name"), group.get("string")) {
            host.tank.alloc(ENTRY)?;
            entries.insert(name, value);
        }
    }
    Val::object(entries)
}
