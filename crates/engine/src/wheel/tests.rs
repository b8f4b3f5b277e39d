use std::collections::{BTreeMap, BTreeSet};

use hierarchical_hash_wheel_timer::IdOnlyTimerEntry;
use hierarchical_hash_wheel_timer::wheels::Skip;
use hierarchical_hash_wheel_timer::wheels::cancellable::QuadWheelWithOverflow;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 86_400_000;
const BLOCK: u64 = 30 * DAY;

/// Everything that fires, in order.
fn fired<T: Copy>(wheel: &mut Wheel<T>, now: u64, max: usize) -> Vec<(u64, T)> {
    let mut all = Vec::new();
    let count = wheel.advance(now, max, &mut |due, value| all.push((due, value)));
    assert_eq!(count, all.len());
    all
}

/// The structure's own rules: places, links, bits, counts, least due times, order, free list.
fn check<T: Copy>(wheel: &Wheel<T>) {
    let mut counts = [0; LEVELS];
    for (number, list) in wheel.lists.iter().enumerate() {
        let (mut prev, mut index, mut ascending) = (NIL, list.head, true);
        while index != NIL {
            let entry = &wheel.entries[index as usize];
            let place = wheel.place(entry.due);
            assert_eq!((place.list, entry.prev, entry.generation % 2), (number, prev, 1));
            assert!(list.least <= entry.due);
            ascending &= prev == NIL || wheel.entries[prev as usize].due <= entry.due;
            counts[place.level] += 1;
            (prev, index) = (index, entry.next);
        }
        assert_eq!(list.tail, prev);
        assert!(list.head != NIL || list.least == u64::MAX);
        assert!(number != LATE || ascending || wheel.late_unsorted);
        if number < OVERFLOW {
            let level = BASES.iter().rposition(|base| *base <= number).unwrap();
            let slot = number - BASES[level];
            let bit = wheel.bits[WORDS[level] + slot / 64] >> (slot % 64) & 1;
            assert_eq!(bit == 1, list.head != NIL);
        }
    }
    assert_eq!(counts, wheel.counts);
    let (mut free, mut index) = (0, wheel.free);
    while index != NIL {
        assert_eq!(wheel.entries[index as usize].generation % 2, 0);
        (free, index) = (free + 1, wheel.entries[index as usize].next);
    }
    assert_eq!(free + wheel.len(), wheel.entries.len());
}

#[test]
fn the_tables_agree() {
    let slots = [1_000, 60, 60, 24, 30];
    for (level, slots) in slots.into_iter().enumerate() {
        assert_eq!(SPANS[level], slots as u64 * u64::from(UNITS[level]));
        assert!(u32::try_from(SPANS[level]).is_ok());
        assert_eq!(BASES.get(level + 1).unwrap_or(&OVERFLOW) - BASES[level], slots);
        assert_eq!(WORDS[level + 1] - WORDS[level], slots.div_ceil(64));
        assert_eq!(UNITS.get(level + 1).map_or(BLOCK, |unit| u64::from(*unit)), SPANS[level]);
    }
    assert_eq!((LATE, LISTS), (OVERFLOW + 1, OVERFLOW + 2));
}

#[test]
fn a_timer_fires_at_its_millisecond_and_not_before() {
    for start in [0, 999, 1_790_000_000_123, u64::MAX - 3 * BLOCK] {
        for delay in [1, 2, 999, SECOND, SECOND + 1, MINUTE, HOUR - 1, HOUR, DAY, 29 * DAY, BLOCK, 2 * BLOCK + 1] {
            let mut wheel = Wheel::new(start);
            wheel.insert(start + delay, 'a');
            assert_eq!(wheel.next_due(), Some(start + delay));
            assert_eq!(fired(&mut wheel, start + delay - 1, 9), []);
            assert_eq!(wheel.next_due(), Some(start + delay));
            assert_eq!(fired(&mut wheel, start + delay, 9), [(start + delay, 'a')]);
            assert_eq!((wheel.next_due(), wheel.len()), (None, 0));
            check(&wheel);
        }
    }
}

#[test]
fn timers_of_one_millisecond_fire_in_order_of_insertion_whatever_their_path() {
    let due = 3 * BLOCK + 5 * DAY + 7 * HOUR + 11 * MINUTE + 13 * SECOND + 17;
    let mut wheel = Wheel::new(0);
    // One insertion from each level, as the time comes nearer.
    let nearer = [BLOCK, 3 * BLOCK + 1, due - 8 * HOUR, due - 12 * MINUTE, due - 14 * SECOND, due - 5, due];
    wheel.insert(due, 0);
    for (order, now) in (1..).zip(nearer) {
        let level = wheel.levels().iter().position(|count| *count > 0);
        assert_eq!(fired(&mut wheel, now.min(due - 1), 9), []);
        wheel.insert(due, order);
        assert!(level.is_some());
        check(&wheel);
    }
    assert_eq!(fired(&mut wheel, due, 99), (0..8).map(|order| (due, order)).collect::<Vec<_>>());
}

#[test]
fn a_late_timer_fires_at_the_next_advance_in_due_order() {
    let mut wheel = Wheel::new(100);
    for due in [90, 100, 20, 90, 0, 95, 20] {
        wheel.insert(due, wheel.len());
    }
    assert_eq!(wheel.next_due(), Some(0));
    check(&wheel);
    let first = fired(&mut wheel, 100, 2);
    wheel.insert(10, 7);
    check(&wheel);
    let rest = fired(&mut wheel, 100, 99);
    assert_eq!(first, [(0, 4), (20, 2)]);
    assert_eq!(rest, [(10, 7), (20, 6), (90, 0), (90, 3), (95, 5), (100, 1)]);
}

#[test]
fn late_timers_keep_the_order_of_insertion_through_any_number_of_runs() {
    for count in 0..70_u64 {
        let mut wheel = Wheel::new(100);
        let mut expected: Vec<_> = (0..count).map(|value| (value * 7 % 5 + value * 3 % 2, value)).collect();
        for (due, value) in &expected {
            wheel.insert(*due, *value);
        }
        expected.sort_unstable();
        assert_eq!(fired(&mut wheel, 100, 99), expected);
        check(&wheel);
    }
}

#[test]
fn the_bound_leaves_the_rest_due_and_in_order() {
    let mut wheel = Wheel::new(0);
    for value in 0..10 {
        wheel.insert(5 + value / 4, value);
    }
    assert_eq!(fired(&mut wheel, 1_000, 0), []);
    assert_eq!(fired(&mut wheel, 1_000, 2), [(5, 0), (5, 1)]);
    assert_eq!(wheel.next_due(), Some(5));
    // Due already, and in order with what the bound left behind.
    wheel.insert(5, 10);
    wheel.insert(4, 11);
    wheel.insert(6, 12);
    wheel.insert(900, 13);
    check(&wheel);
    assert_eq!(fired(&mut wheel, 1_000, 4), [(4, 11), (5, 2), (5, 3), (5, 10)]);
    assert_eq!(fired(&mut wheel, 1_000, 5), [(6, 4), (6, 5), (6, 6), (6, 7), (6, 12)]);
    assert_eq!(fired(&mut wheel, 1_000, 9), [(7, 8), (7, 9), (900, 13)]);
    assert_eq!(wheel.next_due(), None);
}

#[test]
fn a_cancelled_timer_never_fires_and_its_memory_is_reused() {
    let mut wheel = Wheel::new(0);
    let keys: Vec<_> = (0..1_000).map(|value| wheel.insert(value * value * 977, value)).collect();
    let memory = wheel.memory_bytes();
    for _ in 0..100 {
        let key = wheel.insert(HOUR, 0);
        assert_eq!(wheel.cancel(key), Some(0));
        assert_eq!(wheel.cancel(key), None);
    }
    for (value, key) in keys.iter().enumerate() {
        assert_eq!(wheel.cancel(*key), Some(value as u64));
    }
    check(&wheel);
    for value in 0..1_000 {
        wheel.insert(DAY, value);
    }
    assert!(keys.iter().all(|key| wheel.cancel(*key).is_none()), "stale keys name nothing");
    assert_eq!((wheel.len(), wheel.entries.len()), (1_000, 1_001));
    assert!(wheel.memory_bytes() <= memory.max(2_048 * size_of::<Entry<u64>>() + 32_768));
    assert_eq!(wheel.cancel(TimerKey { index: u32::MAX, generation: 1 }), None);
    let freed = wheel.insert(DAY, 0);
    wheel.cancel(freed);
    assert_eq!(wheel.cancel(TimerKey { generation: freed.generation + 1, ..freed }), None, "a free entry");
}

#[test]
fn the_end_of_time_is_a_due_time() {
    let mut wheel = Wheel::new(5);
    wheel.insert(u64::MAX, 'z');
    wheel.insert(u64::MAX - 1, 'y');
    assert_eq!(wheel.next_due(), Some(u64::MAX - 1));
    assert_eq!(fired(&mut wheel, u64::MAX - 1, 9), [(u64::MAX - 1, 'y')]);
    assert_eq!(fired(&mut wheel, u64::MAX, 9), [(u64::MAX, 'z')]);
    wheel.insert(u64::MAX, 'a');
    wheel.insert(0, 'b');
    check(&wheel);
    assert_eq!(fired(&mut wheel, u64::MAX, 9), [(0, 'b'), (u64::MAX, 'a')]);
    assert_eq!(fired(&mut Wheel::<char>::new(u64::MAX), u64::MAX, 9), []);
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut wheel = Wheel::new(0);
    wheel.insert(20, 'a');
    assert_eq!(fired(&mut wheel, 10, 9), []);
    assert_eq!(fired(&mut wheel, 5, 9), []);
    wheel.insert(8, 'b');
    assert_eq!(fired(&mut wheel, 5, 9), [(8, 'b')]);
    assert_eq!(fired(&mut wheel, 20, 9), [(20, 'a')]);
}

#[test]
fn levels_are_counted_where_the_timers_lie() {
    let mut wheel = Wheel::new(BLOCK);
    let offsets = [0, 1, SECOND, MINUTE, 2 * MINUTE, HOUR, DAY, BLOCK, 9 * BLOCK];
    for offset in offsets {
        wheel.insert(BLOCK + offset, ());
    }
    wheel.insert(BLOCK - 1, ());
    assert_eq!(wheel.levels(), [2, 1, 2, 1, 1, 2, 1]);
    assert_eq!(wheel.len(), 10);
}

/// Visits of lists, not milliseconds, are what a jump costs; if it were the latter, this test would not end.
#[test]
fn a_jump_over_empty_time_is_immediate() {
    let mut wheel = Wheel::new(0);
    let mut now = 0;
    for round in 0..100_000 {
        wheel.insert(now + 39 * DAY, round);
        now += 40 * DAY;
        assert_eq!(fired(&mut wheel, now, 9), [(now - DAY, round)]);
    }
    check(&wheel);
}

#[test]
fn following_next_due_wakes_once_per_due_time() {
    let mut wheel = Wheel::new(123);
    let dues: BTreeSet<u64> = (1..500).map(|value: u64| 123 + value * value * value * 1_009).collect();
    for due in &dues {
        wheel.insert(*due, ());
    }
    let mut wakes = Vec::new();
    while let Some(next) = wheel.next_due() {
        wakes.push(next);
        assert_eq!(fired(&mut wheel, next, 9).len(), 1);
    }
    assert!(wakes.into_iter().eq(dues));
}

#[test]
fn following_next_due_past_cancelled_timers_ends() {
    let mut wheel = Wheel::new(0);
    let mut wakes = 0;
    for due in [700, 59 * SECOND, 59 * MINUTE, 23 * HOUR, 29 * DAY, 70 * BLOCK] {
        let first = wheel.insert(due, 0);
        wheel.insert(due + 50, 1);
        wheel.cancel(first);
    }
    while let Some(next) = wheel.next_due() {
        fired(&mut wheel, next, 9);
        wakes += 1;
    }
    assert!(wakes <= 6 * (WHEELS + 2), "{wakes} wake-ups for six timers");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Due so far from the latest time, or in the past.
    Insert {
        delay: i64,
    },
    /// A key given out before, live or stale, counted from the latest.
    Cancel {
        back: usize,
    },
    Advance {
        delta: u64,
        max: usize,
    },
}

/// Spans around every border of the levels, and within.
fn span() -> impl Strategy<Value = u64> {
    let border = prop::sample::select(vec![0, 1, SECOND, MINUTE, HOUR, DAY, BLOCK, 3 * BLOCK]);
    let near = (border, 0..4_u64, -3..4_i64).prop_map(|(unit, n, d)| (unit * n).saturating_add_signed(d));
    prop_oneof![5 => near, 3 => 0..50_u64, 2 => 0..3 * SECOND, 1 => 0..3 * HOUR, 1 => 0..100 * DAY]
}

fn op() -> impl Strategy<Value = Op> {
    let max = prop_oneof![3 => Just(usize::MAX), 2 => 0..6_usize];
    prop_oneof![
        8 => span().prop_map(|delay| Op::Insert { delay: delay as i64 }),
        2 => (0..80_i64).prop_map(|ago| Op::Insert { delay: -ago }),
        1 => Just(Op::Insert { delay: i64::MAX }),
        3 => (0..60_usize).prop_map(|back| Op::Cancel { back }),
        4 => (span(), max).prop_map(|(delta, max)| Op::Advance { delta, max }),
    ]
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX - 5 * BLOCK), Just(u64::MAX - 50), 1_790_000_000_000..1_800_000_000_000_u64]
}

/// The wheel beside its model: all timers, by due time and order of insertion.
struct Pair {
    wheel: Wheel<u32>,
    model: BTreeMap<(u64, u32), TimerKey>,
    given: Vec<(TimerKey, u64, u32)>,
    now: u64,
}

impl Pair {
    fn new(now: u64) -> Self {
        Self { wheel: Wheel::new(now), model: BTreeMap::new(), given: Vec::new(), now }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Insert { delay } => {
                let (due, value) = (self.now.saturating_add_signed(delay), self.given.len() as u32);
                let key = self.wheel.insert(due, value);
                self.given.push((key, due, value));
                assert_eq!(self.model.insert((due, value), key), None);
            }
            Op::Cancel { back } => {
                let Some(position) = self.given.len().checked_sub(back + 1) else { return };
                let (key, due, value) = self.given[position];
                let live = self.model.remove(&(due, value)).map(|_| value);
                assert_eq!(self.wheel.cancel(key), live);
            }
            Op::Advance { delta, max } => self.advance(delta, max),
        }
        self.compare();
    }

    fn advance(&mut self, delta: u64, max: usize) {
        self.now = self.now.saturating_add(delta);
        let due = self.model.keys().take_while(|(due, _)| *due <= self.now).take(max);
        let expected: Vec<_> = due.copied().collect();
        for key in &expected {
            self.model.remove(key);
        }
        assert_eq!(fired(&mut self.wheel, self.now, max), expected);
        if expected.len() < max {
            assert!(self.wheel.next_due().is_none_or(|next| next > self.now), "would spin");
        }
    }

    fn compare(&self) {
        check(&self.wheel);
        assert_eq!(self.wheel.len(), self.model.len());
        match (self.wheel.next_due(), self.model.keys().next()) {
            (Some(next), Some((due, _))) => assert!(next <= *due),
            (next, due) => assert_eq!((next, due), (None, None)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_wheel_does_what_an_ordered_map_does(start in start(), ops in vec(op(), 1..120)) {
        let mut pair = Pair::new(start);
        for op in ops {
            pair.run(op);
        }
        pair.advance(u64::MAX, usize::MAX);
        prop_assert!(pair.wheel.is_empty() && pair.model.is_empty());
    }

    #[test]
    fn the_wheel_fires_when_another_implementation_does(start in start(), ops in vec(op(), 1..80)) {
        let mut wheel = Wheel::new(start);
        let mut oracle = Oracle::new();
        let mut keys = Vec::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Insert { delay } if Oracle::can_hold(delay) => {
                    let Some(due) = (start + now).checked_add(delay as u64) else { continue };
                    oracle.insert(now, delay as u64, keys.len() as u64);
                    keys.push(wheel.insert(due, keys.len() as u64));
                }
                Op::Insert { .. } => {}
                Op::Cancel { back } => {
                    let Some(position) = keys.len().checked_sub(back + 1) else { continue };
                    prop_assert_eq!(wheel.cancel(keys[position]).is_some(), oracle.cancel(position as u64));
                }
                Op::Advance { delta, .. } => {
                    now += delta.min(u64::MAX - start - now);
                    let mut ours = fired(&mut wheel, start + now, usize::MAX);
                    // The order within a millisecond is no promise of theirs.
                    ours.sort_unstable();
                    let theirs = oracle.advance(now).into_iter().map(|(at, id)| (start + at, id));
                    prop_assert_eq!(ours, theirs.collect::<Vec<_>>());
                }
            }
        }
    }
}

/// Kompact's wheel (four levels of 256), which moves tick by tick and says how many ticks are free to skip.
struct Oracle {
    wheel: QuadWheelWithOverflow<IdOnlyTimerEntry<u64>>,
    now: u64,
}

impl Oracle {
    fn new() -> Self {
        Self { wheel: QuadWheelWithOverflow::new(), now: 0 }
    }

    /// It refuses what is due already, and is wrong (1.4.0) within 2^24 ms below 2^32: inserted at 2,345,393 ms
    /// with a delay of 4,292,621,903 ms, a timer is due at 2^32 ms, wraps around, and fires at 2^24 ms.
    fn can_hold(delay: i64) -> bool {
        delay > 0 && delay < i64::MAX && !((1 << 32) - (1 << 24)..=1 << 32).contains(&delay)
    }

    fn insert(&mut self, now: u64, delay: u64, id: u64) {
        assert_eq!(now, self.now);
        let delay = core::time::Duration::from_millis(delay);
        self.wheel.insert(IdOnlyTimerEntry { id, delay }).expect("not due yet");
    }

    fn cancel(&mut self, id: u64) -> bool {
        self.wheel.cancel(&id).is_ok()
    }

    /// When each timer fired, and which, sorted.
    fn advance(&mut self, now: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        while self.now < now {
            let skip = match self.wheel.can_skip() {
                Skip::Empty => u64::from(u32::MAX),
                Skip::Millis(ms) => u64::from(ms),
                Skip::None => 0,
            };
            let skip = skip.min(now - self.now - 1);
            self.wheel.skip(skip as u32);
            self.now += skip + 1;
            all.extend(self.wheel.tick().iter().map(|entry| (self.now, entry.id)));
        }
        all.sort_unstable();
        all
    }
}
