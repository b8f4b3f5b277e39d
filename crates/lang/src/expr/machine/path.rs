//! Instructions that follow paths, and remember them where they are asked for.

use std::rc::Rc;

use super::super::code::Op;
use super::super::ops;
use super::super::tank::Fault;
use super::super::value::{Kind, Val};
use super::{Machine, Run, Way};

/// A path that is being followed.
#[derive(Debug)]
pub(super) struct Track<'a> {
    /// Its last part; the others hang on it.
    path: Option<Rc<Part<'a>>>,
    /// What is there.
    at: Val<'a>,
    /// The path that was being followed before.
    outer: Option<Rc<Track<'a>>>,
    outer_nest: u32,
}

#[derive(Debug)]
struct Part<'a> {
    key: Val<'a>,
    before: Option<Rc<Part<'a>>>,
    length: usize,
}

impl Drop for Track<'_> {
    fn drop(&mut self) {
        let mut next = self.outer.take();
        while let Some(track) = next {
            next = match Rc::try_unwrap(track) {
                Ok(mut track) => track.outer.take(),
                Err(_) => None,
            };
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // One after another, so that a long path does not need a deep stack.
        let mut next = self.before.take();
        while let Some(part) = next {
            next = match Rc::try_unwrap(part) {
                Ok(mut part) => part.before.take(),
                Err(_) => None,
            };
        }
    }
}

/// Parts of a path.
const MAX_PATH: usize = 10_000;

impl<'a> Machine<'a, '_> {
    fn tracked(&self) -> Option<&Rc<Track<'a>>> {
        self.track.as_ref().filter(|_| self.nest == 0)
    }

    /// The path that is followed goes on by keys to a value.
    fn follow(&mut self, keys: impl IntoIterator<Item = Val<'a>>, to: &Val<'a>) -> Run<'a, ()> {
        let Some(track) = self.tracked() else { return Ok(()) };
        let mut path = track.path.clone();
        let (outer, outer_nest) = (track.outer.clone(), track.outer_nest);
        for key in keys {
            self.host.tank.alloc(size_of::<Part<'_>>())?;
            let length = path.as_ref().map_or(0, |part| part.length) + 1;
            if length > MAX_PATH {
                return Err(Fault::raise("Path too deep"));
            }
            path = Some(Rc::new(Part { key, before: path, length }));
        }
        self.track = Some(Rc::new(Track { path, at: to.clone(), outer, outer_nest }));
        Ok(())
    }

    /// Fails if the value is not what the path led to.
    fn on_path(&self, value: &Val<'a>, what: impl FnOnce() -> String) -> Run<'a, ()> {
        match self.tracked() {
            Some(track) if !track.at.same(value) => {
                Err(Fault::raise(format!("Invalid path expression {}{}", what(), ops::dump(value))))
            }
            _ => Ok(()),
        }
    }

    /// An instruction that follows a path.
    pub(super) fn walk(&mut self, op: Op) -> Run<'a, ()> {
        match op {
            Op::IndexAt(index, optional) => {
                let from = self.pop()?;
                self.step_into(from, self.constant(index), optional)?;
            }
            Op::Index(optional) => {
                let (from, key) = (self.pop()?, self.pop()?);
                self.step_into(from, key, optional)?;
            }
            Op::Range(optional) => {
                let (value, from, to) = (self.pop()?, self.pop()?, self.pop()?);
                let key = ops::slice_key(from, to, &mut self.host.tank)?;
                self.step_into(value, key, optional)?;
            }
            Op::Each(optional) => {
                let from = self.pop()?;
                self.on_path(&from, || "near attempt to iterate through ".to_owned())?;
                match from.kind() {
                    Kind::Array | Kind::Object => {}
                    _ if optional => return Err(Fault::Break(0)),
                    _ => return Err(Fault::raise(format!("Cannot iterate over {}", ops::describe(&from)))),
                }
                match from {
                    Val::Json(serde_json::Value::Object(entries)) => self.each_entry(entries.iter())?,
                    from => self.each(from, 0)?,
                }
            }
            Op::Sub => self.nest += 1,
            Op::SubEnd => self.nest -= 1,
            Op::Path => {
                let outer = self.track.take();
                let at = self.peek().clone();
                self.track = Some(Rc::new(Track { path: None, at, outer, outer_nest: self.nest }));
                self.nest = 0;
            }
            Op::PathEnd => self.end_path()?,
            Op::GetPath => {
                let (from, path) = (self.pop()?, self.pop()?);
                let found = ops::get_path(&from, &path, &mut self.host.tank)?;
                self.on_path(&from, || "with result ".to_owned())?;
                if self.tracked().is_some() {
                    let keys = path.items(&mut self.host.tank)?;
                    self.follow(keys, &found)?;
                }
                self.push(found);
            }
            Op::ChangeGet(whole) => {
                let path = self.pop()?;
                let whole = self.local(whole).clone();
                let found = ops::get_path(&whole, &path, &mut self.host.tank)?;
                self.push(found);
            }
            Op::ChangeSet(whole, path) => {
                let value = self.pop()?;
                let path = std::mem::replace(self.local(path), Val::Null);
                let before = std::mem::replace(self.local(whole), Val::Null);
                let keys = path.items(&mut self.host.tank)?;
                let after = ops::set_path(before, &keys, value, &mut self.host.tank)?;
                *self.local(whole) = after;
            }
            _ => {}
        }
        Ok(())
    }

    fn step_into(&mut self, from: Val<'a>, key: Val<'a>, optional: bool) -> Run<'a, ()> {
        self.on_path(&from, || format!("near attempt to access element {} of ", ops::dump(&key)))?;
        let found = match ops::index(&from, &key, &mut self.host.tank) {
            Err(Fault::Raise(_)) if optional => return Err(Fault::Break(0)),
            found => found?,
        };
        if self.track.is_some() {
            self.follow([key], &found)?;
        }
        self.push(found);
        Ok(())
    }

    fn end_path(&mut self) -> Run<'a, ()> {
        let value = self.pop()?;
        self.on_path(&value, || "with result ".to_owned())?;
        let Some(track) = self.track.take() else { return Ok(()) };
        let length = track.path.as_ref().map_or(0, |part| part.length);
        let mut keys = Vec::with_capacity(length);
        self.host.tank.work(length)?;
        let mut next = track.path.as_ref();
        while let Some(part) = next {
            keys.push(part.key.clone());
            next = part.before.as_ref();
        }
        keys.reverse();
        self.track.clone_from(&track.outer);
        self.nest = track.outer_nest;
        let path = Val::charged(keys, &mut self.host.tank)?;
        self.push(path);
        Ok(())
    }

    /// Gives the item at a position, and remembers the next one. The array is not on the stack any more.
    pub(super) fn each(&mut self, from: Val<'a>, at: usize) -> Run<'a, ()> {
        let (key, found) = match from.kind() {
            Kind::Array => (Val::Int(at as i64), from.item(at)),
            _ => match from.entry(at) {
                Some((key, value)) => (Val::Str(key), Some(value)),
                None => (Val::Null, None),
            },
        };
        let Some(found) = found else { return Err(Fault::Break(0)) };
        if at + 1 < from.len() {
            self.fork(Way::Each(from, at + 1), self.at)?;
        }
        if self.track.is_some() {
            self.follow([key], &found)?;
        }
        self.push(found);
        Ok(())
    }

    /// Like [`Machine::each`] for an object from outside.
    pub(super) fn each_entry(&mut self, mut rest: serde_json::map::Iter<'a>) -> Run<'a, ()> {
        let Some((key, value)) = rest.next() else { return Err(Fault::Break(0)) };
        let (key, found) = (Val::Str(super::Text::Ref(key)), Val::from_json(value));
        if rest.len() > 0 {
            self.fork(Way::Entries(rest), self.at)?;
        }
        if self.track.is_some() {
            self.follow([key], &found)?;
        }
        self.push(found);
        Ok(())
    }
}
