//! Programs (durable Python) in the engine, with the plan that this crate makes of them: the program itself is a function here that says what it
//! wants by what it has heard. After every turn the journal is folded, which is what a crash after that commit would do. Turns leave the
//! run as soon as they may, so that every program here is replayed from pages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::{Name, RunId};
use tidewheel_engine::run::act::{Act, Event, OpenTask, Outcome, StartChild};
use tidewheel_engine::run::code::{self, Bounds, CodeState};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Compiler, Definition, Fuel};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::fold::{Change, FoldError, Journal};
use tidewheel_engine::run::head::{Head, Identity, Phase, Seq, Step};
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::run::moves::fits;
use tidewheel_engine::run::turn::{Env, Turn, advance};
use tidewheel_lang::compile::Language;
use tidewheel_lang::program::ProgramDocument;

const FULL: Fuel = Fuel { steps: 10_000_000, bytes: 256 << 20 };

/// What a program has heard.
struct Heard<'a> {
    input: &'a Json,
    turns: &'a [Json],
}

impl Heard<'_> {
    fn done(&self, key: &str) -> Option<&Json> {
        self.turns.iter().flat_map(|turn| turn["done"].as_array().unwrap()).find(|done| done["key"] == key)
    }

    fn value(&self, key: &str) -> Option<&Json> {
        self.done(key).map(|done| &done["value"])
    }

    fn opened(&self, key: &str) -> bool {
        self.turns.iter().filter_map(|turn| turn["opened"].as_array()).flatten().any(|opened| opened["key"] == key)
    }

    fn cancelled(&self) -> bool {
        self.turns.iter().any(|turn| turn.get("cancel").is_some())
    }

    /// Asks for what it has not asked for, and waits for what has not ended. `None` = all has.
    fn ask(&self, mode: &str, wanted: &[Json]) -> Option<Json> {
        let key = |command: &Json| command["key"].as_str().unwrap().to_owned();
        let open: Vec<String> = wanted.iter().map(key).filter(|key| self.done(key).is_none()).collect();
        let enough = if mode == "any" { open.len() < wanted.len() } else { open.is_empty() };
        if enough {
            return None;
        }
        let commands: Vec<&Json> = wanted.iter().filter(|command| !self.opened(&key(command))).collect();
        let instant = commands.iter().any(|command| command["kind"] == "step");
        Some(json!({"v": 1, "commands": commands, "wait": [{"mode": mode, "keys": open}], "again": instant}))
    }
}

fn command(kind: &str, name: &str, n: u32) -> Json {
    json!({"key": format!("/{kind}:{name}#{n}"), "kind": kind, "name": name, "args": {"n": n}, "hash": "00"})
}

fn with(mut command: Json, part: &str, value: Json) -> Json {
    command[part] = value;
    command
}

fn ok(value: Json) -> Json {
    json!({"v": 1, "commands": [], "end": {"ok": value}})
}

fn error(detail: &str, key: Option<&str>) -> Json {
    json!({"v": 1, "commands": [], "end": {"error": {"detail": detail, "key": key}}})
}

type Program = Box<dyn Fn(&Heard<'_>) -> Json>;

/// A run and what stands outside for it.
struct World {
    definition: Arc<dyn Definition>,
    /// Versions that it followed before.
    earlier: Vec<Arc<dyn Definition>>,
    program: Program,
    head: Head,
    segments: Vec<Segment>,
    now: u64,
    tasks: BTreeMap<(Seq, u64), OpenTask>,
    timers: BTreeMap<Seq, u64>,
    children: BTreeMap<(Seq, u64), StartChild>,
    /// Names of tasks that were opened, in order, and of activations `@`.
    begun: Vec<String>,
    /// Tasks whose names are in here fail so often.
    failing: BTreeMap<String, u32>,
    cancelled: BTreeSet<Seq>,
    bounds: Bounds,
    /// Bytes of the results of tasks; 0 = what they were given.
    big: usize,
    /// Values that were stored, and pages.
    stored: BTreeMap<BlobHash, Arc<Json>>,
    /// The most that was carried along of a history.
    most: usize,
}

fn document() -> ProgramDocument {
    ProgramDocument {
        namespace: "test".into(),
        name: "flow".into(),
        version: "1.0.0".into(),
        package: "flows".into(),
        package_version: "2.0.0".into(),
        package_hash: "sha256:00".into(),
        function: "flows:flow".into(),
        tasks: vec!["fetch".into()],
        ..ProgramDocument::default()
    }
}

impl World {
    fn new(program: impl Fn(&Heard<'_>) -> Json + 'static) -> World {
        World::of(document(), program)
    }

    fn of(document: ProgramDocument, program: impl Fn(&Heard<'_>) -> Json + 'static) -> World {
        let definition = Language.compile(&document.resolved().unwrap().bytes).unwrap();
        let identity = Arc::new(Identity::new(RunId(7), definition.plan()));
        World {
            head: Head::new(identity),
            definition,
            earlier: Vec::new(),
            program: Box::new(program),
            segments: Vec::new(),
            now: 1_000_000,
            tasks: BTreeMap::new(),
            timers: BTreeMap::new(),
            children: BTreeMap::new(),
            begun: Vec::new(),
            failing: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            bounds: Bounds { tail: 0, ..Bounds::default() },
            big: 0,
            stored: BTreeMap::new(),
            most: 0,
        }
    }

    /// A stored value by its name, or the value itself.
    fn loaded(&self, value: &Json) -> Json {
        match value.as_object().and_then(|map| map.get("$ref")?.as_str()) {
            Some(name) => {
                let found = self.stored.iter().find(|(hash, _)| hash.to_string() == name);
                (**found.unwrap_or_else(|| panic!("{name} is not stored")).1).clone()
            }
            None => value.clone(),
        }
    }

    /// All turns of the history that an activation brings or that a run has: those of its pages, and those that came along, with their values.
    fn whole(&self, history: &Json) -> Vec<Json> {
        let mut turns = history["turns"].as_array().unwrap().clone();
        let mut page = history.get("before").cloned().unwrap_or(Json::Null);
        while !page.is_null() {
            let read = self.loaded(&page);
            let mut earlier = read["turns"].as_array().unwrap().clone();
            assert_eq!(earlier[0]["no"], read["first"]);
            earlier.append(&mut turns);
            (turns, page) = (earlier, read["before"].clone());
        }
        for turn in &mut turns {
            for done in turn["done"].as_array_mut().unwrap() {
                if done.get("value").is_some() {
                    done["value"] = self.loaded(&done["value"]);
                }
            }
        }
        let numbers: Vec<u64> = turns.iter().map(|turn| turn["no"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=turns.len() as u64).collect::<Vec<_>>());
        turns
    }

    fn state(&self) -> &CodeState {
        code::of(&self.head).expect("the program has not ended")
    }

    fn start(&mut self, input: Json) {
        let identity = self.head.identity.clone();
        self.feed(Event::Start { identity, input: Data::of(input).0 });
    }

    /// Gives an event and what follows from it by itself; false = it changed nothing.
    fn feed(&mut self, event: Event) -> bool {
        let env = Env { definition: &*self.definition, blobs: &self.stored, now_ms: self.now, bounds: self.bounds };
        let Some(turn) = advance(&self.head, event, &env, &mut FULL.clone()).unwrap() else { return false };
        self.take(turn);
        true
    }

    /// Goes over to another version, as the partition does it.
    fn move_to(&mut self, document: &ProgramDocument) {
        let new = Language.compile(&document.resolved().unwrap().bytes).unwrap();
        fits(&self.head, self.definition.plan(), new.plan()).unwrap();
        let plan = new.plan();
        let (hash, version) = (plan.hash, plan.version.clone());
        let identity = Arc::new(Identity { plan: hash, version, ..(*self.head.identity).clone() });
        let old = std::mem::replace(&mut self.definition, new);
        self.earlier.push(old);
        assert!(self.feed(Event::Moved { identity, by: "ann".into() }));
    }

    fn take(&mut self, turn: Turn) {
        self.head = turn.head;
        self.segments.push(turn.segment);
        for act in turn.acts {
            match act {
                Act::PutBlob { hash, bytes } => {
                    let value = serde_json::from_slice(&bytes).expect("a stored value is JSON");
                    self.stored.insert(hash, Arc::new(value));
                }
                Act::OpenTask(task) => {
                    self.begun.push(name_of(&task));
                    self.tasks.insert((task.entry, task.items.map_or(0, |items| items.0)), *task);
                }
                Act::CancelTask { entry } | Act::CancelItems { entry } => {
                    self.tasks.retain(|(known, _), _| *known != entry);
                    self.cancelled.insert(entry);
                }
                Act::OpenTimer { entry, due } => drop(self.timers.insert(entry, due)),
                Act::CancelTimer { entry } => drop(self.timers.remove(&entry)),
                Act::StartChild(child) => drop(self.children.insert((child.entry, child.item.unwrap_or(0)), *child)),
                Act::CancelChild { entry } => self.children.retain(|(known, _), _| *known != entry),
                _ => {}
            }
        }
        if let Some(state) = code::of(&self.head) {
            self.most = self.most.max(state.turns.len());
        }
        if self.segments.len() < 500 || self.segments.len().is_multiple_of(500) {
            let journal = Journal {
                from: None,
                segments: &self.segments,
                definition: &*self.definition,
                earlier: &self.earlier,
                blobs: &self.stored,
            };
            assert_eq!(journal.fold().unwrap(), self.head, "the journal folds to the head");
        }
        if turn.more {
            self.feed(Event::Continue);
        }
    }

    /// Does the first task that is open. False = there is none.
    fn work(&mut self) -> bool {
        let Some(((entry, first), task)) = self.tasks.pop_first() else { return false };
        let name = name_of(&task);
        let args = task.args.json().unwrap()["args"].clone();
        let outcome = if name == "@" {
            let (input, turns) = (self.loaded(&args["input"]), self.whole(&args));
            let heard = Heard { input: &input, turns: &turns };
            Outcome::Ok(Data::of((self.program)(&heard)).0)
        } else {
            match self.failing.get_mut(&name).filter(|times| **times > 0) {
                Some(times) => {
                    *times -= 1;
                    Outcome::Err(Fault(Arc::new(
                        json!({"status": 500, "detail": format!("{name} failed{}", " badly".repeat(self.big / 6))}),
                    )))
                }
                None if self.big > 0 => Outcome::Ok(Data::of(json!("x".repeat(self.big))).0),
                None => Outcome::Ok(Data::of(json!({"did": name, "args": args})).0),
            }
        };
        match task.items {
            None => self.feed(Event::Done { entry, outcome }),
            Some((_, count)) => {
                let outcomes = match (&outcome, count) {
                    (Outcome::Ok(_), 1) | (Outcome::Err(_) | Outcome::Cancelled, _) => vec![outcome],
                    (Outcome::Ok(_), _) => {
                        let items = args.as_array().unwrap();
                        items.iter().map(|item| Outcome::Ok(Data::of(json!({"did": item})).0)).collect()
                    }
                };
                self.feed(Event::Items { entry, first, outcomes })
            }
        };
        true
    }

    /// Fires the next timer. False = there is none.
    fn tick(&mut self) -> bool {
        let Some((entry, due)) = self.timers.iter().map(|(entry, due)| (*entry, *due)).min_by_key(|(_, due)| *due)
        else {
            return false;
        };
        self.now = self.now.max(due);
        self.timers.remove(&entry);
        self.feed(Event::Fired { entry });
        true
    }

    /// Works and lets time pass until nothing is left to be done.
    fn go(&mut self) {
        for _ in 0..10_000 {
            if !self.work() && !self.tick() {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    fn work_all(&mut self) {
        while self.work() {}
    }

    fn output(&self) -> Json {
        match self.head.outcome.as_ref().unwrap_or_else(|| panic!("it has not ended: {:?}", self.head.phase)) {
            Outcome::Ok(data) => data.json().unwrap().clone(),
            other => panic!("{other:?}"),
        }
    }

    fn error(&self) -> Json {
        match self.head.outcome.as_ref() {
            Some(Outcome::Err(fault)) => (*fault.0).clone(),
            other => panic!("{:?} {other:?}", self.head.phase),
        }
    }

    fn reset(&mut self, key: &str, change: Change) -> Result<(), FoldError> {
        let journal = Journal {
            from: None,
            segments: &self.segments,
            definition: &*self.definition,
            earlier: &self.earlier,
            blobs: &self.stored,
        };
        let turn = journal.reset(&self.head, key, change, self.now, &mut FULL.clone())?;
        self.take(turn);
        Ok(())
    }

    fn signal(&mut self, id: &str, kind: &str, data: Json) {
        self.feed(Event::Signal { id: id.into(), kind: kind.into(), data: Data::of(data).0 });
    }

    fn times(&self, name: &str) -> usize {
        self.begun.iter().filter(|begun| *begun == name).count()
    }

    fn keys(&self) -> Vec<String> {
        use tidewheel_engine::run::journal::Fact;
        let facts = self.segments.iter().flat_map(|segment| &segment.facts);
        let opened = facts.filter_map(|fact| match fact {
            Fact::Opened { key, .. } => Some(key.to_string()),
            _ => None,
        });
        opened.collect()
    }
}

fn name_of(task: &OpenTask) -> String {
    let call = task.args.json().unwrap();
    let name = call["entrypoint"].as_str().unwrap();
    if name == "flows:flow" { "@".into() } else { name.to_owned() }
}

#[test]
fn steps_one_after_another_give_the_output_and_each_key_is_there_once() {
    let mut world = World::new(|heard| {
        for n in 0..3 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!({"last": heard.value("/task:fetch#2"), "from": heard.input}))
    });
    world.start(json!({"a": 1}));
    world.go();
    assert_eq!(world.output(), json!({"last": {"did": "fetch", "args": {"n": 2}}, "from": {"a": 1}}));
    let keys = world.keys();
    let all: BTreeSet<&String> = keys.iter().collect();
    assert_eq!(all.len(), keys.len(), "{keys:?}");
    assert_eq!(world.times("@"), 4);
}

#[test]
fn a_task_of_its_own_package_is_that_of_the_same_version() {
    let mut world = World::new(|heard| {
        heard.ask("all", &[command("task", "fetch", 0), command("task", "other", 0)]).unwrap_or_else(|| ok(json!(1)))
    });
    world.start(json!({}));
    world.work();
    let calls: Vec<Json> = world.tasks.values().map(|task| task.args.json().unwrap().clone()).collect();
    assert_eq!((&calls[0]["package"], &calls[0]["version"]), (&json!("flows"), &json!("2.0.0")));
    assert_eq!(calls[1]["package"], Json::Null);
}

#[test]
fn a_program_that_waits_for_any_goes_on_with_the_first_and_for_all_with_the_last() {
    for (mode, activations) in [("any", 2), ("all", 2)] {
        let mut world = World::new(move |heard| {
            let both = [command("task", "fetch", 0), command("sleep", "", 0)];
            let both = [both[0].clone(), with(both[1].clone(), "opts", json!({"ms": 5_000}))];
            heard.ask(mode, &both).unwrap_or_else(|| ok(json!(heard.done("/sleep:#0").is_some())))
        });
        world.start(json!({}));
        world.go();
        assert_eq!(world.output(), json!(mode == "all"));
        assert_eq!(world.times("@"), activations);
        assert!(world.timers.is_empty(), "what it no longer waits for is closed");
    }
}

#[test]
fn a_step_is_durable_before_the_program_goes_on() {
    let mut world = World::new(|heard| {
        let step = with(command("step", "id", 0), "value", json!(42));
        heard.ask("all", &[step]).unwrap_or_else(|| ok(heard.value("/step:id#0").unwrap().clone()))
    });
    world.start(json!({}));
    world.work();
    assert_eq!(world.times("@"), 2, "its value is in the journal, and the next activation is open");
    world.go();
    assert_eq!(world.output(), json!(42));
}

#[test]
fn a_limit_of_time_ends_what_the_program_waits_for_and_it_hears_of_it() {
    let mut world = World::new(|heard| {
        let task = with(command("task", "slow", 0), "opts", json!({"timeout_ms": 700}));
        heard.ask("all", &[task]).unwrap_or_else(|| ok(heard.done("/task:slow#0").unwrap()["error"]["status"].clone()))
    });
    world.start(json!({}));
    world.work();
    assert!(world.tick());
    assert!(!world.cancelled.is_empty(), "the task is cancelled");
    world.go();
    assert_eq!(world.output(), json!(408));
}

#[test]
fn signals_and_promises_are_taken_once_also_when_they_come_before() {
    let mut world = World::new(|heard| {
        let all = [command("signal", "paid", 0), command("signal", "paid", 1), command("promise", "ok", 0)];
        heard.ask("all", &all).unwrap_or_else(|| {
            ok(json!([heard.value("/signal:paid#0"), heard.value("/signal:paid#1"), heard.value("/promise:ok#0")]))
        })
    });
    world.start(json!({}));
    world.signal("s1", "paid", json!(1));
    world.signal("s1", "paid", json!(1));
    world.work_all();
    assert_eq!(world.head.phase, Phase::Waiting);
    world.signal("s2", "promise:ok", json!("yes"));
    world.signal("s3", "paid", json!(2));
    world.go();
    assert_eq!(world.output(), json!([1, 2, "yes"]));
}

#[test]
fn children_give_their_output_or_their_error() {
    let mut world = World::new(|heard| {
        let all = [command("child", "acme/ship:1.2.0", 0), command("child", "pack", 0)];
        heard.ask("all", &all).unwrap_or_else(|| {
            ok(json!([heard.value("/child:acme/ship:1.2.0#0"), heard.done("/child:pack#0").unwrap()["status"]]))
        })
    });
    world.start(json!({}));
    world.work_all();
    let children: Vec<StartChild> = std::mem::take(&mut world.children).into_values().collect();
    let named = |child: &StartChild| format!("{}/{}:{}", child.namespace, child.name, child.version);
    assert_eq!(children.iter().map(named).collect::<Vec<_>>(), ["acme/ship:1.2.0", "default/pack:latest"]);
    world.feed(Event::Done { entry: children[0].entry, outcome: Outcome::Ok(Data::of(json!("shipped")).0) });
    let fault = Fault(Arc::new(json!({"detail": "no boxes"})));
    world.feed(Event::Done { entry: children[1].entry, outcome: Outcome::Err(fault) });
    world.go();
    assert_eq!(world.output(), json!(["shipped", "error"]));
}

#[test]
fn a_map_opens_as_many_items_as_it_may_and_collects() {
    let mut world = World::new(|heard| {
        let map = with(command("map", "fetch", 0), "args", json!((0..25).collect::<Vec<_>>()));
        let map = with(map, "opts", json!({"concurrency": 4, "batch": 2}));
        heard
            .ask("all", &[map])
            .unwrap_or_else(|| ok(json!(heard.value("/map:fetch#0").unwrap().as_array().unwrap().len())))
    });
    world.start(json!({}));
    world.work();
    assert_eq!(world.tasks.len(), 2, "four items at a time, two in a task");
    world.go();
    assert_eq!(world.output(), json!(25));
    assert_eq!(world.times("@"), 2, "the program hears of it once");
}

#[test]
fn a_retry_does_what_failed_again_and_nothing_else() {
    let mut world = World::new(|heard| {
        let all = [command("task", "good", 0), command("task", "bad", 0)];
        match heard.ask("all", &all) {
            Some(result) => result,
            None if heard.done("/task:bad#0").unwrap()["status"] == "error" => error("it failed", Some("/task:bad#0")),
            None => ok(json!("done")),
        }
    });
    world.failing.insert("bad".into(), 1);
    world.start(json!({}));
    world.go();
    assert_eq!(world.error()["detail"], "it failed");
    assert!(world.feed(Event::Retry));
    world.go();
    assert_eq!(world.output(), json!("done"));
    assert_eq!((world.times("good"), world.times("bad")), (1, 2));
}

#[test]
fn an_error_that_the_program_catches_is_its_own_matter() {
    let mut world = World::new(|heard| {
        let task = command("task", "bad", 0);
        heard.ask("all", &[task]).unwrap_or_else(|| ok(heard.done("/task:bad#0").unwrap()["error"]["instance"].clone()))
    });
    world.failing.insert("bad".into(), 9);
    world.start(json!({}));
    world.go();
    assert_eq!(world.output(), json!("/task:bad#0"), "it says where");
}

fn undoes(heard: &Heard<'_>) -> Json {
    if let Some(result) = heard.ask("all", &[command("task", "book", 0)]) {
        return result;
    }
    if !heard.opened("/undo:cancel#0") {
        return json!({"v": 1, "commands": [command("undo", "cancel", 0), command("undo", "cancel", 1), command("task", "bad", 0)],
            "wait": [{"mode": "all", "keys": ["/task:bad#0"]}]});
    }
    match heard.done("/task:bad#0") {
        Some(done) if done["status"] == "ok" => ok(json!("kept")),
        Some(_) if heard.cancelled() => json!({"v": 1, "commands": [], "end": {"cancelled": true}}),
        Some(_) => error("it failed", Some("/task:bad#0")),
        None => heard.ask("all", &[command("task", "bad", 0)]).unwrap(),
    }
}

#[test]
fn what_was_done_is_undone_in_reverse_when_the_program_fails_and_it_begins_again_with_a_retry() {
    let mut world = World::new(undoes);
    world.failing.insert("bad".into(), 1);
    world.start(json!({}));
    world.go();
    assert_eq!(world.head.phase, Phase::Faulted);
    let undone: Vec<String> = world.keys().into_iter().filter(|key| key.contains("undo:")).collect();
    assert_eq!(undone, ["/u1/undo:cancel#0", "/u0/undo:cancel#0"]);
    world.feed(Event::Retry);
    world.go();
    assert_eq!(world.output(), json!("kept"));
    assert_eq!((world.times("book"), world.times("cancel")), (2, 2));
}

#[test]
fn a_cancel_is_told_to_the_program_and_what_was_done_is_undone() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    // Up to where the second task is at work.
    while world.times("bad") == 0 {
        world.work();
    }
    assert!(world.feed(Event::Cancel { reason: "no longer wanted".into() }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.times("cancel"), 2);
    assert_eq!(world.head.reason.as_deref(), Some("no longer wanted"));
    assert!(world.tasks.is_empty() && world.timers.is_empty());
}

#[test]
fn a_reset_to_before_what_was_undone_begins_the_program_anew_and_undoes_nothing_twice() {
    let mut world = World::new(undoes);
    world.failing.insert("bad".into(), 1);
    world.start(json!({}));
    world.go();
    assert_eq!((world.head.phase, world.times("cancel")), (Phase::Faulted, 2));
    // The booking holds at that moment; since then it was cancelled.
    world.failing.insert("bad".into(), 1);
    world.reset("/task:bad#0", Change::default()).unwrap();
    world.go();
    assert_eq!(world.times("book"), 2, "it has to be booked once more");
    let undone = world.keys().into_iter().filter(|key| key.contains("undo:")).collect::<Vec<_>>();
    assert_eq!(undone.len(), 2 * world.times("book"), "one booking, two undos: {undone:?}");
}

#[test]
fn a_fork_does_not_undo_what_the_other_run_did() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    while world.times("bad") == 0 {
        world.work();
    }
    let identity = Arc::new(Identity { run: RunId(99), ..(*world.head.identity).clone() });
    world.reset("/task:bad#0", Change { input: None, identity: Some(identity) }).unwrap();
    assert!(world.head.undo.is_none(), "{:?}", world.head.undo);
    world.feed(Event::Terminate { reason: "enough".into() });
    assert_eq!(world.times("cancel"), 0);
}

#[test]
fn an_activation_that_is_given_up_leaves_no_turn_that_a_parked_program_takes_for_its_own() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    let turn = |world: &World| {
        let task = world.tasks.values().find(|task| name_of(task) == "@").unwrap();
        let args = task.args.json().unwrap()["args"].clone();
        (args["epoch"].clone(), args["turns"].as_array().unwrap().last().unwrap()["no"].clone())
    };
    let before = turn(&world);
    assert!(world.feed(Event::Cancel { reason: "no longer wanted".into() }));
    let after = turn(&world);
    assert_eq!(before.1, after.1, "it is the same turn once more, with a cancel in it");
    assert_ne!(before.0, after.0, "so its number alone does not say which");
}

#[test]
fn a_second_cancel_does_not_wait_for_the_program() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    while world.times("bad") == 0 {
        world.work();
    }
    world.feed(Event::Cancel { reason: "one".into() });
    assert!(world.feed(Event::Cancel { reason: "two".into() }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.times("cancel"), 2, "compensations run all the same");
}

#[test]
fn a_program_that_continues_as_new_has_a_short_history_and_one_run() {
    let mut world = World::new(|heard| {
        let round = heard.input.as_u64().unwrap();
        let key = if round == 0 { "/task:fetch#0".to_owned() } else { format!("g{round}/task:fetch#0") };
        let task = with(command("task", "fetch", 0), "key", json!(key));
        match heard.ask("all", &[task]) {
            Some(result) => result,
            None if round < 20 => json!({"v": 1, "commands": [], "end": {"continue": round + 1}}),
            None => ok(json!(heard.turns.len())),
        }
    });
    world.start(json!(0));
    world.go();
    assert_eq!(world.output(), json!(2), "the history is that of the last generation");
    assert_eq!(world.times("fetch"), 21);
}

#[test]
fn a_replay_that_differs_holds_the_run_until_somebody_resumes_it() {
    let mut world = World::new(|heard| {
        let task = command("task", "fetch", 0);
        match heard.ask("all", &[task]) {
            Some(result) => result,
            None if heard.turns.len() == 2 && heard.input["broken"] == json!(true) => {
                json!({"v": 1, "commands": [], "end": {"mismatch": {"turn": 1, "expected": "/task:fetch#0", "actual": "/task:other#0"}}})
            }
            None => ok(json!("well")),
        }
    });
    world.start(json!({"broken": true}));
    world.go();
    assert_eq!((world.head.phase, world.head.reason.as_deref()), (Phase::Suspended, Some("replay-mismatch")));
    let before = world.times("@");
    world.go();
    assert_eq!(world.times("@"), before, "nothing is tried again by itself");
    world.program =
        Box::new(|heard| heard.ask("all", &[command("task", "fetch", 0)]).unwrap_or_else(|| ok(json!("well"))));
    assert!(world.feed(Event::Resume));
    world.go();
    assert_eq!(world.output(), json!("well"));
    assert_eq!(world.times("fetch"), 1);
}

/// A program whose replay differs as soon as `fetch` has ended, unless that was accepted or it is of the package 3.0.0.
fn differing(accepted: Arc<std::sync::Mutex<Vec<Json>>>) -> World {
    World::new(move |heard| {
        let task = command("task", "fetch", 0);
        if let Some(result) = heard.ask("all", &[task]) {
            return result;
        }
        if accepted.lock().unwrap().is_empty() {
            return json!({"v": 1, "commands": [], "end": {"mismatch": {
                "turn": 1, "expected": "/task:fetch#0", "actual": "/task:other#0", "why": "differs", "file": "f.py", "line": 3,
            }}});
        }
        heard.ask("all", &[command("task", "other", 0)]).unwrap_or_else(|| ok(json!("accepted")))
    })
}

#[test]
fn a_difference_that_is_accepted_stands_in_the_journal_and_in_every_history_from_then_on() {
    let accepted = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut world = differing(accepted.clone());
    world.start(json!({}));
    assert!(!world.feed(Event::Accepted { by: "ann".into() }), "there is nothing to accept yet");
    world.go();
    assert_eq!(world.head.reason.as_deref(), Some("replay-mismatch"));
    accepted.lock().unwrap().push(json!(1));
    assert!(world.feed(Event::Accepted { by: "ann".into() }));
    let task = world.tasks.values().next().unwrap();
    assert_eq!(task.args.json().unwrap()["args"]["accepted"], json!(1));
    world.go();
    assert_eq!(world.output(), json!("accepted"));
    assert_eq!((world.times("fetch"), world.times("other")), (1, 1));
    let entry = world.keys().into_iter().find(|key| key.contains("accepted:")).unwrap();
    assert!(entry.starts_with("/accepted:/task:fetch#0#"), "{entry}");
    let turn = world.segments.iter().find(|segment| matches!(segment.event, Event::Accepted { .. })).unwrap();
    assert!(turn.values.iter().any(|value| value.written()["by"] == "ann" && value.written()["line"] == 3));
}

#[test]
fn a_program_that_holds_because_of_a_difference_goes_on_with_the_code_that_it_is_moved_to() {
    let mut world = differing(Arc::default());
    world.start(json!({}));
    world.go();
    assert_eq!(world.head.phase, Phase::Suspended);
    world.program =
        Box::new(|heard| heard.ask("all", &[command("task", "fetch", 0)]).unwrap_or_else(|| ok(json!("fixed"))));
    let fixed = ProgramDocument { package_version: "3.0.0".into(), package_hash: "sha256:33".into(), ..document() };
    world.move_to(&fixed);
    let task = world.tasks.values().next().unwrap();
    assert_eq!(task.args.json().unwrap()["version"], "3.0.0", "the activation runs the other code");
    world.go();
    assert_eq!(world.output(), json!("fixed"));
    assert_eq!(world.times("fetch"), 1);
    assert!(world.keys().iter().any(|key| key.starts_with("/moved:1.0.0#")), "{:?}", world.keys());
    world.reset("/task:fetch#0", Change::default()).unwrap();
    world.go();
    assert_eq!(world.output(), json!("fixed"), "also after a reset to before the move");
}

#[test]
fn a_program_that_is_moved_while_it_runs_takes_the_other_code_with_its_next_activation() {
    let steps = |heard: &Heard<'_>| {
        for name in ["a", "b"] {
            if let Some(result) = heard.ask("all", &[command("task", name, 0)]) {
                return result;
            }
        }
        ok(json!("done"))
    };
    let mut world = World::new(steps);
    world.start(json!({}));
    let other = ProgramDocument { version: "2.0.0".into(), package_version: "3.0.0".into(), ..document() };
    world.move_to(&other);
    assert_eq!(world.tasks.len(), 1, "the activation at work goes on");
    world.go();
    assert_eq!((world.output(), world.times("a"), world.times("b")), (json!("done"), 1, 1));
    assert_eq!(&*world.head.identity.version, "2.0.0");
}

#[test]
fn a_cancelled_program_whose_activation_does_not_end_is_cancelled_all_the_same_and_what_was_done_is_undone() {
    let mut world = World::new(undoes);
    world.start(json!({}));
    for _ in ["the first activation", "book", "the second activation"] {
        world.work();
    }
    assert!(world.feed(Event::Cancel { reason: "asked for".into() }));
    let (entry, task) = world.tasks.iter().map(|(key, task)| (key.0, task.clone())).next().unwrap();
    let call = task.args.json().unwrap().clone();
    assert_eq!(call["retry"]["not_on"], json!(["WorkflowStuck", "timeout"]));
    assert!(call["timeouts"]["run_ms"].as_u64().unwrap() <= 60_000 && call["args"]["stall_ms"].as_u64().is_some());
    world.tasks.remove(&(entry, 0));
    let stuck =
        Fault(Arc::new(json!({"type": "https://serverlessworkflow.io/spec/1.0.0/errors/runtime", "status": 500})));
    assert!(world.feed(Event::Done { entry, outcome: Outcome::Err(stuck) }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    assert_eq!(world.times("cancel"), 2, "{:?}", world.begun);
}

#[test]
fn a_copy_of_a_cancelled_run_begins_before_the_cancel_and_is_not_cancelled() {
    let mut world = World::new(|heard| {
        if heard.cancelled() {
            return match heard.ask("all", &[command("task", "clean", 0)]) {
                Some(result) => result,
                None => json!({"v": 1, "commands": [], "end": {"cancelled": true}}),
            };
        }
        heard.ask("all", &[command("task", "a", 0)]).unwrap_or_else(|| ok(json!("well")))
    });
    world.start(json!({}));
    world.work();
    assert!(world.feed(Event::Cancel { reason: "asked for".into() }));
    world.go();
    assert_eq!(world.head.phase, Phase::Cancelled);
    let error = world.reset("/task:clean#0", Change::default()).unwrap_err();
    assert_eq!(error, FoldError::Cancelled(Some("/task:a#0".into())));
    world.reset("/task:a#0", Change::default()).unwrap();
    world.go();
    assert_eq!((world.head.phase, world.output()), (Phase::Completed, json!("well")));
}

#[test]
fn what_cannot_be_used_is_a_clear_error_and_the_run_can_be_retried() {
    let cases = [
        (json!({"v": 9}), "another version"),
        (json!("text"), "another version"),
        (json!({"v": 1, "commands": []}), "waits for nothing"),
        (json!({"v": 1, "commands": [{"kind": "task"}]}), "no key"),
        (json!({"v": 1, "commands": [command("task", "a", 0), command("task", "a", 0)]}), "there twice"),
        (json!({"v": 1, "commands": [command("dance", "a", 0)]}), "unknown kind"),
        (json!({"v": 1, "commands": [], "end": {"stop": 1}}), "unknown way"),
        (json!({"v": 1, "commands": (0..10_001).map(|n| command("task", "a", n)).collect::<Vec<_>>()}), "at most"),
    ];
    for (result, expected) in cases {
        let shown = result.to_string();
        let mut world = World::new(move |_| result.clone());
        world.start(json!({}));
        world.go();
        let detail = world.error()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{detail} for {}", &shown[..shown.len().min(100)]);
        world.program = Box::new(|_| ok(json!(1)));
        assert!(world.feed(Event::Retry));
        world.go();
        assert_eq!(world.output(), json!(1));
    }
}

#[test]
fn an_activation_that_cannot_be_run_faults_the_run_and_a_retry_begins_it_again() {
    let mut world = World::new(|_| ok(json!(1)));
    world.start(json!({}));
    let ((entry, _), _) = world.tasks.pop_first().unwrap();
    let fault = Fault(Arc::new(json!({"detail": "the package is gone"})));
    world.feed(Event::Done { entry, outcome: Outcome::Err(fault) });
    assert_eq!(world.error()["detail"], "the package is gone");
    world.feed(Event::Retry);
    world.go();
    assert_eq!(world.output(), json!(1));
}

#[test]
fn a_retry_after_an_activation_that_could_not_be_run_does_nothing_twice() {
    let mut world = World::new(|heard| {
        for n in 0..2 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!("end"))
    });
    world.start(json!({}));
    // The first activation, what it asked for, and then the second activation, which cannot be run.
    world.work();
    world.work();
    let ((entry, _), _) = world.tasks.pop_first().unwrap();
    let fault = Fault(Arc::new(json!({"detail": "the package is gone"})));
    world.feed(Event::Done { entry, outcome: Outcome::Err(fault) });
    assert_eq!(world.error()["detail"], "the package is gone");
    world.feed(Event::Retry);
    world.go();
    assert_eq!((world.output(), world.times("fetch")), (json!("end"), 2));
}

#[test]
fn a_run_goes_back_to_a_key_by_the_activation_that_asked_for_it() {
    let chain = |heard: &Heard<'_>| {
        for n in 0..4 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(heard.value("/task:fetch#3").unwrap()["args"].clone())
    };
    let mut world = World::new(chain);
    world.start(json!({}));
    world.go();
    let before = world.times("fetch");
    world.reset("/task:fetch#2", Change::default()).unwrap();
    world.go();
    assert_eq!(world.output(), json!({"n": 3}));
    assert_eq!(world.times("fetch"), before + 2, "the two before it are kept");
    let changed = Change { input: Some(Data::of(json!(5)).0), identity: None };
    assert_eq!(world.reset("/task:fetch#1", changed), Err(FoldError::Input));
    assert_eq!(world.reset("/task:nothing#1", Change::default()), Err(FoldError::NoKey));
    // From its start, with another input.
    let changed = Change { input: Some(Data::of(json!({"x": 1})).0), identity: None };
    world.reset("/run:#0", changed).unwrap();
    world.go();
    assert_eq!(world.times("fetch"), before + 6);
    let epochs: BTreeSet<u64> = code_epochs(&world);
    assert!(epochs.len() >= 3, "parked programs can tell the histories apart: {epochs:?}");
}

/// Epochs of the activations that were opened.
fn code_epochs(world: &World) -> BTreeSet<u64> {
    let none = BTreeMap::new();
    let mut found = BTreeSet::new();
    for at in 1..=world.segments.len() {
        let segments = &world.segments[..at];
        let journal =
            Journal { from: None, segments, definition: &*world.definition, earlier: &world.earlier, blobs: &none };
        let head = journal.fold().unwrap();
        for line in &head.lines {
            if let Some(Step::Code(code)) = line.frames.last().map(|frame| &frame.step) {
                found.insert(code.epoch);
            }
        }
    }
    found
}

#[test]
fn a_fork_goes_on_as_another_run_with_the_history_so_far() {
    let mut world = World::new(|heard| {
        for n in 0..2 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!("end"))
    });
    world.start(json!({}));
    world.go();
    let identity = Arc::new(Identity { run: RunId(8), ..(*world.head.identity).clone() });
    world.reset("/task:fetch#1", Change { input: None, identity: Some(identity) }).unwrap();
    world.go();
    assert_eq!(world.head.identity.run, RunId(8));
    assert_eq!((world.output(), world.times("fetch")), (json!("end"), 3));
}

#[test]
fn a_suspended_program_keeps_what_ends_meanwhile() {
    let mut world = World::new(|heard| {
        for n in 0..2 {
            if let Some(result) = heard.ask("all", &[command("task", "fetch", n)]) {
                return result;
            }
        }
        ok(json!("end"))
    });
    world.start(json!({}));
    world.work();
    world.feed(Event::Suspend { reason: "night".into() });
    world.work_all();
    assert_eq!((world.head.phase, world.times("@")), (Phase::Suspended, 1));
    world.feed(Event::Resume);
    world.go();
    assert_eq!(world.output(), json!("end"));
}

#[test]
fn a_time_limit_of_the_run_undoes_and_faults() {
    let mut world = World::of(ProgramDocument { timeout_ms: 60_000, ..document() }, undoes);
    world.start(json!({}));
    while world.times("bad") == 0 {
        world.work();
    }
    world.tick();
    world.go();
    assert_eq!(world.head.phase, Phase::Faulted);
    assert_eq!(world.error()["status"], 408);
    assert_eq!(world.times("cancel"), 2);
}

#[test]
fn input_and_output_have_to_fit_their_schemas() {
    let schema = json!({"type": "object", "required": ["n"]});
    let mut world = World::of(ProgramDocument { input: schema.clone(), ..document() }, |_| ok(json!(1)));
    world.start(json!({}));
    world.go();
    assert_eq!(world.error()["status"], 400);
    assert_eq!(world.times("@"), 0, "the program never began");
    let mut world = World::of(ProgramDocument { input: schema.clone(), ..document() }, |_| ok(json!(1)));
    world.start(json!([1]));
    world.go();
    assert_eq!(world.head.phase, Phase::Completed, "arguments by position are for the program to check");
    let mut world = World::of(ProgramDocument { output: schema, ..document() }, |_| ok(json!(1)));
    world.start(json!({}));
    world.go();
    assert_eq!(world.error()["status"], 400);
}

/// One task after the other, each with a result of some size.
fn chain(count: u32) -> impl Fn(&Heard<'_>) -> Json {
    move |heard| {
        let next = heard.turns.len() as u32 - 1;
        let last = next.checked_sub(1).and_then(|n| heard.value(&format!("/task:fetch#{n}")));
        assert!(next == 0 || last.is_some(), "turn {next} is told of what it waited for");
        match heard.ask("all", &[command("task", "fetch", next)]) {
            Some(result) if next < count => result,
            _ => ok(json!(heard.turns.len())),
        }
    }
}

#[test]
fn a_long_history_caps_no_run_and_its_later_steps_cost_what_its_first_did() {
    let mut world = World::new(chain(500));
    world.bounds = Bounds::default();
    world.start(json!({}));
    let mut sizes = Vec::new();
    let mut activations = 0;
    while world.head.outcome.is_none() {
        let sent = world.tasks.values().find(|task| name_of(task) == "@").map(|task| task.args.stored());
        if let Some(sent) = sent {
            activations += 1;
            sizes.push(sent + world.head.inline());
        }
        assert!(world.work());
    }
    assert_eq!((world.output(), activations), (json!(501), 501));
    let most = |part: &[usize]| *part.iter().max().unwrap();
    let (early, late) = (most(&sizes[..200]), most(&sizes[300..]));
    assert!(late <= early + early / 10, "{early} bytes early, {late} late");
    let pages = world.stored.values().filter(|value| value.get("turns").is_some()).count();
    assert!(pages > 2 && pages < 50, "{pages} pages");
}

#[test]
fn a_run_goes_back_to_a_key_whose_turn_has_left_it_and_on_from_there() {
    let mut world = World::new(chain(60));
    world.start(json!({}));
    for _ in 0..80 {
        world.work();
    }
    assert!(world.state().turns[0].no > 30, "only the newest turns are carried along");
    world.reset("/task:fetch#3", Change::default()).unwrap();
    assert_eq!(world.state().activation, 4, "what came later is gone from its history");
    world.go();
    assert_eq!(world.output(), json!(61));
    assert_eq!(world.times("fetch"), 60 + 37);
    // And once more, now that it has ended; as another run, too.
    world.reset("/task:fetch#50", Change::default()).unwrap();
    world.go();
    let identity = Arc::new(Identity { run: RunId(8), ..(*world.head.identity).clone() });
    world.reset("/task:fetch#10", Change { input: None, identity: Some(identity) }).unwrap();
    world.go();
    assert_eq!((world.output(), world.head.identity.run), (json!(61), RunId(8)));
}

#[test]
fn a_history_is_whole_before_and_after_the_end_of_its_run() {
    let mut world = World::new(chain(20));
    world.start(json!({}));
    for _ in 0..30 {
        world.work();
    }
    let written = |world: &World, state: &CodeState| {
        let mut turns =
            world.whole(&tidewheel_engine::run::history::written(state, &world.head.identity, world.head.started_ms));
        // The activation at work has asked for nothing yet.
        turns.retain(|turn| turn.get("opened").is_some());
        turns
    };
    let before = written(&world, world.state());
    world.go();
    let (segments, definition) = (&world.segments[..], &*world.definition);
    let (_, state) =
        Journal { from: None, segments, definition, earlier: &world.earlier, blobs: &world.stored }.program().unwrap();
    let after = written(&world, &state.unwrap());
    assert_eq!((before.len() >= 14, after.len()), (true, 21));
    assert_eq!(after[..before.len()], before[..]);
}

#[test]
fn what_leaves_a_run_is_named_by_its_journal_and_stored_in_the_same_turn() {
    use tidewheel_engine::run::journal::Taped;
    let mut world = World::new(chain(20));
    world.start(json!({}));
    world.go();
    let mut named = 0;
    for segment in &world.segments {
        for taped in &segment.tape {
            let Taped::Page { page, first } = taped else { continue };
            let Some(Data::Ref { hash, .. }) = segment.value(*page) else { panic!("a page is a reference") };
            let page = &world.stored[hash];
            let turns = page["turns"].as_array().unwrap();
            assert_eq!(page["first"].as_u64().unwrap() + turns.len() as u64, *first);
            named += 1;
        }
    }
    assert_eq!(named, world.stored.len());
    assert!(world.most <= 3, "{} turns were carried along", world.most);
}

/// Sixty tasks at once; how many turns it took, and how many ends it heard of.
fn wide(heard: &Heard<'_>) -> Json {
    let all: Vec<Json> = (0..60).map(|n| command("task", "fetch", n)).collect();
    match heard.ask("all", &all) {
        Some(result) => result,
        None => {
            let ends = heard.turns.iter().flat_map(|turn| turn["done"].as_array().unwrap()).count();
            ok(json!({"turns": heard.turns.len(), "ends": ends}))
        }
    }
}

#[test]
fn large_values_that_come_together_are_not_carried_along_and_are_told_once_each() {
    let mut world = World::new(wide);
    world.big = 60_000;
    world.start(json!({}));
    let mut most = 0;
    while world.head.outcome.is_none() {
        assert!(world.work());
        most = most.max(world.head.inline());
    }
    assert_eq!(world.output(), json!({"turns": 2, "ends": 60}));
    assert!(most < 400_000, "{most} bytes were carried along");
}

#[test]
fn more_than_one_turn_can_tell_is_told_in_several() {
    let mut world = World::new(wide);
    world.big = 15_000;
    world.failing.insert("fetch".into(), 60);
    world.start(json!({}));
    world.go();
    assert_eq!(world.output(), json!({"turns": 3, "ends": 60}));
}

#[test]
fn a_value_that_looks_like_the_name_of_another_one_is_told_as_it_is() {
    let mut world = World::new(|heard| {
        let step = with(command("step", "odd", 0), "value", json!({"$ref": "sha256:nothing", "size": 5}));
        heard.ask("all", &[step]).unwrap_or_else(|| ok(heard.value("/step:odd#0").unwrap().clone()))
    });
    world.start(json!({}));
    world.go();
    assert_eq!(world.output(), json!({"$ref": "sha256:nothing", "size": 5}));
}

#[test]
fn more_open_at_once_than_is_set_is_an_error_that_says_what_to_do_and_a_fold_does_not_ask_for_the_bound() {
    let mut world = World::new(|heard| {
        let all: Vec<Json> = (0..11).map(|n| command("signal", "s", n)).collect();
        heard.ask("all", &all).unwrap()
    });
    world.bounds.open = 10;
    world.start(json!({}));
    world.go();
    let detail = world.error()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("11 things open at once") && detail.contains("wf.continue_as_new"), "{detail}");
    // The bound was raised, and the run is retried.
    world.bounds.open = 20;
    world.feed(Event::Retry);
    world.work_all();
    assert_eq!(world.head.phase, Phase::Waiting);
}

#[test]
fn state_and_attributes_are_those_of_the_last_activation_that_gave_some() {
    let mut world = World::new(|heard| {
        let mut result = heard.ask("all", &[command("task", "fetch", 0)]).unwrap_or_else(|| ok(json!(1)));
        result["state"] = json!({"turn": heard.turns.len()});
        result["attributes"] = json!({"customer": "acme", "turn": heard.turns.len(), "gone": Json::Null});
        result
    });
    world.start(json!({}));
    world.work();
    let line = world.head.lines.iter().find_map(|line| match line.frames.last().map(|frame| &frame.step) {
        Some(Step::Code(code)) => code.state.clone(),
        _ => None,
    });
    assert_eq!(line.unwrap().json(), Some(&json!({"turn": 1})));
    world.go();
    let attributes: BTreeMap<Name, Json> = world.head.attributes.iter().cloned().collect();
    assert_eq!(attributes.get("turn"), Some(&json!(2)));
    assert!(!attributes.contains_key("gone"));
}

#[test]
fn ten_thousand_things_at_once_are_taken() {
    let mut world = World::new(|heard| {
        let all: Vec<Json> = (0..10_000).map(|n| command("signal", "s", n)).collect();
        match heard.turns.len() {
            1 => heard.ask("all", &all).unwrap(),
            _ => {
                json!({"v": 1, "commands": [command("task", "fetch", 0)], "wait": [{"mode": "any", "keys": ["/task:fetch#0"]}]})
            }
        }
    });
    world.start(json!({}));
    world.work_all();
    assert_eq!(world.head.phase, Phase::Waiting);
    assert!(world.feed(Event::Cancel { reason: "enough".into() }), "it can be cancelled");
}

#[test]
fn a_program_that_runs_itself_is_told_how_deep_it_was_and_may_end_as_it_likes() {
    let mut world = World::new(|heard| match heard.ask("all", &[command("child", "acme/flow:latest", 0)]) {
        Some(result) => result,
        None => {
            let child = heard.done("/child:acme/flow:latest#0").unwrap();
            ok(json!([child["status"], child["error"]["detail"]]))
        }
    });
    let identity = Identity { depth: 32, ..(*world.head.identity).clone() };
    world.head.identity = identity.into();
    world.start(json!({}));
    world.go();
    let output = world.output();
    assert_eq!(output[0], "error");
    assert!(output[1].as_str().unwrap().contains("32 deep"), "{output}");
    assert!(world.children.is_empty(), "it was not started");
}
