"""One conversation with the agent: what came in, what is running, who waits for an answer.

Threads. The main thread runs tasks (one slot) or only reads (several slots). Whoever holds `link.read_lock` reads, and hands
out what it read by `dispatch`: starts to `inbox`, cancellations to their task, answers to whoever asked. A thread that waits
for an answer reads for itself if nobody else does, so that asking needs no further thread.

Bounds: the agent's credits bound `inbox`; the bound on frames bounds the rest.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextvars import copy_context
from itertools import count
from json.encoder import encode_basestring
from types import CoroutineType

from .. import handle
from ..context import CURRENT, Context
from ..encode import dump_bytes
from ..errors import Cancelled, ResultError, TidewheelError, from_problem, from_task
from .children import has_children, living_children
from .frame import MAX_FRAME, ProtocolError, encode, encode_raw, frame_json
from .link import LinkClosed
from .report import error_body, message_of, sendable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple, Union

    from ..authoring import Task
    from ..flow import Workflow
    from ..signature import Arguments
    from .flows import Flows
    from .frame import Message
    from .link import Link
    from .registered import Offer
    from .stdio import Output

#: A function whose last call was shorter counts as quick: nothing is written before its next call, so that many leave together.
QUICK_S = 0.001
#: Bounds of one `enqueue` frame; the frame's own bound less room for the header.
MAX_ENQUEUE = 1_000
MAX_ENQUEUE_BYTES = MAX_FRAME - 64 * 1024
#: Longest text of the fields of one log line.
MAX_FIELDS = 64 * 1024
#: How long one question about a result stays with the agent before it is asked again.
RESULT_WAIT_S = 30.0
#: One question for items waits so long at most: a cancelled task stops asking.
TAKE_WAIT_S = 5.0
EXIT_PROTOCOL = 70
_ANSWERS = ("enqueued", "asset_value", "handle_reply", "history")


class UnknownFunction(Exception):
    """The agent asked for a function that these modules do not have."""

    retryable = False


class Entry:
    """What is kept per function."""

    __slots__ = ("task", "function", "arguments", "quick")

    def __init__(self, task: "Task[Any, Any]") -> None:
        self.task = task
        self.function = task.function
        self.arguments = self._first_arguments
        self.quick = False

    def _first_arguments(self, value: "Any") -> "Arguments":
        """Reads the signature at the first call: a process should not begin by reading those of functions it never runs."""
        try:
            self.arguments = self.task.signature.arguments
        except TypeError as error:
            error.retryable = False  # type: ignore[attr-defined]  # the code has to change
            raise
        return self.arguments(value)


class FlowEntry(Entry):
    """A workflow: its function is the driver, and the input is the whole activation."""

    __slots__ = ("_workflow", "_session")

    def __init__(self, workflow: "Workflow[Any, Any]", session: "Session") -> None:
        super().__init__(workflow)  # type: ignore[arg-type]
        self._workflow = workflow
        self._session = session
        self.function = self._activate

    def _first_arguments(self, value: "Any") -> "Arguments":
        return (value,), {}

    def _activate(self, payload: "Any") -> "Dict[str, Any]":
        return self._session.flows().activate(self._workflow, payload)


class _Question:
    __slots__ = ("event", "answer", "raw")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.answer: "Optional[Message]" = None
        self.raw: "Optional[bytes]" = None


class Session:
    """Also the `Host` of every context and the `Backend` of every handle in this process."""

    def __init__(self, link: "Link", offer: "Offer", output: "Output", slots: int = 1) -> None:
        self.link = link
        self.output = output
        self.slots = slots
        self.entries = {fn: FlowEntry(item, self) if hasattr(item, "ref") else Entry(item) for fn, item in offer.items()}  # type: ignore[arg-type]
        self._flows: "Optional[Flows]" = None
        self.inbox: "Deque[Message]" = deque()
        self.live: "Dict[str, Context]" = {}
        self.draining = False
        self.closed = False
        #: What the agent allows: in the environment of the process, or later in a `hello_ack`.
        self.limits: "Dict[str, Any]" = {}
        parked = os.environ.pop("TIDEWHEEL_PARKED", "")
        if parked.isdigit():
            self.limits["parked"] = int(parked)
        #: Told when a task begins and ends (one slot); see `serial.py`.
        self.on_begin: "Callable[[object], None]" = lambda _: None
        self.on_end: "Callable[[], None]" = lambda: None
        self._refused: "Dict[str, str]" = {}
        self._stoppers: "Dict[str, Callable[[], Any]]" = {}
        self._numbers = count(1)
        self._questions: "Dict[int, _Question]" = {}
        self._loop: "Optional[asyncio.AbstractEventLoop]" = None
        self._loop_lock = threading.Lock()
        #: Children that the modules themselves started when they were loaded: they belong to every task.
        self._kept = living_children() if has_children() else set()
        handle.process_backend = self

    # -- what comes in -----------------------------------------------------------------------------------------------

    def dispatch(self, messages: "List[Tuple[Message, Optional[bytes]]]") -> None:
        """Hands out what was read. Called by the holder of `link.read_lock`."""
        for message, raw in messages:
            kind = message.get("t")
            if kind == "task_start":
                if raw is not None:
                    message["input"] = raw
                self.inbox.append(message)
            elif kind == "batch_start":
                self.inbox.append(message)
            elif kind == "cancel":
                self._cancel(str(message.get("lease")), str(message.get("reason") or "cancelled"))
            elif kind == "recall":
                self._recall(set(message.get("leases") or ()))
            elif kind in _ANSWERS:
                question = self._questions.pop(message.get("req"), None)  # type: ignore[arg-type]
                if question is not None:
                    question.raw = raw
                    question.answer = message
                    question.event.set()
            elif kind == "drain":
                self.draining = True
            elif kind == "hello_ack":
                self.limits.update(message.get("limits") or {})
            else:
                raise ProtocolError(f"unknown message type {kind!r}")

    def receive(self) -> bool:
        """Reads what is there, for the holder of `link.read_lock`; False if it was nothing. A broken protocol ends the
        process here, whichever thread sees it."""
        try:
            messages = self.link.read()
            self.dispatch(messages)
        except ProtocolError as error:
            self.fatal(str(error))
        except LinkClosed:
            self.lost()
            raise
        return bool(messages)

    def fatal(self, text: str) -> None:
        """Says why, and ends the process at once."""
        self.output.flush()
        try:
            self.link.send(encode({"t": "fatal", "msg": text}))
            self.link.flush()
        except LinkClosed:
            pass
        os._exit(EXIT_PROTOCOL)

    def lost(self) -> None:
        """The agent is gone: nobody will take results, so running tasks are asked to stop and waiting threads are let go."""
        self.closed = True
        for context in list(self.live.values()):
            self._stop(context, "the agent is gone")
        for question in list(self._questions.values()):
            question.event.set()

    def _cancel(self, lease: str, reason: str) -> None:
        context = self.live.get(lease)
        if context is not None:
            self._stop(context, reason)
            return
        for message in list(self.inbox):
            if message.get("lease") == lease or any(item.get("lease") == lease for item in message.get("items") or ()):
                self._refused[lease] = reason
        # Else it has ended already, and its task_done is on the way.

    def _recall(self, leases: "Set[str]") -> None:
        """Gives back starts that have not begun. The main thread may be taking from the left meanwhile: what is taken here from
        the right is begun by nobody, and only the holder of `link.read_lock` puts anything in."""
        back, kept = [], []
        while self.inbox:
            try:
                message = self.inbox.pop()
            except IndexError:  # the main thread was quicker
                break
            lease = message.get("lease")
            if message["t"] == "task_start" and lease in leases:
                self._refused.pop(lease, None)
                back.append(lease)
            else:
                kept.append(message)
        self.inbox.extend(reversed(kept))
        self.link.send(encode({"t": "recalled", "leases": back[::-1]}))

    def _stop(self, context: Context, reason: str) -> None:
        context.cancel(reason)
        stopper = self._stoppers.get(context.lease)
        if stopper is not None:
            stopper()

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, message: "Message") -> None:
        """Runs one start to its end. Never raises for what the task does."""
        if message["t"] == "batch_start":
            self._run_batch(message)
            return
        lease, fn = message.get("lease"), message.get("fn")
        if type(lease) is not str or type(fn) is not str:
            self.fatal("task_start without lease or fn")
            return
        quoted = encode_basestring(lease).encode()
        send = self.link.send
        send(frame_json(b'{"t":"started","lease":%b}' % quoted))
        if self._refused and lease in self._refused:
            send(self._failed(quoted, Cancelled(self._refused.pop(lease), code="cancelled"), None))
            return
        entry = self.entries.get(fn)
        if entry is None:
            send(self._failed(quoted, _unknown(fn), None))
            return
        if not entry.quick or self.slots > 1:
            self.link.flush()
        context = Context(self, lease, _facts(message))
        self.live[lease] = context
        token = CURRENT.set(context)
        begin = time.perf_counter()
        self.on_begin(context)
        try:
            if entry.task.batch is not None:
                frame = self._call_batch(entry, [context], [entry.task.signature.member(message.get("input"))], context)[0]
            else:
                args, kwargs = entry.arguments(message.get("input"))
                frame = self._done(quoted, self._call(entry, args, kwargs, context))
        except BaseException as error:  # SystemExit and KeyboardInterrupt end the task, not the worker
            frame = self._failed(quoted, error, entry, context)
        self._finish(token, [context], entry, begin)
        send(frame)

    def _finish(self, token: "Any", contexts: "List[Context]", entry: Entry, begin: float) -> None:
        self.on_end()
        CURRENT.reset(token)
        for context in contexts:
            self.live.pop(context.lease, None)
        entry.quick = time.perf_counter() - begin < QUICK_S
        self.output.flush()
        if self.slots == 1 and has_children() and (left := living_children() - self._kept):
            # Said before the result, so that the agent gives this process nothing new: what the task left running ends with it.
            self.tell(encode({"t": "left", "count": len(left)}))

    def _call(self, entry: Entry, args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]", context: Context) -> "Any":
        # In a copy of the context, so that what the task sets there ends with it.
        value = copy_context().run(entry.function, *args, **kwargs)
        if type(value) is CoroutineType:
            value = self._await(value, context)
        return value

    def _run_batch(self, message: "Message") -> None:
        items = message.get("items")
        if not isinstance(items, list) or not all(isinstance(i, dict) and type(i.get("lease")) is str for i in items):
            self.fatal("batch_start without its items")
            return
        send = self.link.send
        fn = str(message.get("fn"))
        entry = self.entries.get(fn)
        members: "List[Context]" = []
        inputs: "List[Any]" = []
        for item in items:
            lease = item["lease"]
            quoted = encode_basestring(lease).encode()
            send(frame_json(b'{"t":"started","lease":%b}' % quoted))
            context = Context(self, lease, _facts(item))
            try:
                if lease in self._refused:
                    raise Cancelled(self._refused.pop(lease), code="cancelled")
                if entry is None:
                    raise _unknown(fn)
                if entry.task.batch is None:
                    raise UnknownFunction(f"{fn} takes no batches")
                inputs.append(entry.task.signature.member(item.get("input")))
                members.append(context)
            except Exception as error:  # this member fails alone
                send(self._failed(quoted, error, entry))
        if entry is None or not members:
            return
        self.link.flush()
        whole = Context(self, members[0].lease, members[0].facts, members)
        for context in members:
            self.live[context.lease] = context
        token = CURRENT.set(whole)
        begin = time.perf_counter()
        self.on_begin(whole)
        try:
            frames = self._call_batch(entry, members, inputs, whole)
        except BaseException as error:
            frames = [self._failed(encode_basestring(m.lease).encode(), error, entry, whole) for m in members]
        self._finish(token, members, entry, begin)
        for frame in frames:
            send(frame)

    def _call_batch(self, entry: Entry, members: "List[Context]", inputs: "List[Any]", context: Context) -> "List[bytes]":
        results = self._call(entry, (inputs,), {}, context)
        if not isinstance(results, (list, tuple)) or len(results) != len(inputs):
            got = f"{len(results)} results" if isinstance(results, (list, tuple)) else type(results).__name__
            raise ResultError(f"a batch of {len(inputs)} has to return a list of {len(inputs)} results, got {got}")
        frames = []
        for member, value in zip(members, results):
            quoted = encode_basestring(member.lease).encode()
            try:
                if isinstance(value, BaseException):
                    raise value
                frames.append(self._done(quoted, value))
            except BaseException as error:
                frames.append(self._failed(quoted, error, entry, context))
        return frames

    def _await(self, coroutine: "Any", context: Context) -> "Any":
        loop = self._event_loop()
        lease = context.lease
        if self.slots == 1:
            running = loop.create_task(coroutine)
            stop: "Callable[[], Any]" = lambda: loop.call_soon_threadsafe(running.cancel)
        else:
            import asyncio

            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
            stop = future.cancel
        for member in context.members or (context,):
            # A batch is stopped when its last member is; see `Context.check`.
            self._stoppers[member.lease] = lambda: all([m.cancel_reason for m in context.members or (context,)]) and stop()
        try:
            if context.cancel_reason is not None:  # it came before the stopper was there
                stop()
            return loop.run_until_complete(running) if self.slots == 1 else future.result()
        finally:
            for member in context.members or (context,):
                self._stoppers.pop(member.lease, None)
            self._stoppers.pop(lease, None)

    def _event_loop(self) -> "asyncio.AbstractEventLoop":
        """One for the process, so that what a package keeps on it (a connection pool) lives from task to task."""
        with self._loop_lock:
            if self._loop is None:
                import asyncio

                self._loop = asyncio.new_event_loop()
                if self.slots > 1:
                    threading.Thread(target=self._loop.run_forever, name="tidewheel-loop", daemon=True).start()
                else:
                    asyncio.set_event_loop(self._loop)
            return self._loop

    def flows(self) -> "Flows":
        """What runs activations; loaded with the first."""
        if self._flows is None:
            with self._loop_lock:
                if self._flows is None:
                    from .. import _driver
                    from . import stdio
                    from .flows import Flows

                    stdio.muted = _driver.muted
                    self._flows = Flows(self)
        return self._flows

    # -- results -----------------------------------------------------------------------------------------------------

    def _done(self, quoted: bytes, value: "Any") -> bytes:
        if value is None:
            return frame_json(b'{"t":"task_done","lease":%b,"ok":true,"value":null}' % quoted)
        if type(value) in (bytes, bytearray):
            _fits(len(value) + len(quoted) + 64)
            return encode_raw({"t": "task_done", "lease": _unquoted(quoted), "ok": True}, bytes(value))
        text = dump_bytes(value, "result")
        _fits(len(text) + len(quoted) + 64)
        return frame_json(b'{"t":"task_done","lease":%b,"ok":true,"value":%b}' % (quoted, text))

    def _failed(self, quoted: bytes, error: BaseException, entry: "Optional[Entry]", context: "Optional[Context]" = None) -> bytes:
        try:
            body = dump_bytes(error_body(error, entry.task.retry if entry else None, context))
        except BaseException as second:  # short of memory, say: less, but something
            body = dump_bytes({"type": type(error).__name__, "message": f"no details: {type(second).__name__}", "traceback": "",
                               "retryable": True})
        return frame_json(b'{"t":"task_done","lease":%b,"ok":false,"error":%b}' % (quoted, body))

    # -- Host: what a context asks for -------------------------------------------------------------------------------

    def log(self, lease: str, level: str, msg: str, fields: "Dict[str, Any]") -> None:
        text = b"{}"
        if fields:
            try:
                text = dump_bytes(fields, "fields")
            except Exception:  # a line with a field as text is worth more than an error about the field
                text = dump_bytes({name: _field(item) for name, item in fields.items()})
            if len(text) > MAX_FIELDS:
                text = b'{"truncated":true}'
        quoted = [encode_basestring(part).encode("utf-8", "backslashreplace") for part in (lease, msg)]
        self.tell(frame_json(b'{"t":"log","lease":%b,"level":"%b","msg":%b,"fields":%b,"at_ms":%d}' % (
            quoted[0], level.encode(), quoted[1], text, time.time_ns() // 1_000_000)))

    def progress(self, lease: str, fraction: float, text: str) -> None:
        self.tell(encode({"t": "progress", "lease": lease, "fraction": fraction, "text": text.encode("utf-8", "replace").decode()}))

    def artifact(self, lease: str, name: str, content: "Union[str, bytes]") -> None:
        from mimetypes import guess_type

        owned = isinstance(content, bytes)
        path = _keep(content) if isinstance(content, bytes) else content
        self.tell(encode({
            "t": "artifact", "lease": lease, "name": name, "path": path, "size": os.path.getsize(path),
            "content_type": guess_type(name)[0] or "application/octet-stream",
            "owned": owned,  # written here for the agent alone, which may move it away
        }))
        self.link.flush()

    def asset(self, lease: str, name: str) -> "Any":
        answer, raw = self.ask({"t": "asset", "lease": lease, "name": name})
        return answer.get("value") if raw is None else raw

    def fetch(self, lease: str, hash: str) -> str:
        answer, _ = self.ask({"t": "handle", "op": "fetch", "lease": lease, "hash": hash})
        return str(answer["body"]["path"])

    def file(self, lease: str, name: str) -> str:
        try:
            answer, _ = self.ask({"t": "handle", "op": "file", "lease": lease, "name": name})
        except TidewheelError as error:
            if error.code == "not-found":
                raise FileNotFoundError(str(error)) from None
            raise
        return str(answer["body"]["path"])

    def tell(self, frame: bytes) -> None:
        """Sends what nobody answers. With one slot the watcher writes it within its tick, together with its neighbours."""
        try:
            self.link.send(frame)
            if self.slots > 1:
                self.link.flush()
        except LinkClosed:
            self.lost()

    # -- Backend: what a handle asks for -----------------------------------------------------------------------------

    def enqueue(self, items: "List[Dict[str, Any]]") -> "List[str]":
        ids: "List[str]" = []
        part: "List[bytes]" = []
        size = 0
        for i, item in enumerate(items):
            body = dump_bytes(item, f"items[{i}]")
            if len(body) > MAX_ENQUEUE_BYTES:
                raise ResultError(f"items[{i}]: the submission has {len(body)} bytes; at most {MAX_ENQUEUE_BYTES} go into one")
            if part and (len(part) >= MAX_ENQUEUE or size + len(body) > MAX_ENQUEUE_BYTES):
                ids += self._enqueue(part)
                part, size = [], 0
            part.append(body)
            size += len(body) + 1
        return ids + (self._enqueue(part) if part else [])

    def _enqueue(self, part: "List[bytes]") -> "List[str]":
        context = CURRENT.get(None)
        head: "Message" = {"t": "enqueue"}
        if context is not None:
            head["lease"] = context.lease  # which attempt this comes from; for the agent's log and trace
        answer, _ = self.ask(head, b",".join(part))
        ids = answer.get("ids")
        if not isinstance(ids, list) or len(ids) != len(part):
            raise TidewheelError("the agent answered with another number of ids than tasks were sent")
        return [str(task_id) for task_id in ids]

    # -- Backend: what a queue's items ask for -----------------------------------------------------------------------

    def add_item(self, queue: str, body: "Dict[str, Any]") -> str:
        size = len(dump_bytes(body, "item"))
        if size > MAX_ENQUEUE_BYTES:
            raise ResultError(f"the item has {size} bytes; at most {MAX_ENQUEUE_BYTES} go into one")
        context = CURRENT.get(None)
        if context is not None and context.correlation_id and "correlation_id" not in body:
            body = {**body, "correlation_id": context.correlation_id}
        return str(self._about("add_item", "", queue=queue, body=body)["id"])

    def take_items(self, queue: str, lease: str, wait: "Optional[str]" = None, most: int = 1) -> "List[Dict[str, Any]]":
        from .. import options

        end = time.monotonic() + (0.0 if wait is None else options.duration_ms(wait) / 1000)
        while True:
            # In pieces, so that a cancelled task does not go on waiting.
            left = min(max(end - time.monotonic(), 0.0), TAKE_WAIT_S)
            body: "Dict[str, Any]" = {"lease": lease, "max": most}
            if left > 0:
                body["wait"] = f"{int(left * 1000)}ms"
            items = self._about("take_items", "", queue=queue, timeout_ms=int(left * 1000), body=body).get("items")
            if items or time.monotonic() >= end:
                return list(items or ())
            context = CURRENT.get(None)
            if context is not None:
                context.check()

    def settle_item(self, queue: str, id: str, verb: str, body: "Dict[str, Any]") -> "Dict[str, Any]":
        return self._about("settle_item", id, queue=queue, verb=verb, body=body)

    # -- Backend: what the handle of a run asks for --------------------------------------------------------------------

    def begin_run(self, body: "Dict[str, Any]", key: str) -> "Dict[str, Any]":
        size = len(dump_bytes(body, "run"))
        if size > MAX_ENQUEUE_BYTES:
            raise ResultError(f"the start of the run has {size} bytes; at most {MAX_ENQUEUE_BYTES} go into one")
        return self._about("start_run", "", key=key, body=body)

    def run_record(self, run_id: str, wait_s: float = 0.0) -> "Dict[str, Any]":
        context = CURRENT.get(None)
        end = time.monotonic() + wait_s
        while True:
            # In pieces, so that a cancelled task does not go on waiting.
            left = min(max(end - time.monotonic(), 0.0), TAKE_WAIT_S)
            record = self._about("run", run_id, timeout_ms=int(left * 1000))
            if record.get("phase") in ("completed", "faulted", "cancelled") or time.monotonic() >= end:
                return record
            if context is not None:
                context.check()

    def signal_run(self, run_id: str, type: str, body: "Dict[str, Any]") -> "Dict[str, Any]":
        return self._about("signal_run", run_id, verb=type, body=body)

    def complete_in_run(self, run_id: str, promise: str, body: "Dict[str, Any]") -> "Dict[str, Any]":
        return self._about("complete_promise", run_id, verb=promise, body=body)

    def run_why(self, run_id: str) -> "Dict[str, Any]":
        raise _only_runs()

    def run_logs(self, run_id: str) -> "List[Dict[str, Any]]":
        raise _only_runs()

    def act_on_run(self, run_id: str, verb: str, body: "Dict[str, Any]") -> "Dict[str, Any]":
        raise _only_runs()

    def status(self, task_id: str) -> "Dict[str, Any]":
        return self._about("status", task_id)

    def why(self, task_id: str) -> "Dict[str, Any]":
        return self._about("why", task_id)

    def cancel(self, task_id: str, reason: str) -> "Dict[str, Any]":
        return self._about("cancel", task_id, reason=reason)

    def logs(self, task_id: str) -> "List[Dict[str, Any]]":
        return list(self._about("logs", task_id).get("items") or ())

    def result(self, task_id: str, timeout: "Optional[float]") -> "Any":
        from ..errors import Timeout

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = RESULT_WAIT_S if end is None else min(max(end - time.monotonic(), 0.0), RESULT_WAIT_S)
            try:
                record = self._about("result", task_id, timeout_ms=int(left * 1000))
            except Timeout as error:
                if end is not None and time.monotonic() >= end:
                    raise Timeout(f"task {task_id} has no result after {timeout} s; it goes on", code="wait-timeout") from error
                context = CURRENT.get(None)
                if context is not None:
                    context.check()
                continue
            if record.get("state") == "succeeded":
                return record.get("result")
            raise from_task({"id": task_id, **record})

    def _about(self, op: str, task_id: str, **more: "Any") -> "Dict[str, Any]":
        answer, raw = self.ask({"t": "handle", "op": op, "id": task_id, **more})
        body = dict(answer.get("body") or {})
        if raw is not None:
            body["result"] = raw
        return body

    def ask(self, message: "Message", items: "Optional[bytes]" = None) -> "Tuple[Message, Optional[bytes]]":
        """Sends a request and waits for its answer; raises what the answer's problem says."""
        number = next(self._numbers)
        question = self._questions[number] = _Question()
        text = dump_bytes({**message, "req": number})
        if items is not None:
            text = text[:-1] + b',"items":[' + items + b"]}"
        try:
            self.link.send(frame_json(text))
            self.link.flush()
            while question.answer is None:
                if self.closed or self.link.foreign:
                    raise LinkClosed("the agent is gone")
                self._wait(question)
        except LinkClosed as error:
            raise TidewheelError(f"no answer: {error}", retryable=True) from None
        finally:
            self._questions.pop(number, None)
        problem = question.answer.get("problem")
        if problem is not None:
            raise from_problem(problem)
        return question.answer, question.raw

    def _wait(self, question: _Question) -> None:
        if self.slots > 1:  # the main thread reads, always
            question.event.wait(1.0)
            return
        if not self.link.read_lock.acquire(False):
            question.event.wait(0.05)  # somebody else reads, perhaps not to the end
            return
        woken = False
        try:
            while question.answer is None and not woken:
                ready, woken = self.link.wait()
                if ready:
                    self.receive()
        finally:
            self.link.read_lock.release()
        if woken and question.answer is None:
            question.event.wait(0.05)  # the main thread wants to read; let it have the lock


def _only_runs() -> Exception:
    from ..errors import NotAllowed

    return NotAllowed("inside a task a run is started, asked for and given signals; for more, use a Client with a token of its own", code="not-allowed")


def _facts(start: "Message") -> "Dict[str, Any]":
    """What the agent says of an attempt that begins now: its time limit counts from here."""
    facts: "Dict[str, Any]" = start.get("ctx") or {}
    if "run_ms" in facts:
        facts["deadline_ms"] = int(time.time() * 1000) + int(facts["run_ms"])
    return facts


def _unknown(fn: str) -> UnknownFunction:
    return UnknownFunction(f"there is no task function {fn} in this package")


def _field(item: "Any") -> "Any":
    try:
        dump_bytes(item)
        return item
    except Exception:
        pass
    try:
        return message_of(item) if isinstance(item, BaseException) else sendable(repr(item), MAX_FIELDS)
    except Exception as error:  # its __repr__ failed
        return f"<{type(item).__name__}: {type(error).__name__}>"


def _fits(size: int) -> None:
    if size > MAX_FRAME:
        raise ResultError(f"result: {size} bytes are over the bound of {MAX_FRAME}; keep it with ctx.artifact and return its name")


def _unquoted(quoted: bytes) -> str:
    from json import loads

    return str(loads(quoted))


def _keep(content: bytes) -> str:
    """Bytes of an artifact as a file, for the agent to fetch."""
    from tempfile import NamedTemporaryFile

    folder = os.environ.get("TIDEWHEEL_ARTIFACTS") or None
    with NamedTemporaryFile(prefix="tidewheel-", dir=folder, delete=False) as file:
        file.write(content)
    return os.path.abspath(file.name)
