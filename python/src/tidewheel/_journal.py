"""Entries of a run's journal as the driver sees them: keys, hashes, and what an entry ended with.

>>> hash_of({"b": 1, "a": 2}) == hash_of({"a": 2, "b": 1})
True
>>> error_of({"status": "error", "error": {"type": "timeout", "detail": "too late"}}, "/signal:go#0")
Timeout('too late')
"""

from __future__ import annotations

import os
from hashlib import sha256
from json import JSONEncoder

from .errors import Cancelled, InputError, ResultError, TaskFailed, TidewheelError, Timeout, WorkflowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional

    from ._strand import Wait

#: Longest JSON text of one value: arguments of a call, a step's value, the output.
MAX_VALUE = 4 * 1024 * 1024
#: Longest JSON text of all commands of one turn; what a frame takes, less room for the rest.
MAX_TURN = 12 * 1024 * 1024
#: Things that a program has open at once, where the server says nothing else. Of what has ended there is no bound.
MAX_OPEN = 50_000
#: Things that a program asks for in one turn.
MAX_COMMANDS = 10_000
#: Longest name of an entry, and of a key in bytes.
MAX_NAME = 200
MAX_KEY = 512

#: A mismatch of their hashes is one of the run. A step's arguments may differ: its value is what counts.
STRICT = frozenset(("task", "child", "sleep", "event", "map", "undo"))

RUNTIME = "https://serverlessworkflow.io/spec/1.0.0/errors/runtime"

_encode = JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Entry:
    """One thing that the program asked for."""

    __slots__ = ("key", "kind", "name", "target", "hash", "size", "done", "over", "order", "collect", "waiters", "future")

    def __init__(self, key: str, kind: str, name: str, target: "Any", hash: str) -> None:
        self.key = key
        self.kind = kind
        self.name = name
        #: The task or workflow that reads the value; None for plain JSON.
        self.target = target
        self.hash = hash
        #: Bytes of what it was given, about.
        self.size = 0
        self.done: "Optional[Dict[str, Any]]" = None
        self.over = False
        #: Counts what has ended in this program.
        self.order = 0
        #: Of a map: whether each result says how its item went.
        self.collect = False
        self.waiters: "List[Wait]" = []
        #: In an async workflow.
        self.future: "Any" = None


def hash_of(value: "Any", tokens: "Mapping[str, str]" = {}) -> str:
    """16 hexadecimal digits; equal for equal JSON values. See `measured` for ``tokens``."""
    return sha256(_without(_encode(value), tokens).encode()).hexdigest()[:16]


def _without(text: str, tokens: "Mapping[str, str]") -> str:
    for token, key in tokens.items():
        text = text.replace(token, key)
    return text


def measured(key: str, kind: str, name: str, target: "Any", value: "Any", tokens: "Mapping[str, str]" = {}) -> Entry:
    """An entry with hash and size of a value. Raises `ResultError` for one that is too large. ``tokens`` are the program's own, with
    the keys of their promises: a replay elsewhere, or of a run that was forked, has others, and is the same program all the same."""
    encoded = _encode(value)
    text = encoded.encode()
    if len(text) > MAX_VALUE:
        raise ResultError(f"{key}: {len(text)} bytes are over the bound of {MAX_VALUE}; keep it as an artifact and pass its name")
    hashed = _without(encoded, tokens).encode() if tokens else text
    entry = Entry(key, kind, name, target, sha256(hashed).hexdigest()[:16])
    entry.size = len(text)
    return entry


def size_of(value: "Any", what: str) -> int:
    """Bytes of the JSON text; raises `ResultError` beyond the bound."""
    size = len(_encode(value).encode())
    if size > MAX_VALUE:
        raise ResultError(f"{what}: {size} bytes are over the bound of {MAX_VALUE}; keep it as an artifact and pass its name")
    return size


def check_name(what: str, name: "Any") -> str:
    """A name that goes into a key."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"{what} is a text of 1 to {MAX_NAME} printable characters, not {name!r}")
    return name


def error_of(done: "Dict[str, Any]", key: str) -> TidewheelError:
    """The exception for an entry that ended without a value."""
    problem = done.get("error")
    problem = problem if isinstance(problem, dict) else {}
    kind = str(problem.get("type") or "")
    title = str(problem.get("title") or "")
    detail = str(problem.get("detail") or title or kind or key)
    number = problem.get("status")
    status = number if isinstance(number, int) else 0
    error: TidewheelError
    if done.get("status") == "cancelled":
        error = Cancelled(detail if problem else f"{key} was cancelled", code="cancelled", status=status, title=title)
    elif status == 408 or kind.rpartition("/")[2] == "timeout":
        error = Timeout(detail, code="timeout", status=status, title=title)
    else:
        error = TaskFailed(
            detail, type=kind, status=status, title=title, instance=str(problem.get("instance") or ""), code="task-failed",
            traceback=str(problem.get("traceback") or ""), task_id=str(problem.get("task") or ""), problem=problem,
        )
    error.key = key
    return error


def problem_of(error: BaseException, traceback: bool = True) -> "Dict[str, Any]":
    """The fields under which an exception of the user's ends a run, a step or (in the test kit) a task."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", None) else f"{kind.__module__}.{kind.__qualname__}"
    out: "Dict[str, Any]" = {"type": RUNTIME, "status": 500, "title": kind.__name__, "detail": _text(error), "exception": name}
    if isinstance(error, TaskFailed):
        out["type"] = error.type or RUNTIME
    if isinstance(error, InputError):
        out["type"] = RUNTIME.replace("runtime", "validation")
        out["status"] = 400
    if isinstance(error, Timeout):
        out["type"] = RUNTIME.replace("runtime", "timeout")
        out["status"] = 408
    if isinstance(error, TidewheelError):
        out["status"] = error.status or out["status"]
        out["title"] = error.title or out["title"]
        if isinstance(error, TaskFailed) and error.instance:
            out["instance"] = error.instance
    if traceback:
        out["traceback"] = _traceback(error)
    cause: "Optional[BaseException]" = error
    for _ in range(16):
        if cause is None:
            break
        key = getattr(cause, "key", "")
        if isinstance(cause, TidewheelError) and key:
            out["key"] = key
            break
        cause = cause.__cause__ or cause.__context__
    return out


def _text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the workflow called sys.exit({error.code!r})"[:200]
    try:
        text = str(error) or type(error).__name__
    except Exception as second:
        text = f"<no message: its __str__ raised {type(second).__name__}>"
    return text[:65536].encode("utf-8", "backslashreplace").decode()


def _traceback(error: BaseException) -> str:
    """Without the frames of this package, which say nothing about the user's code."""
    import traceback

    from ._strand import _HERE

    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    except Exception as second:
        return f"<no traceback: formatting it raised {type(second).__name__}>"
    text = "".join(line for line in lines if not (line.startswith('  File "' + _HERE + os.sep) or "/asyncio/" in line[:200]))
    return text[-65536:].encode("utf-8", "backslashreplace").decode()


class Activation:
    """An activation's input, checked."""

    __slots__ = ("run", "workflow", "seed", "generation", "epoch", "input", "first", "turns", "accepted", "stall_s")

    def __init__(self, payload: "Any") -> None:
        if not isinstance(payload, dict):
            raise InputError("is not an activation: expected an object")
        if payload.get("v") != 1:
            raise InputError(f"an activation of version {payload.get('v')!r}; this package knows version 1").at("v")
        self.run = _of(payload, "run", str)
        self.workflow = _of(payload, "workflow", str)
        self.seed = _of(payload, "seed", str)
        self.generation = _of(payload, "generation", int, 0)
        #: Changes when the run was taken back: turns of the same number may be others then.
        self.epoch = _of(payload, "epoch", int, 0)
        self.input: "Any" = payload.get("input")
        self.first = _of(payload, "first", int, 1)
        self.turns: "List[Dict[str, Any]]" = _of(payload, "turns", list)
        #: The last turn up to which somebody accepted that code and history differ.
        self.accepted = _of(payload, "accepted", int, 0)
        #: How long its code may go on without a wait, if less than the process allows.
        self.stall_s = _of(payload, "stall_ms", int, 0) / 1000
        if not self.turns or self.first < 1 or self.generation < 0:
            raise InputError("an activation has at least one turn, and its first is 1 or later").at("turns")
        for i, turn in enumerate(self.turns):
            last = i == len(self.turns) - 1
            try:
                check_turn(turn, self.first + i, not last)
            except InputError as error:
                raise error.at(i).at("turns")


def check_turn(turn: "Any", number: int, past: bool) -> None:
    """A turn with its lists in order; raises `InputError`."""
    if not isinstance(turn, dict):
        raise InputError("expected an object")
    if _of(turn, "no", int) != number:
        raise InputError(f"turn {turn['no']} where turn {number} has to be").at("no")
    _of(turn, "now", int)
    for i, item in enumerate(_of(turn, "done", list, [])):
        if not isinstance(item, dict) or not isinstance(item.get("key"), str) or item.get("status") not in ("ok", "error", "cancelled"):
            raise InputError("expected key and status (ok, error, cancelled)").at(i).at("done")
    if turn.get("cancel") is not None:
        _of(turn, "cancel", str)
    if past:
        for i, item in enumerate(_of(turn, "opened", list)):
            if not isinstance(item, dict) or not isinstance(item.get("key"), str) or not isinstance(item.get("hash"), (str, type(None))):
                raise InputError("expected key and hash").at(i).at("opened")


def _of(owner: "Dict[str, Any]", name: str, kind: "Any", default: "Any" = None) -> "Any":
    value = owner.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"expected {kind.__name__}, got {type(value).__name__}").at(name)
    return value


def too_many(key: str) -> WorkflowError:
    return WorkflowError(f"{key}: the workflow asks for more than {MAX_COMMANDS} things in one go; use wf.map, or wait for some of them first")


def too_much_open(count: int) -> WorkflowError:
    """As the engine says it."""
    return WorkflowError(
        f"the program has {count} things open at once, more than it may: use wf.map, wait for some before asking for more, or call "
        "wf.continue_as_new"
    )
