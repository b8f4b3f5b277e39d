//! The workflow language: text to a model with diagnostics, and to a plan that the engine walks with the expressions and
//! schemas that stand behind its numbers.

// A diagnostic is an answer to a person: it is made once, on the way out, and not on any hot path.
#![allow(clippy::result_large_err)]

pub mod check;
pub mod compile;
pub mod diagnostic;
pub mod duration;
pub mod expr;
pub mod feature;
pub mod fmt;
pub mod graph;
pub mod lint;
pub mod model;
pub mod program;
pub mod render;
pub mod resolve;
mod saga;
pub mod schema;
pub mod testkit;
pub mod text;
