"""Drives the program of a run: takes an activation's input, gives its result. It knows neither the shim nor the test kit.

A turn is one activation. For each turn the driver notes what has ended, lets every strand run until it waits, and then has
what the program asked for. For a turn of the past that is compared with what was asked for then; for the turn that is live it
is the result:

    turn 1 (past)    done: -           asked: task A, task B      compared with `opened`
    turn 2 (past)    done: A           asked: -                   compared
    turn 3 (live)    done: B           asked: sleep 1d            commands of the result

Keys follow from where in the program something is asked for, never from when something ended (`Scope.key`). All of a turn's
`done` is resolved before user code goes on, in the order in which things ended, so a replay goes the same way as the first
time did.

A program that is left waiting may stay as it is (`Parked`) and go on with the next activation; nothing depends on it.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import OrderedDict, deque

from ._journal import MAX_COMMANDS, MAX_KEY, MAX_TURN, STRICT, Activation, Entry, check_name, check_turn, error_of, hash_of
from ._journal import measured, problem_of, size_of, too_many
from ._strand import FLOW, STALL_S, Strand, Wait, here, user_place
from .context import Context
from .encode import to_json
from .errors import Cancelled, InputError, ResultError, TidewheelError, WorkflowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random
    from typing import Any, Callable, Deque, Dict, List, NoReturn, Optional, Protocol, Set, Tuple

    from ._loop import Loop
    from .authoring import Task
    from .flow import Workflow

    class Host(Protocol):
        """What a program needs of whoever runs it, for one activation."""

        def history(self, run: str, generation: int, epoch: int, below: int) -> List[Dict[str, Any]]: ...
        def load(self, ref: Dict[str, Any]) -> Any: ...
        def log(self, level: str, msg: str, fields: Dict[str, Any]) -> None: ...
        def promises(self) -> bytes: ...
        def step_context(self, idempotency_key: str) -> Context: ...


#: Programs that may wait in a process.
MAX_PARKED = 200
_SKIPPED = ("type", "input")
#: What the names of priorities stand for.
_LEVELS = {"high": 8, "medium": 5, "low": 2}
#: Options of a submission that say when it starts, or what it belongs to: here the workflow says that.
_NOT_HERE = {"delay": "call wf.sleep before it", "run_at": "call wf.sleep before it", "workflow_id": "it belongs to this run"}


class Continue(BaseException):
    """Ends this generation. No Exception, so that `except Exception` lets it through."""

    def __init__(self, input: "Any") -> None:
        super().__init__()
        self.input = input


class Scope:
    """A part of the program that has an order of its own: the whole, or one of several side by side."""

    __slots__ = ("program", "path", "strand", "_counts", "_children", "_random", "_turn")

    def __init__(self, program: "Program", path: str) -> None:
        self.program = program
        self.path = path
        self.strand: "Optional[Strand]" = None
        self._counts: "Dict[Tuple[str, str], int]" = {}
        self._children = 0
        self._random: "Optional[Random]" = None
        self._turn = 0

    def key(self, kind: str, name: str) -> str:
        """The next key of this kind and name within the scope."""
        n = self._counts.get((kind, name), 0)
        self._counts[kind, name] = n + 1
        return f"{self.path}/{kind}:{name}#{n}"

    def child(self) -> "Scope":
        """The scope of the next part that runs beside this one."""
        path = f"{self.path}.p{self._children}" if self.path else f"p{self._children}"
        self._children += 1
        return Scope(self.program, path)

    def random(self) -> "Random":
        """Equal in every replay: it follows from run, turn and scope."""
        program = self.program
        if self._random is None or self._turn != program.no:
            from random import Random

            self._random = Random(f"{program.seed}:{program.generation}:{program.no}:{self.path}")
            self._turn = program.no
        return self._random

    # -- asking ------------------------------------------------------------------------------------------------------

    def open_task(self, task: "Task[Any, Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]", options: "Dict[str, Any]") -> Entry:
        """A call of a task."""
        body = task.submission(args, kwargs, **options)
        return self.open("task", task.name, body["input"], opts=task_options(body), target=task)

    def open_child(self, target: "Any", input: "Any", close: str) -> Entry:
        """A child run, of a `Workflow` or of ``namespace/name:version``."""
        ref = target if isinstance(target, str) else target.ref
        return self.open("child", ref, input, hashed=[input, ref], opts={"close": close}, target=None if isinstance(target, str) else target)

    def open(
        self, kind: str, name: str, args: "Any" = None, *, hashed: "Any" = None, opts: "Optional[Dict[str, Any]]" = None,
        target: "Any" = None, key: "Optional[str]" = None,
    ) -> Entry:
        """Asks for something; ``hashed`` is what its hash is of, if not of its arguments."""
        key = self.key(kind, name) if key is None else key
        entry = measured(key, kind, name, target, args if hashed is None else hashed, self.program.tokens)
        command: "Dict[str, Any]" = {"key": entry.key, "kind": kind, "name": name, "hash": entry.hash}
        if args is not None:
            command["args"] = args
        if opts:
            command["opts"] = opts
        self.program.issue(entry, command)
        return entry

    # -- getting -----------------------------------------------------------------------------------------------------

    def give(self, entry: Entry) -> "Any":
        """Its value, waited for; in an async workflow what can be awaited."""
        if self.program.loop is not None:
            return self.program.loop.future_of(entry)
        return self.wait(entry)

    def handle(self, entry: Entry) -> "Any":
        """What stands for its value until somebody wants it."""
        if self.program.loop is not None:
            return self.program.loop.future_of(entry)
        from .durable import Call, Promise

        return (Promise if entry.kind == "promise" else Call)(entry, self.program)

    def wait(self, entry: Entry) -> "Any":
        self.here().wait_for((entry,), True)
        return self.program.read(entry)

    def here(self) -> Strand:
        """The strand of a sync workflow that runs this scope."""
        if self.strand is None:
            raise WorkflowError("this waits in a part of the workflow that has ended")
        return self.strand

    def run_step(self, name: str, function: "Callable[..., Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]") -> Entry:
        """Runs a function of the program's own, unless the journal knows what came of it."""
        program = self.program
        entry = Entry(self.key("step", check_name("a step's name", name)), "step", name, None, "")
        try:
            entry.hash = hash_of(to_json([list(args), kwargs]), program.tokens)
        except ResultError:
            entry.hash = hash_of("arguments without JSON")
        command: "Dict[str, Any]" = {"key": entry.key, "kind": "step", "name": name, "hash": entry.hash}
        if not program.replaying:
            command.update(program.run_step(entry.key, function, args, kwargs))
            program.stepped = True
        elif program.no <= program.accepted:
            program.not_run[entry.key] = (function, args, kwargs)
        program.issue(entry, command)
        return entry


def task_options(body: "Dict[str, Any]") -> "Dict[str, Any]":
    """The options of a command, from the body of a submission."""
    for name, instead in _NOT_HERE.items():
        if name in body:
            raise ValueError(f"{name} is no option of a task that a workflow calls; {instead}")
    opts = {name: value for name, value in body.items() if name not in _SKIPPED}
    from .options import bytes_of, duration_ms

    if "retry" in opts:
        opts["retry"] = _retry(opts["retry"])
    limits = opts.pop("timeout", None)
    if limits:
        opts["timeouts"] = {stage + "_ms": duration_ms(limit) for stage, limit in limits.items()}
    for name, plain in (("ttl", "ttl_ms"), ("expected_duration", "expected_ms")):
        if name in opts:
            opts[plain] = duration_ms(opts.pop(name))
    if opts.get("priority") in _LEVELS:
        opts["priority"] = _LEVELS[opts["priority"]]
    if "memory" in (opts.get("resources") or {}):
        opts["resources"] = {**opts["resources"], "memory": bytes_of(opts["resources"]["memory"])}
    return opts


def _retry(policy: "Dict[str, Any]") -> "Dict[str, Any]":
    """A policy in numbers, as the engine keeps it."""
    from .options import duration_ms

    out: "Dict[str, Any]" = {"max_attempts": policy.get("max_attempts", 3), "delay_ms": duration_ms(policy.get("delay", "1s"))}
    out["factor"] = 1.0 if policy.get("backoff") == "constant" else float(policy.get("factor", 2.0))
    for name in ("max_delay", "jitter"):
        if name in policy:
            out[name + "_ms"] = duration_ms(policy[name])
    return out


class Program:
    """One run as this process has it."""

    def __init__(self, workflow: "Workflow[Any, Any]", activation: Activation, stall_s: float = STALL_S) -> None:
        self.workflow = workflow
        self.run = activation.run
        self.ref = activation.workflow
        self.seed = activation.seed
        self.generation = activation.generation
        self.epoch = activation.epoch
        self.input = activation.input
        self.stall_s = stall_s
        self.root = f"g{self.generation}" if self.generation else ""
        self.baton = allocate_lock()
        self.baton.acquire()
        self.host: "Optional[Host]" = None
        self.context = Context(_FlowHost(self), self.run, {"task_id": self.run, "queue": workflow.queue or ""})
        self.no = 0
        self.now = 0
        self.replaying = False
        #: It stands where it must not be woken any more.
        self.broken = False
        #: How often more its code may come to a wait while the test kit throws it away.
        self.unwinding = 0
        #: User code runs a step, which may take its time.
        self.stepping = False
        self.stepped = False
        #: Changes with everything that its code asks for.
        self.progress = 0
        self.cancelled: "Optional[str]" = None
        self.end: "Optional[Dict[str, Any]]" = None
        self.mismatch: "Optional[Dict[str, Any]]" = None
        self.aborted: "Optional[BaseException]" = None
        self.loop: "Optional[Loop]" = None
        self.main: "Optional[Strand]" = None
        self.strands: "Dict[Strand, None]" = {}
        self.entries: "Dict[str, Entry]" = {}
        self.patches: "Set[str]" = set()
        #: Up to this turn differences were accepted. What the history has there stands, whenever the code asks for it; what it asks
        #: for instead is begun in the first turn behind.
        self.accepted = activation.accepted
        #: Tokens of its promises that its code has seen, with their keys.
        self.tokens: "Dict[str, str]" = {}
        self._known: "Set[str]" = set()
        #: What of that ended before the code asked for it; what the code asked for there, and the history did not have.
        self._early: "Dict[str, Any]" = {}
        self._late: "List[Tuple[Entry, Dict[str, Any]]]" = []
        #: Functions of steps of those turns, which are run where the history does not have them.
        self.not_run: "Dict[str, Any]" = {}
        self.commands: "List[Dict[str, Any]]" = []
        self.issued: "Dict[str, str]" = {}
        self.opened: "Optional[Dict[str, Optional[str]]]" = None
        self.told: "Dict[str, Any]" = {}
        #: What the newest turn had to tell.
        self.heard: "List[Any]" = []
        self._ready: "Deque[Strand]" = deque()
        self._bytes = 0
        self._ended = 0
        self._turns: "Deque[Dict[str, Any]]" = deque()
        self._live = True

    # -- turns -------------------------------------------------------------------------------------------------------

    def play(self, turns: "List[Dict[str, Any]]", live: bool) -> None:
        """Goes through turns, of which the last one is live (or none is). Afterwards `end`, `mismatch`, `commands` and `waits` say
        what came of it."""
        self._turns, self._live = deque(turns), live
        if self.accepted:
            lenient = (turn for turn in turns if turn["no"] <= self.accepted)
            self._known.update(item["key"] for turn in lenient for item in turn.get("opened") or ())
        while self._next():
            self._spin()

    def advance(self) -> bool:
        """For a strand that is about to wait: if nothing else is to run in this turn, the next one begins here and now, and a
        replay need not go back and forth between threads. False = the driver has to see to it."""
        if self._ready or self.broken or self.end is not None:
            return False
        try:
            return self._next()
        except Exception as error:  # it must not come out in the user's code
            self.abort(error)

    def is_next(self, strand: Strand) -> bool:
        """Whether it is the strand's turn to run; then it counts as running."""
        if not self._ready or self._ready[0] is not strand:
            return False
        self._ready.popleft()
        strand.queued = False
        return True

    def _next(self) -> bool:
        """Leaves the turn that is over, and enters the next; False if there is none, or no way on."""
        if self.opened is not None and not self.broken:
            self._compare()
            if self.end is not None and self._turns and self.mismatch is None:
                strict = (turn for turn in self._turns if turn["no"] > self.accepted)
                expected = next((item["key"] for turn in strict for item in turn.get("opened") or ()), None)
                if expected is not None or self.no > self.accepted:
                    self._note(expected, None, "the function has ended, and the journal goes on", None)
        if self.broken or not self._turns:
            return False
        turn = self._turns.popleft()
        self._enter(turn, self._live and not self._turns)
        return True

    def _enter(self, turn: "Dict[str, Any]", live: bool) -> None:
        self.no, self.now = turn["no"], turn["now"]
        self.replaying = not live
        self.progress += 1
        self.stepped = False
        self.commands, self.issued, self.told, self._bytes = [], {}, {}, 0
        self.heard = _heard(turn)
        self.opened = None if live else {item["key"]: item.get("hash") for item in turn["opened"]}
        for key in self.opened or ():
            if "/patch:" in key:
                self.patches.add(key)
        if live or self.no > self.accepted:
            for entry, command in self._late:
                self.issued[entry.key] = entry.hash
                if live:
                    if entry.key in self.not_run:
                        command.update(self._step(entry.key, *self.not_run[entry.key]))
                        self.stepped = True
                    self.commands.append(command)
            self._late, self.not_run = [], {}
        if self.main is None:
            self._begin()
        reason = turn.get("cancel")
        if reason is not None and self.cancelled is None:
            self._cancel(reason)  # before the rest: what it waits for raises, and may have ended all the same
        for done in turn.get("done") or ():
            self._resolve(done)
        if self.loop is not None and self.loop.ready and self.main is not None:
            self.wake(self.main)

    def _begin(self) -> None:
        scope = Scope(self, self.root)
        if self.workflow.is_async:
            from ._loop import Loop

            loop = self.loop = Loop(self)  # type: ignore[abstract]  # what is missing is put there by name
            self.main = Strand(self, scope, lambda: loop.run(self._call()))
        else:
            self.main = Strand(self, scope, self._call)
        scope.strand = self.main
        self.start(self.main)

    def _call(self) -> "Any":
        args, kwargs = self.workflow.signature.arguments(self.load(self.input))
        value = self.workflow.function(*args, **kwargs)
        if self.loop is None and hasattr(value, "close") and hasattr(value, "__await__"):
            value.close()
            raise TypeError(f"{self.workflow.fn} is a plain function that returned a coroutine; @workflow goes directly on the `async def`, below "
                            "other decorators")
        return value

    def _resolve(self, done: "Dict[str, Any]") -> None:
        entry = self.entries.get(done["key"])
        if entry is None and done["key"] in self._known:
            self._early[done["key"]] = done
        if entry is None or entry.over:
            return  # what a mismatch will tell, or a line that came twice
        entry.done = done
        entry.over = True
        self._ended += 1
        entry.order = self._ended
        if entry.future is not None:
            entry.future.arrived()
        for wait in entry.waiters:
            wait.arrived()
        entry.waiters = []

    def _cancel(self, reason: str) -> None:
        self.cancelled = reason or "cancelled"
        if self.loop is not None:
            self.loop.cancel_main()
            return
        for strand in list(self.strands):
            if strand.wait is None or not all(isinstance(item, Strand) for item in strand.wait.items):
                self.interrupt(strand, Cancelled(self.cancelled, code="cancelled"))

    def interrupt(self, strand: Strand, error: BaseException) -> None:
        """Lets the wait of a strand raise, or its next one."""
        strand.pending = error
        if strand.wait is not None:
            self.wake(strand)

    def start(self, strand: Strand) -> None:
        """Puts a new strand behind those that are ready."""
        self.strands[strand] = None
        self.wake(strand)

    def wake(self, strand: Strand) -> None:
        if not strand.queued and not strand.over:
            strand.queued = True
            self._ready.append(strand)

    def _spin(self) -> None:
        ready = self._ready
        while ready and not self.broken:
            strand = ready.popleft()
            strand.queued = False
            strand.hand_over()
            if self.aborted is not None:
                raise self.aborted
            if strand is self.main and strand.over and self.end is None:
                self.end = self._end_of(strand)
                # What still runs beside it is told, once, and may leave things in order.
                for other in list(self.strands):
                    self.interrupt(other, Cancelled("the workflow has ended", code="cancelled"))

    def finished(self, strand: Strand) -> None:
        """A strand's function has ended. Runs on its thread."""
        self.strands.pop(strand, None)
        self._ended += 1
        strand.order = self._ended
        strand.scope.strand = None
        for wait in strand.waiters:
            wait.arrived()
        strand.waiters = []

    def _end_of(self, main: Strand) -> "Dict[str, Any]":
        error = main.error
        if error is None:
            try:
                value = to_json(main.value, "output")
                size_of(value, "output")
                return {"ok": value}
            except Exception as second:  # of a property or an iterator of the user's too
                error = second
        if isinstance(error, MemoryError):
            self.broken = True
            raise error  # of this process, and not of the run
        if isinstance(error, Continue):
            return {"continue": error.input}
        if self.cancelled is not None and _is_cancel(error):
            return {"cancelled": True}
        return {"error": problem_of(error)}

    # -- what the program asks for -----------------------------------------------------------------------------------

    def issue(self, entry: Entry, command: "Dict[str, Any]") -> None:
        """Takes a command of this turn; one of the past has to be in the journal."""
        key = entry.key
        self.progress += 1
        if len(key.encode()) > MAX_KEY:
            raise WorkflowError(f"{key[:80]}...: the key is longer than {MAX_KEY} bytes; nest less, or give a shorter name")
        if len(self.issued) >= MAX_COMMANDS:
            raise too_many(key)
        self._bytes += 256 + entry.size
        if self._bytes > MAX_TURN:
            raise ResultError(f"{key}: what the workflow asks for in one go has over {MAX_TURN} bytes; wait for some of it first")
        # Bounds go first, and are those of the first time: a replay has to run into the same ones.
        if self.opened is not None:
            self._check(entry, self.opened)
        self.entries[key] = entry
        if self.opened is None:
            if key not in self._known:
                self.issued[key] = entry.hash
                self.commands.append(command)
        elif key in self.opened:
            self.issued[key] = entry.hash
        elif key not in self._known:
            self._late.append((entry, command))
        if key in self._early:
            self._resolve(self._early.pop(key))

    def _check(self, entry: Entry, opened: "Dict[str, Optional[str]]") -> None:
        hash = opened.get(entry.key)
        if self.no <= self.accepted or entry.key in self._known:
            return
        if entry.key not in opened:
            expected = next((key for key in opened if key not in self.issued and "/patch:" not in key), None)
            self._differ(expected, entry.key, "the code asks for what the journal does not have here", here())
        elif hash and hash != entry.hash:
            if entry.kind in STRICT:
                self._differ(entry.key, entry.key, "the code gives other arguments than the journal has", here())
            self.log("warning", f"{entry.key}: the step's arguments differ from those in the journal", {}, even_replaying=True)

    def _differ(self, expected: "Optional[str]", actual: "Optional[str]", why: str, place: "Optional[Tuple[str, int]]") -> None:
        """Notes the mismatch; the strand that runs stays where it is, for good."""
        self._note(expected, actual, why, place)
        self.current().give_up()

    def _note(self, expected: "Optional[str]", actual: "Optional[str]", why: str, place: "Optional[Tuple[str, int]]") -> None:
        file, line = place or self.home()
        self.mismatch = {"turn": self.no, "expected": expected, "actual": actual, "why": why, "file": file, "line": line}
        self.broken = True

    def current(self) -> Strand:
        """The strand that runs now."""
        scope = None if self.loop is not None else FLOW.get()
        return self.main if scope is None or scope.strand is None else scope.strand  # type: ignore[return-value]

    def _compare(self) -> None:
        missing = next((key for key in self.opened or () if self._is_missing(key)), None)
        if missing is None:
            return
        place = None
        if self.end is None and self.main is not None:
            place = self.loop.place() if self.loop is not None else self.main.place()
        why = "the journal has what the code does not ask for" + ("" if self.end is None else ": the function has ended")
        self._note(missing, None, why, place)

    def _is_missing(self, key: str) -> bool:
        return key not in self.issued and "/patch:" not in key and self.no > self.accepted

    def abort(self, error: BaseException) -> "NoReturn":
        """Ends the activation, and not the run: what went wrong is of this process. The strand stays where it is, for nothing of
        it may come out in the user's code, where it would be caught or would fail the run."""
        self.aborted = error
        self.current().give_up()

    def unwind(self) -> None:
        """Ends its threads, through the `finally` of the user's. For the test kit: whoever replays after each step would else
        have a thread for each. Code that goes on all the same is left where it is."""
        self.broken = self.replaying = True
        self.opened = {}
        self.unwinding = 1000
        if self.loop is not None:
            self.loop.ready.clear()
        for strand in list(self.strands):
            thread = strand.thread
            if thread is not None:
                thread.gate.release()
                self.baton.acquire(True, self.stall_s)
        if self.loop is not None:
            self.loop.unwind()

    def home(self) -> "Tuple[str, int]":
        """File and line of the function."""
        code = getattr(self.workflow.function, "__code__", None)
        return (code.co_filename, code.co_firstlineno) if code else (self.workflow.fn, 0)

    def patched(self, id: str) -> bool:
        """See `wf.patched`."""
        key = f"{self.root}/patch:{check_name('the id of a patch', id)}#0"
        if key in self.entries:
            return True
        if self.replaying and key not in self.patches:
            return False
        entry = Entry(key, "patch", id, None, hash_of(None))
        if key in self.patches and (self.opened is None or key not in self.opened):
            self.entries[key] = entry  # of an earlier turn
            return True
        self.issue(entry, {"key": key, "kind": "patch", "name": id, "hash": entry.hash})
        return True

    # -- values ------------------------------------------------------------------------------------------------------

    def read(self, entry: Entry) -> "Any":
        """What an entry ended with; raises its error."""
        done = entry.done
        assert done is not None
        if done["status"] != "ok":
            raise error_of(done, entry.key)
        value = self.load(done.get("value"))
        if entry.kind == "map":
            from .durable import read_map

            return read_map(value, entry)
        return value if entry.target is None else entry.target.signature.result(value)

    def load(self, value: "Any") -> "Any":
        """A large value is fetched when it is read."""
        if type(value) is dict and value.keys() == {"$ref", "size"}:
            try:
                assert self.host is not None
                return self.host.load(value)
            except Exception as error:
                self.abort(error)
        return value

    def run_step(self, key: str, function: "Callable[..., Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]") -> "Dict[str, Any]":
        """Runs a step's function as plain code; its value or error, as a command has it."""
        try:
            return self._step(key, function, args, kwargs)
        except (Exception, SystemExit) as error:
            self.abort(error)

    def _step(self, key: str, function: "Callable[..., Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]") -> "Dict[str, Any]":
        """The same; raises what is of this process and not of the step."""
        from contextvars import copy_context

        from .context import CURRENT

        assert self.host is not None
        context = self.host.step_context(f"{self.run}:{key}")

        def plain() -> "Any":
            FLOW.set(None)
            CURRENT.set(context)
            value = function(*args, **kwargs)
            if hasattr(value, "__await__"):
                return _complete(value)
            return value

        self.stepping = True
        try:
            value = to_json(copy_context().run(plain), "value")
            size_of(value, key)
            return {"value": value}
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError) or isinstance(error, Cancelled) and context.stopping:
                raise
            problem = problem_of(error)
            problem.pop("key", None)
            return {"error": problem}
        finally:
            self.stepping = False

    def token(self, key: str) -> str:
        """The token of a promise."""
        from ._promise import HEAD_BYTES, KEY_BYTES, token

        given = b"" if self.host is None else self.host.promises()
        if len(given) != HEAD_BYTES + KEY_BYTES:
            why = "the agent or the server is too old for tokens of promises; complete this one by its name, or bring them up to date"
            self.abort(TidewheelError(why, code="unsupported", retryable=True))
        text = token(given, key)
        self.tokens[text] = key
        return text

    def failure(self) -> "Optional[BaseException]":
        """The exception with which the function ended, itself."""
        return None if self.main is None else self.main.error

    def log(self, level: str, msg: str, fields: "Dict[str, Any]", even_replaying: bool = False) -> None:
        """A line of the run's log, once."""
        if (even_replaying or not self.replaying) and self.host is not None:
            self.host.log(level, msg, fields)

    # -- what came of the turn ---------------------------------------------------------------------------------------

    def waits(self) -> "List[Dict[str, Any]]":
        """Groups of keys, of which one has to be satisfied before the program can go on."""
        if self.loop is not None:
            return self.loop.waits()
        groups = []
        for strand in self.strands:
            wait = strand.wait
            if wait is None:
                continue
            beside = any(isinstance(item, Strand) and not item.over for item in wait.items)
            keys = [item.key for item in wait.items if isinstance(item, Entry) and not item.over and item.kind != "step"]
            if keys and not (wait.all and beside):
                groups.append({"mode": "all" if wait.all else "any", "keys": keys})
        return groups

    def result(self) -> "Dict[str, Any]":
        """The result of the activation."""
        out: "Dict[str, Any]" = {"v": 1, "commands": self.commands, "wait": []}
        if self.mismatch is not None:
            return {"v": 1, "commands": [], "wait": [], "end": {"mismatch": self.mismatch}}
        for name in ("state", "attributes"):
            if name in self.told:
                out[name] = self.told[name]
        if self.end is not None:
            out["end"] = self.end
        elif self.stepped:
            out["again"] = True
        else:
            out["wait"] = self.waits()
            if not out["wait"]:
                self.broken = True
                stuck = WorkflowError("the workflow waits for nothing that could happen: no task, timer, signal or other entry is open")
                out["end"] = {"error": {k: v for k, v in problem_of(stuck).items() if k != "traceback"}}
        return out


class _FlowHost:
    """What `ctx` means in a workflow's own code: its log is the run's, and everything else belongs into a task or a step."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def log(self, lease: str, level: str, msg: str, fields: "Dict[str, Any]") -> None:
        self._program.log(level, msg, fields)

    def progress(self, lease: str, fraction: float, text: str) -> None:
        raise WorkflowError("ctx.progress is for tasks; a workflow says where it is with wf.status(...)")

    def _no(self, *args: "Any", **kwargs: "Any") -> "Any":
        raise WorkflowError("this is for tasks: a workflow's own code is replayed, and would do it again each time. Call it in a task or in wf.step")

    artifact = asset = fetch = file = _no
    add_item = take_items = settle_item = _no

    def enqueue(self, items: "List[Dict[str, Any]]") -> "List[str]":
        raise WorkflowError("enqueue in a workflow would be repeated by each replay; call the task, or use its submit()")


def _heard(turn: "Dict[str, Any]") -> "List[Any]":
    """What a turn tells, by the keys."""
    return [turn.get("cancel"), [item["key"] for item in turn.get("done") or ()]]


def _is_cancel(error: BaseException) -> bool:
    parts = getattr(error, "exceptions", None)
    if parts and isinstance(error, BaseException) and type(error).__name__.endswith("ExceptionGroup"):
        return all(_is_cancel(part) for part in parts)
    return isinstance(error, Cancelled) or type(error).__name__ == "CancelledError"


def _complete(awaitable: "Any") -> "Any":
    """Runs a coroutine of a step to its end, with a real loop of its own, in a thread that has none."""
    import asyncio
    import threading
    from contextvars import copy_context

    async def main() -> "Any":
        return await awaitable

    out: "List[Any]" = []

    def work() -> None:
        try:
            out.append((asyncio.run(main()), None))
        except BaseException as error:
            out.append((None, error))

    context = copy_context()
    thread = threading.Thread(target=lambda: context.run(work), daemon=True)
    thread.start()
    thread.join()
    value, error = out[0]
    if error is not None:
        raise error
    return value


class Parked:
    """Programs that wait in this process, at most so many; then the process is to end, for frames are never unwound."""

    def __init__(self, limit: int = MAX_PARKED) -> None:
        self.limit = limit
        #: Programs that are of no use any more, but whose threads are still there.
        self.lost = 0
        self._programs: "OrderedDict[str, Program]" = OrderedDict()
        self._lock = allocate_lock()

    def __len__(self) -> int:
        return len(self._programs)

    @property
    def full(self) -> bool:
        return len(self._programs) + self.lost >= self.limit

    def take(self, activation: Activation) -> "Optional[Program]":
        """The program of this run, if it stands where the activation goes on."""
        with self._lock:
            program = self._programs.pop(activation.run, None)
        if program is None:
            return None
        last = activation.turns[-1]["no"]
        same = program.generation == activation.generation and program.epoch == activation.epoch
        same = same and program.accepted == activation.accepted
        if same and activation.first <= program.no + 1 <= last and program.ref == activation.workflow:
            for turn in activation.turns[:-1]:
                if turn["no"] != program.no:
                    continue
                if _heard(turn) != program.heard or {item["key"]: item.get("hash") for item in turn["opened"]} != program.issued:
                    break  # another process did this turn, and otherwise
            else:
                return program
        self.forget(program)
        return None

    def keep(self, program: Program) -> None:
        """Leaves it where it waits."""
        with self._lock:
            other = self._programs.pop(program.run, None)
            self._programs[program.run] = program
        if other is not None:
            self.forget(other)

    def drop(self, run: str) -> None:
        """Forgets the program of a run, if it is here."""
        with self._lock:
            program = self._programs.pop(run, None)
        if program is not None:
            self.forget(program)

    def forget(self, program: Program) -> None:
        """It will not go on here. Its threads stay; they are counted."""
        self.lost += 1
        _kept.append(program)


#: Programs that nobody will wake. Held, so that no collector of garbage closes a coroutine and so runs its `finally`.
_kept: "List[Program]" = []


def activate(
    workflow: "Workflow[Any, Any]", payload: "Any", host: "Host", parked: "Optional[Parked]" = None, stall_s: float = STALL_S,
    watch: "Optional[Callable[[Program], None]]" = None,
) -> "Dict[str, Any]":
    """Runs one activation and gives its result. Raises for what is no outcome of the run: a wrong input, code that is stuck.
    ``watch`` sees the program afterwards."""
    activation = Activation(payload)
    program = parked.take(activation) if parked is not None else None
    try:
        if program is None:
            turns = _history(activation, host) + activation.turns
            program = Program(workflow, activation, min(stall_s, activation.stall_s or stall_s))
        else:
            turns = [turn for turn in activation.turns if turn["no"] > program.no]
            program.stall_s = min(stall_s, activation.stall_s or stall_s)
        program.host = host
        program.play(turns, live=True)
        result = program.result()
        if watch is not None:
            watch(program)
        return result
    except BaseException:
        if program is not None:
            program.broken = True
        raise
    finally:
        if program is not None:
            program.host = None
            if program.broken or program.end is not None and program.strands:
                (parked.forget if parked is not None else _kept.append)(program)
            elif program.end is None and parked is not None:
                parked.keep(program)
            elif program.end is None:
                _kept.append(program)


def _history(activation: Activation, host: "Host") -> "List[Dict[str, Any]]":
    """The turns before the first that came along; in pieces, if whoever has them sends pieces."""
    turns: "List[Dict[str, Any]]" = []
    below = activation.first
    while below > 1:
        part = host.history(activation.run, activation.generation, activation.epoch, below)
        if not isinstance(part, list) or not part or not isinstance(part[0], dict) or not isinstance(part[0].get("no"), int):
            raise TidewheelError(f"the history of {activation.run} below turn {below} came back empty", retryable=True)
        first = part[0]["no"]
        if not 1 <= first < below or first + len(part) != below:
            raise InputError(f"turns {first} to {first + len(part) - 1} came, where turn {below - 1} is the last", "history")
        for i, turn in enumerate(part):
            check_turn(turn, first + i, True)
        turns = part + turns
        below = first
    return turns


def muted() -> bool:
    """Whether the code that runs here has run before, so that what it prints was printed."""
    scope = FLOW.get()
    return scope is not None and scope.program.replaying


__all__ = ["Activation", "Continue", "Parked", "Program", "Scope", "Wait", "activate", "muted", "user_place"]
