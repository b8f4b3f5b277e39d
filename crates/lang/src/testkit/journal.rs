//! The journal of a test as people read it.

use tidewheel_engine::run::journal::{Ending, Fact, Segment, ValueId};

use super::mock::short;
use super::world::World;

/// Lines that are kept; of longer journals the first and the last ones.
const MAX_LINES: usize = 200;

/// One line for each fact, in the order of the commits.
pub(super) fn journal(world: &World<'_>, start: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut turns = vec![0; world.runs.len()];
    for run in &world.commits {
        let segment = &world.runs[*run].segments[turns[*run]];
        turns[*run] += 1;
        let who = if world.runs.len() > 1 { format!("run {run} ") } else { String::new() };
        for fact in &segment.facts {
            let passed = segment.now_ms.saturating_sub(start);
            lines.push((passed, who.clone(), *run, turns[*run] - 1, fact));
        }
    }
    let cut = lines.len().saturating_sub(MAX_LINES);
    let mut out = Vec::new();
    for (at, (passed, who, run, turn, fact)) in lines.iter().enumerate() {
        if cut > 0 && (MAX_LINES / 2..MAX_LINES / 2 + cut).contains(&at) {
            if at == MAX_LINES / 2 {
                out.push(format!("... {cut} lines left out ..."));
            }
            continue;
        }
        let segment = &world.runs[*run].segments[*turn];
        let text = one(world, &world.runs[*run].segments, segment, fact);
        out.push(format!("+{}.{:03}s {who}{text}", passed / 1_000, passed % 1_000));
    }
    out
}

fn one(world: &World<'_>, segments: &[Segment], segment: &Segment, fact: &Fact) -> String {
    let value = |id: &ValueId| segment.value(*id).map(|data| short(&world.read(data))).unwrap_or_default();
    match fact {
        Fact::Opened { key, value: given, .. } => {
            let given = given.as_ref().map(|id| format!(" {}", value(id))).unwrap_or_default();
            format!("opened {key}{given}")
        }
        Fact::Done { entry, how } => {
            let key = key_of(segments, *entry);
            match how {
                Ending::Ok(id) => format!("done {key} {}", value(id)),
                Ending::Err(id) => format!("failed {key} {}", value(id)),
                Ending::Skipped => format!("skipped {key}"),
                Ending::Cancelled => format!("cancelled {key}"),
            }
        }
        Fact::Retried { entry, attempt, error, .. } => {
            format!("retry {attempt} of {} after {}", key_of(segments, *entry), value(error))
        }
        Fact::Phase { phase, reason, value: given } => {
            let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let given = given.as_ref().map(|id| format!(" {}", value(id))).unwrap_or_default();
            format!("run {}{reason}{given}", super::play::phase_name(*phase))
        }
    }
}

/// The key under which an entry was opened. Looked for from the end: most entries end soon after they were opened.
fn key_of(segments: &[Segment], wanted: u64) -> String {
    let facts = segments.iter().rev().flat_map(|segment| segment.facts.iter().rev());
    let mut keys = facts.filter_map(|fact| match fact {
        Fact::Opened { entry, key, .. } if *entry == wanted => Some(key.to_string()),
        _ => None,
    });
    keys.next().unwrap_or_else(|| format!("entry {wanted}"))
}
