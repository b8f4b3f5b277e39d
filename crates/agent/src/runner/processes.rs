//! How processes of user code begin and end: started in a prepared home, retired when idle, killed, and what becomes of
//! their work when they are gone. Part of the runner's one task.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::{Event, Runner, Tools, child_env, remove_later};
use crate::attempt::{AttemptId, Phase};
use crate::error::Fault;
use crate::process::{Spawn, describe_exit};
use crate::sandbox::View;
use crate::shim;
use crate::warm::{Home, LaneId, LaneKey, Proc, ProcId, ProcState, STALL, Unit};

/// A process that says nothing for so long while it starts hangs in an import.
const START_TIME: Duration = Duration::from_secs(60);
/// What a worker process begins with. `-m tidewheel._shim` would do the same after loading `runpy`, and like `-c` it puts the
/// working folder in front of the module path, where a file could hide a module of the standard library.
const LAUNCH: &str =
    "import sys\nif sys.path[:1] == ['']: del sys.path[0]\nfrom tidewheel._shim.__main__ import start\nstart()";
/// The table of processes is read for daemons at most so often.
const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// An unused lane is forgotten, and its package may be removed from the cache.
const LANE_IDLE: Duration = Duration::from_secs(600);

impl Runner {
    pub(super) fn ask_to_stop(&mut self, proc: ProcId, id: AttemptId, reason: &str, grace: Duration) {
        if let Some(frames) = self.pool.procs.get(&proc).and_then(|p| p.frames.as_ref()) {
            let grace = grace.as_millis() as u64;
            let _ = frames.send(shim::frame_of(
                &json!({ "t": "cancel", "lease": id.to_string(), "reason": reason, "grace_ms": grace }),
            ));
        }
    }

    /// Asks back what was sent ahead to a process whose first call takes long. The process answers while the call runs, unless
    /// the call keeps the whole interpreter to itself.
    pub(super) fn recall_stalled(&mut self, now: Instant) {
        for proc in self.pool.procs.values_mut() {
            let long = proc.state != ProcState::Starting && now.duration_since(proc.since) >= STALL;
            if !long || proc.stalled || proc.queue.is_empty() {
                continue;
            }
            proc.stalled = true;
            let behind = proc.queue.iter().skip(1).filter(|s| !s.unit.batch);
            let leases: Vec<String> = behind.flat_map(|s| s.open.iter().map(u64::to_string)).collect();
            if let Some(frames) = proc.frames.as_ref().filter(|_| !leases.is_empty()) {
                let _ = frames.send(shim::frame_of(&json!({ "t": "recall", "leases": leases })));
            }
        }
    }

    /// Calls that a process gave back unstarted: they wait again, in front, for another.
    pub(super) fn recalled(&mut self, id: ProcId, leases: &[AttemptId]) {
        let Some(proc) = self.pool.procs.get_mut(&id) else { return };
        let lane = proc.lane;
        let mut again = Vec::new();
        let mut at = 0;
        while let Some(sent) = proc.queue.get(at) {
            if sent.unit.batch || !sent.open.iter().all(|lease| leases.contains(lease)) {
                at += 1;
                continue;
            }
            again.push(proc.queue.remove(at).expect("looked at above").unit);
        }
        tracing::debug!(proc = id, calls = again.len(), "taken back from behind a long one");
        let ends = proc.state == ProcState::Retiring && proc.queue.is_empty();
        self.wait_again(lane, again);
        if ends {
            self.retire(id);
        }
    }

    /// What no process will begin any more ends as it was to, goes back to the server when this agent stops, or waits.
    fn wait_again(&mut self, lane: LaneId, units: Vec<Unit>) {
        let mut waiting = Vec::new();
        for mut unit in units {
            unit.members.retain(|member| {
                let Some(attempt) = self.attempts.get_mut(*member) else { return false };
                if attempt.silent || attempt.ending.is_some() {
                    self.settle(*member, Err(Fault::cancelled("it had not begun")));
                    return false;
                }
                if self.draining.is_some() {
                    self.outgoing.returned.extend(self.attempts.remove(*member).map(|a| a.grant.token));
                    return false;
                }
                attempt.phase = Phase::Waiting;
                true
            });
            if !unit.members.is_empty() {
                waiting.push(unit);
            }
        }
        self.requeue(lane, waiting, Instant::now());
    }

    /// Looks, now and then, whether processes that have nothing to do have daemons about, which outlived the task that started
    /// them. Those end with the process, and another takes its place.
    pub(super) fn search_strays(&mut self, now: Instant) {
        if self.last_search.is_some_and(|last| now.duration_since(last) < SEARCH_EVERY) {
            return;
        }
        let idle = self.pool.procs.iter_mut().filter(|(_, p)| {
            p.state == ProcState::Ready && p.queue.is_empty() && !p.searched && now.duration_since(p.since) >= STALL
        });
        let mut trees = Vec::new();
        for (id, proc) in idle {
            proc.searched = true;
            trees.extend(proc.tree.clone().map(|tree| (*id, tree)));
        }
        if trees.is_empty() {
            return;
        }
        self.last_search = Some(now);
        let events = self.events.clone();
        tokio::spawn(async move {
            let search = tokio::task::spawn_blocking(move || {
                let table = crate::procfs::table();
                trees.into_iter().filter(|(_, tree)| tree.has_strays(&table)).map(|(id, _)| id).collect::<Vec<_>>()
            });
            for id in search.await.unwrap_or_default() {
                let _ = events.send(Event::Strays(id)).await;
            }
        });
    }

    /// A batch is killed only when none of its open members is to live.
    pub(super) fn may_kill(&self, proc: ProcId, id: AttemptId) -> bool {
        let Some(proc) = self.pool.procs.get(&proc) else { return false };
        let Some(sent) = proc.queue.iter().find(|s| s.open.contains(&id)) else { return false };
        sent.open.iter().all(|m| self.attempts.get(*m).is_none_or(|a| a.ending.is_some()))
    }

    pub(super) fn kill_proc(&mut self, id: ProcId, why: &'static str) {
        let Some(proc) = self.pool.procs.get_mut(&id) else { return };
        proc.killed.get_or_insert(why);
        if let Some(tree) = proc.tree.clone() {
            tokio::spawn(tree.kill());
        }
    }

    /// Ends a process once it has nothing to do.
    pub(super) fn retire(&mut self, id: ProcId) {
        let Some(proc) = self.pool.procs.get_mut(&id) else { return };
        proc.state = ProcState::Retiring;
        if proc.queue.is_empty()
            && let Some(frames) = proc.frames.take()
        {
            // It leaves by itself when the socket ends, which it does once this sender is gone.
            let _ = frames.send(shim::frame_of(&json!({ "t": "drain" })));
            if let Some(tree) = proc.tree.clone() {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    tree.kill().await;
                });
            }
        }
    }

    pub(super) fn retire_idle(&mut self, now: Instant) {
        let idle = self.tools.config.idle;
        let old: Vec<ProcId> = (self.pool.procs.iter())
            .filter(|(_, p)| p.state == ProcState::Ready && p.queue.is_empty() && now.duration_since(p.since) >= idle)
            .map(|(id, _)| *id)
            .collect();
        old.into_iter().for_each(|id| self.retire(id));
        let stuck: Vec<ProcId> = (self.pool.procs.iter())
            .filter(|(_, p)| p.state == ProcState::Starting && now.duration_since(p.since) >= START_TIME)
            .map(|(id, _)| *id)
            .collect();
        stuck.into_iter().for_each(|id| self.kill_proc(id, "start-timeout"));
        let unused: Vec<LaneId> = (self.pool.lanes.iter())
            .filter(|(_, l)| l.procs.is_empty() && l.ready.is_empty() && now.duration_since(l.last_used) >= LANE_IDLE)
            .map(|(id, _)| *id)
            .collect();
        unused.into_iter().for_each(|id| drop(self.pool.remove_lane(id)));
    }

    pub(super) fn forget(&mut self, id: ProcId) -> Option<Proc> {
        let proc = self.pool.procs.remove(&id)?;
        if let Some(lane) = self.pool.lanes.get_mut(&proc.lane) {
            lane.procs.retain(|p| *p != id);
        }
        remove_later(proc.work.clone());
        Some(proc)
    }

    /// The process is gone. What it worked on failed with it; what it had not begun goes to another.
    pub(super) fn proc_exited(&mut self, id: ProcId, status: Option<ExitStatus>, now: Instant) {
        let Some(mut proc) = self.forget(id) else { return };
        let verdict = proc.tree.as_ref().and_then(|t| t.verdict());
        // What it left running goes with it.
        if let Some(tree) = proc.tree.take() {
            tokio::spawn(tree.kill());
        }
        let said: Vec<String> = proc.tail.drain(..).collect();
        if proc.state == ProcState::Starting && proc.killed != Some("load-error") {
            let why = if proc.killed == Some("start-timeout") {
                format!("the worker process was not ready after {} s", START_TIME.as_secs())
            } else {
                format!("the worker process did not start: {}", describe_exit(status))
            };
            let fault = Fault::new(verdict.unwrap_or("worker-start"), why, true).with_detail(said.join("\n"));
            let others = self.pool.lanes.get(&proc.lane).is_some_and(|lane| !lane.procs.is_empty());
            if others {
                // Its neighbours run, so it is not the code; they take the work.
                tracing::warn!(proc = id, reason = %fault.message, "a further process could not be started");
                return;
            }
            return self.fail_lane(proc.lane, &fault);
        }
        let fault = match verdict {
            None if proc.broke.is_some() => {
                let why = proc.broke.take().unwrap_or_default();
                let message = format!("the process of the task said what the agent cannot read, and was ended: {why}");
                Fault::new("worker-protocol", message, true)
            }
            Some(verdict) => {
                Fault::new(verdict, format!("over the {}: {}", verdict.replace('-', " "), describe_exit(status)), true)
            }
            None => Fault::new("worker-exit", format!("the task ended its process: {}", describe_exit(status)), true),
        };
        let began = |m: &AttemptId, s: &Self| s.attempts.get(*m).is_some_and(|a| a.phase == Phase::Running(id));
        // A process that vanished before it said what it had begun had begun the first: else a task that ends its process at
        // once would be sent to one process after another.
        let any_began = proc.queue.iter().any(|s| s.open.iter().any(|m| began(m, self)));
        let blame_first = proc.killed.is_none() && !any_began;
        let mut again: Vec<Unit> = Vec::new();
        for (at, sent) in proc.queue.into_iter().enumerate() {
            let started = sent.open.iter().any(|m| began(m, self)) || at == 0 && blame_first;
            let mut left = Vec::new();
            for member in sent.open {
                let Some(attempt) = self.attempts.get_mut(member) else { continue };
                if started || attempt.silent || attempt.ending.is_some() {
                    self.settle(member, Err(fault.clone()));
                } else {
                    attempt.phase = Phase::Waiting;
                    left.push(member);
                }
            }
            if !left.is_empty() {
                again.push(Unit { members: left, ..sent.unit });
            }
        }
        self.requeue(proc.lane, again, now);
    }

    pub(super) fn requeue(&mut self, lane: LaneId, units: Vec<Unit>, now: Instant) {
        match self.pool.lanes.get_mut(&lane) {
            Some(lane) => units.into_iter().rev().for_each(|unit| lane.ready.push_front(unit)),
            None => units.into_iter().for_each(|unit| self.route_python(unit, now)),
        }
    }
}

/// Programs that may wait in a process: each has a thread, and threads count as processes do.
fn parked(limits: &crate::config::Limits) -> u32 {
    const MOST: u32 = 1_000;
    if limits.processes == 0 { MOST } else { (limits.processes / 4 * 3).clamp(1, MOST) }
}

impl Tools {
    pub(super) async fn home(
        &self,
        (tenant, isolated): (u32, bool),
        hash: &str,
        token: Bytes,
    ) -> Result<Home, crate::error::Error> {
        let environments = self.environments.as_ref().expect("grants for Python are refused without it");
        let package = self.packages.get(hash, token, &environments.python).await?;
        let (lock, requires) = (&package.manifest.lock, &package.manifest.requires_python);
        let environment = if hash.starts_with("local:") {
            environments.get_local(lock, requires, isolated).await?
        } else {
            environments.get(tenant, lock, requires, isolated).await?
        };
        Ok(Home { package, environment })
    }

    pub(super) async fn start_python(
        &self,
        name: &str,
        home: &Home,
        key: &LaneKey,
    ) -> Result<(crate::process::Running, std::os::unix::net::UnixStream), Fault> {
        let failed =
            |e: std::io::Error| Fault::new("worker-start", format!("a worker process could not be started: {e}"), true);
        let work = self.make_work(name)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let theirs = OwnedFd::from(theirs);
        let mut env = child_env(&work, key.isolated);
        let path = std::env::join_paths(&home.package.paths).unwrap_or_default();
        let own: [(&str, OsString); 8] = [
            ("PYTHONPATH", self.library.clone().into()),
            ("TIDEWHEEL_FD", theirs.as_raw_fd().to_string().into()),
            ("TIDEWHEEL_PROTO", shim::PROTO.to_string().into()),
            ("TIDEWHEEL_SLOTS", "1".into()),
            ("TIDEWHEEL_PARKED", parked(&key.limits).to_string().into()),
            ("TIDEWHEEL_PATH", path),
            ("TIDEWHEEL_MODULES", home.package.manifest.modules.join(",").into()),
            ("TIDEWHEEL_ARTIFACTS", work.clone().into()),
        ];
        env.extend(own.map(|(k, v)| (k.into(), v)));
        // A compiled file is found stale by its second and size: two quick edits of a folder would look the same.
        if key.isolated || key.package.starts_with("local:") {
            env.push(("PYTHONDONTWRITEBYTECODE".into(), "1".into()));
        }
        let mut args: Vec<OsString> = vec!["-c".into(), LAUNCH.into()];
        if home.package.manifest.modules.is_empty() {
            args.extend(["--dir".into(), home.package.root.clone().into()]);
        }
        let mut program = home.environment.program.clone();
        if key.isolated {
            let mut readable = home.environment.readable.clone();
            readable.extend([self.library.clone(), home.package.root.clone()]);
            let view = View { readable: &readable, writable: &[&work], network: self.sandbox.network() };
            (program, args) = self.sandbox.wrap(&view, &program, args);
        }
        let spawn =
            Spawn { program, args, env, dir: work, limits: key.limits.clone(), keep: Some(theirs), stdin: false };
        let running = self.spawner.spawn(spawn).await.map_err(failed)?;
        Ok((running, ours))
    }
}
