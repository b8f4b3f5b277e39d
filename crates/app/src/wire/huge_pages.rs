//! Transparent huge pages of the kernel (2 MiB instead of 4 KiB): a server does without them until it has work.
//!
//! The allocator has an area for each thread and size of block, so that what an idle server needs, 6 MiB, lies in eleven
//! huge pages. Once there is work the areas fill, and huge pages spare it faults: without them, a worker has the first
//! 200,000 tasks of a restarted server 5 % later (`tidewheel bench memory`).

use tidewheel_runtime::Runtime;

/// That they are off, and are to come back.
pub(super) struct TurnedOff(());

/// Turns them off for this process. `None` where they are off already or the kernel has no such setting.
pub(super) fn turn_off() -> Option<TurnedOff> {
    // SAFETY: system calls that take numbers alone.
    let done = unsafe {
        libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 && libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
    };
    done.then_some(TurnedOff(()))
}

impl TurnedOff {
    /// Turns them on again with the first task or run that changes.
    pub(super) fn until_work(self, runtime: &Runtime) {
        let (mut tasks, mut runs) = (runtime.feed(), runtime.run_feed());
        tokio::spawn(async move {
            // An error says that changes were missed, or that the runtime has ended: both are as good.
            tokio::select! {
                _ = tasks.recv() => {}
                _ = runs.recv() => {}
            }
            // SAFETY: a system call that takes numbers alone. Failure leaves them off, which costs speed alone.
            unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0) };
        });
    }
}
