"""Write tasks that Tidewheel runs durably.

A decorated function stays a plain function; calling it runs it here and now:

>>> from tidewheel import task, Retry
>>> @task(queue="default", retry=Retry(5, delay="2s"))
... def add(a: int, b: int = 1) -> int:
...     return a + b
>>> add(2, b=3)
5

Names are loaded when they are first used, so that importing the package costs a few milliseconds even in a process that
only needs one of them.
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # typing's constant, without the import; type checkers read it as true
if TYPE_CHECKING:
    from .authoring import Queue as Queue, Task as Task, queue as queue, task as task
    from .context import ctx as ctx
    from .errors import Cancelled as Cancelled, Conflict as Conflict, NotAllowed as NotAllowed
    from .errors import Overloaded as Overloaded, TaskFailed as TaskFailed, Timeout as Timeout
    from .durable import Call as Call, Promise as Promise, wf as wf
    from .flow import Workflow as Workflow, workflow as workflow
    from .handle import Handle as Handle
    from .runs import RunHandle as RunHandle
    from .options import Batch as Batch, Retry as Retry
    from .secret import Secret as Secret
    from .taking import Item as Item

# Which module holds which name. No module here may bear the name of something exported: importing it would overwrite it.
_HOME = {
    "task": "authoring",
    "Task": "authoring",
    "queue": "authoring",
    "Queue": "authoring",
    "ctx": "context",
    "Retry": "options",
    "Batch": "options",
    "Handle": "handle",
    "RunHandle": "runs",
    "Item": "taking",
    "workflow": "flow",
    "Workflow": "flow",
    "wf": "durable",
    "Call": "durable",
    "Promise": "durable",
    "Secret": "secret",
    "TaskFailed": "errors",
    "Timeout": "errors",
    "Cancelled": "errors",
    "Conflict": "errors",
    "Overloaded": "errors",
    "NotAllowed": "errors",
}

__all__ = [
    "Batch", "Call", "Cancelled", "Conflict", "Handle", "Item", "NotAllowed", "Overloaded", "Promise", "Queue", "Retry", "RunHandle", "Secret", "Task", "TaskFailed",
    "Timeout", "Workflow", "__version__", "ctx", "queue", "task", "wf", "workflow",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'tidewheel' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("tidewheel." + home), name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted(set(globals()) | set(_HOME))
