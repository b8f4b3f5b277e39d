"""Activations of workflows: the driver's host in a worker process, and the programs that wait here from one to the next."""

from __future__ import annotations

import os

from .._driver import MAX_PARKED, Parked, activate
from .._strand import STALL_S
from ..context import CURRENT, Context
from ..errors import TidewheelError, WorkflowStuck
from .frame import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from ..flow import Workflow
    from .session import Session


class Flows:
    """The workflows of a process; made when the first of them is activated."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.parked = Parked(_limit(session, "parked", MAX_PARKED))
        self._stall_s = _limit(session, "stall_ms", round(STALL_S * 1000)) / 1000
        self._told = False

    def activate(self, workflow: "Workflow[Any, Any]", payload: "Any") -> "Dict[str, Any]":
        """One activation, in the context of its attempt. One that is a rehearsal goes through the history and changes nothing: its
        result says whether the code fits."""
        if isinstance(payload, dict) and payload.get("rehearsal") is True:
            from .replays import outcome

            return outcome(payload, workflow)
        try:
            return activate(workflow, payload, Host(self.session, CURRENT.get()), self.parked, self._stall_s)
        except WorkflowStuck:
            self._end_process()
            raise
        finally:
            if self.parked.full:
                self._end_process()

    def _end_process(self) -> None:
        """Said before the result, so that the agent gives this process nothing new. Frames are never unwound: what waits here
        ends with the process, and goes on elsewhere from the journal."""
        if not self._told:
            self._told = True
            self.session.tell(encode({"t": "left", "count": len(self.parked) + self.parked.lost}))


def _limit(session: "Session", name: str, default: int) -> int:
    """What the agent said in its `hello_ack`, if it said something usable."""
    value = session.limits.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


class Host:
    """What a program asks for, on behalf of one attempt."""

    def __init__(self, session: "Session", context: Context) -> None:
        self._session = session
        # The secret of the run is for its promises alone, and not a fact that its steps are told.
        facts = dict(context.facts)
        self._promises = facts.pop("promises", "")
        context.facts = facts
        self._context = context

    def promises(self) -> bytes:
        return bytes.fromhex(self._promises)

    def history(self, run: str, generation: int, epoch: int, below: int) -> "List[Dict[str, Any]]":
        question = {"t": "history", "lease": self._context.lease, "run": run, "generation": generation, "epoch": epoch, "below": below}
        answer, _ = self._session.ask(question)
        if answer.get("error"):
            raise TidewheelError(f"no history of {run}: {answer['error']}", retryable=True)
        return answer.get("turns") or []

    def load(self, ref: "Dict[str, Any]") -> "Any":
        from json import loads

        path = self._session.fetch(self._context.lease, str(ref.get("$ref")))
        try:
            with open(path, "rb") as file:
                content = file.read()
        finally:
            os.unlink(path)  # it was fetched for us alone
        try:
            return loads(content)
        except ValueError:
            return content  # a task may return bytes

    def log(self, level: str, msg: str, fields: "Dict[str, Any]") -> None:
        self._session.log(self._context.lease, level, msg, fields)

    def step_context(self, idempotency_key: str) -> Context:
        context = self._context
        # A request to stop reaches the attempt, so the step asks it.
        return Context(self._session, context.lease, {**context.facts, "idempotency_key": idempotency_key}, (context,))
