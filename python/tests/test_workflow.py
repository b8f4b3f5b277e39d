"""Workflows as an author tests them: the test kit, and through it everything that `wf` can do."""

import support  # noqa: F401
import asyncio
import contextlib
import contextvars
import io
import json
import os
import tempfile
import threading
import time
import unittest
from unittest import mock
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import List

import tidewheel
from tidewheel import Batch, Cancelled, Retry, TaskFailed, Timeout, ctx, task, wf, workflow
from tidewheel.errors import InputError, ReplayMismatch, ResultError, TidewheelError, WorkflowError, WorkflowStuck
from tidewheel.testing import Clock, replay, run


RUNTIME = "https://serverlessworkflow.io/spec/1.0.0/errors/runtime"


@dataclass
class Order:
    id: str
    lines: List[int]


@task(retry=Retry(3, delay="10s"), queue="erp", timeout="5m")
def fetch(number: int) -> int:
    return number * 10


@task
def place(order: Order) -> Order:
    return Order(order.id.upper(), order.lines + [0])


@task
async def later(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1


@task
def fails(text: str) -> None:
    raise ValueError(text)


@task
def release(what: str) -> str:
    return what


@task(batch=Batch(10))
def squares(numbers: List[int]) -> List[int]:
    return [ValueError("negative") if n < 0 else n * n for n in numbers]


@workflow(version="1.2", namespace="acme")
def ship(id: str) -> str:
    wf.sleep("1h")
    return f"shipped {id}"


def flow(function):
    """A workflow for one test."""
    return workflow(function)


class Decorator(unittest.TestCase):
    def test_names_and_versions(self):
        self.assertEqual(ship.ref, "acme/ship:1.2.0")
        self.assertEqual(workflow(name="x", version="3")(lambda: 1).ref, "default/x:3.0.0")

        def _Two_Words():
            pass

        self.assertEqual(workflow(_Two_Words).name, "two-words")
        for wrong in ({"name": "A"}, {"name": "-a"}, {"namespace": "a/b"}, {"version": "one"}, {"version": "1.2.3.4"}, {"version": 3},
                      {"version": "01"}, {"version_policy": "newest"}, {"timeout": "long"}, {"name": "a" * 64}):
            with self.assertRaises((ValueError, TypeError), msg=wrong):
                workflow(**wrong)(lambda: 1)
        for wrong in (5, Order, fetch, ship):
            with self.assertRaises(TypeError):
                workflow(wrong)

        def generator():
            yield 1

        with self.assertRaisesRegex(TypeError, "generator"):
            workflow(generator)

    def test_outside_it_is_the_function_itself(self):
        @flow
        def plain(n: int) -> int:
            return fetch(n) + 1

        self.assertEqual(plain(2), 21)
        self.assertEqual(fetch(2), 20)
        self.assertEqual(fetch.with_options(priority=3)(2), 20)

    def test_wf_outside_says_what_to_do(self):
        for call in (lambda: wf.sleep(1), lambda: wf.now(), lambda: fetch.submit(1), lambda: ship.submit("a"), lambda: wf.log.info("x"),
                     lambda: fetch.with_options(priority=1).submit(1), lambda: wf.signals("a")):
            with self.assertRaisesRegex(WorkflowError, "inside a running"):
                call()

    def test_what_is_not_there_yet_does_not_exist(self):
        for name in ("human", "emit", "asset"):
            self.assertFalse(hasattr(wf, name))


class Calls(unittest.TestCase):
    def test_a_call_is_journaled_and_typed(self):
        @flow
        def f(order: Order) -> Order:
            return place(order)

        outcome = run(f, Order("a", [1]))
        self.assertEqual(outcome.unwrap(), Order("A", [1, 0]))
        self.assertEqual((outcome.phase, outcome.keys), ("completed", ["/task:place#0"]))
        self.assertEqual(outcome.entry("/task:place#0")["args"], {"order": {"id": "a", "lines": [1]}})
        self.assertEqual(outcome.json, {"id": "A", "lines": [1, 0]})

    def test_options_go_along(self):
        @flow
        def f() -> int:
            return fetch.with_options(queue="fast", priority=9, retry=Retry(7), timeout="2m", labels={"a": 1}, idempotency_key="k")(2)

        outcome = run(f)
        opts = outcome.journal[0]["opts"]
        self.assertEqual((opts["queue"], opts["priority"], opts["timeouts"], opts["retry"]["max_attempts"]), ("fast", 9, {"run_ms": 120000}, 7))
        self.assertEqual((opts["labels"], opts["idempotency_key"]), ({"a": "1"}, "k"))

        @flow
        def g() -> int:
            return fetch(1)

        self.assertEqual(run(g).journal[0]["opts"]["timeouts"], {"run_ms": 300000})

        @flow
        def all_of_them() -> int:
            given = {
                "key": "order-1", "concurrency_key": "c:1", "concurrency_limit": 2, "affinity_key": "eu", "ttl": "1h", "expected_duration": 5,
                "near": "set-1", "correlation_id": "x", "resources": {"class": "io-intensive", "memory": "2Gi"}, "priority": "high",
                "timeout": {"queue": "1m", "start": 2, "run": "3s", "heartbeat": "4s"}, "package": "other@1.2",
            }
            return fetch.with_options(**given)(1)

        opts = run(all_of_them).journal[0]["opts"]
        self.assertEqual(opts["timeouts"], {"queue_ms": 60000, "start_ms": 2000, "run_ms": 3000, "heartbeat_ms": 4000})
        self.assertEqual((opts["key"], opts["concurrency_key"], opts["concurrency_limit"], opts["affinity_key"]), ("order-1", "c:1", 2, "eu"))
        self.assertEqual((opts["ttl_ms"], opts["expected_ms"], opts["near"], opts["priority"]), (3600000, 5000, ["set-1"], 8))
        self.assertEqual((opts["resources"], opts["package"]), ({"class": "io-intensive", "memory": 2 << 30}, "other@1.2"))

        @flow
        def h() -> int:
            return fetch.with_options(delay="5m")(1)

        self.assertIn("wf.sleep", str(run(h).error))

    def test_handles(self):
        @flow
        def f() -> list:
            one, two = fetch.submit(1), fetch.with_options(priority=1).submit(2)
            before = one.done()
            return [before, one.result(), one.done(), two.result(), one.result(), one.key]

        self.assertEqual(run(f).unwrap(), [False, 10, True, 20, 10, "/task:fetch#0"])

    def test_keys_count_within_kind_and_name(self):
        @flow
        def f() -> None:
            fetch(1)
            later(1)
            fetch(2)

        self.assertEqual(run(f).keys, ["/task:fetch#0", "/task:later#0", "/task:fetch#1"])

    def test_a_failure_carries_its_fields(self):
        @flow
        def f() -> list:
            try:
                fails("no lines")
            except TaskFailed as error:
                return [error.type, error.status, error.title, error.detail, error.key, sorted(error.problem)]

        self.assertEqual(run(f).unwrap(), [RUNTIME, 500, "ValueError", "no lines", "/task:fails#0", ["detail", "status", "title", "type"]])

        @flow
        def g() -> None:
            fails("no lines")

        outcome = run(g)
        self.assertEqual((outcome.phase, type(outcome.error), outcome.history()["end"]["error"]["key"]), ("failed", TaskFailed, "/task:fails#0"))
        with self.assertRaises(TaskFailed):
            outcome.unwrap()

        @flow
        def h() -> None:
            try:
                fails("no lines")
            except TaskFailed as error:
                raise KeyError("wrapped") from error

        end = run(h).history()["end"]["error"]
        self.assertEqual((end["exception"], end["key"], end["type"]), ("KeyError", "/task:fails#0", RUNTIME))
        self.assertNotIn("tidewheel/_", end["traceback"])
        self.assertIn("test_workflow.py", end["traceback"])

    def test_retries_pass_on_the_virtual_clock(self):
        seen = []

        def flaky(number):
            seen.append(number)
            if len(seen) < 3:
                raise OSError("reset")
            return 7

        @flow
        def f() -> int:
            return fetch(1)

        outcome = run(f, mocks={fetch: flaky})
        self.assertEqual((outcome.unwrap(), outcome.elapsed, outcome.journal[0]["attempts"]), (7, 30.0, 3))
        self.assertEqual(run(f, mocks={"fetch": OSError("no")}, retries=False).journal[0]["attempts"], 1)
        self.assertEqual(run(f, mocks={"fetch": 5}).unwrap(), 5)

    def test_a_batch_task_takes_one_member(self):
        @flow
        def f() -> list:
            try:
                squares.submit(-1).result()
            except TaskFailed as error:
                return [squares.submit(3).result(), error.detail]

        self.assertEqual(run(f).unwrap(), [9, "negative"])

    def test_an_argument_without_json_is_an_error_of_the_call(self):
        @flow
        def f() -> str:
            try:
                fetch(object())
            except ResultError as error:
                return str(error)

        self.assertIn("number", run(f).unwrap())

    def test_what_would_be_repeated_is_refused(self):
        def texts():
            for call in (lambda: fetch.enqueue(1), lambda: ctx.asset("x"), lambda: ctx.progress(1), lambda: ctx.artifact("a", b"b"),
                         lambda: threading.Thread(target=print).start()):
                try:
                    call()
                except WorkflowError as error:
                    yield str(error)

        @flow
        def f() -> list:
            return list(texts())

        self.assertEqual(len(run(f).unwrap()), 5)

    def test_a_loop_of_its_own_is_refused(self):
        @flow
        def f() -> str:
            async def main():
                return fetch(1)

            try:
                asyncio.run(main())
            except WorkflowError as error:
                return str(error)

        self.assertIn("async def", run(f).unwrap())

    def test_ctx_log_is_the_runs_log(self):
        @flow
        def f() -> None:
            ctx.log.info("a", n=1)
            wf.log.warning("b")
            fetch(1)

        outcome = run(f, replay_every_step=True)
        self.assertEqual([(line.level, line.msg, line.fields) for line in outcome.log], [("info", "a", {"n": 1}), ("warning", "b", {})])


class Waits(unittest.TestCase):
    def test_sleep(self):
        @flow
        def f() -> list:
            begin = wf.now()
            wf.sleep("1d")
            wf.sleep(90)
            wf.sleep(timedelta(hours=1))
            wf.sleep(0)
            return [(wf.now() - begin).total_seconds(), begin]

        outcome = run(f)
        self.assertEqual(outcome.unwrap()[0], 86400 + 90 + 3600)
        self.assertEqual(outcome.elapsed, 86400 + 90 + 3600)
        clock = Clock(1000.0)
        self.assertEqual(run(f, clock=clock).unwrap()[1], "1970-01-01T00:16:40+00:00")
        self.assertEqual(clock.elapsed, outcome.elapsed)

    def test_signals_come_in_order_and_time_out(self):
        @flow
        def f() -> list:
            first = wf.signal("add")
            out = [first]
            for item in wf.signals("add"):
                out.append(item)
                if len(out) == 3:
                    break
            try:
                wf.signal("add", timeout="1h")
            except Timeout as error:
                out.append([error.key, error.status])
            return out

        self.assertEqual(run(f, signals={"add": [1, 2, 3]}).unwrap(), [1, 2, 3, ["/signal:add#3", 408]])
        late = run(f, signals=[("1h", "add", 1), ("2h", "add", 2), ("3h", "add", 3), ("3h30m", "add", 4)])
        self.assertEqual((late.phase, late.elapsed), ("completed", 3.5 * 3600))
        waiting = run(f, signals={"add": [1]})
        self.assertEqual((waiting.phase, waiting.waiting), ("waiting", ["/signal:add#1"]))
        with self.assertRaisesRegex(TidewheelError, "nothing is left that could come"):
            waiting.unwrap()

    def test_events_are_matched_by_their_data(self):
        @flow
        def f(id: str) -> dict:
            return wf.event("com.acme.paid", where={"order": id}, timeout="3d")

        events = [{"type": "com.acme.paid", "data": {"order": "b"}, "at": "1h"}, {"type": "com.acme.paid", "data": {"order": "a", "sum": 3}, "at": "2h"}]
        outcome = run(f, "a", events=events)
        self.assertEqual((outcome.unwrap(), outcome.elapsed), ({"order": "a", "sum": 3}, 7200))
        self.assertEqual(outcome.journal[0]["opts"], {"where": {"order": "a"}, "timeout_ms": 259200000})
        self.assertIsInstance(run(f, "c", events=events).error, Timeout)

    def test_promises(self):
        @flow
        def f() -> list:
            answer = wf.promise("answer")
            fetch(1)
            return [answer.result(), answer.key]

        self.assertEqual(run(f, promises={"answer": 42}).unwrap(), [42, "/promise:answer#0"])
        self.assertEqual(run(f, promises=[("1h", "answer", "x")]).elapsed, 3600)
        self.assertIsInstance(run(f, promises={"answer": ValueError("no")}).error, TaskFailed)

        @flow
        def g() -> None:
            wf.promise("p", timeout="5m").result()

        self.assertIsInstance(run(g).error, Timeout)

    def test_steps(self):
        calls = []

        def effect(a, b=0):
            calls.append(a)
            return {"key": ctx.idempotency_key(), "plain": fetch(a), "b": b}

        def bad():
            raise LookupError("gone")

        async def coroutine():
            await asyncio.sleep(0.001)
            return "real loop"

        @flow
        def f() -> list:
            out = [wf.step("one", effect, 2, b=3)]
            try:
                wf.step("two", bad)
            except TaskFailed as error:
                out.append([error.title, error.detail, error.key])
            return out + [wf.step("three", coroutine)]

        outcome = run(f, replay_every_step=True)
        self.assertEqual(outcome.unwrap(), [{"key": "run_test_1:/step:one#0", "plain": 20, "b": 3}, ["LookupError", "gone", "/step:two#0"], "real loop"])
        self.assertEqual(calls, [2])
        calls.clear()
        run(f, crash_at="/step:one#0")
        self.assertEqual(calls, [2, 2])  # at least once

        @flow
        def g() -> None:
            wf.step("leaves", lambda: wf.sleep(1))

        self.assertIn("inside a running", run(g).error.detail)

    def test_children(self):
        @flow
        def f() -> list:
            handle = wf.start_workflow("acme/ship:1.2.0", {"id": "b"}, close="abandon")
            return [wf.call_workflow(ship, {"id": "a"}), ship("c"), handle.result(), ship.submit("d").result(),
                    wf.call_workflow("acme/ship:latest", {"id": "e"}), wf.call_workflow(ship, "f")]

        outcome = run(f, replay_every_step=True)
        self.assertEqual(outcome.unwrap(), ["shipped " + x for x in "acbdef"])
        self.assertEqual(outcome.keys[:3], ["/child:acme/ship:1.2.0#0", "/child:acme/ship:1.2.0#1", "/child:acme/ship:1.2.0#2"])
        self.assertEqual(outcome.journal[0]["opts"], {"close": "abandon"})
        mocked = run(f, mocks={ship: lambda id: "mock " + id, "acme/ship:latest": "fixed"})
        self.assertEqual(mocked.unwrap()[0], "mock a")
        self.assertEqual(mocked.unwrap()[4], "fixed")

        @flow
        def unknown() -> None:
            wf.call_workflow("acme/none:1.0.0")

        self.assertIn("mocks=", str(run(unknown).error))
        for wrong in ("ship", "acme/ship", "a/b/c:1"):
            self.assertIsInstance(run(flow(lambda: wf.call_workflow(wrong)), ).error if False else run(_named(lambda: wf.call_workflow(wrong))).error, ValueError)

    def test_a_child_that_fails(self):
        @workflow(name="bad-child")
        def bad_child() -> None:
            raise ValueError("inside")

        @flow
        def f() -> list:
            try:
                bad_child()
            except TaskFailed as error:
                return [error.detail, error.key]

        self.assertEqual(run(f).unwrap(), ["inside", "/child:default/bad-child:1.0.0#0"])


def _named(function, name="lambda-flow"):
    return workflow(name=name)(function)


class SideBySide(unittest.TestCase):
    def test_all_and_any(self):
        @flow
        def f() -> list:
            both = wf.all(fetch.submit(1), later.submit(1), lambda: fetch(2) + fetch(3))
            which, value = wf.any(lambda: wf.sleep("1h"), lambda: wf.signal("go"), fetch.submit(9))
            return [list(both), which, value]

        for kw in ({}, {"replay_every_step": True}, {"shuffle": 1}, {"shuffle": 2, "replay_every_step": True}):
            outcome = run(f, **kw)
            self.assertEqual(outcome.unwrap(), [[10, 2, 50], 2, 90])
            self.assertEqual(sorted(outcome.keys), sorted([
                "/task:fetch#0", "/task:later#0", "p0/task:fetch#0", "p0/task:fetch#1", "/task:fetch#1", "p1/sleep:#0", "p2/signal:go#0"]))

    def test_all_raises_the_first_failure_when_all_have_ended(self):
        @flow
        def f() -> list:
            try:
                wf.all(fetch.submit(1), fails.submit("x"), lambda: fails("y"))
            except TaskFailed as error:
                return [error.detail]

        self.assertEqual(run(f).unwrap(), ["x"])

    def test_slower_parts_of_any_are_told(self):
        told = []

        def slow():
            try:
                wf.sleep("1h")
            except Cancelled:
                release("cleaned")
                raise

        @flow
        def f() -> str:
            which, _ = wf.any(slow, lambda: wf.sleep("1m"))
            wf.sleep("1s")
            return str(which)

        outcome = run(f)
        self.assertEqual((outcome.unwrap(), outcome.elapsed), ("1", 61))
        self.assertIn("p0/task:release#0", outcome.keys)
        self.assertEqual(told, [])

    def test_nested_scopes(self):
        @flow
        def f() -> list:
            inner = lambda n: wf.all(lambda: fetch(n), lambda: fetch(n + 1))  # noqa: E731
            return [list(x) for x in wf.all(lambda: inner(1), lambda: inner(5))]

        outcome = run(f, shuffle=4)
        self.assertEqual(outcome.unwrap(), [[10, 20], [50, 60]])
        self.assertEqual(sorted(outcome.keys), [f"p{i}.p{j}/task:fetch#0" for i in (0, 1) for j in (0, 1)])

    def test_variables_of_the_context_go_along(self):
        name = contextvars.ContextVar("name", default="none")

        @flow
        def f() -> list:
            name.set("outer")

            def part():
                before = name.get()
                name.set("inner")
                return before

            return [wf.all(part, part), name.get()]

        self.assertEqual(run(f).json, [["outer", "outer"], "outer"])

    def test_map(self):
        @flow
        def f() -> list:
            return [wf.map(fetch, [1, 2, 3], concurrency=2, batch=10), wf.map(fetch, [(4,), {"number": 5}]), wf.map(fetch, []), wf.map(ship, ["a"]),
                    wf.map(fetch.with_options(queue="q"), [1])]

        outcome = run(f, replay_every_step=True)
        self.assertEqual(outcome.unwrap(), [[10, 20, 30], [40, 50], [], ["shipped a"], [10]])
        first = outcome.journal[0]
        self.assertEqual((first["key"], first["args"][0], first["opts"]["concurrency"], first["opts"]["batch"], first["opts"]["queue"]),
                         ("/map:fetch#0", {"number": 1}, 2, 10, "erp"))
        self.assertEqual([e["name"] for e in outcome.journal], ["fetch", "fetch", "workflow:acme/ship:1.2.0", "fetch"])

    def test_map_with_failures(self):
        def odd(number):
            if number % 2:
                raise ValueError(f"{number} is odd")
            return number

        @flow
        def f(how: str) -> list:
            return [x if isinstance(x, int) else [type(x).__name__, x.detail, x.key] for x in wf.map(fetch, [2, 3, 4], on_error=how)]

        mocks = {fetch: odd}
        self.assertEqual(run(f, "collect", mocks=mocks).unwrap(), [2, ["TaskFailed", "3 is odd", "/map:fetch#0[1]"], 4])
        self.assertEqual(run(f, "fail", mocks=mocks).error.detail, "3 is odd")
        self.assertIsInstance(run(f, "ignore").error, ValueError)


class Telling(unittest.TestCase):
    def test_status_and_attributes(self):
        @flow
        def f() -> None:
            wf.status({"at": "begin"})
            wf.attributes(customer="acme", sum=3, gone="x")
            fetch(1)
            wf.status("end")
            wf.attributes(gone=None)

        outcome = run(f, replay_every_step=True)
        self.assertEqual((outcome.state, outcome.attributes), ("end", {"customer": "acme", "sum": 3}))

    def test_continue_as_new(self):
        @flow
        def f(n: int, total: int = 0) -> int:
            total += fetch(n)
            if n:
                wf.continue_as_new(n - 1, total=total)
            return total

        outcome = run(f, 3)
        self.assertEqual(outcome.unwrap(), 60)
        self.assertEqual(outcome.keys, ["/task:fetch#0", "g1/task:fetch#0", "g2/task:fetch#0", "g3/task:fetch#0"])
        self.assertEqual(outcome.history(1)["input"], {"n": 2, "total": 30})
        self.assertEqual(replay(f, outcome.history(1)).end, {"continue": {"n": 1, "total": 50}})

    def test_undo_runs_backwards_on_failure_and_on_cancel_only(self):
        @flow
        def f(how: str) -> None:
            for name in ("a", "b"):
                wf.undo(release, name)
            if how == "fail":
                raise ValueError("no")
            if how == "wait":
                wf.sleep("1d")

        self.assertEqual(run(f, "fine").undone, [])
        seen = []
        for how, phase in (("fail", "failed"), ("wait", "cancelled")):
            outcome = run(f, how, mocks={release: seen.append}, cancel="1h" if how == "wait" else None)
            self.assertEqual((outcome.phase, seen), (phase, ["b", "a"]))
            self.assertEqual([e["status"] for e in outcome.journal if e["kind"] == "undo"], ["ok", "ok"])
            seen.clear()

    def test_cancel_raises_where_it_waits_and_cleaning_up_may_wait(self):
        @flow
        def f() -> None:
            try:
                wf.signal("never")
            finally:
                release("lock")
                wf.sleep("5m")

        outcome = run(f, cancel="1h")
        self.assertEqual((outcome.phase, outcome.elapsed, outcome.keys), ("cancelled", 3900, ["/signal:never#0", "/task:release#0", "/sleep:#0"]))
        self.assertIsInstance(outcome.error, Cancelled)

        @flow
        def stays() -> str:
            try:
                wf.all(lambda: wf.signal("a"), lambda: wf.signal("b"))
            except Cancelled as error:
                return str(error)

        self.assertEqual(run(stays, cancel="1h").unwrap(), "cancelled by the test")

    def test_a_run_has_a_time_limit(self):
        @workflow(timeout="1h")
        def limited() -> None:
            wf.sleep("2h")

        outcome = run(limited)
        self.assertEqual((outcome.phase, type(outcome.error), outcome.elapsed), ("failed", Timeout, 3600))

    def test_children_follow_their_parent_as_it_says(self):
        ends = []

        @workflow(name="kid")
        def kid() -> None:
            try:
                wf.sleep("10h")
                release("slept")
            except Cancelled:
                release("stopped")

        for close, expected in (("wait", ["slept"]), ("abandon", []), ("cancel", [])):
            @workflow(name="parent")
            def parent() -> int:
                wf.start_workflow(kid, close=close)
                return 1

            outcome = run(parent, mocks={release: ends.append})
            self.assertEqual((outcome.unwrap(), ends), (1, expected), close)
            ends.clear()

    def test_chance_is_the_same_in_each_replay(self):
        @flow
        async def f() -> list:
            async def part():
                return wf.random().random(), wf.uuid()

            first = wf.random().randint(0, 10**9), wf.uuid(), wf.idempotency_key(), wf.idempotency_key("x")
            parts = await asyncio.gather(part(), part())
            await wf.sleep(1)
            return [first, parts, wf.random().randint(0, 10**9), wf.idempotency_key(), wf.run_id]

        one, two = run(f), run(f, replay_every_step=True)
        self.assertEqual(one.json, two.json)
        self.assertNotEqual(one.json, run(f, seed=1).json)
        self.assertNotEqual(one.json[1][0], one.json[1][1])
        self.assertEqual(one.json[0][2:], ["run_test_1:/idempotency:#0", "run_test_1:/idempotency:x#0"])


class Async(unittest.TestCase):
    def test_everything_of_asyncio_that_waits(self):
        @flow
        async def f() -> list:
            out = []

            async def pipeline(n):
                value = await fetch(n)
                await asyncio.sleep(n)
                return value + await later.submit(n)

            out.append(list(await asyncio.gather(*[pipeline(n) for n in (3, 1, 2)])))
            task_ = asyncio.create_task(pipeline(4), name="named")
            out.append(await asyncio.wait_for(task_, 60))
            try:
                await asyncio.wait_for(wf.signal("never"), 60)
            except asyncio.TimeoutError:
                out.append("timed out")
            event, queue = asyncio.Event(), asyncio.Queue()

            async def producer():
                await asyncio.sleep(5)
                await queue.put("item")
                event.set()

            asyncio.ensure_future(producer())
            await event.wait()
            out.append(await queue.get())
            out.append(asyncio.get_running_loop().time())
            done, _ = await asyncio.wait([asyncio.ensure_future(pipeline(5)), asyncio.ensure_future(wf.sleep(1))], return_when=asyncio.FIRST_COMPLETED)
            out.append(len(done))
            out.append(await wf.step("s", lambda: 5))
            out.append(await wf.call_workflow(ship, {"id": "x"}))
            out.append(list(await wf.all(fetch.submit(1), pipeline(1), lambda: fetch(2))))
            out.append(list(await wf.any(lambda: wf.sleep("1h"), pipeline(2))))
            out.append(await wf.map(fetch, [1, 2]))
            async for item in wf.signals("s"):
                out.append(item)
                break
            return out

        expected = [[34, 12, 23], 45, "timed out", "item", 72.0, 1, 5, "shipped x", [10, 12, 20], [1, 23], [10, 20], 7]
        keys = None
        for kw in ({}, {"replay_every_step": True}, {"crash_at": "/step:s#0"}):
            outcome = run(f, signals={"s": [7]}, **kw)
            self.assertEqual(outcome.unwrap(), expected)
            self.assertEqual(keys or outcome.keys, outcome.keys)
            keys = outcome.keys
        for seed in range(10):
            self.assertEqual(sorted(run(f, signals={"s": [7]}, shuffle=seed).keys), sorted(keys))

    def test_real_io_is_refused(self):
        @flow
        async def f() -> list:
            loop = asyncio.get_running_loop()
            out = []
            for call in (lambda: loop.run_in_executor(None, time.sleep, 0), lambda: asyncio.open_connection("localhost", 1),
                         lambda: loop.getaddrinfo("x", 1), lambda: asyncio.create_subprocess_exec("true"), lambda: loop.call_soon_threadsafe(print)):
                try:
                    value = call()
                    if asyncio.iscoroutine(value):
                        await value
                except WorkflowError as error:
                    out.append("wf.step" in str(error))
            return out

        self.assertEqual(run(f).unwrap(), [True] * 5)

    def test_cancelling_a_run_is_cancelling_its_main_coroutine(self):
        @flow
        async def f(how: str) -> str:
            try:
                if how == "direct":
                    await wf.signal("never")
                elif how == "sleep":
                    await asyncio.sleep(10**6)
                elif how == "gather":
                    await asyncio.gather(wf.signal("never"), asyncio.sleep(10**6))
                elif how == "all":
                    await wf.all(wf.signal("never"), lambda: wf.sleep("9d"))
                else:
                    await asyncio.wait_for(wf.signal("never"), 10**6)
            except Cancelled:
                await release("direct")
                raise
            except asyncio.CancelledError:
                await release("loop")
                raise
            return "never"

        for how, kind in (("direct", "direct"), ("sleep", "direct"), ("gather", "loop"), ("wait_for", None), ("all", "direct")):
            seen = []
            outcome = run(f, how, cancel="1h", mocks={release: seen.append})
            self.assertEqual((outcome.phase, outcome.elapsed), ("cancelled", 3600), how)
            if kind is not None:
                self.assertEqual(seen, [kind], how)

    def test_task_groups_and_timeouts(self):
        if not hasattr(asyncio, "TaskGroup"):
            self.skipTest("Python 3.11 has them first")

        @flow
        async def f() -> list:
            async with asyncio.TaskGroup() as group:
                a = group.create_task(_times(1))
                b = group.create_task(_times(2))
            out = [a.result(), b.result()]
            try:
                async with asyncio.timeout(5):
                    await wf.signal("never")
            except TimeoutError:
                out.append("late")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_awaits(fails("x")))
                    group.create_task(_awaits(wf.signal("never")))
            except BaseException as error:
                out.append([type(e).__name__ for e in error.exceptions])
            return out

        outcome = run(f, replay_every_step=True)
        self.assertEqual((outcome.unwrap(), outcome.elapsed), ([10, 20, "late", ["TaskFailed"]], 5.0))

        @flow
        async def g() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(_awaits(wf.signal("never")))

        self.assertEqual(run(g, cancel="1h").phase, "cancelled")

    def test_tasks_that_are_left_are_cancelled_at_the_end(self):
        @flow
        async def f() -> int:
            async def background():
                try:
                    await wf.sleep("1d")
                finally:
                    release.submit("told")

            asyncio.ensure_future(background())
            await fetch(1)
            return 1

        outcome = run(f, replay_every_step=True)
        self.assertEqual((outcome.unwrap(), outcome.keys[-1]), (1, "p0/task:release#0"))

    def test_a_failure_nobody_asks_about_is_no_noise(self):
        @flow
        async def f() -> int:
            fails.submit("alone")
            return await fetch(1)

        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(run(f).unwrap(), 10)
        self.assertEqual(err.getvalue(), "")

    def test_a_coroutine_that_waits_for_nothing(self):
        @flow
        async def f() -> None:
            await asyncio.Event().wait()

        self.assertIn("waits for nothing", str(run(f).error))

    def test_scopes_follow_creation_and_not_scheduling(self):
        @flow
        async def f() -> None:
            async def inner(n):
                await asyncio.sleep(n)
                await asyncio.gather(*[_times(n) for _ in range(2)])

            await asyncio.gather(*[inner(n) for n in range(4)])

        expected = {f"p{i}.p{j}/task:fetch#0" for i in range(4) for j in range(2)}
        for seed in range(20):
            self.assertEqual({key for key in run(f, shuffle=seed).keys if "task" in key}, expected)


async def _times(n):
    return await fetch(n)


async def _awaits(what):
    return await what


class Outcomes(unittest.TestCase):
    def test_ends_that_are_no_plain_return(self):
        def raiser(error):
            def f() -> None:
                raise error

            return f

        import sys

        for function, kind in ((raiser(SystemExit(3)), SystemExit), (raiser(KeyboardInterrupt()), KeyboardInterrupt), (raiser(GeneratorExit()), GeneratorExit),
                               (lambda: object(), None), (lambda: float("nan"), None), (lambda: "x" * 5_000_000, None), (lambda: sys.exit("bye"), SystemExit)):
            outcome = run(_named(function))
            self.assertEqual(outcome.phase, "failed")
            if kind:
                self.assertIsInstance(outcome.error, kind)
            self.assertTrue(outcome.history()["end"]["error"]["detail"])
        with self.assertRaises(MemoryError):
            run(_named(raiser(MemoryError())))

    def test_wrong_input_names_the_field(self):
        @flow
        def f(order: Order) -> None:
            pass

        self.assertIsInstance(run(f, {"id": 5}).error, InputError)
        self.assertIn("order", str(run(f, {"id": 5}).error))

    def test_code_that_never_waits_is_stuck(self):
        from tidewheel import _driver

        from flows import FlowHost, payload

        stop = []

        @flow
        def f() -> None:
            while not stop:
                pass

        with self.assertRaisesRegex(WorkflowStuck, r"test_workflow.py:\d+"):
            _driver.activate(f, payload([{"no": 1, "now": 1, "done": []}], f.ref, {}), FlowHost(), stall_s=0.05)
        stop.append(1)

        @flow
        def slow_step() -> int:
            return wf.step("slow", lambda: time.sleep(1.2) or 5)

        result = _driver.activate(slow_step, payload([{"no": 1, "now": 1, "done": []}], slow_step.ref, {}), FlowHost(), stall_s=0.5)
        self.assertEqual(result["commands"][0]["value"], 5)

    def test_prints_are_not_repeated(self):
        @flow
        def f() -> None:
            print("one")
            fetch(1)
            print("two")
            wf.sleep(1)
            print("three")

        with contextlib.redirect_stdout(io.StringIO()) as out:
            run(f, replay_every_step=True)
        self.assertEqual(out.getvalue(), "one\ntwo\nthree\n")

    def test_sizes_have_bounds(self):
        @flow
        def f() -> list:
            out = []
            for call in (lambda: release("x" * 5_000_000), lambda: wf.step("big", lambda: "x" * 5_000_000), lambda: wf.signal(""),
                         lambda: wf.signal("x" * 201), lambda: wf.attributes(a=[1]), lambda: wf.map(fetch, [1], concurrency=0), lambda: wf.any(),
                         lambda: wf.all(5), lambda: wf.step("a\nb", print), lambda: wf.call_workflow(ship, "x", close="never"), lambda: wf.map(5, [1])):
                try:
                    call()
                except (ResultError, TaskFailed, ValueError, TypeError) as error:
                    out.append(type(error).__name__)
            return out

        self.assertEqual(run(f).unwrap(), ["ResultError", "TaskFailed", "ValueError", "ValueError", "TypeError", "ValueError", "ValueError", "TypeError",
                                           "ValueError", "ValueError", "TypeError"])

        @flow
        def many() -> None:
            for _ in range(5):
                release.submit("x" * 3_000_000)

        self.assertIn("in one go", str(run(many).error))

    def test_bounds_are_met_again_by_a_replay(self):
        @flow
        def f() -> list:
            out = [fetch(1) for _ in range(4)]
            try:
                for _ in range(5):
                    release.submit("x" * 3_000_000)
            except (ResultError, WorkflowError) as error:
                out.append(type(error).__name__)
            wf.now()
            return out

        self.assertEqual(run(f, replay_every_step=True).unwrap(), [10] * 4 + ["ResultError"])

    def test_a_wrapped_coroutine_function_is_named(self):
        async def inner():
            return 1

        self.assertIn("below other decorators", str(run(_named(lambda: inner())).error))

    def test_what_is_open_at_once_has_a_bound_and_what_has_ended_has_none(self):
        from tidewheel import _testrun

        with mock.patch.object(_testrun, "MAX_OPEN", 10):
            @flow
            def long() -> int:
                return sum(fetch(1) for _ in range(30))

            self.assertEqual(run(long).unwrap(), 300)

            @flow
            def wide() -> None:
                wf.all(*[fetch.submit(1) for _ in range(11)])

            said = str(run(wide).error)
            self.assertIn("11 things open at once", said)
            self.assertIn("continue_as_new", said)

    def test_nondeterminism_is_found(self):
        flips = []

        @flow
        def f() -> None:
            flips.append(1)
            fetch(len(flips))
            wf.sleep(1)

        outcome = run(f, replay_every_step=True)
        self.assertEqual((outcome.phase, type(outcome.error)), ("suspended", ReplayMismatch))
        self.assertEqual((outcome.error.expected, outcome.error.actual), ("/task:fetch#0", "/task:fetch#0"))
        self.assertRegex(str(outcome.error), r"test_workflow.py:\d+: the code gives other arguments")


class Replays(unittest.TestCase):
    def test_an_exported_journal_checks_new_code(self):
        @workflow(name="settle")
        def first(n: int) -> int:
            value = fetch(n)
            wf.sleep("1d")
            return value

        journal = run(first, 2).history()
        self.assertEqual(replay(first, journal)[:2], (3, 2))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.json")
            with open(path, "w") as file:
                json.dump(journal, file)
            self.assertEqual(replay(first, path).end, {"ok": 20})
            self.assertEqual(replay(first, {"run": {"id": "run_1"}, "history": journal}).end, {"ok": 20})

        @workflow(name="settle", version="2")
        def other(n: int) -> int:
            later(n)
            return 1

        with self.assertRaises(ReplayMismatch) as caught:
            replay(other, journal)
        error = caught.exception
        self.assertEqual((error.turn, error.expected, error.actual), (1, "/task:fetch#0", "/task:later#0"))
        with open(error.file) as file:
            self.assertIn("later(n)", file.read().split("\n")[error.line - 1])

        @workflow(name="settle", version="2")
        def patched(n: int) -> int:
            if wf.patched("check-first"):
                later(n)
            value = fetch(n)
            wf.sleep("1d")
            return value

        self.assertEqual(replay(patched, journal).end, {"ok": 20})
        self.assertEqual(run(patched, 2).keys, ["/patch:check-first#0", "/task:later#0", "/task:fetch#0", "/sleep:#0"])
        self.assertEqual(replay(first, run(first, 2).history()).turns, 3)

        @workflow(name="settle", version="3")
        def ended(n: int) -> int:
            return fetch(n) + 1

        with self.assertRaisesRegex(ReplayMismatch, "the function has ended"):
            replay(ended, journal)

        @workflow(name="settle", version="3")
        def result(n: int) -> int:
            value = fetch(n)
            wf.sleep("1d")
            return value + 1

        with self.assertRaisesRegex(ReplayMismatch, "now ends with"):
            replay(result, journal)
        with self.assertRaises(ValueError):
            replay(ship, journal)
        with self.assertRaises(ValueError):
            replay(first, {**journal, "turns": []})
        with self.assertRaises(InputError):
            replay(first, {**journal, "turns": [5]})

    def test_a_replay_runs_nothing(self):
        ran = []

        @workflow(name="settle")
        def f() -> int:
            return wf.step("s", lambda: ran.append(1) or 5)

        journal = run(f).history()
        replay(f, journal)
        self.assertEqual(ran, [1])

    def test_a_running_journal(self):
        @workflow(name="settle")
        def f() -> int:
            return wf.signal("go")

        outcome = run(f)
        self.assertEqual(replay(f, outcome.history()).end, None)


if __name__ == "__main__":
    unittest.main()
