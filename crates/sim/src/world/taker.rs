//! Takers of items: they take, work for a while without a session, settle, forget, come too late, and put up with lost
//! answers. What they hold lives only by its lease, over every restart of the node.

use tidewheel_engine::Command;
use tidewheel_engine::command::Settlement;
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{RequestId, TaskId, TenantId, Token};

use super::{CallKind, World};
use crate::event::{Event, How};
use crate::plan::{MS, SECOND};

/// Leases of items, in milliseconds: well above that of a session, so that one is not taken for the other.
const LEASES: [u64; 3] = [25_000, 40_000, 60_000];
/// Items per call, at most.
const MOST: u64 = 8;

impl World {
    pub(crate) fn start_takers(&mut self) {
        if self.plan.load.items > 0.0 {
            self.at(SECOND, Event::Take);
        }
    }

    /// One call for items, and when the next one is made.
    pub(crate) fn take_items(&mut self) {
        let wait = match () {
            () if self.asleep => self.asleep_until.saturating_sub(self.now).max(SECOND),
            () if self.is_quiet() => self.take_what_is_left(),
            () => {
                let tenant = self.takers.below(self.plan.tenants.len() as u64) as usize;
                let queue = self.takers.below(self.plan.tenants[tenant].queues.len() as u64);
                let partition = self.takers.below(self.disks.len() as u64) as usize;
                self.ask_for_items(partition, TenantId(tenant as u32 + 1), &format!("q{queue}"));
                self.takers.exponential(200 * MS).max(MS)
            }
        };
        if !self.over {
            self.after(wait, Event::Take);
        }
    }

    /// In the end a call is made only where something waits for one.
    fn take_what_is_left(&mut self) -> u64 {
        for partition in 0..self.disks.len() {
            let fold = self.checkers.fold(partition);
            let items = || fold.queued.iter().map(|id| &fold.tasks[id]).filter(|task| task.spec.is_item());
            let mut waits: Vec<_> = items().filter(|task| self.checkers.is_first(partition, task)).take(200).collect();
            // One that a person retries may go before a later one of its key that has been tried already.
            if waits.is_empty() {
                waits = items().take(200).collect();
            }
            if waits.is_empty() {
                continue;
            }
            let task = waits[self.takers.below(waits.len() as u64) as usize];
            let Some(queue) = fold.queues.get(&task.queue).map(|q| q.name.to_string()) else { continue };
            let tenant = task.tenant;
            self.ask_for_items(partition, tenant, &queue);
        }
        300 * MS
    }

    fn ask_for_items(&mut self, partition: usize, tenant: TenantId, queue: &str) {
        let most = self.takers.range(1, MOST) as u32;
        let wait_ms = if self.is_quiet() || self.takers.chance(0.5) { 0 } else { self.takers.below(3_000) };
        let (queue, lease_ms) = (queue.into(), *self.takers.pick(&LEASES));
        let take = |request| Command::Take { request, tenant, queue, taker: "taker".into(), most, lease_ms, wait_ms };
        self.call(partition, CallKind::Take(tenant), take);
    }

    /// Items arrived: what each taker does with them is drawn here.
    pub(crate) fn taken(&mut self, partition: usize, tenant: TenantId, grants: &[Grant]) {
        for grant in grants {
            self.checkers.worker_saw(partition, grant.task, grant.token);
            let quiet = self.is_quiet();
            let length = match self.takers.fraction() {
                f if quiet || f < 0.8 => self.takers.range(5, 2_000),
                f if f < 0.95 => self.takers.range(2_000, 30_000),
                _ => self.takers.range(30_000, 100_000),
            };
            if !quiet && self.takers.chance(0.05) {
                self.count("item forgotten");
                continue;
            }
            let (task, token) = (grant.task, grant.token);
            let renews = self.takers.chance(0.2);
            self.after(length * MS, Event::Settle { partition, tenant, task, token, renews });
        }
    }

    /// A taker says what became of an item. One that was too slow says it all the same.
    pub(crate) fn settle_item(&mut self, partition: usize, tenant: TenantId, at: (TaskId, Token), renews: bool) {
        let (task, token) = at;
        let how = match self.takers.fraction() {
            _ if renews => {
                self.checkers.lease.renewed(partition, task, token, self.now);
                let wait = self.takers.range(5, 20_000) * MS;
                self.after(wait, Event::Settle { partition, tenant, task, token, renews: false });
                Settlement::Renew
            }
            f if f < 0.1 && !self.is_quiet() => Settlement::Postpone { delay_ms: self.takers.below(10_000) },
            f if f < 0.2 => Settlement::End(super::outcome::outcome(token, How::Error((f * 20.0) as u8))),
            _ => Settlement::End(super::outcome::outcome(token, How::Ok)),
        };
        self.call(partition, CallKind::Other, |request: RequestId| Command::Settle {
            request,
            tenant,
            task,
            token,
            how,
        });
    }
}
