"""What a package offers: one entry per task."""

from __future__ import annotations

import sys

from .. import authoring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

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


def manifest() -> "List[Dict[str, Any]]":
    """The entries, with schemas. Raises `ManifestError` for a signature that cannot be described."""
    hashes: "Dict[str, str]" = {}
    return [_entry(task, hashes) for task in tasks().values()]


def _entry(task: "Task[Any, Any]", hashes: "Dict[str, str]") -> "Dict[str, Any]":
    try:
        schema_in, schema_out = task.signature.schema_in(), task.signature.schema_out()
    except TypeError as error:
        raise ManifestError(f"{place(task)}: {error}") from None
    module = task.function.__module__
    if module not in hashes:
        hashes[module] = _source_hash(module)
    doc = (task.__doc__ or "").strip().split("\n\n")[0]
    return {
        "fn": task.fn,
        "name": task.name,
        "kind": "task",
        "doc": " ".join(doc.split()),
        "schema_in": schema_in,
        "schema_out": schema_out,
        "defaults": task.defaults(),
        "code_hash": hashes[module],
    }


def _source_hash(module: str) -> str:
    """Changes with the module's source. The source and not the byte code, which differs between Python versions."""
    from hashlib import sha256

    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        with open(path, "rb") as file:  # type: ignore[arg-type]
            return "sha256:" + sha256(file.read()).hexdigest()
    except (OSError, TypeError):
        return "sha256:" + sha256(module.encode()).hexdigest()


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
