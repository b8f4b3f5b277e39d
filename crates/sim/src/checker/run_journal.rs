//! S12 for runs: turns without gaps, heads that are the fold of their turns, and reads that are prefixes of one another.

use tidewheel_engine::id::RunId;
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::journal::Segment;
use tidewheel_store::memory as store;

use super::runs::{Found, Log};

/// A turn follows the one before.
pub(super) fn follows(run: RunId, log: &Log, segment: &Segment) -> Found {
    let expected = log.segments.len() as u64 + 1;
    if segment.turn == expected {
        return Found::new();
    }
    vec![("S12", format!("turn {} of run {run} follows turn {}", segment.turn, expected - 1))]
}

/// A head that was written whole is the fold of the turns.
pub(super) fn same(run: RunId, whole: &Head, folded: &Head) -> Found {
    if whole == folded {
        return Found::new();
    }
    let what = match () {
        () if whole.turns != folded.turns => format!("{} turns instead of {}", whole.turns, folded.turns),
        () if whole.identity != folded.identity => format!("{:?} instead of {:?}", whole.identity, folded.identity),
        () if whole.phase != folded.phase => format!("{:?} instead of {:?}", whole.phase, folded.phase),
        () if whole.open != folded.open => format!("open {:?} instead of {:?}", whole.open, folded.open),
        () => format!("{whole:?} instead of {folded:?}"),
    };
    vec![("S12", format!("the head of run {run} was written with {what}"))]
}

/// What a client is told is a moment of the log.
pub(super) fn read(run: RunId, log: Option<&Log>, told: &Head) -> Found {
    let Some(log) = log else {
        return vec![("S1", format!("run {run} is acknowledged and not stored"))];
    };
    let turns = log.marks.len() as u64;
    if told.turns > turns {
        return vec![("S12", format!("a client sees turn {} of run {run}, the log has {turns}", told.turns))];
    }
    let mark = (told.turns as usize).checked_sub(1).map(|at| log.marks[at]);
    if mark.is_some_and(|mark| mark != (told.phase, told.next_seq, told.identity.plan)) {
        return vec![("S12", format!("a client sees another turn {} of run {run} than the log has", told.turns))];
    }
    if told.turns == turns && *told != log.head {
        return vec![("S12", format!("a client sees another run {run} than the log has: {told:?}, {:?}", log.head))];
    }
    Found::new()
}

/// What is stored is what the log says.
pub(super) fn stored(run: RunId, log: &Log, state: &store::State) -> Found {
    let Loaded::Run(Some(stored)) = store::load(state, &Load::History(log.tenant, run)) else {
        return vec![("S1", format!("run {run} is in the log and not in the store"))];
    };
    let mut found = Found::new();
    if stored.segments != log.segments {
        found.push(("S12", format!("the stored turns of run {run} are not those of the log")));
    }
    let timers: Vec<(u64, u64)> = log.timers.iter().map(|(entry, due)| (*entry, *due)).collect();
    if stored.timers != timers || stored.events.len() != log.events.len() {
        found.push(("S12", format!("the stored rows of run {run} are not those of the log")));
    }
    found
}
