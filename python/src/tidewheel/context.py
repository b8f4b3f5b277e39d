"""What a running task knows about itself, and what it can tell.

`ctx` always means the task that runs in the current context (a thread, or a coroutine), because it looks in a
`contextvars` variable. Outside a task it stands for a local run: log lines go to `logging`, the rest does nothing, so that
a decorated function can be called and tested as it is.

>>> ctx.task_id, ctx.attempt, ctx.cancelled()
('local', 1, False)
>>> ctx.progress(0.5, "half way")
"""

from __future__ import annotations

from contextvars import ContextVar

from ._levels import Levels
from .errors import Cancelled, NotAllowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    import os
    from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence, Union

    class Host(Protocol):
        """Who carries out what a task asks for: the shim, the test kit, or nobody (a local run)."""

        def log(self, lease: str, level: str, msg: str, fields: Dict[str, Any]) -> None: ...
        def progress(self, lease: str, fraction: float, text: str) -> None: ...
        def artifact(self, lease: str, name: str, content: Union[str, bytes]) -> None: ...
        def asset(self, lease: str, name: str) -> Any: ...
        def fetch(self, lease: str, hash: str) -> str: ...
        def file(self, lease: str, name: str) -> str: ...


#: Longest text of one log line and of a progress message; the rest is cut.
MAX_TEXT = 64 * 1024
#: Longest name of an artifact.
MAX_ARTIFACT_NAME = 255


class Context:
    """One attempt of one task, or the attempts of one batch (then it tells every member's log the same)."""

    __slots__ = ("host", "lease", "facts", "members", "_reason", "_told", "_assets")

    def __init__(self, host: "Host", lease: str, facts: "Mapping[str, Any]", members: "Sequence[Context]" = ()) -> None:
        self.host = host
        self.lease = lease
        self.facts = facts
        #: In a batch, one context per member, in the order of the inputs.
        self.members = members
        self._reason: "Optional[str]" = None
        self._told = False
        self._assets: "Optional[List[str]]" = None

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """The task's id; the same in every attempt."""
        return str(self.facts.get("task_id") or "")

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return int(self.facts.get("attempt") or 1)

    @property
    def queue(self) -> str:
        """The queue the task came from."""
        return str(self.facts.get("queue") or "")

    @property
    def labels(self) -> "Dict[str, str]":
        """The task's labels."""
        return dict(self.facts.get("labels") or {})

    @property
    def correlation_id(self) -> "Optional[str]":
        """What ties this task to others; tasks that it enqueues inherit it."""
        return self.facts.get("correlation_id") or None

    @property
    def traceparent(self) -> "Optional[str]":
        """The W3C trace context of this attempt."""
        return self.facts.get("traceparent") or None

    @property
    def deadline(self) -> "Optional[dt.datetime]":
        """When this attempt is stopped, in UTC; None without a limit."""
        ms = self.facts.get("deadline_ms")
        if ms is None:
            return None
        from datetime import datetime, timedelta, timezone

        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)

    def idempotency_key(self, part: str = "") -> str:
        """A key that is the same in every attempt of this task: give it to what must not happen twice. ``part`` tells
        several such calls of one task apart."""
        key = str(self.facts.get("idempotency_key") or self.task_id)
        return f"{key}:{part}" if part else key

    # -- what a task tells -------------------------------------------------------------------------------------------

    @property
    def log(self) -> "Log":
        """``ctx.log.info("read", pages=10)``: a line of the task's log with fields."""
        return Log(self)

    def progress(self, fraction: float, text: str = "") -> None:
        """How far the task is, 0 to 1. Also a sign of life for the heartbeat limit."""
        self.check()
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise TypeError(f"fraction is a number from 0 to 1, not {type(fraction).__name__}")
        fraction = min(max(float(fraction), 0.0), 1.0) if fraction == fraction else 0.0
        for member in self.members or (self,):
            self.host.progress(member.lease, fraction, str(text)[:MAX_TEXT])

    def artifact(self, name: str, content: "Union[str, os.PathLike[str], bytes]") -> None:
        """Keeps a file with the task: a path to it, or its bytes."""
        self.check()
        check_artifact_name(name)
        if isinstance(content, (bytearray, memoryview)):
            content = bytes(content)
        if not isinstance(content, bytes):
            from os import fspath
            from os.path import abspath, isfile

            content = abspath(fspath(content))
            if not isfile(content):
                raise FileNotFoundError(f"artifact {name!r}: there is no file {content}")
        for member in self.members or (self,):
            self.host.artifact(member.lease, name, content)

    # -- what a task asks --------------------------------------------------------------------------------------------

    def fetch(self, hash: str, path: "Union[str, os.PathLike[str]]") -> str:
        """Brings stored content (``sha256:...``, as `tidewheel artifact put` prints it and artifacts have it) into a file and
        returns its path. It flows through in pieces, whatever its size, and is checked against its hash."""
        self.check()
        if not isinstance(hash, str) or not _is_hash(hash):
            raise ValueError(f"a stored file is named by sha256: and 64 hexadecimal digits, not {hash!r}")
        from os import fspath
        from os.path import abspath
        from shutil import move

        target = abspath(fspath(path))
        move(self.host.fetch(self.lease, hash), target)
        return target

    def file(self, name: str) -> str:
        """The path of a file of the task's package, by its path from the project's root: ``ctx.file("data/model.bin")``. Files
        under ``on-demand`` in the project's ``[tool.tidewheel]`` are fetched when they are first asked for, then kept. They are
        for reading. Raises `FileNotFoundError` where the package has no such file."""
        self.check()
        check_file_name(name)
        return self.host.file(self.lease, name)

    def asset(self, name: str) -> "Any":
        """A value that was released to this attempt, as a `Secret`. Raises `NotAllowed` where it was not."""
        self.check()
        from .secret import Secret

        value = self.host.asset(self.lease, name)
        if self._assets is None:
            self._assets = []
        _collect(value, self._assets)
        return Secret(value)

    def cancelled(self) -> bool:
        """Whether somebody asked this task to stop. Once it has said so, `ctx` no longer raises `Cancelled`: the task
        knows, and may log and clean up until its grace ends."""
        if self.members:
            return all([member.cancelled() for member in self.members])
        if self._reason is None:
            return False
        self._told = True
        return True

    # -- for the host ------------------------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """Notes the request; the task learns of it at its next use of `ctx`."""
        self._reason = reason or "cancelled"

    def check(self) -> None:
        """Raises `Cancelled`, once."""
        pending = [member for member in self.members or (self,) if member._reason is not None]
        if len(pending) == len(self.members or (self,)) and not all(member._told for member in pending):
            for member in pending:
                member._told = True
            raise Cancelled(pending[0]._reason or "cancelled", code="cancelled")

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for it to stop, without taking note of it as `cancelled` does."""
        return any([member._reason is not None for member in self.members or (self,)])

    @property
    def cancel_reason(self) -> "Optional[str]":
        return self._reason

    def redact(self, text: str) -> str:
        """Takes values that this attempt was given out of a text. The agent does the same for their encoded forms."""
        for value in self._assets or ():
            text = text.replace(value, "***")
        return text


class Log(Levels):
    """Lines of a task's log. Fields have to be plain values; others are written as text."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def _write(self, level: str, msg: object, fields: "Dict[str, Any]") -> None:
        context = self._context
        context.check()
        text = context.redact(str(msg)[:MAX_TEXT])
        if context._assets:
            fields = {name: context.redact(item) if isinstance(item, str) else item for name, item in fields.items()}
        for member in context.members or (context,):
            context.host.log(member.lease, level, text, fields)


class LocalHost:
    """A plain call outside an agent."""

    def log(self, lease: str, level: str, msg: str, fields: "Dict[str, Any]") -> None:
        import logging

        text = msg + "".join(f" {name}={item!r}" for name, item in fields.items())
        logging.getLogger("tidewheel").log(getattr(logging, level.upper()), "%s", text)

    def progress(self, lease: str, fraction: float, text: str) -> None:
        pass

    def artifact(self, lease: str, name: str, content: "Union[str, bytes]") -> None:
        pass

    def fetch(self, lease: str, hash: str) -> str:
        raise NotAllowed("there are no stored files here: they are fetched for tasks that an agent runs "
                         "(in tests, give them to tidewheel.testing)", code="not-allowed")

    def file(self, lease: str, name: str) -> str:
        return project_file(name)

    def asset(self, lease: str, name: str) -> "Any":
        raise NotAllowed(f"there is no asset {name!r} here: assets are released to tasks that an agent runs "
                         "(in tests, give them to tidewheel.testing)", code="not-allowed")


CURRENT: "ContextVar[Context]" = ContextVar("tidewheel-context")
_LOCAL = Context(LocalHost(), "local", {"task_id": "local", "attempt": 1, "queue": "local"})


class _Current:
    """Hands every use on to the context of the task that runs here."""

    __slots__ = ()

    def __getattr__(self, name: str) -> "Any":
        return getattr(CURRENT.get(_LOCAL), name)

    def __repr__(self) -> str:
        context = CURRENT.get(_LOCAL)
        return f"<ctx of task {context.task_id}, attempt {context.attempt}>"


if TYPE_CHECKING:
    ctx: Context
else:
    ctx = _Current()


def _is_hash(text: str) -> bool:
    digits = text[len("sha256:"):]
    return text.startswith("sha256:") and len(digits) == 64 and all(digit in "0123456789abcdef" for digit in digits)


def check_artifact_name(name: str) -> None:
    """A name is relative and stays below the task's own folder."""
    if not isinstance(name, str) or not name or len(name) > MAX_ARTIFACT_NAME:
        raise ValueError(f"an artifact's name has 1 to {MAX_ARTIFACT_NAME} characters")
    if "\\" in name or any(ord(char) < 32 for char in name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"artifact name {name!r}: use a relative path such as 'report/table.csv'")


def check_file_name(name: str) -> None:
    """A file of a package is named by a relative path that stays in the project."""
    if not isinstance(name, str) or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} names no file of a package: use its path from the project's root, such as 'data/model.bin'")


def project_file(name: str) -> str:
    """A file of the project that the calling code is in: the nearest folder above it with a ``pyproject.toml``, else its own."""
    import os.path
    import sys

    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] == "tidewheel":
        frame = frame.f_back
    start = os.path.dirname(os.path.abspath(frame.f_globals.get("__file__") or "x"))
    root = folder = start
    while True:
        if os.path.isfile(os.path.join(folder, "pyproject.toml")):
            root = folder
            break
        above = os.path.dirname(folder)
        if above == folder:
            break
        folder = above
    path = os.path.join(root, *name.split("/"))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {name!r} in the project {root}")
    return path


def _collect(value: "Any", into: "List[str]") -> None:
    """The texts within a released value that are long enough to be recognised (6, as on the agent)."""
    if isinstance(value, str):
        if len(value) >= 6:
            into.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, into)
    elif isinstance(value, list):
        for item in value:
            _collect(item, into)
