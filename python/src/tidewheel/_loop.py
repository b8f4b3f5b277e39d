"""The event loop of an async workflow: no sockets, no clock, no threads. Only what the journal says has happened, happens.

Callbacks run in the order in which they were scheduled. `asyncio.sleep`, `wait_for` and `timeout` become timers of the
journal, so that they outlive this process. Each task has a scope of its own, by which its keys are independent of the order
in which the tasks run. What would reach outside (a connection, a thread, a subprocess) raises `WorkflowError`.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from contextvars import copy_context

from ._journal import Entry, error_of
from ._strand import FLOW, user_place
from .errors import Cancelled, TidewheelError, WorkflowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context as Variables
    from typing import Any, Callable, Coroutine, Deque, Dict, List, Optional, Sequence, Set, Tuple

    from ._driver import Program


class RunCancelled(Cancelled, asyncio.CancelledError):
    """How the cancellation of a run arrives where an async workflow waits: caught as either of its bases."""


class Future(asyncio.Future):  # type: ignore[type-arg]
    """A future of this loop. It says `Cancelled` when it is the run that was cancelled."""

    #: Set for those that stand for an entry.
    entry: "Optional[Entry]" = None
    key = ""

    def __init__(self, owner: "Loop") -> None:
        super().__init__(loop=owner)
        self._owner = owner

    def result(self) -> "Any":
        try:
            return super().result()
        except asyncio.CancelledError:
            reason = self._owner.program.cancelled
            if reason is None:
                raise
            raise RunCancelled(reason, code="cancelled") from None

    def __await__(self) -> "Any":
        # Not inherited: the one written in C would not ask our `result`.
        if not self.done():
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    __iter__ = __await__


class EntryFuture(Future):
    """Stands for an entry. The value is read when somebody wants it, for it may be large and elsewhere."""

    def __init__(self, owner: "Loop", entry: Entry) -> None:
        super().__init__(owner)
        self.entry = entry
        self.key = entry.key
        self._value: "Any" = None
        self._read = False
        entry.future = self
        if entry.over:
            self.arrived()

    def arrived(self) -> None:
        """The entry is over."""
        if self.done():  # somebody has cancelled the wait; the entry ended all the same
            return
        entry = self.entry
        assert entry is not None and entry.done is not None
        if entry.done["status"] == "ok":
            self.set_result(None)
        else:
            self.set_exception(error_of(entry.done, entry.key))
            self._log_traceback = False  # an error that nobody asks about is in the journal anyway

    def result(self) -> "Any":
        super().result()
        if not self._read:
            assert self.entry is not None
            self._value = self._owner.program.read(self.entry)
            self._read = True
        return self._value


class PromiseFuture(EntryFuture):
    """Stands for a promise, which has a token."""

    @property
    def token(self) -> str:
        """See `Promise.token`."""
        return self._owner.program.token(self.key)


class Together(Future):
    """`wf.all`: over when all parts are."""

    def __init__(self, owner: "Loop", parts: "Sequence[Any]") -> None:
        super().__init__(owner)
        self._parts = parts
        self._left = len(parts)
        if not parts:
            self.set_result(())
        for part in parts:
            part.add_done_callback(self.part_done)

    def part_done(self, part: "Any") -> None:
        self._left -= 1
        if self._left or self.done():
            if not part.cancelled():
                part.exception()  # seen: another failed first, or the wait was cancelled
            return
        values = []
        for each in self._parts:
            try:
                values.append(each.result())
            except asyncio.CancelledError:
                super().cancel()
                return
            except BaseException as error:
                self.set_exception(error)
                return
        self.set_result(tuple(values))

    def cancel(self, msg: "Any" = None) -> bool:
        if self.done():
            return False
        for part in self._parts:
            part.cancel()
        return super().cancel()


class Timer(asyncio.TimerHandle):
    """A callback that a sleep of the journal calls."""

    entry: "Optional[Entry]" = None

    def arrived(self) -> None:
        """Its time has come."""
        if not self.cancelled():
            self._loop.ready.append(self)  # type: ignore[attr-defined]


class Loop(asyncio.AbstractEventLoop):
    """Driven by the program's strand; see the module."""

    def __init__(self, program: "Program") -> None:
        self.program = program
        self.ready: "Deque[asyncio.Handle]" = deque()
        self._start = 0
        self._main: "Optional[asyncio.Task[Any]]" = None
        self._stop_main = False
        # Held, so that no task or future vanishes while it waits.
        self._tasks: "Dict[asyncio.Task[Any], None]" = {}
        self._open: "Dict[str, EntryFuture]" = {}
        self._timers: "Dict[str, Timer]" = {}
        self._closed_for_good = False

    # -- for the program ---------------------------------------------------------------------------------------------

    def run(self, coroutine: "Coroutine[Any, Any, Any]") -> "Any":
        """Runs the workflow's coroutine to its end, on the program's strand."""
        self._start = self.program.now
        strand = self.program.main
        assert strand is not None
        main = self._main = asyncio.Task(coroutine, loop=self)
        while True:
            self._spin()
            if main.done():
                break
            if self._stop_main:
                self._stop_main = False
                main.cancel()
                continue
            strand.block()
        rest = [task for task in self._tasks if not task.done()]
        for task in rest:
            task.cancel()
        self._spin()
        return main.result()

    def cancel_main(self) -> None:
        """The run is being cancelled: what the main coroutine waits for raises."""
        if self._main is None:
            self._stop_main = True  # after its first turn
        else:
            self._main.cancel()

    def unwind(self) -> None:
        """See `Program.unwind`."""
        for task in list(self._tasks) + ([] if self._main is None else [self._main]):
            main, close = self.program.main, getattr(task.get_coro(), "close", None)
            if main is None or close is None:
                continue
            try:
                main.variables.run(close)
            except BaseException:
                pass  # it awaits something in a `finally`
        self.ready.clear()

    def future_of(self, entry: Entry) -> EntryFuture:
        """What can be awaited for an entry."""
        future = (PromiseFuture if entry.kind == "promise" else EntryFuture)(self, entry)
        if not entry.over:
            self._open[entry.key] = future
        return future

    def _spin(self) -> None:
        ready = self.ready
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            events._set_running_loop(before)

    def waits(self) -> "List[Dict[str, Any]]":
        """What is awaited by somebody: as parts of `wf.all` together, everything else one by one."""
        one: "List[str]" = []
        groups: "Dict[Any, List[str]]" = {}
        for key, future in list(self._open.items()):
            if future.done():
                del self._open[key]
                continue
            callbacks = [callback[0] for callback in future._callbacks or ()]
            owners = [getattr(callback, "__self__", None) for callback in callbacks]
            if callbacks and future.entry is not None and future.entry.kind != "step":
                if all(isinstance(owner, Together) for owner in owners):
                    for owner in owners:
                        groups.setdefault(owner, []).append(key)
                else:
                    one.append(key)
        for key, timer in list(self._timers.items()):
            if timer.cancelled() or timer.entry is None or timer.entry.over:
                del self._timers[key]
            else:
                one.append(key)
        out = [{"mode": "any", "keys": one}] if one else []
        for owner, keys in groups.items():
            beside = any(isinstance(part, asyncio.Task) and not part.done() for part in owner._parts)
            if not beside or not one:
                out.append({"mode": "all", "keys": keys})
        return out

    def place(self) -> "Optional[Tuple[str, int]]":
        """Where the main coroutine stands."""
        coroutine = None if self._main is None else self._main.get_coro()
        place = None
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            place = (frame and user_place(frame)) or place
            coroutine = getattr(coroutine, "cr_await", None)
        return place

    # -- for asyncio -------------------------------------------------------------------------------------------------

    def call_soon(self, callback: "Callable[..., Any]", *args: "Any", context: "Optional[Variables]" = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: "Callable[..., Any]", *args: "Any", context: "Optional[Variables]" = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: "Callable[..., Any]", *args: "Any", context: "Optional[Variables]" = None) -> asyncio.TimerHandle:  # type: ignore[override]
        timer = Timer(when, callback, args, self, context)
        ms = round((when - self.time()) * 1000)
        if ms <= 0:
            self.ready.append(timer)
            return timer
        main = self.program.main
        assert main is not None
        scope = FLOW.get() or main.scope
        entry = scope.open("sleep", "", hashed=ms, opts={"ms": ms})
        entry.future = timer
        timer.entry = entry
        self._timers[entry.key] = timer
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """For `TimerHandle.cancel`; `waits` drops it."""

    def time(self) -> float:
        """Seconds since the run began, as the journal has it."""
        return (self.program.now - self._start) / 1000

    def create_future(self) -> "Any":
        return Future(self)

    def create_task(self, coro: "Any", *, name: "Optional[str]" = None, context: "Optional[Variables]" = None, **kwargs: "Any") -> "asyncio.Task[Any]":
        parent = FLOW.get()
        variables = copy_context() if context is None else context.copy()
        if parent is not None:
            scope = parent.child()
            scope.strand = parent.strand
            variables.run(FLOW.set, scope)
        task: "asyncio.Task[Any]" = variables.run(lambda: asyncio.Task(coro, loop=self))
        if name is not None:
            task.set_name(name)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)

    def call_exception_handler(self, context: "Dict[str, Any]") -> None:
        error = context.get("exception")
        self.program.log("error", str(context.get("message") or "error in the event loop"), {} if error is None else {"error": repr(error)})

    def default_exception_handler(self, context: "Dict[str, Any]") -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    async def shutdown_asyncgens(self) -> None:
        pass


def _refuse(name: str) -> "Callable[..., Any]":
    def refused(self: Loop, *args: "Any", **kwargs: "Any") -> "Any":
        raise WorkflowError(f"a workflow's event loop has no {name}: it does no I/O and has no threads, so that it can be replayed. Put the work "
                            "into a task, or into wf.step")

    refused.__name__ = name
    return refused


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(Loop):
        setattr(Loop, _name, _refuse(_name))


__all__ = ["EntryFuture", "Future", "Loop", "RunCancelled", "Together", "TidewheelError"]
