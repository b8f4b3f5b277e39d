//! Tests of the language from outside.

mod compile;
mod conformance;
mod docs;
mod documents;
mod lint;
mod suite;
mod verdict;
