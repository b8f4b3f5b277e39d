"""Exceptions, and how a problem of the server (RFC 9457) becomes one.

>>> error = from_problem({"code": "conflict", "status": 409, "detail": "the task has ended"})
>>> type(error).__name__, str(error)
('Conflict', 'the task has ended')
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Sequence


class TidewheelError(Exception):
    """Base of everything this package raises on its own account. Carries the fields of a problem, where there is one."""

    #: Whether a failed attempt may be retried; None leaves it to the task's retry policy.
    retryable: "Optional[bool]" = None
    #: In a workflow: the key of the journal's entry that ended so.
    key: str = ""

    def __init__(
        self,
        detail: str = "",
        *,
        code: str = "",
        status: int = 0,
        title: str = "",
        errors: "Sequence[Mapping[str, str]]" = (),
        retryable: "Optional[bool]" = None,
        retry_after: "Optional[float]" = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.title = title
        #: Wrong fields of a request: ``{"pointer": ..., "detail": ...}``.
        self.errors = list(errors)
        #: Seconds the server asked to wait.
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        text = self.detail or self.title or self.code or type(self).__name__
        for field in self.errors:
            text += f"\n  {field.get('pointer', '')}: {field.get('detail', '')}"
        return text


class TaskFailed(TidewheelError):
    """A task ended without a result. Raise it in a task to fail with a reason of your own.

    >>> raise TaskFailed("the invoice has no lines", retryable=False)
    Traceback (most recent call last):
    tidewheel.errors.TaskFailed: the invoice has no lines
    """

    def __init__(
        self, detail: str = "", *, type: str = "", traceback: str = "", task_id: str = "", instance: str = "",
        problem: "Optional[Mapping[str, Any]]" = None, **fields: "Any"
    ) -> None:
        super().__init__(detail, **fields)
        #: What of (RFC 7807): the task, the statement.
        self.instance = instance
        #: Every field of the error as the journal has it.
        self.problem = dict(problem or {})
        #: Exception class of the task's last attempt. In a workflow the type of the error (RFC 7807), and ``title`` is the class.
        self.type = type
        #: Its traceback, as text.
        self.traceback = traceback
        self.task_id = task_id


class Timeout(TidewheelError):
    """A time limit passed: of a wait (the task goes on), or of the task itself."""


class Cancelled(TidewheelError):
    """The task or the run was cancelled. Inside a task it is raised once, at the next use of ``ctx`` after the request came; in
    a workflow once, where it waits."""

    retryable = False


class WorkflowError(TidewheelError):
    """A workflow did what a workflow cannot do: I/O in its event loop, a thread of its own, more entries than a run may have; or
    `wf` was used where no workflow runs."""

    retryable = False


class WorkflowStuck(TidewheelError):
    """A workflow's code went on for too long without coming to a point where it waits."""


class ReplayMismatch(TidewheelError):
    """Code that is replayed asks for something else than the journal has. ``expected`` and ``actual`` are keys, or None."""

    retryable = False

    def __init__(
        self, detail: str = "", *, turn: int = 0, expected: "Optional[str]" = None, actual: "Optional[str]" = None,
        file: str = "", line: int = 0, **fields: "Any"
    ) -> None:
        super().__init__(detail, **fields)
        self.turn = turn
        self.expected = expected
        self.actual = actual
        self.file = file
        self.line = line


class Conflict(TidewheelError):
    """The state of the task does not allow the action, or an idempotency key was used with another body."""


class Overloaded(TidewheelError):
    """The server has not accepted the request, because a rate, a quota or its own capacity is used up."""


class NotAllowed(TidewheelError):
    """No valid token, or one whose role does not allow the action; or an asset that this task may not read."""

    retryable = False


class NotFound(TidewheelError):
    """There is no such thing in this tenant."""


class Invalid(TidewheelError):
    """The request is wrong in itself; ``errors`` names the fields."""

    retryable = False


class OutcomeUnknown(TidewheelError):
    """The request may or may not have been stored. The same call with the same idempotency key is safe."""


class Unreachable(TidewheelError):
    """No answer from the server, after all repeats."""


class PartlyRefused(TidewheelError):
    """Some tasks of a bulk submission were refused. ``handles`` has a handle or None, ``problems`` an error or None, each
    at its task's place."""

    def __init__(self, detail: str, handles: "list[Any]", problems: "list[Optional[TidewheelError]]") -> None:
        super().__init__(detail, code="partly-refused")
        self.handles = handles
        self.problems = problems


class InputError(TidewheelError):
    """A value from outside does not fit its type. The path grows while the error passes outwards through containers."""

    retryable = False

    def __init__(self, reason: str, root: str = "input") -> None:
        super().__init__(reason, code="invalid-input")
        self.reason = reason
        self.root = root
        self.path = ""

    def at(self, step: "object") -> "InputError":
        """Puts one step in front of the path: a field name or an index."""
        self.path = (f"[{step}]" if isinstance(step, int) else f".{step}") + self.path
        return self

    def __str__(self) -> str:
        return f"{self.root}{self.path}: {self.reason}"


class ResultError(TidewheelError):
    """A value on its way out cannot be written as JSON; the message names the place."""

    retryable = False


_BY_CODE = {
    "malformed-body": Invalid,
    "invalid-field": Invalid,
    "invalid-query": Invalid,
    "unauthenticated": NotAllowed,
    "not-allowed": NotAllowed,
    "not-found": NotFound,
    "unknown-queue": NotFound,
    "method-not-allowed": Invalid,
    "conflict": Conflict,
    "idempotency-mismatch": Conflict,
    "precondition-failed": Conflict,
    "too-large": Invalid,
    "unsupported-media-type": Invalid,
    "invalid-package": Invalid,
    "invalid-workflow": Invalid,
    "rate-limited": Overloaded,
    "overloaded": Overloaded,
    "unavailable": Overloaded,
    "outcome-unknown": OutcomeUnknown,
    "wait-timeout": Timeout,
}
# For answers that a proxy wrote, which have a status and no code.
_BY_STATUS = {400: Invalid, 401: NotAllowed, 403: NotAllowed, 404: NotFound, 409: Conflict, 412: Conflict, 413: Invalid,
              415: Invalid, 422: Invalid, 429: Overloaded, 502: Overloaded, 503: Overloaded, 504: Overloaded}


def from_problem(problem: "Any", status: int = 0) -> TidewheelError:
    """The exception for a problem, or for whatever else came with an error status."""
    if not isinstance(problem, dict):
        problem = {"detail": str(problem)[:500] if problem else f"HTTP {status}"}
    code = str(problem.get("code") or "")
    status = _int(problem.get("status")) or status
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, TidewheelError)
    fields = [e for e in problem.get("errors") or () if isinstance(e, dict)]
    after = problem.get("retry_after")
    return kind(
        str(problem.get("detail") or problem.get("title") or code or f"HTTP {status}"),
        code=code,
        status=status,
        title=str(problem.get("title") or ""),
        errors=fields,
        retryable=problem["retryable"] if isinstance(problem.get("retryable"), bool) else None,
        retry_after=float(after) if isinstance(after, (int, float)) else None,
    )


def from_task(record: "Mapping[str, Any]") -> TidewheelError:
    """The exception for a task that has ended without a result, from its record."""
    task_id = str(record.get("id") or "")
    state = str(record.get("state") or "")
    error = record.get("error")
    error = error if isinstance(error, dict) else {}
    kind = str(error.get("type") or "")
    message = str(error.get("message") or "")
    if state == "cancelled":
        return Cancelled(message or f"task {task_id} was cancelled", code="cancelled")
    if state == "expired" or kind in ("timeout", "queue-timeout", "start-timeout", "heartbeat-timeout"):
        return Timeout(message or f"task {task_id} ran out of time", code=kind or "expired")
    detail = f"{kind}: {message}" if kind and message else message or kind or f"task {task_id} ended as {state}"
    return TaskFailed(detail, type=kind, traceback=str(error.get("detail") or ""), task_id=task_id, code="task-failed")


def _int(value: "Any") -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
