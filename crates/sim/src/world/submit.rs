//! What clients submit.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::Command;
use tidewheel_engine::command::Submit;
use tidewheel_engine::config::Timeouts;
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::ready::mix;
use tidewheel_engine::task::{ITEM, Payload, Resources, Spec};

use super::{CallKind, Claim, Item, World};
use crate::plan::{LoadPlan, Plan, SECOND, Scenario};
use crate::rng::Rng;

/// Different specs of a run; equal ones are shared, as a client of the bulk call shares them.
const SPECS: usize = 200;
/// Tasks that the workers of the measured shares could do, about.
const FLOOD: u64 = 9_000;

/// The specs of a run.
pub(super) fn specs(plan: &Plan, rng: &mut Rng) -> Vec<Arc<Spec>> {
    (0..SPECS).map(|_| Arc::new(spec(plan, rng))).collect()
}

fn spec(plan: &Plan, rng: &mut Rng) -> Spec {
    let load = &plan.load;
    let mut spec = Spec::default();
    let key = |rng: &mut Rng| -> Name { format!("k{}", rng.below(load.keys)).into() };
    if rng.chance(load.ttl) {
        spec.ttl_ms = rng.range(100, 30_000);
    }
    if rng.chance(load.ordered) {
        spec.ordering_key = Some(key(rng));
    }
    if rng.chance(load.keyed_limit) {
        // Tasks of one key agree on its limit; who goes first when they do not is nobody's promise.
        let number = rng.below(load.keys);
        spec.concurrency_key = Some(format!("k{number}").into());
        spec.concurrency_limit = if number % 4 == 3 { 1 + (number / 4 % 3) as u32 } else { 0 };
    }
    if rng.chance(load.requires) {
        spec.requires = vec![(format!("l{}", rng.below(3)).into(), "yes".into())];
    }
    if rng.chance(load.resources) {
        spec.resources = Resources { cpu_millis: rng.range(1, 4) as u32 * 500, memory_bytes: 0 };
    }
    spec.batchable = rng.chance(load.batchable);
    if rng.chance(load.retry_policy) {
        spec.retry = Some(crate::plan::retry(rng));
    }
    if rng.chance(load.timeouts) {
        spec.timeouts = Timeouts {
            queue_ms: if rng.chance(0.3) { rng.range(500, 30_000) } else { 0 },
            start_ms: if rng.chance(0.3) { rng.range(500, 3_000) } else { 0 },
            run_ms: rng.range(200, 20_000),
            heartbeat_ms: if rng.chance(0.3) { rng.range(500, 5_000) } else { 0 },
        };
    } else if load.hanging > 0.0 {
        spec.timeouts.run_ms = rng.range(1_000, 20_000);
    }
    if rng.chance(load.decorated) {
        spec.labels = vec![("a".into(), "b".into())];
        spec.affinity_key = Some(key(rng));
        spec.package = Some("0".repeat(64).into());
    }
    if load.items > 0.0 && rng.chance(load.items) {
        spec.requires = vec![(ITEM.0.into(), ITEM.1.into())];
    }
    place(load, &mut spec, rng);
    spec
}

/// What decides on the worker.
fn place(load: &LoadPlan, spec: &mut Spec, rng: &mut Rng) {
    if load.affine > 0.0 && rng.chance(load.affine) {
        spec.affinity_key = Some(format!("k{}", rng.below(load.keys)).into());
    }
    if load.routed > 0.0 && rng.chance(load.routed) {
        spec.executor = Some(format!("e{}", rng.below(2)).into());
        spec.rule = Some("some".into());
    }
    if load.expected > 0.0 && rng.chance(load.expected) {
        spec.expected_ms = *rng.pick(&[1_000, 120_000, 3_600_000]);
    }
    if load.near > 0.0 && rng.chance(load.near) {
        spec.near = vec![format!("d{}", rng.below(4)).into()];
    }
}

impl World {
    /// Submits so many tasks of one tenant.
    pub(crate) fn submit_some(&mut self, number: u64) {
        let tenant = self.client.rng.below(self.plan.tenants.len() as u64) as usize;
        let mut by_partition: Vec<Vec<Item>> = vec![Vec::new(); self.disks.len()];
        let claimed = number > 1 && self.plan.load.keyed > 0.0 && self.client.other.chance(0.2);
        for _ in 0..number {
            let item = self.item(tenant, claimed);
            by_partition[item.partition].push(item);
        }
        for (partition, items) in by_partition.into_iter().enumerate().filter(|(_, items)| !items.is_empty()) {
            match items.len() > 1 && items.iter().all(|item| item.submit.idempotency.is_some()) {
                true => self.submit_claimed(partition, items),
                false => self.submit(partition, items),
            }
        }
    }

    /// Under a key for all of them; sometimes once more, also with another body. Each has a key of its own, too, as the server's have.
    fn submit_claimed(&mut self, partition: usize, items: Vec<Item>) {
        let rng = &mut self.client.other;
        if rng.chance(0.2) && !self.client.claimed.is_empty() {
            let (mut items, mut claim) = rng.pick(&self.client.claimed).clone();
            if rng.chance(0.5) {
                items.pop();
                claim.body ^= 1;
            }
            for item in &mut items {
                item.tried = true;
                self.checkers.overload.asked_again(item.marker);
            }
            return self.submit_once(items, claim);
        }
        self.client.next_key += 1;
        let key = (partition, items[0].tenant, key_hash(self.client.next_key));
        let claim = Claim { key, body: mix(self.client.next_key) & !1 };
        self.client.claimed.push((items.clone(), claim.clone()));
        self.submit_once(items, claim);
    }

    pub(crate) fn submit_once(&mut self, items: Vec<Item>, claim: Claim) {
        let (partition, tenant, hash) = claim.key;
        if items.is_empty() {
            return;
        }
        let (submits, body) = (items.iter().map(|item| item.submit.clone()).collect(), claim.body);
        let command = |request| Command::SubmitOnce { request, tenant, claim: (hash, body), items: submits };
        self.call(partition, CallKind::Submit(items, Some(claim)), command);
    }

    pub(crate) fn submit(&mut self, partition: usize, items: Vec<Item>) {
        // Items of one submit are of one tenant, and stay together when they are asked for again.
        let Some(tenant) = items.first().map(|item| item.tenant) else { return };
        let submits = items.iter().map(|item| item.submit.clone()).collect();
        let command = |request| Command::Submit { request, tenant, items: submits };
        self.call(partition, CallKind::Submit(items, None), command);
    }

    /// `claimed` = it has a key in any case.
    fn item(&mut self, tenant: usize, claimed: bool) -> Item {
        let load = &self.plan.load;
        let rng = &mut self.client.rng;
        let tenant_id = TenantId(tenant as u32 + 1);
        if rng.chance(load.key_again) && !self.client.keyed.is_empty() {
            return self.old_key(tenant_id);
        }
        let marker = self.client.next_marker;
        self.client.next_marker += 1;
        let keyed = rng.chance(load.keyed);
        let idempotency = (keyed || claimed).then(|| {
            self.client.next_key += 1;
            (key_hash(self.client.next_key), marker)
        });
        let spec = rng.pick(&self.client.specs).clone();
        let queues = self.plan.tenants[tenant].queues.len() as u64;
        let delay_ms = match rng.fraction() {
            f if f < load.far => rng.range(3_600_000, 2 * 86_400_000),
            f if f < load.far + load.delayed => rng.range(1, 20_000),
            _ => 0,
        };
        let queue = rng.below(queues);
        let root = match (&spec.ordering_key, &idempotency) {
            // The order of a key is one partition's promise, so the key decides where its tasks go.
            (Some(key), _) => key.bytes().fold(queue, |h, b| mix(h ^ u64::from(b))),
            (None, Some((hash, _))) => u64::from(hash[0]),
            (None, None) => marker,
        };
        let submit = Submit {
            kind: format!("t{}", rng.below(load.types)).into(),
            queue: format!("q{queue}").into(),
            priority: if rng.chance(load.priority) { rng.below(10) as u8 } else { 5 },
            run_at: 0,
            delay_ms,
            input: Payload::Inline(Bytes::from(marker.to_string())),
            spec,
            idempotency,
        };
        let partition = (root % self.disks.len() as u64) as usize;
        let item = Item { tenant: tenant_id, marker, submit, partition, tried: false };
        if item.submit.idempotency.is_some() {
            self.client.keyed.push(item.clone());
        }
        item
    }

    /// A key that was used before, with the same body or with another one.
    fn old_key(&mut self, tenant: TenantId) -> Item {
        let rng = &mut self.client.rng;
        let mut item = rng.pick(&self.client.keyed).clone();
        if item.tenant != tenant {
            // Another tenant's key is another key.
            let marker = self.client.next_marker;
            self.client.next_marker += 1;
            item = Item { tenant, marker, ..item };
            item.submit.queue = "q0".into();
            item.submit.input = Payload::Inline(Bytes::from(marker.to_string()));
            if let Some((_, body)) = &mut item.submit.idempotency {
                *body = marker;
            }
            return Item { tried: false, ..item };
        }
        if rng.chance(0.5) {
            let marker = self.client.next_marker;
            self.client.next_marker += 1;
            item.marker = marker;
            item.submit.input = Payload::Inline(Bytes::from(marker.to_string()));
            if let Some((_, body)) = &mut item.submit.idempotency {
                *body = marker;
            }
            return Item { tried: false, ..item };
        }
        self.checkers.overload.asked_again(item.marker);
        Item { tried: true, ..item }
    }

    /// The measured scenarios: a backlog for each tenant, or a stream that fills all permits.
    pub(crate) fn flood(&mut self) {
        let weights: u64 = self.plan.tenants.iter().map(|tenant| u64::from(tenant.config.weight)).sum();
        for tenant in 0..self.plan.tenants.len() {
            let number = match self.plan.scenario {
                // More than its share of what the workers can do.
                Scenario::Fairness => {
                    let weight = u64::from(self.plan.tenants[tenant].config.weight);
                    (FLOOD * weight / weights + 300).min(6_000)
                }
                _ => 1_500,
            };
            let mut items = Vec::new();
            for n in 0..number {
                let mut item = self.item(tenant, false);
                item.partition = 0;
                item.submit.delay_ms = 0;
                if self.plan.scenario == Scenario::Aging {
                    item.submit.priority = if n % 100 == 99 { 1 } else { 8 };
                    item.submit.delay_ms = n * 50;
                }
                items.push(item);
            }
            self.now = self.now.max(SECOND / 1_000);
            self.submit(0, items);
        }
    }
}

fn key_hash(key: u64) -> [u8; 16] {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&mix(key).to_be_bytes());
    hash[8..].copy_from_slice(&mix(key ^ 0xABCD).to_be_bytes());
    hash
}
