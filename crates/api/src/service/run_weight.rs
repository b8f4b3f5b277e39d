//! What takes how much of what a run may carry, for those who ask why it does not go on.

use tidewheel_engine::limit::INLINE_STATE;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::weight::{kib, most};

/// What takes most of the values that a run carries, if they are half of what it may carry or more.
pub(crate) fn much_carried(head: &Head) -> Option<String> {
    let carried = head.inline();
    if carried < INLINE_STATE / 2 {
        return None;
    }
    let (most, advice) = most(head)?;
    let (carried, all) = (kib(carried), kib(INLINE_STATE));
    Some(format!(
        "It carries {carried} of values, and may carry {all}; a statement or entry that would go past that fails. Most of it: {most}. To \
         make it less, {advice}; values above 64 KiB are kept apart and count nothing."
    ))
}
