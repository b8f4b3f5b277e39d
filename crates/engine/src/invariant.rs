//! Invariants, one file each: facts that a log of batches has to show.
