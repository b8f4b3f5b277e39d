//! Identities. Each is a newtype, so that a queue can never be passed where a tenant is meant.

use std::sync::Arc;

/// A name as the user wrote it (queue, task type, worker), shared and immutable.
pub type Name = Arc<str>;

/// One of [`SLOTS`] hash buckets. Fixed for the life of an id and readable from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// How many slots there are. 12 bits: they fill the `rand_a` field of a UUIDv7 exactly.
pub const SLOTS: u16 = 4096;

impl Slot {
    /// The slot of an ordering root: a hash of tenant and bytes that never changes between releases.
    pub fn of(tenant: TenantId, root: &[u8]) -> Slot {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&tenant.0.to_be_bytes());
        hasher.update(root);
        let hash = hasher.finalize();
        let bytes = hash.as_bytes();
        Slot(u16::from_be_bytes([bytes[0], bytes[1]]) % SLOTS)
    }
}

macro_rules! number_ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty)),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);
    )* };
}

number_ids! {
    /// A tenant; given at its creation, never reused. 0 is the system's own.
    TenantId(u32),
    /// A queue; unique over all tenants, never reused.
    QueueId(u32),
    /// A task type of one tenant.
    TypeId(u32),
    /// A worker's name in one tenant; stable over its reconnects.
    WorkerId(u32),
    /// One connection of a worker; made by the shell, unique in the life of the process.
    SessionId(u64),
    /// A caller that waits for a reply; made by the shell.
    RequestId(u64),
}

/// A task. UUIDv7: 48 bits of milliseconds, the slot in `rand_a`, and epoch (22 bits) and sequence (40 bits) in `rand_b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u128);

impl TaskId {
    /// Builds an id. `wall_ms` keeps its low 48 bits, `epoch` its low 22, `sequence` its low 40.
    pub fn build(wall_ms: u64, slot: Slot, epoch: u32, sequence: u64) -> TaskId {
        let time = u128::from(wall_ms & 0xFFFF_FFFF_FFFF) << 80;
        let version = 7u128 << 76;
        let slot = u128::from(slot.0 & 0x0FFF) << 64;
        let variant = 2u128 << 62;
        let tail = (u128::from(epoch & 0x3F_FFFF) << 40) | u128::from(sequence & 0xFF_FFFF_FFFF);
        TaskId(time | version | slot | variant | tail)
    }

    /// The slot, read from the id.
    pub fn slot(self) -> Slot {
        Slot(((self.0 >> 64) & 0x0FFF) as u16)
    }

    /// The milliseconds since 1970 at which it was made.
    pub fn millis(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// Big-endian bytes; they sort like the number.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id of the task of a step of a run, or of its items from `first` on: the same for the same step, so that opening it
    /// twice is opening it once.
    pub fn of_step(run: RunId, entry: u64, first: u64) -> TaskId {
        TaskId(derived(run, b"task", entry, first))
    }

    /// The inverse of [`TaskId::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> TaskId {
        TaskId(u128::from_be_bytes(bytes))
    }
}

/// A run of a workflow. Made like a [`TaskId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u128);

impl RunId {
    /// The id of a run that a step of another one starts, or its item.
    pub fn of_child(run: RunId, entry: u64, item: u64) -> RunId {
        RunId(derived(run, b"run.", entry, item))
    }

    /// The milliseconds since 1970 at which it was made.
    pub fn millis(self) -> u64 {
        TaskId(self.0).millis()
    }
}

/// Items, or entries, of a run whose ids have the same millisecond.
const DERIVED_PER_MS: u64 = 64;

/// Time and slot of the run, and a hash of what it is for. Its later entries and items have later times, as if so many were
/// made in a millisecond: what is at work at the same time is close together in the store, and a commit writes few pages. They
/// cannot be made that fast, so no id is ahead of its time.
fn derived(run: RunId, what: &[u8; 4], entry: u64, item: u64) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&run.0.to_be_bytes()).update(what).update(&entry.to_be_bytes()).update(&item.to_be_bytes());
    let mut tail = [0; 8];
    tail.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    let id = TaskId(run.0);
    let tail = u64::from_be_bytes(tail);
    let millis = id.millis() + entry.saturating_add(item) / DERIVED_PER_MS;
    TaskId::build(millis, id.slot(), (tail >> 40) as u32, tail).0
}

impl std::fmt::Display for RunId {
    /// As a UUID: `8-4-4-4-12` hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.0;
        let (a, b, c) = ((n >> 96) as u32, (n >> 80) as u16, (n >> 64) as u16);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", (n >> 48) as u16, n & 0xFFFF_FFFF_FFFF)
    }
}

/// The fencing token of an attempt. It rises with every grant of a partition and with every epoch, so that of two
/// attempts of one task the later one always has the larger token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Epoch of the partition that granted.
    pub epoch: u32,
    /// Number of the grant in that epoch, from 1.
    pub grant: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_time_and_slot_and_is_a_uuid_v7() {
        let id = TaskId::build(1_700_000_000_123, Slot(4095), 3, 77);
        assert_eq!(id.slot(), Slot(4095));
        assert_eq!(id.millis(), 1_700_000_000_123);
        assert_eq!((id.0 >> 76) & 0xF, 7);
        assert_eq!((id.0 >> 62) & 0x3, 2);
        assert_eq!(TaskId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn what_a_run_makes_later_has_later_ids_and_what_it_makes_again_the_same() {
        let run = RunId(TaskId::build(1_700_000_000_123, Slot(5), 3, 77).0);
        let ids: Vec<TaskId> = (0..1_000).map(|item| TaskId::of_step(run, 7, item)).collect();
        assert!(ids.chunks(64).map(|chunk| chunk[0].millis()).is_sorted());
        assert!(ids.iter().all(|id| id.slot() == Slot(5) && (123..=139).contains(&(id.millis() % 1_000))));
        assert_eq!(ids[999], TaskId::of_step(run, 7, 999));
        let all: std::collections::BTreeSet<_> = ids.into_iter().collect();
        assert_eq!(all.len(), 1_000);
        assert_ne!(TaskId::of_step(run, 8, 0), TaskId::of_step(run, 7, 1), "an entry is not an item");
        assert_ne!(TaskId::of_step(run, 7, 0).0, RunId::of_child(run, 7, 0).0);
    }

    #[test]
    fn the_slot_of_a_root_never_changes() {
        assert_eq!(Slot::of(TenantId(1), b"order-7"), Slot::of(TenantId(1), b"order-7"));
        let distinct: std::collections::BTreeSet<_> =
            (0..1000u32).map(|i| Slot::of(TenantId(1), &i.to_be_bytes())).collect();
        assert!(distinct.len() > 800, "slots spread: {}", distinct.len());
    }
}
