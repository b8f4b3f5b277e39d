//! Values while a program runs. What comes from outside stays borrowed; only what a program makes is owned, and counted.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::tank::{Fault, Tank};

/// Levels that a value made by a program may have.
pub(super) const MAX_DEPTH: u32 = 512;
/// Levels that a value from outside is taken to have: parsers of JSON refuse more.
const OUTSIDE_DEPTH: u32 = 128;
/// Integers of this magnitude are exact in floating point.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Text: of the definition or scope, or made by the program.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Ref(&'a str),
    Own(Rc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Ref(text) => text,
            Text::Own(text) => text,
        }
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

/// An array with the levels that it has.
#[derive(Clone, Debug)]
pub(super) struct Arr<'a> {
    pub(super) depth: u32,
    pub(super) items: Vec<Val<'a>>,
}

/// Entries of an object, in the order of their insertion.
pub(super) type Entries<'a> = IndexMap<Text<'a>, Val<'a>>;

/// An object with the levels that it has.
#[derive(Clone, Debug)]
pub(super) struct Obj<'a> {
    pub(super) depth: u32,
    pub(super) entries: Entries<'a>,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    /// An integer; results of arithmetic that are whole and exact are integers too.
    Int(i64),
    /// Any other number; what came in as `1.0` stays so.
    Num(f64),
    Str(Text<'a>),
    /// An array or object from outside, or an integer above `i64::MAX`.
    Json(&'a Json),
    Arr(Rc<Arr<'a>>),
    Obj(Rc<Obj<'a>>),
}

/// The kinds, in their sort order (false and true are told apart when compared).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool => "boolean",
            Kind::Number => "number",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::Object => "object",
        }
    }
}

impl<'a> From<bool> for Val<'a> {
    fn from(value: bool) -> Val<'a> {
        Val::Bool(value)
    }
}

impl<'a> Val<'a> {
    /// A value from outside.
    pub(super) fn from_json(value: &'a Json) -> Val<'a> {
        match value {
            Json::Null => Val::Null,
            Json::Bool(value) => Val::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.is_u64()) {
                (Some(value), _) => Val::Int(value),
                (None, true) => Val::Json(value),
                (None, false) => Val::Num(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Val::Str(Text::Ref(text)),
            Json::Array(_) | Json::Object(_) => Val::Json(value),
        }
    }

    /// The result of arithmetic.
    pub(super) fn number(value: f64) -> Val<'a> {
        if value.trunc() == value && value.abs() <= EXACT && !(value == 0.0 && value.is_sign_negative()) {
            Val::Int(value as i64)
        } else {
            Val::Num(value)
        }
    }

    /// Text that the program made.
    pub(super) fn text(text: &str, tank: &mut Tank) -> Result<Val<'a>, Fault<'a>> {
        tank.alloc(16 + text.len())?;
        Ok(Val::Str(Text::Own(Rc::from(text))))
    }

    /// A short message, not charged.
    pub(super) fn message(text: impl AsRef<str>) -> Val<'a> {
        Val::Str(Text::Own(Rc::from(text.as_ref())))
    }

    /// An array that the program made; its items have to be charged already.
    pub(super) fn array(items: Vec<Val<'a>>) -> Result<Val<'a>, Fault<'a>> {
        let depth = 1 + items.iter().map(Val::depth).max().unwrap_or(0);
        Ok(Val::Arr(Rc::new(Arr { depth: fits(depth)?, items })))
    }

    /// An array that the program made, charged.
    pub(super) fn charged(items: Vec<Val<'a>>, tank: &mut Tank) -> Result<Val<'a>, Fault<'a>> {
        tank.alloc(32 + items.len() * size_of::<Val<'_>>())?;
        Val::array(items)
    }

    /// An object that the program made; its entries have to be charged already.
    pub(super) fn object(entries: Entries<'a>) -> Result<Val<'a>, Fault<'a>> {
        let depth = 1 + entries.values().map(Val::depth).max().unwrap_or(0);
        Ok(Val::Obj(Rc::new(Obj { depth: fits(depth)?, entries })))
    }

    /// Levels: 0 for a scalar.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Val::Arr(array) => array.depth,
            Val::Obj(object) => object.depth,
            Val::Json(Json::Array(_) | Json::Object(_)) => OUTSIDE_DEPTH,
            _ => 0,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Val::Null => Kind::Null,
            Val::Bool(_) => Kind::Bool,
            Val::Int(_) | Val::Num(_) => Kind::Number,
            Val::Str(_) => Kind::String,
            Val::Arr(_) | Val::Json(Json::Array(_)) => Kind::Array,
            Val::Obj(_) | Val::Json(Json::Object(_)) => Kind::Object,
            Val::Json(_) => Kind::Number,
        }
    }

    /// Anything but `null` and `false`.
    pub(super) fn truthy(&self) -> bool {
        !matches!(self, Val::Null | Val::Bool(false))
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Val::Int(value) => Some(*value as f64),
            Val::Num(value) => Some(*value),
            Val::Json(Json::Number(number)) => number.as_f64(),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Val::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Items of an array or entries of an object.
    pub(super) fn len(&self) -> usize {
        match self {
            Val::Arr(array) => array.items.len(),
            Val::Obj(object) => object.entries.len(),
            Val::Json(Json::Array(items)) => items.len(),
            Val::Json(Json::Object(entries)) => entries.len(),
            _ => 0,
        }
    }

    /// An item of an array.
    pub(super) fn item(&self, at: usize) -> Option<Val<'a>> {
        match self {
            Val::Arr(array) => array.items.get(at).cloned(),
            Val::Json(Json::Array(items)) => items.get(at).map(Val::from_json),
            _ => None,
        }
    }

    /// The entry of an object of the program by its position.
    pub(super) fn entry(&self, at: usize) -> Option<(Text<'a>, Val<'a>)> {
        match self {
            Val::Obj(object) => object.entries.get_index(at).map(|(key, value)| (key.clone(), value.clone())),
            _ => None,
        }
    }

    /// The value of a key of an object.
    pub(super) fn get(&self, key: &str) -> Option<Val<'a>> {
        match self {
            Val::Obj(object) => object.entries.get(key).cloned(),
            Val::Json(Json::Object(entries)) => entries.get(key).map(Val::from_json),
            _ => None,
        }
    }

    /// All entries of an object, in their order.
    pub(super) fn pairs(&self, tank: &mut Tank) -> Result<Vec<(Text<'a>, Val<'a>)>, Fault<'a>> {
        tank.work(self.len())?;
        tank.alloc(self.len() * ENTRY)?;
        Ok(match self {
            Val::Obj(object) => object.entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            Val::Json(Json::Object(entries)) => {
                entries.iter().map(|(key, value)| (Text::Ref(key), Val::from_json(value))).collect()
            }
            _ => Vec::new(),
        })
    }

    /// All items of an array.
    pub(super) fn items(&self, tank: &mut Tank) -> Result<Vec<Val<'a>>, Fault<'a>> {
        tank.work(self.len())?;
        tank.alloc(self.len() * size_of::<Val<'_>>())?;
        Ok(match self {
            Val::Arr(array) => array.items.clone(),
            Val::Json(Json::Array(items)) => items.iter().map(Val::from_json).collect(),
            _ => Vec::new(),
        })
    }

    /// All items of an array, to be changed: copied only if another holds them.
    pub(super) fn into_items(self, tank: &mut Tank) -> Result<Vec<Val<'a>>, Fault<'a>> {
        match self {
            Val::Arr(array) => match Rc::try_unwrap(array) {
                Ok(array) => Ok(array.items),
                Err(array) => Val::Arr(array).items(tank),
            },
            other => other.items(tank),
        }
    }

    /// All entries of an object, to be changed: copied only if another holds them.
    pub(super) fn into_entries(self, tank: &mut Tank) -> Result<Entries<'a>, Fault<'a>> {
        let (length, size) = (self.len(), ENTRY);
        Ok(match self {
            Val::Obj(object) => match Rc::try_unwrap(object) {
                Ok(object) => object.entries,
                Err(object) => {
                    tank.work(length * 4)?;
                    tank.alloc(length * size)?;
                    object.entries.clone()
                }
            },
            Val::Json(Json::Object(entries)) => {
                tank.work(length * 4)?;
                tank.alloc(length * size)?;
                entries.iter().map(|(key, value)| (Text::Ref(key), Val::from_json(value))).collect()
            }
            _ => Entries::new(),
        })
    }

    /// The value for the outside: what was borrowed is copied, and all of it is charged before.
    pub(super) fn into_json(self, tank: &mut Tank) -> Result<Json, Fault<'a>> {
        tank.work(1)?;
        tank.alloc(size_of::<Json>())?;
        Ok(match self {
            Val::Null => Json::Null,
            Val::Bool(value) => Json::Bool(value),
            Val::Int(value) => Json::from(value),
            Val::Num(value) => finite(value),
            Val::Str(text) => {
                tank.alloc(text.len())?;
                Json::String(text.to_string())
            }
            Val::Json(json) => {
                tank.copy(json)?;
                json.clone()
            }
            Val::Arr(array) => match Rc::try_unwrap(array) {
                Ok(array) => array.items.into_iter().map(|item| item.into_json(tank)).collect::<Result<_, _>>()?,
                Err(array) => array.items.iter().map(|item| item.clone().into_json(tank)).collect::<Result<_, _>>()?,
            },
            Val::Obj(object) => {
                let mut map = serde_json::Map::with_capacity(object.entries.len());
                for (key, value) in &object.entries {
                    tank.alloc(ENTRY + key.len())?;
                    map.insert(key.to_string(), value.clone().into_json(tank)?);
                }
                Json::Object(map)
            }
        })
    }

    /// Whether both are the same value in memory, or the same scalar: what the paths of a program are checked by.
    pub(super) fn same(&self, other: &Val<'a>) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Int(a), Val::Int(b)) => a == b,
            (Val::Num(a), Val::Num(b)) => a.to_bits() == b.to_bits(),
            (Val::Str(a), Val::Str(b)) => std::ptr::eq(&**a, &**b),
            (Val::Json(a), Val::Json(b)) => std::ptr::eq(*a, *b),
            (Val::Arr(a), Val::Arr(b)) => Rc::ptr_eq(a, b),
            (Val::Obj(a), Val::Obj(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The order of all values: null, false, true, numbers, strings, arrays, objects.
    pub(super) fn compare(&self, other: &Val<'a>, tank: &mut Tank) -> Result<Ordering, Fault<'a>> {
        tank.work(1)?;
        Ok(match (self, other) {
            (Val::Int(a), Val::Int(b)) => a.cmp(b),
            (Val::Bool(a), Val::Bool(b)) => a.cmp(b),
            (Val::Str(a), Val::Str(b)) => {
                tank.work(a.len().min(b.len()) / 16)?;
                (**a).cmp(&**b)
            }
            _ => match (self.kind(), other.kind()) {
                (a, b) if a != b => a.cmp(&b),
                (Kind::Number, _) => compare_numbers(self, other),
                (Kind::Array, _) => return compare_arrays(self, other, tank),
                (Kind::Object, _) => return compare_objects(self, other, tank),
                _ => Ordering::Equal,
            },
        })
    }

    /// Whether both are equal.
    pub(super) fn equal(&self, other: &Val<'a>, tank: &mut Tank) -> Result<bool, Fault<'a>> {
        if self.kind() != other.kind() || (self.len() != other.len()) {
            return Ok(false);
        }
        Ok(self.compare(other, tank)? == Ordering::Equal)
    }

    /// Its keys, sorted.
    pub(super) fn sorted_keys(&self, tank: &mut Tank) -> Result<Vec<Text<'a>>, Fault<'a>> {
        let length = self.len();
        tank.work(length * 8)?;
        tank.alloc(length * size_of::<Val<'_>>())?;
        let mut keys: Vec<Text<'a>> = match self {
            Val::Obj(object) => object.entries.keys().cloned().collect(),
            Val::Json(Json::Object(entries)) => entries.keys().map(|key| Text::Ref(key)).collect(),
            _ => Vec::new(),
        };
        keys.sort_unstable_by(|a, b| str::cmp(a, b));
        Ok(keys)
    }
}

/// Bytes of an entry of an object.
pub(super) const ENTRY: usize = 96;

pub(super) fn fits<'a>(depth: u32) -> Result<u32, Fault<'a>> {
    if depth > MAX_DEPTH + OUTSIDE_DEPTH {
        return Err(Fault::raise(format!("a value is nested at most {MAX_DEPTH} levels deep")));
    }
    Ok(depth)
}

/// A number as JSON has it: not-a-number is null, infinity the largest number.
pub(super) fn finite(value: f64) -> Json {
    let value = if value.is_infinite() { f64::MAX.copysign(value) } else { value };
    serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number)
}

fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Ordering {
    if let (Val::Json(Json::Number(a)), Val::Json(Json::Number(b))) = (a, b) {
        return a.as_u64().cmp(&b.as_u64());
    }
    let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
    // Not-a-number is less than every number, itself included.
    a.partial_cmp(&b).unwrap_or(if a.is_nan() { Ordering::Less } else { Ordering::Greater })
}

fn compare_arrays<'a>(a: &Val<'a>, b: &Val<'a>, tank: &mut Tank) -> Result<Ordering, Fault<'a>> {
    for at in 0..a.len().min(b.len()) {
        if let (Some(x), Some(y)) = (a.item(at), b.item(at)) {
            match x.compare(&y, tank)? {
                Ordering::Equal => {}
                unequal => return Ok(unequal),
            }
        }
    }
    Ok(a.len().cmp(&b.len()))
}

fn compare_objects<'a>(a: &Val<'a>, b: &Val<'a>, tank: &mut Tank) -> Result<Ordering, Fault<'a>> {
    let (keys, others) = (a.sorted_keys(tank)?, b.sorted_keys(tank)?);
    let order = keys.iter().map(|key| &**key).cmp(others.iter().map(|key| &**key));
    if order != Ordering::Equal {
        return Ok(order);
    }
    for key in &keys {
        if let (Some(x), Some(y)) = (a.get(key), b.get(key)) {
            match x.compare(&y, tank)? {
                Ordering::Equal => {}
                unequal => return Ok(unequal),
            }
        }
    }
    Ok(Ordering::Equal)
}

/// Two numbers as an array.
pub(super) fn number_pair<'a>(a: f64, b: f64, tank: &mut Tank) -> Result<Val<'a>, Fault<'a>> {
    Val::charged(vec![Val::number(a), Val::number(b)], tank)
}
