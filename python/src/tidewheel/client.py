"""The one module that opens a connection: for programs outside an agent.

Every request may be repeated safely (a submission carries an idempotency key), and is: after a broken connection, 429, 502,
503 or 504, with growing, jittered pauses and never earlier than `Retry-After` says.

    with Client("http://127.0.0.1:8080", token) as client:
        print(client.submit("resize", {"width": 100}).result(timeout=30))

>>> Client("ftp://example.org", "t")
Traceback (most recent call last):
ValueError: 'ftp://example.org' is not the address of a server; write for example 'http://127.0.0.1:8080'
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections import deque
from json import loads
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union
from urllib.parse import quote, urlencode, urlsplit

from . import options as _options
from . import runs as _runs
from ._version import __version__
from .encode import dump_bytes
from .errors import Invalid, Overloaded, PartlyRefused, TidewheelError, Timeout, Unreachable, from_problem, from_task
from .handle import Handle
from .runs import RunHandle

if TYPE_CHECKING:
    import ssl
    from typing import AsyncIterator, Callable, Deque

    Json = Dict[str, Any]

#: Bound of one `tasks:batch` request, the server's own; and of its body, so that one request stays small beside others.
MAX_BATCH = 1_000
MAX_BATCH_BYTES = 4 * 1024 * 1024
#: Connections kept open between requests; more are made under load and closed after use.
MAX_IDLE = 8
#: One long poll; well below what proxies allow a request.
WAIT_S = 30.0
#: The least time between two polls.
SHORT_POLL_S = 0.2
CONNECT_S = 10.0
READ_S = 30.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
_REPEAT_STATUS = (429, 502, 503, 504)
_TERMINAL = ("succeeded", "failed", "dead", "cancelled", "expired")

Item = Union[Mapping[str, Any], Tuple[str, Any]]


class Client:
    """A connection to a server. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        token: Optional[str] = None,
        tenant: Optional[str] = None,
        *,
        patience: float = 60.0,
        ca_file: Optional[str] = None,
    ) -> None:
        """``patience``: how many seconds of pauses a request may take before its last error is raised."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{_without_login(url)!r} is not the address of a server; write for example 'http://127.0.0.1:8080'")
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/") + "/api/v1"
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._headers = {"Accept": "application/json", "User-Agent": f"tidewheel-python/{__version__}"}
        if token:
            if any(ord(char) <= 32 or ord(char) > 126 for char in token):
                raise ValueError("the token has characters that no token has (a line break from a file, perhaps)")
            self._headers["Authorization"] = f"Bearer {token}"
        if tenant:
            self._headers["Tidewheel-Tenant"] = tenant
        self._patience = patience
        self._ca_file = ca_file
        self._tls: "Optional[ssl.SSLContext]" = None
        self._idle: "Deque[http.client.HTTPConnection]" = deque()
        self._lock = threading.Lock()
        # Replaced in tests, so that none waits.
        self._sleep: "Callable[[float], None]" = time.sleep
        self._random: "Callable[[], float]" = random.random

    @classmethod
    def from_env(cls) -> "Client":
        """From TIDEWHEEL_URL, TIDEWHEEL_TOKEN (or TIDEWHEEL_TOKEN_FILE), TIDEWHEEL_TENANT and TIDEWHEEL_CA_FILE."""
        url = os.environ.get("TIDEWHEEL_URL")
        if not url:
            raise TidewheelError("TIDEWHEEL_URL is not set: set it to the server's address, for example http://127.0.0.1:8080 "
                                 "(and TIDEWHEEL_TOKEN), or make a Client yourself")
        token = os.environ.get("TIDEWHEEL_TOKEN")
        file = os.environ.get("TIDEWHEEL_TOKEN_FILE")
        if not token and file:
            with open(file, encoding="utf-8") as stream:
                token = stream.read().strip()
        return cls(url, token, os.environ.get("TIDEWHEEL_TENANT"), ca_file=os.environ.get("TIDEWHEEL_CA_FILE"))

    def close(self) -> None:
        """Closes the open connections. The client may be used again; it then opens new ones."""
        with self._lock:
            idle, self._idle = list(self._idle), deque()
        for connection in idle:
            connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r})"  # never the token

    # -- tasks -------------------------------------------------------------------------------------------------------

    def submit(self, type: str, input: Any = None, **opts: Any) -> "Handle[Any]":
        """Submits one task. Options as in `Task.enqueue`; only ``type`` is required."""
        body = _body(type, input, opts)
        key = body.setdefault("idempotency_key", os.urandom(16).hex())
        answer = self._call("POST", "/tasks", body, headers={"Idempotency-Key": key})
        return Handle(str(answer["id"]), self)

    def submit_many(
        self, items: "Iterable[Item]", *, idempotency_keys: "Optional[Iterable[str]]" = None, **opts: Any
    ) -> "List[Handle[Any]]":
        """Submits many tasks, up to 1,000 per request: ``(type, input)`` pairs or dicts of a submission's fields. ``opts``
        hold for all. Idempotency keys as of `Task.enqueue_many`; an item's own comes first. Raises `PartlyRefused`, after
        all requests, when some were refused."""
        shared = opts.pop("idempotency_key", None)
        bodies: "List[Json]" = []
        for item in items:
            if isinstance(item, tuple):
                bodies.append(_body(item[0], item[1] if len(item) > 1 else None, opts))
            else:
                fields = dict(item)
                bodies.append(_body(fields.pop("type", ""), fields.pop("input", None), {**opts, **fields}))
        for body, key in zip(bodies, _options.member_keys(shared, idempotency_keys, len(bodies))):
            if key is not None:
                body.setdefault("idempotency_key", key)
        outcomes = self._send_all(bodies)
        handles: List[Any] = [Handle(out, self) if isinstance(out, str) else None for out in outcomes]
        problems = [out if isinstance(out, TidewheelError) else None for out in outcomes]
        refused = [problem for problem in problems if problem is not None]
        if refused:
            raise PartlyRefused(f"{len(refused)} of {len(bodies)} tasks were refused; the first: {refused[0]}", handles, problems)
        return handles

    def get(self, task_id: str) -> "Json":
        """The task's record."""
        return dict(self._call("GET", f"/tasks/{quote(task_id, safe='')}"))

    def list(self, *, limit: int = 100, **filters: Any) -> "Iterator[Json]":
        """All tasks that match, page by page. ``filters`` are the query's: ``filter``, ``sort``, ``state``, ``queue`` ..."""
        return self._pages("/tasks", {"limit": limit, **filters})

    def wait(self, task_id: str, timeout: Optional[float] = None) -> "Json":
        """Waits until the task has ended; its record, whatever the end. Raises `Timeout`."""
        try:
            self.result(task_id, timeout)
        except Timeout as error:
            if error.code == "wait-timeout":
                raise
        except TidewheelError as error:
            record = self.get(task_id)
            if record.get("state") not in _TERMINAL:
                raise error
            return record
        return self.get(task_id)

    def result(self, task_id: str, timeout: Optional[float] = None) -> Any:
        """Waits for the task's result. Raises `TaskFailed`, `Cancelled` or `Timeout`."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            asked = time.monotonic()
            left = WAIT_S if end is None else min(max(end - asked, 0.0), WAIT_S)
            # Rounded up: a server that knows whole milliseconds only must not turn a rest of the wait into none.
            query = f"?wait={int(left * 1000 + 0.999)}ms"
            status, value = self._request("GET", f"/tasks/{quote(task_id, safe='')}/result{query}", None, {}, READ_S + left, (504,))
            if status == 200:
                return value
            if status not in (202, 204, 504):
                # Not an answer with a value: the record says whether and how the task ended.
                record = self.get(task_id) if status not in (401, 403, 404) else {}
                if record.get("state") in _TERMINAL and record.get("state") != "succeeded":
                    raise from_task(record)
                raise from_problem(value, status)
            if end is not None and time.monotonic() >= end:
                raise Timeout(f"task {task_id} has no result after {timeout} s; it goes on", code="wait-timeout")
            if time.monotonic() - asked < SHORT_POLL_S:
                self._sleep(SHORT_POLL_S)  # something on the way does not let the request wait; ask calmly

    def cancel(self, task_id: str, reason: str = "") -> "Json":
        """Asks the task to stop, or takes it out of its queue."""
        return self._act(task_id, "cancel", reason)

    def retry(self, task_id: str, reason: str = "") -> "Json":
        """Runs a task again that has failed for good."""
        return self._act(task_id, "retry", reason)

    def why(self, task_id: str) -> "Json":
        """Why the task does not run (yet): ``{"summary": ..., "reasons": [...]}``."""
        return dict(self._call("GET", f"/tasks/{quote(task_id, safe='')}/why"))

    def logs(self, task_id: str) -> "List[Json]":
        """The lines of the task's log so far."""
        return list(self._pages(f"/tasks/{quote(task_id, safe='')}/logs", {}))

    # -- runs of workflows -------------------------------------------------------------------------------------------

    def start_run(
        self, workflow: Any, input: Any = None, *, version: Optional[str] = None, correlation_id: Optional[str] = None,
        idempotency_key: Optional[str] = None,
    ) -> "RunHandle[Any]":
        """Starts a run of ``namespace/name`` (the latest version), ``namespace/name:version`` or a function with @workflow.

        ``input`` is the run's input; for a function also its one argument, or a tuple of them. The same ``idempotency_key`` gives
        the same run for 24 hours."""
        name, own, value, read = _runs.named(workflow, input)
        return _runs.start(self, name, version or own, value, correlation_id, idempotency_key, read)

    def run(self, run_id: str) -> "RunHandle[Any]":
        """The handle of a run that was started elsewhere. Nothing is asked."""
        return RunHandle(run_id, self)

    def runs(self, *, limit: int = 100, **filters: Any) -> "Iterator[Json]":
        """All runs that match, newest first, page by page. ``filters`` are the query's: ``phase``, ``workflow``, ``filter`` ..."""
        return self._pages("/runs", {"limit": limit, **filters})

    def begin_run(self, body: "Json", key: str) -> "Json":
        """Starts a run from a body as `start_run` makes it; its record."""
        return dict(self._call("POST", "/runs", body, {"Idempotency-Key": key}))

    def run_record(self, run_id: str, wait_s: float = 0.0) -> "Json":
        """The run as it is now, or when it has ended within the wait."""
        query = f"?wait={int(wait_s * 1000 + 0.999)}ms" if wait_s > 0 else ""
        status, value = self._request("GET", f"/runs/{quote(run_id, safe='')}{query}", None, {}, READ_S + wait_s)
        if status != 200:
            raise from_problem(value, status)
        record = dict(value)
        if _is_ref(record.get("output")):  # a large value is kept apart
            record["output"] = self._blob(record["output"]["$ref"])
        return record

    def run_why(self, run_id: str) -> "Json":
        """What a run waits for: ``{"summary": ..., "reasons": [...]}``."""
        return dict(self._call("GET", f"/runs/{quote(run_id, safe='')}/why"))

    def run_logs(self, run_id: str) -> "List[Json]":
        """The lines of all tasks of a run so far."""
        lines: "List[Json]" = []
        after: Optional[str] = None
        while True:
            page = self._call("GET", f"/runs/{quote(run_id, safe='')}/logs" + (f"?after={quote(after, safe='')}" if after else ""))
            lines += page.get("items") or ()
            following = page.get("next_cursor")
            if not page.get("items") or not following or following == after:
                return lines
            after = str(following)

    def run_journal(self, run_id: str) -> "Iterator[Json]":
        """What a run has done, entry by entry, oldest first."""
        return self._pages(f"/runs/{quote(run_id, safe='')}/journal", {})

    def signal_run(self, run_id: str, type: str, body: "Json") -> "Json":
        """Gives a run a signal: ``{"data": ..., "id": ...}``. `RunHandle.signal` makes the body."""
        path = f"/runs/{quote(run_id, safe='')}/signals/{quote(type, safe='')}"
        return dict(self._call("POST", path, body, {"Idempotency-Key": os.urandom(16).hex()}))

    def complete_in_run(self, run_id: str, promise: str, body: "Json") -> "Json":
        """Completes a promise of a run by its name: ``{"value": ..., "id": ...}`` or ``{"error": ..., "id": ...}``. `RunHandle.complete`
        makes the body."""
        path = f"/runs/{quote(run_id, safe='')}/promises/{quote(promise, safe='')}"
        return dict(self._call("POST", path, body, {"Idempotency-Key": os.urandom(16).hex()}))

    def complete_promise(self, token: str, value: Any = None, *, error: "Union[str, Json, None]" = None) -> None:
        """Completes the promise of a workflow that this token is of, with a value or with an error (a text, or an object with title,
        detail, type, status). No API token is needed, and none is sent. The first one counts: the same again is accepted, something
        else raises `Conflict`, as does a run that has ended. `NotFound`: the token is not whole, or of a run that is not kept."""
        from ._promise import completion, read, run_of

        body = completion(value, error)
        head, _ = read(token)
        self._call("POST", f"/runs/{run_of(head)}/promises/{token}", body, {"Authorization": "", "Tidewheel-Tenant": ""})

    def act_on_run(self, run_id: str, verb: str, body: "Json") -> "Json":
        """``cancel``, ``terminate``, ``suspend``, ``resume``, ``retry``, ``reset`` or ``fork``, with the body that REST takes; its record."""
        headers = {"Idempotency-Key": os.urandom(16).hex()}
        return dict(self._call("POST", f"/runs/{quote(run_id, safe='')}:{quote(verb, safe='')}", body, headers) or {})

    def _blob(self, hash: str) -> Any:
        data = self._call("GET", f"/blobs/{quote(hash, safe=':')}")
        return loads(data) if isinstance(data, bytes) else data

    # -- as the backend of handles -----------------------------------------------------------------------------------

    def enqueue(self, items: "List[Json]") -> "List[str]":
        """Submits bodies as `Task.enqueue` makes them; their ids."""
        if len(items) == 1:
            answer = self._call("POST", "/tasks", items[0], headers={"Idempotency-Key": items[0]["idempotency_key"]})
            return [str(answer["id"])]
        outcomes = self._send_all(items)
        problems = [out if isinstance(out, TidewheelError) else None for out in outcomes]
        if any(problems):
            handles: List[Any] = [Handle(out, self) if isinstance(out, str) else None for out in outcomes]
            first = next(p for p in problems if p)
            raise PartlyRefused(f"{sum(map(bool, problems))} of {len(items)} tasks were refused; the first: {first}", handles, problems)
        return [str(out) for out in outcomes]

    # -- items -------------------------------------------------------------------------------------------------------

    def add_item(self, queue: str, body: "Json") -> str:
        """Puts an item into a queue; its id. `Queue.add` makes the body."""
        key = body.setdefault("idempotency_key", os.urandom(16).hex())
        answer = self._call("POST", f"/queues/{quote(queue, safe='')}/items", body, headers={"Idempotency-Key": key})
        return str(answer["id"])

    def take_items(self, queue: str, lease: str, wait: Optional[str] = None, most: int = 1) -> "List[Json]":
        """Takes the next items of a queue; none when the wait is over. `Queue.take` makes a loop of it."""
        body: "Json" = {"lease": lease, "max": most}
        patience = 0.0
        if wait is not None:
            body["wait"] = wait
            patience = _options.duration_ms(wait) / 1000
        # Answers of takes are not kept, so a key would be of no use: items whose answer is lost come back after their lease.
        path = f"/queues/{quote(queue, safe='')}/items:take"
        status, value = self._request("POST", path, dump_bytes(body, "take"), {}, READ_S + patience)
        if status != 200:
            raise from_problem(value, status)
        return list(value.get("items") or ())

    def settle_item(self, queue: str, id: str, verb: str, body: "Json") -> "Json":
        """Says what became of a taken item: ``done``, ``fail``, ``postpone`` or ``renew``."""
        headers = {"Idempotency-Key": os.urandom(16).hex()}
        return dict(self._call("POST", f"/queues/{quote(queue, safe='')}/items/{quote(id, safe='')}:{verb}", body, headers) or {})

    def status(self, task_id: str) -> "Json":
        """As `get`; the name that handles use."""
        return self.get(task_id)

    # -- bulk --------------------------------------------------------------------------------------------------------

    def _send_all(self, bodies: "List[Json]") -> "List[Union[str, TidewheelError]]":
        """An id or an error per body. Items that the server had no room for are sent again."""
        for body in bodies:
            body.setdefault("idempotency_key", os.urandom(16).hex())
        encoded = [dump_bytes(body, "task") for body in bodies]
        outcomes: "List[Any]" = [None] * len(bodies)
        left = list(range(len(bodies)))
        pauses = _Pauses(self)
        while left:
            for part in _parts(left, encoded):
                data = b'{"tasks":[' + b",".join(encoded[i] for i in part) + b"]}"
                answer = self._call("POST", "/tasks:batch", data, headers={"Idempotency-Key": os.urandom(16).hex()})
                items = answer.get("items") or []
                if len(items) != len(part):
                    raise TidewheelError("the server answered for another number of tasks than were sent")
                for i, item in zip(part, items):
                    outcomes[i] = str(item["id"]) if item.get("id") else from_problem(item.get("problem"), item.get("status") or 0)
            left = [i for i in left if isinstance(outcomes[i], Overloaded) and outcomes[i].retryable is not False]
            if left and not pauses.take(max(outcomes[i].retry_after or 0 for i in left)):
                break
        return outcomes

    # -- requests ----------------------------------------------------------------------------------------------------

    def _act(self, task_id: str, verb: str, reason: str) -> "Json":
        body = {"reason": reason} if reason else {}
        headers = {"Idempotency-Key": os.urandom(16).hex()}
        return dict(self._call("POST", f"/tasks/{quote(task_id, safe='')}:{verb}", body, headers) or {})

    def _pages(self, path: str, query: "Mapping[str, Any]") -> "Iterator[Json]":
        cursor: Optional[str] = None
        while True:
            fields = {name: value for name, value in query.items() if value is not None}
            if cursor is not None:
                fields["cursor"] = cursor
            page = self._call("GET", path + ("?" + urlencode(fields) if fields else ""))
            yield from page.get("items") or ()
            following = page.get("next_cursor")
            if not following or following == cursor:
                return
            cursor = str(following)

    def _call(self, method: str, path: str, body: "Union[None, bytes, Json]" = None, headers: "Mapping[str, str]" = {}) -> Any:
        data = body if body is None or isinstance(body, bytes) else dump_bytes(body, "task")
        status, value = self._request(method, path, data, headers, READ_S)
        if not 200 <= status < 300:
            raise from_problem(value, status)
        return value

    def _request(
        self, method: str, path: str, body: Optional[bytes], headers: "Mapping[str, str]", timeout: float,
        final: "Tuple[int, ...]" = (),
    ) -> "Tuple[int, Any]":
        """One request with its repeats; status and decoded body. Statuses in ``final`` are not repeated."""
        headers = {name: value for name, value in {**self._headers, **headers}.items() if value}
        if body is not None:
            headers["Content-Type"] = "application/json"
        pauses = _Pauses(self)
        while True:
            try:
                status, after, value = self._exchange(method, self._prefix + path, body, headers, timeout)
            except (OSError, http.client.HTTPException) as error:
                if _is_certificate(error) or not pauses.take(0):
                    raise Unreachable(f"{self._address} does not answer: {type(error).__name__}: {error}", retryable=True) from error
                continue
            if status in _REPEAT_STATUS and status not in final:
                told = isinstance(value, dict) and value.get("retryable") is False
                if not told and pauses.take(after):
                    continue
                if isinstance(value, dict) and after:
                    value.setdefault("retry_after", after)
            return status, value

    def _exchange(
        self, method: str, path: str, body: Optional[bytes], headers: "Mapping[str, str]", timeout: float
    ) -> "Tuple[int, float, Any]":
        """One request on one connection: status, seconds of Retry-After, decoded body."""
        while True:
            connection, used = self._connection()
            try:
                if connection.sock is None:
                    connection.connect()
                connection.sock.settimeout(timeout)
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                data = response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                connection.close()
                if used:
                    continue  # the server had closed it while it was idle; that is no failure
                raise
            except BaseException:
                connection.close()
                raise
            if response.will_close:
                connection.close()
            else:
                self._keep(connection)
            return response.status, _retry_after(response.headers.get("Retry-After")), _decoded(response, data)

    def _connection(self) -> "Tuple[http.client.HTTPConnection, bool]":
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
            if not self._secure:
                return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_S), False
            if self._tls is None:
                import ssl

                self._tls = ssl.create_default_context(cafile=self._ca_file)
            return http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_S, context=self._tls), False

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()


class AsyncClient:
    """The same with await. Requests run in threads of the loop's pool, so that nothing beyond the standard library is needed.

    async with AsyncClient(url, token) as client:
        handle = await client.submit("resize", {"width": 100})
        print(await client.result(handle.id, timeout=30))
    """

    def __init__(self, url: str, token: Optional[str] = None, tenant: Optional[str] = None, **settings: Any) -> None:
        self._client = Client(url, token, tenant, **settings)

    @classmethod
    def from_env(cls) -> "AsyncClient":
        """As `Client.from_env`."""
        made = cls.__new__(cls)
        made._client = Client.from_env()
        return made

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()

    async def close(self) -> None:
        """As `Client.close`."""
        self._client.close()

    async def submit(self, type: str, input: Any = None, **opts: Any) -> "AsyncHandle":
        """As `Client.submit`."""
        return AsyncHandle(await _in_thread(self._client.submit, type, input, **opts))

    async def submit_many(self, items: "Iterable[Item]", **opts: Any) -> "List[AsyncHandle]":
        """As `Client.submit_many`."""
        return [AsyncHandle(handle) for handle in await _in_thread(self._client.submit_many, items, **opts)]

    async def get(self, task_id: str) -> "Json":
        """As `Client.get`."""
        return await _in_thread(self._client.get, task_id)  # type: ignore[no-any-return]

    async def list(self, *, limit: int = 100, **filters: Any) -> "AsyncIterator[Json]":
        """As `Client.list`, with ``async for``."""
        async for item in _each(self._client.list(limit=limit, **filters)):
            yield item

    async def wait(self, task_id: str, timeout: Optional[float] = None) -> "Json":
        """As `Client.wait`."""
        return await _in_thread(self._client.wait, task_id, timeout)  # type: ignore[no-any-return]

    async def result(self, task_id: str, timeout: Optional[float] = None) -> Any:
        """As `Client.result`."""
        return await _in_thread(self._client.result, task_id, timeout)

    async def cancel(self, task_id: str, reason: str = "") -> "Json":
        """As `Client.cancel`."""
        return await _in_thread(self._client.cancel, task_id, reason)  # type: ignore[no-any-return]

    async def retry(self, task_id: str, reason: str = "") -> "Json":
        """As `Client.retry`."""
        return await _in_thread(self._client.retry, task_id, reason)  # type: ignore[no-any-return]

    async def why(self, task_id: str) -> "Json":
        """As `Client.why`."""
        return await _in_thread(self._client.why, task_id)  # type: ignore[no-any-return]

    async def logs(self, task_id: str) -> "List[Json]":
        """As `Client.logs`."""
        return await _in_thread(self._client.logs, task_id)  # type: ignore[no-any-return]

    async def start_run(self, workflow: Any, input: Any = None, **opts: Any) -> "AsyncRunHandle":
        """As `Client.start_run`."""
        return AsyncRunHandle(await _in_thread(self._client.start_run, workflow, input, **opts))

    def run(self, run_id: str) -> "AsyncRunHandle":
        """As `Client.run`."""
        return AsyncRunHandle(self._client.run(run_id))

    async def complete_promise(self, token: str, value: Any = None, *, error: "Union[str, Json, None]" = None) -> None:
        """As `Client.complete_promise`."""
        await _in_thread(self._client.complete_promise, token, value, error=error)

    async def runs(self, *, limit: int = 100, **filters: Any) -> "AsyncIterator[Json]":
        """As `Client.runs`, with ``async for``."""
        async for item in _each(self._client.runs(limit=limit, **filters)):
            yield item


class AsyncRunHandle:
    """A run of a workflow; every question is awaited. It has what `RunHandle` has."""

    def __init__(self, handle: "RunHandle[Any]") -> None:
        self._handle = handle
        self.id = handle.id

    async def record(self) -> "Json":
        """As `RunHandle.record`."""
        return await _in_thread(self._handle.record)  # type: ignore[no-any-return]

    async def phase(self) -> str:
        """As `RunHandle.phase`."""
        return await _in_thread(self._handle.phase)  # type: ignore[no-any-return]

    async def why(self) -> "Json":
        """As `RunHandle.why`."""
        return await _in_thread(self._handle.why)  # type: ignore[no-any-return]

    async def wait(self, timeout: Optional[float] = None) -> "Json":
        """As `RunHandle.wait`."""
        return await _in_thread(self._handle.wait, timeout)  # type: ignore[no-any-return]

    async def result(self, timeout: Optional[float] = None) -> Any:
        """As `RunHandle.result`."""
        return await _in_thread(self._handle.result, timeout)

    async def signal(self, type: str, data: Any = None, *, id: Optional[str] = None) -> None:
        """As `RunHandle.signal`."""
        await _in_thread(self._handle.signal, type, data, id=id)

    async def complete(self, promise: str, value: Any = None, *, error: "Union[str, Json, None]" = None) -> None:
        """As `RunHandle.complete`."""
        await _in_thread(self._handle.complete, promise, value, error=error)

    async def cancel(self, reason: str = "") -> None:
        """As `RunHandle.cancel`."""
        await _in_thread(self._handle.cancel, reason)

    async def terminate(self, reason: str = "") -> None:
        """As `RunHandle.terminate`."""
        await _in_thread(self._handle.terminate, reason)

    async def suspend(self, reason: str = "") -> None:
        """As `RunHandle.suspend`."""
        await _in_thread(self._handle.suspend, reason)

    async def resume(self) -> None:
        """As `RunHandle.resume`."""
        await _in_thread(self._handle.resume)

    async def retry(self) -> None:
        """As `RunHandle.retry`."""
        await _in_thread(self._handle.retry)

    async def logs(self) -> "List[Json]":
        """As `RunHandle.logs`."""
        return await _in_thread(self._handle.logs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"AsyncRunHandle({self.id!r})"


class AsyncHandle:
    """A submitted task; every question is awaited."""

    def __init__(self, handle: "Handle[Any]") -> None:
        self._handle = handle
        self.id = handle.id

    async def status(self) -> str:
        """As `Handle.status`."""
        return await _in_thread(self._handle.status)  # type: ignore[no-any-return]

    async def why(self) -> "Json":
        """As `Handle.why`."""
        return await _in_thread(self._handle.why)  # type: ignore[no-any-return]

    async def result(self, timeout: Optional[float] = None) -> Any:
        """As `Handle.result`."""
        return await _in_thread(self._handle.result, timeout)

    async def cancel(self, reason: str = "") -> None:
        """As `Handle.cancel`."""
        await _in_thread(self._handle.cancel, reason)

    async def logs(self) -> "List[Json]":
        """As `Handle.logs`."""
        return await _in_thread(self._handle.logs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"AsyncHandle({self.id!r})"


async def _in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
    import asyncio
    from functools import partial

    return await asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))


async def _each(items: "Iterator[Json]") -> "AsyncIterator[Json]":
    """Items whose pages are read by a thread, one after the other."""
    end = object()
    while True:
        item = await _in_thread(next, items, end)
        if item is end:
            return
        yield item


class _Pauses:
    """The pauses of one request: growing, with full jitter, and not more in all than the client's patience."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._left = client._patience
        self._next = FIRST_PAUSE_S

    def take(self, least: float) -> bool:
        """Pauses at least so many seconds; False, at once, when patience does not reach that far."""
        pause = least + self._next * self._client._random()
        self._next = min(self._next * 2, LONGEST_PAUSE_S)
        # Each pause is charged something, or a server that is down at once would be asked forever.
        self._left -= max(pause, 0.05)
        if self._left < 0:
            return False
        self._client._sleep(pause)
        return True


def _body(type: str, input: Any, opts: "Mapping[str, Any]") -> "Json":
    if not isinstance(type, str) or not type:
        raise Invalid("a submission needs the type of the task, as a text", code="invalid-field")
    body: "Json" = {"type": type, **_options.submit_options(**opts)}
    if input is not None:
        body["input"] = input
    return body


def _parts(indices: "List[int]", encoded: "List[bytes]") -> "Iterator[List[int]]":
    part: "List[int]" = []
    size = 0
    for i in indices:
        if part and (len(part) >= MAX_BATCH or size + len(encoded[i]) > MAX_BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(i)
        size += len(encoded[i]) + 1
    if part:
        yield part


def _decoded(response: http.client.HTTPResponse, data: bytes) -> Any:
    if not data:
        return None
    kind = (response.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return loads(data)
        except (ValueError, RecursionError):
            if response.status < 400:
                raise TidewheelError("the server's answer is not valid JSON") from None
    elif response.status < 400:
        return data  # a result that is bytes
    return data.decode("utf-8", "replace")


def _is_ref(value: Any) -> bool:
    """Whether this stands for a large value that is kept apart."""
    return isinstance(value, dict) and set(value) == {"$ref", "size"} and str(value["$ref"]).startswith("sha256:")


def _retry_after(text: Optional[str]) -> float:
    """Seconds of a Retry-After header, which is a number or a date."""
    if not text:
        return 0.0
    try:
        return max(float(int(text)), 0.0)
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _is_certificate(error: BaseException) -> bool:
    """A certificate does not become valid by asking again."""
    import sys

    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(error, ssl.SSLCertVerificationError)


def _without_login(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return scheme + mark + rest.rpartition("@")[2]
