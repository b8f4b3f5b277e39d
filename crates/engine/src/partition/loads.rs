//! Loads: what is asked of the store, and what its answers lead to. A record in memory always wins over a row.

use super::{Entry, Partition, Purpose, Waiting, request_of};
use crate::command::Command;
use crate::effect::Refusal;
use crate::id::{TaskId, TenantId};
use crate::limit;
use crate::load::{Load, LoadId, Loaded};
use crate::task::{Payload, Task};
use crate::time::Now;

impl Partition {
    pub(crate) fn ask(&mut self, load: Load, purpose: Purpose) {
        let id = LoadId(self.next_load);
        self.next_load += 1;
        self.purposes.insert(id, (purpose, self.committed));
        self.loads.push((id, load));
    }

    /// Makes a command wait for tasks that are not in memory.
    pub(crate) fn wait_for_task(&mut self, tenant: TenantId, task: TaskId, command: Command) {
        if self.waiting.len() >= limit::PARKED_COMMANDS {
            if let Some(request) = request_of(&command) {
                let refusal = Refusal::Overloaded { what: "reads of stored tasks".into(), retry_after_ms: 1_000 };
                self.refuse(request, refusal);
            }
            return;
        }
        let number = self.next_waiting;
        self.next_waiting += 1;
        self.waiting.insert(number, Waiting { command, missing: 1, known: Vec::new() });
        self.ask(Load::Tasks(vec![(tenant, task)]), Purpose::Command(number));
    }

    /// The answer of a load: `as_of` is a commit it is sure to have seen.
    pub fn loaded(&mut self, id: LoadId, as_of: u64, loaded: Loaded, now: Now) {
        let now = self.observe(now);
        if as_of >= self.index {
            // The store has a commit that this partition never made: another owner has taken it over. What it reads is
            // no longer its own, and its next commit will say so.
            return;
        }
        let Some((purpose, _)) = self.purposes.remove(&id) else { return };
        match (purpose, loaded.parsed()) {
            (Purpose::Command(number), Loaded::Tasks(rows)) => {
                let absent = rows.iter().any(Option::is_none);
                rows.into_iter().flatten().for_each(|task| self.adopt(task));
                self.resume(number, absent, now);
            }
            (Purpose::Key(number, key), Loaded::Idempotency(answer)) => {
                if let Some(waiting) = self.waiting.get_mut(&number) {
                    waiting.known.push((key, answer));
                }
                self.resume(number, false, now);
            }
            (Purpose::Lane(queue, lane), Loaded::Lane(rows)) => self.lane_loaded(queue, lane, rows, as_of),
            (Purpose::Lanes(queue, class), Loaded::Lanes(lanes)) => self.lanes_loaded(queue, class, lanes, as_of),
            (Purpose::OneLane(fetch), Loaded::Lanes(lanes)) => self.one_lane_loaded(fetch, lanes, as_of),
            (Purpose::Run(run), Loaded::Run(stored)) => self.run_loaded(run, stored, now),
            (Purpose::Run(run), Loaded::RunTooLarge(bytes)) => self.run_too_large(run, bytes),
            (Purpose::RunExists(number, tenant, run), Loaded::RunTooLarge(bytes)) => {
                self.run_exists(number, tenant, run, Some(bytes), now);
            }
            (Purpose::RunExists(number, tenant, run), Loaded::Run(None)) => {
                self.run_exists(number, tenant, run, None, now);
            }
            (Purpose::RunValues(run, hashes), Loaded::Parsed(values)) => self.values_loaded(run, hashes, values, now),
            (Purpose::History(run, ticket), Loaded::Run(stored)) => self.history_loaded(run, ticket, stored, now),
            (Purpose::HistoryValues(run, ticket, hashes), Loaded::Parsed(values)) => {
                self.history_values((run, ticket), hashes, values, now);
            }
            (Purpose::Unneeded(unneeded), Loaded::Tasks(rows)) => {
                rows.into_iter().flatten().for_each(|task| self.adopt(task));
                self.cancel_read(unneeded, now);
            }
            (Purpose::Fire, Loaded::Tasks(rows)) => self.fire_loaded(rows, now),
            (Purpose::Due, Loaded::Due(rows)) => self.due_loaded(rows, now),
            (purpose, loaded) => panic!("the answer {loaded:?} does not fit {purpose:?}"),
        }
    }

    /// A load failed; it is asked again.
    pub fn load_failed(&mut self, id: LoadId, load: Load) {
        // When it was first asked stays as it was: what was kept in memory since then is still waited for.
        if self.purposes.contains_key(&id) {
            self.loads.push((id, load));
        }
    }

    fn resume(&mut self, number: u64, absent: bool, now: Now) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        waiting.missing -= 1;
        if waiting.missing > 0 {
            return;
        }
        let Waiting { command, known, .. } = self.waiting.remove(&number).expect("it was just there");
        match (absent, request_of(&command)) {
            (true, Some(request)) => self.refuse(request, Refusal::NotFound),
            _ => self.execute(command, known, now, None),
        }
    }

    /// Takes a row of the store into memory, unless memory knows better. It is let go again when it has settled.
    pub(super) fn adopt(&mut self, task: Task) {
        let id = task.id;
        if let Some(entry) = self.tasks.get_mut(&id) {
            if entry.task.input == Payload::Cold {
                entry.task.input = task.input;
            }
            return;
        }
        let batch = self.committed;
        self.tasks
            .insert(id, Entry { task, batch, dirty: false, new: false, in_window: false, warm: false, run: None });
        self.settled.push_back((batch, id));
    }
}
