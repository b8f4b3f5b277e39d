//! What the timing wheel costs per operation, at 10 thousand, 1 million and 10 million timers.
//!
//! `cargo run --release -p tidewheel-engine --example wheel_cost [timers ...]`
//!
//! Dues are spread evenly over a span ahead of the clock: a minute, as the engine holds them, and a day, where timers
//! cascade through more levels. Entries are visited far apart, so that the figures contain the cache misses of real
//! use; they also contain the choice of due times (about 2 ns) and readings of the clock (about 20 ns per batch or
//! call).
//!
//! * `fill`: insertion into a growing wheel, and its slowest 16 insertions, which is a growth of the slab.
//! * `insert`, `cancel`: in turns in a full wheel, so that each reuses what the other freed.
//! * `tick`: from one `next_due` to the next until all fired, at most 2,048 per call: per timer, per call, and the
//!   longest call, which is the cascade of the fullest slot.
//! * `idle`: `next_due` and `advance` in a full wheel with nothing due.
//! * `jump`: 40 days on, with ten insertions and ten timers that fire on the way.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tidewheel_engine::wheel::{TimerKey, Wheel};

/// A date of 2026, so that slots are not aligned to the start.
const START: u64 = 1_790_000_012_345;
const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;
/// As `limit::TIMERS_PER_TURN`.
const MAX: usize = 2_048;
/// Insertions and cancellations of one timed batch.
const BATCH: usize = 1_000;

/// Marsaglia's xorshift: cheap, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(bound)) >> 64) as u64
    }
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|size| size.parse().expect("a number of timers")).collect();
    let sizes = if sizes.is_empty() { vec![10_000, 1_000_000, 10_000_000] } else { sizes };
    println!(
        "{:>10} {:>6} | {:>7} {:>9} {:>7} {:>7} | {:>10} {:>9} {:>10} | {:>7} {:>8} | {:>7}",
        "timers",
        "span",
        "fill ns",
        "worst us",
        "insert",
        "cancel",
        "ns/timer",
        "ns/call",
        "worst us",
        "idle ns",
        "jump ns",
        "B/timer"
    );
    for size in sizes {
        for (name, span) in [("minute", MINUTE), ("day", DAY)] {
            measure(size, name, span);
        }
    }
}

fn measure(size: usize, name: &str, span: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut wheel = Wheel::<u64>::new(START);
    let mut keys = Vec::with_capacity(size);
    let (fill, fill_worst) = fill(&mut wheel, &mut keys, size, span, &mut random);
    let (insert, cancel) = churn(&mut wheel, &mut keys, span, &mut random);
    let idle = idle(&wheel);
    let bytes = wheel.memory_bytes() / size;
    let (timer, call, tick_worst) = tick(&mut wheel);
    println!(
        "{size:>10} {name:>6} | {fill:>7.1} {fill_worst:>9.1} {insert:>7.1} {cancel:>7.1} | {timer:>10.1} {call:>9.1} \
         {tick_worst:>10.1} | {idle:>7.1} {:>8.1} | {bytes:>7}",
        jump()
    );
}

fn sink(value: u64) {
    black_box(value);
}

fn per(time: Duration, operations: usize) -> f64 {
    time.as_nanos() as f64 / operations as f64
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// Nanoseconds per insertion into the growing wheel; microseconds of the slowest 16.
fn fill(wheel: &mut Wheel<u64>, keys: &mut Vec<TimerKey>, size: usize, span: u64, random: &mut Random) -> (f64, f64) {
    let mut worst = Duration::ZERO;
    let begin = Instant::now();
    let mut last = begin;
    for value in 0..size {
        keys.push(wheel.insert(START + 1 + random.below(span), value as u64));
        if value % 16 == 15 {
            let now = Instant::now();
            worst = worst.max(now - last);
            last = now;
        }
    }
    (per(begin.elapsed(), size), micros(worst))
}

/// Nanoseconds per insertion and per cancellation of a random timer, with the wheel full.
fn churn(wheel: &mut Wheel<u64>, keys: &mut [TimerKey], span: u64, random: &mut Random) -> (f64, f64) {
    let (mut insert, mut cancel) = (Duration::ZERO, Duration::ZERO);
    let batches = (keys.len() / BATCH).clamp(100, 2_000);
    // Chosen beforehand: the misses of this array are not the wheel's.
    let mut picks = vec![0; BATCH];
    for _ in 0..batches {
        let offset = random.below(keys.len() as u64) as usize;
        // Distinct entries, far apart.
        picks.iter_mut().enumerate().for_each(|(i, pick)| *pick = (offset + i * (keys.len() / BATCH)) % keys.len());
        let mut chosen: Vec<_> = picks.iter().map(|pick| keys[*pick]).collect();
        let begin = Instant::now();
        for key in &chosen {
            black_box(wheel.cancel(*key)).expect("each key is live");
        }
        cancel += begin.elapsed();
        let begin = Instant::now();
        for key in &mut chosen {
            *key = wheel.insert(START + 1 + random.below(span), 7);
        }
        insert += begin.elapsed();
        picks.iter().zip(chosen).for_each(|(pick, key)| keys[*pick] = key);
    }
    (per(insert, batches * BATCH), per(cancel, batches * BATCH))
}

/// Nanoseconds of `next_due` and `advance` with nothing due.
fn idle(wheel: &Wheel<u64>) -> f64 {
    let mut wheel = wheel.clone();
    let calls = 1_000_000;
    let begin = Instant::now();
    for _ in 0..calls {
        black_box(wheel.next_due());
        black_box(wheel.advance(black_box(START), MAX, &mut |_, value| sink(value)));
    }
    per(begin.elapsed(), calls)
}

/// Nanoseconds per timer and per call until all fired; microseconds of the longest call.
fn tick(wheel: &mut Wheel<u64>) -> (f64, f64, f64) {
    let (size, mut calls, mut worst, mut last_due) = (wheel.len(), 0, Duration::ZERO, 0);
    let begin = Instant::now();
    let mut last = begin;
    while let Some(now) = wheel.next_due() {
        wheel.advance(now, MAX, &mut |due, value| {
            assert!(due == now && due >= last_due, "early, late or out of order");
            last_due = due;
            sink(value);
        });
        calls += 1;
        let read = Instant::now();
        worst = worst.max(read - last);
        last = read;
    }
    let time = begin.elapsed();
    (per(time, size), per(time, calls), micros(worst))
}

/// Nanoseconds to go 40 days on with ten timers on the way, insertions included.
fn jump() -> f64 {
    let mut wheel = Wheel::<u64>::new(START);
    let (rounds, mut now) = (10_000, START);
    let begin = Instant::now();
    for _ in 0..rounds {
        for timer in 1..=10 {
            wheel.insert(now + timer * 3 * DAY + timer, timer);
        }
        now += 40 * DAY;
        assert_eq!(wheel.advance(now, MAX, &mut |_, value| sink(value)), 10);
    }
    per(begin.elapsed(), rounds)
}
