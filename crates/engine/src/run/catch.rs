//! `try`: who is caught, when it is tried again, what is done instead; and the joins of forks.

use super::data::Data;
use super::eval::Json;
use super::fault::Fault;
use super::head::{Branch, List, Next, Outside, Step};
use super::journal::Fact;
use super::look::Look;
use super::machine::{End, Machine, Res};
use super::plan::{Backoff, Catch, Kind, Retry};
use crate::limit::BACKOFF_MS;
use crate::planted::Bug;

/// What a `try` does with an error.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Tries again after a pause in milliseconds.
    Retry(u64),
    /// Does what is said for errors.
    Catch,
    /// Goes on as if there had been none.
    Swallow,
}

impl Machine<'_> {
    /// What the `try` at a depth of a line does with an error; `None` = it is not one, or does not catch it.
    pub(super) fn catches(&mut self, id: u32, depth: usize, fault: &Fault) -> Res<Option<Verdict>> {
        let Some(frame) = self.head.line(id).and_then(|line| line.frames.get(depth)) else { return Ok(None) };
        let (Step::Try(state), List::Body) = (&frame.step, frame.list) else { return Ok(None) };
        let (attempt, first_ms, input) = (state.attempt, state.first_ms, frame.input.clone());
        let key = (frame.scope.clone(), frame.place.reference.clone());
        let Some(Kind::Try { catch, .. }) = self.node(frame).map(|node| &node.kind) else { return Ok(None) };
        let extra = [(catch.name.clone(), fault.data())];
        let look = Look { depth: Some(depth), extra: &extra, ..Look::body(id, &input) };
        if let Some(filter) = catch.filter {
            let filter = self.eval(filter, &look)?;
            if !fault.fits(&*self.json(&filter)?) {
                return Ok(None);
            }
        }
        if !self.wanted(catch.when, catch.except_when, &look)? {
            return Ok(None);
        }
        let more = u32::from(self.def.planted().has(Bug::TriedOnceMore));
        if let Some(retry) = &catch.retry
            && self.wanted(retry.when, retry.except_when, &look)?
            && retry.count.is_none_or(|count| attempt < count + more)
        {
            let jitter = (key.0.as_ref(), key.1.as_ref());
            let delay = self.pause(retry, attempt, jitter, &look)?;
            let in_time = match retry.limit {
                Some(limit) => self.now.saturating_sub(first_ms).saturating_add(delay) <= self.millis(limit, &look)?,
                None => true,
            };
            if in_time {
                return Ok(Some(Verdict::Retry(delay)));
            }
        }
        Ok(match catch {
            Catch { body: Some(_), .. } => Some(Verdict::Catch),
            Catch { retry: Some(_), then: None, .. } => None,
            _ => Some(Verdict::Swallow),
        })
    }

    fn wanted(
        &mut self,
        when: Option<super::plan::ExprId>,
        except: Option<super::plan::ExprId>,
        look: &Look<'_>,
    ) -> Res<bool> {
        if let Some(when) = when
            && !self.holds(when, look)?
        {
            return Ok(false);
        }
        match except {
            Some(except) => Ok(!self.holds(except, look)?),
            None => Ok(true),
        }
    }

    /// The pause before a retry.
    fn pause(&mut self, retry: &Retry, attempt: u32, key: (&str, &str), look: &Look<'_>) -> Res<u64> {
        let delay = self.millis(retry.delay, look)?;
        let grown = match retry.backoff {
            Backoff::Constant => delay,
            Backoff::Exponential => delay.saturating_mul(1u64.checked_shl(attempt).unwrap_or(u64::MAX)),
            Backoff::Linear => delay.saturating_mul(u64::from(attempt) + 1),
        };
        let capped = grown.min(BACKOFF_MS.max(delay));
        let Some((from, to)) = retry.jitter else { return Ok(capped) };
        let (from, to) = (self.millis(from, look)?, self.millis(to, look)?);
        let span = to.saturating_sub(from).saturating_add(1);
        Ok(capped.saturating_add(from).saturating_add(self.dice(key, attempt) % span))
    }

    /// A number that looks like chance and is the same whenever it is asked for.
    fn dice(&self, key: (&str, &str), attempt: u32) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.head.identity.run.0.to_be_bytes());
        hasher.update(key.0.as_bytes()).update(b"/").update(key.1.as_bytes());
        hasher.update(&attempt.to_be_bytes());
        let mut bytes = [0u8; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }

    /// The innermost frame of a line is a `try` that catches an error.
    pub(super) fn caught(&mut self, id: u32, verdict: Verdict, fault: &Fault) -> Res<()> {
        let Some(frame) = self.frame_mut(id) else { return Ok(()) };
        let seq = frame.seq;
        let input = frame.input.clone();
        frame.list = List::None;
        let Step::Try(state) = &mut frame.step else { return Ok(()) };
        state.error = Some(fault.data());
        state.limit_ms = 0;
        if matches!(verdict, Verdict::Retry(_)) {
            state.attempt += 1;
        }
        let attempt = state.attempt;
        self.close(seq, Some(Outside::AttemptLimit));
        match verdict {
            Verdict::Retry(delay) => {
                let error = self.fault_value(fault);
                let due_ms = self.now.saturating_add(delay);
                self.facts.push(Fact::Retried { entry: seq, attempt, due_ms, error });
                if delay == 0 {
                    return self.attempt(id);
                }
                self.open_timer(id, seq, Outside::Backoff, delay);
                self.set_next(id, Next::Wait);
                Ok(())
            }
            Verdict::Catch => self.walk(id, List::Catch, input, Some(('c', u64::from(attempt)))),
            Verdict::Swallow => {
                let then = match self.frame(id).and_then(|frame| self.node(frame)).map(|node| &node.kind) {
                    Some(Kind::Try { catch, .. }) => catch.then,
                    _ => None,
                };
                self.finish_body(id, input, then)
            }
        }
    }

    /// Begins the next attempt of the `try` at hand.
    pub(super) fn attempt(&mut self, id: u32) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let (seq, input) = (frame.seq, frame.input.clone());
        let Step::Try(state) = &frame.step else { return Ok(()) };
        let (attempt, first_ms) = (state.attempt, state.first_ms);
        let Some(Kind::Try { catch, .. }) = self.node(frame).map(|node| &node.kind) else { return Ok(()) };
        let look = Look::body(id, &input);
        let mut limit_ms = 0;
        if let Some(retry) = &catch.retry {
            let each = retry.attempt_limit.map(|limit| self.millis(limit, &look)).transpose()?;
            let all = retry.limit.map(|limit| self.millis(limit, &look)).transpose()?;
            let left = all.map(|all| all.saturating_sub(self.now - first_ms).max(1));
            limit_ms = each.into_iter().chain(left).min().unwrap_or(0);
        }
        if limit_ms > 0 {
            self.open_timer(id, seq, Outside::AttemptLimit, limit_ms);
        }
        if let Some(Step::Try(state)) = self.frame_mut(id).map(|frame| &mut frame.step) {
            state.error = None;
            state.limit_ms = limit_ms;
        }
        let ordinal = (attempt > 0).then_some(('a', u64::from(attempt)));
        self.walk(id, List::Body, input, ordinal)
    }

    /// A branch of a fork gave its output.
    pub(super) fn branch_done(&mut self, id: u32, parent: (u32, u32), output: Data) -> Res<()> {
        let (parent, at) = parent;
        if self.code(parent).is_some() {
            return Ok(self.code_ended(id, parent, super::act::Outcome::Ok(output), None)?);
        }
        let context = self.head.line(id).filter(|line| line.exported).map(|line| line.context.clone());
        self.remove_line(id);
        if self.competes(parent) {
            let others: Vec<u32> =
                self.branches(parent).iter().filter_map(Branch::line).filter(|line| *line != id).collect();
            for other in others {
                self.unwind(other, 0, None);
                self.remove_line(other);
            }
            self.take_context(parent, context.map(|context| (context, true)));
            let result = self.finish_body(parent, output, None);
            return Ok(self.guard(parent, result)?);
        }
        if let Some(Step::Fork(branches)) = self.frame_mut(parent).map(|frame| &mut frame.step)
            && let Some(branch) = branches.get_mut(at as usize)
        {
            *branch = Branch::Done(output, context);
        }
        if self.branches(parent).iter().all(|branch| matches!(branch, Branch::Done(..))) {
            let result = self.join(parent);
            return Ok(self.guard(parent, result)?);
        }
        Ok(())
    }

    fn branches(&self, id: u32) -> &[Branch] {
        match self.frame(id).map(|frame| &frame.step) {
            Some(Step::Fork(branches)) => branches,
            _ => &[],
        }
    }

    fn take_context(&mut self, id: u32, context: Option<(Data, bool)>) {
        if let (Some((context, exported)), Some(line)) = (context, self.line_mut(id)) {
            line.context = context;
            line.exported |= exported;
        }
    }

    /// All branches are done: their outputs in order of declaration, and what they exported.
    fn join(&mut self, id: u32) -> Res<()> {
        let branches = self.branches(id).to_vec();
        let mut outputs = Vec::with_capacity(branches.len());
        let base = self.head.line(id).map_or_else(Data::null, |line| line.context.clone());
        let mut merged: Option<Json> = None;
        for branch in branches {
            let Branch::Done(output, context) = branch else { continue };
            outputs.push((*self.json(&output)?).clone());
            if let Some(context) = context {
                let before = self.json(&base)?;
                let after = self.json(&context)?;
                merged = Some(merge(merged.unwrap_or_else(|| (*before).clone()), &before, &after));
            }
        }
        if let Some(merged) = merged {
            let context = self.keep(merged);
            self.take_context(id, Some((context, true)));
        }
        let output = self.keep(Json::Array(outputs));
        self.finish_body(id, output, None)
    }

    /// A branch of a competition failed; with the last one the fork does.
    pub(super) fn branch_failed(&mut self, id: u32, parent: (u32, u32), fault: Fault) -> Result<(), End> {
        let (parent, at) = parent;
        self.remove_line(id);
        if let Some(Step::Fork(branches)) = self.frame_mut(parent).map(|frame| &mut frame.step)
            && let Some(branch) = branches.get_mut(at as usize)
        {
            *branch = Branch::Failed(fault);
        }
        let failed = |branch: &Branch| match branch {
            Branch::Failed(fault) => Some(fault.clone()),
            _ => None,
        };
        let branches = self.branches(parent);
        let first = branches.iter().find_map(failed);
        if branches.iter().all(|branch| failed(branch).is_some())
            && let Some(first) = first
        {
            return self.fail(parent, first);
        }
        Ok(())
    }
}

/// Puts what a branch changed of the context it began with over what others did. What it left as it was does not undo the
/// change of another branch.
fn merge(into: Json, before: &Json, after: &Json) -> Json {
    let (Json::Object(mut into), Json::Object(after)) = (into, after) else { return after.clone() };
    for (key, value) in after {
        if before.get(key) != Some(value) || !into.contains_key(key) {
            into.insert(key.clone(), value.clone());
        }
    }
    Json::Object(into)
}
