"""Several slots: the main thread only reads, a thread per slot runs tasks, coroutines share one loop in a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

from .link import LinkClosed
from .serial import ORPHAN_GRACE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .session import Session


class PoolLoop:
    """Reads, and hands starts to the threads, until the agent drains it or goes away."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self._queue: "SimpleQueue[Any]" = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"tidewheel-slot-{i}", daemon=True) for i in range(session.slots)
        ]

    def serve(self) -> None:
        """Returns when everything is done and written."""
        for thread in self._threads:
            thread.start()
        session = self.session
        with session.link.read_lock:
            try:
                while not session.draining:
                    session.link.wait()
                    session.receive()
                    self._hand_out()
                for _ in self._threads:
                    self._queue.put(None)
                # A running task may still wait for an answer, so reading goes on until the last thread is done.
                while any(thread.is_alive() for thread in self._threads):
                    if session.link.wait(50)[0]:
                        session.receive()
                session.link.flush()
            except LinkClosed:
                self._leave()

    def _hand_out(self) -> None:
        inbox = self.session.inbox
        while inbox:
            self._queue.put(inbox.popleft())

    def _leave(self) -> None:
        end = time.monotonic() + ORPHAN_GRACE_S
        while self.session.live and time.monotonic() < end:
            time.sleep(0.05)
        os._exit(0)

    def _work(self) -> None:
        while True:
            message = self._queue.get()
            if message is None:
                return
            try:
                self.session.run(message)
                # At once, and not many together: no watcher would see to it while the next task takes its time.
                self.session.link.flush()
            except LinkClosed:
                return
