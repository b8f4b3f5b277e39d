//! Taking values apart into variables.

use serde_json::Value as Json;

use super::super::ast::{Kind, Pattern, Term};
use super::super::code::Op;
use super::{Compiler, Done, Entry};

impl Compiler<'_> {
    /// Takes the top apart. With several patterns, one that fails (or what follows it) gives way to the next.
    pub(super) fn bind(&mut self, patterns: &[Pattern]) -> Done {
        let mut names = Vec::new();
        patterns.iter().for_each(|pattern| pattern.names(&mut names));
        let several = patterns.len() > 1;
        if several {
            names.sort_unstable();
            names.dedup();
        }
        let mut locals: Vec<(String, u32)> = Vec::new();
        for name in names {
            let local = self.local();
            locals.push((name.to_owned(), local));
        }
        let mut jumps = Vec::new();
        for (at, pattern) in patterns.iter().enumerate() {
            let last = at + 1 == patterns.len();
            let fork = (!last).then(|| self.emit_open(Op::Alternative(0)));
            if several {
                locals.iter().for_each(|(_, local)| self.emit(Op::Clear(*local)));
            }
            let mut fresh: Vec<(String, u32)> = locals.clone();
            self.pattern(pattern, &mut fresh)?;
            if let Some(fork) = fork {
                jumps.push(self.emit_open(Op::Jump(0)));
                self.land(fork);
            }
        }
        jumps.into_iter().for_each(|jump| self.land(jump));
        if several {
            self.scope().entries.extend(locals.into_iter().map(|(name, local)| Entry::Var(name, local)));
        }
        Ok(())
    }

    /// Each variable comes into scope as it is bound, so that keys may name those before them.
    fn pattern(&mut self, pattern: &Pattern, locals: &mut Vec<(String, u32)>) -> Done {
        match pattern {
            Pattern::Var(name) => {
                let at = locals.iter().position(|(known, _)| known == name).unwrap_or(0);
                let (name, local) = locals[at].clone();
                if locals.iter().filter(|(known, _)| *known == name).count() > 1 {
                    locals.remove(at);
                }
                self.emit(Op::Store(local));
                self.scope().entries.push(Entry::Var(name, local));
            }
            Pattern::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.emit(Op::Dup);
                    let key = self.constant(Json::from(at));
                    self.emit(Op::Sub);
                    self.emit(Op::IndexAt(key, false));
                    self.emit(Op::SubEnd);
                    self.pattern(item, locals)?;
                }
                self.emit(Op::Pop);
            }
            Pattern::Object(entries) => {
                for (name, key, inner) in entries {
                    self.emit(Op::Dup);
                    self.emit(Op::Sub);
                    let identity = Term::new(key.at, Kind::Identity);
                    self.index(&identity, key, false)?;
                    self.emit(Op::SubEnd);
                    if let Some(name) = name {
                        if inner.is_some() {
                            self.emit(Op::Dup);
                        }
                        self.pattern(&Pattern::Var(name.clone()), locals)?;
                    }
                    if let Some(inner) = inner {
                        self.pattern(inner, locals)?;
                    }
                }
                self.emit(Op::Pop);
            }
        }
        Ok(())
    }
}
