"""The shim as a real process, spoken to over a socket pair."""

import support  # noqa: F401
import collections
import os
import signal
import socket
import struct
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from agent import Agent, frame
from tidewheel._shim.serial import SerialLoop


class Tasks(unittest.TestCase):
    """What one worker process does with starts; one process serves the whole class."""

    @classmethod
    def setUpClass(cls):
        cls.agent = Agent()

    @classmethod
    def tearDownClass(cls):
        cls.agent.__exit__()

    count = 0

    def run_task(self, fn, input=None, raw=None, **ctx):
        Tasks.count += 1
        lease = f"l{Tasks.count}"
        self.agent.start(lease, fn, input, raw, **ctx)
        return self.agent.done(lease)

    def fails(self, fn, input, type, message, retryable):
        done = self.run_task(fn, input)
        self.assertIs(done["ok"], False)
        error = done["error"]
        self.assertEqual((error["type"], error["retryable"]), (type, retryable), error)
        self.assertIn(message, error["message"])
        return error

    def test_hello_names_the_functions(self):
        hello = self.agent.hello
        self.assertEqual((hello["t"], hello["proto"], hello["sdk"]), ("hello", 1, "0.1.0"))
        self.assertEqual(hello["python"], "%d.%d.%d" % sys.version_info[:3])
        self.assertEqual(hello["pid"], self.agent.process.pid)
        self.assertIn("shop:add", hello["fns"])
        # Schemas belong to the package and were read when it was built: a new process does not spend its start on them.
        self.assertNotIn("manifest", hello)

    def test_inputs_by_name_by_position_and_typed(self):
        self.assertEqual(self.run_task("add", {"a": 1, "b": 5})["value"], 6)
        self.assertEqual(self.run_task("add", [4])["value"], 5)
        self.assertEqual(self.run_task("add", 4)["error"]["type"], "InputError")
        self.assertIsNone(self.run_task("noop")["value"])
        self.assertEqual(self.run_task("place", {"order": {"customer": "a"}})["value"], {"customer": "A", "amount": 2})
        self.assertEqual(self.run_task("echo", "bare ä\u0000")["value"], "bare ä\u0000")

    def test_a_wrong_input_fails_for_good_and_names_the_field(self):
        self.fails("place", {"order": {"customer": 7}}, "InputError", "input.order.customer: expected string, got integer", False)
        self.fails("add", {"a": 1, "c": 2}, "InputError", "input.c: unknown field", False)

    def test_bytes_travel_raw(self):
        done = self.run_task("raw", raw=b"\x00\x01\xff")
        self.assertEqual(done["raw"], b"\xff\x01\x00")
        self.assertIs(done["ok"], True)
        self.assertEqual(self.run_task("raw", {"data": "AAH/"})["raw"], b"\xff\x01\x00")

    def test_failures(self):
        error = self.fails("fail", "value", "ValueError", "no\\ud800 good", False)  # the policy retries OSError only
        self.assertIn("shop.py", error["traceback"])
        self.assertNotIn("_shim", error["traceback"])
        self.fails("fail", "os", "ConnectionResetError", "gone", True)
        self.fails("fail", "own", "TaskFailed", "never again", False)
        self.fails("fail", "exit", "SystemExit", "sys.exit(3)", False)
        self.fails("fail", "interrupt", "KeyboardInterrupt", "interrupted", False)
        self.fails("fail", "memory", "MemoryError", "", False)
        self.fails("fail", "deep", "RecursionError", "recursion", False)
        self.fails("fail", "str", "Rude", "its __str__ raised RuntimeError", False)
        error = self.fails("fail", "long", "OSError", "xxx", True)
        self.assertLessEqual(len(error["message"].encode()), 64 * 1024)
        self.assertLessEqual(len(error["traceback"].encode()), 64 * 1024)
        self.fails("nothing", None, "UnknownFunction", "shop:nothing", False)
        self.assertEqual(self.run_task("add", [1])["value"], 2)  # and it goes on

    def test_results_that_cannot_be_sent(self):
        self.fails("result", "object", "ResultError", "result.rows[1]: object has no JSON form", False)
        self.fails("result", "nan", "ResultError", "result.mean: nan", False)
        self.fails("result", "cycle", "ResultError", "nested deeper", False)
        self.fails("result", "surrogate", "ResultError", "result.a[0]", False)
        self.fails("result", "large", "ResultError", "over the bound of 16777216", False)

    def test_coroutines_run(self):
        self.assertEqual(self.run_task("nap", 0.001)["value"], f"awake in task_l{Tasks.count}")

    def test_a_forked_child_says_nothing(self):
        self.agent.start("fork", "fork")
        frames = [self.agent.receive()]
        while frames[-1]["t"] != "task_done":
            frames.append(self.agent.receive())
        self.assertEqual([f["t"] for f in frames], ["started", "task_done"])
        self.assertEqual(frames[-1]["value"], "parent")

    @unittest.skipUnless(os.path.isdir("/proc/self/task"), "children are listed under /proc")
    def test_children_that_a_task_leaves_are_told_before_its_result(self):
        with Agent() as agent:
            agent.start("one", "leave_child")
            self.assertEqual(agent.receive()["t"], "started")
            self.assertEqual(agent.receive(), {"t": "left", "count": 1})
            pid = agent.done("one")["value"]
            os.kill(pid, signal.SIGKILL)
            while b") Z " not in Path(f"/proc/{pid}/stat").read_bytes():
                time.sleep(0.001)
            # What has ended is not told, whether somebody waited for it or not.
            agent.start("two", "add", {"a": 1})
            self.assertEqual([agent.receive()["t"] for _ in range(2)], ["started", "task_done"])

    def test_a_child_may_fork_again(self):
        self.assertEqual(self.run_task("fork_twice")["value"], 7)

    def test_many_starts_are_answered_in_order(self):
        self.agent.sock.sendall(b"".join(
            frame({"t": "task_start", "lease": f"many{i}", "fn": "shop:echo", "input": {"value": i}}) for i in range(500)))
        for i in range(500):
            done = self.agent.until("task_done")
            self.assertEqual((done["lease"], done["value"]), (f"many{i}", i))

    def test_a_frame_may_come_in_pieces(self):
        data = frame({"t": "task_start", "lease": "bits", "fn": "shop:add", "input": [1]})
        for byte in data:
            self.agent.sock.sendall(bytes([byte]))
        self.assertEqual(self.agent.done("bits")["value"], 2)

    def test_a_large_input_and_result(self):
        text = "x" * (8 * 1024 * 1024)
        self.assertEqual(self.run_task("echo", text)["value"], text)


class Asking(unittest.TestCase):
    """Tasks that wait for an answer of the agent. Each test has its own process: a failed one leaves a task waiting."""

    def setUp(self):
        self.agent = Agent()
        self.addCleanup(self.agent.__exit__)

    def test_a_context_tells_and_asks(self):
        agent = self.agent
        agent.start("ctx", "tell", attempt=2, labels={"a": "b"}, idempotency_key="idem", correlation_id="corr", deadline_ms=1_700_000_000_000)
        log = agent.until("log")
        self.assertEqual((log["lease"], log["level"], log["msg"], log["fields"]["pages"]), ("ctx", "warning", "odd", 10))
        self.assertIn("object", log["fields"]["who"])
        progress = agent.until("progress")
        self.assertEqual((progress["fraction"], progress["text"]), (0.25, "a quarter"))
        artifact = agent.until("artifact")
        self.assertEqual((artifact["name"], artifact["size"], artifact["content_type"], artifact["owned"]), ("out/table.csv", 8, "text/csv", True))
        with open(artifact["path"], "rb") as file:
            self.assertEqual(file.read(), b"a,b\n1,2\n")
        os.unlink(artifact["path"])
        asked = agent.until("enqueue")
        body = asked["items"][0]
        self.assertEqual((body["type"], body["input"], body["key"], body["delay"], body["queue"]), ("add", {"a": 1, "b": 2}, "k", "5m", "math"))
        self.assertEqual((body["correlation_id"], len(body["idempotency_key"])), ("corr", 32))
        agent.send({"t": "enqueued", "req": asked["req"], "ids": ["task_child"], "later": "fields are ignored"})
        asked = agent.until("asset")
        self.assertEqual((asked["lease"], asked["name"]), ("ctx", "erp"))
        agent.send({"t": "asset_value", "req": asked["req"], "value": {"password": "hunter22"}})
        asked = agent.until("handle")
        self.assertEqual((asked["op"], asked["id"]), ("status", "task_child"))
        agent.send({"t": "handle_reply", "req": asked["req"], "body": {"state": "running"}})
        asked = agent.until("handle")
        self.assertEqual(asked["op"], "result")
        self.assertLessEqual(asked["timeout_ms"], 5000)
        agent.send({"t": "handle_reply", "req": asked["req"], "problem": {"code": "wait-timeout", "status": 504}})
        asked = agent.until("handle")  # not yet: it asks again
        agent.send({"t": "handle_reply", "req": asked["req"], "body": {"state": "succeeded", "result": 3}})
        value = agent.done("ctx")["value"]
        self.assertEqual(value, {
            "id": "task_ctx", "attempt": 2, "queue": "default", "labels": {"a": "b"}, "key": "idem:x", "correlation": "corr",
            "deadline": "2023-11-14T22:13:20+00:00", "child": "task_child", "secret": "Secret(***)", "state": "running", "value": 3,
        })

    def test_a_released_value_stays_out_of_logs_and_errors(self):
        self.agent.start("leak", "leak", "erp")
        asked = self.agent.until("asset")
        self.agent.send({"t": "asset_value", "req": asked["req"], "value": {"password": "hunter22"}})
        log = self.agent.until("log")
        done = self.agent.done("leak")
        self.assertNotIn("hunter22", str(log) + str(done))
        self.assertEqual(done["error"]["message"], "cannot log in with ***")

    def test_a_refused_asset_raises_not_allowed(self):
        self.agent.start("no", "leak", "erp")
        asked = self.agent.until("asset")
        self.agent.send({"t": "asset_value", "req": asked["req"], "problem": {"code": "not-allowed", "status": 403, "detail": "no asset erp here"}})
        error = self.agent.done("no")["error"]
        self.assertEqual((error["type"], error["message"], error["retryable"]), ("NotAllowed", "no asset erp here", False))

    def test_items_of_queues_are_added_taken_and_settled_through_the_agent(self):
        agent = self.agent
        agent.start("items", "work_off", "in voices", correlation_id="corr")

        def asked(op: str, body=None, problem=None):
            message = agent.until("handle")
            self.assertEqual((message["op"], message["queue"]), (op, "in voices"))
            answer = {"problem": problem} if problem else {"body": body}
            agent.send({"t": "handle_reply", "req": message["req"], **answer})
            return message

        added = asked("add_item", {"id": "task_i"})["body"]
        self.assertEqual((added["input"], added["priority"], added["labels"], added["correlation_id"]), ({"n": 1}, 7, {"a": "b"}, "corr"))
        self.assertEqual(len(added["idempotency_key"]), 32)
        # A long wait is asked for in pieces.
        took = asked("take_items", {"items": []})
        self.assertEqual((took["body"], took["timeout_ms"]), ({"lease": "10m", "max": 1, "wait": "5000ms"}, 5000))
        for n in (1, 2, 3):
            asked("take_items", {"items": [{"id": f"task_{n}", "token": f"t{n}", "queue": "in voices", "input": {"n": n}, "attempt": 1}]})
            if n == 1:
                renewed = asked("settle_item", {"leased_until": "2030-01-01T00:00:00Z"})
                self.assertEqual((renewed["verb"], renewed["id"], renewed["body"]), ("renew", "task_1", {"token": "t1"}))
                done = asked("settle_item", {})
                self.assertEqual((done["verb"], done["body"]), ("done", {"token": "t1", "result": {"booked": True}}))
            elif n == 2:
                failed = asked("settle_item", {})
                self.assertEqual((failed["verb"], failed["body"]["kind"], failed["body"]["message"]), ("fail", "business", "no such customer"))
            else:
                # Nothing was said of it: it goes back, and that somebody else has it already is no error of the task.
                forgotten = asked("settle_item", problem={"code": "conflict", "status": 409, "detail": "no longer yours"})
                self.assertEqual((forgotten["verb"], forgotten["body"]["type"]), ("fail", "Unsettled"))
        self.assertEqual(agent.done("items")["value"], ["task_i", "task_1", "task_2", "task_3"])

    def test_a_refused_take_raises_in_the_task(self):
        self.agent.start("no", "work_off", "closed")
        for problem in ({"code": "not-allowed", "status": 403, "detail": "this agent is bound to other queues"},):
            message = self.agent.until("handle")
            self.agent.send({"t": "handle_reply", "req": message["req"], "problem": problem})
        error = self.agent.done("no")["error"]
        self.assertEqual((error["type"], error["message"], error["retryable"]), ("NotAllowed", "this agent is bound to other queues", False))

    def test_a_cancelled_task_stops_waiting_for_items(self):
        self.agent.start("stop", "work_off", "empty")
        message = self.agent.until("handle")
        self.agent.send({"t": "handle_reply", "req": message["req"], "body": {"id": "task_i"}})
        message = self.agent.until("handle")
        self.agent.send({"t": "cancel", "lease": "stop", "reason": "asked"})
        self.agent.send({"t": "handle_reply", "req": message["req"], "body": {"items": []}})
        self.assertTrue(self.agent.done("stop")["error"]["type"] == "Cancelled")

    def test_a_thread_of_the_task_reaches_the_agent(self):
        self.agent.start("thread", "in_thread")
        asked = self.agent.until("enqueue")
        self.agent.send({"t": "enqueued", "req": asked["req"], "ids": ["task_t"]})
        self.assertEqual(self.agent.done("thread")["value"], ["task_t"])


class Batches(unittest.TestCase):
    def test_one_failing_member_fails_alone(self):
        with Agent() as agent:
            inputs = [{"customer": "a", "amount": 5}, {"customer": "bad"}, {"customer": 7}, {"customer": "b", "amount": 6}]
            agent.send({"t": "batch_start", "lease": "whole", "fn": "shop:invoices", "items": [
                {"lease": f"m{i}", "input": value, "ctx": {"task_id": f"t{i}"}} for i, value in enumerate(inputs)]})
            frames, done = [], {}
            while len(done) < 4:
                frames.append(agent.receive())
                if frames[-1]["t"] == "task_done":
                    done[frames[-1]["lease"]] = frames[-1]
            self.assertEqual([done["m0"].get("value"), done["m3"].get("value")], [5, 6])
            self.assertEqual(done["m1"]["error"]["message"], "bad is blocked")
            self.assertEqual(done["m2"]["error"]["message"], "input.customer: expected string, got integer")
            self.assertEqual([f["lease"] for f in frames if f["t"] == "log"], ["m0", "m1", "m3"])

    def test_a_batch_of_another_length_fails_whole(self):
        with Agent() as agent:
            agent.send({"t": "batch_start", "lease": "w", "fn": "shop:short", "items": [{"lease": "x", "input": 1}, {"lease": "y", "input": 2}]})
            for lease in ("x", "y"):
                self.assertIn("list of 2 results, got 1 results", agent.done(lease)["error"]["message"])

    def test_a_single_start_of_a_batch_task_is_a_batch_of_one(self):
        with Agent() as agent:
            agent.start("one", "invoices", {"customer": "a", "amount": 9})
            self.assertEqual(agent.done("one")["value"], 9)


class Cancelling(unittest.TestCase):
    def test_a_running_task_learns_of_it(self):
        with Agent() as agent:
            for how, kind in (("ask", None), ("raise", "Cancelled")):
                agent.start(how, "wait_for_cancel", how)
                agent.until("log")
                agent.send({"t": "cancel", "lease": how, "reason": "by an operator", "grace_ms": 1000})
                done = agent.done(how)
                if kind is None:
                    self.assertEqual(done["value"], "stopped")
                else:
                    error = done["error"]
                    self.assertEqual((error["type"], error["message"], error["retryable"]), (kind, "by an operator", False))

    def test_a_coroutine_that_waits_is_woken(self):
        with Agent() as agent:
            agent.start("nap", "nap", 60)
            agent.until("log")
            agent.send({"t": "cancel", "lease": "nap", "reason": "enough", "grace_ms": 0})
            error = agent.done("nap")["error"]
            self.assertEqual((error["type"], error["message"]), ("Cancelled", "enough"))
            agent.start("again", "nap", 0)  # the loop lives on
            self.assertTrue(agent.done("again")["ok"])

    def test_a_task_that_waits_behind_another_never_starts(self):
        with Agent() as agent:
            agent.start("first", "wait_for_cancel", "ask")
            agent.start("second", "echo", 1)
            agent.until("log")
            agent.send({"t": "cancel", "lease": "second", "reason": "too late"})
            agent.send({"t": "cancel", "lease": "first", "reason": ""})
            agent.send({"t": "cancel", "lease": "unknown", "reason": ""})
            self.assertEqual(agent.done("first")["value"], "stopped")
            self.assertEqual(agent.done("second")["error"]["message"], "too late")

    def test_frames_leave_while_a_task_runs(self):
        with Agent() as agent:
            agent.start("a", "noop")
            agent.start("b", "noop")
            agent.start("long", "wait_for_cancel", "ask")
            agent.done("b")  # without waiting for the long one
            agent.until("log", "long")
            agent.send({"t": "cancel", "lease": "long", "reason": ""})
            agent.done("long")


class Process(unittest.TestCase):
    def test_a_recall_gives_back_what_has_not_begun(self):
        with Agent() as agent, tempfile.TemporaryDirectory() as folder:
            flag = os.path.join(folder, "flag")
            agent.start("a", "wait_for", {"path": flag})
            for lease in "bcde":
                agent.start(lease, "echo", {"value": lease})
            agent.until("started", "a")
            agent.send({"t": "cancel", "lease": "c", "reason": "no longer"})
            agent.send({"t": "recall", "leases": ["e", "a", "c", "x", "b"]})
            self.assertEqual(agent.until("recalled")["leases"], ["b", "c", "e"])  # while the first one runs
            agent.start("f", "echo", {"value": 6})
            with open(flag, "w"):
                pass
            rest = agent.drain()
            ended = [(f["lease"], f["ok"]) for f in rest if f["t"] == "task_done"]
            self.assertEqual(ended, [("a", True), ("d", True), ("f", True)])

    def test_starts_that_the_watcher_read_are_not_left_lying(self):
        """The watcher may read a start just before the main thread takes the lock back; nothing would announce it again."""
        session, order = mock.Mock(inbox=collections.deque(), draining=True), []
        session.run.side_effect = order.append
        loop = SerialLoop(session)

        def read(wait):
            if wait:
                raise AssertionError("waits although there is work")
            if not order:
                session.inbox.append("a start")
            return False

        with mock.patch.object(loop, "_read", read), mock.patch.object(loop, "_watch"):
            loop.serve()
        self.assertEqual(order, ["a start"])

    def test_drain_finishes_what_came(self):
        with Agent() as agent:
            for i in range(100):
                agent.start(f"d{i}", "echo", i)
            rest = agent.drain()
            self.assertEqual(sum(f["t"] == "task_done" for f in rest), 100)
            self.assertEqual(agent.wait(), 0)

    def test_it_ends_when_the_agent_is_gone(self):
        with Agent() as agent:
            agent.sock.close()
            self.assertEqual(agent.wait(), 0)
        with Agent() as agent:
            agent.start("long", "wait_for_cancel", "ask")
            agent.until("log")
            agent.sock.close()
            self.assertEqual(agent.wait(), 0)

    def test_a_task_that_kills_the_process_only_kills_it(self):
        with Agent() as agent:
            agent.start("x", "fail", "kill")
            with self.assertRaises((EOFError, ConnectionResetError)):
                agent.done("x")
            self.assertEqual(agent.wait(), 9)

    def test_output_keeps_its_place(self):
        with Agent() as agent:
            agent.start("p", "print_things", "line ä \ud800")
            agent.done("p")
            # Written before task_done was sent, so it is there now.
            self.assertEqual(os.read(agent.process.stdout.fileno(), 1000), "line ä \\ud800\n".encode())
            self.assertEqual(os.read(agent.process.stderr.fileno(), 1000), b"no newline")
            agent.start("c", "close_stdout")
            self.assertTrue(agent.done("c")["ok"])
            agent.start("q", "print_things", "next")  # the neighbour is not affected
            self.assertTrue(agent.done("q")["ok"])
            self.assertEqual(os.read(agent.process.stdout.fileno(), 1000), b"next\n")
            agent.start("s", "shell", "from a child")
            agent.until("started", "s")
            agent.done("s")
            self.assertEqual(os.read(agent.process.stdout.fileno(), 1000), b"from a child\n")

    def test_an_idle_worker_uses_no_time(self):
        with Agent() as agent:
            agent.start("a", "noop")
            agent.done("a")
            self.assertLess(self.cpu_of(agent.process.pid, 1.6), 0.2)
            agent.start("b", "wait_for_cancel", "ask")  # the sleeping watcher wakes up
            agent.until("log")
            agent.send({"t": "cancel", "lease": "b", "reason": ""})
            agent.done("b")

    def cpu_of(self, pid, seconds):
        """Processor time used while nothing is asked; the wait is the measurement."""
        def used():
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        if not os.path.exists(f"/proc/{pid}/stat"):
            self.skipTest("no /proc")
        before = used()
        time.sleep(seconds)
        return used() - before

    def test_bad_frames_end_it_with_a_reason(self):
        cases = {
            "unknown message type": frame({"t": "dance"}),
            "unknown codec 9": struct.pack(">IB", 3, 9) + b"{}",
            "not JSON": struct.pack(">IB", 3, 0) + b"{x",
            "not usable": struct.pack(">IB", 3, 0) + b"\xff\xfe",
            "not one JSON object": struct.pack(">IB", 3, 0) + b"[]",
            "a frame of 16777217 bytes": struct.pack(">IB", 16777217, 0),
            "a frame of 0 bytes": struct.pack(">IB", 0, 0),
            "header is longer": struct.pack(">IBI", 7, 1, 100) + b"{}",
            "without its header length": struct.pack(">IB", 3, 1) + b"{}",
            "without lease": frame({"t": "task_start"}),
            "without its items": frame({"t": "batch_start", "items": [1]}),
            "NaN is not JSON": struct.pack(">IB", 15, 0) + b'{"t":"x","v":NaN}'[:14],
        }
        for reason, data in cases.items():
            with self.subTest(reason), Agent() as agent:
                if reason.startswith("NaN"):
                    text = b'{"t":"drain","v":NaN}'
                    data = struct.pack(">IB", len(text) + 1, 0) + text
                agent.sock.sendall(data)
                self.assertIn(reason, agent.until("fatal")["msg"])
                self.assertEqual(agent.wait(), 70)

    def test_a_broken_protocol_is_seen_while_a_task_runs(self):
        with Agent() as agent:
            agent.start("long", "wait_for_cancel", "ask")
            agent.until("log")
            agent.send({"t": "dance"})
            agent.until("fatal")
            self.assertEqual(agent.wait(), 70)

    def test_an_interrupt_of_an_idle_worker_ends_it(self):
        with Agent() as agent:
            agent.process.send_signal(signal.SIGINT)
            self.assertEqual(agent.wait(), 130)


class Slots(unittest.TestCase):
    def test_tasks_run_side_by_side(self):
        with Agent(slots=3) as agent:
            agent.start("a", "meet", "a")
            agent.start("b", "meet", "b")  # each waits for the other
            done = {f["lease"]: f["value"] for f in (agent.until("task_done"), agent.until("task_done"))}
            self.assertEqual(done, {"a": "a", "b": "b"})

    def test_asking_cancelling_and_draining(self):
        with Agent(slots=3) as agent:
            agent.start("sync", "wait_for_cancel", "raise")
            agent.start("nap", "nap", 60)
            agent.start("ask", "in_thread")
            asked = agent.until("enqueue")
            agent.send({"t": "enqueued", "req": asked["req"], "ids": ["task_t"]})
            self.assertEqual(agent.done("ask")["value"], ["task_t"])
            agent.send({"t": "drain"})
            agent.send({"t": "cancel", "lease": "sync", "reason": "r"})
            agent.send({"t": "cancel", "lease": "nap", "reason": "r"})
            done = {}
            while len(done) < 2:
                message = agent.until("task_done")
                done[message["lease"]] = message["error"]["type"]
            self.assertEqual(done, {"sync": "Cancelled", "nap": "Cancelled"})
            self.assertEqual(agent.wait(), 0)

    def test_it_ends_when_the_agent_is_gone(self):
        with Agent(slots=2) as agent:
            agent.start("long", "wait_for_cancel", "ask")
            agent.until("log")
            agent.sock.close()
            self.assertEqual(agent.wait(), 0)


if __name__ == "__main__":
    unittest.main()
