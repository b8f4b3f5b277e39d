//! Time as an argument. The engine never reads a clock; each call brings the time it happens at.

/// Both clocks at one moment, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since 1970. Never falls within a partition; used for absolute dates and for everything that is stored.
    pub wall: u64,
    /// Since some start. Never falls, not affected by clock changes; used for leases and timeouts in memory.
    pub mono: u64,
}
