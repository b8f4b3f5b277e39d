"""`wf`: what a workflow's own code may ask for.

Everything here is kept in the journal of the run, under a key that follows from the place in the program. In a function a
call waits and gives the value; in an async function it gives something to await.

>>> from tidewheel import wf
>>> wf.sleep("1d")
Traceback (most recent call last):
tidewheel.errors.WorkflowError: wf.sleep works inside a running @workflow only; tidewheel.testing.run runs one in a test
"""

from __future__ import annotations

from . import options as _options
from ._driver import Continue, Program, Scope
from ._journal import Entry, check_name, error_of, problem_of, size_of
from ._levels import Levels
from ._promise import PREFIX
from ._strand import FLOW, Strand
from .authoring import Bound, Task
from .encode import to_json
from .errors import Cancelled, TaskFailed, WorkflowError
from .flow import Workflow

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    import random
    import uuid
    from typing import Any, AsyncIterator, Callable, Dict, Generator, Generic, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, TypeVar
    from typing import Union, overload

    from .options import Duration

    R = TypeVar("R")
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    D = TypeVar("D")

    # The values, which in an async workflow are awaited.
    class Two(Tuple[A, B], Generic[A, B]):
        def __await__(self) -> Generator[Any, None, Tuple[A, B]]: ...

    class Three(Tuple[A, B, C], Generic[A, B, C]):
        def __await__(self) -> Generator[Any, None, Tuple[A, B, C]]: ...

    class Four(Tuple[A, B, C, D], Generic[A, B, C, D]):
        def __await__(self) -> Generator[Any, None, Tuple[A, B, C, D]]: ...

    class First(NamedTuple):
        """What `wf.any` gives."""

        which: int
        value: Any
else:
    from collections import namedtuple

    from ._generic import Generic

    R = object
    First = namedtuple("First", "which value")
    First.__doc__ = "What `wf.any` gives."

CLOSE = ("cancel", "abandon", "wait")
MAX_ATTRIBUTES = 64
MAX_ITEMS = 100_000


class Call(Generic[R]):
    """Something that was asked for and may not have ended yet: a task, a child run, a promise."""

    __slots__ = ("_entry", "_program")

    def __init__(self, entry: Entry, program: Program) -> None:
        self._entry = entry
        self._program = program

    @property
    def key(self) -> str:
        """Its key in the journal."""
        return self._entry.key

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._entry.over

    def result(self) -> "R":
        """Waits for the value. Raises `TaskFailed`, `Timeout` or `Cancelled`. In an async workflow, await it instead."""
        scope = FLOW.get()
        if scope is None or scope.program is not self._program:
            raise WorkflowError(f"{self.key} can be waited for in its own workflow only")
        return scope.wait(self._entry)  # type: ignore[no-any-return]

    if TYPE_CHECKING:

        def __await__(self) -> Generator[Any, None, R]: ...

    else:

        def __await__(self) -> "Any":
            raise WorkflowError("await is for async workflows; here, result() waits")

    def __repr__(self) -> str:
        return f"<{self.key}, {'done' if self._entry.over else 'open'}>"


class Promise(Call[R]):
    """A promise: somebody outside completes it, by its name or by its token."""

    __slots__ = ()

    @property
    def token(self) -> str:
        """What whoever completes it needs, and nothing else: to be put into a mail, a form or the address that a webhook calls. With it
        this promise of this run is completed once, over ``POST /api/v1/runs/{run}/promises/{token}``, without an API token. It is the
        same in each replay. Whoever has it can use it: it belongs into no log."""
        return self._program.token(self.key)


class _Log(Levels):
    """Lines of the run's log, each written once however often the code is replayed."""

    __slots__ = ()

    def _write(self, level: str, msg: object, fields: "Dict[str, Any]") -> None:
        _scope("log").program.log(level, str(msg)[:65536], fields)


class Durable:
    """The one object `wf`. It always means the workflow that runs in this thread or coroutine."""

    __slots__ = ()

    #: Lines of the run's log; silent while code is replayed.
    log = _Log()

    # -- waiting -----------------------------------------------------------------------------------------------------

    def sleep(self, duration: "Duration") -> "Any":
        """Waits for a duration; nothing is held meanwhile, be it a year."""
        scope = _scope("sleep")
        ms = _options.duration_ms(duration)
        return scope.give(scope.open("sleep", "", hashed=ms, opts={"ms": ms}))

    def signal(self, type: str, timeout: "Optional[Duration]" = None) -> "Any":
        """The data of the next signal of this type, in the order in which they came. Raises `Timeout`."""
        scope = _scope("signal")
        return scope.give(scope.open("signal", check_name("a signal's type", type), opts=_timeout(timeout)))

    def signals(self, type: str) -> "Any":
        """Every signal of this type, without end: ``for order in wf.signals("order")``, or ``async for``."""
        _scope("signals")
        return _Signals(self, check_name("a signal's type", type))

    def event(self, type: str, where: "Optional[Mapping[str, Any]]" = None, timeout: "Optional[Duration]" = None) -> "Any":
        """The data of the next CloudEvent of this type whose data have these members. Raises `Timeout`."""
        scope = _scope("event")
        filter = to_json(dict(where or {}), "where")
        opts = {**({"where": filter} if filter else {}), **_timeout(timeout)}
        return scope.give(scope.open("event", check_name("an event's type", type), hashed=filter, opts=opts))

    def promise(self, name: str, timeout: "Optional[Duration]" = None) -> "Promise[Any]":
        """Something that is completed from outside, with a value or an error: by its ``token``, or by this name. ``result()`` (or await)
        waits for it."""
        scope = _scope("promise")
        if check_name("a promise's name", name).startswith(PREFIX):
            raise ValueError(f"a promise's name does not begin with {PREFIX!r}, as tokens do")
        return scope.handle(scope.open("promise", name, opts=_timeout(timeout)))  # type: ignore[no-any-return]

    # -- doing -------------------------------------------------------------------------------------------------------

    def step(self, name: str, function: "Callable[..., Any]", *args: "Any", **kwargs: "Any") -> "Any":
        """Runs a function here and keeps its value, so that a replay does not run it again. After a crash in between it may
        run twice: ``ctx.idempotency_key()`` in it is the same both times."""
        scope = _scope("step")
        return scope.give(scope.run_step(name, function, args, kwargs))

    def call_workflow(self, workflow: "Union[str, Workflow[Any, Any]]", input: "Any" = None, close: str = "cancel") -> "Any":
        """Runs another workflow and gives its output. It is named ``namespace/name:version`` (or ``:latest``), or is a
        `Workflow`; then a tuple as input gives arguments by position, a dict by name, anything else is the one argument.
        ``close`` says what becomes of it when this run ends first: cancel, abandon or wait."""
        scope = _scope("call_workflow")
        return scope.give(_child(scope, workflow, input, close))

    def start_workflow(self, workflow: "Union[str, Workflow[Any, Any]]", input: "Any" = None, close: str = "cancel") -> "Call[Any]":
        """As `call_workflow`, and goes on: ``result()`` (or await) waits for the output."""
        scope = _scope("start_workflow")
        return scope.handle(_child(scope, workflow, input, close))  # type: ignore[no-any-return]

    def undo(self, task: "Union[Task[Any, Any], Bound[Any]]", *args: "Any", **kwargs: "Any") -> None:
        """Arms a compensation: if the run fails or is cancelled from here on, the server calls this task. The last one armed
        goes first."""
        scope = _scope("undo")
        task, options = _task(task, "wf.undo")
        body = task.submission(args, kwargs, **options)
        from ._driver import task_options

        scope.open("undo", task.name, body["input"], opts=task_options(body), target=task)

    def map(
        self, task: "Any", items: "Iterable[Any]", *, concurrency: "Optional[int]" = None, batch: "Optional[int]" = None,
        on_error: str = "fail",
    ) -> "Any":
        """One call per item; the results in the items' order. A tuple gives a call's arguments by position, a dict by name.

        ``concurrency`` bounds how many are under way; ``batch`` how many go to a worker together. With
        ``on_error="collect"`` the exception of an item that failed stands in its place; else the first failure is raised."""
        scope = _scope("map")
        return _map(scope, task, items, concurrency, batch, on_error)

    # -- side by side ------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload
        def all(self, a: Call[A], b: Call[B], /) -> Two[A, B]: ...
        @overload
        def all(self, a: Call[A], b: Call[B], c: Call[C], /) -> Three[A, B, C]: ...
        @overload
        def all(self, a: Call[A], b: Call[B], c: Call[C], d: Call[D], /) -> Four[A, B, C, D]: ...
        @overload
        def all(self, *parts: Any) -> Any: ...

    def all(self, *parts: "Any") -> "Any":
        """Waits until all have ended, and gives their values. A part is what `submit` gave, or a function without arguments,
        which runs beside the others (in an async workflow also anything that can be awaited). If parts fail, the first of
        them in the order of the arguments is raised, when all have ended."""
        scope = _scope("all")
        if scope.program.loop is not None:
            from ._loop import Together

            return Together(scope.program.loop, _awaitables(scope, parts))
        items = _items(scope, parts)
        scope.here().wait_for(items, True)
        return tuple([_value(item, scope.program) for item in items])

    def any(self, *parts: "Any") -> "Any":
        """Waits for the first that ends, and gives its ``(which, value)``, of which the first is its index. Functions that were slower get `Cancelled` where
        they wait; tasks go on."""
        scope = _scope("any")
        if not parts:
            raise ValueError("wf.any needs a part to wait for")
        if scope.program.loop is not None:
            return _any_async(scope, _awaitables(scope, parts), parts)
        items = _items(scope, parts)
        try:
            scope.here().wait_for(items, False)
        finally:
            for item in items:
                if isinstance(item, Strand) and not item.over:
                    scope.program.interrupt(item, Cancelled("another part was first", code="cancelled"))
        index = _first(items)
        return First(index, _value(items[index], scope.program))

    # -- telling -----------------------------------------------------------------------------------------------------

    def status(self, value: "Any") -> None:
        """What a query of the run shows from now on: where it is, how far."""
        scope = _scope("status")
        plain = to_json(value, "status")
        size_of(plain, "status")
        scope.program.told["state"] = plain

    def attributes(self, **values: "Any") -> None:
        """Search attributes by which runs are found; a text, a number, a truth value, or None to take one away."""
        scope = _scope("attributes")
        if len(values) > MAX_ATTRIBUTES:
            raise ValueError(f"at most {MAX_ATTRIBUTES} attributes")
        for name, value in values.items():
            if not isinstance(value, (str, int, float, bool, type(None))):
                raise TypeError(f"attribute {name!r} is a text, a number or a truth value, not {type(value).__name__}")
        scope.program.told.setdefault("attributes", {}).update(to_json(values, "attributes"))

    def patched(self, id: str) -> bool:
        """Whether the code after a change is to run: true in runs that come here for the first time, false in those that had
        passed this place when the change was not there."""
        return _scope("patched").program.patched(id)

    def continue_as_new(self, *args: "Any", **kwargs: "Any") -> "Any":
        """Ends this round: the run goes on from the beginning with these arguments and an empty journal. Never returns."""
        scope = _scope("continue_as_new")
        input = scope.program.workflow.input(args, kwargs)
        size_of(input, "input")
        raise Continue(input)

    # -- values without an entry -------------------------------------------------------------------------------------

    def now(self) -> "dt.datetime":
        """The time, in UTC. It stands still between two waits."""
        from datetime import datetime, timedelta, timezone

        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=_scope("now").program.now)

    def random(self) -> "random.Random":
        """Chance that is the same in every replay: ``wf.random().randint(1, 6)``."""
        return _scope("random").random()

    def uuid(self) -> "uuid.UUID":
        """A random UUID, the same in every replay."""
        from uuid import UUID

        return UUID(int=_scope("uuid").random().getrandbits(128), version=4)

    def idempotency_key(self, part: str = "") -> str:
        """A text that belongs to this place of this run: give it to what must not happen twice."""
        scope = _scope("idempotency_key")
        key: str = scope.program.run + ":" + scope.key("idempotency", part)
        return key

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return str(_scope("run_id").program.run)

    def __repr__(self) -> str:
        scope = FLOW.get()
        return "<wf>" if scope is None else f"<wf of {scope.program.ref} {scope.program.run}>"


class _Signals:
    """An endless iterator over signals."""

    def __init__(self, owner: Durable, type: str) -> None:
        self._owner = owner
        self._type = type

    def __iter__(self) -> "Iterator[Any]":
        return self

    def __next__(self) -> "Any":
        if _scope("signals").program.loop is not None:
            raise WorkflowError("in an async workflow, write: async for ... in wf.signals(...)")
        return self._owner.signal(self._type)

    def __aiter__(self) -> "AsyncIterator[Any]":
        return self

    async def __anext__(self) -> "Any":
        return await self._owner.signal(self._type)


def _scope(what: str) -> Scope:
    scope: "Optional[Scope]" = FLOW.get()
    if scope is None:
        raise WorkflowError(f"wf.{what} works inside a running @workflow only; tidewheel.testing.run runs one in a test")
    return scope


def _timeout(value: "Optional[Duration]") -> "Dict[str, Any]":
    return {} if value is None else {"timeout_ms": _options.duration_ms(value)}


def _task(value: "Any", where: str) -> "Tuple[Task[Any, Any], Dict[str, Any]]":
    if isinstance(value, Bound):
        return value._task, value._options
    if isinstance(value, Task):
        return value, {}
    raise TypeError(f"{where} takes a function with @task, not {value!r}")


def _child(scope: Scope, workflow: "Any", input: "Any", close: str) -> Entry:
    if close not in CLOSE:
        raise ValueError(f"close is {close!r}; it is one of {', '.join(CLOSE)}")
    if isinstance(workflow, Workflow):
        return scope.open_child(workflow, input_of(workflow, input), close)
    if not isinstance(workflow, str):
        raise TypeError(f"a workflow is named 'namespace/name:version' or is a @workflow, not {workflow!r}")
    return scope.open_child(check_ref(workflow), to_json(input, "input"), close)


def check_ref(ref: str) -> str:
    """A reference with all its parts.

    >>> check_ref("acme/ship:1.2.0")
    'acme/ship:1.2.0'
    """
    namespace, slash, rest = ref.partition("/")
    name, colon, version = rest.partition(":")
    if not (namespace and name and version) or "/" in rest or len(ref) > 200 or not ref.isprintable():
        raise ValueError(f"a workflow is named 'namespace/name:version' (or ':latest'), not {ref!r}")
    return ref


def input_of(target: "Any", item: "Any") -> "Any":
    """An item as the input of a call: a tuple by position, a dict by name, anything else as the one argument."""
    if isinstance(item, tuple):
        return target.signature.input(target.signature.bind(item, {}))
    if isinstance(item, dict) and target.batch is None:
        return target.signature.input(target.signature.bind((), item))
    if item is None and isinstance(target, Workflow) and not target.signature.names:
        return {}
    return target.signature.input(target.signature.bind((item,), {}))


def _map(
    scope: Scope, task: "Any", items: "Iterable[Any]", concurrency: "Optional[int]", batch: "Optional[int]", on_error: str,
) -> "Any":
    for what, number in (("concurrency", concurrency), ("batch", batch)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f"{what} is {number!r}; it is a number from 1")
    if on_error not in ("fail", "collect"):
        raise ValueError(f"on_error is {on_error!r}; it is 'fail' or 'collect'")
    opts: "Dict[str, Any]" = {}
    target: "Any"
    if isinstance(task, (str, Workflow)):
        target = task if isinstance(task, Workflow) else None
        name = "workflow:" + (task.ref if isinstance(task, Workflow) else check_ref(task))
    else:
        from ._driver import task_options

        target, given = _task(task, "wf.map")
        name = target.name
        opts = task_options({**target._submit, **_options.submit_options(**given)})
    inputs = [to_json(item, f"items[{i}]") if target is None else input_of(target, item) for i, item in enumerate(items)]
    if len(inputs) > MAX_ITEMS:
        raise ValueError(f"wf.map has {len(inputs)} items; at most {MAX_ITEMS} go into one")
    opts.update({k: v for k, v in (("concurrency", concurrency), ("batch", batch)) if v is not None})
    if on_error == "collect":
        opts["collect"] = True
    if not inputs:  # nothing to ask for
        entry = Entry(scope.key("map", name), "map", name, target, "")
        entry.done, entry.over = {"key": entry.key, "status": "ok", "value": []}, True
    else:
        entry = scope.open("map", name, inputs, opts=opts, target=target)
    entry.collect = on_error == "collect"
    return scope.give(entry)


def read_map(value: "Any", entry: Entry) -> "List[Any]":
    """The results of a map, each as its task returns it; a failed one as its exception."""
    read = (lambda item: item) if entry.target is None else entry.target.signature.result
    if not isinstance(value, list):
        raise TaskFailed(f"{entry.key}: a map's results are an array", code="task-failed")
    if not entry.collect:
        return [read(item) for item in value]
    out: "List[Any]" = []
    for i, item in enumerate(value):
        if isinstance(item, dict) and "error" in item:
            out.append(error_of({"status": "error", "error": item["error"]}, f"{entry.key}[{i}]"))
        else:
            out.append(read(item.get("ok") if isinstance(item, dict) else None))
    return out


# -- parts side by side ----------------------------------------------------------------------------------------------


def _items(scope: Scope, parts: "Tuple[Any, ...]") -> "List[Any]":
    """Entries and strands for the parts of a sync workflow."""
    from contextvars import copy_context

    out: "List[Any]" = []
    for part in parts:
        if isinstance(part, Call):
            out.append(part._entry)
        elif callable(part) and not isinstance(part, (Task, Workflow)):
            inner = scope.child()
            strand = Strand(scope.program, inner, part, copy_context())
            inner.strand = strand
            scope.program.start(strand)
            out.append(strand)
        else:
            raise TypeError(f"a part is what submit() gave, or a function without arguments; not {part!r}")
    return out


def _value(item: "Any", program: Program) -> "Any":
    if isinstance(item, Entry):
        return program.read(item)
    if item.error is not None:
        raise item.error
    return item.value


def _first(items: "List[Any]") -> int:
    """Which ended first: the one whose end came first in the journal, or, within a turn, in the program."""
    over = [(item.order, i) for i, item in enumerate(items) if item.over]
    return min(over)[1]


def _awaitables(scope: Scope, parts: "Tuple[Any, ...]") -> "List[Any]":
    """Futures for the parts of an async workflow."""
    import asyncio

    loop = scope.program.loop
    assert loop is not None
    out: "List[Any]" = []
    for part in parts:
        if asyncio.isfuture(part):
            out.append(part)
        elif asyncio.iscoroutine(part):
            out.append(loop.create_task(part))
        elif callable(part) and not isinstance(part, (Task, Workflow)):
            out.append(loop.create_task(_called(part)))
        elif hasattr(part, "__await__"):
            out.append(loop.create_task(_awaited(part)))
        else:
            raise TypeError(f"a part is what submit() gave, a coroutine, or a function without arguments; not {part!r}")
    return out


async def _called(function: "Callable[[], Any]") -> "Any":
    value = function()
    return await value if hasattr(value, "__await__") else value


async def _awaited(part: "Any") -> "Any":
    return await part


async def _any_async(scope: Scope, futures: "List[Any]", parts: "Tuple[Any, ...]") -> First:
    import asyncio

    order: "List[int]" = []
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: order.append(i))
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future, part in zip(futures, parts):
            if isinstance(future, asyncio.Task) and future is not part and not future.done():
                future.cancel()
    return First(order[0], futures[order[0]].result())


wf = Durable()

__all__ = ["Call", "Durable", "First", "Promise", "TaskFailed", "check_ref", "problem_of", "wf"]
