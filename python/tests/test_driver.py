"""The driver of workflows by itself: activations in, results out."""

import support  # noqa: F401
import copy
import json
import os
import random
import unittest

from flows import FlowHost, Run, payload
from tidewheel import task, wf, workflow
from tidewheel._driver import Parked, activate
from tidewheel.errors import InputError, TidewheelError
from tidewheel.testing import replay

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")


@task
def a(x: int) -> int:
    return x


@task(timeout={"run": "1m", "queue": "2m"}, concurrency={"key": "x", "limit": 2})
def b(x: int) -> int:
    return x


def flow(function):
    return workflow(name="f")(function)


@flow
def two_steps(x: int = 1) -> int:
    first = a(x)
    second = b(first + 1)
    return first + second


class Results(unittest.TestCase):
    def test_a_run_in_three_turns(self):
        run = Run(two_steps)
        self.assertEqual(run.turn(), {
            "v": 1, "commands": [{"key": "/task:a#0", "kind": "task", "name": "a", "args": {"x": 1}, "hash": "5041bf1f713df204"}],
            "wait": [{"mode": "all", "keys": ["/task:a#0"]}]})
        out = run.turn(("/task:a#0", 5))
        self.assertEqual(out["commands"][0]["opts"], {
            "timeouts": {"run_ms": 60000, "queue_ms": 120000}, "concurrency_key": "x:6", "concurrency_limit": 2})
        self.assertEqual(run.turn(("/task:b#0", 7)), {"v": 1, "commands": [], "wait": [], "end": {"ok": 12}})

    def test_every_kind_of_command(self):
        @flow
        def f() -> None:
            wf.patched("p")
            wf.undo(a, 1)
            wf.promise("pr", timeout="1s")
            wf.status({"n": 1})
            wf.attributes(c="x")
            wf.start_workflow("acme/x:1.0.0", {"i": 1}, close="wait")
            wf.all(lambda: wf.signal("si", timeout=2), lambda: wf.event("ev", where={"o": 1}), lambda: wf.sleep(3), lambda: wf.map(a, [1], on_error="collect"))

        out = Run(f).turn()
        shown = [(c["key"], c["name"], c.get("args"), c.get("opts")) for c in out["commands"]]
        self.assertEqual(shown, [
            ("/patch:p#0", "p", None, None), ("/undo:a#0", "a", {"x": 1}, None), ("/promise:pr#0", "pr", None, {"timeout_ms": 1000}),
            ("/child:acme/x:1.0.0#0", "acme/x:1.0.0", {"i": 1}, {"close": "wait"}), ("p0/signal:si#0", "si", None, {"timeout_ms": 2000}),
            ("p1/event:ev#0", "ev", None, {"where": {"o": 1}}), ("p2/sleep:#0", "", None, {"ms": 3000}),
            ("p3/map:a#0", "a", [{"x": 1}], {"collect": True})])
        self.assertEqual((out["state"], out["attributes"]), ({"n": 1}, {"c": "x"}))
        self.assertEqual(sorted(k for g in out["wait"] for k in g["keys"]), ["p0/signal:si#0", "p1/event:ev#0", "p2/sleep:#0", "p3/map:a#0"])
        self.assertTrue(all(len(c["hash"]) == 16 for c in out["commands"]))

    def test_what_is_done_already_is_waited_for_no_more(self):
        @flow
        def f() -> None:
            wf.all(a.submit(1), a.submit(2))

        run = Run(f, parked=Parked())
        self.assertEqual(run.turn()["wait"], [{"mode": "all", "keys": ["/task:a#0", "/task:a#1"]}])
        self.assertEqual(run.turn(("/task:a#0", 1))["wait"], [{"mode": "all", "keys": ["/task:a#1"]}])

    def test_large_values_are_loaded_when_they_are_read(self):
        @flow
        def f(x: object) -> list:
            one, two = a.submit(1), a.submit(2)
            wf.all(lambda: wf.signal("both"))
            return [x, one.result()]

        ref = {"$ref": "sha256:ab", "size": 100000}
        run = Run(f, {"x": ref})
        run.turn()
        run.turn(("/task:a#0", ref), ("/task:a#1", {"$ref": "sha256:cd", "size": 1}))
        out = run.turn(("p0/signal:both#0", None))
        self.assertEqual(out["end"], {"ok": [ref, ["loaded", "sha256:ab"]]})
        self.assertEqual(run.host.loads, [ref])  # and not the other

    def test_done_twice_and_done_of_nothing_are_of_no_account(self):
        run = Run(two_steps)
        run.turn()
        run.turn(("/task:a#0", 5), ("/task:a#0", 6), ("/task:zzz#0", 1))
        self.assertEqual(run.turn(("/task:b#0", 7), ("/task:a#0", 9))["end"], {"ok": 12})

    def test_a_turn_in_which_nothing_happened_changes_nothing(self):
        @workflow(name="f")
        async def g(x: int = 1) -> int:
            import asyncio

            both = await asyncio.gather(a(x), wf.all(b.submit(x), wf.sleep(1)))
            return both[0] + both[1][0]

        for parked in (Parked(), None):
            for function in (two_steps, g):
                run = Run(function, parked=parked)
                before = run.turn()
                out = run.turn()
                self.assertEqual((out["commands"], out["wait"]), ([], before["wait"]))
                out = run.turn(("/task:a#0", 5))
                if function is two_steps:
                    self.assertEqual(run.turn(("/task:b#0", 7))["end"], {"ok": 12})
                else:
                    self.assertEqual(run.turn(("/task:b#0", 7), ("/sleep:#0", None))["end"], {"ok": 12})

    def test_parts_resume_in_the_order_in_which_things_ended(self):
        @flow
        def f() -> list:
            order = []

            def part(i):
                a(i)
                order.append(i)

            wf.all(*[lambda i=i: part(i) for i in range(4)])
            return order

        @workflow(name="f")
        async def g() -> list:
            import asyncio

            order = []

            async def part(i):
                await a(i)
                order.append(i)

            await asyncio.gather(*[part(i) for i in range(4)])
            return order

        for each in (f, g):
            for parked in (Parked(), None):
                run = Run(each, parked=parked)
                run.turn()
                out = run.turn(*[(f"p{i}/task:a#0", i) for i in (2, 0, 3, 1)])
                self.assertEqual(out["end"], {"ok": [2, 0, 3, 1]})


class Mismatches(unittest.TestCase):
    def journal(self, function, *dones, input=None):
        run = Run(function, input)
        for done in dones:
            run.turn(*done)
        return run

    def differs(self, run, other, *done, line=None):
        """The mismatch of other code on a run's journal."""
        turns = copy.deepcopy(run.turns) + [{"no": len(run.turns) + 1, "now": 99, "done": []}]
        host = FlowHost()
        end = activate(other, payload(turns, other.ref, run.input), host)["end"]
        found = end["mismatch"]
        with open(found["file"]) as file:
            text = file.read().split("\n")[found["line"] - 1]
        if line is not None:
            self.assertIn(line, text)
        return found

    def test_a_an_entry_that_the_journal_does_not_have(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])

        @flow
        def f() -> None:
            b(1)  # here

        found = self.differs(run, f, line="# here")
        self.assertEqual((found["turn"], found["expected"], found["actual"]), (1, "/task:a#0", "/task:b#0"))

    def accepting(self, run, other, through, *dones):
        """Other code on a run's journal, with the differences up to a turn accepted. Each turn is replayed from the beginning, so that what
        came of the one before has to fit, too."""
        turns, now = copy.deepcopy(run.turns), 100
        out = {}
        for done in dones:
            turn = {"no": len(turns) + 1, "now": now, "done": [{"key": k, "status": "ok", "value": v, "at": now} for k, v in done]}
            out = activate(other, payload(turns + [turn], other.ref, run.input, accepted=through), FlowHost())
            if "mismatch" in out.get("end", {}):
                return out
            turns.append({**turn, "opened": [{"key": c["key"], "hash": c["hash"]} for c in out["commands"]]})
            now += 1
        return out

    def test_accepted_arguments_keep_the_result_that_is_there(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])

        @flow
        def f() -> int:
            return a(50) + b(2)

        self.assertEqual(self.differs(run, f)["actual"], "/task:a#0")
        out = self.accepting(run, f, 2, [("/task:b#0", 7)])
        self.assertEqual(out["end"], {"ok": 8})

    def test_what_accepted_code_asks_for_instead_is_begun_when_the_history_is_through(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])

        @flow
        def g() -> int:
            return a(1) + a(2) + b(3)

        out = self.accepting(run, g, 2, [("/task:b#0", 7)])
        self.assertEqual([c["key"] for c in out["commands"]], ["/task:a#1"])
        out = self.accepting(run, g, 2, [("/task:b#0", 7)], [], [("/task:a#1", 30)])
        self.assertEqual(out["end"], {"ok": 38}, "b had ended before it was asked for")

        @flow
        def h() -> int:
            first = b(9)
            wf.sleep(1)
            return first + a(1)

        out = self.accepting(run, h, 2, [("/task:b#0", 7)], [("/sleep:#0", None)])
        self.assertEqual(out["end"], {"ok": 8}, "what was done already is not done again")

    def test_a_step_of_accepted_code_is_run_when_the_history_is_through(self):
        @flow
        def before() -> int:
            return wf.step("old", lambda: 1) + a(1)

        ran = []

        @flow
        def after() -> int:
            return wf.step("new", lambda: ran.append(1) or 20) + a(1)

        run = self.journal(before, [], [("/step:old#0", 1)])
        self.assertEqual(self.differs(run, after)["actual"], "/step:new#0")
        out = self.accepting(run, after, 2, [("/task:a#0", 7)])
        self.assertEqual([(c["key"], c.get("value")) for c in out["commands"]], [("/step:new#0", 20)])
        self.assertTrue(out["again"])
        out = self.accepting(run, after, 2, [("/task:a#0", 7)], [("/step:new#0", 20)])
        self.assertEqual(out["end"], {"ok": 27})
        self.assertEqual(len(ran), 2, "once for each time that its turn was the newest")

    def test_a_difference_behind_what_was_accepted_is_one(self):
        @flow
        def g() -> int:
            return a(1) + a(2) + b(3)

        @flow
        def h() -> int:
            return a(1) + b(3) + b(4)

        run = self.journal(two_steps, [], [("/task:a#0", 1)])
        turns = copy.deepcopy(run.turns)
        turns.append({"no": 3, "now": 100, "done": [{"key": "/task:b#0", "status": "ok", "value": 7, "at": 100}],
                      "opened": [{"key": "/task:a#1", "hash": "00"}]})
        live = {"no": 4, "now": 101, "done": []}
        out = activate(h, payload(turns + [live], h.ref, run.input, accepted=2), FlowHost())
        self.assertEqual(out["end"]["mismatch"]["turn"], 3)

    def test_entries_in_another_order_can_be_accepted(self):
        @flow
        def before() -> int:
            return a(1) + b(1)

        run = self.journal(before, [], [("/task:a#0", 1)])

        @flow
        def after() -> int:
            return b(1) + a(1)

        out = self.accepting(run, after, 2, [("/task:b#0", 5)])
        self.assertEqual(out["end"], {"ok": 6})

    def test_an_end_that_comes_early_can_be_accepted(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])

        @flow
        def f() -> int:
            return a(1)

        self.assertEqual(self.differs(run, f)["expected"], "/task:b#0")
        self.assertEqual(self.accepting(run, f, 2, [("/task:b#0", 7)])["end"], {"ok": 1})

    def test_a_an_entry_too_many(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])

        @flow
        def f() -> None:
            a.submit(1)
            a.submit(2)  # here
            wf.sleep(1)

        found = self.differs(run, f, line="# here")
        self.assertEqual((found["expected"], found["actual"]), (None, "/task:a#1"))

    def test_c_an_entry_that_the_code_does_not_ask_for(self):
        @flow
        def g() -> None:
            a.submit(1)
            b.submit(1)
            wf.sleep(1)

        run = self.journal(g, [])

        @flow
        def f() -> None:
            a.submit(1)
            wf.sleep(1)  # stands here

        found = self.differs(run, f, line="# stands here")
        self.assertEqual((found["expected"], found["actual"]), ("/task:b#0", None))

        @workflow(name="f")
        async def h() -> None:
            a.submit(1)
            await wf.sleep(1)  # stands there

        found = self.differs(run, h, line="# stands there")
        self.assertEqual((found["expected"], found["actual"]), ("/task:b#0", None))

    def test_c_a_function_that_ends_before_its_journal(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])

        @flow
        def f(x: int = 1) -> None:
            a(x)

        found = self.differs(run, f)
        self.assertEqual((found["turn"], found["expected"], found["actual"]), (2, "/task:b#0", None))

        @flow
        def g(x: int = 1) -> None:
            a.submit(x)

        found = self.differs(run, g)
        self.assertEqual((found["turn"], found["expected"], found["why"]), (1, "/task:b#0", "the function has ended, and the journal goes on"))

    def test_b_other_arguments(self):
        def make(n, kind):
            @flow
            def f() -> None:
                if kind == "task":
                    a(n)
                elif kind == "sleep":
                    wf.sleep(n)
                elif kind == "child":
                    wf.call_workflow("x/y:1.0.0", n)
                elif kind == "event":
                    wf.event("e", where={"n": n})
                elif kind == "map":
                    wf.map(a, [n])
                elif kind == "undo":
                    wf.undo(a, n)
                    wf.signal("x")
                elif kind == "signal":
                    wf.signal("x", timeout=n)
                else:
                    wf.step("s", lambda n: n, n)

            return f

        for kind in ("task", "sleep", "child", "event", "map", "undo"):
            run = self.journal(make(1, kind), [])
            found = self.differs(run, make(2, kind), line="wf." if kind != "task" else "a(n)")
            self.assertEqual((found["expected"], found["actual"], found["turn"]), (run.keys[0], run.keys[0], 1))
        # Not of a signal, and of a step no more than a warning.
        run = self.journal(make(1, "signal"), [])
        activate(make(2, "signal"), payload(run.turns + [{"no": 2, "now": 9, "done": []}], "default/f:1.0.0", {}), FlowHost())
        run = self.journal(make(1, "step"), [])
        host = FlowHost()
        out = activate(make(2, "step"), payload(run.turns + [{"no": 2, "now": 9, "done": [{"key": "/step:s#0", "status": "ok", "value": 1}]}],
                                                "default/f:1.0.0", {}), host)
        self.assertEqual(out["end"], {"ok": None})
        self.assertEqual([line[0] for line in host.lines], ["warning"])

    def test_user_frames_are_not_unwound_by_a_mismatch(self):
        run = self.journal(two_steps, [], [("/task:a#0", 1)])
        unwound = []

        @flow
        def f() -> None:
            try:
                b(1)
            except BaseException:
                unwound.append("except")
                raise
            finally:
                unwound.append("finally")

        self.differs(run, f)
        self.assertEqual(unwound, [])


class Patches(unittest.TestCase):
    def test_old_runs_go_the_old_way_and_new_ones_the_new_way(self):
        @flow
        def old() -> int:
            return a(1)

        @flow
        def new() -> list:
            out = []
            for i in range(2):
                if wf.patched("check"):
                    out.append(b(i))
                out.append(a(1 + i))
            return out

        @flow
        def without() -> list:  # the guard is gone again
            return [x for i in range(2) for x in (b(i), a(1 + i))]

        run = Run(old)
        run.turn()
        run.workflow = new
        out = run.turn(("/task:a#0", 1))  # past the first round as it was, from the second on as it is
        self.assertEqual([c["key"] for c in out["commands"]], ["/patch:check#0", "/task:b#0"])
        run.turn(("/task:b#0", 2))
        self.assertEqual(run.turn(("/task:a#1", 3))["end"], {"ok": [1, 2, 3]})

        fresh = Run(new)
        self.assertEqual([c["key"] for c in fresh.turn()["commands"]], ["/patch:check#0", "/task:b#0"])
        for step in (("/task:b#0", 1), ("/task:a#0", 2), ("/task:b#1", 3)):
            fresh.turn(step)
        fresh.workflow = without
        self.assertEqual(fresh.turn(("/task:a#1", 4))["end"], {"ok": [1, 2, 3, 4]})


class Cancelling(unittest.TestCase):
    def test_it_comes_with_what_is_done_and_once(self):
        from tidewheel import Cancelled

        seen = []

        @flow
        def f() -> str:
            try:
                a(1)
            except Cancelled as error:
                seen.append(str(error))
            return str(b(2))

        run = Run(f, parked=Parked())
        run.turn()
        out = run.turn(("/task:a#0", 1), cancel="by hand")
        self.assertEqual((seen, [c["key"] for c in out["commands"]]), (["by hand"], ["/task:b#0"]))
        self.assertEqual(run.turn(("/task:b#0", 5), cancel="by hand")["end"], {"ok": "5"})

    def test_in_the_first_turn_the_first_wait_raises(self):
        @flow
        def f() -> None:
            a(1)

        @workflow(name="f")
        async def g() -> None:
            await a(1)

        for each in (f, g):
            out = Run(each).turn(cancel="early")
            self.assertEqual((out["end"], len(out["commands"])), ({"cancelled": True}, 1))

    def test_an_error_while_cleaning_up_is_an_error(self):
        @flow
        def f() -> None:
            try:
                a(1)
            finally:
                raise ValueError("broken")

        run = Run(f)
        run.turn()
        self.assertEqual(run.turn(cancel="x")["end"]["error"]["exception"], "ValueError")

    def test_a_cancelled_task_is_no_cancelled_run(self):
        run = Run(two_steps)
        run.turn()
        out = run.turn({"key": "/task:a#0", "status": "cancelled"})
        self.assertEqual(out["end"]["error"]["exception"], "tidewheel.errors.Cancelled")


class Aborts(unittest.TestCase):
    """What is wrong with this process ends the attempt; the run, and the user's code, know nothing of it."""

    def test_a_value_that_cannot_be_fetched(self):
        seen = []

        @flow
        def f() -> None:
            try:
                a(1)
            except BaseException as error:
                seen.append(error)
            finally:
                seen.append("finally")

        @workflow(name="f")
        async def g() -> None:
            try:
                await a(1)
            except BaseException as error:
                seen.append(error)

        class Broken(FlowHost):
            def load(self, ref):
                raise TidewheelError("the store is away", retryable=True)

        for function in (f, g):
            for parked in (None, Parked()):
                run = Run(function, parked=parked)
                run.turn()
                run.host = Broken()
                with self.assertRaisesRegex(TidewheelError, "the store is away"):
                    run.turn(("/task:a#0", {"$ref": "sha256:ab", "size": 9}))
                self.assertEqual(seen, [])
                self.assertEqual(parked.lost if parked else 1, 1)
                run.host = FlowHost()  # the next attempt, wherever it is
                self.assertIn("end", run.turn(("/task:a#0", {"$ref": "sha256:ab", "size": 9})))
                seen.clear()

    def test_a_step_whose_attempt_is_stopped(self):
        from tidewheel import Cancelled, ctx

        seen = []

        @flow
        def f() -> None:
            try:
                wf.step("s", lambda: ctx.check())
            except BaseException as error:
                seen.append(error)

        class Stopped(FlowHost):
            def step_context(self, idempotency_key):
                context = super().step_context(idempotency_key)
                context.cancel("the agent is going")
                return context

        run = Run(f)
        run.host = Stopped()
        with self.assertRaises(Cancelled):
            run.turn()
        self.assertEqual(seen, [])


class Parking(unittest.TestCase):
    def test_a_parked_program_goes_on_without_its_history(self):
        begun = []

        @flow
        def f() -> int:
            begun.append(1)
            return a(1) + b(2)

        parked = Parked()
        run = Run(f, parked=parked)
        run.turn()
        run.turn(("/task:a#0", 1), first=2)
        self.assertEqual((begun, len(parked)), ([1], 1))
        self.assertEqual(run.turn(("/task:b#0", 2), first=3)["end"], {"ok": 3})
        self.assertEqual((begun, len(parked), parked.lost), ([1], 0, 0))

    def test_one_that_does_not_agree_is_not_used(self):
        begun = []

        @flow
        def f() -> int:
            begun.append(1)
            return a(1) + b(2)

        def go(change, first=1):
            begun.clear()
            parked = Parked()
            run = Run(f, parked=parked)
            run.turn()
            turns = copy.deepcopy(run.turns) + [{"no": 2, "now": 5, "done": [{"key": "/task:a#0", "status": "ok", "value": 1}]}]
            host = FlowHost(run.turns)
            body = payload(turns[first - 1 :], f.ref, {}, first)
            change(body)
            out = activate(f, body, host, parked)
            return len(begun), out

        self.assertEqual(go(lambda body: None)[0], 1)
        self.assertEqual(go(lambda body: None, first=2)[0], 1)
        self.assertEqual(go(lambda body: body.update(run="run_2"), first=2)[0], 2)  # another run: asks for the history
        self.assertEqual(go(lambda body: body.update(generation=1, turns=[{"no": 1, "now": 5, "done": []}]))[0], 2)

        self.assertEqual(go(lambda body: body.update(epoch=3))[0], 2)  # taken back meanwhile

        def same_turn_again(body):
            body["turns"] = [{"no": 1, "now": 5, "done": []}]

        self.assertEqual(go(same_turn_again)[0], 2)

        def heard_more(body):
            body["turns"][0]["done"] = [{"key": "/task:z#0", "status": "ok"}]

        self.assertEqual(go(heard_more)[0], 2)

        def other_journal(body):
            body["turns"][0]["opened"].append({"key": "/task:q#0", "hash": "0"})

        begun_again, out = go(other_journal)
        self.assertEqual((begun_again, out["end"]["mismatch"]["expected"]), (2, "/task:q#0"))

    def test_it_catches_up_with_turns_that_another_process_did(self):
        parked = Parked()
        run = Run(two_steps, parked=parked)
        run.turn()
        run.parked = None
        run.turn(("/task:a#0", 1))
        run.parked = parked
        self.assertEqual(run.turn(("/task:b#0", 2), first=2)["end"], {"ok": 3})

    def test_its_bound_is_told(self):
        parked = Parked(2)
        for i in range(2):
            self.assertFalse(parked.full)
            activate(two_steps, payload([{"no": 1, "now": 1, "done": []}], two_steps.ref, {}, run=f"run_{i}"), FlowHost(), parked)
        self.assertTrue(parked.full)

    def test_a_history_that_comes_in_pieces_is_one(self):
        run = Run(two_steps)
        run.turn()
        run.turn(("/task:a#0", 1))
        asked = []

        class Pieces(FlowHost):
            def history(self, name, generation, epoch, below):
                asked.append(below)
                return run.turns[below - 2 : below - 1]

        last = {"no": 3, "now": run.now, "done": [{"key": "/task:b#0", "status": "ok", "value": 2, "at": 1}]}
        body = payload([last], two_steps.ref, {}, first=3, before={"$ref": "sha256:00", "size": 1})
        self.assertEqual(activate(two_steps, body, Pieces())["end"], {"ok": 3})
        self.assertEqual(asked, [3, 2])

    def test_a_history_that_does_not_fit_is_refused(self):
        body = payload([{"no": 3, "now": 1, "done": []}], two_steps.ref, {}, first=3)
        for turns in ([], [{"no": 1, "now": 1, "done": [], "opened": []}], [{"no": 2, "now": 1, "opened": 5}], ["x"]):
            with self.assertRaises(TidewheelError):
                activate(two_steps, body, FlowHost(turns))


class Golden(unittest.TestCase):
    """Journals as earlier versions wrote them. They replay for ever: never change a file, add one per version."""

    def test_every_golden_journal_replays(self):
        import golden_flows

        files = sorted(name for name in os.listdir(GOLDEN) if name.endswith(".json"))
        self.assertGreaterEqual(len(files), 2)
        for name in files:
            with open(os.path.join(GOLDEN, name)) as file:
                journal = json.load(file)
            function = golden_flows.BY_NAME[journal["workflow"].partition(":")[0]]
            with self.subTest(name):
                self.assertEqual(replay(function, journal).end, journal["end"])

    def test_a_change_of_a_golden_journal_is_seen(self):
        import golden_flows

        with open(os.path.join(GOLDEN, "1-order.json")) as file:
            text = file.read()
        for before, after in (("/task:charge#0", "/task:charge#1"), ('"hash": "', '"hash": "0'), ("p1/sleep:#0", "p2/sleep:#0")):
            self.assertIn(before, text)
            with self.assertRaises(TidewheelError):
                replay(golden_flows.order, json.loads(text.replace(before, after)))


class Fuzz(unittest.TestCase):
    def test_bent_activations_are_refused_or_understood(self):
        run = Run(two_steps)
        run.turn()
        run.turn(("/task:a#0", 5))
        good = payload(run.turns + [{"no": 3, "now": 9, "done": [{"key": "/task:b#0", "status": "ok", "value": 3}]}], two_steps.ref, {})
        chance = random.Random(7)
        junk = [None, True, -1, 0, 1.5, 10**30, "", "x", [], {}, [None], {"key": 1}, "\ud800"]
        outcomes = {"ok": 0, "refused": 0, "end": 0}
        for _ in range(3000):
            body = copy.deepcopy(good)
            for _ in range(chance.randint(1, 3)):
                _bend(body, chance, junk)
            try:
                result = activate(two_steps, body, FlowHost())
            except (InputError, TidewheelError):
                outcomes["refused"] += 1
                continue
            outcomes["end" if "end" in result else "ok"] += 1
            json.dumps(result)
        self.assertTrue(all(outcomes.values()), outcomes)


def _bend(value, chance, junk):
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and chance.random() < 0.8:
            value = value[key]
            continue
        if chance.random() < 0.3:
            del value[key]
        else:
            value[key] = chance.choice(junk)
        return


if __name__ == "__main__":
    unittest.main()
