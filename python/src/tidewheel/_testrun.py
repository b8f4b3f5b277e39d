"""The test kit's engine: a journal in memory, a queue of what happens next, and a clock that jumps to it.

It stands for the server alone. Programs run through the same driver as in a worker process, and their activations take the
way through JSON, so what cannot be sent fails here too.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from . import authoring, flow, testing
from . import options as _options
from ._driver import Parked, Program, activate
from ._journal import MAX_OPEN, RUNTIME, Activation, check_turn, error_of, problem_of, too_much_open
from ._promise import HEAD_BYTES, PREFIX, check_one
from ._promise import read as read_token
from ._promise import token as make_token
from .context import Context
from .encode import dumps
from .errors import Cancelled, Conflict, NotFound, ReplayMismatch, TaskFailed, TidewheelError
from .flow import Workflow

if TYPE_CHECKING:
    from .authoring import Task
    from .testing import Clock

Json = Dict[str, Any]
#: A workflow in a test that makes so many turns goes round in a circle.
MAX_TURNS = 100_000


class RunOutcome:
    """What came of a run.

    ``phase`` is completed, failed, cancelled, waiting (for what nobody sends) or suspended (code and journal differ)."""

    def __init__(self) -> None:
        self.phase = "running"
        #: What the function returned, read back by its annotation; None if it did not return.
        self.output: Any = None
        #: The exception that ended the run; None if it did not fail.
        self.error: Optional[BaseException] = None
        #: Every entry, in the order in which they were asked for.
        self.journal: List[Json] = []
        self.log: List[testing.LogLine] = []
        #: Log lines of the run's tasks.
        self.task_logs: List[testing.LogLine] = []
        #: What `wf.attributes` has set.
        self.attributes: Dict[str, Any] = {}
        #: What `wf.status` has set last.
        self.state: Any = None
        #: Names of the tasks whose compensation has run, in this order.
        self.undone: List[str] = []
        #: Keys it waits for.
        self.waiting: List[str] = []
        #: Seconds of the virtual clock.
        self.elapsed = 0.0
        #: How often the program was activated.
        self.activations = 0
        self._histories: List[Json] = []

    @property
    def keys(self) -> List[str]:
        """The keys of the journal."""
        return [entry["key"] for entry in self.journal]

    @property
    def json(self) -> Any:
        """The output as it would be stored."""
        return json.loads(dumps(self.output, "output"))

    def entry(self, key: str) -> Json:
        """One entry by its key."""
        for entry in self.journal:
            if entry["key"] == key:
                return entry
        raise KeyError(f"there is no entry {key}; there are {', '.join(self.keys)}")

    def history(self, generation: Optional[int] = None) -> Json:
        """What `replay` takes, as `GET /runs/{id}/history` gives it; of the last round, or of the one named."""
        return json.loads(json.dumps(self._histories[-1 if generation is None else generation]))  # type: ignore[no-any-return]

    def unwrap(self) -> Any:
        """The output; raises the error if there is one, or if the run still waits."""
        if self.error is not None:
            raise self.error
        if self.phase == "waiting":
            raise TidewheelError(f"the run waits for {', '.join(self.waiting)}, and nothing is left that could come; give it with signals=, "
                                 "events= or promises=")
        return self.output

    def __repr__(self) -> str:
        end = f"error={self.error!r}" if self.error is not None else f"output={self.output!r}"
        return f"<RunOutcome {self.phase}, {end}, {len(self.journal)} entries>"


class Replayed(NamedTuple):
    """What a replay has gone through."""

    turns: int
    entries: int
    #: How the function ended, as `{"ok": ...}`; None if it waits where the journal ends.
    end: Optional[Json]


def run_workflow(
    workflow: "Workflow[Any, Any]",
    args: Tuple[Any, ...],
    mocks: Optional[Mapping[Any, Any]] = None,
    events: Iterable[Any] = (),
    signals: Any = None,
    promises: Any = None,
    clock: "Union[str, Clock]" = "auto",
    cancel: "Optional[_options.Duration]" = None,
    replay_every_step: bool = False,
    crash_at: Optional[str] = None,
    shuffle: Optional[int] = None,
    assets: Optional[Mapping[str, Any]] = None,
    retries: bool = True,
    seed: int = 0,
    **kwargs: Any,
) -> RunOutcome:
    """See `tidewheel.testing.run`.

    ``mocks``: by task, workflow or name, a function to call, a value, or an exception. ``signals``: ``{type: [data, ...]}`` at
    the start, or a list of ``(at, type, data)``; ``events``: ``{"type", "data", "at"}``; ``promises``: ``{name: value}`` or a list
    of ``(at, name, value)``, where the key of one (``/promise:answer#1``) may stand for its name. ``at`` is a duration since the start.
    ``cancel``: when the run is cancelled.

    ``replay_every_step`` throws the program away after everything that happens, and so finds code that a replay would take
    another way. ``crash_at``: the process dies when this entry was asked for and nothing of that is stored yet.
    ``shuffle``: a seed; what happens at the same time happens in another order."""
    world = _World(testing._clock(clock), Random(seed), shuffle, replay_every_step)
    world.mocks = {_name_of(key): value for key, value in (mocks or {}).items()}
    world.assets = assets or {}
    world.retries = retries
    run = _Run(world, workflow, workflow.input(args, kwargs), None)
    run.crash_at = crash_at
    for at, kind, name, data in _outside(events, signals, promises):
        world.at(at, lambda kind=kind, name=name, data=data: run.arrive(kind, name, data))  # type: ignore[misc]
    if cancel is not None:
        world.at(_options.duration_ms(cancel), lambda: run.cancel("cancelled by the test"))
    run.begin()
    _worlds.append(world)
    try:
        world.go(run)
    finally:
        _worlds.pop()
    return run.outcome


#: Runs that are being tested, the innermost last.
_worlds: "List[_World]" = []


def complete_promise(token: str, value: Any = None, error: "Union[str, Json, BaseException, None]" = None) -> None:
    """See `tidewheel.testing.complete_promise`."""
    head, key = read_token(token)
    run = next((run for world in _worlds for run in world.all if run.promises()[:HEAD_BYTES] == head), None)
    if run is None or make_token(run.promises(), key) != token:
        raise NotFound("there is no promise here that this token completes", code="not-found", status=404)
    check_one(value, error)
    if isinstance(error, str):
        error = TaskFailed(error)
    elif isinstance(error, dict):
        error = error_of({"error": error}, key)
    run.complete(key, value if error is None else error)


def _name_of(key: Any) -> str:
    if isinstance(key, Workflow):
        return key.ref
    if isinstance(key, authoring.Task):
        return key.name
    if isinstance(key, str):
        return key
    raise TypeError(f"mocks are given by task, workflow or name, not by {key!r}")


def _outside(events: Iterable[Any], signals: Any, promises: Any) -> List[Tuple[int, str, str, Any]]:
    """What comes from outside: milliseconds, kind, name, data."""
    out: List[Tuple[int, str, str, Any]] = []
    for event in events:
        if not isinstance(event, dict) or not isinstance(event.get("type"), str) or set(event) - {"type", "data", "at"}:
            raise TypeError(f"an event is {{'type': ..., 'data': ..., 'at': ...}}, not {event!r}")
        out.append((_options.duration_ms(event.get("at", 0)), "event", event["type"], event.get("data")))
    for kind, given in (("signal", signals), ("promise", promises)):
        if isinstance(given, Mapping):
            for name, data in given.items():
                for item in data if kind == "signal" and isinstance(data, (list, tuple)) else [data]:
                    out.append((0, kind, name, item))
        else:
            for item in given or ():
                if not isinstance(item, (list, tuple)) or len(item) != 3:
                    raise TypeError(f"{kind}s are given as {{name: data}} or as (at, name, data), not {item!r}")
                out.append((_options.duration_ms(item[0]), kind, item[1], item[2]))
    return out


class _World:
    """The queue of what happens next, for a run and its children."""

    def __init__(self, clock: "Clock", chance: Random, shuffle: Optional[int], every_step: bool) -> None:
        self.clock = clock
        self.start_ms = round(clock.now * 1000)
        self.now = self.start_ms
        self.chance = chance
        self.shuffled = None if shuffle is None else Random(shuffle)
        self.every_step = every_step
        self.parked: Parked = _Thrown() if every_step else Parked(1 << 30)
        self.mocks: Dict[str, Any] = {}
        self.assets: Mapping[str, Any] = {}
        self.retries = True
        self.runs = 0
        self.all: "List[_Run]" = []
        self._queue: List[Tuple[int, float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, delay_ms: float, action: Callable[[], None], rank: float = 0.0) -> None:
        """Lets something happen later; at equal times by rank, then in the order of the calls."""
        self._count += 1
        if self.shuffled is not None and rank == 0.0:
            rank = self.shuffled.random()
        heappush(self._queue, (self.now + round(delay_ms), rank, self._count, action))

    def latency(self) -> int:
        """How long something takes that takes no time: so that what began together ends in another order."""
        return self.shuffled.randint(0, 5000) if self.shuffled is not None else 0

    def go(self, main: "_Run") -> None:
        """Until the run has ended, or nothing is left that could happen."""
        while self._queue and not main.over:
            due, _, _, action = heappop(self._queue)
            if due > self.now:
                self.now = due
                self.clock.now = due / 1000
            action()
        main.outcome.elapsed = (self.now - self.start_ms) / 1000
        if not main.over:
            main.outcome.phase = "waiting"
            main.outcome.waiting = sorted({key for group in main.waits for key in group["keys"]})


class _Thrown(Parked):
    """Keeps nothing: each activation replays from the beginning."""

    def keep(self, program: Program) -> None:
        program.unwind()

    def forget(self, program: Program) -> None:
        program.unwind()


class _Run:
    """One run: what a partition of the server would know of it."""

    def __init__(self, world: _World, workflow: "Workflow[Any, Any]", input: Any, parent: Optional[Callable[[Json], None]]) -> None:
        self.world = world
        self.workflow = workflow
        self.input = json.loads(dumps(input, "input"))
        self.outcome = RunOutcome()
        self.crash_at: Optional[str] = None
        self.over = False
        self.waits: List[Json] = []
        world.runs += 1
        world.all.append(self)
        self._id = f"run_test_{world.runs}"
        self._seed = f"{world.chance.getrandbits(64):016x}"
        self._parent = parent
        self._generation = 0
        self._turns: List[Json] = []
        self._done: List[Json] = []
        self._entries: Dict[str, Json] = {}
        self._undo: List[Tuple[Json, Any]] = []
        self._children: List[Tuple["_Run", str]] = []
        self._inbox: List[Tuple[str, str, Any]] = []
        self._cancel: Optional[str] = None
        self._asked = False
        self._program: Optional[Program] = None

    # -- activations -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.workflow.timeout_ms is not None:
            self.world.at(self.workflow.timeout_ms, self._time_out)
        self._round()
        self._activate()

    def _round(self) -> None:
        self.outcome._histories.append({
            "workflow": self.workflow.ref, "run": self._id, "input": self.input, "seed": self._seed, "generation": self._generation, "turns": self._turns,
        })

    def _wake(self) -> None:
        """Activates the program if what it waits for is there."""
        if self.over or self._asked or not any(self._satisfied(group) for group in self.waits):
            return
        world = self.world
        if world.every_step or world.shuffled is not None and world.shuffled.random() < 0.5:
            self._activate()
        else:
            self._asked = True
            world.at(0, self._activate, rank=2.0)  # when what happens now has happened

    def _satisfied(self, group: Json) -> bool:
        ended = [self._entries[key].get("status") != "open" for key in group["keys"]]
        return all(ended) if group["mode"] == "all" else any(ended)

    def _activate(self) -> None:
        self._asked = False
        if self.over:
            return
        if len(self._turns) >= MAX_TURNS:
            raise TidewheelError(f"{self.workflow.ref} has made {MAX_TURNS} turns; does it go round in a circle?")
        turn: Json = {"no": len(self._turns) + 1, "now": self.world.now, "done": self._done}
        if self._cancel is not None:
            turn["cancel"], self._cancel = self._cancel, None
        self._done = []
        result = self._result_of(turn)
        self._turns.append({**turn, "opened": [{"key": c["key"], "hash": c["hash"]} for c in result["commands"]]})
        self._apply(result)

    def _result_of(self, turn: Json) -> Json:
        body = {
            "v": 1, "run": self._id, "workflow": self.workflow.ref, "seed": self._seed, "generation": self._generation, "input": self.input,
            "first": 1, "turns": self._turns + [turn],
        }
        while True:
            lines = len(self.outcome.log)
            self.outcome.activations += 1
            host = _Host(self)
            with _Quiet():
                text = dumps(activate(self.workflow, json.loads(json.dumps(body)), host, self.world.parked, watch=self._watch), "result")
            result: Json = json.loads(text)
            if self.crash_at is None or not any(c["key"] == self.crash_at for c in result["commands"]):
                return result
            # The process is gone, and nothing that it asked for was stored. What it logged was.
            self.crash_at = None
            del self.outcome.log[lines:]
            self.world.parked.drop(self._id)

    def _watch(self, program: Program) -> None:
        self._program = program

    def _apply(self, result: Json) -> None:
        outcome = self.outcome
        if "state" in result:
            outcome.state = result["state"]
        outcome.attributes.update(result.get("attributes") or {})
        outcome.attributes = {name: value for name, value in outcome.attributes.items() if value is not None}
        self.waits = []  # nothing is woken before all of the turn is stored
        targets = {} if self._program is None else self._program.entries
        if len(self._entries) + len(result["commands"]) > MAX_OPEN:
            count = sum(entry["status"] == "open" for entry in self._entries.values()) + len(result["commands"])
            if count > MAX_OPEN:
                self._end({"error": problem_of(too_much_open(count), traceback=False)})
                return
        for command in result["commands"]:
            entry = targets.get(command["key"])
            self._open(command, None if entry is None else entry.target)
        end = result.get("end")
        if end is not None:
            self._end(end)
            return
        self.waits = result["wait"]
        if result.get("again"):
            self._asked = True
            self.world.at(0, self._activate, rank=2.0)
        else:
            self._wake()

    # -- entries -----------------------------------------------------------------------------------------------------

    def _open(self, command: Json, target: Any) -> None:
        if command["key"] in self._entries:
            raise AssertionError(f"{command['key']} is asked for twice")
        kind = command["kind"]
        entry = {**command, "status": "open", "opened_at": self.world.now}
        self._entries[command["key"]] = entry
        self.outcome.journal.append(entry)
        if kind == "step":
            self.settle(entry, {"status": "ok", "value": command["value"]} if "value" in command else {"status": "error", "error": command["error"]})
        elif kind == "patch":
            entry["status"] = "ok"
        elif kind == "undo":
            entry["status"] = "armed"
            self._undo.append((entry, target))
        elif kind == "sleep":
            self.world.at(command["opts"]["ms"], lambda: self.settle(entry, {"status": "ok", "value": None}))
        elif kind == "task":
            self._task(entry, command["name"], command.get("args"), target, command.get("opts") or {}, lambda done: self.settle(entry, done))
        elif kind == "child":
            self._child(entry, command["name"], command.get("args"), target, command["opts"]["close"], lambda done: self.settle(entry, done))
        elif kind == "map":
            self._map(entry, target)
        else:
            self._listen(entry)

    def settle(self, entry: Json, done: Json) -> None:
        """Notes what an entry ended with."""
        if entry["status"] != "open" or self.over:
            return
        entry.update(done)
        entry["done_at"] = self.world.now
        self._done.append({"key": entry["key"], "at": self.world.now, **done})
        self._wake()

    def _task(self, entry: Json, name: str, input: Any, task: Any, opts: Json, ended: Callable[[Json], None]) -> None:
        if task is None:
            task = next((t for t in reversed(authoring.registry) if t.name == name), None)
        kit = self._kit(task, name, input)
        policy = _policy(task, opts) if self.world.retries else None

        def attempt(number: int) -> None:
            if self.over:
                return
            entry["attempts"] = entry.get("attempts", 0) + 1
            done, error = self._attempt(kit, number)
            if error is not None and policy is not None and number < policy.max_attempts and testing._may_retry(error, policy):
                self.world.at(testing._pause_ms(policy, number, self.world.chance), lambda: attempt(number + 1))
            else:
                ended(done)

        self.world.at(self.world.latency(), lambda: attempt(1))

    def _kit(self, task: "Optional[Task[Any, Any]]", name: str, input: Any) -> Any:
        if task is None:
            raise TidewheelError(f"there is no task {name!r} here")
        mock = _callable(self.world.mocks[name]) if name in self.world.mocks else None
        kit = testing._Kit.of_input(task, input, self.world.assets, None, mock)
        kit.clock = self.world.clock
        return kit

    def _attempt(self, kit: Any, number: int) -> Tuple[Json, Optional[BaseException]]:
        outcome = kit.attempt(number)
        self.outcome.task_logs += outcome.logs
        outcome.logs = []
        error, value = outcome.error, outcome.result
        if error is None and kit.task.batch is not None and kit.function is kit.task.function:
            value = value[0]
            error = value if isinstance(value, BaseException) else None
        if error is None:
            return {"status": "ok", "value": json.loads(dumps(value, "result"))}, None
        problem = {name: value for name, value in problem_of(error, traceback=False).items() if name not in ("exception", "key")}
        if type(error).__name__ == "Cancelled":
            return {"status": "cancelled", "error": problem}, error
        return {"status": "error", "error": problem}, error

    def _child(self, entry: Json, ref: str, input: Any, workflow: Any, close: str, ended: Callable[[Json], None]) -> None:
        mocks = self.world.mocks
        if ref in mocks:
            mock = _callable(mocks[ref])

            known = workflow or _find(ref)

            def answer() -> None:
                try:
                    # A workflow that is not here has no arguments, only its input.
                    args, kwargs = ((input,), {}) if known is None else testing._in_order(known.signature, *known.signature.arguments(input))
                    value = mock(*args, **kwargs)
                    ended({"status": "ok", "value": json.loads(dumps(value, "output"))})
                except Exception as error:
                    ended({"status": "error", "error": problem_of(error)})

            self.world.at(self.world.latency(), answer)
            return
        workflow = workflow or _find(ref)
        if workflow is None:
            problem = {"type": RUNTIME.replace("runtime", "configuration"), "status": 400, "title": "Configuration Error",
                       "detail": f"there is no workflow {ref} here; give it with mocks={{{ref!r}: ...}}"}
            ended({"status": "error", "error": problem})
            return
        child = _Run(self.world, workflow, input, ended)
        entry["run"] = child._id
        self._children.append((child, close))
        self.world.at(0, child.begin)

    def _map(self, entry: Json, target: Any) -> None:
        items = entry["args"]
        opts = entry.get("opts") or {}
        left = len(items)
        results: List[Any] = [None] * left
        waiting = list(range(left))[::-1]
        open_now = 0

        def one_done(i: int, done: Json) -> None:
            nonlocal left, open_now
            if entry["status"] != "open":
                return
            left -= 1
            open_now -= 1
            if opts.get("collect"):
                results[i] = {"ok": done["value"]} if done["status"] == "ok" else {"error": done.get("error") or {}}
            elif done["status"] == "ok":
                results[i] = done["value"]
            else:
                self.settle(entry, {"status": "error", "error": {**(done.get("error") or {}), "instance": f"{entry['key']}[{i}]"}})
                return
            if left == 0:
                self.settle(entry, {"status": "ok", "value": results})
            more()

        def more() -> None:
            nonlocal open_now
            while waiting and open_now < opts.get("concurrency", len(items)):
                i = waiting.pop()
                open_now += 1
                ended = lambda done, i=i: one_done(i, done)  # noqa: E731
                if entry["name"].startswith("workflow:"):
                    self._child(entry, entry["name"][len("workflow:"):], items[i], target, "cancel", ended)
                else:
                    self._task(entry, entry["name"], items[i], target, opts, ended)

        more()

    # -- from outside ------------------------------------------------------------------------------------------------

    def arrive(self, kind: str, name: str, data: Any) -> None:
        """A signal, an event, or the value of a promise."""
        if self.over:
            return
        value = data if isinstance(data, BaseException) else json.loads(dumps(data, name))
        for entry in self._entries.values():
            if entry["status"] == "open" and entry["kind"] == kind and name in (entry["name"], entry["key"]) and _matches(entry, value):
                self._answer(entry, value)
                return
        self._inbox.append((kind, name, value))

    def promises(self) -> bytes:
        """What tokens are made from: of the run's number, so that they are the same each time."""
        head = bytes([1, 0, 0, 0, 0]) + sha256(self._id.encode()).digest()[:16]
        return head + sha256(b"test kit" + self._id.encode()).digest()

    def complete(self, key: str, value: Any) -> None:
        """The promise of this key is completed; what comes too late raises `Conflict`, as the server has it."""
        given = _done(value, key)
        if self.over:
            raise Conflict("the run has already ended", code="conflict", status=409)
        entry = self._entries.get(key)
        if entry is not None and entry["status"] != "open":
            before: Any = {name: entry.get(name) for name in given}
        else:
            before = next((_done(item[2], key) for item in self._inbox if item[:2] == ("promise", key)), None)
        if before is None:
            self.arrive("promise", key, value)
        elif before != given:
            raise Conflict("the promise has been completed already, with something else; the first one counts", code="conflict", status=409)

    def _listen(self, entry: Json) -> None:
        for item in self._inbox:
            if item[0] == entry["kind"] and item[1] in (entry["name"], entry["key"]) and _matches(entry, item[2]):
                self._inbox.remove(item)
                self._answer(entry, item[2])
                return
        limit = (entry.get("opts") or {}).get("timeout_ms")
        if limit is not None:
            problem = {"type": RUNTIME.replace("runtime", "timeout"), "status": 408, "title": "Timeout Error",
                       "detail": f"no {entry['kind']} {entry['name']} came within {limit / 1000:g} s"}
            self.world.at(limit, lambda: self.settle(entry, {"status": "error", "error": problem}))

    def _answer(self, entry: Json, value: Any) -> None:
        self.settle(entry, _done(value, entry["name"]))

    def cancel(self, reason: str) -> None:
        """Asks the run to stop."""
        if not self.over:
            self._cancel = reason
            self._activate()

    def _time_out(self) -> None:
        if self.over:
            return
        limit = (self.workflow.timeout_ms or 0) / 1000
        error = error_of({"status": "error", "error": {"type": "timeout", "status": 408, "title": "Timeout Error",
                                                       "detail": f"the run took longer than {limit:g} s"}}, "")
        self._finish("failed", error, {"status": "error", "error": problem_of(error, traceback=False)})

    # -- the end -----------------------------------------------------------------------------------------------------

    def _end(self, end: Json) -> None:
        self.outcome._histories[-1]["end"] = end
        if "continue" in end:
            self._generation += 1
            self.input = end["continue"]
            self._turns, self._done, self._entries = [], [], {}
            self.waits = []
            self._round()
            self._asked = True
            self.world.at(0, self._activate, rank=2.0)
        elif "ok" in end:
            waiting = [child for child, close in self._children if close == "wait" and not child.over]
            if waiting:
                self.waits = []
                self.world.at(1000, lambda: self._end(end))
                return
            self.outcome.output = self.workflow.signature.result(json.loads(json.dumps(end["ok"])))
            self._finish("completed", None, {"status": "ok", "value": end["ok"]})
        elif "cancelled" in end:
            self._finish("cancelled", Cancelled("the run was cancelled", code="cancelled"), {"status": "cancelled"})
        elif "mismatch" in end:
            self._finish("suspended", mismatch_error(end["mismatch"]), {"status": "error", "error": {"type": "replay-mismatch", **end["mismatch"]}})
        else:
            own = None if self._program is None else self._program.failure()
            self._finish("failed", own or error_of({"status": "error", "error": end["error"]}, str(end["error"].get("key") or "")),
                         {"status": "error", "error": end["error"]})

    def _finish(self, phase: str, error: Optional[BaseException], done: Json) -> None:
        self.over = True
        self.outcome.phase = phase
        self.outcome.error = error
        if phase in ("failed", "cancelled"):
            self._compensate()
        for child, close in self._children:
            if close == "cancel" and not child.over:
                self.world.at(0, lambda child=child: child.cancel("the parent has ended"))  # type: ignore[misc]
        if self._parent is not None:
            self._parent(done)

    def _compensate(self) -> None:
        """Last armed, first run."""
        for entry, task in reversed(self._undo):
            kit = self._kit(task, entry["name"], entry.get("args"))
            policy = _policy(task, entry.get("opts") or {}) if self.world.retries else None
            number = 1
            while True:
                done, error = self._attempt(kit, number)
                if error is None or policy is None or number >= policy.max_attempts or not testing._may_retry(error, policy):
                    break
                number += 1
            entry.update(done)
            entry["attempts"] = number
            self.outcome.undone.append(entry["name"])


def _done(value: Any, name: str) -> Json:
    """How an entry ends with what came from outside."""
    if isinstance(value, BaseException):
        return {"status": "error", "error": problem_of(value, traceback=False)}
    return {"status": "ok", "value": json.loads(dumps(value, name))}


def _policy(task: Any, opts: Json) -> "Optional[_options.Retry]":
    """As the task has it, or as the call says."""
    own = getattr(task, "retry", None)
    wire = opts.get("retry")
    if wire is None:
        return own
    seconds = {name: wire[name + "_ms"] / 1000 for name in ("max_delay", "jitter") if name + "_ms" in wire}
    return _options.Retry(
        wire["max_attempts"], delay=wire["delay_ms"] / 1000, factor=wire["factor"], **seconds,
        on=own.on if own is not None else (), no_retry=own.no_retry if own is not None else (),
    )


def _callable(mock: Any) -> Callable[..., Any]:
    """A mock as a function: of a function, itself; an exception is raised, anything else returned."""
    if isinstance(mock, BaseException) or isinstance(mock, type) and issubclass(mock, BaseException):

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise mock

        return fail
    if callable(mock):
        return mock  # type: ignore[no-any-return]
    return lambda *args, **kwargs: mock


def _matches(entry: Json, value: Any) -> bool:
    where = (entry.get("opts") or {}).get("where")
    return not where or isinstance(value, dict) and all(name in value and value[name] == wanted for name, wanted in where.items())


def _find(ref: str) -> "Optional[Workflow[Any, Any]]":
    name, _, version = ref.partition(":")
    found = [w for w in flow.registry if w.ref == ref or version == "latest" and w.ref.startswith(name + ":")]
    return found[-1] if found else None


class _Host:
    """The driver's host for one activation."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def history(self, run: str, generation: int, epoch: int, below: int) -> List[Json]:
        raise AssertionError("the whole history comes along")

    def load(self, ref: Json) -> Any:
        raise TidewheelError(f"the value {ref['$ref']} is stored elsewhere; export the journal with its values")

    def log(self, level: str, msg: str, fields: Json) -> None:
        self._run.outcome.log.append(testing.LogLine(level, msg, fields))

    def promises(self) -> bytes:
        return self._run.promises()

    def step_context(self, idempotency_key: str) -> Context:
        run = self._run
        kit = testing._Kit.__new__(testing._Kit)
        kit._begin(_STEP, run.world.assets, None, None)
        kit.outcome.logs = run.outcome.task_logs
        kit.clock = run.world.clock
        return Context(kit, "test", {"task_id": run._id, "attempt": 1, "idempotency_key": idempotency_key})


def _step() -> None:
    """Stands for the task of a step's context."""


_STEP: "Task[Any, Any]" = authoring.Task(_step)


class _Quiet:
    """While code is replayed, what it prints was printed before."""

    def __enter__(self) -> None:
        import sys

        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Filter(sys.stdout), _Filter(sys.stderr)

    def __exit__(self, *_: Any) -> None:
        import sys

        sys.stdout, sys.stderr = self._before


class _Filter:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        from ._driver import muted

        return len(text) if muted() else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mismatch_error(found: Json) -> ReplayMismatch:
    """The exception for a mismatch."""
    text = f"{found['file']}:{found['line']}: {found['why']} (turn {found['turn']}, journal: {found['expected']}, code: {found['actual']})"
    return ReplayMismatch(text, code="replay-mismatch", turn=found["turn"], expected=found["expected"], actual=found["actual"],
                          file=found["file"], line=found["line"])


def replay_journal(workflow: "Workflow[Any, Any]", journal: "Union[str, os.PathLike[str], Mapping[str, Any]]") -> Replayed:
    """See `tidewheel.testing.replay`."""
    if not isinstance(workflow, Workflow):
        raise TypeError(f"{workflow!r} is not a workflow; put @workflow on it")
    if isinstance(journal, Mapping):
        body = json.loads(json.dumps(dict(journal)))
    else:
        with open(journal, encoding="utf-8") as file:
            body = json.load(file)
    if isinstance(body, dict) and "turns" not in body and isinstance(body.get("history"), dict):
        body = body["history"]  # a line of `tidewheel run export`
    ref = str(body.get("workflow", "")) if isinstance(body, dict) else ""
    if ref.partition(":")[0] != workflow.ref.partition(":")[0]:
        raise ValueError(f"the journal is of {ref or 'no workflow'}, and not of {workflow.ref}")
    turns = [turn for turn in body.get("turns") or () if not isinstance(turn, dict) or "opened" in turn]
    if not turns:
        raise ValueError("the journal has no turn that has ended")
    activation = Activation({**body, "v": 1, "first": 1, "turns": turns})
    check_turn(turns[-1], len(turns), True)
    program = Program(workflow, activation)
    world = _World(testing.Clock(), Random(0), None, True)
    program.host = _Host(_Run(world, workflow, None, None))
    with _Quiet():
        try:
            program.play(turns, live=False)
            if program.mismatch is not None:
                raise mismatch_error(program.mismatch)
            _compare_end(program, body.get("end"))
            return Replayed(len(turns), len(program.entries), program.end)
        finally:
            program.unwind()


def _tokenless(end: Any) -> Any:
    """What a function ended with, with tokens as the keys of their promises: another server makes other ones."""
    import re

    def key(found: "re.Match[str]") -> str:
        try:
            return read_token(found.group())[1]
        except ValueError:
            return found.group()

    return json.loads(re.sub(PREFIX + "[0-9a-z]+", key, json.dumps(end)))


def _compare_end(program: Program, end: Optional[Json]) -> None:
    """Whether the function ends as it did; of an error, the exception's class counts."""
    if end is None:
        return
    own = program.end
    same = own is not None and own.keys() == end.keys()
    if same and own is not None:
        if "error" in end:
            same = own["error"].get("exception") == end["error"].get("exception")
        else:
            same = json.loads(json.dumps(own)) == end or bool(program.tokens) and _tokenless(own) == _tokenless(end)
    if not same:
        file, line = program.home()
        was, now = json.dumps(end)[:200], json.dumps(own)[:200]
        raise mismatch_error({"turn": program.no, "expected": None, "actual": None, "file": file, "line": line,
                              "why": f"the function ended with {was} and now ends with {now}"})
