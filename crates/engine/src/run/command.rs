//! What a program asks for: the result of an activation, read strictly and taken as a whole.

use std::sync::Arc;

use super::act::{Act, OpenTask, Outcome, TaskHints};
use super::code::{Await, CodeState, scope_of};
use super::data::{Data, measure};
use super::eval::Json;
use super::fault::{Fault, Standard};
use super::head::{Next, Outside, Phase};
use super::history::CodeTurn;
use super::journal::{EntryKind, Key};
use super::machine::{Machine, Res, Stop};
use super::map::Given;
use super::plan::{Kind, Node, Program, Target};
use super::undo::{Undo, UndoRetry};
use crate::id::Name;
use crate::limit::{ATTRIBUTE_BYTES, ATTRIBUTES, CODE_COMMANDS, CODE_KEY};
use crate::planted::Bug;

/// Why a program holds whose replay differs from its history.
pub const MISMATCH: &str = "replay-mismatch";

/// A key as a program writes it: `<scope>/<kind>:<name>#<n>`.
pub(super) struct ReadKey<'k> {
    pub(super) scope: &'k str,
    pub(super) kind: &'k str,
    pub(super) name: &'k str,
    pub(super) n: u32,
}

pub(super) fn read_key(key: &str) -> Option<ReadKey<'_>> {
    let (path, n) = key.rsplit_once('#')?;
    // A name may have slashes; a kind and a scope never have a colon.
    let colon = path.find(':')?;
    let (scope, kind) = path[..colon].rsplit_once('/').unwrap_or(("", &path[..colon]));
    Some(ReadKey { scope, kind, name: &path[colon + 1..], n: n.parse().ok()? })
}

/// A command.
struct Command<'j> {
    key: Name,
    hash: Name,
    kind: &'j str,
    name: &'j str,
    json: &'j Json,
}

/// What a program asked for by a result: key and hash of each.
pub(super) fn asked(result: &Json) -> Vec<(Name, Name)> {
    let all = result.get("commands").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(Command::read).map(|command| (command.key, command.hash)).collect()
}

impl<'j> Command<'j> {
    fn read(json: &'j Json) -> Option<Command<'j>> {
        let text = |name: &str| json.get(name).and_then(Json::as_str);
        let (key, kind) = (text("key")?, text("kind")?);
        let read = read_key(key)?;
        (key.len() <= CODE_KEY && read.kind == kind).then(|| Command {
            key: key.into(),
            hash: text("hash").unwrap_or_default().into(),
            kind,
            name: text("name").unwrap_or_default(),
            json,
        })
    }

    fn part(&self, name: &str) -> Json {
        self.json.get(name).cloned().unwrap_or(Json::Null)
    }

    fn opt(&self, name: &str) -> &Json {
        self.json.get("opts").and_then(|opts| opts.get(name)).unwrap_or(&Json::Null)
    }

    /// The statement of the plan that does it.
    fn statement(&self) -> Option<&'static str> {
        Some(match self.kind {
            "task" => "@task",
            "sleep" => "@sleep",
            "signal" => "@signal",
            "event" => "@event",
            "promise" => "@promise",
            "map" => "@map",
            "child" => match self.opt("close").as_str() {
                Some("abandon") => "@child-abandon",
                Some("wait") => "@child-wait",
                _ => "@child",
            },
            _ => return None,
        })
    }

    fn journal_key(&self, kind: EntryKind) -> Key {
        let (scope, n) = read_key(&self.key).map_or(("", 0), |read| (read.scope, read.n));
        Key { scope: scope.into(), kind, name: self.name.into(), n }
    }
}

impl Machine<'_> {
    /// Takes what an activation gave.
    pub(super) fn take_result(&mut self, id: u32, result: &Json) -> Res<()> {
        if result.get("v").and_then(Json::as_u64) != Some(super::history::PROTOCOL) {
            return Err(self.bad(id, "it has another version"));
        }
        let end = result.get("end").and_then(Json::as_object);
        let end = end.and_then(|end| end.iter().next()).map(|(how, value)| (how.as_str(), value));
        if let Some(("mismatch", what)) = end {
            self.hold_for_mismatch(id, what);
            return Ok(());
        }
        let commands = self.commands(id, result)?;
        self.code_room(id, commands.len())?;
        self.note_opened(id, &commands);
        for command in &commands {
            self.take_command(id, command)?;
        }
        self.note_state(id, result)?;
        match end {
            None => self.wait_on(id, result),
            Some(("ok", value)) => self.code_done(id, value.clone()),
            Some(("error", error)) => {
                let blame = error.get("key").and_then(Json::as_str).map(Name::from);
                if let Some(state) = self.code_mut(id) {
                    state.blame = blame;
                }
                let instance = self.frame(id).map_or("", |frame| &frame.place.reference);
                Err(Stop::Fault(Fault::complete(error, self.plan.profile, instance)))
            }
            Some(("cancelled", _)) => {
                self.code_cancelled();
                Ok(())
            }
            Some(("continue", input)) => {
                self.continue_as_new(id, input);
                Ok(())
            }
            Some(_) => Err(self.bad(id, "it ends in an unknown way")),
        }
    }

    fn bad(&self, id: u32, why: &str) -> Stop {
        let text =
            format!("an activation of the program gave what cannot be used: {why}; is its tidewheel package too new?");
        self.fault(id, Standard::Runtime, &text)
    }

    fn commands<'j>(&self, id: u32, result: &'j Json) -> Res<Vec<Command<'j>>> {
        let all = result.get("commands").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        if all.len() > CODE_COMMANDS {
            return Err(
                self.bad(id, &format!("it asks for {} things at once, at most {CODE_COMMANDS} are taken", all.len()))
            );
        }
        let read: Option<Vec<_>> = all.iter().map(Command::read).collect();
        let commands = read.ok_or_else(|| self.bad(id, "a command has no key of its kind"))?;
        let known = self.code(id).map_or(&[][..], |state| &state.open);
        let mut keys: std::collections::BTreeSet<&Name> = known.iter().map(|open| &open.1).collect();
        match commands.iter().find(|command| !keys.insert(&command.key)) {
            Some(twice) => Err(self.bad(id, &format!("'{}' is there twice", twice.key))),
            None => Ok(commands),
        }
    }

    fn note_opened(&mut self, id: u32, commands: &[Command<'_>]) {
        let Some(state) = self.code_mut(id) else { return };
        state.failed.retain(|(key, ..)| {
            state.news.iter().any(|told| told.key == *key) || {
                let last = state.turns.last();
                last.is_some_and(|turn| turn.done.iter().any(|told| told.key == *key))
            }
        });
        state.bytes += commands.iter().map(|command| command.key.len() + 24).sum::<usize>();
        if let Some(turn) = state.turns.last_mut() {
            let turn: &mut CodeTurn = Arc::make_mut(turn);
            turn.opened = commands.iter().map(|command| (command.key.clone(), command.hash.clone())).collect();
        }
    }

    fn take_command(&mut self, id: u32, command: &Command<'_>) -> Res<()> {
        let now = self.now;
        if let Some(statement) = command.statement() {
            let scope_n = read_key(&command.key).map_or(("".into(), 0), |read| (read.scope.into(), read.n));
            let raw =
                serde_json::json!({"name": command.name, "args": command.part("args"), "opts": command.part("opts")});
            let raw = self.keep(raw);
            let reference: Name = format!("{statement}:{}", command.name).into();
            let line = self.code_branch(id, reference, raw, (scope_n.1, scope_n.0));
            if let Some(state) = self.code_mut(id) {
                state.open.push((line, command.key.clone()));
            }
            return Ok(());
        }
        match command.kind {
            "step" => {
                let error = command.json.get("error").filter(|error| !error.is_null());
                let how = match error {
                    Some(error) => Outcome::Err(Fault::complete(error, self.plan.profile, &command.key)),
                    None => Outcome::Ok(self.keep(command.part("value"))),
                };
                self.instant(id, command.journal_key(EntryKind::Step), how.clone())?;
                let dropped = self.def.planted().has(Bug::DroppedStep);
                let how = if dropped { Outcome::Ok(Data::null()) } else { self.told(id, how) };
                if let Some(state) = self.code_mut(id) {
                    state.tell(command.key.clone(), how, now);
                }
                Ok(())
            }
            "patch" => Ok(self.instant(id, command.journal_key(EntryKind::Patch), Outcome::Ok(Data::null()))?),
            "undo" => self.arm_undo(id, command),
            _ => Err(self.bad(id, &format!("'{}' is of an unknown kind", command.key))),
        }
    }

    /// Installs what the program waits for, or lets it go on at once.
    fn wait_on(&mut self, id: u32, result: &Json) -> Res<()> {
        let again = result.get("again").and_then(Json::as_bool) == Some(true);
        let waits = result.get("wait").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        if waits.is_empty() && !again {
            return Err(self.bad(id, "it waits for nothing and has not ended"));
        }
        let Some(state) = self.code(id) else { return Ok(()) };
        let open: std::collections::BTreeSet<&Name> = state.open.iter().map(|open| &open.1).collect();
        let (mut read, mut goes_on) = (Vec::with_capacity(waits.len()), again);
        for wait in waits {
            let any = wait.get("mode").and_then(Json::as_str) != Some("all");
            let keys = wait.get("keys").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
            let mut left: Vec<Name> = keys
                .iter()
                .filter_map(Json::as_str)
                .filter_map(|key| open.get(&Name::from(key)).map(|key| (*key).clone()))
                .collect();
            left.sort_unstable();
            left.dedup();
            goes_on |= left.is_empty() || any && left.len() < keys.len();
            read.push(Await { any, keys: left });
        }
        if let Some(state) = self.code_mut(id) {
            state.waits = read;
        }
        if goes_on {
            self.activate(id);
        }
        Ok(())
    }

    /// What the program says of itself, and its search attributes.
    fn note_state(&mut self, id: u32, result: &Json) -> Res<()> {
        if let Some(state) = result.get("state") {
            let data = self.keep(state.clone());
            if let Some(state) = self.code_mut(id) {
                state.state = Some(data);
            }
        }
        let given = result.get("attributes").and_then(Json::as_object);
        let mut changed = Vec::new();
        for (name, value) in given.into_iter().flatten().take(ATTRIBUTES) {
            let value = if measure(value) <= ATTRIBUTE_BYTES { value.clone() } else { Json::Null };
            changed.push((Name::from(name.as_str()), value));
        }
        self.change_attributes(changed);
        Ok(())
    }

    fn hold_for_mismatch(&mut self, id: u32, what: &Json) {
        let what = self.keep(what.clone());
        let epoch = self.head.turns + 1;
        if let Some(state) = self.code_mut(id) {
            state.take_back(epoch);
            state.mismatch = Some(what);
        }
        if self.def.planted().has(Bug::MismatchGoesOn) {
            return self.activate(id);
        }
        // With a resume it is tried again, on code that may be another by then.
        self.set_next(id, Next::Refill);
        self.set_phase(Phase::Suspended, Some(MISMATCH.into()));
    }

    fn continue_as_new(&mut self, id: u32, input: &Json) {
        self.close_code(id, false);
        let input = self.keep(input.clone());
        let Some(state) = self.code_mut(id) else { return };
        let (generation, epoch, kept, armed) = (state.generation + 1, state.epoch, state.state.clone(), state.armed);
        let (cancel, cancel_told) = (state.cancel.clone(), false);
        let new = CodeState::new(input, epoch, generation);
        *state = CodeState { cancel, cancel_told, state: kept, armed, ..new };
        let bytes = state.input.stored() + scope_of(generation).len();
        state.bytes = bytes;
        self.activate(id);
    }

    /// The program of the plan.
    pub(super) fn program(&self, id: u32) -> Option<&Program> {
        match self.frame(id).and_then(|frame| self.node(frame)).map(|node| &node.kind) {
            Some(Kind::Code(program)) => Some(program),
            _ => None,
        }
    }

    fn arm_undo(&mut self, id: u32, command: &Command<'_>) -> Res<()> {
        let Some(program) = self.program(id) else { return Ok(()) };
        let mut call = call(program, command.name, command.json.get("opts").unwrap_or(&Json::Null));
        call["args"] = command.part("args");
        let args = self.keep(call);
        let of = self.head.next_seq;
        // A scope of its own: the number of an undo's key is that of its attempts.
        let scope = read_key(&command.key).map_or("", |read| read.scope);
        let (number, epoch) = self.code(id).map_or((0, 0), |state| (state.armed, state.epoch));
        let scope = match self.revision() {
            // What is armed again after the program was taken back is another one.
            6.. if epoch > 1 => format!("{scope}/u{number}~{epoch}"),
            _ => format!("{scope}/u{number}"),
        };
        let undo = Undo {
            name: command.name.into(),
            of,
            scope: scope.into(),
            reference: command.name.into(),
            target: Target::Python,
            args,
            hints: TaskHints::default(),
            retry: UndoRetry::default(),
            tries: 0,
            failures: 0,
        };
        self.note_armed(&undo);
        self.head.undo_mut().arm(undo);
        if let Some(state) = self.code_mut(id) {
            state.armed += 1;
        }
        Ok(())
    }

    /// The body of a task that a program asked for.
    pub(super) fn begin_asked(&mut self, id: u32, node: &Node, input: &Data) -> Res<()> {
        let Some((parent, _)) = self.head.line(id).and_then(|line| line.parent) else { return Ok(()) };
        let asked = self.json(input)?;
        let Some(program) = self.program(parent) else { return Ok(()) };
        let mut call = call(program, asked["name"].as_str().unwrap_or_default(), &asked["opts"]);
        call["args"] = asked["args"].clone();
        let args = self.keep(call);
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let (entry, key) = (frame.seq, self.key(id, node));
        let deadline_ms = if frame.limit_ms == 0 { 0 } else { self.now.saturating_add(frame.limit_ms) };
        self.note_args(entry, &args);
        let (target, hints) = (Target::Python, TaskHints::default());
        let task = OpenTask { entry, key, target, args, sealed: false, items: None, awaited: true, deadline_ms, hints };
        self.act(Act::OpenTask(Box::new(task)));
        self.open(entry, id, entry, Outside::Task);
        Ok(())
    }

    /// How a map is done that a program asked for; `None` = it is one of the plan.
    pub(super) fn given(&mut self, id: u32, input: &Data) -> Res<Option<Box<Given>>> {
        let Some((parent, _)) = self.head.line(id).and_then(|line| line.parent) else { return Ok(None) };
        let Some(program) = self.program(parent) else { return Ok(None) };
        let asked = self.json(input)?;
        let (name, opts) = (asked["name"].as_str().unwrap_or_default(), &asked["opts"]);
        let number = |key: &str, default: u32| {
            opts[key].as_u64().map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX)).max(1)
        };
        let target = match name.strip_prefix("workflow:") {
            Some(workflow) => {
                let (namespace, name, version) = workflow_name(workflow);
                Target::Workflow(namespace.into(), name.into(), version.into())
            }
            None => Target::Python,
        };
        let call = Data::small(call(program, name, opts));
        let collect = opts["collect"].as_bool() == Some(true);
        let (concurrency, batch) = (number("concurrency", MAP_WIDTH), number("batch", 1));
        Ok(Some(Box::new(Given { target, call, concurrency, batch, collect })))
    }
}

/// Items of a map at work at a time, where the program does not say.
const MAP_WIDTH: u32 = 100;
/// What of the options of a command goes with its call: those of a submission, in plain units. They are read when the task is opened.
const CALL_OPTIONS: [&str; 17] = [
    "queue",
    "priority",
    "requires",
    "retry",
    "timeouts",
    "ttl_ms",
    "expected_ms",
    "key",
    "concurrency_key",
    "concurrency_limit",
    "affinity_key",
    "near",
    "resources",
    "batchable",
    "labels",
    "correlation_id",
    "idempotency_key",
];

/// What of a call of a task is known without its arguments.
fn call(program: &Program, name: &str, opts: &Json) -> Json {
    let mut call = serde_json::json!({"entrypoint": name});
    if program.tasks.iter().any(|task| **task == *name) {
        call["package"] = (&*program.package).into();
        call["version"] = (&*program.version).into();
    }
    if let Some(package) = opts.get("package").and_then(Json::as_str) {
        let (name, version) = package.split_once('@').unwrap_or((package, ""));
        call["package"] = name.into();
        call["version"] = if version.is_empty() { Json::Null } else { version.into() };
    }
    for option in CALL_OPTIONS {
        if let Some(value) = opts.get(option).filter(|value| !value.is_null()) {
            call[option] = value.clone();
        }
    }
    call
}

/// `namespace/name:version`; without a version it is the latest.
fn workflow_name(text: &str) -> (&str, &str, &str) {
    let (path, version) = text.rsplit_once(':').unwrap_or((text, "latest"));
    let (namespace, name) = path.split_once('/').unwrap_or(("default", path));
    (namespace, name, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let read = |key| read_key(key).map(|read| (read.scope, read.kind, read.name, read.n));
        assert_eq!(read("task:fetch#0"), Some(("", "task", "fetch", 0)));
        assert_eq!(read("/task:fetch#0"), Some(("", "task", "fetch", 0)));
        assert_eq!(read("g1/p0.p1/child:acme/ship:1.2.0#12"), Some(("g1/p0.p1", "child", "acme/ship:1.2.0", 12)));
        assert_eq!(read("sleep:#3"), Some(("", "sleep", "", 3)));
        assert_eq!(read("task:fetch"), None);
        assert_eq!(read("task:fetch#x"), None);
        assert_eq!(read("fetch#1"), None);
    }
}
