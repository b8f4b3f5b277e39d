"""stdout and stderr stay the user's; they are only made to keep step with the frames.

The agent gives output to the task that runs at that time, by the frames it has seen. So what waits on the socket leaves
before the first byte of output, and a task's output leaves before its `task_done`.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional


class _Tap(io.RawIOBase):
    def __init__(self, fd: int, before: "Callable[[], None]") -> None:
        super().__init__()
        self._fd = fd
        self._before = before

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: "Any") -> int:
        self._before()
        return os.write(self._fd, data)


#: Says whether what is written now was written before: a workflow's code is replayed. Set when the first one is activated.
muted: "Optional[Callable[[], bool]]" = None


class _Stream(io.TextIOWrapper):
    def write(self, text: str) -> int:
        if muted is not None and muted():
            return len(text)
        return super().write(text)


class Output:
    """The two streams of this process."""

    def __init__(self, before: "Callable[[], None]") -> None:
        self._before = before
        self._streams = [_stream(1, before), _stream(2, before)]

    def install(self) -> None:
        sys.stdout, sys.stderr = self._streams

    def flush(self) -> None:
        """Writes what a task left in the middle of a line, and gives the next task streams if this one closed its own."""
        for stream in self._streams:
            try:
                stream.flush()
            except OSError:
                pass  # nobody reads it any more
            except ValueError:
                self._streams = [_stream(1, self._before), _stream(2, self._before)]
                self.install()
                return


def _stream(fd: int, before: "Callable[[], None]") -> io.TextIOWrapper:
    raw: "Any" = io.BufferedWriter(_Tap(fd, before))
    # Never fails on a character: a log line with a wrong one is better than a failed task.
    return _Stream(raw, encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True)
