"""Items of queues as transactions: taken for the length of a lease, then done, failed or postponed.

>>> class Server:
...     left = [{"id": "task_1", "token": "t", "queue": "invoices", "input": {"number": 77}, "attempt": 1}]
...     def take_items(self, queue, lease, wait): return [self.left.pop()] if self.left else []
...     def settle_item(self, queue, id, verb, body): print(verb, id, body["result"])
>>> for item in take("invoices", Server()):
...     item.done(item.input["number"])
done task_1 77
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Protocol

    from .options import Duration

    class Backend(Protocol):
        """Where items are taken from."""

        def take_items(self, queue: str, lease: str, wait: Optional[str]) -> List[Dict[str, Any]]: ...
        def settle_item(self, queue: str, id: str, verb: str, body: Dict[str, Any]) -> Dict[str, Any]: ...


class Item:
    """An item that is ours until its lease ends. Raises `Conflict` when it is no longer: nothing was changed then, and
    somebody else may have it."""

    __slots__ = ("id", "queue", "input", "input_ref", "attempt", "max_attempts", "labels", "key", "correlation_id",
                 "leased_until", "settled", "_token", "_backend")

    def __init__(self, record: "Dict[str, Any]", backend: "Backend") -> None:
        self.id = str(record["id"])
        self.queue = str(record["queue"])
        #: What it is about: JSON. None, too, where it is too large to be sent along; then ``input_ref`` names its blob.
        self.input: "Any" = record.get("input")
        self.input_ref: "Optional[str]" = record.get("input_ref")
        self.attempt: int = record.get("attempt", 1)
        self.max_attempts: int = record.get("max_attempts", 1)
        self.labels: "Dict[str, str]" = record.get("labels") or {}
        self.key: "Optional[str]" = record.get("key")
        self.correlation_id: "Optional[str]" = record.get("correlation_id")
        #: When the lease ends (RFC 3339), as last heard.
        self.leased_until = str(record.get("leased_until") or "")
        #: Whether it was said what became of it.
        self.settled = False
        self._token = str(record["token"])
        self._backend = backend

    def done(self, result: "Any" = None) -> None:
        """It is done, with a result that is JSON."""
        from .encode import to_json

        self._settle("done", {"result": to_json(result, "result")})

    def fail(self, message: str = "", *, kind: str = "system", type: "Optional[str]" = None, detail: str = "") -> None:
        """It could not be done. ``kind``: ``system`` is tried again by the retry policy, ``business`` is final."""
        if kind not in ("business", "system"):
            raise ValueError(f"an error is of kind 'business' or 'system', not {kind!r}")
        body = {"kind": kind, "message": message[:4000], "detail": detail[:16000]}
        if type:
            body["type"] = type[:200]
        self._settle("fail", body)

    def postpone(self, delay: "Duration") -> None:
        """Gives it back for later: ``"1h"``. The attempt is not held against it."""
        from . import options

        self._settle("postpone", {"delay": options.duration(delay)})

    def renew(self) -> None:
        """It takes longer: the lease counts its whole length from now."""
        answer = self._backend.settle_item(self.queue, self.id, "renew", {"token": self._token})
        self.leased_until = str((answer or {}).get("leased_until") or self.leased_until)

    def _settle(self, verb: str, body: "Dict[str, Any]") -> None:
        self._backend.settle_item(self.queue, self.id, verb, {"token": self._token, **body})
        self.settled = True

    def __repr__(self) -> str:
        return f"Item({self.id!r})"  # never the token


def take(
    queue: str, backend: "Backend", lease: "Duration" = "5m", wait: "Optional[Duration]" = None, limit: "Optional[int]" = None
) -> "Iterator[Item]":
    """Items one after another, until there is none (after ``wait``) or ``limit`` were taken. An item that the loop leaves
    unsettled, by an exception or by forgetting it, fails as a system error and is tried again by its retry policy."""
    from . import options

    length = options.duration(lease)
    patience = None if wait is None else options.duration(wait)
    count = 0
    while limit is None or count < limit:
        records = backend.take_items(queue, length, patience)
        if not records:
            return
        item = Item(records[0], backend)
        count += 1
        left = "the loop went on without saying what became of the item"
        try:
            yield item
        except GeneratorExit:
            left = "the loop that took the item was left"
            raise
        finally:
            if not item.settled:
                _give_up(item, left)


def _give_up(item: Item, why: str) -> None:
    from .errors import TidewheelError

    try:
        item.fail(why, type="Unsettled")
    except TidewheelError:
        pass  # its lease ends by itself
