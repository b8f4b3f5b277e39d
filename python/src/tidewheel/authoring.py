"""The `task` decorator and what it makes of a function.

>>> from tidewheel import task, Batch
>>> @task(queue="mail", priority="high", timeout="30s", concurrency={"key": "customer", "limit": 3})
... def send(customer: str, text: str = "hello") -> int:
...     return len(text)
>>> send("acme")
5
>>> send.submission(("acme",), {}, labels={"kind": "greeting"})["concurrency_key"]
'customer:acme'
"""

from __future__ import annotations

from functools import update_wrapper

from . import options as _options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Coroutine, Dict, Generic, Iterable, Iterator, List, Mapping, Optional, ParamSpec, Tuple, TypeVar
    from contextvars import ContextVar
    from typing import Union, overload

    from .durable import Call
    from .handle import Handle
    from .options import Batch, Duration, Retry
    from .signature import Signature
    from .taking import Item

    P = ParamSpec("P")
    Q = ParamSpec("Q")
    R = TypeVar("R")
    V = TypeVar("V")
else:
    from ._generic import Generic

    P = R = object

#: Every task that has been defined in this process, in order. The shim reads its manifest from here.
registry: "List[Task[Any, Any]]" = []

#: The server's bound on the name of a task type.
MAX_NAME = 200

#: The scope of the workflow that runs here, if one does. Set by `tidewheel._driver`, so that a process without workflows does
#: not load it and a call of a task costs it nothing.
flow: "Optional[ContextVar[Any]]" = None


class Decorated(Generic[P, R]):
    """What a task and a workflow are alike in: a function with a name, at a place, with inputs and a result."""

    function: "Callable[P, R]"
    #: Calls that are handed over together; a workflow has none.
    batch: "Optional[Batch]" = None
    _signature: "Optional[Signature]" = None

    def __get__(self, instance: "Any", owner: "Any" = None) -> "Any":
        """As for a function: on an instance, a bound call."""
        return self if instance is None else self.function.__get__(instance, owner)

    def __reduce__(self) -> str:
        """By name, as a function, so that a process pool of the user's takes it too."""
        return self.__qualname__  # type: ignore[attr-defined, no-any-return]

    @property
    def fn(self) -> str:
        """Where the function is: ``module:qualname``, as the wire has it."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def signature(self) -> "Signature":
        """Input and result as seen from outside; built when first needed."""
        if self._signature is None:
            from .signature import Signature

            self._signature = Signature(self.function, batch=self.batch is not None)
        return self._signature


class Task(Decorated[P, R]):
    """A function that can also be enqueued. Calling it calls the function."""

    def __init__(
        self,
        function: "Callable[P, R]",
        *,
        name: "Optional[str]" = None,
        retry: "Optional[Retry]" = None,
        batch: "Optional[Batch]" = None,
        concurrency: "Optional[Mapping[str, Any]]" = None,
        key: "Optional[str]" = None,
        rate: "Optional[str]" = None,
        submit: "Optional[Dict[str, Any]]" = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = function.__name__ if name is None else name
        self.retry = retry
        self.batch = batch
        self.concurrency = concurrency
        self.key = key
        self.rate = rate
        self._submit = submit or {}
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= MAX_NAME:
            raise ValueError(f"a task's name has 1 to {MAX_NAME} characters, not {self.name!r}")
        # Names of parameters come from the code object: inspect.signature would cost more than the whole rest here.
        code = getattr(function, "__code__", None)
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else None
        for option, path in (("key", key), ("concurrency", concurrency and concurrency["key"])):
            if path and not batch and parameters is not None and path.split(".")[0] not in parameters:
                raise ValueError(f"{option} names {path!r}, but {function.__qualname__} has no such parameter")

    def __call__(self, *args: "P.args", **kwargs: "P.kwargs") -> "R":
        """Here and now; in a workflow, as a step of its journal that some worker runs."""
        if flow is not None:
            scope = flow.get()
            if scope is not None:
                return scope.give(scope.open_task(self, args, kwargs, {}))  # type: ignore[no-any-return]
        return self.function(*args, **kwargs)

    if TYPE_CHECKING:
        # What an async function gives is what its coroutine returns.
        @overload
        def submit(self: Task[Q, Coroutine[Any, Any, V]], *args: Q.args, **kwargs: Q.kwargs) -> Call[V]: ...
        @overload
        def submit(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...

    def submit(self, *args: "Any", **kwargs: "Any") -> "Any":
        """Inside a workflow: lets a worker run it and goes on; `result()` (or `await`) gives what it returned."""
        scope = _scope(self, "submit")
        return scope.handle(scope.open_task(self, args, kwargs, {}))

    def __repr__(self) -> str:
        return f"<task {self.name!r} {self.fn}>"

    def defaults(self) -> "Dict[str, Any]":
        """What the decorator says, for the manifest."""
        out = dict(self._submit)
        out.pop("batchable", None)
        if self.rate is not None:
            out["rate"] = self.rate
        if self.key is not None:
            out["key"] = self.key
        if self.concurrency is not None:
            out["concurrency"] = dict(self.concurrency)
        if self.batch is not None:
            out["batch"] = self.batch.wire()
        return out

    # -- enqueueing --------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:
        # The handle of an async function gives what its coroutine returns.
        @overload
        def enqueue(self: Task[Any, Coroutine[Any, Any, V]], *args: Any, **kwargs: Any) -> Handle[V]: ...
        @overload
        def enqueue(self, *args: Any, **kwargs: Any) -> Handle[R]: ...

    def enqueue(self, *args: "Any", **kwargs: "Any") -> "Any":
        """Submits one call and returns its handle.

        Takes the function's arguments and, as named ones, the options of a submission: key, delay, run_at, priority,
        queue, ttl, timeout, retry, labels, correlation_id, concurrency_key, concurrency_limit, affinity_key,
        expected_duration, near, requires, resources, idempotency_key, package, workflow_id. Where a parameter bears the
        name of an option, the name means the parameter; give the option through `with_options`.
        """
        return self.with_options().enqueue(*args, **kwargs)

    def enqueue_many(
        self, calls: "Iterable[Any]", *, idempotency_keys: "Optional[Iterable[str]]" = None, **options: "Any"
    ) -> "List[Handle[R]]":
        """Submits many calls in few requests. A call is a tuple of arguments, a dict of named ones, or one argument.

        A repeat after a crash makes no second tasks if the calls have keys: ``idempotency_keys`` gives one per call, in
        their order; ``idempotency_key`` is one for all, and the call at index i gets ``<key>:<i>``.
        """
        return self.with_options(**options).enqueue_many(calls, idempotency_keys=idempotency_keys)

    def with_options(self, **options: "Any") -> "Bound[R]":
        """The task with options for its next submissions: ``resize.with_options(priority=9).enqueue(...)``."""
        _options.submit_options(**options)  # refuses here rather than later
        return Bound(self, options)

    def submission(self, args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]", **options: "Any") -> "Dict[str, Any]":
        """The body of a submission of one call, as it is sent."""
        bound = self.signature.bind(args, kwargs)
        body: "Dict[str, Any]" = {"type": self.name, "input": self.signature.input(bound), **self._submit}
        if self.key is not None:
            body["key"] = self._pick(self.key, body["input"])
        if self.concurrency is not None:
            body["concurrency_key"] = f"{self.concurrency['key']}:{self._pick(self.concurrency['key'], body['input'])}"
            body["concurrency_limit"] = self.concurrency["limit"]
        given = _options.submit_options(**options)
        if "labels" in given:
            given["labels"] = {**body.get("labels", {}), **given["labels"]}
        body.update(given)
        return body

    def _pick(self, path: str, value: "Any") -> str:
        """The text at a path such as ``customer`` or ``order.customer`` of an input."""
        steps = path.split(".")
        if isinstance(value, list):
            names = self.signature.names
            value = value[names.index(steps[0])] if steps[0] in names[: len(value)] else None
            steps = steps[1:]
        elif isinstance(value, dict) and steps[0] not in value:
            default = self.signature.default(steps[0])
            value, steps = default, steps[1:]
        for step in steps:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f"task {self.name!r}: {path!r} has to be a text or an integer to be a key, not {type(value).__name__}")
        return str(value)


class Bound(Generic[R]):
    """A task with options of a submission."""

    def __init__(self, task: "Task[Any, Any]", options: "Dict[str, Any]") -> None:
        self._task = task
        self._options = options

    def __call__(self, *args: "Any", **kwargs: "Any") -> "R":
        """As calling the task; in a workflow, with these options."""
        scope = None if flow is None else flow.get()
        if scope is None:
            return self._task.function(*args, **kwargs)  # type: ignore[no-any-return]
        return scope.give(scope.open_task(self._task, args, kwargs, self._options))  # type: ignore[no-any-return]

    def submit(self, *args: "Any", **kwargs: "Any") -> "Call[R]":
        """As `Task.submit`, with these options."""
        scope = _scope(self._task, "submit")
        return scope.handle(scope.open_task(self._task, args, kwargs, self._options))  # type: ignore[no-any-return]

    def enqueue(self, *args: "Any", **kwargs: "Any") -> "Handle[R]":
        """As `Task.enqueue`."""
        names = () if self._task.batch else self._task.signature.names
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in _options.SUBMIT_OPTIONS and name not in names}
        return _send(self._task, [self._task.submission(args, kwargs, **{**self._options, **options})])[0]

    def enqueue_many(self, calls: "Iterable[Any]", *, idempotency_keys: "Optional[Iterable[str]]" = None) -> "List[Handle[R]]":
        """As `Task.enqueue_many`."""
        bodies: "List[Dict[str, Any]]" = []
        for call in calls:
            if isinstance(call, tuple):
                bodies.append(self._task.submission(call, {}, **self._options))
            elif isinstance(call, dict) and not self._task.batch:
                bodies.append(self._task.submission((), call, **self._options))
            else:
                bodies.append(self._task.submission((call,), {}, **self._options))
        for body, key in zip(bodies, _options.member_keys(self._options.get("idempotency_key"), idempotency_keys, len(bodies))):
            if key is not None:
                body["idempotency_key"] = key
        return _send(self._task, bodies)


class Queue:
    """A queue by its name, for tasks of which only the type is known here: code in another language, or in another package."""

    def __init__(self, name: str, options: "Dict[str, Any]") -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a queue has a name that is a text, not {name!r}")
        if "queue" in options:
            raise TypeError("queue is an option of the submission; here it is the queue itself")
        _options.submit_options(**options)  # refuses here rather than later
        self.name = name
        self._options = options

    def __repr__(self) -> str:
        return f"queue({self.name!r})"

    def submit(self, type: str, input: "Any" = None, **options: "Any") -> "Handle[Any]":
        """Submits one task of this type, with an input that is JSON and options as of `Task.enqueue`; its handle."""
        return _send(None, [self._body(type, input, options)])[0]

    def submit_many(
        self, type: str, inputs: "Iterable[Any]", *, idempotency_keys: "Optional[Iterable[str]]" = None, **options: "Any"
    ) -> "List[Handle[Any]]":
        """One task per input, in few requests. Idempotency keys as of `Task.enqueue_many`."""
        bodies = [self._body(type, input, options) for input in inputs]
        shared = options.get("idempotency_key", self._options.get("idempotency_key"))
        for body, key in zip(bodies, _options.member_keys(shared, idempotency_keys, len(bodies))):
            if key is not None:
                body["idempotency_key"] = key
        return _send(None, bodies)

    def add(self, input: "Any" = None, **options: "Any") -> "Handle[Any]":
        """Puts an item into the queue, for whoever takes it; options as of `Task.enqueue` as far as an item has them."""
        from os import urandom

        from .encode import to_json
        from .handle import Handle

        backend = self._items(None)
        body = _options.submit_options(**{**self._options, **options})
        if input is not None:
            body["input"] = to_json(input, "input")
        body.setdefault("idempotency_key", urandom(16).hex())
        return Handle(backend.add_item(self.name, body), backend)

    def take(
        self, lease: "Duration" = "5m", *, wait: "Optional[Duration]" = None, limit: "Optional[int]" = None, client: "Any" = None
    ) -> "Iterator[Item]":
        """Items one after another, each ours for the length of the lease, until there is none:

        ``for item in queue("invoices").take(lease="5m"): item.done(book(item.input))``

        ``wait``: how long to wait for the next one; ``limit``: how many at most. See `tidewheel.taking`."""
        from .taking import take

        return take(self.name, self._items(client), lease, wait, limit)

    def _items(self, client: "Any") -> "Any":
        from .handle import current_backend

        backend = client or current_backend()
        if not hasattr(backend, "take_items"):
            from .errors import TidewheelError

            raise TidewheelError("there are no items of queues here: run it in an agent or with a connection to a server, or give "
                                 "take() a client")
        return backend

    def _body(self, type: str, input: "Any", options: "Mapping[str, Any]") -> "Dict[str, Any]":
        if not isinstance(type, str) or not type:
            raise ValueError("a submission needs the type of the task, as a text")
        body = {"type": type, **_options.submit_options(**{**self._options, **options}), "queue": self.name}
        if input is not None:
            from .encode import to_json

            body["input"] = to_json(input, "input")
        return body


def queue(name: str, **options: "Any") -> Queue:
    """A queue to submit to by type: ``queue("invoices", priority=9).submit("read", {"page": 1})``. ``options`` hold for every
    submission through it; they are those of `Task.enqueue`. Inside a task it goes through the agent, elsewhere through
    `Client.from_env`."""
    return Queue(name, options)


def _scope(task: "Task[Any, Any]", what: str) -> "Any":
    scope = None if flow is None else flow.get()
    if scope is None:
        from .errors import WorkflowError

        raise WorkflowError(f"{task.name}.{what}() works inside a running workflow only; use {task.name}.enqueue() elsewhere")
    return scope


def _send(task: "Optional[Task[Any, Any]]", bodies: "List[Dict[str, Any]]") -> "List[Handle[Any]]":
    if not bodies:
        return []
    from os import urandom

    from .context import CURRENT
    from .handle import Handle, current_backend

    backend = current_backend()
    context = CURRENT.get(None)
    for body in bodies:
        if context is not None and context.correlation_id and "correlation_id" not in body:
            body["correlation_id"] = context.correlation_id
        # So that a repeat of the request, which a lost answer makes necessary, does not make a second task.
        body.setdefault("idempotency_key", urandom(16).hex())
    read = None if task is None else task.signature.result
    return [Handle(task_id, backend, read) for task_id in backend.enqueue(bodies)]


if TYPE_CHECKING:

    @overload
    def task(function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        *,
        name: Optional[str] = None,
        queue: Optional[str] = None,
        retry: Union[None, int, Retry] = None,
        timeout: Union[None, Duration, Mapping[str, Duration]] = None,
        priority: Union[None, str, int] = None,
        concurrency: Optional[Mapping[str, Any]] = None,
        rate: Optional[str] = None,
        cpu: Optional[float] = None,
        memory: Union[None, str, int] = None,
        requires: Optional[Mapping[str, Any]] = None,
        batch: Optional[Batch] = None,
        key: Optional[str] = None,
        labels: Optional[Mapping[str, str]] = None,
        resource_class: Optional[str] = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(
    function: "Any" = None,
    /,
    *,
    name: "Optional[str]" = None,
    queue: "Optional[str]" = None,
    retry: "Any" = None,
    timeout: "Any" = None,
    priority: "Any" = None,
    concurrency: "Optional[Mapping[str, Any]]" = None,
    rate: "Optional[str]" = None,
    cpu: "Optional[float]" = None,
    memory: "Any" = None,
    requires: "Optional[Mapping[str, Any]]" = None,
    batch: "Optional[Batch]" = None,
    key: "Optional[str]" = None,
    labels: "Optional[Mapping[str, str]]" = None,
    resource_class: "Optional[str]" = None,
) -> "Any":
    """Makes a task of a function; with or without parentheses.

    ``key`` and the key of ``concurrency`` name a parameter (or a field in it, ``order.customer``): calls with the same
    value run one after another, or at most ``limit`` at once. With ``batch`` the function takes a list of inputs and
    returns a list of results of the same length, in which an exception stands for a member that failed.
    """
    policy = _options.retry_policy(retry)
    if batch is not None and not isinstance(batch, _options.Batch):
        raise TypeError(f"batch is a Batch, not {type(batch).__name__}")
    submit = _options.submit_options(
        queue=queue,
        priority=priority,
        timeout=timeout,
        retry=policy,
        requires=dict(requires) if requires else None,
        resources=_options.resources(cpu, memory, resource_class) or None,
        batchable=True if batch is not None else None,
        labels=labels or None,
    )
    settings = {
        "name": name,
        "retry": policy,
        "batch": batch,
        "concurrency": _concurrency(concurrency),
        "key": key,
        "rate": None if rate is None else _options.rate(rate),
        "submit": submit,
    }

    def decorate(function: "Any") -> "Task[Any, Any]":
        if not callable(function) or isinstance(function, (type, Task)):
            raise TypeError(f"@task goes on a function, not on {function!r}")
        made: "Task[Any, Any]" = Task(function, **settings)  # type: ignore[arg-type]
        registry.append(made)
        return made

    return decorate if function is None else decorate(function)


def _concurrency(value: "Optional[Mapping[str, Any]]") -> "Optional[Dict[str, Any]]":
    if value is None:
        return None
    if set(value) != {"key", "limit"} or not isinstance(value["key"], str):
        raise ValueError("concurrency is {'key': <name of a parameter>, 'limit': <number>}")
    if not isinstance(value["limit"], int) or isinstance(value["limit"], bool) or value["limit"] < 1:
        raise ValueError(f"concurrency has the limit {value['limit']!r}; it is at least 1")
    return dict(value)
