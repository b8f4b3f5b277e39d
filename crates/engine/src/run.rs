//! Durable runs: the plan of a workflow, what a run has done (its head and journal), and the turn that takes it on.
//!
//! A turn is a pure function. What it needs of the language (expressions, schemas) comes in through [`eval::Definition`],
//! which `lang` implements; the engine never sees the text of a workflow.
//!
//! # The border to the shell
//!
//! * [`turn::advance`]`(head, event, env, fuel)` gives the next head, the [`journal::Segment`] to append, the [`act::Act`]s, whether
//!   [`act::Event::Continue`] has to follow, and whether the head is to be written whole. All of it is one commit; nothing of it is
//!   visible before that. `None` = the event came before or is for nothing that is open: answer it as done.
//! * [`turn::Halt::OutOfFuel`]: mark the run busy, make the same call in the pool with [`limit::EVAL_STEPS`] and
//!   [`limit::EVAL_BYTES`] or more, and take its turn in only if the head has the same number of turns.
//!   [`turn::Halt::Blobs`]: read them, call again.
//! * Entries are numbers ([`head::Seq`]), unique in a run for ever. Everything outside (tasks, timers, children, subscriptions) is
//!   named by (run, entry), items of a map by (run, entry, first item); ids and idempotency keys derive from that. The key,
//!   as text, is for people and for [`fold::Journal::reset`].
//! * A load is [`fold::Journal`]: the last whole head and the segments after it. Open timers, tasks and subscriptions are rows of
//!   their own and need no act after a load; a head that is [`head::Head::runnable`] needs a `Continue`.
//! * An act may come more than once only if its commit failed: everything that the shell does for it has to be idempotent.
//!
//! # Rooms
//!
//! `plan`, `eval`: the border to the language. `data`, `fault`: values and errors. `head`, `journal`, `act`: what is stored and said.
//! `turn`, `machine`, `look`: the turn, its bookkeeping, evaluation. `step`: from statement to statement; `body`, `catch`,
//! `listen`, `map`, `saga`: the statements; `code`, `command`, `history`, `page`: programs (durable Python); `unwind`: errors, timers, cancellation, retry;
//! `undo`: compensations; `kept`: calls that a run makes later. `weight`: what its values take. `fold`: heads from journals; `reset`: back to
//! a moment of one, `rollback`: what that gives up.
//!
//! [`limit::EVAL_STEPS`]: crate::limit::EVAL_STEPS
//! [`limit::EVAL_BYTES`]: crate::limit::EVAL_BYTES

pub mod act;
mod body;
pub mod calendar;
mod catch;
pub mod code;
pub mod command;
pub mod data;
pub mod eval;
pub mod fault;
pub mod fold;
pub mod head;
pub mod history;
pub mod journal;
pub mod kept;
pub mod listen;
mod look;
mod machine;
pub mod map;
pub mod moves;
mod page;
pub mod plan;
pub mod promise;
mod reset;
mod rollback;
pub mod saga;
mod step;
pub mod turn;
pub mod undo;
mod unwind;
pub mod weight;
