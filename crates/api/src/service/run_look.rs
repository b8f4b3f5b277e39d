//! What is seen of a run besides its record: how many there are, why one does not go on, what it did when, what its tasks logged, and what
//! two of them have differently.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::code;
use tidewheel_engine::run::command::MISMATCH;
use tidewheel_engine::run::head::{Head, Phase, Seq, Step};
use tidewheel_engine::run::journal::{EntryKind, Fact, Segment};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::logs::{self, LinesRequest, MAX_LINES};
use super::workflow::{self, Named};
use super::{get_task, moving, run, run_journal, run_weight};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;
use crate::store::Store;
use crate::store::log::LogQuery;
use crate::text::{run_id, run_text, task_id};
use crate::units::{parse_time, time_text};

/// Runs of one phase that are counted, at most.
const COUNTED: u64 = 100_000;
/// Reasons that one answer holds.
const REASONS: usize = 100;
/// Turns read at once.
const TURNS: u64 = 256;
/// Turns that are read for the keys of what is open.
const BACK: u64 = 20_000;
/// Tasks of a run whose lines are read, the newest.
const TASKS: usize = 2_000;
/// Entries of each of two runs that are compared.
const COMPARED: usize = 5_000;
/// Entries of a comparison that are shown.
const SHOWN: usize = 1_000;
/// Entries of a journal read at once.
const PAGE: usize = 1_000;

/// How many runs there are in each phase.
pub(crate) async fn counts(api: &Api, caller: &Principal) -> Result<rest::RunCounts, Failure> {
    let tenant = caller.tenant;
    let found = api.read_store(move |store| store.run_counts(tenant, COUNTED)).await?;
    let at_least = found.iter().filter(|(_, count)| *count >= COUNTED);
    Ok(rest::RunCounts {
        at_least: at_least.map(|(phase, _)| run::phase_name(*phase).to_owned()).collect(),
        counts: found.iter().map(|(phase, count)| (run::phase_name(*phase).to_owned(), *count)).collect(),
        as_of: api.runtime.committed_index(),
    })
}

/// Why a run does not go on.
pub(crate) async fn why(api: &Api, caller: &Principal, id: RunId) -> Result<rest::RunWhy, Failure> {
    let head = run::head(api, caller, id).await?;
    let shown = run::shown(api, caller, &head).await?;
    let mut reasons = Vec::new();
    let document = document_of(api, caller, &head);
    // Limits come last: they are not what it waits for, but what ends the wait.
    let is_limit = |wait: &rest::RunWait| matches!(wait.what.as_str(), "timeout" | "attempt_timeout");
    let (limits, waits): (Vec<_>, Vec<_>) = shown.waiting.iter().partition(|wait| is_limit(wait));
    let more = shown.waiting.len() > REASONS;
    let waited = waits.len().min(REASONS);
    let all: Vec<&rest::RunWait> = waits.into_iter().chain(limits).take(REASONS).collect();
    let wanted: Vec<Seq> = all.iter().map(|wait| wait.entry).collect();
    let keys = keys_of(api, caller.tenant, id, head.turns, &wanted).await?;
    for wait in all {
        let mut reason = reason_of(api, caller, &head, document.as_ref(), wait).await?;
        reason.key = keys.get(&wait.entry).cloned();
        reasons.push(reason);
    }
    let own = state_of(&head, &shown);
    let summary = match (&own, waited) {
        (Some(own), _) => own.text.clone(),
        (None, 0) => "It is at work: its next turn is being taken.".to_owned(),
        (None, 1) => sentence(&reasons[0].text),
        (None, count) => format!("{} It waits for {count} things in all.", sentence(&reasons[0].text)),
    };
    // Of several limits the first one is enough here: all are in the list.
    let limit = reasons.get(waited).filter(|_| own.is_none());
    let summary = limit.map_or(summary.clone(), |limit| format!("{summary} {}", sentence(&limit.text)));
    if let Some(own) = own {
        reasons.insert(0, own);
    } else if reasons.is_empty() {
        let (code, text) = ("at_work".to_owned(), summary.clone());
        reasons.push(rest::RunReason { code, text, ..rest::RunReason::default() });
    }
    if let Some(text) = moving::why_not_newest(api, caller.tenant, &head) {
        reasons.push(rest::RunReason { code: "version".to_owned(), text, ..rest::RunReason::default() });
    }
    if let Some(open) = code::of(&head).map(|state| state.open.len()).filter(|open| *open >= api.config.many_open) {
        let text = format!(
            "It has {open} things open at once, and every turn looks at all of them: wf.map takes any number of items, and what is \
             waited for is open no longer. With more than engine.maxOpenEntries it fails."
        );
        reasons.push(rest::RunReason { code: "many_open".to_owned(), text, ..rest::RunReason::default() });
    }
    if let Some(text) = run_weight::much_carried(&head) {
        reasons.push(rest::RunReason { code: "much_carried".to_owned(), text, ..rest::RunReason::default() });
    }
    Ok(rest::RunWhy { id: shown.id, phase: shown.phase, summary, reasons, more })
}

fn sentence(text: &str) -> String {
    format!("It {text}{}", if text.ends_with('.') { "" } else { "." })
}

/// What holds for the run as a whole: it ended, or is held.
fn state_of(head: &Head, shown: &rest::Run) -> Option<rest::RunReason> {
    let reason = head.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let (code, text) = match head.phase {
        Phase::Suspended if mismatch(head).is_some() => ("replay-mismatch", mismatched(head, &shown.id)),
        Phase::Suspended => {
            ("suspended", format!("It is held{reason}. `tidewheel run resume {}` lets it go on.", shown.id))
        }
        Phase::Completed => ("ended", "It has completed.".to_owned()),
        Phase::Cancelled => ("ended", format!("It was cancelled{reason}.")),
        Phase::Faulted => {
            let text = |name: &str| {
                shown.error.as_ref().and_then(|error| error.get(name)).and_then(Value::as_str).unwrap_or_default()
            };
            let what = [text("title"), text("detail")].into_iter().filter(|text| !text.is_empty());
            let what = what.collect::<Vec<_>>().join(": ");
            let at = text("instance");
            let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
            let id = &shown.id;
            let next = if text("instance").is_empty() && head.turns <= 1 {
                "Its input was refused: start it again with another one.".to_owned()
            } else {
                format!("`tidewheel run retry {id}` goes on from there.")
            };
            ("ended", format!("It failed{at}: {what}. {next}"))
        }
        _ if head.closing.is_some() => ("ended", "It is ending: what it has open ends first.".to_owned()),
        _ => return None,
    };
    Some(rest::RunReason { code: code.to_owned(), text, since: shown.ended_at.clone(), ..rest::RunReason::default() })
}

/// What a replay of the run's program found to differ, while the run holds because of it.
fn mismatch(head: &Head) -> Option<&Value> {
    if head.reason.as_deref() != Some(MISMATCH) {
        return None;
    }
    code::of(head)?.mismatch.as_ref()?.json()
}

/// That, with what can be done about it.
fn mismatched(head: &Head, id: &str) -> String {
    let none = Value::Null;
    let found = mismatch(head).unwrap_or(&none);
    let text = |name: &str| found[name].as_str().unwrap_or_default();
    let key = |name: &str| Some(text(name)).filter(|key| !key.is_empty()).unwrap_or("nothing");
    let place = match found["line"].as_u64() {
        Some(line) if !text("file").is_empty() => format!(" ({}:{line})", text("file")),
        _ => String::new(),
    };
    format!(
        "Its code does not fit its history: {}; the history has {}, the code asks for {}{place}. Deploy code that fits and \
         `tidewheel run move {id} --to latest`, go back to the version before with `tidewheel run move {id} --to previous`, take it \
         back with `tidewheel run reset {id} --to KEY`, or let it go on all the same with `tidewheel run accept {id}`.",
        text("why"),
        key("expected"),
        key("actual"),
    )
}

/// The document that a run follows, if it is still deployed.
fn document_of(api: &Api, caller: &Principal, head: &Head) -> Option<Value> {
    let identity = &head.identity;
    let named = Named { namespace: &identity.namespace, name: &identity.name, version: &identity.version };
    workflow::document(api, caller, named).ok().map(|(_, document)| document)
}

async fn reason_of(
    api: &Api,
    caller: &Principal,
    head: &Head,
    document: Option<&Value>,
    wait: &rest::RunWait,
) -> Result<rest::RunReason, Failure> {
    // The statements of a program are made up; what says where it is in the program is its key.
    let named = !wait.statement.is_empty() && !wait.statement.starts_with('@');
    let at = if named { format!(" (statement {})", wait.statement) } else { String::new() };
    let until = wait.until.as_deref().map(|until| format!(" until {until}")).unwrap_or_default();
    let mut reasons = Vec::new();
    let text = match wait.what.as_str() {
        "task" | "undo" => {
            let task = wait.task.clone().unwrap_or_default();
            let what = if wait.what == "undo" { "undoes something by" } else { "waits for" };
            let said = match get_task::why(api, caller, task_id(&task)?).await {
                Ok(why) => {
                    reasons = why.reasons;
                    why.summary
                }
                Err(failure) if failure.code() == Code::NotFound => "there is no such task any more.".to_owned(),
                Err(failure) => return Err(failure),
            };
            format!("{what} task {task}{at}: {said}")
        }
        "run" => {
            let child = wait.run.clone().unwrap_or_default();
            let said = match run::head(api, caller, run_id(&child)?).await {
                Ok(child) => {
                    let identity = &child.identity;
                    let (namespace, name, version) = (&identity.namespace, &identity.name, &identity.version);
                    format!("of {namespace}/{name}:{version}, which is {}", run::phase_name(child.phase))
                }
                Err(failure) if failure.code() == Code::NotFound => "which is not there any more".to_owned(),
                Err(failure) => return Err(failure),
            };
            format!("waits for run {child} {said}{at}")
        }
        "items" => format!("waits for {}{at}", items_of(head, wait.entry)),
        "event" => format!("waits for {}{at}", events_of(document, &wait.statement)),
        "time" => format!("waits{until}{at}"),
        "retry" => format!("waits{until} before it tries again{at}"),
        "undo_retry" => format!("waits{until} before it tries again to undo something"),
        "attempt_timeout" => format!("has a time limit for this attempt, which ends it at {}{at}", limit_of(wait)),
        "timeout" => format!("has a time limit, which ends it at {}{at}", limit_of(wait)),
        other => format!("waits for {other}{at}"),
    };
    Ok(rest::RunReason {
        code: wait.what.clone(),
        text,
        entry: Some(wait.entry),
        key: None,
        statement: Some(wait.statement.clone()).filter(|statement| !statement.is_empty()),
        task: wait.task.clone(),
        run: wait.run.clone(),
        since: wait.since.clone(),
        until: wait.until.clone(),
        reasons,
    })
}

fn limit_of(wait: &rest::RunWait) -> &str {
    wait.until.as_deref().unwrap_or("its time")
}

fn items_of(head: &Head, entry: Seq) -> String {
    let mut frames = head.lines.iter().flat_map(|line| &line.frames);
    match frames.find(|frame| frame.seq == entry).map(|frame| &frame.step) {
        Some(Step::Map(map)) => {
            format!("the items of a map: {} of {} are done, {} are at work", map.done, map.total, map.working)
        }
        _ => "the items of a map".to_owned(),
    }
}

/// The types of events that the statement of a `listen` takes.
fn events_of(document: Option<&Value>, statement: &str) -> String {
    if let Some((kind, name)) = statement.strip_prefix('@').and_then(|statement| statement.split_once(':')) {
        return match kind {
            "promise" => format!("the promise '{name}'"),
            "signal" => format!("a signal of the type {name}"),
            _ => format!("an event of the type {name}"),
        };
    }
    let mut kinds = Vec::new();
    if let Some(listen) = document.and_then(|document| document.pointer(statement)).and_then(|s| s.get("listen")) {
        types(listen.get("to").unwrap_or(listen), &mut kinds);
    }
    match kinds[..] {
        [] => "an event".to_owned(),
        [ref one] => format!("an event of the type {one}"),
        _ => format!("events of the types {}", kinds.join(", ")),
    }
}

fn types(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(kind) if name == "type" && !out.contains(kind) => out.push(kind.clone()),
                    other => types(other, out),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| types(value, out)),
        _ => {}
    }
}

/// The keys of entries, from the newest turns back.
async fn keys_of(
    api: &Api,
    tenant: TenantId,
    run: RunId,
    turns: u64,
    wanted: &[Seq],
) -> Result<HashMap<Seq, String>, Failure> {
    let mut found = HashMap::new();
    let mut until = turns;
    while until > 0 && turns - until < BACK && found.len() < wanted.len() {
        let from = until.saturating_sub(TURNS);
        let read = move |store: &dyn Store| store.turns(tenant, run, from, (until - from) as usize);
        for segment in api.read_store(read).await? {
            for fact in &segment.facts {
                match fact {
                    Fact::Opened { entry, key, .. } if wanted.contains(entry) => {
                        found.insert(*entry, key.to_string());
                    }
                    _ => {}
                }
            }
        }
        until = from;
    }
    Ok(found)
}

/// What a run did when, a page at a time.
pub(crate) async fn timeline(
    api: &Api,
    caller: &Principal,
    id: RunId,
    cursor: Option<&str>,
    limit: usize,
) -> Result<rest::RunTimeline, Failure> {
    let head = run::head(api, caller, id).await?;
    let page = run_journal::page(api, caller, id, cursor, limit).await?;
    let begun = begun(&head);
    let items = page.items.iter().map(|entry| {
        let (from, until) = times(entry);
        rest::RunSpan {
            entry: entry.entry,
            within: entry.within,
            key: entry.key.clone(),
            kind: entry.kind.clone(),
            statement: entry.statement.clone(),
            status: entry.status.clone(),
            from_ms: from.saturating_sub(begun),
            took_ms: until.map(|until| until.saturating_sub(from)),
            retries: entry.retries,
            task: entry.task.clone(),
            run: entry.run.clone(),
        }
    });
    Ok(rest::RunTimeline {
        id: run_text(id),
        started_at: time_text(begun),
        ended_at: (head.ended_ms > 0).then(|| time_text(head.ended_ms)),
        duration_ms: duration(api, &head),
        items: items.collect(),
        next_cursor: page.next_cursor,
    })
}

fn begun(head: &Head) -> u64 {
    if head.started_ms > 0 { head.started_ms } else { head.identity.run.millis() }
}

fn duration(api: &Api, head: &Head) -> u64 {
    let end = if head.ended_ms > 0 { head.ended_ms } else { api.runtime.now_ms() };
    end.saturating_sub(begun(head))
}

/// When an entry was opened and, where that is known, done.
fn times(entry: &rest::JournalEntry) -> (u64, Option<u64>) {
    let read = |text: &str| parse_time(text).unwrap_or(0);
    (read(&entry.opened_at), entry.done_at.as_deref().map(read))
}

/// The lines of all tasks of a run, in the order in which they came. Of a run with more than [`TASKS`] tasks those of the newest.
pub(crate) async fn lines(
    api: &Api,
    caller: &Principal,
    id: RunId,
    wanted: &LinesRequest,
) -> Result<(Vec<rest::LogLine>, Option<u64>), Failure> {
    // A run of another tenant is none.
    run::head(api, caller, id).await?;
    let tenant = caller.tenant;
    let tasks = tasks_of(api, tenant, id).await?;
    let statements: HashMap<TaskId, String> = tasks.iter().cloned().collect();
    let limit = wanted.tail.unwrap_or(wanted.limit).clamp(1, MAX_LINES);
    let (tail, since) = (wanted.tail.is_some(), wanted.since.unwrap_or(0));
    let query = LogQuery {
        tenant,
        task: None,
        attempt: None,
        level: wanted.level,
        text: None,
        cursor: wanted.after,
        tail,
        limit,
    };
    let read = move |store: &dyn crate::store::log::LogStore| {
        let mut all = Vec::new();
        for (task, _) in tasks {
            let query = LogQuery { task: Some(task), ..query.clone() };
            all.extend(store.query(&query)?);
            // Rows are numbered as they come, over all tasks: what is too much can be dropped on the way.
            if all.len() > 4 * limit {
                cut(&mut all, limit, tail);
            }
        }
        cut(&mut all, limit, tail);
        Ok(all)
    };
    let page = api.read_logs(read).await?;
    let next = page.last().map(|(row, _)| *row).filter(|_| page.len() == limit && !tail);
    let shown = page.iter().filter(|(_, line)| line.at >= since).map(|(row, line)| {
        let statement = statements.get(&line.task).cloned();
        rest::LogLine { statement, ..logs::shown(*row, line) }
    });
    Ok((shown.collect(), next))
}

fn cut(page: &mut Vec<(u64, crate::store::log::Line)>, limit: usize, tail: bool) {
    page.sort_by_key(|(row, _)| *row);
    match tail {
        true => drop(page.drain(..page.len().saturating_sub(limit))),
        false => page.truncate(limit),
    }
}

/// The tasks of a run, each with the statement that it is for, the newest [`TASKS`] of them.
async fn tasks_of(api: &Api, tenant: TenantId, run: RunId) -> Result<Vec<(TaskId, String)>, Failure> {
    let mut found: Vec<(TaskId, String)> = Vec::new();
    let (mut read_to, mut owner) = (0, run);
    loop {
        let turns = move |store: &dyn Store| store.turns(tenant, run, read_to, TURNS as usize);
        let segments = api.read_store(turns).await?;
        let Some(last) = segments.last() else { return Ok(found) };
        read_to = last.turn;
        for (segment, owner) in segments.iter().map(|segment| (segment, owner_of(segment, &mut owner))) {
            for fact in &segment.facts {
                let Fact::Opened { entry, key, .. } = fact else { continue };
                let statement = key.name.to_string();
                match key.kind {
                    EntryKind::Task | EntryKind::Undo | EntryKind::Step | EntryKind::Activation => {
                        found.push((TaskId::of_step(owner, *entry, 0), statement));
                    }
                    EntryKind::Map => {
                        let tasks = items(api, tenant, owner, *entry).await?;
                        found.extend(tasks.into_iter().map(|task| (task, statement.clone())));
                    }
                    _ => {}
                }
            }
        }
        let surplus = found.len().saturating_sub(TASKS);
        found.drain(..surplus);
    }
}

/// Whose tasks a turn opens: a fork begins with the turns of another run.
fn owner_of(segment: &Segment, owner: &mut RunId) -> RunId {
    if let Event::Start { identity, .. } | Event::Reset { identity, .. } = &segment.event {
        *owner = identity.run;
    }
    *owner
}

/// The tasks of the items of a map, as far as they were begun and are kept.
async fn items(api: &Api, tenant: TenantId, run: RunId, entry: Seq) -> Result<Vec<TaskId>, Failure> {
    api.read_store(move |store| {
        let (mut found, mut item) = (Vec::new(), 0);
        while found.len() < TASKS {
            let id = TaskId::of_step(run, entry, item);
            let Some(task) = store.task(tenant, id)? else { break };
            found.push(id);
            item += u64::from(task.step.map_or(1, |step| step.items.max(1)));
        }
        Ok(found)
    })
    .await
}

/// Two runs side by side.
pub(crate) async fn compare(api: &Api, caller: &Principal, a: RunId, b: RunId) -> Result<rest::RunComparison, Failure> {
    let (head_a, head_b) = (run::head(api, caller, a).await?, run::head(api, caller, b).await?);
    let (run_a, run_b) = (compared(api, &head_a), compared(api, &head_b));
    let (journal_a, more_a) = journal(api, caller, a).await?;
    let (journal_b, more_b) = journal(api, caller, b).await?;
    let mut left: BTreeMap<&str, &rest::JournalEntry> =
        journal_b.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    let mut pairs = Vec::new();
    for entry in &journal_a {
        pairs.push((Some(entry), left.remove(entry.key.as_str())));
    }
    // What the second one did besides, behind what both did.
    pairs.extend(
        journal_b.iter().filter(|entry| left.contains_key(entry.key.as_str())).map(|entry| (None, Some(entry))),
    );
    let first = first_difference(&pairs, &journal_a, &journal_b);
    let entries: Vec<rest::ComparedEntry> = pairs.iter().map(|(a, b)| compared_entry(*a, *b)).collect();
    let same = first.is_none() && run_a.hash == run_b.hash && run_a.outcome == run_b.outcome;
    let more = more_a || more_b || entries.len() > SHOWN;
    let entries = entries.into_iter().take(SHOWN).collect();
    let summary = told(&run_a, &run_b, first.as_ref());
    Ok(rest::RunComparison { same, summary, a: run_a, b: run_b, first, entries, more })
}

/// An entry as each of two runs has it.
type Pair<'a> = (Option<&'a rest::JournalEntry>, Option<&'a rest::JournalEntry>);

/// The first entry that differs, by the order in which they were begun. What an entry gave, or how it ended, comes after what is in
/// it: where that differs already, the entry around it says nothing new.
fn first_difference(
    pairs: &[Pair<'_>],
    journal_a: &[rest::JournalEntry],
    journal_b: &[rest::JournalEntry],
) -> Option<rest::EntryDifference> {
    let parents = |journal: &[rest::JournalEntry]| -> HashMap<u64, u64> {
        journal.iter().filter_map(|entry| Some((entry.entry, entry.within?))).collect()
    };
    let (parents_a, parents_b) = (parents(journal_a), parents(journal_b));
    let (mut around_a, mut around_b) = (HashSet::new(), HashSet::new());
    let mark = |entry: Option<&rest::JournalEntry>, parents: &HashMap<u64, u64>, around: &mut HashSet<u64>| {
        let mut at = entry.map(|entry| entry.entry);
        while let Some(parent) = at.and_then(|at| parents.get(&at)).copied().filter(|parent| around.insert(*parent)) {
            at = Some(parent);
        }
    };
    for (a, b) in pairs.iter().filter(|(a, b)| difference(*a, *b).is_some()) {
        mark(*a, &parents_a, &mut around_a);
        mark(*b, &parents_b, &mut around_b);
    }
    let is_around = |pair: &Pair<'_>| {
        pair.0.is_some_and(|a| around_a.contains(&a.entry)) || pair.1.is_some_and(|b| around_b.contains(&b.entry))
    };
    let says = |pair: &&Pair<'_>| match difference(pair.0, pair.1) {
        None => false,
        Some("input" | "missing") => true,
        Some(_) => !is_around(pair),
    };
    let place = |pair: &&Pair<'_>| pair.0.into_iter().chain(pair.1).map(|entry| entry.entry).min();
    let (a, b) = pairs.iter().filter(says).min_by_key(place)?;
    let (key, what) = (a.or(*b)?.key.clone(), difference(*a, *b)?.to_owned());
    Some(rest::EntryDifference { key, what, a: a.cloned(), b: b.cloned() })
}

fn compared_entry(a: Option<&rest::JournalEntry>, b: Option<&rest::JournalEntry>) -> rest::ComparedEntry {
    let took = |entry: Option<&rest::JournalEntry>| {
        let (from, until) = times(entry?);
        until.map(|until| until.saturating_sub(from))
    };
    rest::ComparedEntry {
        key: a.or(b).map(|entry| entry.key.clone()).unwrap_or_default(),
        differs: difference(a, b).map(str::to_owned),
        a_status: a.map(|entry| entry.status.clone()),
        b_status: b.map(|entry| entry.status.clone()),
        a_ms: took(a),
        b_ms: took(b),
    }
}

fn told(a: &rest::ComparedRun, b: &rest::ComparedRun, first: Option<&rest::EntryDifference>) -> String {
    let document = if a.hash == b.hash { "" } else { " They follow different documents." };
    let said = match first {
        None => "Both did the same with the same values.".to_owned(),
        Some(first) if first.what == "missing" => {
            let only = if first.a.is_some() { &a.id } else { &b.id };
            format!("The first entry that differs is {}: only {only} has it.", first.key)
        }
        Some(first) => format!("The first entry that differs is {}, by its {}.", first.key, first.what),
    };
    let input = if a.input == b.input { "" } else { " Their inputs differ." };
    format!("{said}{input}{document}")
}

fn compared(api: &Api, head: &Head) -> rest::ComparedRun {
    use tidewheel_engine::run::act::Outcome;
    let shown = run::summary(head);
    let output = match &head.outcome {
        Some(Outcome::Ok(output)) => Some(output.written()),
        _ => shown.error.clone(),
    };
    rest::ComparedRun {
        workflow: format!("{}/{}:{}", shown.namespace, shown.workflow, shown.version),
        id: shown.id,
        hash: shown.hash,
        phase: shown.phase,
        duration_ms: duration(api, head),
        input: head.input.written(),
        outcome: output,
    }
}

/// What two runs have differently of an entry.
fn difference(a: Option<&rest::JournalEntry>, b: Option<&rest::JournalEntry>) -> Option<&'static str> {
    let (Some(a), Some(b)) = (a, b) else { return Some("missing") };
    if a.input != b.input {
        return Some("input");
    }
    if a.status != b.status {
        return Some("status");
    }
    if a.output != b.output {
        return Some("output");
    }
    let told = |entry: &rest::JournalEntry| {
        let error = entry.error.as_ref()?;
        Some(["type", "title", "detail", "status"].map(|name| error.get(name).cloned()))
    };
    (told(a) != told(b)).then_some("error")
}

/// The journal of a run as far as it is compared, the last entry of each key; whether there is more.
async fn journal(api: &Api, caller: &Principal, id: RunId) -> Result<(Vec<rest::JournalEntry>, bool), Failure> {
    let mut all: Vec<rest::JournalEntry> = Vec::new();
    let mut cursor = None;
    loop {
        let page = run_journal::page(api, caller, id, cursor.as_deref(), PAGE).await?;
        all.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() || all.len() >= COMPARED {
            break;
        }
    }
    // A reset frees its keys: what it took back is not what the run did.
    all.retain(|entry| entry.status != "superseded");
    Ok((all, cursor.is_some()))
}
