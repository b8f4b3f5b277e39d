//! Runs instructions. All of its state is in vectors of its own: no program makes the stack of the thread grow.
//!
//! Stacks are chains in a vector. A fork remembers how long the vectors were; what lies below that length is kept until the
//! fork is gone, what lies above is freed as it is popped.

mod path;

use std::borrow::Cow;
use std::rc::Rc;

use serde_json::Value as Json;

use super::code::{Arg, Code, Op};
use super::native::{self, Host};
use super::ops;
use super::tank::Fault;
use super::value::{Entries, Obj, Text, Val};
use path::Track;

/// Frames of calls that have not returned.
const MAX_FRAMES: usize = 50_000;
/// Values on the stack, and locals.
const MAX_CELLS: usize = 1_000_000;
/// Places to go back to.
const MAX_FORKS: usize = 100_000;

type Run<'a, T> = Result<T, Fault<'a>>;

/// A value and the one below it (one more than its index; 0 = none).
#[derive(Debug)]
struct Cell<'a> {
    value: Val<'a>,
    below: u32,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Where its caller goes on.
    back: u32,
    /// Its caller's frame.
    caller: u32,
    /// The frame in which its function was defined.
    link: u32,
    locals: u32,
    given: u32,
}

/// An argument with the frame that it belongs to.
#[derive(Clone, Copy, Debug)]
struct Closure {
    function: u32,
    frame: u32,
}

#[derive(Debug)]
enum Way<'a> {
    /// Goes on at the instruction.
    Plain,
    /// Goes on there with the error.
    Try,
    /// An error that passes here is not for the `try` below.
    TryEnd,
    /// Goes on there if there is an error.
    Alternative,
    /// Nothing: remembers how things were.
    Mark,
    /// Ends the backtracking of a `break` to it.
    Label(i64),
    /// Gives the next item.
    Each(Val<'a>, usize),
    /// Gives the next entry.
    Entries(serde_json::map::Iter<'a>),
    /// Gives the next number.
    Count { next: f64, to: f64, step: f64 },
}

#[derive(Debug)]
struct Fork<'a> {
    way: Way<'a>,
    at: u32,
    top: u32,
    cells: u32,
    frame: u32,
    frames: u32,
    locals: u32,
    given: u32,
    track: Option<Rc<Track<'a>>>,
    nest: u32,
}

/// A program that runs.
pub(super) struct Machine<'a, 'h> {
    code: &'a Code,
    globals: &'a [Cow<'a, Json>],
    pub(super) host: &'h mut Host,
    cells: Vec<Cell<'a>>,
    top: u32,
    frames: Vec<Frame>,
    frame: u32,
    locals: Vec<Val<'a>>,
    given: Vec<Closure>,
    forks: Vec<Fork<'a>>,
    track: Option<Rc<Track<'a>>>,
    nest: u32,
    labels: i64,
    at: u32,
    /// Most bytes that the vectors took so far; they are charged.
    charged: usize,
}

impl<'a, 'h> Machine<'a, 'h> {
    /// A program before its first step, with the values of its globals.
    pub(super) fn new(
        code: &'a Code,
        dot: Val<'a>,
        globals: &'a [Cow<'a, Json>],
        host: &'h mut Host,
    ) -> Machine<'a, 'h> {
        let main = code.functions[0];
        Machine {
            code,
            globals,
            host,
            cells: vec![Cell { value: dot, below: 0 }],
            top: 1,
            frames: vec![Frame { back: 0, caller: 0, link: 0, locals: 0, given: 0 }],
            frame: 0,
            locals: vec![Val::Null; main.locals as usize],
            given: Vec::new(),
            forks: Vec::new(),
            track: None,
            nest: 0,
            labels: 0,
            at: main.entry,
            charged: 0,
        }
    }

    /// The next output; `None` = there is no further one.
    pub(super) fn next(&mut self) -> Run<'a, Option<Val<'a>>> {
        if self.top == 0 && !self.back(None)? {
            return Ok(None);
        }
        loop {
            match self.step() {
                Ok(false) => {}
                Ok(true) => return self.pop().map(Some),
                Err(Fault::Break(0)) => {
                    if !self.back(None)? {
                        return Ok(None);
                    }
                }
                Err(fault @ (Fault::Raise(_) | Fault::Break(_))) => {
                    self.back(Some(fault))?;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn pop(&mut self) -> Run<'a, Val<'a>> {
        let Some(at) = self.top.checked_sub(1) else {
            return Err(Fault::raise("the stack is empty"));
        };
        let kept = self.forks.last().map_or(0, |fork| fork.cells);
        if at >= kept
            && at as usize + 1 == self.cells.len()
            && let Some(cell) = self.cells.pop()
        {
            self.top = cell.below;
            return Ok(cell.value);
        }
        let cell = &self.cells[at as usize];
        self.top = cell.below;
        Ok(cell.value.clone())
    }

    fn push(&mut self, value: Val<'a>) {
        self.cells.push(Cell { value, below: self.top });
        self.top = self.cells.len() as u32;
    }

    fn peek(&self) -> &Val<'a> {
        match self.top.checked_sub(1) {
            Some(at) => &self.cells[at as usize].value,
            None => &Val::Null,
        }
    }

    /// Replaces the top.
    fn replace(&mut self, value: Val<'a>) -> Run<'a, ()> {
        let kept = self.forks.last().map_or(0, |fork| fork.cells);
        if self.top > kept && self.top > 0 {
            self.cells[self.top as usize - 1].value = value;
            return Ok(());
        }
        self.pop()?;
        self.push(value);
        Ok(())
    }

    fn local(&mut self, local: u32) -> &mut Val<'a> {
        let base = self.frames[self.frame as usize].locals;
        &mut self.locals[(base + local) as usize]
    }

    fn up(&self, hops: u16) -> u32 {
        (0..hops).fold(self.frame, |frame, _| self.frames[frame as usize].link)
    }

    fn constant(&self, index: u32) -> Val<'a> {
        Val::from_json(&self.code.constants[index as usize])
    }

    fn fork(&mut self, way: Way<'a>, at: u32) -> Run<'a, ()> {
        self.forks.push(Fork {
            way,
            at,
            top: self.top,
            cells: self.cells.len() as u32,
            frame: self.frame,
            frames: self.frames.len() as u32,
            locals: self.locals.len() as u32,
            given: self.given.len() as u32,
            track: self.track.clone(),
            nest: self.nest,
        });
        self.bound()
    }

    /// Keeps the vectors within their bounds, and charges their growth.
    fn bound(&mut self) -> Run<'a, ()> {
        let (cells, locals) = (self.cells.len() + self.given.len(), self.locals.len());
        if self.frames.len() > MAX_FRAMES || cells > MAX_CELLS || locals > MAX_CELLS || self.forks.len() > MAX_FORKS {
            return Err(Fault::Deep);
        }
        let size = self.frames.len() * size_of::<Frame>()
            + cells * size_of::<Cell<'_>>()
            + locals * size_of::<Val<'_>>()
            + self.forks.len() * size_of::<Fork<'_>>();
        if size > self.charged + 4096 {
            self.host.tank.alloc(size - self.charged)?;
            self.charged = size;
        }
        Ok(())
    }

    /// Goes back to the last fork that has something to give, or that catches; false = there is none.
    fn back(&mut self, mut fault: Option<Fault<'a>>) -> Run<'a, bool> {
        // Errors that came out of the body of a `try` after it was left.
        let mut skip = 0u32;
        loop {
            self.host.tank.step(1)?;
            let Some(fork) = self.forks.pop() else {
                return match fault {
                    Some(fault) => Err(fault),
                    None => Ok(false),
                };
            };
            let caught = match (&fork.way, &fault) {
                (Way::TryEnd, Some(Fault::Raise(_))) => {
                    skip += 1;
                    false
                }
                (Way::Try, Some(Fault::Raise(_))) if skip > 0 => {
                    skip -= 1;
                    false
                }
                (Way::Try | Way::Alternative, Some(Fault::Raise(_))) => true,
                (Way::Label(id), Some(Fault::Break(to))) if id == to => {
                    fault = None;
                    false
                }
                (Way::Plain | Way::Each(..) | Way::Entries(_) | Way::Count { .. }, None) => true,
                _ => false,
            };
            if !caught {
                continue;
            }
            self.restore(&fork);
            let given = match (fork.way, fault.take()) {
                (Way::Try, Some(Fault::Raise(error))) => self.replace(error),
                (Way::Each(from, next), _) => self.each(from, next),
                (Way::Entries(rest), _) => self.each_entry(rest),
                (Way::Count { next, to, step }, _) => self.count(next, to, step),
                _ => Ok(()),
            };
            match given {
                Ok(()) => return Ok(true),
                Err(Fault::Break(0)) => {}
                Err(fault @ (Fault::Dry | Fault::Deep)) => return Err(fault),
                Err(raised) => fault = Some(raised),
            }
        }
    }

    fn restore(&mut self, fork: &Fork<'a>) {
        self.cells.truncate(fork.cells as usize);
        self.frames.truncate(fork.frames as usize);
        self.locals.truncate(fork.locals as usize);
        self.given.truncate(fork.given as usize);
        self.top = fork.top;
        self.frame = fork.frame;
        self.track.clone_from(&fork.track);
        self.nest = fork.nest;
        self.at = fork.at;
    }

    fn call(&mut self, function: u32, link: u32, args: (u32, u16), last: bool) -> Run<'a, ()> {
        let code = self.code;
        let args = &code.args[args.0 as usize..args.0 as usize + args.1 as usize];
        let given = self.given.len();
        for arg in args {
            let closure = match *arg {
                Arg::Own(function) => Closure { function, frame: self.frame },
                Arg::Given(hops, index) => {
                    let frame = self.frames[self.up(hops) as usize];
                    self.given[(frame.given + index) as usize]
                }
            };
            self.given.push(closure);
        }
        self.enter(function, link, given, last)
    }

    fn enter(&mut self, function: u32, link: u32, mut given: usize, last: bool) -> Run<'a, ()> {
        let here = self.frames[self.frame as usize];
        let (mut back, mut caller) = (self.at, self.frame);
        if last && self.frame > 0 {
            (back, caller) = (here.back, here.caller);
            let free = self.forks.last().is_none_or(|fork| fork.frames <= self.frame);
            if free && self.frame as usize + 1 == self.frames.len() && link < self.frame {
                self.frames.pop();
                self.locals.truncate(here.locals as usize);
                self.given.drain(here.given as usize..given);
                given = here.given as usize;
            }
        }
        let function = self.code.functions[function as usize];
        let locals = self.locals.len();
        self.locals.resize(locals + function.locals as usize, Val::Null);
        self.frames.push(Frame { back, caller, link, locals: locals as u32, given: given as u32 });
        self.frame = self.frames.len() as u32 - 1;
        self.at = function.entry;
        self.bound()
    }

    fn leave(&mut self) {
        let here = self.frames[self.frame as usize];
        let free = self.forks.last().is_none_or(|fork| fork.frames <= self.frame);
        if free && self.frame as usize + 1 == self.frames.len() {
            self.frames.pop();
            self.locals.truncate(here.locals as usize);
            self.given.truncate(here.given as usize);
        }
        self.frame = here.caller;
        self.at = here.back;
    }

    /// One instruction; true = there is an output on the stack.
    fn step(&mut self) -> Run<'a, bool> {
        self.host.tank.step(1)?;
        let code: &'a Code = self.code;
        let op = code.ops[self.at as usize];
        self.at += 1;
        match op {
            Op::Const(index) => self.replace(self.constant(index))?,
            Op::Dup => self.push(self.peek().clone()),
            Op::Pop => drop(self.pop()?),
            Op::Swap => {
                let (a, b) = (self.pop()?, self.pop()?);
                self.push(a);
                self.push(b);
            }
            Op::Load(hops, local) => {
                let base = self.frames[self.up(hops) as usize].locals;
                self.replace(self.locals[(base + local) as usize].clone())?;
            }
            Op::Take(local) => {
                let value = std::mem::replace(self.local(local), Val::Null);
                self.replace(value)?;
            }
            Op::Store(local) => *self.local(local) = self.pop()?,
            Op::Clear(local) => *self.local(local) = Val::Null,
            Op::Global(index) => self.replace(Val::from_json(&self.globals[index as usize]))?,
            Op::Jump(to) => self.at = to,
            Op::JumpIfNot(to) => {
                if !self.pop()?.truthy() {
                    self.at = to;
                }
            }
            Op::Backtrack => return Err(Fault::Break(0)),
            Op::Fork(to) => self.fork(Way::Plain, to)?,
            Op::Try(to) => self.fork(Way::Try, to)?,
            Op::TryEnd => self.fork(Way::TryEnd, 0)?,
            Op::Alternative(to) => self.fork(Way::Alternative, to)?,
            Op::Call(function, hops, first, count, last) => {
                self.call(function, self.up(hops), (first, count), last)?;
            }
            Op::CallGiven(hops, index, last) => {
                let frame = self.frames[self.up(hops) as usize];
                let closure = self.given[(frame.given + index) as usize];
                self.enter(closure.function, closure.frame, self.given.len(), last)?;
            }
            Op::Return => {
                if self.frame == 0 {
                    return Ok(true);
                }
                self.leave();
            }
            Op::Label(local) => {
                self.labels += 1;
                *self.local(local) = Val::Int(self.labels);
                self.fork(Way::Label(self.labels), 0)?;
            }
            Op::Break(hops, local) => {
                let base = self.frames[self.up(hops) as usize].locals;
                if let Val::Int(id) = self.locals[(base + local) as usize] {
                    return Err(Fault::Break(id));
                }
            }
            Op::Mark(local) => {
                *self.local(local) = Val::Int(self.forks.len() as i64);
                self.fork(Way::Mark, 0)?;
            }
            Op::Cut(local) => self.cut(local)?,
            other => self.compute(other)?,
        }
        Ok(false)
    }

    /// Forgets the forks since a mark, and what only they kept.
    fn cut(&mut self, local: u32) -> Run<'a, ()> {
        let Val::Int(forks) = *self.local(local) else { return Ok(()) };
        let value = self.pop()?;
        if let Some(mark) = self.forks.get(forks as usize) {
            self.cells.truncate(mark.cells as usize);
            self.frames.truncate(mark.frames as usize);
            self.locals.truncate(mark.locals as usize);
            self.given.truncate(mark.given as usize);
        }
        self.forks.truncate(forks as usize);
        self.push(value);
        Ok(())
    }

    /// An instruction that computes a value.
    fn compute(&mut self, op: Op) -> Run<'a, ()> {
        match op {
            Op::Append(local) => {
                let value = self.pop()?;
                let array = std::mem::replace(self.local(local), Val::Null);
                let array = ops::append(array, value, &mut self.host.tank)?;
                *self.local(local) = array;
            }
            Op::NewObject => {
                let dot = self.pop()?;
                self.host.tank.alloc(64)?;
                self.push(Val::Obj(Rc::new(Obj { depth: 1, entries: Entries::new() })));
                self.push(dot);
            }
            Op::Insert => {
                let (value, dot, key) = (self.pop()?, self.pop()?, self.pop()?);
                let Val::Str(key) = key else {
                    let message = format!("Object keys must be strings, not {}", ops::describe(&key));
                    return Err(Fault::raise(message));
                };
                self.insert(key, value, dot)?;
            }
            Op::InsertAt(index) => {
                let (value, dot) = (self.pop()?, self.pop()?);
                if let Val::Str(key) = self.constant(index) {
                    self.insert(key, value, dot)?;
                }
            }
            Op::Concat(index) => self.concat(index)?,
            Op::Binary(op) => {
                let (left, right) = (self.pop()?, self.pop()?);
                let value = ops::binary(op, left, right, &mut self.host.tank)?;
                self.push(value);
            }
            Op::BinaryWith(op, index) => {
                let left = self.pop()?;
                let value = ops::binary(op, left, self.constant(index), &mut self.host.tank)?;
                self.push(value);
            }
            Op::Negate => {
                let value = ops::negate(&self.pop()?)?;
                self.push(value);
            }
            Op::Not => self.replace(Val::Bool(!self.peek().truthy()))?,
            Op::Truth => self.replace(Val::Bool(self.peek().truthy()))?,
            Op::Native(native, arity) => {
                let dot = self.pop()?;
                let mut args = [Val::Null, Val::Null, Val::Null];
                for arg in args.iter_mut().take(arity as usize) {
                    *arg = self.pop()?;
                }
                let value = native::run(native, self.host, dot, args)?;
                self.push(value);
            }
            Op::Count => {
                let (from, step, to) = (self.pop()?, self.pop()?, self.pop()?);
                match (from.as_f64(), to.as_f64(), step.as_f64()) {
                    (Some(from), Some(to), Some(step)) => self.count(from, to, step)?,
                    _ => return Err(Fault::raise("Range bounds must be numeric")),
                }
            }
            other => self.walk(other)?,
        }
        Ok(())
    }

    fn insert(&mut self, key: Text<'a>, value: Val<'a>, dot: Val<'a>) -> Run<'a, ()> {
        let object = self.pop()?;
        let object = ops::insert(object, key, value, &mut self.host.tank)?;
        self.push(object);
        self.push(dot);
        Ok(())
    }

    fn concat(&mut self, index: u32) -> Run<'a, ()> {
        let code: &'a Code = self.code;
        let (format, parts) = &code.texts[index as usize];
        self.pop()?;
        let mut text = String::new();
        for part in parts {
            match part {
                Some(plain) => {
                    self.host.tank.alloc(plain.len())?;
                    text.push_str(plain);
                }
                None => {
                    let value = self.pop()?;
                    native::format_into(format, &value, &mut text, self.host)?;
                }
            }
        }
        let text = Val::text(&text, &mut self.host.tank)?;
        self.push(text);
        Ok(())
    }

    fn count(&mut self, next: f64, to: f64, step: f64) -> Run<'a, ()> {
        let more = if step > 0.0 { next < to } else { step < 0.0 && next > to };
        if !more {
            return Err(Fault::Break(0));
        }
        self.fork(Way::Count { next: next + step, to, step }, self.at)?;
        self.push(Val::number(next));
        Ok(())
    }
}
