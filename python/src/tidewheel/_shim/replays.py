"""What comes of the history of a run when it is replayed on the code of this process."""

from __future__ import annotations

from .. import flow
from ..errors import ReplayMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    from ..flow import Workflow


def outcome(history: "Dict[str, Any]", workflow: "Optional[Workflow[Any, Any]]" = None) -> "Dict[str, Any]":
    """``{run, workflow, ok}``, and where it does not fit ``why``, ``expected``, ``actual``, ``file``, ``line``. Without a
    ``workflow`` it is the one of that name."""
    from .._testrun import replay_journal

    ref = str(history.get("workflow", ""))
    said: "Dict[str, Any]" = {"run": history.get("run"), "workflow": ref, "ok": False}
    found = [known for known in flow.registry if known.ref.partition(":")[0] == ref.partition(":")[0]] if workflow is None else [workflow]
    if not found:
        return {**said, "why": "the code has no such workflow any more"}
    if not any("opened" in turn for turn in history.get("turns") or ()):
        return {**said, "ok": True, "turns": 0}
    try:
        replayed = replay_journal(found[-1], history)
    except ReplayMismatch as error:
        place = {"expected": error.expected, "actual": error.actual, "file": error.file, "line": error.line}
        return {**said, **place, "why": str(error)}
    except Exception as error:
        return {**said, "why": f"{type(error).__name__}: {error}"}
    return {**said, "ok": True, "turns": replayed.turns}
