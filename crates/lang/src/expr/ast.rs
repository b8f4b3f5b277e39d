//! A program as it is written.

use serde_json::Value as Json;

/// A term and where it starts.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// Bytes from the start of the text.
    pub(super) at: usize,
    /// What it is.
    pub(super) kind: Kind,
}

/// A term on the heap.
pub(super) type Tree = Box<Term>;

/// Arithmetic and comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assign {
    /// `=`
    Set,
    /// `|=`
    Update,
    /// `+=` and so on
    Math(Binary),
    /// `//=`
    Alternative,
}

/// What a term is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `.`
    Identity,
    /// A number, or a string without expressions inside.
    Literal(Json),
    /// A string with expressions inside, each formatted.
    Text(String, Vec<Part>),
    /// `@base64`
    Format(String),
    /// `t[k]`, optional if an error of the index itself gives nothing
    Index(Tree, Tree, bool),
    /// `t[a:b]`
    Slice(Tree, Option<Tree>, Option<Tree>, bool),
    /// `t[]`
    Each(Tree, bool),
    /// `try b catch c`
    Try(Tree, Option<Tree>),
    /// `a | b`
    Pipe(Tree, Tree),
    /// `a, b`
    Comma(Tree, Tree),
    /// `-a`
    Negate(Tree),
    /// `a + b`
    Binary(Binary, Tree, Tree),
    /// `a and b`
    And(Tree, Tree),
    /// `a or b`
    Or(Tree, Tree),
    /// `a // b`
    Alternative(Tree, Tree),
    /// `a = b`
    Assign(Assign, Tree, Tree),
    /// `[a]`
    Array(Option<Tree>),
    /// `{a: b}`
    Object(Vec<(Term, Term)>),
    /// `if a then b else c end`
    If(Tree, Tree, Option<Tree>),
    /// `reduce s as p (i; u)`
    Reduce(Tree, Vec<Pattern>, Tree, Tree),
    /// `foreach s as p (i; u; e)`
    Foreach(Tree, Vec<Pattern>, Tree, Tree, Option<Tree>),
    /// `s as p | b`
    As(Tree, Vec<Pattern>, Tree),
    /// `def f: b; r`
    Def(Box<Def>, Tree),
    /// `label $l | b`
    Label(String, Tree),
    /// `break $l`
    Break(String),
    /// `$v`
    Var(String),
    /// `$__loc__`: the line
    Location(usize),
    /// `f(a; b)`
    Call(String, Vec<Term>),
}

/// A part of a string.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Plain(String),
    Term(Term),
}

/// What a value is taken apart by.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Var(String),
    Array(Vec<Pattern>),
    /// Each: a variable that gets the value, its key, and what the value is taken apart by.
    Object(Vec<(Option<String>, Term, Option<Pattern>)>),
}

impl Pattern {
    /// Collects the names of its variables.
    pub(super) fn names<'a>(&'a self, into: &mut Vec<&'a str>) {
        match self {
            Pattern::Var(name) => into.push(name),
            Pattern::Array(items) => items.iter().for_each(|item| item.names(into)),
            Pattern::Object(entries) => {
                for (name, _, inner) in entries {
                    into.extend(name.as_deref());
                    if let Some(inner) = inner {
                        inner.names(into);
                    }
                }
            }
        }
    }
}

/// A definition.
#[derive(Clone, Debug)]
pub(super) struct Def {
    pub(super) name: String,
    /// Each with `$` if it is a value.
    pub(super) params: Vec<String>,
    pub(super) body: Term,
}

impl Term {
    pub(super) fn new(at: usize, kind: Kind) -> Term {
        Term { at, kind }
    }

    pub(super) fn boxed(at: usize, kind: Kind) -> Tree {
        Box::new(Term { at, kind })
    }
}
