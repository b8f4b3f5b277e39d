//! The Python side of the runner: lanes are prepared, processes started, fed, listened to and ended. It is part of the
//! runner's one task and holds no state of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tidewheel_proto::v1::{Artifact, Progress, worker_message::Message as Wire};
use tokio::sync::mpsc;

use super::{Event, Runner, Tools, limits_of};
use crate::attempt::{AttemptId, Phase};
use crate::error::Fault;
use crate::process::Tree;
use crate::pump::{self, Item, Pump};
use crate::shim::{self, FromShim, Start};
use crate::warm::{Home, LOOK_AHEAD, LaneId, LaneKey, Next, Proc, ProcId, ProcState, Sent, Unit};

/// Lines a process printed outside of any task, kept for the message when it does not start.
const TAIL_LINES: usize = 30;
/// Room for the frame around a task's input.
const FRAME_ROOM: usize = 64 << 10;

impl Runner {
    // -- lanes -------------------------------------------------------------------------------------------------------

    pub(super) fn route_python(&mut self, unit: Unit, now: Instant) {
        let Some(attempt) = self.attempts.get(unit.members[0]) else { return };
        let isolated = match self.tools.sandbox.decide(self.require_isolation) {
            Ok(isolated) => isolated,
            Err(fault) => return self.fail_all(&unit.members, &fault),
        };
        if let Some(why) = &self.tools.no_python {
            let fault = Fault::new("environment", format!("this agent has no Python: {why}"), true);
            return self.fail_all(&unit.members, &fault);
        }
        let bytes: usize =
            unit.members.iter().filter_map(|id| self.attempts.get(*id)).map(|a| a.grant.input.len() + 1024).sum();
        if bytes + FRAME_ROOM > shim::MAX_FRAME {
            let fault = Fault::new("too-large", "the input is larger than a task can be handed (16 MiB)", false);
            return self.fail_all(&unit.members, &fault);
        }
        let limits = limits_of(&attempt.grant, &self.tools.config.limits);
        let token = attempt.grant.token.clone();
        let key = LaneKey { tenant: attempt.grant.tenant, package: attempt.grant.package.clone(), limits, isolated };
        let (id, new) = self.pool.lane(key, now);
        let lane = self.pool.lanes.get_mut(&id).expect("the pool just named it");
        lane.last_used = now;
        lane.ready.push_back(unit);
        if new {
            self.prepare(id, token);
        }
    }

    /// Fetches the package and builds the environment, apart.
    pub(super) fn prepare(&self, id: LaneId, token: Bytes) {
        let Some(lane) = self.pool.lanes.get(&id) else { return };
        let (generation, whose) = (lane.generation, (lane.key.tenant, lane.key.isolated));
        let hash = lane.key.package.clone();
        let (tools, events) = (self.tools.clone(), self.events.clone());
        tokio::spawn(async move {
            let home = tools.home(whose, &hash, token).await.map(Arc::new).map_err(Fault::from);
            let _ = events.send(Event::LaneReady(id, generation, home)).await;
        });
    }

    pub(super) fn lane_ready(&mut self, id: LaneId, generation: u64, home: Result<Arc<Home>, Fault>) {
        let Some(lane) = self.pool.lanes.get_mut(&id) else { return };
        if lane.generation != generation {
            return;
        }
        match home {
            Ok(home) => {
                let hash = lane.key.package.clone();
                lane.home = Some(home);
                self.note_packages(Some(hash), Vec::new());
                self.prune_cache();
            }
            Err(fault) => self.fail_lane(id, &fault),
        }
    }

    /// Nothing that waits in a lane can run. The lane is given up, so that the next grant tries again from the start.
    pub(super) fn fail_lane(&mut self, id: LaneId, fault: &Fault) {
        let Some(lane) = self.pool.remove_lane(id) else { return };
        lane.procs.into_iter().for_each(|proc| self.retire(proc));
        lane.ready.iter().for_each(|unit| self.fail_all(&unit.members, fault));
    }

    /// The code of a folder changed: what is idle ends, what is busy finishes, and both are replaced.
    pub(super) fn folder_changed(&mut self, name: &str) {
        let lanes: Vec<LaneId> =
            self.pool.lanes.iter().filter(|(_, l)| l.key.package == name).map(|(id, _)| *id).collect();
        for id in lanes {
            let lane = self.pool.lanes.get_mut(&id).expect("listed above");
            lane.generation += 1;
            lane.home = None;
            let procs = lane.procs.clone();
            procs.into_iter().for_each(|proc| self.retire(proc));
            self.prepare(id, Bytes::new());
        }
    }

    // -- handing out -------------------------------------------------------------------------------------------------

    /// Gives waiting work to processes until nothing more fits.
    pub(super) fn dispatch(&mut self, now: Instant) {
        let mut lanes: Vec<(Instant, Option<LaneId>)> = self
            .pool
            .lanes
            .iter()
            .filter(|(_, l)| l.home.is_some() && !l.ready.is_empty())
            .map(|(id, l)| (l.last_served, Some(*id)))
            .collect();
        if !self.shell_queue.is_empty() {
            lanes.push((self.shell_served, None));
        }
        // The lane that was served longest ago first, so that a busy one cannot keep the permits for itself.
        lanes.sort_unstable();
        for (_, lane) in lanes {
            match lane {
                Some(id) => self.serve_lane(id, now),
                None => self.start_shells(now),
            }
        }
    }

    pub(super) fn serve_lane(&mut self, id: LaneId, now: Instant) {
        let mut frames: Vec<(ProcId, BytesMut)> = Vec::new();
        let mut free = self.free_permits();
        // Activations that wait for the process with their program are passed over.
        let (mut at, mut closed) = (0, false);
        while let Some(lane) = self.pool.lanes.get(&id)
            && let Some(unit) = lane.ready.get(at).filter(|_| at < LOOK_AHEAD)
        {
            let grant = self.attempts.get(unit.members[0]).map(|attempt| &attempt.grant);
            let (function, run) = grant.map_or(("", ""), |grant| (&grant.entrypoint, &grant.run));
            let held = lane.holder(run).and_then(|holder| self.pool.next_for(holder, lane, function, free));
            let bound = held.is_some();
            let next = match held {
                Some(next) => next,
                None if closed => Next::Wait,
                None => self.pool.next(lane, function, unit.batch, free),
            };
            match next {
                Next::Send(proc) => {
                    let run = run.to_owned();
                    let expected = lane.expected_ms(function);
                    let sent = Sent::new(unit.clone(), function.to_owned(), expected);
                    if !self.pool.procs[&proc].is_busy() {
                        free = free.saturating_sub(1);
                    }
                    let frame = frames.iter().position(|(p, _)| *p == proc).unwrap_or_else(|| {
                        frames.push((proc, BytesMut::new()));
                        frames.len() - 1
                    });
                    self.send(proc, sent, &mut frames[frame].1, now);
                    let lane = self.pool.lanes.get_mut(&id).expect("looked at above");
                    lane.ready.remove(at);
                    lane.last_served = now;
                    if !run.is_empty() {
                        lane.holds(&run, proc);
                    }
                }
                Next::Start => {
                    free = free.saturating_sub(1);
                    self.start(id, now);
                }
                // For this one there is no room: nor is there for others, but where one process alone will do.
                Next::Wait => (at, closed) = (at + 1, closed || !bound),
            }
        }
        for (proc, bytes) in frames {
            if let Some(sender) = self.pool.procs.get(&proc).and_then(|p| p.frames.as_ref()) {
                let _ = sender.send(bytes.freeze());
            }
        }
    }

    pub(super) fn send(&mut self, proc_id: ProcId, sent: Sent, out: &mut BytesMut, now: Instant) {
        let proc = self.pool.procs.get_mut(&proc_id).expect("the pool chose it");
        if proc.queue.is_empty() {
            proc.since = now;
        }
        proc.searched = false;
        let ids: Vec<String> = sent
            .unit
            .members
            .iter()
            .map(|id| self.attempts.get(*id).map_or_else(String::new, |a| task_id(&a.grant.task)))
            .collect();
        for id in &sent.unit.members {
            if let Some(attempt) = self.attempts.get_mut(*id) {
                attempt.phase = Phase::Sent(proc_id);
            }
        }
        let starts: Vec<Start<'_>> = sent
            .unit
            .members
            .iter()
            .zip(&ids)
            .filter_map(|(id, task_id)| Some(Start { lease: *id, task_id, grant: &self.attempts.get(*id)?.grant }))
            .collect();
        if sent.unit.batch {
            shim::batch_start(out, sent.unit.lease, &starts);
        } else if let Some(start) = starts.first() {
            shim::task_start(out, start);
        }
        proc.queue.push_back(sent);
    }

    pub(super) fn start(&mut self, lane_id: LaneId, now: Instant) {
        let keep = (self.tools.config.permits as usize * 2).max(4);
        if let Some(idle) = self.pool.to_evict(keep) {
            self.retire(idle);
        }
        let id = self.pool.number();
        let lane = self.pool.lanes.get_mut(&lane_id).expect("the caller looked at it");
        let home = lane.home.clone().expect("only a prepared lane is served");
        let key = lane.key.clone();
        lane.procs.push(id);
        let name = format!("p{id}");
        let proc = Proc {
            lane: lane_id,
            state: ProcState::Starting,
            home: Some(home.clone()),
            tree: None,
            frames: None,
            queue: Default::default(),
            current: None,
            muted: Arc::default(),
            since: now,
            stalled: false,
            killed: None,
            broke: None,
            searched: false,
            tail: Default::default(),
            work: self.tools.work.join(&name),
        };
        let muted = proc.muted.clone();
        self.pool.procs.insert(id, proc);
        let (tools, events) = (self.tools.clone(), self.events.clone());
        tokio::spawn(async move {
            match tools.start_python(&name, &home, &key).await {
                Ok((running, socket)) => {
                    let tree = running.tree.clone();
                    let opened = pump::open_socket(socket);
                    let Ok((read, frames)) = opened else { return };
                    // Sent before the pump begins, so that the runner knows the process before its first word.
                    let _ = events.send(Event::Started(id, Ok((tree, frames)))).await;
                    Pump::new(running, Some(read), muted).run(events, move |said| Event::Said(id, said)).await;
                }
                Err(fault) => drop(events.send(Event::Started(id, Err(fault))).await),
            }
        });
    }

    // -- listening ---------------------------------------------------------------------------------------------------

    pub(super) fn proc_started(
        &mut self,
        id: ProcId,
        outcome: Result<(Arc<Tree>, mpsc::UnboundedSender<Bytes>), Fault>,
    ) {
        let Some(proc) = self.pool.procs.get_mut(&id) else { return };
        match outcome {
            Ok((tree, frames)) => {
                proc.tree = Some(tree);
                proc.frames = Some(frames);
                if proc.state == ProcState::Retiring {
                    self.retire(id);
                }
            }
            Err(fault) => {
                let lane = proc.lane;
                self.forget(id);
                self.fail_lane(lane, &fault);
            }
        }
    }

    pub(super) fn proc_said(&mut self, id: ProcId, items: Vec<Item>, now: Instant) {
        let mut done: Vec<(String, u32)> = Vec::new();
        for item in items {
            match item {
                Item::Line(stream, text) => self.printed(id, stream.as_str(), text),
                Item::Frame(FromShim::Started { lease }) => self.began(id, lease),
                Item::Frame(FromShim::Done { lease, outcome }) => {
                    if let Some(function) = self.finished(id, lease, outcome.map_err(|f| *f)) {
                        match done.last_mut().filter(|(f, _)| *f == function) {
                            Some((_, count)) => *count += 1,
                            None => done.push((function, 1)),
                        }
                    }
                }
                Item::Frame(frame) => self.said(id, frame, now),
                Item::Closed(stream) => {
                    // What the next task prints would be lost, or go into whatever file takes the number.
                    if self.pool.procs.get(&id).is_some_and(|p| p.state == ProcState::Ready) {
                        tracing::debug!(
                            proc = id,
                            stream = stream.as_str(),
                            "its output has ended, and so will the process"
                        );
                        self.retire(id);
                    }
                }
                Item::Broken(why) => {
                    if let Some(proc) = self.pool.procs.get_mut(&id) {
                        proc.broke = Some(why.clone());
                    }
                    tracing::warn!(proc = id, %why, "a process broke the protocol and is ended");
                    self.kill_proc(id, "protocol");
                }
            }
        }
        let total: u32 = done.iter().map(|(_, n)| n).sum();
        let Some(proc) = self.pool.procs.get_mut(&id).filter(|_| total > 0) else { return };
        let each = now.saturating_duration_since(proc.since) / total;
        proc.since = now;
        proc.stalled = false;
        if let Some(lane) = self.pool.lanes.get_mut(&proc.lane) {
            done.iter().for_each(|(function, count)| lane.note(function, each * *count, *count));
        }
        if proc.state == ProcState::Retiring && proc.queue.is_empty() {
            self.retire(id);
        }
    }

    pub(super) fn began(&mut self, id: ProcId, lease: AttemptId) {
        if let Some(proc) = self.pool.procs.get_mut(&id) {
            proc.current = Some(lease);
            proc.muted.store(false, Ordering::Relaxed);
        }
        if let Some(attempt) = self.attempts.get_mut(lease).filter(|a| a.phase == Phase::Sent(id)) {
            attempt.phase = Phase::Running(id);
            attempt.began = Some(Instant::now());
            self.outgoing.started.push(attempt.grant.token.clone());
        }
    }

    /// One attempt is done; the function's name when it was the last of its call.
    pub(super) fn finished(&mut self, id: ProcId, lease: AttemptId, outcome: Result<Bytes, Fault>) -> Option<String> {
        let proc = self.pool.procs.get_mut(&id)?;
        let at = proc.queue.iter().position(|sent| sent.open.contains(&lease))?;
        let sent = &mut proc.queue[at];
        sent.open.retain(|member| *member != lease);
        let function = sent.open.is_empty().then(|| proc.queue.remove(at).expect("found above").function);
        if proc.current == Some(lease) {
            proc.current = None;
        }
        let tree = proc.tree.clone();
        self.settle(lease, outcome.map_err(|fault| explained(fault, tree.as_deref())));
        function
    }

    pub(super) fn printed(&mut self, id: ProcId, stream: &str, text: String) {
        let Some(proc) = self.pool.procs.get_mut(&id) else { return };
        // Output may overtake the word that its task has begun; then it belongs to the one that is next.
        let owner = proc.current.or_else(|| proc.queue.front().and_then(|s| s.open.first().copied()));
        let Some(owner) = owner else {
            tracing::debug!(proc = id, stream, "{text}");
            if proc.tail.len() == TAIL_LINES {
                proc.tail.pop_front();
            }
            proc.tail.push_back(text);
            return;
        };
        let (lane, muted) = (proc.lane, proc.muted.clone());
        if let Some(function) = proc.queue.front().map(|s| s.function.clone())
            && let Some(lane) = self.pool.lanes.get_mut(&lane)
        {
            lane.printed(&function);
        }
        if self.log(owner, stream, "info", text, 0) {
            muted.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn said(&mut self, id: ProcId, frame: FromShim, now: Instant) {
        let Some(proc) = self.pool.procs.get_mut(&id) else { return };
        match frame {
            FromShim::Hello { python, sdk } => {
                tracing::debug!(proc = id, %python, %sdk, ms = now.duration_since(proc.since).as_millis() as u64, "ready");
                if proc.state == ProcState::Starting {
                    self.state.tally.start("process", now.duration_since(proc.since));
                    proc.state = ProcState::Ready;
                }
                proc.since = now;
                if let Some(frames) = &proc.frames {
                    let limits = json!({ "max_frame": shim::MAX_FRAME });
                    let _ = frames
                        .send(shim::frame_of(&json!({ "t": "hello_ack", "proto": shim::PROTO, "limits": limits })));
                }
                if proc.state == ProcState::Retiring {
                    self.retire(id);
                }
            }
            FromShim::Log { lease, level, text, at_ms } => {
                let level = match level.as_str() {
                    "debug" | "info" | "warning" | "error" => level.as_str(),
                    "warn" => "warning",
                    "critical" | "fatal" => "error",
                    _ => "info",
                };
                if self.has_attempt(id, lease) {
                    self.log(lease, "log", level, text, at_ms);
                }
            }
            FromShim::Progress { lease, fraction, text } => {
                if let Some(attempt) = self.attempts.get(lease).filter(|_| self.has_attempt(id, lease)) {
                    let token = attempt.grant.token.clone();
                    self.outgoing.other.push(Wire::Progress(Progress { token, fraction, text }));
                }
            }
            FromShim::Artifact { lease, name, path, content_type } => {
                if self.has_attempt(id, lease) {
                    self.artifact(id, lease, name, &path, content_type);
                }
            }
            FromShim::Enqueue { req, items } => {
                let tenant = self.tenant_of(id);
                self.ask(id, |tools| async move { tools.rest.within(tenant).enqueue(req, items).await });
            }
            FromShim::Handle { req, op, body, .. } if op == "fetch" => self.fetch_for(id, req, &body),
            FromShim::Handle { req, op, body, .. } if op == "file" => self.file_for(id, req, &body),
            FromShim::Handle { req, op, id: task, body } => {
                let tenant = self.tenant_of(id);
                self.ask(id, |tools| async move { tools.rest.within(tenant).handle(req, &op, &task, body).await });
            }
            FromShim::Asset { req } => {
                if let Some(frames) = &proc.frames {
                    let _ = frames.send(crate::rest::no_asset(&req));
                }
            }
            FromShim::History { req, lease, below } => self.history_for(id, req, lease, below),
            FromShim::Recalled { leases } => self.recalled(id, &leases),
            FromShim::Left { count } => {
                // They would use up the limits of the tasks that come after it. The whole tree ends with the process.
                tracing::info!(proc = id, count, "a task left processes running; its process is replaced");
                self.retire(id);
            }
            FromShim::LoadError { message, traceback } => {
                let fault = Fault::new("load-error", message, false).with_detail(traceback);
                let lane = proc.lane;
                proc.killed = Some("load-error");
                self.fail_lane(lane, &fault);
            }
            FromShim::Fatal { message } => {
                tracing::warn!(proc = id, %message, "a process gave up");
            }
            FromShim::Started { .. } | FromShim::Done { .. } => {}
        }
    }

    /// The name of the tenant whose tasks a process runs, where this agent serves several.
    fn tenant_of(&self, id: ProcId) -> Option<Arc<str>> {
        let lane = self.pool.lanes.get(&self.pool.procs.get(&id)?.lane)?;
        self.tenants.get(&lane.key.tenant).cloned()
    }

    /// Whether an attempt is with that process. Code names the attempt that it speaks for, and could name the one of another
    /// tenant: what it says of that is dropped.
    fn has_attempt(&self, id: ProcId, lease: AttemptId) -> bool {
        self.attempts
            .get(lease)
            .is_some_and(|attempt| matches!(attempt.phase, Phase::Sent(p) | Phase::Running(p) if p == id))
    }

    /// Stored content into a file of the process's folder, under a name that nobody can have foreseen: what lies in the
    /// folder is the task's, and a link there must not lead the agent elsewhere. It is fetched with the right of the attempt
    /// that the process names, which has to be one that it runs: code could name the attempt of another tenant.
    fn fetch_for(&self, id: ProcId, req: Bytes, body: &[u8]) {
        #[derive(serde::Deserialize, Default)]
        #[serde(default)]
        struct Wanted {
            lease: String,
            hash: String,
        }
        let wanted: Wanted = serde_json::from_slice(body).unwrap_or_default();
        let Some(proc) = self.pool.procs.get(&id) else { return };
        let attempt = wanted.lease.parse().ok().and_then(|lease| self.attempts.get(lease));
        let Some(attempt) = attempt.filter(|attempt| attempt.phase == Phase::Running(id)) else {
            if let Some(frames) = &proc.frames {
                let why = "stored content is fetched for a task that this process runs, and it runs none of this lease";
                let _ = frames.send(crate::rest::not_fetched(&req, why));
            }
            return;
        };
        let (tenant, token) = (attempt.grant.tenant, attempt.grant.token.clone());
        let (work, events) = (proc.work.clone(), self.events.clone());
        self.ask(id, |tools| async move {
            let mut random = [0u8; 16];
            let drawn = getrandom::fill(&mut random).map_err(|e| e.to_string());
            let place = work.join(format!(".fetched-{}", hex::encode(random)));
            let outcome = match (drawn, crate::blobs::digest_of(&wanted.hash)) {
                (Err(why), _) => Err(why),
                (_, None) => Err("a stored file is named by sha256: and 64 hexadecimal digits".into()),
                _ => tools.inputs.file(tenant, &wanted.hash, token, &place).await.map_err(|e| e.to_string()),
            };
            if let Ok(got) = &outcome
                && let Some((hash, bytes)) = got.kept.clone()
            {
                let _ = events.send(Event::InputKept(hash, bytes)).await;
            }
            crate::rest::fetched(&req, outcome.map(|_| place.display().to_string()))
        });
    }

    /// Turns of a workflow that the process has to replay, with the right of the attempt that it names: one that it runs.
    fn history_for(&self, id: ProcId, req: Bytes, lease: AttemptId, below: u64) {
        let Some(proc) = self.pool.procs.get(&id) else { return };
        let attempt = self.attempts.get(lease).filter(|attempt| attempt.phase == Phase::Running(id));
        let Some(token) = attempt.map(|attempt| attempt.grant.token.clone()) else {
            if let Some(frames) = &proc.frames {
                let why = "a history is read for an activation that this process runs, and it runs none of this lease";
                let _ = frames.send(crate::rest::history(&req, Err(why.into())));
            }
            return;
        };
        self.ask(id, |tools| async move {
            let turns = tools.blobs.history(token, below).await;
            crate::rest::history(&req, turns.map_err(|error| error.to_string()))
        });
    }

    /// A file of the package that the process runs, brought here if it is one that is fetched on demand.
    fn file_for(&self, id: ProcId, req: Bytes, body: &[u8]) {
        #[derive(serde::Deserialize, Default)]
        #[serde(default)]
        struct Wanted {
            lease: String,
            name: String,
        }
        let wanted: Wanted = serde_json::from_slice(body).unwrap_or_default();
        let Some(proc) = self.pool.procs.get(&id) else { return };
        let attempt = wanted.lease.parse().ok().and_then(|lease| self.attempts.get(lease));
        let attempt = attempt.filter(|attempt| attempt.phase == Phase::Running(id));
        let (Some(attempt), Some(home)) = (attempt, proc.home.clone()) else {
            if let Some(frames) = &proc.frames {
                let why = "a file of the package is fetched for a task that this process runs, and it runs none of this lease";
                let _ = frames.send(crate::rest::not_fetched(&req, why));
            }
            return;
        };
        let (hash, token) = (attempt.grant.package.clone(), attempt.grant.token.clone());
        self.ask(id, |tools| async move {
            let found = tools.packages.file(&hash, token, &home.package, &wanted.name).await;
            match found {
                Err(error) if error.is_retryable() => crate::rest::not_now(&req, &error.to_string()),
                found => crate::rest::fetched(&req, found.map(|p| p.display().to_string()).map_err(|e| e.to_string())),
            }
        });
    }

    /// A question of a task, answered apart.
    pub(super) fn ask<F>(&self, id: ProcId, question: impl FnOnce(Arc<Tools>) -> F)
    where
        F: Future<Output = Bytes> + Send + 'static,
    {
        let Some(frames) = self.pool.procs.get(&id).and_then(|p| p.frames.clone()) else { return };
        let answer = question(self.tools.clone());
        tokio::spawn(async move { drop(frames.send(answer.await)) });
    }

    pub(super) fn artifact(&mut self, id: ProcId, lease: AttemptId, name: String, path: &str, content_type: String) {
        let Some(proc) = self.pool.procs.get(&id) else { return };
        let confined =
            self.pool.lanes.get(&proc.lane).is_some_and(|l| l.key.isolated) || self.tools.spawner.run_as().is_some();
        let Some(attempt) = self.attempts.get_mut(lease) else { return };
        attempt.uploads += 1;
        // Opened now: the task may remove the file as soon as it goes on.
        let file = open_artifact(&proc.work, path, confined);
        let (tools, events, token) = (self.tools.clone(), self.events.clone(), attempt.grant.token.clone());
        tokio::spawn(async move {
            let stored = match file {
                Ok(file) => tools.blobs.put_file(file, token).await.map_err(Fault::from),
                Err(error) => Err(Fault::new("artifact", error.to_string(), false)),
            };
            let stored =
                stored.map(|s| Artifact { name: name.clone(), hash: s.hash, size: s.size, content_type }).map_err(
                    |f| Fault { message: format!("artifact `{name}`: {}", f.message), kind: "artifact".into(), ..f },
                );
            let _ = events.send(Event::Artifact(lease, stored)).await;
        });
    }
}

/// An error of the system that a limit stands behind, with the limit named.
fn explained(mut fault: Fault, tree: Option<&Tree>) -> Fault {
    let refused = matches!(fault.kind.as_str(), "BlockingIOError" | "RuntimeError");
    if let Some(tree) = tree.filter(|tree| refused && tree.was_refused_processes()) {
        fault.message.push_str(&format!(" (the limit of {} processes and threads was reached)", tree.limits.processes));
    }
    fault
}

fn task_id(bytes: &Bytes) -> String {
    match <[u8; 16]>::try_from(&bytes[..]) {
        Ok(id) => tidewheel_proto::id::format("task", u128::from_be_bytes(id)),
        Err(_) => hex::encode(bytes),
    }
}

/// A confined task may only name plain files in its own folder: the agent must not read for it what it cannot read itself.
fn open_artifact(work: &Path, path: &str, confined: bool) -> std::io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    let full = work.join(path);
    let file = if confined {
        let outside = || std::io::Error::other("an isolated task can only store files of its working folder");
        let inner = full.strip_prefix(work).map_err(|_| outside())?;
        let dir = std::fs::File::open(work)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let only = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        std::fs::File::from(openat2(&dir, inner, flags, Mode::empty(), only)?)
    } else {
        std::fs::File::open(&full)?
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a plain file"));
    }
    Ok(file)
}
