"""The tasks and workflows that the imported modules have defined."""

from __future__ import annotations

import sys

from .. import authoring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Union

    from ..authoring import Task
    from ..flow import Workflow

    #: What a package offers, by function.
    Offer = Dict[str, Union[Task[Any, Any], Workflow[Any, Any]]]


class ManifestError(Exception):
    """A task or workflow that cannot be offered; the message begins with file and line."""


def everything() -> "Offer":
    """Tasks, then workflows. Raises `ManifestError`."""
    both: "Offer" = {**tasks()}
    names = {task.name: task for task in both.values()}
    for flow in workflows().values():
        if flow.name in names:
            raise ManifestError(f"{place(flow)}: a task is named {flow.name!r} too, at {place(names[flow.name])}. Give one a name=")
        both[flow.fn] = flow
    return both


def workflows() -> "Dict[str, Workflow[Any, Any]]":
    """Every registered workflow by its function; loads nothing in a process without any."""
    module = sys.modules.get("tidewheel.flow")
    if module is None:
        return {}
    by_ref: "Dict[str, Workflow[Any, Any]]" = {}
    found: "Dict[str, Workflow[Any, Any]]" = {}
    for flow in module.registry:
        if not _reachable(flow):
            raise ManifestError(f"{place(flow)}: workflow {flow.ref} is not a module-level name, so no worker can find {flow.fn}")
        other = by_ref.get(flow.ref)
        if other is not None and other.fn != flow.fn:
            raise ManifestError(f"{place(flow)}: there are two workflows {flow.ref}; the other is at {place(other)}. Give one a name= or a version=")
        by_ref[flow.ref] = flow
        found[flow.fn] = flow
    return found


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


def _reachable(task: "Union[Task[Any, Any], Workflow[Any, Any]]") -> bool:
    owner: object = sys.modules.get(task.function.__module__)
    for part in task.function.__qualname__.split("."):
        owner = getattr(owner, part, None)
    # The name may hold the task, or a wrapper that another decorator put around it.
    return owner is not None


def place(task: "Union[Task[Any, Any], Workflow[Any, Any]]") -> str:
    """File and line of the function."""
    code = getattr(task.function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else task.fn
