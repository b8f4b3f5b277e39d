//! What the machine runs: instructions over a stack of values.
//!
//! Every term takes the value on top of the stack and leaves its output there; to give no further output it goes back to
//! the last fork.

use serde_json::Value as Json;

use super::Global;
use super::ast::Binary;
use super::native::Native;

/// A compiled program.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) ops: Vec<Op>,
    pub(super) functions: Vec<Function>,
    pub(super) constants: Vec<Json>,
    /// Plain parts of strings with expressions inside; `None` = the next value.
    pub(super) texts: Vec<(String, Vec<Option<String>>)>,
    /// Arguments of calls.
    pub(super) args: Vec<Arg>,
    pub(super) globals: Vec<Global>,
}

/// A definition, or an argument that is not a name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Function {
    pub(super) entry: u32,
    pub(super) locals: u32,
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    /// A function of the caller's frame.
    Own(u32),
    /// What was given to a frame so many links up.
    Given(u16, u32),
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// Replaces the top.
    Const(u32),
    Dup,
    Pop,
    Swap,
    /// Replaces the top by a local of a frame so many links up.
    Load(u16, u32),
    /// Replaces the top by a local of this frame, which becomes null.
    Take(u32),
    /// Moves the top into a local.
    Store(u32),
    /// Sets a local to null.
    Clear(u32),
    /// Replaces the top by a global.
    Global(u32),
    /// Moves the top to the end of the array in a local.
    Append(u32),
    /// Puts an empty object below the top.
    NewObject,
    /// Object, key, dot, value -> object, dot.
    Insert,
    /// Object, dot, value -> object, dot.
    InsertAt(u32),
    /// So many values and the dot -> a string.
    Concat(u32),
    /// Value, key -> what is there.
    Index(bool),
    /// Value -> what is at a constant key.
    IndexAt(u32, bool),
    /// Value -> each in it.
    Each(bool),
    /// From, to -> the key of a slice.
    Range(bool),
    /// To, step, from -> numbers.
    Count,
    Fork(u32),
    Try(u32),
    TryEnd,
    /// Goes on elsewhere if what follows fails.
    Alternative(u32),
    Jump(u32),
    /// Pops the top; jumps if it is null or false.
    JumpIfNot(u32),
    Backtrack,
    /// What follows does not count as a path.
    Sub,
    SubEnd,
    Path,
    PathEnd,
    GetPath,
    /// Function, links up to the frame it was defined in, first argument, arguments, whether nothing follows.
    Call(u32, u16, u32, u16, bool),
    /// Links up, which argument, whether nothing follows.
    CallGiven(u16, u32, bool),
    Return,
    Native(Native, u8),
    Binary(Binary),
    /// With a constant on the right.
    BinaryWith(Binary, u32),
    Negate,
    Not,
    Truth,
    Label(u32),
    Break(u16, u32),
    /// Remembers the forks in a local.
    Mark(u32),
    /// Forgets the forks since then.
    Cut(u32),
    /// Path -> what a local has there.
    ChangeGet(u32),
    /// Moves the top into the value of a local, at the path of another.
    ChangeSet(u32, u32),
}
