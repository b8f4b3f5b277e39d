//! Durable runs: the plan of a workflow, what a run has done (its head and journal), and the turn that takes it on.
//!
//! A turn is a pure function. What it needs of the language (expressions, schemas) comes in through [`eval::Definition`],
//! which `lang` implements; the engine never sees the text of a workflow.

pub mod eval;
pub mod plan;
