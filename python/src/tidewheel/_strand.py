"""Lines of execution of a workflow's program: one thread each, of which only one runs at a time.

    driver                         strand (its own thread)
      | hand over: gate.release() -->  |
      |                                | runs user code until it waits, or ends
      |  <-- baton.release() ----------|
      | baton.acquire() returned       | gate.acquire(): parked, its frames as they are

A parked thread costs its stack and nothing else. Its frames are never unwound: no exception passes through a `finally` of
the user's because a process is short of room. A thread whose function has ended goes to a pool, for handing over to a thread
that is there costs a tenth of starting one.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident, start_new_thread
from contextvars import Context as Variables
from contextvars import ContextVar
from os.path import abspath, dirname, join

from . import authoring
from .context import CURRENT
from .errors import WorkflowError, WorkflowStuck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, NoReturn, Optional, Sequence, Tuple

    from ._driver import Program, Scope

#: The scope of the workflow that runs in this context; None everywhere else, in a step too.
FLOW: "ContextVar[Any]" = ContextVar("tidewheel-workflow", default=None)
authoring.flow = FLOW

#: How long user code may run between two waits. Steps are not counted: they may do real work.
STALL_S = 30.0

_HERE = dirname(abspath(__file__))
_INSIDE = join(_HERE, "")


class Unwound(BaseException):
    """How the test kit, and nobody else, ends the threads of a program that it throws away."""


class _Thread:
    """A thread that runs one function after another."""

    __slots__ = ("gate", "job", "ident")

    def __init__(self) -> None:
        self.gate = allocate_lock()
        self.gate.acquire()
        self.job: "Optional[Callable[[], None]]" = None
        self.ident = 0
        start_new_thread(self._work, ())

    def _work(self) -> None:
        self.ident = get_ident()
        while True:
            self.gate.acquire()
            job, self.job = self.job, None
            if job is not None:
                job()


_idle: "List[_Thread]" = []
#: Threads that are kept for the next program.
MAX_IDLE = 64


class Wait:
    """What a strand waits for: entries and other strands, all of them or any."""

    __slots__ = ("strand", "items", "all", "left")

    def __init__(self, strand: "Strand", items: "Sequence[Any]", all: bool) -> None:
        self.strand = strand
        self.items = items
        self.all = all
        self.left = len(items) if all else 1

    def arrived(self) -> None:
        """One of them is over."""
        self.left -= 1
        if self.left == 0:
            self.strand.program.wake(self.strand)


class Strand:
    """One line of execution."""

    __slots__ = ("program", "scope", "function", "variables", "thread", "wait", "pending", "value", "error", "over", "order", "waiters", "queued")

    def __init__(self, program: "Program", scope: "Scope", function: "Callable[[], Any]", variables: "Optional[Variables]" = None) -> None:
        self.program = program
        self.scope = scope
        self.function = function
        self.variables = variables if variables is not None else Variables()
        self.thread: "Optional[_Thread]" = None
        self.wait: "Optional[Wait]" = None
        #: Raised where it waits, when it is woken.
        self.pending: "Optional[BaseException]" = None
        self.value: "Any" = None
        self.error: "Optional[BaseException]" = None
        self.over = False
        self.order = 0
        self.waiters: "List[Wait]" = []
        self.queued = False

    # -- on the driver's thread --------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Lets it run until it waits or ends. Raises `WorkflowStuck` when it does neither."""
        thread = self.thread
        if thread is None:
            try:
                thread = _idle.pop()
            except IndexError:
                thread = _Thread()
            self.thread = thread
            thread.job = self._run
        program = self.program
        seen = program.progress
        thread.gate.release()
        while not program.baton.acquire(True, program.stall_s):
            if program.stepping or program.progress != seen:
                seen = program.progress
                continue
            program.broken = True
            file, line = self.place()
            raise WorkflowStuck(f"{file}:{line}: the workflow has run for {program.stall_s:g} s without waiting for anything; long work belongs "
                                "into a task or into wf.step")

    def place(self) -> "Tuple[str, int]":
        """File and line at which it stands, of the user's code."""
        thread = self.thread
        frame = None if thread is None else sys._current_frames().get(thread.ident)
        return user_place(frame) or self.program.home()

    # -- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.variables.run(self._body)
        thread, self.thread = self.thread, None
        self.program.finished(self)
        kept = thread is not None and len(_idle) < MAX_IDLE
        if kept:
            _idle.append(thread)  # type: ignore[arg-type]
        self.program.baton.release()
        if not kept:
            raise SystemExit  # this thread alone

    def _body(self) -> None:
        FLOW.set(self.scope)
        CURRENT.set(self.program.context)
        try:
            self.value = self.function()
        except BaseException as error:  # whatever it is, it ends this line and no worker
            self.error = error
        self.over = True

    def block(self) -> None:
        """Gives the run back to the driver until somebody wakes this strand."""
        program, thread = self.program, self.thread
        if program.unwinding:
            program.unwinding -= 1
            if program.unwinding:
                raise Unwound
        while program.advance():
            if program.is_next(self):
                return
        program.baton.release()
        thread.gate.acquire()  # type: ignore[union-attr]
        if program.unwinding:
            raise Unwound

    def give_up(self) -> "NoReturn":
        """Stays here for good: the program is broken, and its frames must not be unwound."""
        self.program.broken = True
        while True:
            self.block()

    def wait_for(self, items: "Sequence[Any]", all: bool) -> None:
        """Returns when all (or any) of the items are over; raises what it was told meanwhile."""
        if "asyncio" in sys.modules and sys.modules["asyncio"]._get_running_loop() is not None:
            raise WorkflowError("this waits inside an event loop of its own; write the workflow as `async def` instead of calling asyncio.run in it")
        if self.pending is None:
            open_items = [item for item in items if not item.over]
            if all and not open_items or not all and len(open_items) < len(items):
                return
            wait = self.wait = Wait(self, open_items, all)
            for item in open_items:
                item.waiters.append(wait)
            self.block()
            self.wait = None
            for item in open_items:
                if not item.over:
                    item.waiters.remove(wait)
        if self.pending is not None:
            error, self.pending = self.pending, None
            raise error


def user_place(frame: "Any") -> "Optional[Tuple[str, int]]":
    """The innermost frame outside this package and outside asyncio."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_INSIDE) and "/asyncio/" not in file and not file.startswith("<frozen"):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


def here() -> "Optional[Tuple[str, int]]":
    """File and line of the user's code that called into this package."""
    return user_place(sys._getframe(1))


def _guard_threads() -> None:
    """Threads of a workflow's own would run beside the journal, and tasks called in them without it."""
    import threading

    start = threading.Thread.start

    def guarded(self: "threading.Thread") -> None:
        if FLOW.get() is not None:
            from .errors import WorkflowError

            raise WorkflowError("a workflow starts no threads: what they do is in no journal. Use a task, wf.step, or wf.all for parts "
                                "that run side by side")
        start(self)

    threading.Thread.start = guarded  # type: ignore[method-assign]


_guard_threads()
