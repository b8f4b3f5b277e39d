//! How attempts end: asked to stop, given back, taken away, settled with an outcome, reported once what they made is
//! stored. Part of the runner's one task.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewheel_proto::v1::task_result::Outcome;
use tidewheel_proto::v1::{Artifact, TaskResult};

use super::{Event, Runner};
use crate::attempt::{AttemptId, Ending, Logged, Phase};
use crate::error::Fault;
use crate::warm::Unit;

impl Runner {
    /// The attempt is to end: at once if it has not begun, else asked first and killed after `grace`.
    pub(super) fn end(&mut self, id: AttemptId, fault: Fault, grace: Duration, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if let Some(ending) = &mut attempt.ending {
            // A second request can only shorten the time.
            ending.kill_at = ending.kill_at.min(now + grace);
            return;
        }
        match attempt.phase {
            Phase::Fetching | Phase::Sleeping(_) => self.settle(id, Err(fault)),
            Phase::Waiting => {
                self.forget_waiting(id);
                self.settle(id, Err(fault));
            }
            // The process cannot be told to leave it out before it is done with the one it works on.
            Phase::Sent(proc) | Phase::Running(proc) => {
                self.ask_to_stop(proc, id, &fault.message, grace);
                self.set_ending(id, fault, now + grace);
            }
            Phase::Shell => {
                if let Some(tree) = self.shells.get(&id).and_then(|s| s.tree.as_ref()) {
                    tree.terminate();
                }
                self.set_ending(id, fault, now + grace);
            }
            Phase::Storing => {}
        }
    }

    pub(super) fn set_ending(&mut self, id: AttemptId, fault: Fault, kill_at: Instant) {
        if let Some(attempt) = self.attempts.get_mut(id) {
            attempt.ending = Some(Ending { fault, kill_at, killed: false });
        }
    }

    /// It belongs to somebody else now: stopped at once, nothing is reported.
    pub(super) fn silence(&mut self, id: AttemptId, now: Instant) {
        if let Some(attempt) = self.attempts.get_mut(id) {
            attempt.silent = true;
            if let Some(ending) = &mut attempt.ending {
                ending.kill_at = now;
            }
            self.end(id, Fault::cancelled("no longer this worker's"), Duration::ZERO, now);
        }
    }

    pub(super) fn lose_all(&mut self, why: &str) {
        if self.attempts.is_empty() {
            return;
        }
        tracing::warn!(attempts = self.attempts.len(), "every attempt is stopped: {why}");
        let now = Instant::now();
        for id in self.attempts.ids() {
            self.silence(id, now);
        }
        self.tick(now);
    }

    /// What was not begun and fits `wanted` goes back to the server.
    pub(super) fn give_back(&mut self, wanted: impl Fn(AttemptId) -> bool) {
        let ids: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(id, a)| matches!(a.phase, Phase::Waiting | Phase::Fetching) && wanted(*id))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.forget_waiting(id);
            if let Some(attempt) = self.attempts.remove(id) {
                self.outgoing.returned.push(attempt.grant.token);
            }
        }
    }

    pub(super) fn forget_waiting(&mut self, id: AttemptId) {
        self.shell_queue.retain(|waiting| *waiting != id);
        for lane in self.pool.lanes.values_mut() {
            for unit in &mut lane.ready {
                unit.members.retain(|member| *member != id);
            }
            lane.ready.retain(|unit| !unit.members.is_empty());
        }
    }

    pub(super) fn fail_all(&mut self, members: &[AttemptId], fault: &Fault) {
        members.iter().for_each(|id| self.settle(*id, Err(fault.clone())));
    }

    /// The attempt has its outcome. It leaves once what it made is stored.
    pub(super) fn settle(&mut self, id: AttemptId, outcome: Result<Bytes, Fault>) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        self.appetite.finished(1);
        if attempt.silent {
            self.attempts.remove(id);
            return;
        }
        let outcome = match (outcome, attempt.ending.take()) {
            (Err(fault), Some(ending)) => {
                let detail = if ending.fault.detail.is_empty() { fault.detail } else { ending.fault.detail.clone() };
                Err(Fault { detail, ..ending.fault })
            }
            (outcome, _) => outcome,
        };
        attempt.outcome = Some(outcome);
        self.release(id);
    }

    pub(super) fn release(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        let Some(outcome) = &attempt.outcome else { return };
        if attempt.uploads > 0 {
            attempt.phase = Phase::Storing;
            return;
        }
        match outcome {
            Ok(_) if let Some(fault) = &attempt.artifact_fault => {
                let failure = fault.clone().into_wire();
                self.report(id, Outcome::Failed(failure));
            }
            Ok(value) if value.len() > self.inline_bytes => {
                let value = value.clone();
                attempt.phase = Phase::Storing;
                let (tools, events, token) = (self.tools.clone(), self.events.clone(), attempt.grant.token.clone());
                tokio::spawn(async move {
                    let stored = tools.blobs.put(value, token).await.map(|s| s.hash).map_err(Fault::from);
                    let _ = events.send(Event::Stored(id, stored)).await;
                });
            }
            Ok(value) => {
                let value = Outcome::Ok(value.clone());
                self.report(id, value);
            }
            Err(fault) => {
                let failure = fault.clone().into_wire();
                self.report(id, Outcome::Failed(failure));
            }
        }
    }

    pub(super) fn report(&mut self, id: AttemptId, outcome: Outcome) {
        let Some(attempt) = self.attempts.remove(id).filter(|a| !a.silent) else { return };
        self.outgoing.results.push(TaskResult {
            token: attempt.grant.token,
            outcome: Some(outcome),
            artifacts: attempt.artifacts,
        });
    }

    pub(super) fn fetch_input(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.phase = Phase::Fetching;
        let (hash, token) = (attempt.grant.input_ref.clone(), attempt.grant.token.clone());
        let tenant = attempt.grant.tenant;
        let (tools, events) = (self.tools.clone(), self.events.clone());
        tokio::spawn(async move {
            let got = tools.inputs.bytes(tenant, &hash, token).await;
            if let Ok(got) = &got
                && let Some((hash, bytes)) = got.kept.clone()
            {
                let _ = events.send(Event::InputKept(hash, bytes)).await;
            }
            let input = got.map(|got| got.content).map_err(|e| Fault { kind: "input".into(), ..Fault::from(e) });
            let _ = events.send(Event::Input(id, input)).await;
        });
    }

    pub(super) fn input_came(&mut self, id: AttemptId, input: Result<Bytes, Fault>, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(id).filter(|a| a.phase == Phase::Fetching) else { return };
        match input {
            Ok(bytes) => {
                attempt.grant.input = bytes;
                attempt.phase = Phase::Waiting;
                self.route(Unit { lease: id, members: vec![id], batch: false }, now);
            }
            Err(fault) => self.settle(id, Err(fault)),
        }
    }

    pub(super) fn stored(&mut self, id: AttemptId, stored: Result<String, Fault>) {
        match stored {
            Ok(hash) => self.report(id, Outcome::OkRef(hash)),
            Err(fault) => {
                let message = format!("the result could not be stored: {}", fault.message);
                let failure = Fault { kind: "result".into(), message, ..fault };
                self.report(id, Outcome::Failed(failure.into_wire()));
            }
        }
    }

    pub(super) fn artifact_came(&mut self, id: AttemptId, artifact: Result<Artifact, Fault>) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.uploads = attempt.uploads.saturating_sub(1);
        match artifact {
            Ok(artifact) => attempt.artifacts.push(artifact),
            Err(fault) => attempt.artifact_fault = Some(fault),
        }
        self.release(id);
    }

    /// Adds a line; true when the attempt's bound was passed by it.
    pub(super) fn log(&mut self, id: AttemptId, stream: &str, level: &str, text: String, at_ms: i64) -> bool {
        let max = self.tools.config.limits.output_bytes;
        let Some(attempt) = self.attempts.get_mut(id) else { return false };
        match attempt.log(stream, level, text, at_ms, max) {
            Logged::Line(line) => self.outgoing.logs.push(line),
            Logged::Last(line) => {
                self.outgoing.logs.push(line);
                return true;
            }
            Logged::Dropped => return true,
        }
        false
    }
}
