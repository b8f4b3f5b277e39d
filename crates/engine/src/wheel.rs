//! A hierarchical timing wheel: the timers that a partition holds in memory, by due time in milliseconds.
//!
//! It keeps a due time with a small payload and hands the payload back once that time has come, in due order and never
//! early. It never reads a clock, allocates per timer, or looks at empty milliseconds. What a timer means, how far
//! ahead timers are loaded and how many may be held is the caller's business.
//!
//! The algorithm is scheme 7 of G. Varghese and A. Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), with
//! levels aligned to absolute time, as the hands of a clock are. The *cursor* is the earliest millisecond that may
//! still hold timers. A timer lies in the finest level whose current revolution contains both it and the cursor:
//!
//! ```text
//! late       due before the cursor (inserted when already due)        sorted when it must be
//! level 0    1,000 slots of 1 ms     the cursor's second              one slot = one due time, in insertion order
//! level 1    60 slots of 1 s         the rest of its minute
//! level 2    60 slots of 1 min       the rest of its hour
//! level 3    24 slots of 1 h         the rest of its day
//! level 4    30 slots of 1 d         the rest of its block of 30 days
//! overflow   everything after that   one list, looked through once per block that holds a timer
//! ```
//!
//! Three consequences carry the code. Every timer of a level is due before every timer of the next, so the next list to
//! look at is the first set bit of the first level that is not empty. When the cursor enters a slot above level 0, the
//! slot's timers *cascade*: they move down, five times at most in a life. And the place of a timer follows from its due
//! time and the cursor alone, at any moment; it need not be stored, and two timers of one due time always share a list.
//! Cascades keep a list's order, therefore timers of one millisecond fire in the order of insertion.

use std::fmt;

/// Entries of [`Wheel::levels`], in the order of [`LEVEL_NAMES`].
pub const LEVELS: usize = 7;
/// Names of the levels, as metric labels.
pub const LEVEL_NAMES: [&str; LEVELS] = ["ms", "second", "minute", "hour", "day", "overflow", "late"];

/// Levels that have slots.
const WHEELS: usize = 5;
/// Milliseconds of one slot of each level.
const UNITS: [u32; WHEELS] = [1, 1_000, 60_000, 3_600_000, 86_400_000];
/// Milliseconds of one revolution of each level: a slot of the next. The largest fits in 32 bits, so that the slot of a
/// timer costs one 32-bit division.
const SPANS: [u64; WHEELS] = [1_000, 60_000, 3_600_000, 86_400_000, 2_592_000_000];
/// First list of each level.
const BASES: [usize; WHEELS] = [0, 1_000, 1_060, 1_120, 1_144];
/// First bitmap word of each level, and their number: 1,000 bits take 16 words, the others one each.
const WORDS: [usize; WHEELS + 1] = [0, 16, 17, 18, 19, 20];
/// Level and list of the timers after the last revolution.
const OVERFLOW_LEVEL: usize = 5;
const OVERFLOW: usize = 1_174;
/// Level and list of the timers that were already due when they were inserted.
const LATE_LEVEL: usize = 6;
const LATE: usize = 1_175;
const LISTS: usize = 1_176;
/// No entry. Hence at most 2^32 - 1 timers.
const NIL: u32 = u32::MAX;
/// A list of 2^32 entries has fewer than 2^32 runs, so that a merge sort needs this many pending runs at most.
const RUNS: usize = 33;

/// Names one inserted timer. Once that timer has fired or was cancelled, the key is stale and names nothing.
///
/// (A slab entry would have to be reused 2^31 times for a stale key to name another timer.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    /// Entry of the slab.
    pub index: u32,
    /// How often that entry changed hands; odd while it holds a timer.
    pub generation: u32,
}

/// One timer, or a free entry (`generation` even), whose `next` is the next free one.
#[derive(Clone)]
struct Entry<T> {
    due: u64,
    prev: u32,
    next: u32,
    generation: u32,
    value: T,
}

/// A doubly linked list through the slab, oldest first.
#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    /// Not above any due time in the list; exact unless the least was cancelled.
    least: u64,
}

const EMPTY: List = List { head: NIL, tail: NIL, least: u64::MAX };

/// Where a due time belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    level: usize,
    /// Within the level; 0 where the level is a single list.
    slot: usize,
    list: usize,
}

/// Timers with payloads of type `T`. Times are milliseconds of one clock of the caller's choice.
#[derive(Clone)]
pub struct Wheel<T> {
    entries: Vec<Entry<T>>,
    /// First free entry of `entries`.
    free: u32,
    lists: Box<[List; LISTS]>,
    /// One bit per slot: does it hold timers?
    bits: [u64; WORDS[WHEELS]],
    counts: [usize; LEVELS],
    /// No timer outside the late list is due before it. Never above the latest time given to [`Wheel::advance`].
    cursor: u64,
    /// Start of the revolution of each level that contains the cursor.
    starts: [u64; WHEELS],
    /// The late list is out of due order. Set by insertion, so that a backlog inserted in due order costs no sorting.
    late_unsorted: bool,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel. Takes about 20 KB.
    pub fn new(now_ms: u64) -> Self {
        Self {
            entries: Vec::new(),
            free: NIL,
            lists: Box::new([EMPTY; LISTS]),
            bits: [0; WORDS[WHEELS]],
            counts: [0; LEVELS],
            cursor: now_ms,
            starts: SPANS.map(|span| now_ms - now_ms % span),
            late_unsorted: false,
        }
    }

    /// Adds a timer, in O(1). One that is already due fires at the next [`advance`](Self::advance).
    ///
    /// # Panics
    ///
    /// With 2^32 - 1 timers in the wheel, which is more than 100 GB of them; callers bound the number far below.
    pub fn insert(&mut self, due_ms: u64, value: T) -> TimerKey {
        let index = self.allocate(due_ms, value);
        self.link(index);
        TimerKey { index, generation: self.entries[index as usize].generation }
    }

    /// Takes a timer out, in O(1), and frees its memory for the next insertion. `None` if the key is stale.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation || entry.generation.is_multiple_of(2) {
            return None;
        }
        Some(self.remove(key.index).1)
    }

    /// Fires what is due at `now_ms`: calls `fire` with due time and payload, in due order and, within one
    /// millisecond, in the order of insertion. Returns how many fired.
    ///
    /// At most `max` fire. The rest stays due: it fires first in the next call, in order with what is inserted until
    /// then. A result below `max` means that nothing is due any more.
    ///
    /// Costs O(1) per timer fired and per timer that moves down a level, and O(levels) per call; time without timers
    /// costs nothing. The cascades of a call are not bounded by `max`: entering a minute moves all timers of that
    /// minute once. Already due timers that were inserted out of due order are sorted first, and the overflow list is
    /// looked through once per block of 30 days that holds a timer. A clock that went back counts as standing still.
    pub fn advance(&mut self, now_ms: u64, max: usize, fire: &mut impl FnMut(u64, T)) -> usize {
        let now = now_ms.max(self.cursor);
        if max == 0 {
            return 0;
        }
        self.sort_late();
        let mut fired = self.drain(LATE, max, fire);
        while fired < max && self.step(now) {
            let slot = (self.cursor - self.starts[0]) as usize;
            fired += self.drain(slot, max - fired, fire);
        }
        fired
    }

    /// When to call [`advance`](Self::advance) next; `None` if the wheel is empty. In O(1).
    ///
    /// Never later than the earliest due time, and equal to it unless the earliest timer of its list was cancelled.
    /// After an `advance` that fired fewer than its `max`, it is later than that `now_ms` (until something due is
    /// inserted): waking at this time and advancing to it fires a timer or moves timers down, so that a loop of both
    /// never spins.
    pub fn next_due(&self) -> Option<u64> {
        let late = &self.lists[LATE];
        if late.head != NIL {
            return Some(if self.late_unsorted { late.least } else { self.entries[late.head as usize].due });
        }
        let (place, _) = self.next_list()?;
        Some(self.lists[place.list].least)
    }

    /// Timers in the wheel.
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// No timers?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap and inline bytes: the most timers ever held at once, with the room for growth, and the lists. Freed entries
    /// are reused, never given back.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<T>>() + size_of::<[List; LISTS]>() + size_of::<Self>()
    }

    /// Timers by level, for a metric; labels in [`LEVEL_NAMES`].
    pub fn levels(&self) -> [usize; LEVELS] {
        self.counts
    }

    /// The place of a due time, given the cursor. Holds for every timer in the wheel at any time, see the module's
    /// text.
    fn place(&self, due: u64) -> Place {
        if due < self.cursor {
            return Place { level: LATE_LEVEL, slot: 0, list: LATE };
        }
        for level in 0..WHEELS {
            let offset = due - self.starts[level];
            if offset < SPANS[level] {
                let slot = (offset as u32 / UNITS[level]) as usize;
                return Place { level, slot, list: BASES[level] + slot };
            }
        }
        Place { level: OVERFLOW_LEVEL, slot: 0, list: OVERFLOW }
    }

    /// An entry from the free list or, without one, from the slab's growth. Not in a list yet.
    fn allocate(&mut self, due: u64, value: T) -> u32 {
        let index = self.free;
        if index != NIL {
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            let generation = entry.generation.wrapping_add(1);
            *entry = Entry { due, prev: NIL, next: NIL, generation, value };
            return index;
        }
        let index = u32::try_from(self.entries.len()).ok().filter(|index| *index != NIL);
        let index = index.expect("callers hold fewer than 2^32 - 1 timers");
        self.entries.push(Entry { due, prev: NIL, next: NIL, generation: 1, value });
        index
    }

    /// Appends an entry to the list of its due time.
    fn link(&mut self, index: u32) {
        let due = self.entries[index as usize].due;
        let place = self.place(due);
        let list = &mut self.lists[place.list];
        let tail = list.tail;
        list.tail = index;
        list.least = list.least.min(due);
        if tail == NIL {
            list.head = index;
            if place.level < WHEELS {
                self.bits[WORDS[place.level] + place.slot / 64] |= 1 << (place.slot % 64);
            }
        } else {
            let last = &mut self.entries[tail as usize];
            last.next = index;
            self.late_unsorted |= place.level == LATE_LEVEL && due < last.due;
        }
        let entry = &mut self.entries[index as usize];
        entry.prev = tail;
        entry.next = NIL;
        self.counts[place.level] += 1;
    }

    /// Takes an entry out of its list and frees it.
    fn remove(&mut self, index: u32) -> (u64, T) {
        let entry = &mut self.entries[index as usize];
        let (due, value, prev, next) = (entry.due, entry.value, entry.prev, entry.next);
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        let place = self.place(due);
        let list = &mut self.lists[place.list];
        match prev {
            NIL => list.head = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NIL => list.tail = prev,
            next => self.entries[next as usize].prev = prev,
        }
        if list.head == NIL {
            self.clear(place);
        }
        self.counts[place.level] -= 1;
        (due, value)
    }

    /// Makes a list empty. Its entries and the level's count are the caller's.
    fn clear(&mut self, place: Place) {
        self.lists[place.list] = EMPTY;
        if place.level < WHEELS {
            self.bits[WORDS[place.level] + place.slot / 64] &= !(1 << (place.slot % 64));
        }
        self.late_unsorted &= place.level != LATE_LEVEL;
    }

    /// Fires from the head of a list, up to `max`.
    fn drain(&mut self, list: usize, max: usize, fire: &mut impl FnMut(u64, T)) -> usize {
        let mut fired = 0;
        while fired < max && self.lists[list].head != NIL {
            // Out of the wheel first: should `fire` panic, nothing fires twice.
            let (due, value) = self.remove(self.lists[list].head);
            fire(due, value);
            fired += 1;
        }
        fired
    }

    /// Moves the cursor to the next millisecond with timers, cascading on the way, or to `now` if none is due by then.
    /// True if there is one. Only with an empty late list: its timers are due before any the cursor may go to.
    fn step(&mut self, now: u64) -> bool {
        while let Some((place, start)) = self.next_list()
            && start <= now
        {
            if place.level == 0 {
                self.move_cursor(start);
                return true;
            }
            self.cascade(place, now);
        }
        self.move_cursor(now);
        false
    }

    /// The list of the earliest timers outside the late list, and where its time span starts.
    fn next_list(&self) -> Option<(Place, u64)> {
        for level in 0..WHEELS {
            if self.counts[level] == 0 {
                continue;
            }
            // Slots before the cursor are empty, so the first set bit is the next slot.
            let words = &self.bits[WORDS[level]..WORDS[level + 1]];
            let word = words.iter().position(|word| *word != 0).expect("a level that counts timers has a bit set");
            let slot = word * 64 + words[word].trailing_zeros() as usize;
            let start = self.starts[level] + slot as u64 * u64::from(UNITS[level]);
            return Some((Place { level, slot, list: BASES[level] + slot }, start));
        }
        if self.counts[OVERFLOW_LEVEL] == 0 {
            return None;
        }
        let least = self.lists[OVERFLOW].least;
        let place = Place { level: OVERFLOW_LEVEL, slot: 0, list: OVERFLOW };
        Some((place, least - least % SPANS[WHEELS - 1]))
    }

    /// Enters a list above level 0 and moves its timers to the levels below. The list's span starts at `now` or before.
    ///
    /// The cursor goes as far as it may, past the empty start of the span, which spares lone timers the levels between.
    /// Overflow timers of a later block come back to the overflow list, with its least due time made exact.
    fn cascade(&mut self, place: Place, now: u64) {
        let List { head, least, .. } = self.lists[place.list];
        self.clear(place);
        self.move_cursor(now.min(least));
        let mut index = head;
        while index != NIL {
            let next = self.entries[index as usize].next;
            self.counts[place.level] -= 1;
            self.link(index);
            index = next;
        }
    }

    /// Moves the cursor forward, past no timer.
    fn move_cursor(&mut self, to: u64) {
        self.cursor = to;
        if to - self.starts[0] < SPANS[0] {
            return;
        }
        for (start, span) in self.starts.iter_mut().zip(SPANS) {
            *start = to - to % span;
        }
    }

    /// Brings the late list into due order if it is not: a stable merge sort of its ascending runs, without memory.
    ///
    /// Insertion at the sorted place was dropped: a client that submits past due times in descending order would make
    /// every insertion linear.
    fn sort_late(&mut self) {
        if !self.late_unsorted {
            return;
        }
        // `runs[i]` holds the merge of 2^i runs, the earlier inserted in the higher places.
        let mut runs = [NIL; RUNS];
        let mut rest = self.lists[LATE].head;
        while rest != NIL {
            let mut run = rest;
            rest = self.cut_run(rest);
            let mut place = 0;
            while runs[place] != NIL {
                run = self.merge(runs[place], run);
                runs[place] = NIL;
                place += 1;
            }
            runs[place] = run;
        }
        let sorted = runs.into_iter().fold(NIL, |sorted, run| self.merge(run, sorted));
        self.relink_late(sorted);
        self.late_unsorted = false;
    }

    /// Ends the chain after its first ascending run; returns the rest.
    fn cut_run(&mut self, head: u32) -> u32 {
        let mut last = head;
        loop {
            let next = self.entries[last as usize].next;
            if next != NIL && self.entries[next as usize].due >= self.entries[last as usize].due {
                last = next;
                continue;
            }
            self.entries[last as usize].next = NIL;
            return next;
        }
    }

    /// Merges two ascending chains by `next`; of equal dues, `first`'s come first.
    fn merge(&mut self, first: u32, second: u32) -> u32 {
        let (mut a, mut b) = (first, second);
        let (mut head, mut tail) = (NIL, NIL);
        while a != NIL && b != NIL {
            let from = if self.entries[a as usize].due <= self.entries[b as usize].due { &mut a } else { &mut b };
            let index = *from;
            *from = self.entries[index as usize].next;
            match tail {
                NIL => head = index,
                tail => self.entries[tail as usize].next = index,
            }
            tail = index;
        }
        let rest = if a == NIL { b } else { a };
        match tail {
            NIL => head = rest,
            tail => self.entries[tail as usize].next = rest,
        }
        head
    }

    /// Makes a chain by `next` the late list.
    fn relink_late(&mut self, head: u32) {
        let (mut prev, mut index) = (NIL, head);
        while index != NIL {
            let entry = &mut self.entries[index as usize];
            entry.prev = prev;
            prev = index;
            index = entry.next;
        }
        let least = self.entries.get(head as usize).map_or(u64::MAX, |entry| entry.due);
        self.lists[LATE] = List { head, tail: prev, least };
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("cursor", &self.cursor).field("levels", &self.counts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
