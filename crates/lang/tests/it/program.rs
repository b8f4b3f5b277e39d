//! Programs (durable Python) in the engine, with the plan that this crate makes of them: the program itself is a function here that says what it
//! wants by what it has heard. After every turn the journal is folded, which is what a crash after that commit would do. Turns leave the
//! run as soon as they may, so that every program here is replayed from pages.

mod copies;
mod failures;
mod history;
mod kit;
mod promises;
mod steps;
mod undo;
mod versions;
