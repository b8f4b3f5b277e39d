//! L2 and L3: a free worker and a task for it come together; what is due fires.

use std::collections::BTreeMap;

use tidewheel_engine::id::TaskId;

/// A timer may be so late, once things are well: 10 s after a recovery, and never longer.
const LATE: u64 = 10_000_000;

#[derive(Debug)]
pub(crate) struct Dispatch {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Default)]
struct Part {
    /// Tasks that could go, and since when.
    could_go: BTreeMap<TaskId, u64>,
    granted: u64,
    late: Option<(TaskId, u64, u64)>,
}

impl Dispatch {
    pub(super) fn new(partitions: usize) -> Dispatch {
        Dispatch { parts: vec![Part::default(); partitions] }
    }

    pub(super) fn granted(&mut self, partition: usize, now: u64) {
        self.parts[partition].granted = now;
    }

    /// No promise holds at the moment.
    pub(crate) fn unwell(&mut self, partition: usize) {
        let granted = self.parts[partition].granted;
        self.parts[partition] = Part { granted, ..Part::default() };
    }

    /// No worker is free.
    pub(crate) fn busy(&mut self, partition: usize) {
        self.parts[partition].could_go.clear();
    }

    /// These tasks could be granted now. Returns one that could for too long while nothing was granted.
    pub(crate) fn could_go(
        &mut self,
        partition: usize,
        now: u64,
        allowed: u64,
        tasks: &[TaskId],
    ) -> Option<(TaskId, u64)> {
        let part = &mut self.parts[partition];
        let since = tasks.iter().map(|id| (*id, part.could_go.get(id).copied().unwrap_or(now).max(part.granted)));
        part.could_go = since.collect();
        let stuck = part.could_go.iter().find(|(_, since)| now > **since + allowed);
        stuck.map(|(id, since)| (*id, now - since))
    }

    pub(crate) fn late(&mut self, partition: usize, task: TaskId, now: u64, by_ms: u64) {
        let part = &mut self.parts[partition];
        let since = part.late.map_or(now, |(_, since, _)| since);
        part.late = Some((task, since, by_ms));
    }

    pub(crate) fn on_time(&mut self, partition: usize) {
        self.parts[partition].late = None;
    }

    pub(crate) fn too_late(&self, partition: usize, now: u64) -> Option<String> {
        let (task, since, by) = self.parts[partition].late?;
        (now > since + LATE).then(|| format!("task {:x} has been due for {by} ms and has not fired", task.0))
    }
}
