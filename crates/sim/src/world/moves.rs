//! Clients that move runs between versions: by hand, in spite of what they were told, as the versions' policy says after a deploy,
//! and after a rehearsal of a program's history. Those whose replay differs go back, on, or are accepted as they are.

use serde_json::Value as Json;
use tidewheel_engine::Command;
use tidewheel_engine::command::{GivenUp, MoveRun, RunAction};
use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::run::code;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::history;
use tidewheel_engine::run::moves::CodePlace;
use tidewheel_engine::run::plan::VersionPolicy;
use tidewheel_engine::view::View;
use tidewheel_store::memory;

use super::{CallKind, World};
use crate::checker::run_version::Ask;
use crate::disk::Fate;
use crate::event::{Event, RunAct};
use crate::flow::NEXT_VERSION;
use crate::plan::{MS, SECOND};
use crate::program;
use crate::rng::Rng;

/// How often a history is rehearsed that goes on meanwhile.
const ROUNDS: u32 = 4;
/// Runs that are looked at for one whose workflow has other versions.
const LOOKS: usize = 4;

/// Clients that move runs.
#[derive(Debug)]
pub(crate) struct Movers {
    rng: Rng,
    next: u64,
}

impl Movers {
    pub(crate) fn new(seed: u64) -> Movers {
        Movers { rng: Rng::new(seed ^ 0x6d6f_7665), next: 0 }
    }

    fn name(&mut self) -> Name {
        self.next += 1;
        format!("m{}", self.next).into()
    }
}

/// A move that is on its way.
#[derive(Clone, Debug)]
pub struct Move {
    pub(crate) partition: usize,
    pub(crate) tenant: TenantId,
    pub(crate) run: RunId,
    /// To which version.
    pub(crate) plan: [u8; 32],
    /// How often its history may still be rehearsed first; 0 = it goes without.
    pub(crate) rounds: u32,
    /// Where it was rehearsed.
    pub(crate) at: Option<CodePlace>,
}

impl World {
    pub(crate) fn plan_moves(&mut self) {
        if self.plan.runs.move_every > 0 {
            RunAct::MOVES.into_iter().for_each(|act| self.move_act_after(act));
        }
    }

    fn move_act_after(&mut self, act: RunAct) {
        let wait = self.movers.rng.exponential(self.plan.runs.move_every);
        self.after(wait.max(MS), Event::ActOnRuns(act));
    }

    /// Somebody moves a run, or does something about one whose replay differed.
    pub(crate) fn act_move(&mut self, act: RunAct) {
        self.move_act_after(act);
        let partition = self.movers.rng.below(self.disks.len() as u64) as usize;
        let draw = self.movers.rng.next();
        if act == RunAct::Accept {
            let differing = self.checkers.runs.mismatched(partition);
            let picked = differing.get((draw % differing.len().max(1) as u64) as usize).copied();
            if let Some((tenant, run)) = picked {
                self.help_mismatch(partition, tenant, run);
            } else if let Some((tenant, run)) = self.checkers.runs.some_open(partition, draw) {
                self.accept(partition, tenant, run);
            }
            return;
        }
        let known = self.movers.rng.chance(0.15).then(|| self.starters.some_known(draw)).flatten();
        let Some((partition, tenant, run)) = known.or_else(|| self.some_movable(partition)) else { return };
        self.spoil_move(partition, tenant, run);
        let times = if self.movers.rng.chance(0.15) { 2 } else { 1 };
        for _ in 0..times {
            if let Some(to) = self.some_move(partition, tenant, run) {
                self.send_move(to);
            }
        }
    }

    /// Some run that has not ended, and mostly one whose workflow has other versions.
    fn some_movable(&mut self, partition: usize) -> Option<(usize, TenantId, RunId)> {
        let mut picked = None;
        for _ in 0..LOOKS {
            let draw = self.movers.rng.next();
            let (tenant, run) = self.checkers.runs.some_open(partition, draw)?;
            picked = Some((partition, tenant, run));
            let name = self.checkers.runs.followed(partition, run)?.0;
            if self.plan.runs.flows.find(&name, NEXT_VERSION).is_some() {
                break;
            }
        }
        picked
    }

    /// What makes a move harder: the commit that lands and fails, another act in the same moment.
    fn spoil_move(&mut self, partition: usize, tenant: TenantId, run: RunId) {
        let draw = self.movers.rng.next();
        match draw % 16 {
            0 if self.plan.faults.commit_lands_and_fails > 0 => {
                self.count("commit of a move lands and fails");
                self.disks[partition].fate = Some(Fate::LandsAndFails);
            }
            1 | 2 => self.act_on_run(partition, tenant, run, RunAction::Suspend("look first".into())),
            3 if draw.is_multiple_of(3) => {
                self.act_on_run(partition, tenant, run, RunAction::Cancel("asked for".into()))
            }
            4..11 => {
                if let Some(key) = self.checkers.runs.some_key(partition, run, draw / 16) {
                    self.act_on_run(partition, tenant, run, RunAction::Reset(key, None, GivenUp::Undone));
                }
            }
            _ => {}
        }
    }

    /// Some other version of a run's workflow, and how it goes there; `None` = there is none, or its own pins it.
    fn some_move(&mut self, partition: usize, tenant: TenantId, run: RunId) -> Option<Move> {
        let (name, now) = self.checkers.runs.followed(partition, run)?;
        let flows = self.plan.runs.flows.clone();
        let all: Vec<_> = flows.iter().filter(|flow| *flow.name == *name).collect();
        let own = all.iter().find(|flow| flow.definition.plan().hash == now)?;
        let others: Vec<_> = all.iter().filter(|flow| flow.version != own.version).collect();
        if others.is_empty() {
            return None;
        }
        let rng = &mut self.movers.rng;
        let plan = if rng.chance(0.05) { now } else { rng.pick(&others).definition.plan().hash };
        let policy = match rng.below(4) {
            0 => VersionPolicy::Latest,
            1 | 2 => VersionPolicy::Compatible,
            _ => own.definition.plan().version_policy,
        };
        let rounds = rounds(policy, own.program)?;
        Some(Move { partition, tenant, run, plan, rounds, at: None })
    }

    /// A version was deployed: runs of those before it go to it, if the version that they follow says so.
    pub(super) fn follow(&mut self, version: &str) {
        let flows = self.plan.runs.flows.clone();
        for flow in flows.iter().filter(|flow| flow.version == version) {
            for partition in 0..self.disks.len() {
                for (tenant, run, now) in self.checkers.runs.open_of(partition, &flow.name) {
                    let own = flows.iter().find(|flow| flow.definition.plan().hash == now);
                    let Some(own) = own.filter(|own| own.version != version) else { continue };
                    let Some(rounds) = rounds(own.definition.plan().version_policy, own.program) else { continue };
                    let plan = flow.definition.plan().hash;
                    let wait = self.movers.rng.below(5 * SECOND);
                    let to = Move { partition, tenant, run, plan, rounds, at: None };
                    self.after(wait, Event::MoveRun(Box::new(to)));
                }
            }
        }
    }

    pub(crate) fn send_move(&mut self, to: Move) {
        let Move { partition, tenant, run, plan, rounds, at } = to;
        if rounds > 0 && at.is_none() {
            // First its history is rehearsed.
            let view = View::Run { tenant, run };
            return self.call(partition, CallKind::Rehearse(Box::new(to)), |request| Command::Read { request, view });
        }
        let by = self.movers.name();
        let turns = self.checkers.runs.turns_of(partition, run);
        self.checkers.runs.asks.moves(by.clone(), Ask { run, plan, at, turns });
        self.act_on_run(partition, tenant, run, RunAction::Move(MoveRun { plan, by, at }));
    }

    /// The run whose history is to be rehearsed.
    pub(super) fn rehearse(&mut self, mut to: Move, head: &Head) {
        let wait = self.movers.rng.range(1, 4_000) * MS;
        let Some(state) = code::of(head) else {
            // It has not begun, or has ended: nothing of it could differ.
            to.rounds = 0;
            return self.after(wait, Event::MoveRun(Box::new(to)));
        };
        let Some(place) = CodePlace::of(head) else {
            to.rounds -= 1;
            if to.rounds > 0 && !self.is_quiet() {
                self.after(wait / 4, Event::MoveRun(Box::new(to)));
            }
            return;
        };
        let written = history::written(state, &head.identity, head.started_ms);
        let stored = &self.disks[to.partition].state;
        let earlier =
            program::earlier(&written, |hash| match memory::load(stored, &Load::Values(to.tenant, vec![hash])) {
                Loaded::Values(mut values) => values.pop().flatten(),
                _ => None,
            });
        let Ok(mut turns) = earlier else { return };
        turns.extend(written["turns"].as_array().into_iter().flatten().cloned());
        let flows = self.plan.runs.flows.clone();
        let Some(flow) = flows.iter().find(|flow| flow.definition.plan().hash == to.plan) else { return };
        match program::rehearse(&flows, flow, &written, &turns) {
            Ok(()) => {
                to.at = Some(place);
                self.after(wait, Event::MoveRun(Box::new(to)));
            }
            Err(_) => self.count("history does not fit"),
        }
    }

    /// A replay differed: back, on to another version, or on as it is.
    pub(super) fn help_mismatch(&mut self, partition: usize, tenant: TenantId, run: RunId) {
        let draw = self.movers.rng.next();
        match draw % 4 {
            0 | 1 => self.accept(partition, tenant, run),
            2 => {
                if let Some(plan) = self.checkers.runs.previous(partition, run) {
                    self.send_move(Move { partition, tenant, run, plan, rounds: 0, at: None });
                }
            }
            _ => {
                if let Some(to) = self.some_move(partition, tenant, run) {
                    self.send_move(Move { rounds: 0, ..to });
                }
            }
        }
    }

    fn accept(&mut self, partition: usize, tenant: TenantId, run: RunId) {
        let by = self.movers.name();
        self.checkers.runs.asks.accepts(by.clone());
        self.act_on_run(partition, tenant, run, RunAction::Accept(by));
    }

    /// Whether the replay of a run may differ from its history: it went to another version, and then it holds.
    pub(super) fn differs(&mut self, partition: usize, run: RunId, why: &str) -> Option<Json> {
        if !self.checkers.runs.has_moved(partition, run) {
            return None;
        }
        self.count("replay differs");
        let why: String = why.chars().take(200).collect();
        Some(serde_json::json!({
            "v": 1, "commands": [], "end": {"mismatch": {"expected": why, "actual": "another command"}},
        }))
    }
}

/// How often the history of a run is rehearsed before it goes; `None` = it stays.
fn rounds(policy: VersionPolicy, program: bool) -> Option<u32> {
    match policy {
        VersionPolicy::Pin => None,
        VersionPolicy::Compatible if program => Some(ROUNDS),
        VersionPolicy::Compatible | VersionPolicy::Latest => Some(0),
    }
}
