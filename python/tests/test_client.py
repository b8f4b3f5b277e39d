"""The client against a server of this process, on the loopback."""

import support  # noqa: F401
import asyncio
import http.server
import json
import os
import threading
import time
import unittest
from unittest import mock

from tidewheel import Cancelled, Conflict, NotAllowed, Overloaded, TaskFailed, Timeout, handle, queue, task, workflow
from tidewheel.client import AsyncClient, Client
from tidewheel.errors import Invalid, NotFound, PartlyRefused, TidewheelError, Unreachable


class Server:
    """Answers from a script: each request takes the next answer for its method and path, the last one stays."""

    def __init__(self, script):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                path = self.path.partition("?")[0]
                outer.requests.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None, self.client_address))
                answers = script[f"{self.command} {path}"]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if callable(answer):
                    answer = answer(outer.requests[-1])
                if answer == "hang up":
                    self.close_connection = True
                    self.connection.close()
                    return
                status, value, headers = (*answer, {})[:3]
                data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
                self.send_response(status)
                if "Content-Type" not in headers:
                    self.send_header("Content-Type", "application/problem+json" if status >= 400 else "application/json")
                for name, item in headers.items():
                    self.send_header(name, item)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def problem(code, status, **more):
    return (status, {"type": f"/docs/reference/errors#{code}", "title": code, "status": status, "detail": f"because {code}", "code": code, **more})


class ItemsTest(unittest.TestCase):
    """`queue(...).take()` against a server that has two items."""

    def serve(self, more={}):
        record = {"queue": "invoices", "token": "t1", "input": {"n": 1}, "attempt": 1, "max_attempts": 3, "leased_until": "x"}
        script = {
            "POST /api/v1/queues/invoices/items": [(201, {"id": "task_9"})],
            "POST /api/v1/queues/invoices/items:take": [
                (200, {"items": [{**record, "id": "task_1"}]}), (200, {"items": [{**record, "id": "task_2"}]}), (200, {"items": []}),
            ],
        }
        for id in ("task_1", "task_2"):
            for verb in ("done", "fail", "postpone", "renew"):
                script[f"POST /api/v1/queues/invoices/items/{id}:{verb}"] = [(200, {"id": id, "leased_until": "later"})]
        server = Server({**script, **more})
        self.addCleanup(server.close)
        client = Client(server.url, "tok-123")
        self.addCleanup(client.close)
        return server, client

    def test_items_are_taken_one_by_one_until_there_is_none(self):
        server, client = self.serve()
        with mock.patch.object(handle, "_client", client):
            self.assertEqual(queue("invoices", priority=7).add({"n": 1}, key="c").id, "task_9")
            seen = []
            for item in queue("invoices").take(lease="10m", wait="2s"):
                item.renew()
                self.assertEqual(item.leased_until, "later")
                item.done({"ok": item.input["n"]}) if item.id == "task_1" else item.fail("no customer", kind="business")
                seen.append((item.id, item.settled))
        self.assertEqual(seen, [("task_1", True), ("task_2", True)])
        bodies = {path.split("/")[-1]: body for _, path, _, body, _ in server.requests}
        self.assertEqual((bodies["items"]["key"], bodies["items"]["priority"]), ("c", 7))
        self.assertEqual(bodies["items:take"], {"lease": "10m", "max": 1, "wait": "2s"})
        self.assertEqual(bodies["task_1:done"], {"token": "t1", "result": {"ok": 1}})
        self.assertEqual(bodies["task_2:fail"]["kind"], "business")

    def test_an_item_that_the_loop_leaves_unsettled_fails_as_a_system_error(self):
        server, client = self.serve()
        with self.assertRaises(ZeroDivisionError):
            for item in queue("invoices").take(client=client):
                1 / 0
        del item
        import gc

        gc.collect()
        last = server.requests[-1]
        self.assertEqual((last[1], last[3]["kind"]), ("/api/v1/queues/invoices/items/task_1:fail", "system"))
        taken = list(queue("invoices").take(client=client, limit=1))
        self.assertTrue(taken[0].settled)
        self.assertEqual(server.requests[-1][3]["type"], "Unsettled")

    def test_a_lease_that_is_over_is_a_conflict(self):
        late = {"POST /api/v1/queues/invoices/items/task_1:done": [problem("conflict", 409)]}
        _, client = self.serve(late)
        with self.assertRaises(Conflict):
            for item in queue("invoices").take(client=client):
                item.done()

    def test_a_wrong_kind_is_refused_here(self):
        _, client = self.serve()
        with self.assertRaises(ValueError):
            next(queue("invoices").take(client=client)).fail(kind="technical")


class ClientTest(unittest.TestCase):
    def serve(self, script):
        self.server = Server(script)
        self.addCleanup(self.server.close)
        client = Client(self.server.url, "tok-123", "acme")
        self.addCleanup(client.close)
        self.pauses = []
        client._sleep = self.pauses.append
        client._random = lambda: 0.5
        return client

    def test_submit_and_wait_over_one_connection(self):
        client = self.serve({
            "POST /api/v1/tasks": [(201, {"id": "task_1", "state": "queued"})],
            "GET /api/v1/tasks/task_1/result": [problem("wait-timeout", 504), (202, {"state": "running"}), (200, {"total": 3})],
        })
        handle = client.submit("resize", {"w": 1}, delay="5m", priority="high", labels={"a": 1})
        self.assertEqual(handle.result(timeout=30), {"total": 3})
        method, path, headers, body, peer = self.server.requests[0]
        self.assertEqual((headers["Authorization"], headers["Tidewheel-Tenant"]), ("Bearer tok-123", "acme"))
        self.assertEqual(headers["Idempotency-Key"], body.pop("idempotency_key"))
        self.assertEqual(body, {"type": "resize", "input": {"w": 1}, "delay": "5m", "priority": "high", "labels": {"a": "1"}})
        self.assertRegex(self.server.requests[1][1], r"\?wait=\d+ms$")
        self.assertEqual(len({request[4] for request in self.server.requests}), 1)  # kept alive

    def test_busy_servers_are_asked_again_with_the_same_key(self):
        client = self.serve({"POST /api/v1/tasks": [
            (*problem("overloaded", 503, retryable=True), {"Retry-After": "2"}), problem("rate-limited", 429), "hang up", (201, {"id": "task_1"})]})
        self.assertEqual(client.submit("t").id, "task_1")
        self.assertEqual(len({request[2]["Idempotency-Key"] for request in self.server.requests}), 1)
        self.assertEqual(len(self.server.requests), 4)
        self.assertEqual(self.pauses[0], 2.05)  # not before Retry-After
        self.assertGreaterEqual(sum(self.pauses), 2.1)

    def test_patience_ends(self):
        client = self.serve({"POST /api/v1/tasks": [(*problem("overloaded", 503), {"Retry-After": "120"})]})
        with self.assertRaises(Overloaded) as caught:
            client.submit("t")
        self.assertEqual((caught.exception.retry_after, self.pauses), (120.0, []))
        client = self.serve({"GET /api/v1/tasks/t": [problem("unavailable", 503)]})
        with self.assertRaises(Overloaded):
            client.get("t")
        self.assertLess(sum(self.pauses), 60)

    def test_nobody_there(self):
        gone = Client("http://127.0.0.1:1", patience=0)
        with self.assertRaisesRegex(Unreachable, "http://127.0.0.1:1 does not answer"):
            gone.get("t")

    def test_a_connection_closed_while_idle_is_no_failure(self):
        client = self.serve({"GET /api/v1/tasks/t": [(200, {"id": "t"}), "hang up", (200, {"id": "t"})]})
        client.get("t")
        client.get("t")
        self.assertEqual(self.pauses, [])

    def test_problems_become_exceptions(self):
        cases = [
            (problem("invalid-field", 400, errors=[{"pointer": "/type", "detail": "is missing"}]), Invalid, "/type: is missing"),
            (problem("unauthenticated", 401), NotAllowed, "because"),
            (problem("not-found", 404), NotFound, "because"),
            (problem("idempotency-mismatch", 409), Conflict, "because"),
            ((500, b"<h1>oops</h1>", {"Content-Type": "text/html"}), TidewheelError, "oops"),
            ((400, b"{broken", {"Content-Type": "application/json"}), Invalid, "broken"),
        ]
        for answer, kind, text in cases:
            with self.subTest(answer), self.assertRaises(kind) as caught:
                self.serve({"GET /api/v1/tasks/t": [answer]}).get("t")
            self.assertIn(text, str(caught.exception))
        with self.assertRaisesRegex(TidewheelError, "not valid JSON"):
            self.serve({"GET /api/v1/tasks/t": [(200, b"{broken")]}).get("t")

    def test_a_task_that_failed_says_how(self):
        for state, kind in (("dead", TaskFailed), ("cancelled", Cancelled), ("expired", Timeout)):
            record = {"id": "t", "state": state, "error": {"type": "ValueError", "message": "no", "retryable": False}}
            client = self.serve({
                "GET /api/v1/tasks/t/result": [problem("conflict", 409)],
                "GET /api/v1/tasks/t": [(200, record)],
            })
            with self.assertRaises(kind):
                client.result("t")
            self.assertEqual(client.wait("t")["state"], state)

    def test_a_wait_that_runs_out(self):
        client = self.serve({"GET /api/v1/tasks/t/result": [problem("wait-timeout", 504)]})
        with self.assertRaisesRegex(Timeout, "it goes on"):
            client.result("t", timeout=0)
        with self.assertRaises(Timeout):
            client.wait("t", timeout=0)

    def test_results_that_are_bytes(self):
        client = self.serve({"GET /api/v1/tasks/t/result": [(200, b"\x00\xff", {"Content-Type": "application/octet-stream"})]})
        self.assertEqual(client.result("t"), b"\x00\xff")

    def test_many_tasks_in_few_requests(self):
        client = self.serve({"POST /api/v1/tasks:batch": [
            lambda request: (200, {"items": [{"status": 201, "id": f"task_{t['input']}"} for t in request[3]["tasks"]]})]})
        handles = client.submit_many([("t", i) for i in range(2500)], queue="q")
        self.assertEqual([h.id for h in handles], [f"task_{i}" for i in range(2500)])
        self.assertEqual([len(r[3]["tasks"]) for r in self.server.requests], [1000, 1000, 500])
        keys = {t["idempotency_key"] for r in self.server.requests for t in r[3]["tasks"]}
        self.assertEqual(len(keys), 2500)

    def test_many_tasks_with_keys(self):
        client = self.serve({"POST /api/v1/tasks:batch": [
            lambda request: (200, {"items": [{"status": 201, "id": "x"} for _ in request[3]["tasks"]]})] * 3})
        client.submit_many([("t", 1), {"type": "t", "idempotency_key": "own"}, ("t", 3)], idempotency_key="k")
        client.submit_many([("t", 1), ("t", 2)], idempotency_keys=["a", "b"])
        keys = [[t["idempotency_key"] for t in r[3]["tasks"]] for r in self.server.requests]
        self.assertEqual(keys, [["k:0", "own", "k:2"], ["a", "b"]])

    def test_items_without_room_are_sent_again_and_refused_ones_named(self):
        busy = {"status": 503, "problem": problem("overloaded", 503, retryable=True)[1]}
        wrong = {"status": 400, "problem": problem("invalid-field", 400)[1]}
        client = self.serve({"POST /api/v1/tasks:batch": [
            (200, {"items": [{"status": 201, "id": "a"}, busy, wrong]}), (200, {"items": [{"status": 201, "id": "b"}]})]})
        with self.assertRaises(PartlyRefused) as caught:
            client.submit_many([{"type": "t", "input": i, "key": "k"} for i in range(3)])
        self.assertEqual([h and h.id for h in caught.exception.handles], ["a", "b", None])
        self.assertIsInstance(caught.exception.problems[2], Invalid)
        first, second = (r[3]["tasks"] for r in self.server.requests)
        self.assertEqual(second[0], first[1])

    def test_lists_follow_the_cursor(self):
        client = self.serve({
            "GET /api/v1/tasks": [(200, {"items": [{"id": "a"}, {"id": "b"}], "next_cursor": "c+1"}), (200, {"items": [{"id": "c"}]})],
            "GET /api/v1/tasks/t/logs": [(200, {"items": [{"text": "x"}]})],
        })
        self.assertEqual([t["id"] for t in client.list(limit=2, state="queued")], ["a", "b", "c"])
        self.assertIn("cursor=c%2B1", self.server.requests[1][1])
        self.assertEqual(client.logs("t"), [{"text": "x"}])

    def test_actions(self):
        client = self.serve({
            "POST /api/v1/tasks/a%2Fb:cancel": [(200, {"state": "cancelled"})], "POST /api/v1/tasks/t:retry": [problem("conflict", 409)],
            "GET /api/v1/tasks/t/why": [(200, {"summary": "paused", "reasons": []})],
        })
        self.assertEqual(client.cancel("a/b", "why not")["state"], "cancelled")
        self.assertEqual(self.server.requests[0][3], {"reason": "why not"})
        with self.assertRaises(Conflict):
            client.retry("t")
        self.assertEqual(client.why("t")["summary"], "paused")

    def test_the_async_client_does_the_same(self):
        self.serve({
            "POST /api/v1/tasks": [(201, {"id": "t"})], "GET /api/v1/tasks/t/result": [(200, 7)], "GET /api/v1/tasks/t": [(200, {"state": "succeeded"})],
            "GET /api/v1/tasks": [(200, {"items": [{"id": "a"}]})],
        })

        async def main():
            async with AsyncClient(self.server.url, "tok") as client:
                one = await client.submit("t", 1)
                return await one.result(timeout=5), await one.status(), [t async for t in client.list()]

        self.assertEqual(asyncio.run(main()), (7, "succeeded", [{"id": "a"}]))

    def test_enqueue_outside_an_agent_uses_the_environment(self):
        @task(queue="q")
        def resize(width: int, key: str = "x") -> int:
            return width

        self.serve({
            "POST /api/v1/tasks": [(201, {"id": "t1"})],
            "POST /api/v1/tasks:batch": [(200, {"items": [{"id": "t2"}, {"id": "t3"}]})],
        })
        with mock.patch.object(handle, "_client", None), mock.patch.dict(os.environ, TIDEWHEEL_URL=self.server.url, TIDEWHEEL_TOKEN="tok"):
            self.assertEqual(resize.enqueue(5, key="param", delay="1s").id, "t1")
            body = self.server.requests[0][3]
            self.assertEqual((body["input"], body["delay"], "key" in body), ({"width": 5, "key": "param"}, "1s", False))
            self.assertEqual(resize.with_options(key="ordering").enqueue(5).id, "t1")
            self.assertEqual(self.server.requests[1][3]["key"], "ordering")
            self.assertEqual([h.id for h in resize.enqueue_many([(1,), {"width": 2}], priority=9)], ["t2", "t3"])
            handle._client.close()

    def test_without_a_server_the_message_says_what_to_set(self):
        with mock.patch.dict(os.environ, clear=True), self.assertRaisesRegex(TidewheelError, "TIDEWHEEL_URL is not set"):
            Client.from_env()

    def test_addresses_and_tokens_are_checked(self):
        for url in ("", "127.0.0.1", "ftp://x", "http://", "http://x/?a=b"):
            with self.subTest(url), self.assertRaises(ValueError):
                Client(url)
        with self.assertRaises(ValueError):
            Client("http://x", "token\r\nX-Evil: 1")
        client = Client("https://user:pw@x/prefix", "tok")
        self.assertEqual(repr(client), "Client('https://x')")


@workflow(namespace="shop", version="2")
def settle(order: str, rush: bool = False) -> dict:
    return {"order": order, "rush": rush}


@workflow(namespace="shop")
def starts_another(order: str) -> str:
    return settle.start(order).id


@task
def begin(order: str) -> dict:
    return settle.start(order, idempotency_key=f"settle-{order}").result(timeout=10)


class RunsTest(unittest.TestCase):
    """Runs of workflows, started and followed from outside."""

    def serve(self, script):
        self.server = Server(script)
        self.addCleanup(self.server.close)
        client = Client(self.server.url, "tok-123")
        self.addCleanup(client.close)
        client._sleep = lambda _: None
        return client

    def test_a_run_is_started_and_waited_for(self):
        record = {"id": "run_1", "phase": "waiting"}
        client = self.serve({
            "POST /api/v1/runs": [(201, record)],
            "GET /api/v1/runs/run_1": [(200, record), (200, {**record, "phase": "completed", "output": {"sum": 3}})],
        })
        run = client.start_run("shop/order", {"id": 7}, correlation_id="c", idempotency_key="order-7")
        self.assertEqual((run.id, run.result(timeout=30)), ("run_1", {"sum": 3}))
        _, _, headers, body, _ = self.server.requests[0]
        self.assertEqual(headers["Idempotency-Key"], "order-7")
        self.assertEqual(body, {"workflow": "shop/order", "input": {"id": 7}, "correlation_id": "c"})
        self.assertRegex(self.server.requests[1][1], r"\?wait=\d+ms$")
        client.start_run("shop/order:1.2.0")
        self.assertEqual(self.server.requests[-1][3], {"workflow": "shop/order", "version": "1.2.0", "input": {}})

    def test_a_function_gives_its_name_its_version_and_its_arguments(self):
        client = self.serve({"POST /api/v1/runs": [(201, {"id": "run_1"})]})
        for given in ("a-1", ("a-1",), {"order": "a-1"}):
            client.start_run(settle, given)
            self.assertEqual(self.server.requests[-1][3], {"workflow": "shop/settle", "version": "2.0.0", "input": {"order": "a-1"}})
        with mock.patch.object(handle, "_client", client):
            settle.with_options(version="latest").start("a-1", rush=True, correlation_id="c")
        self.assertEqual(self.server.requests[-1][3], {
            "workflow": "shop/settle", "version": "latest", "input": {"order": "a-1", "rush": True}, "correlation_id": "c"})

    def test_what_cannot_be_a_start_is_refused_here(self):
        client = self.serve({})
        for workflow_name in ("order", "shop/", "a/b/c", 7):
            with self.subTest(workflow_name), self.assertRaisesRegex(ValueError, "namespace/name"):
                client.start_run(workflow_name)
        for key in ("", "schl\u00fcssel", "a\nb", "x" * 300):
            with self.subTest(key), self.assertRaises(ValueError):
                client.start_run("shop/order", idempotency_key=key)
        with self.assertRaises(TypeError):
            settle.with_options(priority=9)
        with self.assertRaises(TypeError):
            settle.start("a", nothing=1)
        self.assertEqual(self.server.requests, [])

    def test_the_end_of_a_run_says_how_it_ended(self):
        error = {"type": "https://acme.example/errors/none", "status": 418, "title": "Teapot", "detail": "no tea", "instance": "/do/0/pour"}
        client = self.serve({
            "GET /api/v1/runs/f": [(200, {"id": "f", "phase": "faulted", "error": error})],
            "GET /api/v1/runs/t": [(200, {"id": "t", "phase": "faulted", "error": {"type": "x/timeout", "status": 408, "detail": "late"}})],
            "GET /api/v1/runs/c": [(200, {"id": "c", "phase": "cancelled", "reason": "no more"})],
            "GET /api/v1/runs/w": [(200, {"id": "w", "phase": "waiting"})],
        })
        with self.assertRaisesRegex(TaskFailed, "no tea") as caught:
            client.run("f").result()
        self.assertEqual((caught.exception.type, caught.exception.status, caught.exception.instance), (error["type"], 418, "/do/0/pour"))
        self.assertEqual(client.run("f").wait()["phase"], "faulted")
        with self.assertRaisesRegex(Timeout, "late"):
            client.run("t").result()
        with self.assertRaisesRegex(Cancelled, "no more"):
            client.run("c").result()
        with self.assertRaisesRegex(Timeout, "it goes on"):
            client.run("w").result(timeout=0)

    def test_a_large_output_is_fetched(self):
        apart = {"$ref": "sha256:" + "0" * 64, "size": 100_000}
        client = self.serve({
            "GET /api/v1/runs/r": [(200, {"id": "r", "phase": "completed", "output": apart})],
            "GET /api/v1/blobs/sha256:" + "0" * 64: [(200, b'{"rows":[1,2]}', {"Content-Type": "application/octet-stream"})],
        })
        self.assertEqual(client.run("r").result(), {"rows": [1, 2]})

    def test_signals_promises_and_actions(self):
        record = (200, {"id": "r", "phase": "waiting"})
        client = self.serve({
            "POST /api/v1/runs/r/signals/order%3Apaid": [record], "POST /api/v1/runs/r/promises/an%2Fswer": [record] * 3,
            "POST /api/v1/runs/r:cancel": [record], "POST /api/v1/runs/r:retry": [problem("conflict", 409)],
            "GET /api/v1/runs/r/why": [(200, {"summary": "it waits", "reasons": []})],
            "GET /api/v1/runs/r/logs": [(200, {"items": [{"text": "a"}], "next_cursor": "7"}), (200, {"items": []})],
            "GET /api/v1/runs": [(200, {"items": [{"id": "r"}]})],
            "GET /api/v1/runs/r/journal": [(200, {"items": [{"key": "/run:#0"}]})],
        })
        run = client.run("r")
        run.signal("order:paid", {"sum": 5}, id="payment-77")
        self.assertEqual(self.server.requests[-1][3], {"data": {"sum": 5}, "id": "payment-77"})
        run.complete("an/swer", 42)
        body = self.server.requests[-1][3]
        self.assertEqual((body["value"], sorted(body)), (42, ["id", "value"]))
        run.complete("an/swer", error={"detail": "no", "status": 422})
        body = self.server.requests[-1][3]
        self.assertEqual((body["error"], sorted(body)), ({"detail": "no", "status": 422}, ["error", "id"]))
        asyncio.run(AsyncClient(self.server.url).run("r").complete("an/swer", error="no"))
        self.assertEqual(self.server.requests[-1][3]["error"], "no")
        with self.assertRaisesRegex(ValueError, "a value or with an error"):
            run.complete("an/swer", 1, error="no")
        with self.assertRaisesRegex(ValueError, "Client.complete_promise"):
            run.complete("twp_0400")
        run.cancel("wrong input")
        self.assertEqual(self.server.requests[-1][3], {"reason": "wrong input"})
        with self.assertRaises(Conflict):
            run.retry()
        self.assertEqual((run.why()["summary"], run.logs()), ("it waits", [{"text": "a"}]))
        self.assertEqual([r["id"] for r in client.runs(phase="faulted", workflow="shop/order")], ["r"])
        self.assertIn("phase=faulted", self.server.requests[-1][1])
        self.assertEqual([e["key"] for e in client.run_journal("r")], ["/run:#0"])

    def test_a_promise_is_completed_by_its_token_alone(self):
        from tidewheel._promise import run_of, token

        head = bytes([1, 0, 0, 0, 7]) + bytes(range(16))
        text = token(head + bytes(32), "/promise:answer#0")
        path = f"POST /api/v1/runs/{run_of(head)}/promises/{text}"
        client = self.serve({path: [(204, None), (204, None), (204, None), problem("conflict", 409)]})
        client._headers["Tidewheel-Tenant"] = "acme"
        client.complete_promise(text, {"approved": True})
        _, _, headers, body, _ = self.server.requests[-1]
        self.assertEqual(body, {"value": {"approved": True}})
        self.assertFalse({"Authorization", "Tidewheel-Tenant", "Idempotency-Key"} & set(headers))
        client.complete_promise(text, error="rejected")
        self.assertEqual(self.server.requests[-1][3], {"error": "rejected"})
        asyncio.run(AsyncClient(self.server.url).complete_promise(text))
        self.assertEqual(self.server.requests[-1][3], {"value": None})
        with self.assertRaises(Conflict):
            client.complete_promise(text, 2)
        with self.assertRaisesRegex(ValueError, "no token of a promise"):
            client.complete_promise("answer", 1)
        with self.assertRaises(ValueError):
            client.complete_promise(text, 1, error="no")

    def test_a_workflow_cannot_start_runs_behind_its_journal(self):
        from tidewheel.testing import run

        outcome = run(starts_another, "a")
        self.assertEqual(outcome.phase, "failed")
        self.assertIn("submit()", str(outcome.error))

    def test_a_task_starts_a_run_in_the_test_kit(self):
        from tidewheel.testing import mock_run

        outcome = mock_run(begin, "a-1", results={settle: {"order": "a-1"}})
        self.assertEqual(outcome.unwrap(), {"order": "a-1"})
        self.assertEqual(outcome.started, [{"workflow": "shop/settle", "version": "2.0.0", "input": {"order": "a-1"}}])
        outcome = mock_run(begin, "a-1")
        self.assertIn("results={'shop/settle'", str(outcome.error))

    def test_the_async_client_does_the_same(self):
        self.serve({
            "POST /api/v1/runs": [(201, {"id": "r"})], "GET /api/v1/runs/r": [(200, {"id": "r", "phase": "completed", "output": 7})],
            "GET /api/v1/runs": [(200, {"items": [{"id": "r"}]})], "POST /api/v1/runs/r/signals/go": [(200, {"id": "r"})],
        })

        async def main():
            async with AsyncClient(self.server.url, "tok") as client:
                run = await client.start_run("shop/order", {"id": 7})
                await run.signal("go", 1)
                return await run.result(timeout=5), await client.run("r").phase(), [r["id"] async for r in client.runs()]

        self.assertEqual(asyncio.run(main()), (7, "completed", ["r"]))


if __name__ == "__main__":
    unittest.main()
