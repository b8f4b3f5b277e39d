//! Short cuts for the most common shapes of expressions: they give what the machine gives, without it.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::Scope;

use super::ast::{Binary, Kind, Term};
use super::tank::{Fault, Tank};
use super::value::Val;
use super::{Global, ops};

/// A shape with a short cut.
#[derive(Debug)]
pub(super) enum Fast {
    /// A value as it is.
    Literal(Json),
    /// The dot or a variable, and keys into it.
    Path(Root, Vec<Json>),
    /// Keys and shapes.
    Object(Vec<(String, Fast)>),
    /// A path and a literal.
    Compare(Root, Vec<Json>, Binary, Json),
}

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Root {
    Dot,
    /// Index into the program's globals.
    Global(usize),
}

impl Fast {
    /// The short cut for a term, if it has one.
    pub(super) fn find(term: &Term, globals: &[Global], locals: &[Name]) -> Option<Fast> {
        if let Some(value) = super::compile::constant(term) {
            return Some(Fast::Literal(value));
        }
        match &term.kind {
            Kind::Object(entries) => {
                let mut parts = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    match &key.kind {
                        Kind::Literal(Json::String(key)) => {
                            parts.push((key.clone(), Fast::find(value, globals, locals)?));
                        }
                        _ => return None,
                    }
                }
                Some(Fast::Object(parts))
            }
            Kind::Binary(op, left, right) => {
                use Binary::{Eq, Ge, Gt, Le, Lt, Ne};
                if !matches!(op, Eq | Ne | Lt | Le | Gt | Ge) {
                    return None;
                }
                let value = super::compile::constant(right)?;
                let mut keys = Vec::new();
                let root = path(left, globals, locals, &mut keys)?;
                Some(Fast::Compare(root, keys, *op, value))
            }
            _ => {
                let mut keys = Vec::new();
                let root = path(term, globals, locals, &mut keys)?;
                Some(Fast::Path(root, keys))
            }
        }
    }

    /// Its value.
    pub(super) fn eval<'a>(
        &'a self,
        globals: &[Global],
        scope: &'a dyn Scope,
        tank: &mut Tank,
    ) -> Result<Json, Fault<'a>> {
        let value = self.make(globals, scope, tank)?;
        match super::program::deeper(&value, super::program::MAX_RESULT_DEPTH) {
            true => Err(super::program::too_deep()),
            false => Ok(value),
        }
    }

    fn make<'a>(&'a self, globals: &[Global], scope: &'a dyn Scope, tank: &mut Tank) -> Result<Json, Fault<'a>> {
        tank.step(2)?;
        match self {
            Fast::Literal(value) => copy(value, tank),
            Fast::Path(root, keys) => at(*root, keys, globals, scope, tank, copy),
            Fast::Object(parts) => {
                let mut object = serde_json::Map::with_capacity(parts.len());
                for (key, part) in parts {
                    tank.alloc(super::value::ENTRY + key.len())?;
                    object.insert(key.clone(), part.make(globals, scope, tank)?);
                }
                Ok(Json::Object(object))
            }
            Fast::Compare(root, keys, op, right) => at(*root, keys, globals, scope, tank, |left, tank| {
                let compared = ops::binary(*op, Val::from_json(left), Val::from_json(right), tank);
                match compared {
                    Ok(value) => Ok(Json::Bool(value.truthy())),
                    Err(_) => Err(Fault::Dry),
                }
            }),
        }
    }
}

fn path(term: &Term, globals: &[Global], locals: &[Name], keys: &mut Vec<Json>) -> Option<Root> {
    match &term.kind {
        Kind::Identity => Some(Root::Dot),
        Kind::Var(name) => {
            let global = Global::find(name, locals)?;
            globals.iter().position(|known| *known == global).map(Root::Global)
        }
        Kind::Index(target, key, false) => {
            let root = path(target, globals, locals, keys)?;
            match &key.kind {
                Kind::Literal(key @ (Json::String(_) | Json::Number(_))) => keys.push(key.clone()),
                _ => return None,
            }
            Some(root)
        }
        _ => None,
    }
}

fn copy<'a>(value: &Json, tank: &mut Tank) -> Result<Json, Fault<'a>> {
    tank.step(1)?;
    tank.alloc(size_of::<Json>())?;
    tank.copy(value)?;
    Ok(value.clone())
}

/// Hands on what is at a path.
fn at<'a>(
    root: Root,
    keys: &[Json],
    globals: &[Global],
    scope: &'a dyn Scope,
    tank: &mut Tank,
    take: impl FnOnce(&Json, &mut Tank) -> Result<Json, Fault<'a>>,
) -> Result<Json, Fault<'a>> {
    let whole = match root {
        Root::Dot => scope.dot(),
        Root::Global(index) => scope.var(&globals[index].asked()),
    };
    let mut found: &Json = &whole;
    for key in keys {
        tank.step(1)?;
        found = match (found, key) {
            (Json::Object(entries), Json::String(key)) => entries.get(key).unwrap_or(&Json::Null),
            (Json::Null, Json::String(_) | Json::Number(_)) => &Json::Null,
            (Json::Array(items), Json::Number(_)) => match Val::from_json(key).as_f64().map(f64::floor) {
                Some(at) if at < 0.0 && at + items.len() as f64 >= 0.0 => &items[(at + items.len() as f64) as usize],
                Some(at) if at >= 0.0 && at < items.len() as f64 => &items[at as usize],
                _ => &Json::Null,
            },
            (other, key) => {
                let (kind, key) = (Val::from_json(other).kind().name(), Val::from_json(key));
                return Err(Fault::raise(format!("Cannot index {kind} with {}", ops::describe(&key))));
            }
        };
    }
    take(found, tank)
}
