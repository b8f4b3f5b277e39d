"""The socket to the agent: frames out, messages in. It knows nothing of tasks.

Outgoing frames wait in a list and leave in one write. Any thread may add to the list (an append is atomic); whoever flushes
holds `_write_lock`, takes what is there and writes it, so frames leave in the order they were added.

Incoming bytes are read by one thread at a time, the holder of `read_lock`. Who that is, `session.py` decides.
"""

from __future__ import annotations

import os
import select
import threading

from .frame import FrameDecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

    from .frame import Message

_CHUNK = 256 * 1024
#: Frames that may wait before they are written although more input is there.
FLUSH_FRAMES = 32


class LinkClosed(Exception):
    """The agent is gone."""


class Link:
    """Both directions of the socket."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_inheritable(fd, False)  # a child of the user's must not hold the agent's socket open
        os.set_blocking(fd, False)
        self.pending: "List[bytes]" = []
        self.read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._decoder = FrameDecoder()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        #: Set in a forked child: what it says would tear the parent's frames apart.
        self.foreign = False
        # Looked up at each fork: a child has a lock of its own, and may fork again.
        os.register_at_fork(
            before=lambda: self._write_lock.acquire(),
            after_in_parent=lambda: self._write_lock.release(),
            after_in_child=self._forked,
        )

    def _forked(self) -> None:
        if self.foreign:  # a child of a child: the descriptors are closed already, and may be others by now
            self._write_lock = threading.Lock()
            return
        self.foreign = True
        self._write_lock = threading.Lock()
        self.read_lock = threading.Lock()
        self.pending.clear()
        for fd in (self.fd, self._wake_read, self._wake_write):
            os.close(fd)

    # -- out ---------------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Adds a frame; it leaves with the next flush."""
        self.pending.append(frame)
        if len(self.pending) >= FLUSH_FRAMES:
            self.flush()

    def flush(self) -> None:
        """Writes everything that waits."""
        if self.foreign:
            self.pending.clear()
            return
        with self._write_lock:
            count = len(self.pending)
            if not count:
                return
            # Other threads may append meanwhile, so exactly what was joined is taken out.
            data = b"".join(self.pending[:count]) if count > 1 else self.pending[0]
            del self.pending[:count]
            self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll()
            except OSError as error:
                raise LinkClosed(str(error)) from None

    # -- in; the caller holds read_lock -----------------------------------------------------------------------------

    def read(self) -> "List[Tuple[Message, Optional[bytes]]]":
        """The messages that are there now, without waiting."""
        if self.foreign:
            raise LinkClosed("this is a forked child")
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LinkClosed(str(error)) from None
        if not data:
            raise LinkClosed("the agent closed the connection")
        return self._decoder.feed(data)

    def wait(self, timeout_ms: "Optional[int]" = None) -> "Tuple[bool, bool]":
        """Waits until there is input, or `wake` was called; says which of the two."""
        if self.foreign:
            raise LinkClosed("this is a forked child")
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout_ms)]
        woken = self._wake_read in ready
        if woken:
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                pass
        return self.fd in ready, woken

    def wake(self) -> None:
        """Ends the `wait` of another thread, so that it gives up `read_lock`."""
        try:
            os.write(self._wake_write, b"!")
        except BlockingIOError:
            pass  # plenty of wake-ups are there already
