//! The workflow language: expressions, schemas and durations, and what stands behind the numbers of a plan.

pub mod duration;
pub mod expr;
pub mod schema;
