//! Values with expressions inside.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::{EvalError, Fuel, Scope};

use super::program::Program;
use super::{ExprError, Global};

/// Levels of a template.
const MAX_DEPTH: usize = 100;

/// A value with expressions inside.
#[derive(Debug)]
pub(super) enum Template {
    /// No expression.
    Literal(Json),
    /// One expression.
    Program(Box<Program>),
    /// A string with expressions inside.
    Text(Vec<Piece>),
    /// An array.
    Array(Vec<Template>),
    /// An object.
    Object(Vec<(String, Template)>),
    /// A URI with names of top-level scalars inside.
    Uri(Vec<UriPiece>),
}

#[derive(Debug)]
pub(super) enum Piece {
    Plain(String),
    Program(Box<Program>),
}

#[derive(Debug)]
pub(super) enum UriPiece {
    Plain(String),
    Name(String),
}

/// The code and its offset of a text that is one `${ ... }`.
pub(super) fn unwrap(text: &str) -> Option<(&str, usize)> {
    let start = text.len() - text.trim_start().len();
    let trimmed = text.trim();
    let inner = trimmed.strip_prefix("${")?;
    let end = closing(inner)?;
    (end + 1 == inner.len()).then(|| (&inner[..end], start + 2))
}

/// Where the `}` is that ends an expression: not one in a string, a comment, or of an object.
fn closing(code: &str) -> Option<usize> {
    // Of each open bracket, whether it is the `\(` of a string.
    let mut open: Vec<bool> = Vec::new();
    let bytes = code.as_bytes();
    let mut at = 0;
    let mut text = false;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if text => {
                if bytes.get(at + 1) == Some(&b'(') {
                    open.push(true);
                    text = false;
                }
                at += 1;
            }
            b'"' => text = !text,
            _ if text => {}
            b'#' => at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at) - 1,
            b'(' | b'[' | b'{' => open.push(false),
            b'}' if open.is_empty() => return Some(at),
            b')' | b']' | b'}' => text = open.pop()?,
            _ => {}
        }
        at += 1;
    }
    None
}

impl Template {
    /// Finds the expressions of a value.
    pub(super) fn compile(value: &Json, locals: &[Name]) -> Result<Template, ExprError> {
        Ok(match Template::inner(value, locals, 0)? {
            Some(template) => template,
            None => Template::Literal(value.clone()),
        })
    }

    /// `None` = no expression in it.
    fn inner(value: &Json, locals: &[Name], depth: usize) -> Result<Option<Template>, ExprError> {
        if depth > MAX_DEPTH {
            return Err(ExprError::new(0, format!("a value is nested at most {MAX_DEPTH} levels deep")));
        }
        match value {
            Json::String(text) => Template::text(text, locals),
            Json::Array(items) => {
                let mut found = false;
                let mut parts = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    let part =
                        Template::inner(item, locals, depth + 1).map_err(|error| error.within(&at.to_string()))?;
                    found |= part.is_some();
                    parts.push(part.unwrap_or_else(|| Template::Literal(item.clone())));
                }
                Ok(found.then_some(Template::Array(parts)))
            }
            Json::Object(entries) => {
                let mut found = false;
                let mut parts = Vec::with_capacity(entries.len());
                for (key, item) in entries {
                    let part = Template::inner(item, locals, depth + 1).map_err(|error| error.within(key))?;
                    found |= part.is_some();
                    parts.push((key.clone(), part.unwrap_or_else(|| Template::Literal(item.clone()))));
                }
                Ok(found.then_some(Template::Object(parts)))
            }
            _ => Ok(None),
        }
    }

    fn text(text: &str, locals: &[Name]) -> Result<Option<Template>, ExprError> {
        if let Some((code, offset)) = unwrap(text) {
            let program = Program::compile(code, locals).map_err(|error| error.shifted(offset))?;
            return Ok(Some(Template::Program(Box::new(program))));
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        while let Some(found) = text[done..].find("${") {
            let start = done + found;
            let inside = &text[start + 2..];
            let Some(end) = closing(inside) else {
                return Err(ExprError::new(start, "this `${` has no `}` that ends it"));
            };
            if start > done {
                pieces.push(Piece::Plain(text[done..start].to_owned()));
            }
            let program = Program::compile(&inside[..end], locals).map_err(|error| error.shifted(start + 2))?;
            pieces.push(Piece::Program(Box::new(program)));
            done = start + 2 + end + 1;
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        if done < text.len() {
            pieces.push(Piece::Plain(text[done..].to_owned()));
        }
        Ok(Some(Template::Text(pieces)))
    }

    /// A URI template or an expression.
    pub(super) fn uri(text: &str, locals: &[Name]) -> Result<Template, ExprError> {
        if let Some(template) = Template::text(text, locals)? {
            return Ok(template);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut offset = 0;
        while let Some(start) = rest.find(['{', '}']) {
            let wrong = |message: &str| Err(ExprError::new(offset + start, message));
            if rest.as_bytes()[start] == b'}' {
                return wrong("this `}` ends nothing: a name in a URI template is written `{name}`");
            }
            let Some(length) = rest[start + 1..].find('}') else {
                return wrong("this `{` has no `}` that ends it");
            };
            let name = &rest[start + 1..start + 1 + length];
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '%');
            if name.is_empty() || !name.chars().all(plain) {
                return Err(ExprError {
                    hint: Some(
                        "for anything more write the whole URI as an expression, `${ \"https://...\\(.id)\" }`"
                            .to_owned(),
                    ),
                    ..ExprError::new(
                        offset + start,
                        format!(
                            "`{{{name}}}` is no name; only simple expansion `{{name}}` is supported in a URI template"
                        ),
                    )
                });
            }
            if start > 0 {
                pieces.push(UriPiece::Plain(rest[..start].to_owned()));
            }
            pieces.push(UriPiece::Name(name.to_owned()));
            offset += start + length + 2;
            rest = &rest[start + length + 2..];
        }
        if pieces.is_empty() {
            return Ok(Template::Literal(Json::String(text.to_owned())));
        }
        if !rest.is_empty() {
            pieces.push(UriPiece::Plain(rest.to_owned()));
        }
        Ok(Template::Uri(pieces))
    }

    /// Collects the free variables.
    pub(super) fn uses(&self, into: &mut Vec<Global>) {
        match self {
            Template::Literal(_) | Template::Uri(_) => {}
            Template::Program(program) => into.extend_from_slice(program.uses()),
            Template::Text(pieces) => {
                for piece in pieces {
                    if let Piece::Program(program) = piece {
                        into.extend_from_slice(program.uses());
                    }
                }
            }
            Template::Array(parts) => parts.iter().for_each(|part| part.uses(into)),
            Template::Object(parts) => parts.iter().for_each(|(_, part)| part.uses(into)),
        }
    }

    /// Its value.
    pub(super) fn eval(&self, scope: &dyn Scope, fuel: &mut Fuel) -> Result<Json, EvalError> {
        match self {
            Template::Literal(value) => Ok(value.clone()),
            Template::Program(program) => program.eval(scope, fuel),
            Template::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Plain(plain) => text.push_str(plain),
                        Piece::Program(program) => match program.eval(scope, fuel)? {
                            Json::String(value) => text.push_str(&value),
                            other => text.push_str(&other.to_string()),
                        },
                    }
                }
                charge(fuel, text.len())?;
                Ok(Json::String(text))
            }
            Template::Array(parts) => {
                charge(fuel, parts.len() * size_of::<Json>())?;
                parts.iter().map(|part| part.eval(scope, fuel)).collect::<Result<Vec<_>, _>>().map(Json::Array)
            }
            Template::Object(parts) => {
                charge(fuel, parts.len() * size_of::<Json>() * 3)?;
                let mut object = serde_json::Map::with_capacity(parts.len());
                for (key, part) in parts {
                    object.insert(key.clone(), part.eval(scope, fuel)?);
                }
                Ok(Json::Object(object))
            }
            Template::Uri(pieces) => expand(pieces, &scope.dot(), fuel).map(Json::String),
        }
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Template::Literal(value) => weigh(value),
            Template::Program(program) => program.weight(),
            Template::Text(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Plain(text) => 32 + text.len(),
                    Piece::Program(program) => program.weight(),
                })
                .sum(),
            Template::Array(parts) => parts.iter().map(|part| 64 + part.weight()).sum(),
            Template::Object(parts) => parts.iter().map(|(key, part)| 96 + key.len() + part.weight()).sum(),
            Template::Uri(pieces) => pieces.len() * 64,
        }
    }
}

fn expand(pieces: &[UriPiece], dot: &Json, fuel: &mut Fuel) -> Result<String, EvalError> {
    let mut uri = String::new();
    for piece in pieces {
        match piece {
            UriPiece::Plain(text) => uri.push_str(text),
            UriPiece::Name(name) => match dot.get(name) {
                None | Some(Json::Null) => {}
                Some(Json::String(text)) => encode(text, &mut uri),
                Some(value @ (Json::Bool(_) | Json::Number(_))) => encode(&value.to_string(), &mut uri),
                Some(_) => {
                    return Err(EvalError::Failed(format!(
                        "`{{{name}}}` of the URI template is an array or object; it has to be a string, number or boolean"
                    )));
                }
            },
        }
        if uri.len() as u64 > fuel.bytes {
            fuel.bytes = 0;
            return Err(EvalError::Fuel);
        }
    }
    charge(fuel, uri.len())?;
    Ok(uri)
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(super) fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => into.push(byte as char),
            _ => {
                into.push('%');
                for digit in [byte >> 4, byte & 15] {
                    into.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
                }
            }
        }
    }
}

/// Takes bytes, and a step for every 64 of them.
pub(super) fn charge(fuel: &mut Fuel, bytes: usize) -> Result<(), EvalError> {
    let bytes = bytes as u64;
    if !fuel.take(1 + bytes / 64) || fuel.bytes < bytes {
        fuel.bytes = fuel.bytes.saturating_sub(bytes);
        return Err(EvalError::Fuel);
    }
    fuel.bytes -= bytes;
    Ok(())
}

/// Bytes that a value takes, about.
pub(super) fn weigh(value: &Json) -> usize {
    match value {
        Json::String(text) => 32 + text.len(),
        Json::Array(items) => 32 + items.iter().map(weigh).sum::<usize>(),
        Json::Object(entries) => 32 + entries.iter().map(|(key, item)| 40 + key.len() + weigh(item)).sum::<usize>(),
        _ => 32,
    }
}
