//! Calls and definitions, and putting the functions together.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;

use super::super::ast::{Def, Kind, Pattern, Term};
use super::super::code::{Arg, Code, Function, Op};
use super::super::{ExprError, builtin, native};
use super::{Callee, Compiler, Done, Entry, Scope};

impl Compiler<'_> {
    pub(super) fn call(&mut self, at: usize, name: &str, args: &[Term]) -> Done {
        let arity = args.len();
        let found = self.find(|entry| match entry {
            Entry::Def(def, params, function) if def == name && *params == arity => Some(Callee::Def(*function)),
            Entry::Given(given, index) if given == name && arity == 0 => Some(Callee::Given(*index)),
            _ => None,
        });
        match found {
            Some((hops, Callee::Def(function))) => self.call_def(function, hops, args),
            Some((hops, Callee::Given(index))) => {
                self.emit(Op::CallGiven(hops, index, false));
                Ok(())
            }
            None if self.inline(at, name, args)? => Ok(()),
            None => self.call_builtin(at, name, args),
        }
    }

    fn call_def(&mut self, function: u32, hops: u16, args: &[Term]) -> Done {
        let mut given = Vec::with_capacity(args.len());
        for arg in args {
            given.push(self.arg(arg)?);
        }
        let first = self.code.args.len() as u32;
        self.code.args.extend(given);
        self.emit(Op::Call(function, hops, first, args.len() as u16, false));
        Ok(())
    }

    /// An argument: the name of a parameter is given on, anything else becomes a function of this frame.
    fn arg(&mut self, term: &Term) -> Result<Arg, ExprError> {
        if let Kind::Call(name, args) = &term.kind
            && args.is_empty()
        {
            let found = self.find(|entry| match entry {
                Entry::Given(given, index) if given == name => Some(Some(*index)),
                Entry::Def(def, 0, _) if def == name => Some(None),
                _ => None,
            });
            if let Some((hops, Some(index))) = found {
                return Ok(Arg::Given(hops, index));
            }
        }
        self.function(Vec::new(), term, &[]).map(Arg::Own)
    }

    /// Compiles a function of the scope here: its entries, its parameters that are values, its body.
    fn function(&mut self, entries: Vec<Entry>, body: &Term, values: &[(String, u32)]) -> Result<u32, ExprError> {
        let id = self.functions.len() as u32;
        self.functions.push((Function::default(), Vec::new()));
        self.fill(id, entries, body, values)?;
        Ok(id)
    }

    fn fill(&mut self, id: u32, entries: Vec<Entry>, body: &Term, values: &[(String, u32)]) -> Done {
        if self.scopes.len() > 200 {
            return Err(ExprError::new(body.at, "functions are nested too deep"));
        }
        self.scopes.push(Scope { locals: 0, entries, ops: Vec::new() });
        for (name, index) in values {
            let local = self.local();
            self.emit(Op::Dup);
            self.emit(Op::Sub);
            self.emit(Op::CallGiven(0, *index, false));
            self.emit(Op::SubEnd);
            self.emit(Op::Store(local));
            self.scope().entries.push(Entry::Var(name.clone(), local));
        }
        let compiled = self.term(body);
        self.emit(Op::Return);
        let scope = self.scopes.pop().unwrap_or_default();
        self.functions[id as usize] = (Function { entry: 0, locals: scope.locals }, scope.ops);
        compiled
    }

    /// Brings a definition into scope.
    pub(super) fn define(&mut self, def: &Def) -> Done {
        let id = self.functions.len() as u32;
        self.functions.push((Function::default(), Vec::new()));
        self.scope().entries.push(Entry::Def(def.name.clone(), def.params.len(), id));
        let mut entries = Vec::new();
        let mut values = Vec::new();
        for (index, param) in def.params.iter().enumerate() {
            let name = match param.strip_prefix('$') {
                Some(name) => {
                    values.push((name.to_owned(), index as u32));
                    name
                }
                None => param,
            };
            entries.push(Entry::Given(name.to_owned(), index as u32));
        }
        self.fill(id, entries, &def.body, &values)
    }

    /// A definition of ours, compiled when it is first called.
    fn call_builtin(&mut self, at: usize, name: &str, args: &[Term]) -> Done {
        let arity = args.len();
        let Some(def) = builtin::find(name, arity) else {
            let Some(native) = native::find(name, arity) else {
                return Err(builtin::unknown(at, name, arity));
            };
            for arg in args.iter().rev() {
                self.below(arg)?;
            }
            self.emit(Op::Native(native, arity as u8));
            return Ok(());
        };
        let known = self.builtins.get(&(name.to_owned(), arity)).copied();
        let function = match known {
            Some(function) => function,
            None => {
                // Its body sees nothing of the program; the frame of the program is its outermost.
                let scopes = std::mem::replace(&mut self.scopes, vec![Scope::default()]);
                let id = self.functions.len() as u32;
                self.builtins.insert((name.to_owned(), arity), id);
                let defined = self.define(def);
                self.scopes = scopes;
                defined.map_err(|error| ExprError::new(at, format!("{name}/{arity}: {}", error.message)))?;
                id
            }
        };
        let hops = self.scopes.len() as u16 - 1;
        self.call_def(function, hops, args)
    }

    /// Calls that are instructions or short for other terms. Their arguments are compiled in place, once.
    fn inline(&mut self, at: usize, name: &str, args: &[Term]) -> Result<bool, ExprError> {
        let boxed = |kind: Kind| Term::boxed(at, kind);
        let call = |name: &str, args: Vec<Term>| Term::new(at, Kind::Call(name.to_owned(), args));
        let dot = || boxed(Kind::Identity);
        let each = || Term::new(at, Kind::Each(dot(), false));
        let pipe = |left: Term, right: Term| Term::new(at, Kind::Pipe(Box::new(left), Box::new(right)));
        let map = |f: &Term| Term::new(at, Kind::Array(Some(Box::new(pipe(each(), f.clone())))));
        match (name, args) {
            ("empty", []) => self.emit(Op::Backtrack),
            ("not", []) => self.emit(Op::Not),
            ("path", [paths]) => {
                self.emit(Op::Path);
                self.term(paths)?;
                self.emit(Op::PathEnd);
            }
            ("first", [f]) => {
                let mark = self.local();
                self.emit(Op::Mark(mark));
                self.term(f)?;
                self.emit(Op::Cut(mark));
            }
            ("getpath", [path]) => {
                self.below(path)?;
                self.emit(Op::GetPath);
            }
            ("_range", [from, to, step]) => {
                self.below(to)?;
                self.below(step)?;
                self.sub(from)?;
                self.emit(Op::Count);
            }
            ("select", [f]) => {
                let none = call("empty", Vec::new());
                let condition = Kind::If(Box::new(f.clone()), dot(), Some(Box::new(none)));
                self.term(&Term::new(at, condition))?;
            }
            ("map", [f]) => self.term(&map(f))?,
            ("map_values", [f]) => self.update(&each(), f)?,
            ("error", [message]) => self.term(&pipe(message.clone(), call("error", Vec::new())))?,
            ("del", [paths]) => {
                let found = Kind::Array(Some(Box::new(call("path", vec![paths.clone()]))));
                self.term(&call("delpaths", vec![Term::new(at, found)]))?;
            }
            ("with_entries", [f]) => {
                let entries = pipe(call("to_entries", Vec::new()), map(f));
                self.term(&pipe(entries, call("from_entries", Vec::new())))?;
            }
            ("add", [f]) => {
                let value = Term::boxed(at, Kind::Var("*added".to_owned()));
                let sum = Kind::Binary(super::Binary::Add, dot(), value);
                let null = boxed(Kind::Literal(Json::Null));
                self.reduce(f, &[Pattern::Var("*added".to_owned())], &null, &Term::new(at, sum))?;
            }
            ("sort_by" | "group_by" | "unique_by" | "min_by" | "max_by", [f]) => {
                let keys = map(&Term::new(at, Kind::Array(Some(Box::new(f.clone())))));
                self.term(&call(&format!("_{name}"), vec![keys]))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Puts the functions one after another.
    pub(super) fn link(mut self) -> Code {
        let functions = std::mem::take(&mut self.functions);
        for (function, ops) in functions {
            let base = self.code.ops.len() as u32;
            self.code.functions.push(Function { entry: base, ..function });
            for at in 0..ops.len() {
                let mut op = ops[at];
                match &mut op {
                    Op::Fork(to) | Op::Try(to) | Op::Alternative(to) | Op::Jump(to) | Op::JumpIfNot(to) => *to += base,
                    Op::Call(_, hops, first, count, last) => {
                        let args = &self.code.args[*first as usize..*first as usize + *count as usize];
                        let free = args.iter().all(|arg| matches!(arg, Arg::Given(..)));
                        *last = *hops > 0 && free && returns(&ops, at + 1);
                    }
                    Op::CallGiven(_, _, last) => *last = returns(&ops, at + 1),
                    _ => {}
                }
                self.code.ops.push(op);
            }
        }
        self.code
    }
}

/// Whether nothing but a return follows.
fn returns(ops: &[Op], mut at: usize) -> bool {
    for _ in 0..64 {
        match ops.get(at) {
            Some(Op::Return) => return true,
            Some(Op::Jump(to)) => at = *to as usize,
            _ => return false,
        }
    }
    false
}

/// The value of a term that is one whatever the dot is.
pub(in super::super) fn constant(term: &Term) -> Option<Json> {
    match &term.kind {
        Kind::Literal(value) => Some(value.clone()),
        Kind::Negate(inner) => match &inner.kind {
            Kind::Literal(Json::Number(number)) => match number.as_i64() {
                Some(0) => Some(Json::from(-0.0)),
                Some(value) => value.checked_neg().map(Json::from),
                None => number.as_f64().map(|value| Json::from(-value)),
            },
            _ => None,
        },
        Kind::Array(None) => Some(Json::Array(Vec::new())),
        Kind::Array(Some(inner)) => {
            let mut items = Vec::new();
            constants(inner, &mut items).then_some(Json::Array(items))
        }
        Kind::Object(entries) => {
            let mut object = serde_json::Map::new();
            for (key, value) in entries {
                match (&key.kind, constant(value)) {
                    (Kind::Literal(Json::String(key)), Some(value)) => object.insert(key.clone(), value),
                    _ => return None,
                };
            }
            Some(Json::Object(object))
        }
        _ => None,
    }
}

fn constants(term: &Term, items: &mut Vec<Json>) -> bool {
    match &term.kind {
        Kind::Comma(left, right) => constants(left, items) && constants(right, items),
        _ => match constant(term) {
            Some(value) => {
                items.push(value);
                true
            }
            None => false,
        },
    }
}

pub(super) fn no_format(at: usize, name: &str) -> ExprError {
    ExprError::new(at, format!("there is no format `@{name}`"))
        .hinted("the formats are @text @json @html @uri @urid @csv @tsv @sh @base64 @base64d")
}

pub(super) fn no_variable(at: usize, name: &str, locals: &[Name]) -> ExprError {
    let error = ExprError::new(at, format!("`${name}` is not defined here"));
    if name == "ENV" {
        return error.hinted("the environment of a server is not for workflows; use `$secrets` or the input");
    }
    let mut known =
        vec!["$context", "$input", "$output", "$task", "$workflow", "$runtime", "$secrets", "$authorization"]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
    known.extend(locals.iter().map(|local| format!("${local}")));
    error.hinted(&format!("there are {}", known.join(", ")))
}
