"""The `workflow` decorator and what it makes of a function.

>>> from tidewheel import workflow
>>> @workflow(version="3", namespace="acme", timeout="30d")
... def settle_order(order: str) -> str:
...     return order.upper()
>>> settle_order.ref, settle_order("a-1")
('acme/settle-order:3.0.0', 'A-1')

What such a function may do is in `tidewheel.durable`; who runs it, in `tidewheel._driver`.
"""

from __future__ import annotations

from functools import update_wrapper

from . import authoring
from . import options as _options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Coroutine, Dict, Generic, List, Optional, ParamSpec, Tuple, TypeVar, Union, overload

    from .durable import Call
    from .options import Duration
    from .runs import RunHandle

    P = ParamSpec("P")
    Q = ParamSpec("Q")
    R = TypeVar("R")
    V = TypeVar("V")
else:
    from ._generic import Generic

    P = R = object

#: Every workflow that has been defined in this process, in order. The shim reads its manifest from here.
registry: "List[Workflow[Any, Any]]" = []

#: Longest name and longest namespace: that of a DNS label.
MAX_LABEL = 63
POLICIES = ("pin", "compatible", "latest")
#: What the start of a run may say besides the arguments.
START_OPTIONS = ("version", "correlation_id", "idempotency_key")
_CO_COROUTINE = 0x80


class Workflow(authoring.Decorated[P, R]):
    """A function whose calls are kept in a journal. Calling it inside another workflow starts a child run and gives its
    output; anywhere else it is the function itself, for which `tidewheel.testing.run` stands in for the server."""

    #: As of a task: the retries of activations are the server's.
    retry = None

    def __init__(
        self,
        function: "Callable[P, R]",
        *,
        name: "Optional[str]" = None,
        namespace: str = "default",
        version: str = "1.0.0",
        queue: "Optional[str]" = None,
        timeout: "Optional[Duration]" = None,
        version_policy: "Optional[str]" = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = _label("name", function.__name__.replace("_", "-").strip("-").lower() if name is None else name)
        self.namespace = _label("namespace", namespace)
        self.version = _version(version)
        self.queue = queue
        self.timeout_ms = None if timeout is None else _options.duration_ms(timeout)
        if version_policy is not None and version_policy not in POLICIES:
            raise ValueError(f"version_policy is {version_policy!r}; it is one of {', '.join(POLICIES)}")
        self.version_policy = version_policy
        code = getattr(function, "__code__", None)
        self.is_async = bool(code and code.co_flags & _CO_COROUTINE)
        if code is not None and code.co_flags & 0x220:
            raise TypeError(f"{function.__qualname__} is a generator; a workflow is a function or an async function that returns its output")

    def __call__(self, *args: "P.args", **kwargs: "P.kwargs") -> "R":
        scope = authoring.flow.get() if authoring.flow is not None else None
        if scope is not None:
            return scope.give(scope.open_child(self, self.input(args, kwargs), "cancel"))  # type: ignore[no-any-return]
        return self.function(*args, **kwargs)

    if TYPE_CHECKING:
        # What an async function gives is what its coroutine returns.
        @overload
        def submit(self: Workflow[Q, Coroutine[Any, Any, V]], *args: Q.args, **kwargs: Q.kwargs) -> Call[V]: ...
        @overload
        def submit(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...

    def submit(self, *args: "Any", **kwargs: "Any") -> "Any":
        """Inside a workflow: starts a child run and goes on; `result()` (or `await`) gives its output."""
        scope = authoring.flow.get() if authoring.flow is not None else None
        if scope is None:
            raise _outside(f"{self.name}.submit()", f"{self.name}.start() starts a run elsewhere")
        return scope.handle(scope.open_child(self, self.input(args, kwargs), "cancel"))

    if TYPE_CHECKING:

        @overload
        def start(self: Workflow[Any, Coroutine[Any, Any, V]], *args: Any, **kwargs: Any) -> RunHandle[V]: ...
        @overload
        def start(self, *args: Any, **kwargs: Any) -> RunHandle[R]: ...

    def start(self, *args: "Any", **kwargs: "Any") -> "Any":
        """Starts a run on the server and returns its handle: through its agent inside a task, elsewhere with `Client.from_env`.

        Takes the function's arguments and, as named ones, ``correlation_id``, ``idempotency_key`` (the same key gives the same run
        for 24 hours) and ``version`` (that of this code unless said otherwise; ``"latest"``). Where a parameter bears the name of
        an option, the name means the parameter; give the option through `with_options`.
        """
        return self.with_options().start(*args, **kwargs)

    def with_options(self, **options: "Any") -> "Starting[R]":
        """The workflow with options for its next starts: ``settle.with_options(idempotency_key="i-1").start("i-1")``."""
        return Starting(self, options)

    def __repr__(self) -> str:
        return f"<workflow {self.ref} {self.fn}>"

    @property
    def ref(self) -> str:
        """``namespace/name:version``, as runs and `wf.call_workflow` name it."""
        return f"{self.namespace}/{self.name}:{self.version}"

    def input(self, args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]") -> "Any":
        """The input of a run that gets these arguments."""
        return self.signature.input(self.signature.bind(args, kwargs))

    def defaults(self) -> "Dict[str, Any]":
        """What the decorator says of its activations, for the manifest."""
        return {} if self.queue is None else {"queue": self.queue}

    def options(self) -> "Dict[str, Any]":
        """What the decorator says of its runs, for the manifest."""
        out: "Dict[str, Any]" = {}
        if self.timeout_ms is not None:
            out["timeout_ms"] = self.timeout_ms
        if self.version_policy is not None:
            out["version_policy"] = self.version_policy
        return out


class Starting(Generic[R]):
    """A workflow with options of a start."""

    def __init__(self, workflow: "Workflow[Any, Any]", options: "Dict[str, Any]") -> None:
        for name, value in options.items():
            if name not in START_OPTIONS:
                raise TypeError(f"{name!r} is no option of a start; they are {', '.join(START_OPTIONS)}")
        self._workflow = workflow
        self._options = {name: value for name, value in options.items() if value is not None}

    def start(self, *args: "Any", **kwargs: "Any") -> "RunHandle[R]":
        """As `Workflow.start`."""
        workflow = self._workflow
        if authoring.flow is not None and authoring.flow.get() is not None:
            from .errors import WorkflowError

            raise WorkflowError(f"{workflow.name}.start() in a workflow would start another run with each replay; use {workflow.name}.submit()")
        names = workflow.signature.names
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in START_OPTIONS and name not in names}
        from .runs import bound

        return bound(workflow, args, kwargs, Starting(workflow, {**self._options, **options})._options)


def _outside(what: str, instead: str) -> "Exception":
    from .errors import WorkflowError

    return WorkflowError(f"{what} works inside a running workflow only; {instead}")


def _label(what: str, text: "Any") -> str:
    """A DNS label, as the names of all workflows are."""
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789-"
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_LABEL or text[0] == "-" or text[-1] == "-" or any(c not in allowed for c in text):
        raise ValueError(f"a workflow's {what} has 1 to {MAX_LABEL} lower-case letters, digits and '-', not {text!r}; give another {what}=")
    return text


def _version(text: "Any") -> str:
    """A semantic version; parts that are left out are 0.

    >>> _version("3"), _version("1.2.0-rc.1")
    ('3.0.0', '1.2.0-rc.1')
    """
    core, mark, rest = str(text).partition("-")
    parts = core.split(".")
    if not isinstance(text, str) or len(parts) > 3 or not all(part.isdigit() and part.isascii() and str(int(part)) == part for part in parts):
        raise ValueError(f"version is {text!r}; it is a text such as '3', '1.2' or '1.2.0'")
    return ".".join(parts + ["0"] * (3 - len(parts))) + mark + rest


if TYPE_CHECKING:

    @overload
    def workflow(function: Callable[P, R], /) -> Workflow[P, R]: ...
    @overload
    def workflow(
        *,
        name: Optional[str] = None,
        namespace: str = "default",
        version: str = "1.0.0",
        queue: Optional[str] = None,
        timeout: Optional[Duration] = None,
        version_policy: Optional[str] = None,
    ) -> Callable[[Callable[P, R]], Workflow[P, R]]: ...


def workflow(
    function: "Any" = None,
    /,
    *,
    name: "Optional[str]" = None,
    namespace: str = "default",
    version: str = "1.0.0",
    queue: "Optional[str]" = None,
    timeout: "Optional[Duration]" = None,
    version_policy: "Optional[str]" = None,
) -> "Any":
    """Makes a workflow of a function or an async function; with or without parentheses.

    ``name`` is the function's with `-` for `_`; ``queue`` is where its activations wait; ``timeout`` is for a whole run;
    ``version_policy`` says what a running run does when there is new code: `pin` (the default), `compatible`, `latest`.
    """
    settings = {"name": name, "namespace": namespace, "version": version, "queue": queue, "timeout": timeout, "version_policy": version_policy}

    def decorate(function: "Any") -> "Workflow[Any, Any]":
        if not callable(function) or isinstance(function, (type, authoring.Task, Workflow)):
            raise TypeError(f"@workflow goes on a function, not on {function!r}")
        made: "Workflow[Any, Any]" = Workflow(function, **settings)  # type: ignore[arg-type]
        registry.append(made)
        return made

    return decorate if function is None else decorate(function)
