//! Plays a test, and says what of its expectations did not hold.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::head::Phase;

use super::compare::{diff, error_holds, holds, part, same};
use super::journal::journal;
use super::mock::{Call, MOCK_WORK, Mocks, short};
use super::suite::{Expect, Suite, Test};
use super::world::{Ended, Mode, START_MS, World, weight};
use crate::duration;

/// Calls that are shown of a test.
const MAX_CALLS: usize = 1_000;
/// Bytes of memory from which on no further call is shown.
const MAX_SHOWN: u64 = 4 << 20;
/// Names that are shown in a message.
const MAX_NAMES: usize = 50;

/// What became of the tests of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How many passed.
    pub passed: usize,
    /// How many did not.
    pub failed: usize,
    /// Each.
    pub tests: Vec<Played>,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Played {
    /// Its name.
    pub name: String,
    /// Line of its name.
    pub line: u32,
    /// Whether everything held.
    pub passed: bool,
    /// What did not.
    pub failures: Vec<Failure>,
    /// Phase of the run at the end; `broken` if it could not go on.
    pub phase: &'static str,
    /// Its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
    /// Milliseconds of its own time that passed.
    pub elapsed_ms: u64,
    /// How many calls were made.
    pub call_count: usize,
    /// The calls that were made: the first 1,000, or fewer if they are large.
    pub calls: Vec<Called>,
    /// Lines of mocks that answered nothing.
    pub unused_mocks: Vec<u32>,
    /// The journal, if it failed: one line for each fact.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<String>,
    /// What was run: document and reference.
    #[serde(skip)]
    pub(super) ran: BTreeSet<(usize, Name)>,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Called {
    /// Reference of the statement.
    pub statement: String,
    /// Kind of call.
    pub call: String,
    /// Its arguments.
    pub with: Json,
}

/// Something that did not hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// One sentence.
    pub message: String,
    /// How what was expected (`-`) and what was found (`+`) differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), diff: None }
    }

    fn differs(what: &str, expected: &Json, found: &Json) -> Failure {
        let message = format!("the {what} is not as expected (- expected, + found)");
        Failure { message, diff: Some(diff(expected, found)) }
    }
}

pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Running => "running",
        Phase::Waiting => "waiting",
        Phase::Suspended => "suspended",
        Phase::Cancelled => "cancelled",
        Phase::Faulted => "faulted",
        Phase::Completed => "completed",
    }
}

/// A run of a test.
struct Once {
    ended: Ended,
    elapsed: u64,
    calls: Vec<Call>,
    used: Vec<u64>,
    emitted: Vec<Json>,
    /// Document and reference of what was run, in order.
    steps: Vec<(usize, Name)>,
    journal: Vec<String>,
}

impl Suite {
    /// Plays the tests whose names hold the text.
    pub fn play_all(&self, filter: Option<&str>, crash: bool) -> Report {
        let fits = |test: &&Test| filter.is_none_or(|filter| test.name.contains(filter));
        let tests: Vec<Played> = self.tests.iter().filter(fits).map(|test| self.play(test, crash)).collect();
        let passed = tests.iter().filter(|test| test.passed).count();
        Report { passed, failed: tests.len() - passed, tests }
    }

    fn play(&self, test: &Test, crash: bool) -> Played {
        let once = self.once(test, if crash { Mode::Crash } else { Mode::Memory });
        let mut failures = check(&test.expect, &once);
        if crash && !matches!(once.ended, Ended::Broken(_)) {
            failures.extend(crashes_show(&self.once(test, Mode::Memory), &once));
        }
        let unused = test.mocks.iter().zip(&once.used).filter(|(_, used)| **used == 0);
        let (output, error) = match &once.ended {
            Ended::Completed(output) => (Some(output.clone()), None),
            Ended::Faulted(error) => (None, Some(error.clone())),
            _ => (None, None),
        };
        let called = |call: &Call| Called {
            statement: call.reference.to_string(),
            call: call.call.clone(),
            with: call.args.clone(),
        };
        let mut shown = 0;
        let small = |call: &&Call| {
            shown += weight(&call.args);
            shown <= MAX_SHOWN
        };
        Played {
            name: test.name.clone(),
            line: test.line,
            passed: failures.is_empty(),
            phase: phase_of(&once.ended),
            output,
            error,
            elapsed_ms: once.elapsed,
            call_count: once.calls.len(),
            calls: once.calls.iter().take(MAX_CALLS).take_while(small).map(called).collect(),
            unused_mocks: unused.map(|(mock, _)| mock.line).collect(),
            journal: if failures.is_empty() { Vec::new() } else { once.journal },
            ran: once.steps.into_iter().collect(),
            failures,
        }
    }

    fn once(&self, test: &Test, mode: Mode) -> Once {
        let (used, calls) = (vec![0; test.mocks.len()], Vec::new());
        let mut mocks = Mocks {
            mocks: &test.mocks,
            programs: &test.programs,
            secrets: &test.secrets,
            used,
            calls,
            work: MOCK_WORK,
        };
        let start = test.start.unwrap_or(START_MS);
        let mut world = World::new(&self.documents, mode, start, &mut mocks);
        let ended = world.execute(test.input.clone(), test.beside.clone());
        let ran = world.steps.iter().filter(|step| !step.skipped);
        let steps = ran.map(|step| (world.runs[step.run].document, step.reference.clone())).collect();
        let (elapsed, journal) = (world.elapsed(), journal(&world, start));
        let emitted = std::mem::take(&mut world.emitted);
        Once { ended, elapsed, calls: mocks.calls, used: mocks.used, emitted, steps, journal }
    }
}

fn phase_of(ended: &Ended) -> &'static str {
    match ended {
        Ended::Completed(_) => "completed",
        Ended::Faulted(_) => "faulted",
        Ended::Cancelled => "cancelled",
        Ended::Stuck(phase) => phase_name(*phase),
        Ended::Broken(_) => "broken",
    }
}

fn check(expect: &Expect, once: &Once) -> Vec<Failure> {
    if let Ended::Broken(why) = &once.ended {
        return vec![Failure::new(why)];
    }
    let mut failures = Vec::new();
    let phase = phase_of(&once.ended);
    if phase != expect.phase {
        let more = match &once.ended {
            Ended::Completed(output) => format!("; its output is {}", short(output)),
            Ended::Faulted(error) => format!("; its error is {}", short(error)),
            Ended::Stuck(_) => {
                "; nothing is left that would take it on: an event that it waits for, or the answer of a \
                                mock with `never`"
                    .to_string()
            }
            _ => String::new(),
        };
        failures.push(Failure::new(format!("the run is {phase}, not {}{more}", expect.phase)));
    }
    match (&once.ended, &expect.output, &expect.error) {
        (Ended::Completed(found), Some(wanted), _) if !same(wanted, found) => {
            failures.push(Failure::differs("output", wanted, found));
        }
        (Ended::Faulted(found), _, Some(wanted)) if !error_holds(wanted, found) => {
            let mut shown = part(wanted, found);
            if error_holds(&json!({"type": wanted["type"]}), found) {
                shown["type"] = wanted["type"].clone();
            }
            failures.push(Failure::differs("error", wanted, &shown));
        }
        _ => {}
    }
    calls(expect, once, &mut failures);
    steps(expect, once, &mut failures);
    events(expect, once, &mut failures);
    if let Some(bound) = expect.elapsed.filter(|bound| !(bound.least..=bound.most).contains(&once.elapsed)) {
        let wanted = match (bound.least, bound.most) {
            (least, most) if least == most => duration::text(least),
            (least, u64::MAX) => format!("at least {}", duration::text(least)),
            (0, most) => format!("at most {}", duration::text(most)),
            (least, most) => format!("{} to {}", duration::text(least), duration::text(most)),
        };
        failures.push(Failure::new(format!("{} passed, not {wanted}", duration::text(once.elapsed))));
    }
    failures
}

fn calls(expect: &Expect, once: &Once, failures: &mut Vec<Failure>) {
    for (name, pick, times) in &expect.calls {
        let fits = |call: &&Call| pick.fits(&call.reference, &call.call, &call.args);
        let count = once.calls.iter().filter(fits).count() as u64;
        if times.map_or(count > 0, |times| times == count) {
            continue;
        }
        let wanted = times.map_or("at least 1".to_string(), |times| times.to_string());
        let such = if pick.with.is_some() { "calls with these arguments" } else { "calls" };
        let mut failure = Failure::new(format!("`{name}` made {count} {such}, not {wanted}"));
        let any = super::mock::Pick { with: None, ..pick.clone() };
        let others: Vec<&Call> =
            once.calls.iter().filter(|call| any.fits(&call.reference, &call.call, &call.args)).collect();
        if let (Some(with), Some(one), true) = (&pick.with, others.first(), count == 0) {
            failure.message += "; its call had (- expected, + found)";
            if others.len() > 1 {
                failure.message = format!(
                    "`{name}` made none of its {} calls with these arguments; the first had (- expected, + found)",
                    others.len()
                );
            }
            failure.diff = Some(diff(with, &part(with, &one.args)));
        }
        failures.push(failure);
    }
}

fn steps(expect: &Expect, once: &Once, failures: &mut Vec<Failure>) {
    let mut left = once.steps.iter();
    let mut before: Option<&str> = None;
    for (name, references) in &expect.steps {
        if left.any(|(_, reference)| references.contains(reference)) {
            before = Some(name);
            continue;
        }
        let names: Vec<&str> =
            once.steps.iter().take(MAX_NAMES).map(|(_, one)| one.rsplit('/').next().unwrap_or_default()).collect();
        let after = before.map(|before| format!(" after `{before}`")).unwrap_or_default();
        let more = if once.steps.len() > MAX_NAMES { ", ..." } else { "" };
        failures.push(Failure::new(format!("`{name}` was not run{after}; the order was {}{more}", names.join(", "))));
        break;
    }
    let ran: BTreeSet<&Name> = match expect.not_run.is_empty() {
        true => BTreeSet::new(),
        false => once.steps.iter().map(|(_, reference)| reference).collect(),
    };
    for (name, references) in &expect.not_run {
        if references.iter().any(|reference| ran.contains(reference)) {
            failures.push(Failure::new(format!("`{name}` was run")));
        }
    }
}

fn events(expect: &Expect, once: &Once, failures: &mut Vec<Failure>) {
    let mut left = once.emitted.iter();
    for (at, wanted) in expect.events.iter().enumerate() {
        if left.any(|event| holds(wanted, event)) {
            continue;
        }
        let same_type = |event: &&Json| event["type"] == wanted["type"];
        let near = once.emitted.iter().find(same_type).or_else(|| once.emitted.get(at));
        let mut failure =
            Failure::new(format!("event {} of the expected ones was not sent, or not in this order", at + 1));
        if let Some(near) = near {
            failure.message += " (- expected, + sent)";
            failure.diff = Some(diff(wanted, &part(wanted, near)));
        }
        failures.push(failure);
        break;
    }
}

/// What a run with crashes does otherwise than one without.
fn crashes_show(calm: &Once, crashed: &Once) -> Option<Failure> {
    let seen = |once: &Once| {
        let calls = once.calls.iter().map(|call| json!({"statement": &*call.reference, "with": call.args}));
        let end = match &once.ended {
            Ended::Completed(value) | Ended::Faulted(value) => value.clone(),
            _ => Json::Null,
        };
        json!({
            "phase": phase_of(&once.ended),
            "end": end,
            "elapsed": once.elapsed,
            "calls": calls.collect::<Vec<_>>(),
            "events": once.emitted,
        })
    };
    let (calm, crashed) = (seen(calm), seen(crashed));
    (calm != crashed).then(|| Failure {
        message: "with a crash after every commit the run went another way (- without, + with crashes)".to_string(),
        diff: Some(diff(&calm, &crashed)),
    })
}
