//! Programs as a worker runs them: a flow that is replayed from the history that an activation brings, and asks for what comes next.
//!
//! It obeys the contract between the engine and durable Python and remembers nothing between two activations: for each turn
//! it goes through the flow from the start with what was told up to that turn. What it asks for then has to be what the
//! history says that it asked for.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tidewheel_engine::ready::mix;

use crate::flow::{CAUGHT, Flow, Flows, NAMESPACE, PROMISE, RETRIES, RETRY_MS, SIGNAL, Statement};

/// What a program with an input that is no number goes on with, so that it shows.
const NO_NUMBER: i64 = -1_000_000;

/// Why a flow does not go on.
enum Stop {
    /// It waits; `tail` = and has nothing more to ask for once that has ended.
    Waits { tail: bool },
    /// It failed: the error, and the key of what failed.
    Raised(Json, String),
}

/// The result of an activation, and how it differs from the history if it does.
pub(crate) fn activate(flows: &Flows, flow: &Flow, input: &Json, turns: &[Json]) -> Result<Json, String> {
    let (live, over) = turns.split_last().ok_or_else(|| "there is no turn".to_owned())?;
    let mut program = Program::new(flows, flow, input);
    program.replay(over)?;
    let Turn { asked, waits, again, how } = program.hear(live);
    let mut result = json!({"v": 1, "commands": asked, "state": {"turn": live["no"]}});
    match how {
        Some(end) => result["end"] = end,
        None => {
            let wait: Vec<Json> = waits.iter().map(|(any, keys)| json!({"mode": mode(*any), "keys": keys})).collect();
            result["wait"] = wait.into();
            result["again"] = again.into();
        }
    }
    Ok(result)
}

/// Whether a program with this history could go on with the code of a flow; why not.
pub(crate) fn rehearse(flows: &Flows, flow: &Flow, input: &Json, turns: &[Json]) -> Result<(), String> {
    Program::new(flows, flow, input).replay(turns)
}

/// How a program ends that is told all this at once; `None` = it does not.
pub(crate) fn ends(flows: &Flows, flow: &Flow, input: &Json, turns: &[Json]) -> Option<Json> {
    let mut program = Program::new(flows, flow, input);
    turns.iter().for_each(|turn| program.told.hear(turn));
    program.pass().how
}

/// A program on its way through its history.
struct Program<'p> {
    flows: &'p Flows,
    flow: &'p Flow,
    input: &'p Json,
    scope: String,
    /// The last turn up to which it may differ.
    accepted: u64,
    told: Told,
    opened: BTreeSet<String>,
}

/// What it does in a turn.
struct Turn {
    asked: Vec<Json>,
    waits: Vec<(bool, Vec<String>)>,
    again: bool,
    how: Option<Json>,
}

impl<'p> Program<'p> {
    fn new(flows: &'p Flows, flow: &'p Flow, input: &'p Json) -> Program<'p> {
        let generation = input["generation"].as_u64().unwrap_or(0);
        let scope = if generation == 0 { String::new() } else { format!("g{generation}") };
        let accepted = input["accepted"].as_u64().unwrap_or(0);
        Program { flows, flow, input, scope, accepted, told: Told::default(), opened: BTreeSet::new() }
    }

    fn pass(&self) -> Turn {
        let mut pass = Pass::new(self.flows, &self.told, &self.opened);
        let how = pass.go(self.flow, &self.input["input"], &self.scope);
        Turn { asked: pass.asked, waits: pass.waits, again: pass.again, how }
    }

    fn hear(&mut self, turn: &Json) -> Turn {
        self.told.hear(turn);
        let turn = self.pass();
        self.opened.extend(turn.asked.iter().filter_map(|asked| asked["key"].as_str()).map(str::to_owned));
        turn
    }

    /// Goes through turns that are over: it has to ask for what they say. Up to where differences were accepted, what they have stands,
    /// and what is asked for instead comes with the first turn behind them.
    fn replay(&mut self, turns: &[Json]) -> Result<(), String> {
        for turn in turns {
            if turn["no"].as_u64().is_some_and(|no| no <= self.accepted) {
                self.told.hear(turn);
                let opened = turn["opened"].as_array().into_iter().flatten();
                self.opened.extend(opened.filter_map(|opened| opened["key"].as_str()).map(str::to_owned));
                continue;
            }
            let Turn { asked, how, .. } = self.hear(turn);
            let name = |asked: &Json| json!({"key": asked["key"], "hash": asked["hash"]});
            let again: Vec<Json> = asked.iter().map(name).collect();
            if turn["opened"] != Json::Array(again.clone()) || how.is_some() {
                let (no, known) = (&turn["no"], &turn["opened"]);
                return Err(format!("turn {no} asked for {known} and asks for {again:?}, and ends with {how:?}"));
            }
        }
        Ok(())
    }
}

/// The turns before those that an activation brings, read page by page; why they are not all there.
pub(crate) fn earlier(input: &Json, read: impl Fn([u8; 32]) -> Option<Bytes>) -> Result<Vec<Json>, String> {
    let mut first = input["first"].as_u64().unwrap_or(1);
    let (mut turns, mut page) = (Vec::new(), input["before"].clone());
    while first > 1 {
        let hash =
            page["$ref"].as_str().and_then(hash_of).ok_or_else(|| format!("nothing has the turns before {first}"))?;
        let text = read(hash).ok_or_else(|| format!("the page with the turns before {first} is not in the store"))?;
        let mut read: Json = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let Json::Array(mut part) = read["turns"].take() else { return Err("a page has no turns".to_owned()) };
        let begins = read["first"].as_u64().unwrap_or(0);
        if begins == 0 || begins + part.len() as u64 != first {
            return Err(format!("turns {begins} to {} come before turn {first}", begins + part.len() as u64 - 1));
        }
        part.append(&mut turns);
        (turns, first, page) = (part, begins, read["before"].take());
    }
    Ok(turns)
}

/// The hash that the name of a value has.
fn hash_of(name: &str) -> Option<[u8; 32]> {
    let digits = name.strip_prefix("sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

fn mode(any: bool) -> &'static str {
    if any { "any" } else { "all" }
}

/// What a program was told, in order.
#[derive(Default)]
struct Told {
    done: BTreeMap<String, (usize, Json)>,
    cancelled: bool,
}

impl Told {
    fn hear(&mut self, turn: &Json) {
        for done in turn["done"].as_array().into_iter().flatten() {
            let at = self.done.len();
            let key = done["key"].as_str().unwrap_or_default().to_owned();
            self.done.entry(key).or_insert_with(|| (at, done.clone()));
        }
        self.cancelled |= turn.get("cancel").is_some();
    }
}

/// One way through a flow.
struct Pass<'p> {
    flows: &'p Flows,
    told: &'p Told,
    /// What was asked for before: it is not asked for again.
    opened: &'p BTreeSet<String>,
    asked: Vec<Json>,
    waits: Vec<(bool, Vec<String>)>,
    again: bool,
    times: BTreeMap<String, u32>,
    parts: BTreeMap<String, u32>,
}

impl<'p> Pass<'p> {
    fn new(flows: &'p Flows, told: &'p Told, opened: &'p BTreeSet<String>) -> Pass<'p> {
        let (asked, waits) = (Vec::new(), Vec::new());
        Pass { flows, told, opened, asked, waits, again: false, times: BTreeMap::new(), parts: BTreeMap::new() }
    }

    /// How it ends; `None` = it waits.
    fn go(&mut self, flow: &Flow, input: &Json, scope: &str) -> Option<Json> {
        let n = input["n"].as_i64().unwrap_or(NO_NUMBER);
        if self.told.cancelled {
            let tidies = mix(n as u64 ^ flow.statements.len() as u64).is_multiple_of(2);
            let part = format!("{scope}{}cleanup", if scope.is_empty() { "" } else { "." });
            return match tidies.then(|| self.task("s0", n, &part)) {
                Some(Err(Stop::Waits { .. })) => None,
                _ => Some(json!({"cancelled": true})),
            };
        }
        let round = input["round"].as_u64().unwrap_or(0);
        match self.list(&flow.statements, n, scope) {
            Ok(n) if round < flow.rounds => Some(json!({"continue": {"n": n, "round": round + 1}})),
            Ok(n) => Some(json!({"ok": {"n": n}})),
            Err(Stop::Raised(error, key)) => {
                let mut error = error;
                error["key"] = key.into();
                Some(json!({"error": error}))
            }
            Err(Stop::Waits { .. }) => None,
        }
    }

    fn list(&mut self, statements: &[Statement], mut n: i64, scope: &str) -> Result<i64, Stop> {
        for (at, statement) in statements.iter().enumerate() {
            n = self.one(statement, n, scope).map_err(|stop| match stop {
                Stop::Waits { tail } => Stop::Waits { tail: tail && at + 1 == statements.len() },
                raised => raised,
            })?;
        }
        Ok(n)
    }

    fn one(&mut self, statement: &Statement, n: i64, scope: &str) -> Result<i64, Stop> {
        match statement {
            Statement::Step(kind) => self.task(&format!("s{kind}"), n, scope),
            Statement::Fails(kind) => {
                let args = json!({"n": n, "fails": true});
                Ok(number(&self.ask("task", &format!("s{kind}"), args, json!({"queue": "q0"}), scope)?))
            }
            Statement::Wait(ms) => self.ask("sleep", "", Json::Null, json!({"ms": ms}), scope).map(|_| n),
            // Every other one is a step, whose value has to be durable.
            Statement::Add(k) if k % 2 == 0 => Ok(n + k),
            Statement::Add(k) => self.step("add", n + k, scope),
            Statement::Heavy => Ok(n),
            Statement::Fork(branches) => self.fork(branches, n, scope),
            Statement::Race(ms) => self.race(*ms, n, scope),
            Statement::For(times, body) => {
                let mut n = n;
                for time in 0..*times {
                    n = self.list(body, n, scope).map_err(|stop| match stop {
                        Stop::Waits { tail } => Stop::Waits { tail: tail && time + 1 == *times },
                        raised => raised,
                    })?;
                }
                Ok(n)
            }
            Statement::Try(body, retries) => self.tried(body, *retries, n, scope),
            Statement::Child(of) => {
                let name = self.reference(*of);
                Ok(number(&self.ask("child", &name, json!({"n": n}), Json::Null, scope)?))
            }
            Statement::Map(items, width) => {
                self.map("s0", *items, json!({"queue": "q0", "concurrency": width}), n, scope)
            }
            Statement::MapRuns(items, of) => {
                let name = format!("workflow:{}", self.reference(*of));
                self.map(&name, *items, json!({"concurrency": 2}), n, scope)
            }
            Statement::Listen => Ok(n + brought(&self.ask("signal", SIGNAL.0, Json::Null, Json::Null, scope)?)),
            Statement::Promise => Ok(n + brought(&self.ask("promise", PROMISE, Json::Null, Json::Null, scope)?)),
            Statement::Undo(number) => {
                let (name, args) = (format!("u{number}"), json!({"n": n}));
                self.command("undo", &name, args, json!({"queue": "q0"}), scope);
                Ok(n)
            }
            Statement::Saga(trip) => {
                // What it did is undone when the run fails, not when the saga does.
                let mut n = n;
                for (kind, undone) in &trip.steps {
                    n = self.task(&format!("s{kind}"), n, scope).map_err(|stop| match stop {
                        Stop::Waits { .. } => Stop::Waits { tail: false },
                        raised => raised,
                    })?;
                    if *undone {
                        self.command("undo", &format!("u{kind}"), json!({"n": n}), json!({"queue": "q0"}), scope);
                    }
                }
                if trip.fails {
                    return Err(Stop::Raised(json!({"detail": "as planned"}), "/saga".to_owned()));
                }
                Ok(n)
            }
            Statement::Outrun(ms) => self.race(*ms, n, scope),
            Statement::Overtaken(ms, _) => {
                self.ask("sleep", "", Json::Null, json!({"ms": ms}), scope).map_err(|stop| match stop {
                    Stop::Waits { .. } => Stop::Waits { tail: false },
                    raised => raised,
                })?;
                Ok(CAUGHT)
            }
            Statement::Patch(number) => {
                let root = scope.split('.').next().filter(|root| root.starts_with('g')).unwrap_or_default().to_owned();
                let name = format!("p{number}");
                if !self.times.contains_key(&format!("{root}/patch:{name}")) {
                    self.command("patch", &name, Json::Null, Json::Null, &root);
                }
                Ok(n)
            }
        }
    }

    /// Tries again as often as a document does, and goes on with another number then.
    fn tried(&mut self, body: &[Statement], retries: bool, n: i64, scope: &str) -> Result<i64, Stop> {
        let more = if retries { RETRIES } else { 0 };
        for left in (0..=more).rev() {
            match self.list(body, n, scope) {
                Err(Stop::Raised(..)) if left > 0 => {
                    let pause = self.ask("sleep", "", Json::Null, json!({"ms": RETRY_MS}), scope);
                    pause.map_err(|stop| match stop {
                        Stop::Waits { .. } => Stop::Waits { tail: false },
                        raised => raised,
                    })?;
                }
                Err(Stop::Raised(..)) => break,
                Err(Stop::Waits { .. }) => return Err(Stop::Waits { tail: false }),
                Ok(n) => return Ok(n),
            }
        }
        Ok(CAUGHT)
    }

    fn reference(&self, of: usize) -> String {
        let flow = self.flows.iter().nth(of);
        flow.map_or_else(String::new, |flow| format!("{NAMESPACE}/{}:{}", flow.name, flow.version))
    }

    fn task(&mut self, name: &str, n: i64, scope: &str) -> Result<i64, Stop> {
        Ok(number(&self.ask("task", name, json!({"n": n}), json!({"queue": "q0"}), scope)?))
    }

    fn map(&mut self, name: &str, items: u64, opts: Json, n: i64, scope: &str) -> Result<i64, Stop> {
        let args: Vec<Json> = (0..items).map(|item| json!({"n": item})).collect();
        let all = self.ask("map", name, args.into(), opts, scope)?;
        Ok(n + all.as_array().into_iter().flatten().map(number).sum::<i64>())
    }

    /// All parts, each with a scope of its own. It waits for all of them before it fails with the first.
    fn fork(&mut self, branches: &[Vec<Statement>], n: i64, scope: &str) -> Result<i64, Stop> {
        let first = self.parts.get(scope).copied().unwrap_or(0);
        self.parts.insert(scope.to_owned(), first + branches.len() as u32);
        let (mark, again) = (self.waits.len(), self.again);
        let (mut sum, mut raised, mut waits, mut tails) = (0, None, false, true);
        for (branch, part) in branches.iter().zip(first..) {
            let part = if scope.is_empty() { format!("p{part}") } else { format!("{scope}.p{part}") };
            match self.list(branch, n, &part) {
                Ok(n) => sum += n,
                Err(Stop::Waits { tail }) => (waits, tails) = (true, tails && tail),
                Err(stop @ Stop::Raised(..)) => raised = raised.or(Some(stop)),
            }
        }
        if waits {
            if tails && self.again == again {
                // Nothing is asked for before all of them have ended.
                let keys = self.waits.drain(mark..).flat_map(|(_, keys)| keys).collect();
                self.waits.push((false, keys));
                return Err(Stop::Waits { tail: true });
            }
            return Err(Stop::Waits { tail: false });
        }
        raised.map_or(Ok(sum), Err)
    }

    /// A task and a time; what ended first is put down, so that another order in a replay shows.
    fn race(&mut self, ms: u64, n: i64, scope: &str) -> Result<i64, Stop> {
        let task = self.command("task", "s0", json!({"n": n}), json!({"queue": "q0"}), scope);
        let sleep = self.command("sleep", "", Json::Null, json!({"ms": ms}), scope);
        let ends = |key: &String| self.told.done.get(key).map(|(at, _)| *at);
        let won = match (ends(&task), ends(&sleep)) {
            (None, None) => {
                self.waits.push((true, vec![task, sleep]));
                return Err(Stop::Waits { tail: false });
            }
            (Some(task), Some(sleep)) => sleep < task,
            (None, Some(_)) => true,
            (Some(_), None) => false,
        };
        if !won {
            self.value(&task)?;
        }
        let mark = self.step(if won { "time" } else { "task" }, n + 1, scope)?;
        Ok(mark)
    }

    fn step(&mut self, name: &str, value: i64, scope: &str) -> Result<i64, Stop> {
        let key = self.command("step", name, Json::Null, Json::Null, scope);
        if let Some(asked) = self.asked.last_mut().filter(|asked| asked["key"] == *key) {
            asked["value"] = json!({"n": value});
        }
        if self.told.done.contains_key(&key) {
            return Ok(number(&self.value(&key)?));
        }
        self.again = true;
        Err(Stop::Waits { tail: false })
    }

    /// Asks for something and waits for it.
    fn ask(&mut self, kind: &str, name: &str, args: Json, opts: Json, scope: &str) -> Result<Json, Stop> {
        let key = self.command(kind, name, args, opts, scope);
        if self.told.done.contains_key(&key) {
            return self.value(&key);
        }
        self.waits.push((true, vec![key]));
        Err(Stop::Waits { tail: true })
    }

    fn value(&self, key: &str) -> Result<Json, Stop> {
        let Some((_, done)) = self.told.done.get(key) else { return Err(Stop::Waits { tail: false }) };
        match done["status"].as_str() {
            Some("ok") => Ok(done["value"].clone()),
            Some("error") => Err(Stop::Raised(done["error"].clone(), key.to_owned())),
            _ => Err(Stop::Raised(json!({"detail": "it was cancelled"}), key.to_owned())),
        }
    }

    fn command(&mut self, kind: &str, name: &str, args: Json, opts: Json, scope: &str) -> String {
        let path = format!("{scope}/{kind}:{name}");
        let times = self.times.entry(path.clone()).or_default();
        let key = format!("{path}#{times}");
        *times += 1;
        if self.opened.contains(&key) {
            return key;
        }
        let hash = args.to_string().bytes().fold(7, |hash, byte| mix(hash ^ u64::from(byte)));
        let hash = format!("{hash:016x}");
        self.asked.push(json!({"key": key, "kind": kind, "name": name, "args": args, "opts": opts, "hash": hash}));
        key
    }
}

fn number(value: &Json) -> i64 {
    value["n"].as_i64().unwrap_or(NO_NUMBER)
}

fn brought(value: &Json) -> i64 {
    value["k"].as_i64().unwrap_or(NO_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{NEXT_VERSION, VERSION};
    use crate::rng::Rng;

    fn flows() -> Flows {
        let found =
            (0..20).map(|seed| Flows::new(&mut Rng::new(seed))).find(|flows| flows.find("saga", VERSION).is_some());
        found.expect("some seeds have programs")
    }

    #[test]
    fn a_replay_asks_for_the_same_and_one_of_another_version_is_seen() {
        let flows = flows();
        let (ours, other) = (flows.find("saga", VERSION).unwrap(), flows.find("saga", NEXT_VERSION).unwrap());
        let input = json!({"generation": 0, "input": {"n": 1}});
        let first = json!({"no": 1, "now": 1, "done": []});
        let result = activate(&flows, ours, &input, std::slice::from_ref(&first)).unwrap();
        let asked = &result["commands"][0];
        assert_eq!(asked["key"], "/task:s0#0");
        let mut first = first;
        first["opened"] = json!([{"key": asked["key"], "hash": asked["hash"]}]);
        let done = json!([{"key": asked["key"], "status": "ok", "value": {"n": 2}}]);
        let turns = [first, json!({"no": 2, "now": 2, "done": done})];
        let next = activate(&flows, ours, &input, &turns).unwrap();
        let kinds: Vec<_> = next["commands"].as_array().unwrap().iter().map(|asked| asked["kind"].clone()).collect();
        assert_eq!(kinds, ["undo", "task"]);
        assert!(activate(&flows, other, &input, &turns).is_err());
    }
}
