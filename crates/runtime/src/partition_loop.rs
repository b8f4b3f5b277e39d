//! The partition loop: takes what is in the mailbox, applies it, performs what the shell says, sleeps until the next
//! event or timer. One thread, no locks held over anything that waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::mutation::{AttemptOutcome, Recovered};
use tidewheel_engine::node::{Action, Clock, Intake, Shell};
use tidewheel_engine::partition::Probe;
use tidewheel_engine::time::Now;
use tidewheel_engine::{Batch, Command, Effect, Mutation};

use crate::compute::Pool;
use crate::directory::ConfigChange;
use crate::mailbox::{Event, Taken, Weights};
use crate::reader::Reader;
use crate::run_feed::RunChanges;
use crate::sessions::ToWorker;
use crate::tally::{Figures, Tally, Written};
use crate::{Change, Error, PressureChange, RunChange, Shared};

/// A sleep is never longer than this, so that a clock change is seen.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Tasks or results that are applied between two looks at the timers: about a millisecond of work.
const SLICE: usize = 1_000;
/// Wait before a store that is out of space is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// What is remembered of a batch until it is durable.
struct UnderWay {
    index: u64,
    begun: Instant,
    config: Vec<ConfigChange>,
    changes: Vec<Change>,
    runs: Vec<RunChange>,
    tally: Tally,
}

struct StoreProbe<'a>(&'a Shared);

impl Probe for StoreProbe<'_> {
    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool {
        self.0.store.may_know(tenant, hash)
    }
}

struct Loop<'a> {
    shared: &'a Arc<Shared>,
    reader: &'a Reader,
    pool: &'a Pool,
    shell: Shell,
    epoch: u32,
    clock: Clock,
    under_way: VecDeque<UnderWay>,
    figures: Figures,
    /// Commands taken from the mailbox that did not fit the open batch.
    intake: Intake,
    /// Told to stop while the store could not be opened.
    abandoned: bool,
}

pub(crate) fn run(shared: &Arc<Shared>, reader: &Reader, pool: &Pool, recovered: Recovered) {
    let mut clock = Clock::default();
    let now = clock.observe(shared.raw_now());
    let epoch = recovered.epoch;
    shared.metrics.epoch.set(i64::from(epoch));
    let shell = Shell::new(shared.config.options.clone(), recovered, now);
    let (under_way, figures, intake) = (VecDeque::new(), Figures::default(), Intake::default());
    Loop { shared, reader, pool, shell, epoch, clock, under_way, figures, intake, abandoned: false }.run();
}

impl Loop<'_> {
    fn run(&mut self) {
        let mut again = true;
        loop {
            let takes = self.shell.takes_commands();
            let wait = if again { Some(Duration::ZERO) } else { self.sleep() };
            let taken = self.shared.mailbox.take(takes, wait);
            let closing = taken.closed;
            let begun = Instant::now();
            again = self.round(taken);
            self.shared.metrics.loop_seconds.observe(begun.elapsed().as_secs_f64());
            if self.abandoned || (closing && self.is_done()) {
                self.shared.replies.fail_all(&Error::Closed);
                self.shared.sessions.close_all("the server is shutting down");
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.under_way.is_empty()
            && self.intake.is_empty()
            && !self.shell.partition().has_output()
            && self.shared.mailbox.depth() == 0
    }

    /// How long nothing can happen by itself.
    fn sleep(&mut self) -> Option<Duration> {
        let now = self.clock.observe(self.shared.raw_now());
        let (wall, mono) = self.shell.next_wake(&self.intake);
        let waits = [wall.map(|w| w.saturating_sub(now.wall)), mono.map(|m| m.saturating_sub(now.mono))];
        let least = waits.into_iter().flatten().min().map(Duration::from_millis);
        Some(least.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP))
    }

    /// One round. Returns whether there is more to do at once.
    fn round(&mut self, taken: Taken) -> bool {
        let mut actions = Vec::new();
        let epoch = self.epoch;
        for event in taken.events {
            self.event(event, &mut actions);
        }
        self.perform(std::mem::take(&mut actions));
        if self.epoch == epoch {
            taken.commands.into_iter().for_each(|command| self.intake.push(command));
        } else {
            // They came before the partition was opened anew: their callers and sessions were sent away.
            self.give_up(taken.commands);
        }
        self.commands();
        let now = self.now();
        self.shared.wall.store(now.wall, Ordering::Relaxed);
        // Said each time, so that a partition that was opened anew knows it too.
        self.shell.hold_grants(self.shared.draining.load(Ordering::Relaxed));
        let more = self.shell.turn(now, &mut actions);
        self.perform(actions);
        more || self.shell.has_next(&self.intake, now)
    }

    fn now(&mut self) -> Now {
        self.clock.observe(self.shared.raw_now())
    }

    /// Applies what the open batch has room for, and fires in between what comes due.
    fn commands(&mut self) {
        let mut applied = Weights::default();
        let mut slice = 0;
        let mut now = self.now();
        while let Some(command) = self.shell.next(&mut self.intake, now) {
            applied.add(&command);
            slice += command.weight();
            self.shell.command(command, now, &StoreProbe(self.shared));
            if slice >= SLICE {
                slice = 0;
                now = self.now();
                self.shell.fire(now);
            }
        }
        self.shared.mailbox.applied(applied);
    }

    fn event(&mut self, event: Event, actions: &mut Vec<Action>) {
        let now = self.clock.observe(self.shared.raw_now());
        match event {
            Event::Loaded(epoch, ..) | Event::Committed(epoch, ..) if epoch != self.epoch => {}
            Event::Loaded(_, id, _, Ok((as_of, loaded))) => self.shell.loaded(id, as_of, loaded, now),
            Event::Loaded(_, id, load, Err(error)) => {
                tracing::warn!(%error, "a read for the engine failed; it is tried again");
                self.shell.load_failed(id, load);
            }
            Event::Committed(_, index, Ok(())) => {
                self.durable(index);
                self.shell.committed(index, actions);
            }
            Event::Committed(_, index, Err(error)) => {
                // Effects of batches before the failed one may still leave; they are in `actions`.
                self.perform(std::mem::take(actions));
                self.reload(index, &error);
            }
        }
    }

    /// A batch is durable: configuration, figures and live streams learn of it before any reply does.
    fn durable(&mut self, index: u64) {
        let Some(done) = self.under_way.pop_front() else { return };
        assert_eq!(done.index, index, "commits are reported in order");
        self.shared.committed.store(index, Ordering::Release);
        self.shared.directory.apply(done.config);
        let metrics = &self.shared.metrics;
        metrics.commit_seconds.observe(done.begun.elapsed().as_secs_f64());
        metrics.batch_size.observe(done.tally.mutations as f64);
        self.tally(&done.tally);
        if !done.changes.is_empty() {
            // Nobody may be listening any more.
            let _ = self.shared.feed.send(Arc::new(done.changes));
        }
        if !done.runs.is_empty() {
            let _ = self.shared.run_feed.send(Arc::new(done.runs));
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Commit(batch) => self.commit(batch),
                Action::Load(id, load) => self.reader.ask(self.epoch, id, load),
                Action::Perform(effects) => effects.into_iter().for_each(|effect| self.effect(effect)),
                Action::Fired(late) => self.fired(&late),
            }
        }
    }

    fn commit(&mut self, batch: Batch) {
        let listened = self.shared.feed.receiver_count() > 0;
        let runs_listened = self.shared.run_feed.receiver_count() > 0;
        let mut runs = RunChanges::default();
        let tasks = Vec::with_capacity(batch.mutations.len());
        let mut tally = Tally { mutations: batch.mutations.len(), tasks, lost: 0 };
        let mut changes = Vec::new();
        let mut config = Vec::new();
        // The engine writes these before the tasks they belong to.
        let mut attempts: HashMap<TaskId, AttemptOutcome> = HashMap::new();
        let mut labelled: HashSet<TaskId> = HashSet::new();
        for mutation in &batch.mutations {
            match mutation {
                Mutation::InsertTask(task) | Mutation::UpdateTask(task) => {
                    let inserted = matches!(mutation, Mutation::InsertTask(_));
                    let (attempt, labelled) = (attempts.get(&task.id).copied(), labelled.contains(&task.id));
                    tally.tasks.push(Written::of(task, inserted, attempt, labelled));
                    if listened {
                        changes.push(Change {
                            tenant: task.tenant,
                            task: task.id,
                            queue: task.queue,
                            kind: task.kind,
                            state: task.state,
                            attempt: task.attempt,
                            at: task.changed,
                            inserted,
                            executor: if inserted { task.spec.executor.clone() } else { None },
                        });
                    }
                }
                Mutation::PutAttempt(attempt) => {
                    tally.lost += u64::from(attempt.outcome == AttemptOutcome::Lost);
                    attempts.insert(attempt.task, attempt.outcome);
                }
                Mutation::PutSpec { task, .. } => drop(labelled.insert(*task)),
                Mutation::PutRun(_) | Mutation::AppendTurn { .. } => {
                    if runs_listened {
                        runs.note(mutation);
                    }
                }
                other => config.extend(ConfigChange::of(other)),
            }
        }
        let (index, epoch, runs) = (batch.index, batch.epoch, runs.into_changes());
        self.under_way.push_back(UnderWay { index, begun: Instant::now(), config, changes, runs, tally });
        let shared = self.shared.clone();
        self.shared.store.commit(
            batch,
            Box::new(move |result| {
                shared.mailbox.push_internal(Event::Committed(epoch, index, result));
            }),
        );
    }

    fn tally(&mut self, tally: &Tally) {
        let shared = self.shared;
        self.figures.count(shared, &tally.tasks, shared.raw_now().wall);
        shared.metrics.leases_lost.inc_by(tally.lost);
        shared.metrics.mailbox_depth.set(shared.mailbox.depth() as i64);
    }

    fn fired(&self, late: &[u64]) {
        late.iter().for_each(|ms| self.shared.metrics.timer_late.observe(*ms as f64 / 1000.0));
    }

    fn effect(&self, effect: Effect) {
        let sessions = &self.shared.sessions;
        match effect {
            Effect::Reply { request, reply } => self.shared.replies.send(request, Ok(reply)),
            Effect::Grant { session, grants } => sessions.send(session, ToWorker::Grants(grants)),
            Effect::Welcome { session, worker, resumed } => {
                sessions.send(session, ToWorker::Welcome { worker, resumed })
            }
            Effect::Accepted { session, count, refused } => {
                sessions.send(session, ToWorker::Accepted { count, refused })
            }
            Effect::Cancel { session, task, token, reason } => {
                sessions.send(session, ToWorker::Cancel { task, token, reason })
            }
            Effect::Revoke { session, attempts } => sessions.send(session, ToWorker::Revoke(attempts)),
            Effect::Recall { session, attempts } => sessions.send(session, ToWorker::Recall(attempts)),
            Effect::Compute(work) => self.pool.ask(work),
            Effect::Close { session, reason } => sessions.send(session, ToWorker::Close { reason }),
            Effect::Pressure { tenant, queue, from, to, waiting } => {
                let at = self.shared.wall.load(Ordering::Relaxed);
                self.shared.tell_pressure(PressureChange { tenant, queue, from, to, waiting, at });
            }
        }
    }

    /// Drops commands; who waits for them hears of it from the caller.
    fn give_up(&self, commands: Vec<Command>) {
        let mut weights = Weights::default();
        commands.iter().for_each(|command| weights.add(command));
        self.shared.mailbox.applied(weights);
    }

    /// Refuses what comes, for a while; nothing of it was accepted. Returns whether to go on.
    fn refuse_for(&self, time: Duration, error: &tidewheel_store::Error) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let taken = self.shared.mailbox.take(true, Some(left));
            self.give_up(taken.commands);
            self.shared.replies.fail_all(&Error::Unavailable(error.to_string()));
            // A session whose hello was just thrown away would wait for its welcome for ever.
            self.shared.sessions.close_all("the store is not available");
            if taken.closed {
                return false;
            }
        }
    }

    /// A commit failed: forget everything that is not known to be stored, and start again from the store.
    fn reload(&mut self, index: u64, error: &tidewheel_store::Error) {
        tracing::error!(%error, index, "a commit failed; the partition reloads");
        match error {
            tidewheel_store::Error::Fsync(text) => {
                *self.shared.ready.lock() = Err(format!("the disk failed to keep data: {text}"));
                (self.shared.on_fatal)(text);
            }
            tidewheel_store::Error::Full(text) => {
                *self.shared.ready.lock() = Err(format!("no space left on the store's disk: {text}"));
            }
            _ => *self.shared.ready.lock() = Err(error.to_string()),
        }
        self.shared.replies.fail_all(&Error::OutcomeUnknown);
        self.shared.sessions.close_all("the partition reloads");
        self.shared.forget_throttled();
        let given_up = self.intake.drain();
        self.give_up(given_up);
        self.under_way.clear();
        if matches!(error, tidewheel_store::Error::Full(_)) && !self.refuse_for(FULL_RETRY, error) {
            self.abandoned = true;
            return;
        }
        let recovered = loop {
            match self.shared.store.open(self.shared.config.options.partition) {
                Ok(recovered) => break recovered,
                Err(error) => {
                    tracing::error!(%error, "the partition cannot be opened; trying again");
                    if !self.refuse_for(FULL_RETRY, &error) {
                        self.abandoned = true;
                        return;
                    }
                }
            }
        };
        self.epoch = recovered.epoch;
        self.shared.committed.store(recovered.last_index, Ordering::Release);
        self.shared.directory.reset(&recovered);
        self.shared.metrics.epoch.set(i64::from(recovered.epoch));
        let now = self.clock.observe(self.shared.raw_now());
        self.shell = Shell::new(self.shared.config.options.clone(), recovered, now);
        *self.shared.ready.lock() = Ok(());
    }
}
