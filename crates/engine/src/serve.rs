//! What a worker serves: bounds that it declares on the tasks it is given. Every bound that it leaves open serves all.

use crate::id::Name;
use crate::limit;

/// How long a task is expected to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Length {
    /// Below [`limit::SHORT_MS`].
    Short = 0,
    /// Between the two, or nobody said.
    #[default]
    Medium = 1,
    /// Above [`limit::LONG_MS`].
    Long = 2,
}

impl Length {
    /// Of an expected run in milliseconds; 0 = unknown.
    pub fn of(expected_ms: u64) -> Length {
        match expected_ms {
            0 => Length::Medium,
            ms if ms < limit::SHORT_MS => Length::Short,
            ms if ms > limit::LONG_MS => Length::Long,
            _ => Length::Medium,
        }
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Length::Short => "short",
            Length::Medium => "medium",
            Length::Long => "long",
        }
    }
}

/// The name of a priority class, see [`crate::task::class_of`].
pub fn class_name(class: u8) -> &'static str {
    match class {
        0 => "low",
        1 => "medium",
        _ => "high",
    }
}

/// The executor key of tasks that no routing rule gave one.
pub const PLAIN_EXECUTOR: &str = "automated";

/// Bounds of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serves {
    /// Bit n = priority class n; 0 = all classes.
    pub classes: u8,
    /// Bit n = [`Length`] n; 0 = all lengths.
    pub lengths: u8,
    /// Executor keys, sorted; empty = all.
    pub executors: Vec<Name>,
}

impl Serves {
    /// Whether such a task may be given to the worker.
    pub fn takes(&self, class: u8, length: Length, executor: Option<&Name>) -> bool {
        self.takes_class(class) && self.takes_length(length) && self.takes_executor(executor)
    }

    /// As far as the priority class goes.
    pub fn takes_class(&self, class: u8) -> bool {
        self.classes == 0 || self.classes & (1 << class) != 0
    }

    /// As far as the expected length goes.
    pub fn takes_length(&self, length: Length) -> bool {
        self.lengths == 0 || self.lengths & (1 << length as u8) != 0
    }

    /// As far as the executor key goes.
    pub fn takes_executor(&self, executor: Option<&Name>) -> bool {
        let key = executor.map_or(PLAIN_EXECUTOR, |name| name);
        self.executors.is_empty() || self.executors.iter().any(|name| **name == *key)
    }

    /// How much it serves: the worker that serves least is the most dedicated one, and goes before the others.
    pub(crate) fn breadth(&self) -> u32 {
        let share = |bits: u8| if bits == 0 { 3 } else { bits.count_ones() };
        let executors = match self.executors.len() {
            0 => limit::SERVED_EXECUTORS as u32 + 1,
            some => some as u32,
        };
        share(self.classes) * share(self.lengths) * executors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_the_minute_and_the_ten_minutes() {
        let of = |ms| Length::of(ms).as_str();
        assert_eq!(
            [0, 1, 59_999, 60_000, 600_000, 600_001].map(of),
            ["medium", "short", "short", "medium", "medium", "long"]
        );
    }

    #[test]
    fn an_open_bound_serves_all_and_a_narrow_one_is_more_dedicated() {
        let all = Serves::default();
        assert!(all.takes(2, Length::Long, Some(&"gpu".into())) && all.takes(0, Length::Short, None));
        let high = Serves { classes: 0b100, ..Serves::default() };
        assert!(high.takes(2, Length::Medium, None) && !high.takes(1, Length::Medium, None));
        let gpu = Serves { executors: vec!["gpu".into()], ..Serves::default() };
        assert!(gpu.takes_executor(Some(&"gpu".into())) && !gpu.takes_executor(None));
        assert!(high.breadth() < all.breadth() && gpu.breadth() < all.breadth());
    }
}
