"""A run of a workflow, seen from outside: started, waited for, given signals. Inside a task its agent is asked, elsewhere the server.

>>> class Answers:
...     def run_record(self, run_id, wait_s): return {"id": run_id, "phase": "completed", "output": {"total": 3}}
>>> RunHandle("run_01", Answers()).result(timeout=30)
{'total': 3}
"""

from __future__ import annotations

from .errors import Cancelled, TidewheelError, Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Generic, List, Optional, Protocol, Tuple, TypeVar, Union

    from .flow import Workflow

    R = TypeVar("R")

    class Backend(Protocol):
        """Where runs are started, and who is asked about them."""

        def begin_run(self, body: Dict[str, Any], key: str) -> Dict[str, Any]: ...
        def run_record(self, run_id: str, wait_s: float) -> Dict[str, Any]: ...
        def run_why(self, run_id: str) -> Dict[str, Any]: ...
        def run_logs(self, run_id: str) -> List[Dict[str, Any]]: ...
        def signal_run(self, run_id: str, type: str, body: Dict[str, Any]) -> Dict[str, Any]: ...
        def complete_in_run(self, run_id: str, promise: str, body: Dict[str, Any]) -> Dict[str, Any]: ...
        def act_on_run(self, run_id: str, verb: str, body: Dict[str, Any]) -> Dict[str, Any]: ...
else:
    from ._generic import Generic

    R = object

ENDED = ("completed", "faulted", "cancelled")
#: Longest idempotency key, which goes into a header.
MAX_KEY = 256
#: One wait of one question; well below what proxies allow a request.
WAIT_S = 30.0
#: The least time between two questions.
SHORT_POLL_S = 0.2


class RunHandle(Generic[R]):
    """One run of a workflow."""

    __slots__ = ("id", "_backend", "_read")

    def __init__(self, id: str, backend: "Backend", read: "Optional[Callable[[Any], R]]" = None) -> None:
        self.id = id
        self._backend = backend
        self._read = read

    def record(self) -> "Dict[str, Any]":
        """The run as it is now: phase, version, input, output or error, attributes, what it waits for."""
        return self._backend.run_record(self.id, 0.0)

    def phase(self) -> str:
        """The phase now: pending, running, waiting, suspended, cancelled, faulted or completed."""
        return str(self.record().get("phase", ""))

    def why(self) -> "Dict[str, Any]":
        """What it waits for: ``{"summary": ..., "reasons": [...]}``."""
        return self._backend.run_why(self.id)

    def wait(self, timeout: "Optional[float]" = None) -> "Dict[str, Any]":
        """Waits until it has ended, at most ``timeout`` seconds; its record, whatever the end. Raises `Timeout`: the run goes on."""
        from time import monotonic, sleep

        end = None if timeout is None else monotonic() + timeout
        while True:
            asked = monotonic()
            record = self._backend.run_record(self.id, WAIT_S if end is None else min(max(end - asked, 0.0), WAIT_S))
            if record.get("phase") in ENDED:
                return record
            if end is not None and monotonic() >= end:
                raise Timeout(f"run {self.id} has not ended after {timeout} s; it goes on", code="wait-timeout")
            if monotonic() - asked < SHORT_POLL_S:
                sleep(SHORT_POLL_S)  # something on the way does not let the request wait; ask calmly

    def result(self, timeout: "Optional[float]" = None) -> "R":
        """Waits for its output. Raises `TaskFailed` with the fields of the error that ended it, `Cancelled`, or `Timeout`."""
        record = self.wait(timeout)
        if record["phase"] != "completed":
            raise ended(record)
        output: "Any" = record.get("output")
        return output if self._read is None else self._read(output)

    def signal(self, type: str, data: "Any" = None, *, id: "Optional[str]" = None) -> None:
        """Gives it a signal, which `wf.signal`, `wf.event` or a `listen` takes; one that nothing waits for yet is kept. The run
        takes one signal of an ``id``."""
        from os import urandom

        from .encode import to_json

        self._backend.signal_run(self.id, type, {"data": to_json(data, "data"), "id": id or urandom(16).hex()})

    def complete(self, promise: str, value: "Any" = None, *, error: "Union[str, Dict[str, Any], None]" = None) -> None:
        """Completes what the workflow made with ``wf.promise(name)``, with a value or with an error (a text, or an object with title,
        detail, type, status), which the workflow sees as `TaskFailed`. The first one counts. With the token of a promise in place of
        the run and its name, see `Client.complete_promise`."""
        from os import urandom

        from ._promise import PREFIX, completion

        if promise.startswith(PREFIX):
            raise ValueError("this is the token of a promise, not its name; Client.complete_promise takes tokens")
        self._backend.complete_in_run(self.id, promise, {**completion(value, error), "id": urandom(16).hex()})

    def cancel(self, reason: str = "") -> None:
        """Ends it; what it did is undone. Raises `Conflict` if it has ended already."""
        self._act("cancel", reason)

    def terminate(self, reason: str = "") -> None:
        """Ends it at once and undoes nothing."""
        self._act("terminate", reason)

    def suspend(self, reason: str = "") -> None:
        """Holds it; what ends meanwhile is kept."""
        self._act("suspend", reason)

    def resume(self) -> None:
        """Lets a suspended one go on."""
        self._act("resume", "")

    def retry(self) -> None:
        """Lets one that failed go on from what failed."""
        self._act("retry", "")

    def logs(self) -> "List[Dict[str, Any]]":
        """The lines of all its tasks so far, in the order in which they came."""
        return self._backend.run_logs(self.id)

    def _act(self, verb: str, reason: str) -> None:
        self._backend.act_on_run(self.id, verb, {"reason": reason} if reason else {})

    def __repr__(self) -> str:
        return f"RunHandle({self.id!r})"


def ended(record: "Dict[str, Any]") -> TidewheelError:
    """The exception for a run that ended without an output, from its record."""
    from ._journal import error_of

    run = str(record.get("id") or "")
    problem = record.get("error") if isinstance(record.get("error"), dict) else None
    if record.get("phase") == "cancelled":
        reason = record.get("reason")
        error: TidewheelError = Cancelled(f"run {run} was cancelled" + (f": {reason}" if reason else ""), code="cancelled")
    else:
        error = error_of({"status": "error", "error": problem or {"detail": f"run {run} ended as {record.get('phase')}"}}, run)
    return error


def start(
    backend: "Backend", workflow: str, version: "Optional[str]", input: "Any", correlation_id: "Optional[str]",
    idempotency_key: "Optional[str]", read: "Optional[Callable[[Any], Any]]" = None,
) -> "RunHandle[Any]":
    """Starts a run; ``input`` is JSON already."""
    from os import urandom

    for name, value in (("version", version), ("correlation_id", correlation_id), ("idempotency_key", idempotency_key)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError(f"{name} is {value!r}; it is a text")
    if idempotency_key is not None and not (len(idempotency_key) <= MAX_KEY and idempotency_key.isascii() and idempotency_key.isprintable()):
        raise ValueError(f"idempotency_key is {idempotency_key!r}; it has at most {MAX_KEY} characters, all of them printable ASCII")
    body: "Dict[str, Any]" = {"workflow": workflow, "input": {} if input is None else input}
    if version is not None:
        body["version"] = version
    if correlation_id is not None:
        body["correlation_id"] = correlation_id
    # So that a repeat of the request, which a lost answer makes necessary, does not start a second run.
    key = idempotency_key or urandom(16).hex()
    return RunHandle(str(backend.begin_run(body, key)["id"]), backend, read)


def named(workflow: "Any", input: "Any") -> "Tuple[str, Optional[str], Any, Optional[Callable[[Any], Any]]]":
    """What a caller calls a workflow, as ``namespace/name``, version, input and the reader of its output."""
    from .encode import to_json
    from .flow import Workflow

    if isinstance(workflow, Workflow):
        from .durable import input_of

        return f"{workflow.namespace}/{workflow.name}", workflow.version, input_of(workflow, input), workflow.signature.result
    name, _, version = str(workflow).partition(":") if isinstance(workflow, str) else ("", "", "")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"a workflow is named 'namespace/name' or 'namespace/name:version', or is a function with @workflow; not {workflow!r}")
    return name, version or None, to_json(input, "input"), None


def bound(workflow: "Workflow[Any, Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]", options: "Dict[str, Any]") -> "RunHandle[Any]":
    """A run of this workflow with these arguments, through the agent of the task that asks or with `Client.from_env`."""
    from .context import CURRENT
    from .handle import current_backend

    input = workflow.input(args, kwargs)
    backend: "Any" = current_backend()
    if not hasattr(backend, "begin_run"):
        raise TidewheelError("no run can be started here: start it in an agent or with a connection to a server")
    context = CURRENT.get(None)
    correlation = options.get("correlation_id") or (context.correlation_id if context is not None else None)
    return start(
        backend, f"{workflow.namespace}/{workflow.name}", options.get("version", workflow.version), input, correlation,
        options.get("idempotency_key"), workflow.signature.result,
    )
