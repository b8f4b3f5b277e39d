"""The tasks that the imported modules have defined."""

from __future__ import annotations

import sys

from .. import authoring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    from ..authoring import Task


class ManifestError(Exception):
    """A task that cannot be offered; the message begins with file and line."""


def tasks() -> "Dict[str, Task[Any, Any]]":
    """Every registered task by its function. Raises `ManifestError` for two of one name and for one nobody can find."""
    by_name: "Dict[str, Task[Any, Any]]" = {}
    found: "Dict[str, Task[Any, Any]]" = {}
    for task in authoring.registry:
        if not _reachable(task):
            raise ManifestError(f"{place(task)}: task {task.name!r} is not a module-level name, so no worker can find {task.fn}")
        other = by_name.get(task.name)
        if other is not None and other.fn != task.fn:
            raise ManifestError(f"{place(task)}: there are two tasks named {task.name!r}; the other is at {place(other)}. Give one a name=")
        by_name[task.name] = task  # a reloaded module defines its tasks anew: the last one counts
        found[task.fn] = task
    return found


def _reachable(task: "Task[Any, Any]") -> bool:
    owner: object = sys.modules.get(task.function.__module__)
    for part in task.function.__qualname__.split("."):
        owner = getattr(owner, part, None)
    # The name may hold the task, or a wrapper that another decorator put around it.
    return owner is not None


def place(task: "Task[Any, Any]") -> str:
    """File and line of a task's function."""
    code = getattr(task.function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else task.fn
