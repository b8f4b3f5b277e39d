//! Tests of the language from outside.

mod bombs;
mod compile;
mod conformance;
mod docs;
mod documents;
mod durations;
mod examples;
mod expressions;
mod fast;
mod jq;
mod json_schema;
mod kit;
mod lint;
mod program;
mod resolve;
mod suite;
mod support;
mod testkit;
mod verdict;
