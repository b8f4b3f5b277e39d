"""Run tasks in a test, without a server, an agent or a second of waiting.

>>> from tidewheel import Retry, ctx, task
>>> @task(retry=Retry(3, delay="10s"))
... def fetch(name: str) -> int:
...     ctx.log.info("fetching", name=name)
...     if ctx.attempt < 3:
...         raise OSError("connection reset")
...     return len(name)
>>> run(fetch, "acme").result, run(fetch, "acme").elapsed
(4, 30.0)
>>> outcome = mock_run(fetch, "acme")
>>> outcome.error, outcome.logs[0].msg
(OSError('connection reset'), 'fetching')

Arguments and results take the same way as through a server: to JSON and back. A task that cannot be sent fails here too.
"""

from __future__ import annotations

import json
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Union, overload

from . import options as _options
from .authoring import Task
from .context import CURRENT, Context, project_file
from .encode import dumps
from .errors import NotAllowed, ResultError, TidewheelError

if TYPE_CHECKING:
    import os
    from random import Random

    from ._testrun import Replayed as Replayed, RunOutcome as RunOutcome
    from .flow import Workflow
    from .signature import Signature

#: Where a virtual clock begins: 2024-01-01T00:00:00Z.
_EPOCH_S = 1_704_067_200.0


class LogLine(NamedTuple):
    """One line of a task's log."""

    level: str
    msg: str
    fields: Dict[str, Any]


class Progress(NamedTuple):
    """One call of `ctx.progress`."""

    fraction: float
    text: str


class Clock:
    """Time that passes only when it is told to.

    >>> clock = Clock()
    >>> clock.advance("1h30m")
    >>> clock.elapsed
    5400.0
    """

    def __init__(self, start: float = _EPOCH_S) -> None:
        self.start = start
        self.now = start

    def advance(self, by: "_options.Duration") -> None:
        """Lets time pass."""
        self.now += _options.duration_ms(by) / 1000

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.now - self.start


class Outcome:
    """What came of a run."""

    def __init__(self) -> None:
        #: What the function returned in its last attempt.
        self.result: Any = None
        #: The exception that ended the last attempt; None if it succeeded.
        self.error: Optional[BaseException] = None
        self.logs: List[LogLine] = []
        self.progress: List[Progress] = []
        #: Content by name.
        self.artifacts: Dict[str, bytes] = {}
        #: Bodies of the submissions, as they would be sent.
        self.enqueued: List[Dict[str, Any]] = []
        #: Bodies of the runs that were started, as they would be sent.
        self.started: List[Dict[str, Any]] = []
        #: The exception of each attempt; None for one that succeeded.
        self.attempts: List[Optional[BaseException]] = []
        #: Seconds between the attempts.
        self.delays: List[float] = []
        #: Seconds of the virtual clock.
        self.elapsed: float = 0.0

    @property
    def json(self) -> Any:
        """The result as it would be stored."""
        return json.loads(dumps(self.result, "result"))

    def unwrap(self) -> Any:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.result

    def __repr__(self) -> str:
        end = f"error={self.error!r}" if self.error is not None else f"result={self.result!r}"
        return f"<Outcome {end}, {len(self.attempts)} attempts>"


def mock_run(
    task: "Task[Any, Any]",
    *args: Any,
    attempt: int = 1,
    assets: Optional[Mapping[str, Any]] = None,
    labels: Optional[Mapping[str, str]] = None,
    cancel: bool = False,
    results: Optional[Mapping[Any, Any]] = None,
    **kwargs: Any,
) -> Outcome:
    """Runs one attempt. ``cancel`` begins it with a request to stop; ``results`` gives, by task, workflow or name, what the handle
    of an enqueued task or of a started run returns. Named arguments beyond these go to the function."""
    return _Kit(task, args, kwargs, assets, labels, results).attempt(attempt, cancel)


if TYPE_CHECKING:

    @overload
    def run(
        task: "Workflow[Any, Any]",
        *args: Any,
        mocks: Optional[Mapping[Any, Any]] = None,
        events: "Iterable[Any]" = (),
        signals: "Any" = None,
        promises: "Any" = None,
        clock: "Union[str, Clock]" = "auto",
        cancel: "Optional[_options.Duration]" = None,
        replay_every_step: bool = False,
        crash_at: "Optional[str]" = None,
        shuffle: Optional[int] = None,
        assets: Optional[Mapping[str, Any]] = None,
        retries: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ) -> "RunOutcome": ...
    @overload
    def run(
        task: "Task[Any, Any]",
        *args: Any,
        retries: bool = True,
        clock: "Union[str, Clock]" = "auto",
        assets: Optional[Mapping[str, Any]] = None,
        labels: Optional[Mapping[str, str]] = None,
        results: Optional[Mapping[Any, Any]] = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> Outcome: ...


def run(task: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs a task, or a workflow, without a server. A task: see `Outcome`. A workflow: see `tidewheel._testrun`.

    A task is run as a queue would: again after a failure, as its retry policy says. The pauses pass on a virtual clock; jitter
    comes from ``seed``. A task without a policy runs once.

    A workflow is run to its end, or to where it waits for what nothing sends. Its tasks and child runs are plain calls, or
    what ``mocks`` says for them; ``events``, ``signals`` and ``promises`` are what comes from outside."""
    from .flow import Workflow

    if isinstance(task, Workflow):
        from ._testrun import run_workflow

        return run_workflow(task, args, **kwargs)
    return _run_task(task, *args, **kwargs)


def replay(function: "Workflow[Any, Any]", journal: "Union[str, os.PathLike[str], Mapping[str, Any]]") -> "Replayed":
    """Goes through the journal of a run (a file that `tidewheel run export` wrote, or what is in it) with this code, and runs nothing
    else. Raises `ReplayMismatch` with file and line where the code asks for something else than the journal has."""
    from ._testrun import replay_journal

    return replay_journal(function, journal)


def complete_promise(token: str, value: Any = None, *, error: "Union[str, Dict[str, Any], BaseException, None]" = None) -> None:
    """Completes a promise of a workflow that `run` is running, by its token: what the mock of a task does that stands for whoever gets
    the token. An error is what `Client.complete_promise` takes, or an exception. Raises `NotFound` for a token of no such promise and `Conflict` for one that was completed with something else."""
    from . import _testrun

    _testrun.complete_promise(token, value, error)


def __getattr__(name: str) -> object:
    """What workflows need of the kit is loaded with the first that is run."""
    if name in ("Replayed", "RunOutcome"):
        from . import _testrun

        return getattr(_testrun, name)
    raise AttributeError(f"module 'tidewheel.testing' has no attribute {name!r}")


def _run_task(
    task: "Task[Any, Any]",
    *args: Any,
    retries: bool = True,
    clock: "Union[str, Clock]" = "auto",
    assets: Optional[Mapping[str, Any]] = None,
    labels: Optional[Mapping[str, str]] = None,
    results: Optional[Mapping[Any, Any]] = None,
    seed: int = 0,
    **kwargs: Any,
) -> Outcome:
    from random import Random

    time = _clock(clock)
    kit = _Kit(task, args, kwargs, assets, labels, results)
    chance = Random(seed)
    policy = task.retry if retries else None
    for number in count(1):
        kit.clock = time
        outcome = kit.attempt(number)
        error = outcome.error
        if error is None or policy is None or number >= policy.max_attempts or not _may_retry(error, policy):
            break
        pause = _pause_ms(policy, number, chance) / 1000
        outcome.delays.append(pause)
        time.advance(pause)
    outcome.elapsed = time.elapsed
    return outcome


def _clock(clock: Any) -> Clock:
    time = Clock() if clock == "auto" else clock
    if not isinstance(time, Clock):
        raise TypeError(f"clock is 'auto' or a Clock, not {clock!r}")
    return time


def _may_retry(error: BaseException, policy: "_options.Retry") -> bool:
    own = getattr(error, "retryable", None)
    return own if isinstance(own, bool) else policy.allows(error)


def _pause_ms(policy: "_options.Retry", attempt: int, chance: "Random") -> int:
    jitter = _options.duration_ms(policy.jitter) if policy.jitter is not None else 0
    return policy.delay_ms(attempt) + (chance.randint(0, jitter) if jitter else 0)


class _Kit:
    """Stands for agent and server; the host of the context and the backend of handles."""

    def __init__(
        self, task: "Task[Any, Any]", args: Any, kwargs: Any, assets: Optional[Mapping[str, Any]],
        labels: Optional[Mapping[str, str]], results: Optional[Mapping[Any, Any]],
    ) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"{task!r} is not a task; put @task on it")
        self._begin(task, assets, labels, results)
        signature = task.signature
        if task.batch is not None:
            # The whole list is given, as to the function itself.
            if len(args) != 1 or kwargs:
                raise TypeError(f"{signature.label} is a batch task: give it the list of inputs")
            inputs = [json.loads(dumps(item, f"input[{i}]")) for i, item in enumerate(args[0])]
            self._call: Any = lambda: (([signature.member(item) for item in inputs],), {})
        else:
            text = dumps(signature.input(signature.bind(args, kwargs)), "input")
            # Read anew for each attempt: what one attempt does to its arguments, the next must not see.
            self._call = lambda: signature.arguments(json.loads(text))

    def _begin(
        self, task: "Task[Any, Any]", assets: Optional[Mapping[str, Any]], labels: Optional[Mapping[str, str]],
        results: Optional[Mapping[Any, Any]],
    ) -> None:
        self.task = task
        self.function: Any = task.function
        self.outcome = Outcome()
        self.clock = Clock()
        self._assets = assets or {}
        self._labels = _options.labels(labels or {})
        self._results = {_named(key): value for key, value in (results or {}).items()}
        self._types: Dict[str, str] = {}

    @classmethod
    def of_input(
        cls, task: "Task[Any, Any]", input: Any, assets: Optional[Mapping[str, Any]], results: Optional[Mapping[Any, Any]],
        mock: Any = None,
    ) -> "_Kit":
        """For a call whose input is JSON already; one member of a batch task is a batch of one. ``mock`` stands for the function."""
        kit = cls.__new__(cls)
        kit._begin(task, assets, None, results)
        text = dumps(input)
        if task.batch is not None and mock is None:
            kit._call = lambda: (([task.signature.member(json.loads(text))],), {})
        elif task.batch is not None:
            kit._call = lambda: ((task.signature.member(json.loads(text)),), {})
        else:
            kit._call = lambda: task.signature.arguments(json.loads(text))
        if mock is not None:
            call = kit._call
            kit.function = mock
            kit._call = lambda: _in_order(task.signature, *call())
        return kit

    def attempt(self, number: int, cancel: bool = False) -> Outcome:
        limit = self.task.defaults().get("timeout", {}).get("run")
        facts = {
            "task_id": "task_test", "attempt": number, "queue": self.task.defaults().get("queue", "default"),
            "labels": {**self.task.defaults().get("labels", {}), **self._labels}, "idempotency_key": "task_test",
            "deadline_ms": None if limit is None else int(self.clock.now * 1000) + _options.duration_ms(limit),
        }
        context = Context(self, "test", facts)
        if cancel:
            context.cancel("cancelled by the test")
        token = CURRENT.set(context)
        outcome = self.outcome
        outcome.result, outcome.error = None, None
        try:
            args, kwargs = self._call()
            value = copy_context().run(self.function, *args, **kwargs)
            if hasattr(value, "__await__"):
                value = _finish(value)
            self._check(value, args)
            outcome.result = value
        except (Exception, SystemExit) as error:
            outcome.error = error
        finally:
            CURRENT.reset(token)
        outcome.attempts.append(outcome.error)
        return outcome

    def _check(self, value: Any, args: Any) -> None:
        """Fails where the worker would: a result that is not JSON, or a batch that answers for another number."""
        if self.task.batch is None or self.function is not self.task.function:
            if not isinstance(value, bytes):
                dumps(value, "result")
            return
        if not isinstance(value, (list, tuple)) or len(value) != len(args[0]):
            raise ResultError(f"a batch of {len(args[0])} has to return a list of as many results")
        for i, item in enumerate(value):
            if not isinstance(item, BaseException):
                dumps(item, f"result[{i}]")

    # -- Host --------------------------------------------------------------------------------------------------------

    def log(self, lease: str, level: str, msg: str, fields: Dict[str, Any]) -> None:
        self.outcome.logs.append(LogLine(level, msg, fields))

    def progress(self, lease: str, fraction: float, text: str) -> None:
        self.outcome.progress.append(Progress(fraction, text))

    def artifact(self, lease: str, name: str, content: Union[str, bytes]) -> None:
        if isinstance(content, str):
            with open(content, "rb") as file:
                content = file.read()
        self.outcome.artifacts[name] = content

    def fetch(self, lease: str, hash: str) -> str:
        """Stored files are given like assets, by their hash: ``assets={"sha256:...": b"content"}``."""
        from tempfile import NamedTemporaryFile

        content = self._assets.get(hash)
        if not isinstance(content, bytes):
            raise NotAllowed(f"no stored file {hash} is there for this task; give it with assets={{{hash!r}: b'...'}}", code="not-allowed")
        with NamedTemporaryFile(delete=False) as file:
            file.write(content)
        return file.name

    def file(self, lease: str, name: str) -> str:
        """Files of the project are where they are."""
        return project_file(name)

    def asset(self, lease: str, name: str) -> Any:
        if name not in self._assets:
            raise NotAllowed(f"no asset {name!r} is released to this task; give it with assets={{{name!r}: ...}}", code="not-allowed")
        return self._assets[name]

    # -- Backend -----------------------------------------------------------------------------------------------------

    def enqueue(self, items: List[Dict[str, Any]]) -> List[str]:
        ids = []
        for item in items:
            ids.append(f"task_test_{len(self.outcome.enqueued) + 1}")
            self._types[ids[-1]] = item["type"]
            self.outcome.enqueued.append(json.loads(dumps(item, "task")))
        return ids

    def status(self, task_id: str) -> Dict[str, Any]:
        return {"id": task_id, "state": "succeeded" if self._types.get(task_id) in self._results else "queued"}

    def why(self, task_id: str) -> Dict[str, Any]:
        return {"summary": "the test kit does not run enqueued tasks", "reasons": []}

    def result(self, task_id: str, timeout: Optional[float]) -> Any:
        kind = self._types.get(task_id, "")
        if kind not in self._results:
            raise TidewheelError(f"the test kit does not run enqueued tasks; give the result with results={{{kind!r}: ...}}")
        value = self._results[kind]
        if isinstance(value, BaseException):
            raise value
        return json.loads(dumps(value, "result"))

    def cancel(self, task_id: str, reason: str) -> Dict[str, Any]:
        return {"id": task_id, "state": "cancelled"}

    def begin_run(self, body: Dict[str, Any], key: str) -> Dict[str, Any]:
        run_id = f"run_test_{len(self.outcome.started) + 1}"
        self._types[run_id] = body["workflow"]
        self.outcome.started.append(json.loads(dumps(body, "run")))
        return {"id": run_id}

    def run_record(self, run_id: str, wait_s: float = 0.0) -> Dict[str, Any]:
        name = self._types.get(run_id, "")
        if name not in self._results:
            if wait_s > 0:
                raise TidewheelError(f"the test kit does not run workflows that a task starts; give the output with results={{{name!r}: ...}}")
            return {"id": run_id, "phase": "running"}
        value = self._results[name]
        if isinstance(value, BaseException):
            raise value
        return {"id": run_id, "phase": "completed", "output": json.loads(dumps(value, "output"))}

    def signal_run(self, run_id: str, type: str, body: Dict[str, Any]) -> Dict[str, Any]:
        return {"id": run_id}

    def complete_in_run(self, run_id: str, promise: str, body: Dict[str, Any]) -> Dict[str, Any]:
        return {"id": run_id}

    def logs(self, task_id: str) -> List[Dict[str, Any]]:
        return []


def _named(key: Any) -> Any:
    """What a task or a workflow is called in ``results``."""
    from .flow import Workflow

    return f"{key.namespace}/{key.name}" if isinstance(key, Workflow) else getattr(key, "name", key)


def _in_order(signature: "Signature", args: Any, kwargs: Dict[str, Any]) -> Any:
    """Arguments by position as far as they have one: a mock such as ``seen.append`` has no names."""
    named = dict(kwargs)
    positional = list(args)
    for name in signature.positions[len(positional):]:
        if name not in named:
            break
        positional.append(named.pop(name))
    return tuple(positional), named


def _finish(awaitable: Any) -> Any:
    """Runs a coroutine to its end; in a thread of its own where a loop is running already (an async test)."""
    import asyncio

    async def main() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    from concurrent.futures import ThreadPoolExecutor

    context = copy_context()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: context.run(asyncio.run, main())).result()
