//! What a program may use up, and how it ends when it cannot go on.

use serde_json::Value as Json;
use tidewheel_engine::run::eval::{EvalError, Fuel};

use super::value::{ENTRY, Val};

/// Why a program does not go on.
#[derive(Debug)]
pub(super) enum Fault<'a> {
    /// An error that `try` may catch.
    Raise(Val<'a>),
    /// To a label.
    Break(i64),
    /// The fuel is used up: nothing catches it.
    Dry,
    /// It recurses too deep: nothing catches it.
    Deep,
}

impl<'a> Fault<'a> {
    /// An error with a text.
    pub(super) fn raise(message: impl AsRef<str>) -> Fault<'a> {
        Fault::Raise(Val::message(message))
    }
}

/// The fuel of one evaluation.
#[derive(Debug)]
pub(super) struct Tank {
    pub(super) steps: u64,
    pub(super) bytes: u64,
}

impl Tank {
    pub(super) fn new(fuel: &Fuel) -> Tank {
        Tank { steps: fuel.steps, bytes: fuel.bytes }
    }

    /// Gives back what is left.
    pub(super) fn give(&self, fuel: &mut Fuel) {
        *fuel = Fuel { steps: self.steps, bytes: self.bytes };
    }

    /// Takes steps.
    #[inline]
    pub(super) fn step<'a>(&mut self, steps: u64) -> Result<(), Fault<'a>> {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(Fault::Dry)
            }
        }
    }

    /// Takes steps for so many items that a native filter reads or makes.
    #[inline]
    pub(super) fn work<'a>(&mut self, items: usize) -> Result<(), Fault<'a>> {
        self.step(items as u64)
    }

    /// Takes bytes that are about to be allocated, and steps for the time that filling them takes.
    #[inline]
    pub(super) fn alloc<'a>(&mut self, bytes: usize) -> Result<(), Fault<'a>> {
        let bytes = bytes as u64;
        match self.bytes.checked_sub(bytes) {
            Some(left) => {
                self.bytes = left;
                self.step(bytes / 256)
            }
            None => {
                self.bytes = 0;
                Err(Fault::Dry)
            }
        }
    }

    /// Takes what a copy of a value costs.
    pub(super) fn copy<'a>(&mut self, value: &Json) -> Result<(), Fault<'a>> {
        match value {
            Json::String(text) => self.alloc(text.len()),
            Json::Array(items) => {
                self.work(items.len())?;
                self.alloc(items.len() * size_of::<Json>())?;
                items.iter().try_for_each(|item| self.copy(item))
            }
            Json::Object(entries) => {
                self.work(entries.len())?;
                for (key, item) in entries {
                    self.alloc(ENTRY + key.len())?;
                    self.copy(item)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What the outside sees of a fault.
pub(super) fn report(fault: Fault<'_>) -> EvalError {
    match fault {
        Fault::Dry => EvalError::Fuel,
        Fault::Deep => EvalError::Failed("the expression recurses too deep".to_owned()),
        Fault::Break(_) => EvalError::Failed("break".to_owned()),
        Fault::Raise(value) => EvalError::Failed(match value.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let mut tank = Tank { steps: 10_000, bytes: 100_000 };
                match value.into_json(&mut tank) {
                    Ok(json) => format!("{json} (not a string)"),
                    Err(_) => "the error is not a string and too large to show".to_owned(),
                }
            }
        }),
    }
}
