"""A submitted task, and who is asked about it: the agent inside a task, the server everywhere else.

>>> class Answers:
...     def result(self, task_id, timeout): return {"total": 3}
>>> Handle("task_01", Answers()).result(timeout=30)
{'total': 3}
"""

from __future__ import annotations

from .context import CURRENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Generic, List, Optional, Protocol, TypeVar

    R = TypeVar("R")

    class Backend(Protocol):
        """Where tasks are submitted to and asked about."""

        def enqueue(self, items: List[Dict[str, Any]]) -> List[str]: ...
        def status(self, task_id: str) -> Dict[str, Any]: ...
        def why(self, task_id: str) -> Dict[str, Any]: ...
        def result(self, task_id: str, timeout: Optional[float]) -> Any: ...
        def cancel(self, task_id: str, reason: str) -> Dict[str, Any]: ...
        def logs(self, task_id: str) -> List[Dict[str, Any]]: ...
else:
    from ._generic import Generic

    R = object


class Handle(Generic[R]):
    """One submitted task."""

    __slots__ = ("id", "_backend", "_read")

    def __init__(self, id: str, backend: "Backend", read: "Optional[Callable[[Any], R]]" = None) -> None:
        self.id = id
        self._backend = backend
        self._read = read

    def status(self) -> str:
        """The state now: scheduled, queued, running, waiting, succeeded, failed, dead, cancelled or expired."""
        return str(self._backend.status(self.id).get("state", ""))

    def why(self) -> "Dict[str, Any]":
        """Why it does not run (yet): ``{"summary": ..., "reasons": [...]}``."""
        return self._backend.why(self.id)

    def result(self, timeout: "Optional[float]" = None) -> "R":
        """Waits for the result, at most ``timeout`` seconds. Raises `TaskFailed`, `Cancelled` or `Timeout`; after a
        `Timeout` of the wait the task goes on."""
        value: "Any" = self._backend.result(self.id, timeout)
        return value if self._read is None else self._read(value)

    def cancel(self, reason: str = "") -> None:
        """Asks the task to stop. Raises `Conflict` if it has ended already."""
        self._backend.cancel(self.id, reason)

    def logs(self) -> "List[Dict[str, Any]]":
        """The lines of its log so far."""
        return self._backend.logs(self.id)

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"


#: Set once by the shim, for threads that a task starts without its context. Never a client then: the shim has no network.
process_backend: "Optional[Backend]" = None
_client: "Optional[Backend]" = None


def current_backend() -> "Backend":
    """Who takes submissions here."""
    context = CURRENT.get(None)
    if context is not None:
        context.check()
        if hasattr(context.host, "enqueue"):
            return context.host  # type: ignore[return-value]
    if process_backend is not None:
        return process_backend
    global _client
    if _client is None:
        from .client import Client

        _client = Client.from_env()
    return _client
