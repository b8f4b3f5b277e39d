"""Generated workflows: whatever the program, the order of events and the place of a crash, a replay goes the same way.

A program is a tree of statements, and is run both as plain code and as asyncio code. What is checked does not know the
driver: results, keys, and what the tasks themselves have counted."""

import support  # noqa: F401
import asyncio
import json
import os
import random
import unittest
from unittest import mock

from tidewheel import Cancelled, Retry, TaskFailed, Timeout, _testrun, task, wf, workflow
from tidewheel._driver import activate
from tidewheel.testing import replay, run

SEEDS = int(os.environ.get("TIDEWHEEL_FLOW_SEEDS", "4"))
#: What tasks have done, by their argument: each call of a program has an argument of its own.
EFFECTS = []
STEPS = []


@task
def effect(place: str) -> str:
    EFFECTS.append(place)
    return "did " + place


@task(retry=Retry(3, delay="7s", jitter="3s"))
def flaky(place: str) -> str:
    tries = sum(1 for p in EFFECTS if p == ("try", place))
    EFFECTS.append(("try", place))
    if tries < len(place) % 3:
        raise OSError("again")
    return "at last " + place


@task
def broken(place: str) -> None:
    raise ValueError(place)


@task
def revert(place: str) -> None:
    EFFECTS.append("reverted " + place)


@workflow(name="kid")
def kid(place: str) -> str:
    wf.sleep(len(place))
    return "kid " + effect(place)


def step(place):
    STEPS.append(place)
    return "stepped " + place


LEAVES = ("task", "flaky", "broken", "submit", "sleep", "signal", "late", "step", "kid", "map", "patch", "undo", "chance", "handles")


def program(chance, depth=0, any_too=True):
    """A block: a list of statements."""
    block = []
    for _ in range(chance.randint(1, 4 if depth else 6)):
        if depth < 3 and chance.random() < 0.35:
            kind = chance.choice(["all", "all", "any"] if any_too else ["all"])
            block.append((kind, [program(chance, depth + 1, any_too) for _ in range(chance.randint(1, 3))]))
        else:
            block.append((chance.choice(LEAVES), chance.randint(0, 30)))
    return block


def plain(block, path=""):
    """Runs a block as plain code."""
    out = []
    for i, (kind, arg) in enumerate(block):
        place = f"{path}.{i}"
        if kind == "all":
            out.append(list(wf.all(*[lambda b=b, n=n: plain(b, f"{place}.{n}") for n, b in enumerate(arg)])))
        elif kind == "any":
            def part(b, n):
                try:
                    return plain(b, f"{place}.{n}")
                except Cancelled:
                    wf.status(place)
                    raise
            out.append(list(wf.any(*[lambda b=b, n=n: part(b, n) for n, b in enumerate(arg)])))
        elif kind == "task":
            out.append(effect(place))
        elif kind == "flaky":
            out.append(flaky(place))
        elif kind == "broken":
            try:
                broken(place)
            except TaskFailed as error:
                out.append(error.detail)
        elif kind == "submit":
            one, two = effect.submit(place + "a"), flaky.submit(place + "b")
            out.append([two.result(), one.result()])
        elif kind == "handles":
            out.append(list(wf.all(effect.submit(place + "a"), flaky.submit(place + "b"), kid.submit(place))))
        elif kind == "sleep":
            wf.sleep(arg)
        elif kind == "signal":
            out.append(wf.signal(f"s{arg % 3}"))
        elif kind == "late":
            try:
                out.append(wf.signal("never", timeout=arg))
            except Timeout as error:
                out.append(error.status)
        elif kind == "step":
            out.append(wf.step("st", step, place))
        elif kind == "kid":
            out.append(kid(place))
        elif kind == "map":
            out.append(wf.map(effect, [place + str(n) for n in range(arg % 4)], concurrency=2))
        elif kind == "patch":
            out.append(wf.patched(f"p{arg % 2}"))
        elif kind == "undo":
            wf.undo(revert, place)
        else:
            out.append([wf.random().randint(0, 9), str(wf.uuid()), wf.now().isoformat()] and None)
    return out


async def loop(block, path=""):
    """Runs a block as asyncio code."""
    out = []
    for i, (kind, arg) in enumerate(block):
        place = f"{path}.{i}"
        if kind == "all":
            out.append(list(await asyncio.gather(*[loop(b, f"{place}.{n}") for n, b in enumerate(arg)])))
        elif kind == "any":
            out.append(list(await wf.any(*[lambda b=b, n=n: loop(b, f"{place}.{n}") for n, b in enumerate(arg)])))
        elif kind == "task":
            out.append(await effect(place))
        elif kind == "flaky":
            out.append(await asyncio.wait_for(flaky(place), 1000))
        elif kind == "broken":
            try:
                await broken(place)
            except TaskFailed as error:
                out.append(error.detail)
        elif kind == "submit":
            one, two = effect.submit(place + "a"), flaky.submit(place + "b")
            out.append([await two, await one])
        elif kind == "handles":
            out.append(list(await wf.all(effect.submit(place + "a"), flaky.submit(place + "b"), kid.submit(place))))
        elif kind == "sleep":
            await asyncio.sleep(arg)
        elif kind == "signal":
            out.append(await wf.signal(f"s{arg % 3}"))
        elif kind == "late":
            try:
                out.append(await wf.signal("never", timeout=arg))
            except Timeout as error:
                out.append(error.status)
        elif kind == "step":
            out.append(await wf.step("st", step, place))
        elif kind == "kid":
            out.append(await kid(place))
        elif kind == "map":
            out.append(await wf.map(effect, [place + str(n) for n in range(arg % 4)], concurrency=2))
        elif kind == "patch":
            out.append(wf.patched(f"p{arg % 2}"))
        elif kind == "undo":
            wf.undo(revert, place)
        else:
            out.append([wf.random().randint(0, 9), str(wf.uuid()), wf.now().isoformat()] and None)
    return out


def flows(seed, any_too=True):
    block = program(random.Random(seed), any_too=any_too)

    @workflow(name="generated")
    def sync() -> list:
        return plain(block)

    @workflow(name="generated")
    async def aio() -> list:
        return await loop(block)

    return block, (sync, aio)


def go(function, **more):
    """A run with enough signals; its outcome and what the tasks did."""
    EFFECTS.clear()
    STEPS.clear()
    outcome = run(function, signals={f"s{n}": ["go"] * 60 for n in range(3)}, **more)
    return outcome, sorted(e for e in EFFECTS if isinstance(e, str)), list(STEPS)


class Generated(unittest.TestCase):
    def test_replays_go_the_same_way(self):
        """Also with parts that race: what happened decides, and not when it was replayed."""
        for seed in range(SEEDS):
            block, both = flows(seed)
            for function in both:
                for more in ({"replay_every_step": True}, {"shuffle": seed, "replay_every_step": True}, {"shuffle": seed + 1}, {}):
                    with self.subTest(seed=seed, aio=function.is_async, **more):
                        outcome, effects, _ = go(function, **more)
                        self.assertEqual((outcome.phase, outcome.error), ("completed", None), block)
                        self.assertEqual(len(set(outcome.keys)), len(outcome.keys))
                        self.assertEqual(len(set(effects)), len(effects))
                        again = replay(function, outcome.history())
                        self.assertEqual(again.end["ok"], outcome.json)

    def test_a_parked_program_and_a_replay_from_scratch_give_identical_results(self):
        compared = [0]

        def twice(function, body, host, parked, watch):
            result = activate(function, json.loads(json.dumps(body)), host, parked, watch=watch)
            if not any(c["kind"] == "step" for c in result["commands"]):  # it would run twice
                lines = len(host._run.outcome.log)
                shadow = activate(function, json.loads(json.dumps(body)), host, _testrun._Thrown())
                del host._run.outcome.log[lines:]
                self.assertEqual(json.dumps(shadow, sort_keys=True), json.dumps(result, sort_keys=True))
                compared[0] += 1
            return result

        with mock.patch.object(_testrun, "activate", twice):
            for seed in range(SEEDS):
                for function in flows(seed)[1]:
                    for more in ({}, {"shuffle": seed}):
                        self.assertEqual(go(function, **more)[0].phase, "completed")
        self.assertGreater(compared[0], SEEDS * 10)

    def test_the_order_in_which_things_end_changes_no_key_and_no_result(self):
        for seed in range(SEEDS):
            block, both = flows(seed, any_too=False)
            for function in both:
                expected, effects, _ = go(function)
                self.assertEqual(expected.phase, "completed", expected.error)
                for shuffle in range(3):
                    outcome, same, _ = go(function, shuffle=shuffle, replay_every_step=shuffle == 2)
                    self.assertEqual(outcome.unwrap(), expected.unwrap(), block)
                    self.assertEqual(sorted(outcome.keys), sorted(expected.keys))
                    self.assertEqual(same, effects)

    def test_a_crash_at_any_key_changes_nothing_and_repeats_no_effect(self):
        for seed in range(max(SEEDS // 3, 4)):
            block, both = flows(seed)
            for function in both:
                expected, effects, steps = go(function)
                for key in expected.keys:
                    outcome, same, again = go(function, crash_at=key)
                    self.assertEqual(outcome.unwrap(), expected.unwrap(), (block, key))
                    self.assertEqual(outcome.keys, expected.keys)
                    self.assertEqual(same, effects)
                    self.assertEqual(set(again), set(steps))  # at least once
                    self.assertLessEqual(len(again), len(steps) + 20)

    def test_cancelled_at_any_time_it_ends(self):
        for seed in range(SEEDS):
            block, both = flows(seed)
            for function in both:
                for at in (0, 1, 13, 40):
                    outcome, effects, _ = go(function, cancel=at, shuffle=seed)
                    self.assertIn(outcome.phase, ("cancelled", "completed"), (block, outcome.error))
                    self.assertEqual(len(set(effects)), len(effects))
                    replay(function, outcome.history())


if __name__ == "__main__":
    unittest.main()
