//! Errors, interruptions and cancellation: who catches, what is unwound, and how a faulted run goes on.

use std::collections::BTreeSet;

use super::act::{Act, Outcome};
use super::data::Data;
use super::fault::{Fault, Standard};
use super::head::{Branch, Frame, List, Next, Outside, Phase, Seq, Step};
use super::journal::{Ending, Fact, Key};
use super::machine::{End, Machine, Stop};
use super::step::entry_kind;

/// How the frames on a way up are said to have ended; all others were cancelled.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) path: Vec<u32>,
    pub(super) how: Ending,
}

impl Machine<'_> {
    /// The lines from one up to the main line.
    pub(super) fn path_of(&self, id: u32) -> Vec<u32> {
        let mut path = vec![id];
        let mut at = id;
        while let Some((parent, _)) = self.head.line(at).and_then(|line| line.parent) {
            path.push(parent);
            at = parent;
        }
        path
    }

    /// The innermost statement of a line failed.
    pub(super) fn fail(&mut self, id: u32, fault: Fault) -> Result<(), End> {
        let depth = self.head.line(id).map_or(0, |line| line.frames.len());
        self.fail_below(id, depth.saturating_sub(1), fault)
    }

    /// Looks for a `try` among the frames below a depth, then in the lines above.
    fn fail_below(&mut self, id: u32, mut below: usize, mut fault: Fault) -> Result<(), End> {
        let mut line = id;
        let mut path = vec![id];
        loop {
            while below > 0 {
                below -= 1;
                match self.catches(line, below, &fault) {
                    Ok(None) => {}
                    Ok(Some(verdict)) => {
                        let how = Ending::Err(self.fault_value(&fault));
                        self.unwind(line, below + 1, Some(&Mark { path, how }));
                        let result = self.caught(line, verdict, &fault);
                        return self.guard(line, result);
                    }
                    Err(Stop::Fault(other)) => fault = other,
                    Err(Stop::End(end)) => return Err(end),
                }
            }
            let Some((parent, at)) = self.head.line(line).and_then(|line| line.parent) else {
                self.fault_run(Some(id), fault);
                return Ok(());
            };
            if self.code(parent).is_some() {
                let how = Ending::Err(self.fault_value(&fault));
                let asked = self.head.line(line).and_then(|line| line.frames.first());
                let asked = asked.map(|frame| (frame.place.reference.clone(), frame.raw.clone()));
                self.unwind(line, 0, Some(&Mark { path, how }));
                return self.code_ended(line, parent, Outcome::Err(fault), asked);
            }
            if self.competes(parent) {
                let how = Ending::Err(self.fault_value(&fault));
                self.unwind(line, 0, Some(&Mark { path, how }));
                return self.branch_failed(line, (parent, at), fault);
            }
            line = parent;
            path.push(parent);
            below = self.head.line(parent).map_or(0, |line| line.frames.len().saturating_sub(1));
        }
    }

    /// Ends the frames of a line above a depth, innermost first, and all lines that branch off from them.
    pub(super) fn unwind(&mut self, id: u32, keep: usize, mark: Option<&Mark>) {
        while let Some(line) = self.head.line(id)
            && line.frames.len() > keep
        {
            let open: Vec<u32> = match line.frames.last().map(|frame| &frame.step) {
                Some(Step::Fork(branches)) => branches.iter().filter_map(Branch::line).collect(),
                Some(Step::Code(code)) => code.lines(),
                _ => Vec::new(),
            };
            for branch in &open {
                self.unwind(*branch, 0, mark);
            }
            // All at once: there may be very many.
            let open: BTreeSet<u32> = open.into_iter().collect();
            if !open.is_empty() {
                self.head.lines.retain(|line| !open.contains(&line.id));
            }
            let Some(line) = self.line_mut(id) else { return };
            // What failed or was interrupted has ended already; its frame stood for a retry.
            let ended = matches!(line.next, Next::Failed(_) | Next::Interrupted);
            line.next = Next::Wait;
            let Some(frame) = line.frames.pop() else { return };
            if !self.head.open.is_empty() {
                self.close(frame.seq, None);
            }
            if let Step::Saga(state) = frame.step {
                self.undo_later(state.armed);
            }
            if ended {
                continue;
            }
            let how = mark.filter(|mark| mark.path.contains(&id)).map_or(Ending::Cancelled, |mark| mark.how);
            self.done(frame.seq, how);
        }
    }

    pub(super) fn remove_line(&mut self, id: u32) {
        if let Ok(at) = self.head.lines.binary_search_by_key(&id, |line| line.id) {
            self.head.lines.remove(at);
        }
    }

    pub(super) fn unwind_all(&mut self) {
        // First what stands outside, in one pass: then no statement has to look for its own.
        self.close_all();
        self.unwind(0, 0, None);
    }

    /// Nobody catches: the run faults. Its lines stay as they are, so that a retry goes on from here.
    pub(super) fn fault_run(&mut self, failed: Option<u32>, fault: Fault) {
        for (id, seq) in self.give_up_sagas() {
            if failed != Some(id) {
                self.done(seq, Ending::Cancelled);
            }
        }
        let ids: Vec<u32> = self.head.lines.iter().map(|line| line.id).collect();
        for id in ids {
            let Some(line) = self.line_mut(id) else { continue };
            let Some(top) = line.frames.last() else { continue };
            let (seq, forks) = (top.seq, top.step.has_lines());
            if failed == Some(id) {
                line.next = Next::Failed(fault.clone());
                let how = Ending::Err(self.fault_value(&fault));
                self.done(seq, how);
            } else if line.next == Next::Wait && !forks {
                line.next = Next::Interrupted;
                self.done(seq, Ending::Cancelled);
            }
        }
        self.end_run(Phase::Faulted, Outcome::Err(fault));
    }

    /// A timer is due.
    pub(super) fn fired(&mut self, entry: Seq) -> Result<(), End> {
        let Some(open) = self.settle(entry) else { return Ok(()) };
        if open.what == Outside::UndoPause {
            self.undo_again();
            return Ok(());
        }
        let id = open.line;
        let depth = self.head.line(id).and_then(|line| line.frames.iter().position(|frame| frame.seq == open.owner));
        let Some(depth) = depth else { return Ok(()) };
        match open.what {
            Outside::Wait => {
                let input = self.frame(id).map_or_else(Data::null, |frame| frame.input.clone());
                let result = self.finish_body(id, input, None);
                self.guard(id, result)
            }
            Outside::Backoff => {
                let result = self.attempt(id);
                self.guard(id, result)
            }
            Outside::Timeout if id == 0 && depth == 0 => {
                let fault =
                    Fault::new(Standard::Timeout, self.plan.profile, "the run took longer than its time limit", "/");
                self.fault_run(None, fault);
                Ok(())
            }
            Outside::Timeout | Outside::AttemptLimit => {
                self.unwind(id, depth + 1, None);
                self.close(open.owner, None);
                let attempt = open.what == Outside::AttemptLimit;
                let text = if attempt {
                    "an attempt took longer than its limit"
                } else {
                    "it took longer than its time limit"
                };
                match self.fault(id, Standard::Timeout, text) {
                    Stop::Fault(fault) => self.fail_below(id, depth + usize::from(attempt), fault),
                    Stop::End(end) => Err(end),
                }
            }
            Outside::Task | Outside::Child(_) | Outside::Items | Outside::Events => Ok(()),
            Outside::Undo | Outside::UndoPause => Ok(()),
        }
    }

    /// A faulted run goes on: statements that failed or were interrupted are done again.
    pub(super) fn retry_run(&mut self) -> Result<(), End> {
        self.head.phase = Phase::Running;
        self.head.reason = None;
        self.head.outcome = None;
        self.head.ended_ms = 0;
        self.head.work = 0;
        self.facts.push(Fact::Phase { phase: Phase::Running, reason: None, value: None });
        if self.head.undo.is_some() {
            self.head.undo_mut().resume();
            if self.head.lines.is_empty() {
                // Everything else of it had ended when an undo failed: it was cancelled.
                self.head.closing = Some((Phase::Cancelled, Outcome::Cancelled));
            }
            self.compensate();
            if self.head.phase.ended() || self.head.closing.is_some() {
                return Ok(());
            }
        }
        self.subscribe_from_the_start();
        self.rearm();
        self.redo(|next| matches!(next, Next::Failed(_) | Next::Interrupted))
    }

    /// Does the innermost statements of some lines again.
    pub(super) fn redo(&mut self, which: fn(&Next) -> bool) -> Result<(), End> {
        let ids: Vec<u32> = self.head.lines.iter().filter(|line| which(&line.next)).map(|line| line.id).collect();
        for id in ids {
            self.again(id)?;
        }
        Ok(())
    }

    /// Sets the limits of all statements but the innermost again, in full.
    pub(super) fn rearm(&mut self) {
        let mut limits = Vec::new();
        for line in &self.head.lines {
            let redone = matches!(line.next, Next::Failed(_) | Next::Interrupted);
            let top = line.frames.last().map(|frame| &frame.step);
            let goes_on = line.frames.last().is_some_and(Frame::goes_on_as_saga);
            let begins = redone && !goes_on && !matches!(top, Some(Step::Map(_) | Step::Listen(_) | Step::Code(_)));
            let frames = line.frames.len().saturating_sub(usize::from(begins));
            for frame in line.frames.iter().take(frames) {
                if frame.limit_ms > 0 {
                    limits.push((line.id, frame.seq, Outside::Timeout, frame.limit_ms));
                }
                if let Step::Try(state) = &frame.step
                    && state.limit_ms > 0
                    && frame.list == List::Body
                {
                    limits.push((line.id, frame.seq, Outside::AttemptLimit, state.limit_ms));
                }
            }
        }
        for (line, owner, what, ms) in limits {
            self.open_timer(line, owner, what, ms);
        }
    }

    /// Does the innermost statement of a line again: only its way out if its body had ended, only what is left if it is a
    /// map or a listen, all of it otherwise.
    fn again(&mut self, id: u32) -> Result<(), End> {
        let Some(mut frame) = self.line_mut(id).and_then(|line| line.frames.pop()) else { return Ok(()) };
        let mut n = match self.frame_mut(id) {
            Some(parent) => {
                parent.round += 1;
                parent.round
            }
            None => frame.n + 1,
        };
        let parent = self.head.line(id).and_then(|line| line.parent);
        if parent.is_some_and(|(parent, _)| self.code(parent).is_some()) {
            // The number is the program's: what is done again has a scope of its own.
            frame.scope = format!("{}~{}", frame.scope, self.head.turns + 1).into();
            n = frame.n;
        }
        let keeps = frame.result.is_some()
            || matches!(frame.step, Step::Map(_) | Step::Listen(_) | Step::Code(_))
            || frame.goes_on_as_saga();
        if !keeps {
            let next = Next::Begin { place: frame.place, raw: frame.raw, n, scope: frame.scope };
            self.set_next(id, next);
            return Ok(());
        }
        let kind = entry_kind(self.node(&frame));
        let (scope, name) = (frame.scope.clone(), frame.place.name());
        let old = frame.seq;
        frame.seq = match self.opened(id, Key { scope, kind, name, n }) {
            Ok(seq) => seq,
            Err(end) => {
                // A reset goes on from here, and does this again.
                if let Some(line) = self.line_mut(id) {
                    line.frames.push(frame);
                    line.next = Next::Interrupted;
                }
                return Err(end);
            }
        };
        frame.n = n;
        for (_, open) in self.head.open.iter_mut().filter(|(_, open)| open.owner == old) {
            open.owner = frame.seq;
        }
        let (seq, result, flow) = (frame.seq, frame.result.clone(), frame.flow);
        let (maps, codes) = (matches!(frame.step, Step::Map(_)), matches!(frame.step, Step::Code(_)));
        let sagas = matches!(frame.step, Step::Saga(_));
        if let Some(line) = self.line_mut(id) {
            line.frames.push(frame);
            line.next = Next::Wait;
        }
        let result = match result {
            Some(result) => self.finish_body(id, result, flow),
            None if maps => self.map_again(id, seq),
            None if codes => self.code_again(id),
            None if sagas => {
                self.saga_again(id);
                Ok(())
            }
            None => self.listen_again(id, seq),
        };
        self.guard(id, result)
    }

    /// What an event that ended everything has left open of another head: cancelled, entry by entry.
    pub(super) fn cancel_of(&mut self, other: &super::head::Head) {
        for (entry, close) in &other.children {
            let kept = self.head.children.iter().any(|child| child.0 == *entry);
            if !kept && *close != super::plan::ParentClose::Abandon {
                self.act(Act::CancelChild { entry: *entry });
            }
        }
        for (entry, open) in &other.open {
            match open.what {
                // What undoes goes on.
                Outside::Undo | Outside::UndoPause => {}
                Outside::Task => self.act(Act::CancelTask { entry: *entry }),
                Outside::Child(_) => self.act(Act::CancelChild { entry: *entry }),
                Outside::Items => self.act(Act::CancelItems { entry: *entry }),
                Outside::Events => self.act(Act::Unsubscribe { entry: *entry }),
                _ => self.act(Act::CancelTimer { entry: *entry }),
            }
        }
    }
}

impl Branch {
    /// Its line, while it is at work.
    pub(super) fn line(&self) -> Option<u32> {
        match self {
            Branch::Open(line) => Some(*line),
            _ => None,
        }
    }
}
