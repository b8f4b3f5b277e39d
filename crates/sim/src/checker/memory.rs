//! S12 and S8 at the end: the log, the store and the engine's memory say the same, and no permit is out.

use tidewheel_engine::invariant::Fold;
use tidewheel_engine::partition::Audit;
use tidewheel_engine::task::{Payload, State, Task};
use tidewheel_store::memory::State as Store;

/// The log's fold is the stored state. Both were made apart from each other.
pub(super) fn end(fold: &Fold, store: &Store) -> Vec<String> {
    let mut found = Vec::new();
    let mut stored = 0;
    for task in store.tasks() {
        stored += 1;
        match fold.tasks.get(&task.id) {
            None => found.push(format!("task {:x} is stored and not in the log", task.id.0)),
            Some(logged) => {
                let same = differs(logged, task);
                found.extend(same.map(|what| format!("task {:x}: the log's {what} is not the stored one", task.id.0)));
            }
        }
    }
    if stored != fold.tasks.len() {
        found.push(format!("the log has {} tasks, the store {stored}", fold.tasks.len()));
    }
    found
}

fn differs(a: &Task, b: &Task) -> Option<&'static str> {
    let fields = [
        (a.state == b.state, "state"),
        (a.attempt == b.attempt && a.attempt_base == b.attempt_base, "attempt"),
        (a.token == b.token, "token"),
        (a.lane == b.lane, "lane"),
        (a.due == b.due && a.run_at == b.run_at, "time"),
        (a.priority == b.priority && a.seq == b.seq, "order"),
        (a.cancelling == b.cancelling, "cancel"),
        (a.changed == b.changed, "time of change"),
        (a.spec == b.spec, "spec"),
        (same_ending(a, b), "ending"),
    ];
    fields.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
}

fn same_ending(a: &Task, b: &Task) -> bool {
    match (&a.ending, &b.ending) {
        (Some(a), Some(b)) => a.failure == b.failure && (a.result == b.result || a.result == Payload::Cold),
        (None, None) => true,
        _ => false,
    }
}

/// Nothing runs: no permit is held anywhere.
pub(super) fn permits(fold: &Fold, audit: &Audit) -> Vec<String> {
    let mut found = Vec::new();
    let running = fold.tasks.values().filter(|task| task.state == State::Running).count();
    if running == 0
        && (audit.running > 0 || !audit.queues.is_empty() || !audit.tenants.is_empty() || !audit.keys.is_empty())
    {
        found.push(format!("permits are held at idle: {audit:?}"));
    }
    let held = audit.sessions.iter().find(|s| s.used > 0 || s.attempts > 0);
    if let Some(session) = held.filter(|_| running == 0) {
        found.push(format!("a worker's permits are held at idle: {session:?}"));
    }
    found
}

/// What the engine has in memory is what the log says.
pub(super) fn records(fold: &Fold, records: &[Task]) -> Vec<String> {
    let mut found = Vec::new();
    for task in records {
        match fold.tasks.get(&task.id) {
            None => found.push(format!("task {:x} is in memory and not in the log", task.id.0)),
            Some(logged) => {
                let what = differs(logged, task);
                found.extend(what.map(|what| format!("task {:x}: the log's {what} is not that in memory", task.id.0)));
            }
        }
    }
    found
}
