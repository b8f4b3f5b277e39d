//! L4 and L9 for runs: one that waits for nobody goes on, one that was cancelled ends with all that it had at work, and
//! nothing is left of those that ended.

use tidewheel_engine::id::RunId;
use tidewheel_engine::invariant::Fold;
use tidewheel_engine::run::head::{Outside, Phase};

use super::runs::{Found, Log, Runs};
use crate::plan::SECOND;

/// A run that waits for nobody makes a step within this.
const STEP_WITHIN: u64 = 30 * SECOND;
/// A run that was cancelled has ended within this, and the time that what is computed beside the loop takes.
const CANCELLED_WITHIN: u64 = 5 * SECOND;

/// Looks at a partition that is well. `cancelled` = how long a cancelled task may take to end; `computing` = how long a run may be held by
/// what is computed for it.
pub(super) fn look(
    runs: &mut Runs,
    partition: usize,
    fold: &Fold,
    (wall, now): (u64, u64),
    (cancelled, computing): (u64, u64),
) -> Found {
    let mut found = Found::new();
    let open: Vec<RunId> = runs.open[partition].iter().copied().collect();
    for run in open {
        let goes = could_go(runs, partition, run, fold, wall);
        let Some(log) = runs.parts[partition].get_mut(&run) else { continue };
        log.could_go = if goes { log.could_go.or(Some(now)) } else { None };
        if log.could_go.is_some_and(|since| now > since + STEP_WITHIN) {
            let (events, timers) = (&log.events, &log.timers);
            let below = runs.children[partition].range((run, 0, 0)..=(run, u64::MAX, u64::MAX));
            let below: Vec<String> = below.map(|(of, child)| format!("{child} of {}", of.1)).collect();
            let text = format!(
                "run {run} waits for nobody and stands still; below it {below:?}; events {events:?}, timers {timers:?}"
            );
            found.push(("L4", format!("{text}, {:?}", log.head)));
        }
        if log.cancelled.is_some_and(|since| now > since + CANCELLED_WITHIN + computing) {
            found.push(("L9", format!("run {run} was cancelled and is {:?}", log.head.phase)));
        }
    }
    for (run, log) in &runs.parts[partition] {
        for (task, (entry, _, closed)) in &log.live {
            if closed.is_some_and(|since| now > since + cancelled) {
                let state = fold.tasks.get(task).map(|task| task.state);
                found.push((
                    "L9",
                    format!("task {:x} of entry {entry} of run {run} is not needed and {state:?}", task.0),
                ));
            }
        }
    }
    found
}

/// Nothing can be said about how long it takes now.
pub(super) fn unwell(runs: &mut Runs, partition: usize, now: u64) {
    let open: Vec<RunId> = runs.open[partition].iter().copied().collect();
    for run in open {
        if let Some(log) = runs.parts[partition].get_mut(&run) {
            log.could_go = None;
            log.cancelled = log.cancelled.map(|_| now);
        }
    }
    for log in runs.parts[partition].values_mut() {
        log.live.values_mut().for_each(|live| live.2 = live.2.map(|_| now));
    }
}

/// Whether nothing that has still to come keeps it from going on.
fn could_go(runs: &Runs, partition: usize, run: RunId, fold: &Fold, wall: u64) -> bool {
    let Some(log) = runs.parts[partition].get(&run) else { return false };
    let head = &log.head;
    if !log.events.is_empty() {
        return true;
    }
    if head.phase == Phase::Suspended {
        return false;
    }
    if head.runnable() || head.phase == Phase::Pending {
        return true;
    }
    if head.closing.is_none() && !head.phase.ended() && log.program.is_due() {
        return true;
    }
    let lives = |entry: u64| log.live.values().any(|live| live.0 == entry);
    let child_lives = |entry: u64| {
        let all = runs.children[partition].range((run, entry, 0)..=(run, entry, u64::MAX));
        all.into_iter().any(|(_, child)| runs.open[partition].contains(child))
    };
    let _ = fold;
    let waits = |(entry, open): &(u64, tidewheel_engine::run::head::Open)| match open.what {
        Outside::Task | Outside::Undo => lives(*entry),
        Outside::Items => lives(*entry) || child_lives(*entry),
        Outside::Child(_) => child_lives(*entry),
        Outside::Wait | Outside::Backoff | Outside::Timeout | Outside::AttemptLimit | Outside::UndoPause => {
            log.timers.get(entry).is_some_and(|due| *due > wall)
        }
        Outside::Events => true,
    };
    // One of its lines stands still if what it waits for is over.
    let children = head.children.iter().any(|(entry, _)| child_lives(*entry));
    !head.open.iter().any(waits) && !children
        || head.open.iter().any(|open| open.1.what == Outside::Task && !waits(open))
}

/// What is left of a run that has ended.
pub(super) fn left(run: RunId, log: &Log) -> Found {
    let mut found = Found::new();
    if !log.events.is_empty() {
        found.push(("S12", format!("what came for run {run} was taken in and is kept: {:?}", log.events)));
    }
    if !log.timers.is_empty() {
        found.push(("S6", format!("timers of run {run} are left: {:?}", log.timers)));
    }
    if let Some(task) = log.live.keys().next() {
        found.push(("L9", format!("task {:x} of run {run} is left", task.0)));
    }
    found
}
