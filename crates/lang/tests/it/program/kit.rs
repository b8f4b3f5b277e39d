//! A run of a program, in memory, and what stands outside for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::act::{Act, Event, OpenTask, Outcome, StartChild};
use tidewheel_engine::run::code::{self, Bounds, CodeState};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Compiler, Definition, Fuel};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::fold::{Change, FoldError, Journal};
use tidewheel_engine::run::head::{Head, Identity, Seq};
use tidewheel_engine::run::journal::{Fact, Segment};
use tidewheel_engine::run::moves::fits;
use tidewheel_engine::run::turn::{Env, Turn, advance};
use tidewheel_lang::compile::Language;
use tidewheel_lang::program::ProgramDocument;

const FULL: Fuel = Fuel { steps: 10_000_000, bytes: 256 << 20 };

/// What a program has heard.
pub(super) struct Heard<'a> {
    pub(super) input: &'a Json,
    pub(super) turns: &'a [Json],
}

impl Heard<'_> {
    pub(super) fn done(&self, key: &str) -> Option<&Json> {
        self.turns.iter().flat_map(|turn| turn["done"].as_array().unwrap()).find(|done| done["key"] == key)
    }

    pub(super) fn value(&self, key: &str) -> Option<&Json> {
        self.done(key).map(|done| &done["value"])
    }

    pub(super) fn opened(&self, key: &str) -> bool {
        self.turns.iter().filter_map(|turn| turn["opened"].as_array()).flatten().any(|opened| opened["key"] == key)
    }

    pub(super) fn cancelled(&self) -> bool {
        self.turns.iter().any(|turn| turn.get("cancel").is_some())
    }

    /// Asks for what it has not asked for, and waits for what has not ended. `None` = all has.
    pub(super) fn ask(&self, mode: &str, wanted: &[Json]) -> Option<Json> {
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

pub(super) fn command(kind: &str, name: &str, n: u32) -> Json {
    json!({"key": format!("/{kind}:{name}#{n}"), "kind": kind, "name": name, "args": {"n": n}, "hash": "00"})
}

pub(super) fn with(mut command: Json, part: &str, value: Json) -> Json {
    command[part] = value;
    command
}

pub(super) fn ok(value: Json) -> Json {
    json!({"v": 1, "commands": [], "end": {"ok": value}})
}

pub(super) fn error(detail: &str, key: Option<&str>) -> Json {
    json!({"v": 1, "commands": [], "end": {"error": {"detail": detail, "key": key}}})
}

type Program = Box<dyn Fn(&Heard<'_>) -> Json>;

/// A run and what stands outside for it.
pub(super) struct World {
    pub(super) definition: Arc<dyn Definition>,
    /// Versions that it followed before.
    pub(super) earlier: Vec<Arc<dyn Definition>>,
    pub(super) program: Program,
    pub(super) head: Head,
    pub(super) segments: Vec<Segment>,
    pub(super) now: u64,
    pub(super) tasks: BTreeMap<(Seq, u64), OpenTask>,
    pub(super) timers: BTreeMap<Seq, u64>,
    pub(super) children: BTreeMap<(Seq, u64), StartChild>,
    /// Names of tasks that were opened, in order, and of activations `@`.
    pub(super) begun: Vec<String>,
    /// Tasks whose names are in here fail so often.
    pub(super) failing: BTreeMap<String, u32>,
    pub(super) cancelled: BTreeSet<Seq>,
    pub(super) bounds: Bounds,
    /// Bytes of the results of tasks; 0 = what they were given.
    pub(super) big: usize,
    /// Values that were stored, and pages.
    pub(super) stored: BTreeMap<BlobHash, Arc<Json>>,
    /// The most that was carried along of a history.
    pub(super) most: usize,
}

pub(super) fn document() -> ProgramDocument {
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
    pub(super) fn new(program: impl Fn(&Heard<'_>) -> Json + 'static) -> World {
        World::of(document(), program)
    }

    pub(super) fn of(document: ProgramDocument, program: impl Fn(&Heard<'_>) -> Json + 'static) -> World {
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
    pub(super) fn loaded(&self, value: &Json) -> Json {
        match value.as_object().and_then(|map| map.get("$ref")?.as_str()) {
            Some(name) => {
                let found = self.stored.iter().find(|(hash, _)| hash.to_string() == name);
                (**found.unwrap_or_else(|| panic!("{name} is not stored")).1).clone()
            }
            None => value.clone(),
        }
    }

    /// All turns of the history that an activation brings or that a run has: those of its pages, and those that came along, with their values.
    pub(super) fn whole(&self, history: &Json) -> Vec<Json> {
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

    pub(super) fn state(&self) -> &CodeState {
        code::of(&self.head).expect("the program has not ended")
    }

    pub(super) fn start(&mut self, input: Json) {
        let identity = self.head.identity.clone();
        self.feed(Event::Start { identity, input: Data::of(input).0 });
    }

    /// Gives an event and what follows from it by itself; false = it changed nothing.
    pub(super) fn feed(&mut self, event: Event) -> bool {
        let env = Env { definition: &*self.definition, blobs: &self.stored, now_ms: self.now, bounds: self.bounds };
        let Some(turn) = advance(&self.head, event, &env, &mut FULL.clone()).unwrap() else { return false };
        self.take(turn);
        true
    }

    /// Goes over to another version, as the partition does it.
    pub(super) fn move_to(&mut self, document: &ProgramDocument) {
        let new = Language.compile(&document.resolved().unwrap().bytes).unwrap();
        fits(&self.head, self.definition.plan(), new.plan()).unwrap();
        let plan = new.plan();
        let (hash, version) = (plan.hash, plan.version.clone());
        let identity = Arc::new(Identity { plan: hash, version, ..(*self.head.identity).clone() });
        let old = std::mem::replace(&mut self.definition, new);
        self.earlier.push(old);
        assert!(self.feed(Event::Moved { identity, by: "ann".into() }));
    }

    pub(super) fn take(&mut self, turn: Turn) {
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
                Act::OpenTimer { entry, due } => {
                    self.timers.insert(entry, due);
                }
                Act::CancelTimer { entry } => {
                    self.timers.remove(&entry);
                }
                Act::StartChild(child) => {
                    self.children.insert((child.entry, child.item.unwrap_or(0)), *child);
                }
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
    pub(super) fn work(&mut self) -> bool {
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
    pub(super) fn tick(&mut self) -> bool {
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
    pub(super) fn go(&mut self) {
        for _ in 0..10_000 {
            if !self.work() && !self.tick() {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    pub(super) fn work_all(&mut self) {
        while self.work() {}
    }

    pub(super) fn output(&self) -> Json {
        match self.head.outcome.as_ref().unwrap_or_else(|| panic!("it has not ended: {:?}", self.head.phase)) {
            Outcome::Ok(data) => data.json().unwrap().clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn error(&self) -> Json {
        match self.head.outcome.as_ref() {
            Some(Outcome::Err(fault)) => (*fault.0).clone(),
            other => panic!("{:?} {other:?}", self.head.phase),
        }
    }

    pub(super) fn reset(&mut self, key: &str, change: Change) -> Result<(), FoldError> {
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

    pub(super) fn signal(&mut self, id: &str, kind: &str, data: Json) {
        self.feed(Event::Signal { id: id.into(), kind: kind.into(), data: Data::of(data).0 });
    }

    pub(super) fn times(&self, name: &str) -> usize {
        self.begun.iter().filter(|begun| *begun == name).count()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        let facts = self.segments.iter().flat_map(|segment| &segment.facts);
        let opened = facts.filter_map(|fact| match fact {
            Fact::Opened { key, .. } => Some(key.to_string()),
            _ => None,
        });
        opened.collect()
    }
}

pub(super) fn name_of(task: &OpenTask) -> String {
    let call = task.args.json().unwrap();
    let name = call["entrypoint"].as_str().unwrap();
    if name == "flows:flow" { "@".into() } else { name.to_owned() }
}

/// One task after the other, each with a result of some size.
pub(super) fn chain(count: u32) -> impl Fn(&Heard<'_>) -> Json {
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
