//! A program as it is written to instructions.

mod bind;
mod call;

use std::collections::HashMap;

use serde_json::Value as Json;
use tidewheel_engine::id::Name;

use super::ast::{Assign, Binary, Kind, Part, Pattern, Term, Tree};
use super::code::{Code, Function, Op};
use super::{ExprError, Global, native};
pub(super) use call::constant;
use call::{no_format, no_variable};

/// Instructions of a program, the functions that it uses included.
const MAX_OPS: usize = 100_000;

type Done = Result<(), ExprError>;

/// A name in scope.
#[derive(Debug)]
enum Entry {
    Var(String, u32),
    Label(String, u32),
    Def(String, usize, u32),
    Given(String, u32),
}

/// A function that is being compiled.
#[derive(Debug, Default)]
struct Scope {
    locals: u32,
    entries: Vec<Entry>,
    ops: Vec<Op>,
}

/// What a called name stands for.
enum Callee {
    Def(u32),
    Given(u32),
}

/// Compiles a program.
pub(super) fn compile(term: &Term, locals: &[Name]) -> Result<Code, ExprError> {
    let mut compiler = Compiler {
        scopes: vec![Scope::default()],
        functions: vec![(Function::default(), Vec::new())],
        builtins: HashMap::new(),
        names: locals,
        size: 0,
        code: Code {
            ops: Vec::new(),
            functions: Vec::new(),
            constants: Vec::new(),
            texts: Vec::new(),
            args: Vec::new(),
            globals: Vec::new(),
        },
    };
    compiler.term(term)?;
    compiler.emit(Op::Return);
    let scope = compiler.scopes.pop().unwrap_or_default();
    compiler.functions[0] = (Function { entry: 0, locals: scope.locals }, scope.ops);
    Ok(compiler.link())
}

struct Compiler<'n> {
    scopes: Vec<Scope>,
    functions: Vec<(Function, Vec<Op>)>,
    builtins: HashMap<(String, usize), u32>,
    names: &'n [Name],
    size: usize,
    code: Code,
}

impl Compiler<'_> {
    fn scope(&mut self) -> &mut Scope {
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn emit(&mut self, op: Op) {
        self.size += 1;
        self.scope().ops.push(op);
    }

    fn here(&mut self) -> u32 {
        self.scope().ops.len() as u32
    }

    /// A jump whose target is set by [`Compiler::land`].
    fn emit_open(&mut self, op: Op) -> u32 {
        self.emit(op);
        self.here() - 1
    }

    fn land(&mut self, at: u32) {
        let here = self.here();
        if let Op::Fork(to) | Op::Try(to) | Op::Alternative(to) | Op::Jump(to) | Op::JumpIfNot(to) =
            &mut self.scope().ops[at as usize]
        {
            *to = here;
        }
    }

    fn local(&mut self) -> u32 {
        let scope = self.scope();
        scope.locals += 1;
        scope.locals - 1
    }

    fn constant(&mut self, value: Json) -> u32 {
        self.code.constants.push(value);
        self.code.constants.len() as u32 - 1
    }

    /// A term whose paths do not count.
    fn sub(&mut self, term: &Term) -> Done {
        let plain = constant(term).is_some() || matches!(term.kind, Kind::Var(_) | Kind::Identity);
        if plain {
            return self.term(term);
        }
        self.emit(Op::Sub);
        self.term(term)?;
        self.emit(Op::SubEnd);
        Ok(())
    }

    /// Puts the value of a term below the dot.
    fn below(&mut self, term: &Term) -> Done {
        self.emit(Op::Dup);
        self.sub(term)?;
        self.emit(Op::Swap);
        Ok(())
    }

    fn term(&mut self, term: &Term) -> Done {
        if self.size > MAX_OPS {
            return Err(ExprError::new(term.at, "the expression is too large"));
        }
        if let Some(value) = constant(term) {
            let constant = self.constant(value);
            self.emit(Op::Const(constant));
            return Ok(());
        }
        match &term.kind {
            Kind::Identity | Kind::Literal(_) => Ok(()),
            Kind::Text(format, parts) => self.text(term.at, format, parts),
            Kind::Format(name) => {
                let native = native::format(name).ok_or_else(|| no_format(term.at, name))?;
                self.emit(Op::Native(native, 0));
                Ok(())
            }
            Kind::Index(target, key, optional) => self.index(target, key, *optional),
            Kind::Slice(target, from, to, optional) => {
                let null = Term::boxed(term.at, Kind::Literal(Json::Null));
                self.below(to.as_ref().unwrap_or(&null))?;
                self.below(from.as_ref().unwrap_or(&null))?;
                self.term(target)?;
                self.emit(Op::Range(*optional));
                Ok(())
            }
            Kind::Each(target, optional) => {
                self.term(target)?;
                self.emit(Op::Each(*optional));
                Ok(())
            }
            Kind::Try(body, catch) => self.attempt(body, catch.as_ref()),
            Kind::Pipe(left, right) => {
                self.term(left)?;
                self.term(right)
            }
            Kind::Comma(left, right) => {
                let fork = self.emit_open(Op::Fork(0));
                self.term(left)?;
                let jump = self.emit_open(Op::Jump(0));
                self.land(fork);
                self.term(right)?;
                self.land(jump);
                Ok(())
            }
            Kind::Negate(inner) => {
                self.sub(inner)?;
                self.emit(Op::Negate);
                Ok(())
            }
            Kind::Binary(op, left, right) => self.binary(*op, left, right),
            Kind::And(left, right) => self.logic(left, right, true),
            Kind::Or(left, right) => self.logic(left, right, false),
            Kind::Alternative(left, right) => self.alternative(left, right),
            Kind::Assign(how, left, right) => self.assign(term.at, *how, left, right),
            Kind::Array(inner) => self.array(inner.as_ref()),
            Kind::Object(entries) => self.object(entries),
            Kind::If(condition, then, other) => self.condition(condition, then, other.as_ref()),
            Kind::Reduce(source, patterns, init, update) => self.reduce(source, patterns, init, update),
            Kind::Foreach(source, patterns, init, update, extract) => {
                self.foreach(source, patterns, init, update, extract.as_ref())
            }
            Kind::As(source, patterns, body) => {
                self.emit(Op::Dup);
                self.sub(source)?;
                self.scoped(|compiler| {
                    compiler.bind(patterns)?;
                    compiler.term(body)
                })
            }
            Kind::Def(def, rest) => self.scoped(|compiler| {
                compiler.define(def)?;
                compiler.term(rest)
            }),
            Kind::Label(name, body) => self.scoped(|compiler| {
                let local = compiler.local();
                compiler.scope().entries.push(Entry::Label(name.clone(), local));
                compiler.emit(Op::Label(local));
                compiler.term(body)
            }),
            Kind::Break(name) => {
                let found = self.find(|entry| match entry {
                    Entry::Label(label, local) if label == name => Some(*local),
                    _ => None,
                });
                let (hops, local) =
                    found.ok_or_else(|| ExprError::new(term.at, format!("there is no `label ${name}` around this")))?;
                self.emit(Op::Break(hops, local));
                Ok(())
            }
            Kind::Var(name) => self.var(term.at, name),
            Kind::Location(line) => {
                let constant = self.constant(serde_json::json!({"file": "<top-level>", "line": line}));
                self.emit(Op::Const(constant));
                Ok(())
            }
            Kind::Call(name, args) => self.call(term.at, name, args),
        }
    }

    /// Names that it brings are gone afterwards.
    fn scoped(&mut self, inner: impl FnOnce(&mut Self) -> Done) -> Done {
        let entries = self.scope().entries.len();
        inner(self)?;
        self.scope().entries.truncate(entries);
        Ok(())
    }

    /// The innermost entry that fits, and the links up to the frame that has it.
    fn find<T>(&self, fits: impl Fn(&Entry) -> Option<T>) -> Option<(u16, T)> {
        for (hops, scope) in self.scopes.iter().rev().enumerate() {
            if let Some(found) = scope.entries.iter().rev().find_map(&fits) {
                return Some((hops as u16, found));
            }
        }
        None
    }

    fn var(&mut self, at: usize, name: &str) -> Done {
        let found = self.find(|entry| match entry {
            Entry::Var(var, local) if var == name => Some(*local),
            _ => None,
        });
        if let Some((hops, local)) = found {
            self.emit(Op::Load(hops, local));
            return Ok(());
        }
        let Some(global) = Global::find(name, self.names) else {
            return Err(no_variable(at, name, self.names));
        };
        let index = match self.code.globals.iter().position(|known| *known == global) {
            Some(index) => index,
            None => {
                self.code.globals.push(global);
                self.code.globals.len() - 1
            }
        };
        self.emit(Op::Global(index as u32));
        Ok(())
    }

    fn text(&mut self, at: usize, format: &str, parts: &[Part]) -> Done {
        native::format(format).ok_or_else(|| no_format(at, format))?;
        for part in parts.iter().rev() {
            if let Part::Term(term) = part {
                self.below(term)?;
            }
        }
        let plain = |part: &Part| match part {
            Part::Plain(text) => Some(text.clone()),
            Part::Term(_) => None,
        };
        self.code.texts.push((format.to_owned(), parts.iter().map(plain).collect()));
        let index = self.code.texts.len() as u32 - 1;
        self.emit(Op::Concat(index));
        Ok(())
    }

    fn index(&mut self, target: &Term, key: &Term, optional: bool) -> Done {
        if let Some(value) = constant(key) {
            self.term(target)?;
            let constant = self.constant(value);
            self.emit(Op::IndexAt(constant, optional));
            return Ok(());
        }
        self.below(key)?;
        self.term(target)?;
        self.emit(Op::Index(optional));
        Ok(())
    }

    fn attempt(&mut self, body: &Term, catch: Option<&Tree>) -> Done {
        let fork = self.emit_open(Op::Try(0));
        self.term(body)?;
        self.emit(Op::TryEnd);
        let jump = self.emit_open(Op::Jump(0));
        self.land(fork);
        match catch {
            Some(catch) => self.term(catch)?,
            None => self.emit(Op::Backtrack),
        }
        self.land(jump);
        Ok(())
    }

    fn binary(&mut self, op: Binary, left: &Term, right: &Term) -> Done {
        if let Some(value) = constant(right) {
            self.sub(left)?;
            let constant = self.constant(value);
            self.emit(Op::BinaryWith(op, constant));
            return Ok(());
        }
        self.below(right)?;
        self.sub(left)?;
        self.emit(Op::Binary(op));
        Ok(())
    }

    fn logic(&mut self, left: &Term, right: &Term, and: bool) -> Done {
        self.emit(Op::Dup);
        self.sub(left)?;
        let jump = self.emit_open(Op::JumpIfNot(0));
        if and {
            self.sub(right)?;
            self.emit(Op::Truth);
        } else {
            let yes = self.constant(Json::Bool(true));
            self.emit(Op::Const(yes));
        }
        let end = self.emit_open(Op::Jump(0));
        self.land(jump);
        if and {
            let no = self.constant(Json::Bool(false));
            self.emit(Op::Const(no));
        } else {
            self.sub(right)?;
            self.emit(Op::Truth);
        }
        self.land(end);
        Ok(())
    }

    /// All outputs of the left side that are neither null nor false, errors left out; if there are none, the right side.
    fn alternative(&mut self, left: &Term, right: &Term) -> Done {
        let found = self.local();
        self.emit(Op::Clear(found));
        let fork = self.emit_open(Op::Fork(0));
        let guard = self.emit_open(Op::Try(0));
        self.term(left)?;
        self.emit(Op::TryEnd);
        self.emit(Op::Dup);
        let next = self.emit_open(Op::JumpIfNot(0));
        self.emit(Op::Dup);
        let yes = self.constant(Json::Bool(true));
        self.emit(Op::Const(yes));
        self.emit(Op::Store(found));
        let jump = self.emit_open(Op::Jump(0));
        self.land(guard);
        self.land(next);
        self.emit(Op::Backtrack);
        self.land(fork);
        self.emit(Op::Dup);
        self.emit(Op::Load(0, found));
        let none = self.emit_open(Op::JumpIfNot(0));
        self.emit(Op::Backtrack);
        self.land(none);
        self.term(right)?;
        self.land(jump);
        Ok(())
    }

    fn array(&mut self, inner: Option<&Tree>) -> Done {
        let empty = self.constant(Json::Array(Vec::new()));
        let Some(inner) = inner else {
            self.emit(Op::Const(empty));
            return Ok(());
        };
        let items = self.local();
        self.emit(Op::Dup);
        self.emit(Op::Const(empty));
        self.emit(Op::Store(items));
        let fork = self.emit_open(Op::Fork(0));
        self.sub(inner)?;
        self.emit(Op::Append(items));
        self.emit(Op::Backtrack);
        self.land(fork);
        self.emit(Op::Take(items));
        Ok(())
    }

    fn object(&mut self, entries: &[(Term, Term)]) -> Done {
        self.emit(Op::NewObject);
        for (key, value) in entries {
            match constant(key) {
                Some(key) => {
                    self.emit(Op::Dup);
                    self.sub(value)?;
                    let constant = self.constant(key);
                    self.emit(Op::InsertAt(constant));
                }
                None => {
                    self.below(key)?;
                    self.emit(Op::Dup);
                    self.sub(value)?;
                    self.emit(Op::Insert);
                }
            }
        }
        self.emit(Op::Pop);
        Ok(())
    }

    fn condition(&mut self, condition: &Term, then: &Term, other: Option<&Tree>) -> Done {
        self.emit(Op::Dup);
        self.sub(condition)?;
        let jump = self.emit_open(Op::JumpIfNot(0));
        self.term(then)?;
        let end = self.emit_open(Op::Jump(0));
        self.land(jump);
        if let Some(other) = other {
            self.term(other)?;
        }
        self.land(end);
        Ok(())
    }

    fn reduce(&mut self, source: &Term, patterns: &[Pattern], init: &Term, update: &Term) -> Done {
        let state = self.local();
        self.emit(Op::Dup);
        self.term(init)?;
        self.emit(Op::Store(state));
        let fork = self.emit_open(Op::Fork(0));
        self.term(source)?;
        self.emit(Op::Dup);
        self.scoped(|compiler| {
            compiler.bind(patterns)?;
            compiler.emit(Op::Take(state));
            compiler.term(update)
        })?;
        self.emit(Op::Store(state));
        self.emit(Op::Backtrack);
        self.land(fork);
        self.emit(Op::Take(state));
        Ok(())
    }

    fn foreach(
        &mut self,
        source: &Term,
        patterns: &[Pattern],
        init: &Term,
        update: &Term,
        extract: Option<&Tree>,
    ) -> Done {
        let state = self.local();
        self.emit(Op::Dup);
        self.term(init)?;
        self.emit(Op::Store(state));
        self.term(source)?;
        self.emit(Op::Dup);
        self.scoped(|compiler| {
            compiler.bind(patterns)?;
            compiler.emit(Op::Take(state));
            compiler.term(update)?;
            compiler.emit(Op::Dup);
            compiler.emit(Op::Store(state));
            match extract {
                Some(extract) => compiler.term(extract),
                None => Ok(()),
            }
        })
    }

    fn assign(&mut self, at: usize, how: Assign, left: &Term, right: &Term) -> Done {
        if how == Assign::Update {
            return self.update(left, right);
        }
        let value = self.local();
        self.emit(Op::Dup);
        self.sub(right)?;
        self.emit(Op::Store(value));
        let name = format!("*{value}");
        self.scoped(|compiler| {
            compiler.scope().entries.push(Entry::Var(name.clone(), value));
            let var = Term::boxed(at, Kind::Var(name));
            let dot = Term::boxed(at, Kind::Identity);
            let kind = match how {
                Assign::Math(op) => Kind::Binary(op, dot, var),
                Assign::Alternative => Kind::Alternative(dot, var),
                Assign::Set | Assign::Update => return compiler.update(left, &var),
            };
            compiler.update(left, &Term::new(at, kind))
        })
    }

    /// Replaces what is at each path by the first output of a term; without output it is deleted.
    fn update(&mut self, paths: &Term, update: &Term) -> Done {
        let (whole, path, gone, mark) = (self.local(), self.local(), self.local(), self.local());
        let empty = self.constant(Json::Array(Vec::new()));
        for local in [whole, gone] {
            self.emit(Op::Dup);
            if local == gone {
                self.emit(Op::Const(empty));
            }
            self.emit(Op::Store(local));
        }
        let end = self.emit_open(Op::Fork(0));
        self.emit(Op::Path);
        self.term(paths)?;
        self.emit(Op::PathEnd);
        self.emit(Op::Dup);
        self.emit(Op::Store(path));
        self.emit(Op::Mark(mark));
        let none = self.emit_open(Op::Fork(0));
        self.emit(Op::ChangeGet(whole));
        self.sub(update)?;
        self.emit(Op::Cut(mark));
        self.emit(Op::ChangeSet(whole, path));
        self.emit(Op::Backtrack);
        self.land(none);
        self.emit(Op::Append(gone));
        self.emit(Op::Backtrack);
        self.land(end);
        self.emit(Op::Take(whole));
        self.emit(Op::Dup);
        self.emit(Op::Take(gone));
        self.emit(Op::Swap);
        let delete = native::find("delpaths", 1);
        self.emit(Op::Native(delete.unwrap_or_default(), 1));
        Ok(())
    }
}
