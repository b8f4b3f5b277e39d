"""One slot: tasks run on the main thread, one after another, and the main thread reads between them.

That makes a short task cheap, for no other thread has to wake up for it. What the main thread cannot do while a long task
holds it, a watcher does:

    main     run run run read | long task ................... | read
    watcher  .     .     .    .     | takes the lock, reads, flushes | woken, gives the lock back

The watcher looks every `TICK_S`. It flushes what a task left waiting, and when the same task runs at two ticks it takes
`read_lock` and reads (so that a cancellation arrives). The main thread wakes it through the link's pipe when it wants the
lock back. Without work for `PARK_TICKS` the watcher sleeps until the next task, so that an idle worker uses no time at all.
"""

from __future__ import annotations

import os
import threading
import time

from .link import LinkClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from .session import Session

TICK_S = 0.025
PARK_TICKS = 40
#: How long a running task may go on when the agent is gone, to leave its files in order.
ORPHAN_GRACE_S = 2.0


class SerialLoop:
    """Reads and runs until the agent drains it or goes away."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.link = session.link
        self._running: "Optional[object]" = None
        self._parked = False
        self._unpark = threading.Event()
        session.on_begin = self._begin
        session.on_end = self._end

    def _begin(self, what: object) -> None:
        self._running = what
        if self._parked:
            self._unpark.set()

    def _end(self) -> None:
        self._running = None

    def serve(self) -> None:
        """Returns when everything is done and written."""
        threading.Thread(target=self._watch, name="tidewheel-watch", daemon=True).start()
        session, inbox = self.session, self.session.inbox
        try:
            while True:
                while inbox:
                    begin = time.perf_counter()
                    session.run(inbox.popleft())
                    if time.perf_counter() - begin > TICK_S and inbox:
                        # A cancellation for one of those that wait may have come meanwhile.
                        self.link.flush()
                        self._read(wait=False)
                # The watcher may have read in between, and put back what a recall left.
                if self._read(wait=False) or inbox:
                    continue
                self.link.flush()
                if session.draining:
                    return
                self._read(wait=True)
        except LinkClosed:
            return  # nobody is left to tell

    def _read(self, wait: bool) -> bool:
        lock = self.link.read_lock
        if not lock.acquire(False):
            self.link.wake()
            while not lock.acquire(timeout=0.05):  # another reader may have come in between
                self.link.wake()
        try:
            if wait:
                ready, _ = self.link.wait()
                if not ready:
                    return False
            return self.session.receive()
        finally:
            lock.release()

    # -- the watcher -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        seen: "Optional[object]" = None
        quiet = 0
        while True:
            time.sleep(TICK_S)
            running = self._running
            try:
                if self.session.closed:
                    raise LinkClosed
                self.link.flush()
                if running is None:
                    quiet += 1
                    if quiet > PARK_TICKS:
                        self._park()
                        quiet = 0
                else:
                    quiet = 0
                    if running is seen:
                        self._stand_in(running)
            except LinkClosed:
                self.session.lost()
                if self._running is None:
                    return  # the main thread sees it too
                time.sleep(ORPHAN_GRACE_S)
                os._exit(0)
            seen = running

    def _park(self) -> None:
        self._unpark.clear()
        self._parked = True
        # The main thread sets `_running` before it looks at `_parked`, so one of the two sees the other.
        if self._running is None:
            self._unpark.wait()
        self._parked = False

    def _stand_in(self, running: object) -> None:
        """Reads in place of the main thread for as long as this task runs."""
        if not self.link.read_lock.acquire(False):
            return
        try:
            while self._running is running:
                ready, woken = self.link.wait(int(TICK_S * 2000))
                if woken:
                    return
                if ready:
                    self.session.receive()
                self.link.flush()
        finally:
            self.link.read_lock.release()
