//! S6, the part that needs the clients: what was cancelled, or ended otherwise, stays so unless somebody asks.

use std::collections::BTreeSet;

use tidewheel_engine::task::{State, Task};

use super::At;

#[derive(Debug, Default)]
pub(super) struct Cancel {
    retried: BTreeSet<At>,
}

impl Cancel {
    pub(super) fn retried(&mut self, at: At) {
        self.retried.insert(at);
    }

    pub(super) fn changed(&self, at: At, was: Option<State>, task: &Task) -> Option<String> {
        let reopened = was.is_some_and(State::is_terminal) && !task.state.is_terminal();
        (reopened && !self.retried.contains(&at))
            .then(|| format!("task {:x} was {:?} and is {:?} without anybody's wish", task.id.0, was, task.state))
    }
}
