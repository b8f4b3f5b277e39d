"""Workflows in the shim as a real process."""

import support  # noqa: F401
import os
import random
import tempfile
import unittest

from agent import Agent
from flows import Run


class ShimRun(Run):
    """A run whose activations a shim does."""

    def __init__(self, agent, workflow_ref, fn, input):
        class Named:
            ref = workflow_ref

        super().__init__(Named, input, once=self._activate)
        self.agent = agent
        self.fn = fn
        self.frames = []

    def _activate(self, body):
        lease = f"{self.fn}-{len(self.turns)}-{len(self.frames)}"
        self.agent.send({"t": "task_start", "lease": lease, "fn": self.fn, "input": body, "ctx": {"task_id": "task_1", "attempt": 1}})
        while True:
            frame = self.agent.receive()
            self.frames.append(frame)
            if frame["t"] == "task_done":
                self.last = frame
                return frame.get("value") or {"commands": []}


class Workflows(unittest.TestCase):
    def test_a_run_goes_through_its_turns_in_one_process(self):
        with Agent(modules="orders") as agent:
            self.assertIn("orders:buy_item", agent.hello["fns"])
            run = ShimRun(agent, "shop/buy-item:2.0.0", "orders:buy_item", {"item": "pen", "count": 2})
            out = run.turn()
            self.assertEqual(out["commands"][0]["args"], {"item": "pen"})
            out = run.turn(("/task:price#0", 3))
            self.assertTrue(out["again"])
            self.assertEqual(out["commands"][0]["value"], "pen:run_1:/step:receipt#0")
            out = run.turn(("/step:receipt#0", "r"))
            self.assertEqual(out["wait"], [{"mode": "all", "keys": ["/sleep:#0"]}])
            # Without what happened before, which it knows.
            out = run.turn(("/sleep:#0", None), first=4)
            self.assertEqual(out["end"], {"ok": {"total": 6, "receipt": "r"}})
            logs = [frame for frame in run.frames if frame["t"] == "log"]
            self.assertEqual([line["msg"] for line in logs], ["buying"])
            agent.drain()
            self.assertEqual(agent.process.stdout.read(), b"begin\npriced\nin the step\n")

    def test_another_process_replays_without_repeating_what_was_printed(self):
        with Agent(modules="orders") as first:
            run = ShimRun(first, "shop/buy-item:2.0.0", "orders:buy_item", {"item": "pen"})
            run.turn()
            run.turn(("/task:price#0", 3))
        with Agent(modules="orders") as second:
            run.agent = second
            out = run.turn(("/step:receipt#0", "r"))
            self.assertEqual(out["wait"], [{"mode": "all", "keys": ["/sleep:#0"]}])
            second.drain()
            self.assertEqual(second.process.stdout.read(), b"")
        self.assertEqual(sum(frame["t"] == "log" for frame in run.frames), 1)

    def test_a_process_that_lacks_the_turns_before_asks_for_them(self):
        with Agent(modules="orders") as first:
            run = ShimRun(first, "default/side-by-side:1.0.0", "orders:side_by_side", {"n": 2})
            run.turn()
            run.turn(("p1/task:price#0", 1))
        with Agent(modules="orders") as agent:
            body = {"v": 1, "run": "run_1", "workflow": "default/side-by-side:1.0.0", "seed": "00ff", "generation": 0, "input": {"n": 2},
                    "first": 3, "turns": [{"no": 3, "now": 9, "done": [{"key": "p0/task:price#0", "status": "ok", "value": 0}]}]}
            for answer, expected in (({"turns": run.turns[1:]}, None), ({"error": "gone"}, "gone")):
                agent.send({"t": "task_start", "lease": "x", "fn": "orders:side_by_side", "input": body, "ctx": {}})
                question = agent.until("history")
                self.assertEqual((question["lease"], question["run"], question["generation"], question["below"]), ("x", body["run"], 0, 3))
                agent.send({"t": "history", "req": question["req"], **answer})
                if expected is None:  # in pieces
                    question = agent.until("history")
                    self.assertEqual(question["below"], 2)
                    agent.send({"t": "history", "req": question["req"], "turns": run.turns[:1]})
                    done = agent.done("x")
                    self.assertEqual(done["value"]["wait"], [{"mode": "any", "keys": ["p1/sleep:#0", "p0/sleep:#0"]}])
                    body = {**body, "run": "run_2"}
                else:
                    done = agent.done("x")
                    self.assertEqual((done["ok"], done["error"]["retryable"]), (False, True))
                    self.assertIn(expected, done["error"]["message"])

    def test_large_values_are_fetched(self):
        with Agent(modules="orders") as agent, tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "blob")
            with open(path, "w") as file:
                file.write('"0123456789"')
            run = ShimRun(agent, "default/large:1.0.0", "orders:large", {"ref": {}})
            run.turn()
            run.turn(("/task:price#0", 7))
            body = {"v": 1, "run": "run_1", "workflow": "default/large:1.0.0", "seed": "00ff", "generation": 0, "input": {"ref": {}}, "first": 3,
                    "turns": [{"no": 3, "now": 9, "done": [{"key": "/signal:blob#0", "status": "ok", "value": {"$ref": "sha256:ab", "size": 12}}]}]}
            agent.send({"t": "task_start", "lease": "y", "fn": "orders:large", "input": body, "ctx": {}})
            question = agent.until("handle")
            self.assertEqual((question["op"], question["hash"]), ("fetch", "sha256:ab"))
            agent.send({"t": "handle_reply", "req": question["req"], "body": {"path": path}})
            self.assertEqual(agent.done("y")["value"]["end"], {"ok": 10})
            self.assertFalse(os.path.exists(path))

    def test_outcomes_that_are_no_plain_return(self):
        with Agent(modules="orders") as agent:
            for kind, exception in (("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"), ("object", "tidewheel.errors.ResultError")):
                run = ShimRun(agent, "default/odd:1.0.0", "orders:odd", {"kind": kind})
                self.assertEqual(run.turn()["end"]["error"]["exception"], exception)
            ShimRun(agent, "default/odd:1.0.0", "orders:odd", {"kind": "memory"}).turn()
            run = ShimRun(agent, "default/odd:1.0.0", "orders:odd", {"wrong": 1})
            self.assertIn("wrong", run.turn()["end"]["error"]["detail"])

    def test_what_waits_when_the_process_ends_is_not_unwound(self):
        with Agent(modules="orders") as agent:
            ShimRun(agent, "default/odd:1.0.0", "orders:odd", {"kind": "wait"}).turn()
            ShimRun(agent, "default/odd-async:1.0.0", "orders:odd_async", {}).turn()
            agent.drain()
            self.assertEqual(agent.wait(), 0)
            self.assertEqual((agent.process.stdout.read(), agent.process.stderr.read()), (b"", b""))

    def test_a_process_that_holds_its_bound_of_runs_asks_to_be_replaced(self):
        with Agent(modules="orders", hello=False) as agent:
            agent.receive()
            agent.send({"t": "hello_ack", "proto": 1, "limits": {"parked": 2}})
            for i in range(3):
                body = {"v": 1, "run": f"run_{i}", "workflow": "default/odd:1.0.0", "seed": "0", "generation": 0, "input": {"kind": "wait"},
                        "first": 1, "turns": [{"no": 1, "now": 1, "done": []}]}
                agent.send({"t": "task_start", "lease": f"l{i}", "fn": "orders:odd", "input": body, "ctx": {}})
            kinds = [frame["t"] for frame in agent.drain()]
            self.assertEqual(kinds.count("task_done"), 3)
            self.assertEqual(kinds.count("left"), 1)
            self.assertLess(kinds.index("left"), len(kinds) - 2)

    def test_code_that_never_waits_fails_its_attempt_and_costs_the_process(self):
        with Agent(modules="orders", hello=False) as agent:
            agent.receive()
            agent.send({"t": "hello_ack", "proto": 1, "limits": {"stall_ms": 200}})
            body = {"v": 1, "run": "run_1", "workflow": "default/odd:1.0.0", "seed": "0", "generation": 0, "input": {"kind": "loop"},
                    "first": 1, "turns": [{"no": 1, "now": 1, "done": []}]}
            agent.send({"t": "task_start", "lease": "l", "fn": "orders:odd", "input": body, "ctx": {}})
            agent.until("left")
            done = agent.done("l")
            self.assertEqual((done["ok"], done["error"]["type"]), (False, "WorkflowStuck"))
            self.assertRegex(done["error"]["message"], r"orders.py:\d+: the workflow has run for 0.2 s without waiting")

    def test_several_slots(self):
        with Agent(modules="orders", slots=3) as agent:
            for i in range(30):
                body = {"v": 1, "run": f"run_{i}", "workflow": "default/odd:1.0.0", "seed": "0", "generation": 0, "input": {"kind": "wait"},
                        "first": 1, "turns": [{"no": 1, "now": 1, "done": []}]}
                agent.send({"t": "task_start", "lease": f"l{i}", "fn": "orders:odd", "input": body, "ctx": {}})
            for i in range(30):
                done = agent.until("task_done")
                self.assertEqual(done["value"]["wait"], [{"mode": "all", "keys": ["/sleep:#0"]}])

    def test_bent_histories_and_bent_activations_cost_one_attempt_each(self):
        chance = random.Random(3)
        junk = [None, 0, -1, "x", [], {}, [None], {"no": 1}, [{"no": 1}], [{"no": 2, "now": 1, "done": [], "opened": []}], 1e308, "\u0000"]
        with Agent(modules="orders") as agent:
            for i in range(300):
                body = {"v": 1, "run": f"run_{i}", "workflow": "shop/buy-item:2.0.0", "seed": "0", "generation": 0, "input": {"item": "x"},
                        "first": 2, "turns": [{"no": 2, "now": 1, "done": [{"key": "/task:price#0", "status": "ok", "value": 3}]}]}
                if i % 3 == 0:
                    body[chance.choice(list(body))] = chance.choice(junk)
                agent.send({"t": "task_start", "lease": f"l{i}", "fn": "orders:buy_item", "input": body, "ctx": {}})
                while True:
                    frame = agent.receive()
                    if frame["t"] == "history":
                        answer = {"t": "history", "req": frame["req"], "turns": chance.choice(junk)}
                        if chance.random() < 0.2:
                            answer = {"t": "history", "req": frame["req"], chance.choice(["error", "problem", "turn"]): chance.choice(junk)}
                        agent.send(answer)
                    elif frame["t"] == "task_done":
                        self.assertIn("ok", frame)
                        break
            agent.start("after", "noop")
            agent.send({"t": "task_start", "lease": "good", "fn": "orders:price", "input": {"item": "abc"}, "ctx": {}})
            self.assertEqual(agent.done("good")["value"], 3)

    def test_what_is_no_activation_fails_for_good(self):
        with Agent(modules="orders") as agent:
            for body in (None, [], {"v": 2}, {"v": 1, "run": 5}, {"v": 1, "run": "r", "workflow": "w", "seed": "", "turns": []},
                         {"v": 1, "run": "r", "workflow": "w", "seed": "", "turns": [{"no": 2, "now": 1}]}):
                agent.send({"t": "task_start", "lease": "z", "fn": "orders:odd", "input": body, "ctx": {}})
                done = agent.done("z")
                self.assertEqual((done["ok"], done["error"]["type"], done["error"]["retryable"]), (False, "InputError", False), body)


if __name__ == "__main__":
    unittest.main()
