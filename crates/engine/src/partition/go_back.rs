//! Going back in the journal of a run: as the same run (a reset), or as another one that begins with a copy (a fork).
//!
//! For that the whole journal is read and played, which takes as long as it is: both happen beside the loop. The run stays as it is
//! meanwhile; what comes for it waits in its line, as with a turn that is computed elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::runs::{RunEntry, Stage};
use super::{LaterRead, Partition, Purpose};
use crate::effect::{Computation, Effect, Refusal, WayBack, Work};
use crate::id::{Name, RequestId, RunId, TenantId};
use crate::load::{Load, StoredRun};
use crate::mutation::Mutation;
use crate::run::data::BlobHash;
use crate::run::eval::{Definition, Json};
use crate::run::fold::{Change, FoldError};
use crate::run::head::Head;
use crate::run::journal::Segment;
use crate::run::turn::Turn;
use crate::time::Now;

/// A run that goes back, with what was read for it.
#[derive(Debug)]
pub(crate) struct GoingBack {
    request: RequestId,
    key: Name,
    change: Change,
    /// A commit that the read of its journal is sure to see.
    committed: u64,
    segments: Arc<Vec<Segment>>,
    /// Versions of its workflow that it followed before.
    earlier: Vec<Arc<dyn Definition>>,
    blobs: Arc<BTreeMap<BlobHash, Arc<Json>>>,
}

impl Partition {
    /// Begins the way back of a run that is in memory and at nothing else.
    pub(super) fn go_back(&mut self, request: RequestId, (tenant, run): (TenantId, RunId), key: Name, change: Change) {
        let (ticket, committed) = (self.next_ticket(), self.committed);
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        entry.restage(|head| Stage::Computing(head, ticket));
        let (segments, earlier, blobs) = (Arc::default(), Vec::new(), Arc::default());
        entry.back = Some(Box::new(GoingBack { request, key, change, committed, segments, earlier, blobs }));
        self.ask(Load::History(tenant, run), Purpose::History(run, ticket));
    }

    /// A run whose way back has this ticket.
    fn goes_back(&mut self, run: RunId, ticket: u64) -> Option<&mut RunEntry> {
        let entry = self.runs.held.get_mut(&run)?;
        let is_it = matches!(&entry.stage, Stage::Computing(_, known) if *known == ticket) && entry.back.is_some();
        is_it.then_some(entry)
    }

    /// The whole history of a run has been read.
    pub(super) fn history_loaded(&mut self, run: RunId, ticket: u64, stored: Option<Box<StoredRun>>, now: Now) {
        let Some(entry) = self.goes_back(run, ticket) else { return };
        let (tenant, changed) = (entry.tenant, entry.batch);
        let (Some(head), Some(back)) = (entry.head().map(|head| head.turns), &mut entry.back) else { return };
        let segments = stored.map(|stored| stored.segments).unwrap_or_default();
        if segments.last().map(|segment| segment.turn) == Some(head) {
            back.segments = Arc::new(segments);
            return self.play_back(run, now);
        }
        if changed <= back.committed {
            return self.not_back(run, "the journal of the run is not complete".into(), now);
        }
        // Its newest turn was not stored yet. It does not change meanwhile: what is stored then is all of it.
        back.committed = changed;
        self.read_after(changed, LaterRead::History(tenant, run, ticket));
    }

    /// Values that its journal names were read, too.
    pub(super) fn history_values(
        &mut self,
        (run, ticket): (RunId, u64),
        hashes: Vec<BlobHash>,
        values: Vec<Option<(Arc<Json>, usize)>>,
        now: Now,
    ) {
        let Some(back) = self.goes_back(run, ticket).and_then(|entry| entry.back.as_mut()) else { return };
        let blobs = Arc::make_mut(&mut back.blobs);
        for (hash, value) in hashes.into_iter().zip(values) {
            let Some((value, _)) = value else {
                let why = format!("the value {hash}, which the journal of the run names, is gone");
                return self.not_back(run, why, now);
            };
            blobs.insert(hash, value);
        }
        self.play_back(run, now);
    }

    /// Hands out what is to be done beside the loop.
    fn play_back(&mut self, run: RunId, now: Now) {
        let ticket = self.next_ticket();
        let Some(entry) = self.runs.held.get(&run) else { return };
        let (tenant, Some(head)) = (entry.tenant, entry.head().cloned()) else { return };
        let Some(definition) = self.definition(tenant, &head.identity.plan) else {
            return self.not_back(run, "the document of the workflow cannot be read".into(), now);
        };
        let bounds = self.options.programs;
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        entry.restage(|head| Stage::Computing(head, ticket));
        let Some(back) = &entry.back else { return };
        let (key, change, segments) = (back.key.clone(), back.change.clone(), back.segments.clone());
        let way = WayBack { key, change, segments, earlier: back.earlier.clone() };
        let (work, blobs, now_ms) = (Work::Back(Box::new(way)), back.blobs.clone(), now.wall);
        let work = Computation { tenant, run, ticket, head, work, definition, blobs, now_ms, bounds };
        self.effects.push(Effect::Compute(Box::new(work)));
    }

    /// What came of it.
    pub(super) fn way_back(
        &mut self,
        run: RunId,
        mut back: Box<GoingBack>,
        outcome: Result<Option<Turn>, FoldError>,
        now: Now,
    ) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let (tenant, Stage::Computing(head, ticket)) = (entry.tenant, &entry.stage) else { return };
        match outcome {
            Ok(Some(turn)) => {
                let head = head.clone();
                self.back_again((tenant, head), *back, turn, now);
            }
            Err(FoldError::Blobs(hashes)) => {
                let (ticket, wanted) = (*ticket, hashes.iter().map(|hash| hash.0).collect());
                entry.back = Some(back);
                self.ask(Load::Values(tenant, wanted), Purpose::HistoryValues(run, ticket, hashes));
            }
            Err(FoldError::Plan(plan)) => match self.definition(tenant, &plan) {
                Some(earlier) => {
                    back.earlier.push(earlier);
                    self.keep_back(run, back);
                    self.play_back(run, now);
                }
                None => {
                    self.keep_back(run, back);
                    let why = "the document of a version that the run followed is not here any more";
                    self.not_back(run, why.into(), now);
                }
            },
            other => {
                let why = why_not(&other.err().unwrap_or(FoldError::NoKey), &back.key);
                self.keep_back(run, back);
                self.not_back(run, why, now);
            }
        }
    }

    fn keep_back(&mut self, run: RunId, back: Box<GoingBack>) {
        if let Some(entry) = self.runs.held.get_mut(&run) {
            entry.back = Some(back);
        }
    }

    /// The run stays as it is, and goes on with what came meanwhile.
    fn not_back(&mut self, run: RunId, why: String, now: Now) {
        let Some(entry) = self.runs.held.get_mut(&run) else { return };
        let Some(back) = entry.back.take() else { return };
        entry.restage(Stage::Ready);
        self.forget_turns(back.segments);
        self.refuse(back.request, Refusal::Conflict(why.into()));
        self.after_wait(run, now);
    }

    fn back_again(&mut self, (tenant, head): (TenantId, Head), back: GoingBack, turn: Turn, now: Now) {
        let own = head.identity.run;
        if let Some(entry) = self.runs.held.get_mut(&own) {
            entry.restage(Stage::Ready);
        }
        let run = match back.change.identity {
            None => {
                self.forget_turns(back.segments);
                own
            }
            Some(identity) => {
                // Its journal begins with a copy of the other's.
                let run = identity.run;
                for segment in Arc::unwrap_or_clone(back.segments) {
                    self.mutations.push(Mutation::AppendTurn { tenant, run, segment: Arc::new(segment) });
                }
                let stage = Stage::Ready(Head::new(identity));
                self.runs.held.insert(run, RunEntry::new(tenant, stage, self.index));
                run
            }
        };
        self.take_turn(run, turn, now);
        self.reply_run(back.request, run);
        self.after_wait(own, now);
    }

    /// Turns that were played are let go a few at a time.
    fn forget_turns(&mut self, segments: Arc<Vec<Segment>>) {
        if let Ok(played) = Arc::try_unwrap(segments) {
            self.runs.played.push(played);
        }
    }
}

fn why_not(error: &FoldError, key: &str) -> String {
    match error {
        FoldError::NoKey if key.contains("/undo:") => {
            format!("'{key}' is an undo, which is no moment to go back to: name the step that it undoes")
        }
        FoldError::NoKey => format!("the journal of the run has no key '{key}'"),
        FoldError::Compacted(Some(oldest)) => {
            format!("'{key}' was compacted; the oldest key that still works is '{oldest}'")
        }
        FoldError::Compacted(None) => format!("'{key}' was compacted"),
        FoldError::Diverged { turn, what } => format!("turn {turn} of the journal does not fit the workflow: {what}"),
        FoldError::Revision(revision) => format!("the journal was written by a newer program (revision {revision})"),
        FoldError::NoStart | FoldError::Gap { .. } => "the journal of the run is not complete".to_owned(),
        FoldError::Blobs(_) => "large values of the run would have to be read first".to_owned(),
        FoldError::Input => {
            "only the run itself can be given another input: what a program asks for depends on what it did before"
                .to_owned()
        }
        FoldError::NoInput(instead) => format!("no other input: {instead}"),
        FoldError::Unfit(why) => {
            format!("the run moved to another version since, which does not fit that moment: {why}; move it back first")
        }
        FoldError::Cancelled(before) => {
            let instead = before.as_ref().map_or_else(String::new, |key| format!(", such as '{key}'"));
            format!(
                "'{key}' was asked for after the run was cancelled, and what comes there belongs to the cancel; name a key from \
                 before it{instead}"
            )
        }
        FoldError::Plan(_) => "the document of a version that the run followed is not here any more".to_owned(),
        FoldError::OutOfFuel => "going on from there needs more than one turn may".to_owned(),
    }
}
