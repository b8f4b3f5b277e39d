"""Generated workflows, said twice: as a document of the language and as a Python function. Both have to come to the same end with the
same output, call the same tasks with the same arguments, and call them in the same order in each branch.

The document is played by `tidewheel workflow test`, the function by `tidewheel.testing.run`: what they have in common is the engine's
idea of a workflow, and no line of code."""

import support
import json
import os
import random
import shutil
import subprocess
import tempfile
import unittest

from tidewheel import Retry, TaskFailed, task, wf, workflow
from tidewheel.testing import run

FLOWS = int(os.environ.get("TIDEWHEEL_TWINS", "100"))
#: What tasks were called with, in order.
CALLS = []
NAMESPACE, VERSION = "twins", "1.0.0"
HEAD = {"dsl": "1.0.3", "namespace": NAMESPACE, "version": VERSION}
#: How often a flaky task is tried, and what is put in place of the number by who catches an error.
TRIES, CAUGHT = 3, 1000


def call(do, n, at, tries=0):
    """What a task is called with. `at` is unique in a workflow, but for items of a map and tries."""
    return {"do": do, "n": n, "at": at, "tries": tries}


@task
def step(arg: dict) -> dict:
    CALLS.append(arg)
    return {"n": arg["n"] + 1}


@task(retry=Retry(TRIES, delay="2s"))
def flaky(arg: dict) -> dict:
    CALLS.append(arg)
    if sum(1 for known in CALLS if known["at"] == arg["at"]) <= arg["tries"]:
        raise OSError("again")
    return {"n": arg["n"] + 1}


@task
def broken(arg: dict) -> dict:
    CALLS.append(arg)
    raise ValueError("as planned")


@task
def revert(arg: dict) -> None:
    CALLS.append(arg)


@workflow(name="kid")
def kid(n: int, at: str) -> dict:
    wf.sleep(2)
    return step(call("step", n, at))


def generate(chance, depth=0):
    """A list of statements: kind and what it has besides."""
    block = []
    for _ in range(chance.randint(1, 3)):
        kinds = ["step", "step", "sleep", "kid", "map", "flaky", "saga"]
        if depth < 2:
            kinds += ["all", "all", "catch", "catch"]
        kind = chance.choice(kinds)
        if kind == "all":
            block.append((kind, [generate(chance, depth + 1) for _ in range(chance.randint(2, 3))]))
        elif kind == "catch":
            body = generate(chance, depth + 1)
            if chance.random() < 0.6:
                body.insert(chance.randint(0, len(body)), ("broken", 0))
            block.append((kind, body))
        elif kind == "flaky":
            block.append((kind, chance.randint(0, TRIES - 1)))
        else:
            block.append((kind, chance.randint(1, 4)))
    if depth == 0 and chance.random() < 0.4:
        block.append(("undone", chance.randint(1, 4)))
    return block


def python(block, n, at=""):
    """Runs a block as code; gives the number that comes out."""
    for i, (kind, arg) in enumerate(block):
        here = f"{at}.{i}"
        if kind == "step":
            n = step(call("step", n, here))["n"]
        elif kind == "flaky":
            n = flaky(call("flaky", n, here, arg))["n"]
        elif kind == "broken":
            broken(call("broken", n, here))
        elif kind == "sleep":
            wf.sleep(arg)
        elif kind == "kid":
            n = kid(n, here)["n"]
        elif kind == "map":
            n += sum(each["n"] for each in wf.map(step, [{"arg": call("step", m, here)} for m in range(arg)], concurrency=2))
        elif kind == "saga":
            for m in range(arg):
                n = step(call("step", n, f"{here}.{m}"))["n"]
        elif kind == "undone":
            for m in range(arg):
                n = step(call("step", n, f"{here}.{m}"))["n"]
                wf.undo(revert, call("revert", n, f"{here}.{m}"))
            broken(call("broken", n, here))
        elif kind == "all":
            n = sum(wf.all(*[lambda b=b, m=m: python(b, n, f"{here}.{m}") for m, b in enumerate(arg)]))
        else:
            try:
                n = python(arg, n, here)
            except TaskFailed:
                n = CAUGHT
    return n


def document(block, at=""):
    """The same block as a list of the language: each statement takes `{n}` and gives `{n}`."""
    return [{"s" + f"{at}.{i}".replace(".", "_"): statement(kind, arg, f"{at}.{i}")} for i, (kind, arg) in enumerate(block)]


def asks(do, n, at, tries=0):
    given = {"do": do, "n": n, "at": at, "tries": tries}
    return {"call": "task:1.0.0@default", "with": {"type": do, "input": given}}


def statement(kind, arg, at):
    name = at.replace(".", "_")
    if kind in ("step", "broken"):
        return {**asks(kind, "${ .n }", at), "output": {"as": "${ {n: .n} }"}}
    if kind == "flaky":
        retry = {"delay": {"seconds": 2}, "limit": {"attempt": {"count": TRIES - 1}}}
        return {"try": [{"t" + name: statement_of_flaky(arg, at)}], "catch": {"retry": retry}}
    if kind == "sleep":
        return {"wait": {"seconds": arg}}
    if kind == "kid":
        called = {"namespace": NAMESPACE, "name": "kid", "version": VERSION, "input": {"n": "${ .n }", "at": at}}
        return {"run": {"workflow": called}}
    if kind == "map":
        with_ = {"do": "step", "n": "${ $item }", "at": at, "tries": 0}
        items = {"items": "${ [range(%d)] }" % arg, "task": "step", "with": with_, "concurrency": 2}
        return {"call": "map:1.0.0@default", "with": items, "output": {"as": "${ {n: ($input.n + (map(.n) | add))} }"}}
    if kind in ("saga", "undone"):
        return saga(arg, at, undone=kind == "undone")
    if kind == "all":
        branches = [{f"b{name}_{m}": {"do": document(b, f"{at}.{m}")}} for m, b in enumerate(arg)]
        return {"fork": {"branches": branches}, "output": {"as": "${ {n: (map(.n) | add)} }"}}
    return {"try": document(arg, at), "catch": {"do": [{"c" + name: {"set": {"n": CAUGHT}}}]}}


def statement_of_flaky(tries, at):
    return {**asks("flaky", "${ .n }", at, tries), "output": {"as": "${ {n: .n} }"}}


def saga(number, at, undone):
    steps = []
    for m in range(number):
        given = "${ .n }" if m == 0 else "${ $steps.t%d.n }" % (m - 1)
        asked = asks("step", given, f"{at}.{m}")
        one = {"name": f"t{m}", "do": asked["call"], "with": asked["with"]}
        back = asks("revert", "${ .n }", f"{at}.{m}")
        steps.append({**one, "undo": back["call"], "undoWith": back["with"]})
    if undone:
        last = asks("broken", "${ $steps.t%d.n }" % (number - 1), at)
        steps.append({"name": "fails", "do": last["call"], "with": last["with"]})
    return {"call": "saga:1.0.0@default", "with": {"steps": steps}, "output": {"as": "${ {n: .[-1].n} }"}}


def flaky_places(block, at=""):
    for i, (kind, arg) in enumerate(block):
        if kind == "flaky" and arg:
            yield f"{at}.{i}", arg
        elif kind == "catch":
            yield from flaky_places(arg, f"{at}.{i}")
        elif kind == "all":
            for m, branch in enumerate(arg):
                yield from flaky_places(branch, f"{at}.{i}.{m}")


def mocks(block):
    error = {"type": "runtime", "status": 500}
    flaky = [{"call": "any", "with": {"at": at}, "times": tries, "error": error} for at, tries in flaky_places(block)]
    broken = {"call": "any", "with": {"do": "broken"}, "error": error}
    revert = {"call": "any", "with": {"do": "revert"}, "result": None}
    return [*flaky, broken, revert, {"call": "task", "result": {"n": "${ .n + 1 }"}}]


def branches(calls):
    """What was called in each branch, in order. Branches have no order among each other, nor have items of a map."""
    by = {}
    for arg in calls:
        # A branch is known by where its statements stand: all but the last number; steps of sagas have one more.
        by.setdefault(arg["at"].rsplit(".", 1)[0], []).append((arg["do"], arg["at"], arg["n"]))
    return {at: in_order(of) for at, of in by.items()}


def in_order(of):
    """Items of one map are done side by side: sorted among themselves."""
    out = []
    for one in of:
        out.append(one)
        at = len(out) - 1
        while at and out[at][1] == out[at - 1][1] and out[at][0] == out[at - 1][0] and out[at] < out[at - 1]:
            out[at], out[at - 1] = out[at - 1], out[at]
            at -= 1
    return out


def play_python(block, **more):
    """How it ends, with what, what was called, and its keys."""

    @workflow(name="generated")
    def generated(n: int) -> dict:
        return {"n": python(block, n)}

    CALLS.clear()
    outcome = run(generated, 1, **more)
    phase = "faulted" if outcome.phase == "failed" else outcome.phase
    return phase, outcome.json if outcome.phase == "completed" else None, list(CALLS), list(outcome.keys)


def play_documents(binary, blocks):
    """The same of each block as a document, in one call of the command, which loses its memory after every commit."""
    with tempfile.TemporaryDirectory() as folder:

        def write(name, content):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                json.dump(content, file)

        body = [
            {"rest": {"wait": {"seconds": 2}}},
            {"work": {**asks("step", "${ .n }", "${ .at }"), "output": {"as": "${ {n: .n} }"}}},
        ]
        write("kid.yaml", {"document": {**HEAD, "name": "kid"}, "do": body})
        for number, (block, phase) in enumerate(blocks):
            name = f"generated-{number:03}"
            write(f"{name}.yaml", {"document": {**HEAD, "name": name}, "do": document(block)})
            test = {"name": "twin", "input": {"n": 1}, "mocks": mocks(block), "expect": {"phase": phase}}
            write(f"{name}.test.yaml", {"workflows": ["kid.yaml"], "tests": [test]})
        played = subprocess.run(
            [binary, "workflow", "test", folder, "--crash", "--output", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120
        )
        if not played.stdout.strip():
            raise AssertionError(played.stderr.decode())
        files = {os.path.basename(file["file"]): file for file in json.loads(played.stdout)["files"]}
    out = []
    for number in range(len(blocks)):
        file = files[f"generated-{number:03}.test.yaml"]
        if not file.get("tests"):
            raise AssertionError(json.dumps(file)[:4000])
        test = file["tests"][0]
        out.append((test["phase"], test.get("output"), [one["with"] for one in test["calls"] if one["call"] != "workflow"], test))
    return out


def find_binary():
    given = os.environ.get("TIDEWHEEL_BIN")
    builds = [os.path.join(os.path.dirname(support.ROOT), "target", build, "tidewheel") for build in ("debug", "release")]
    found = [path for path in ([given] if given else builds) if path and os.access(path, os.X_OK)]
    return found[0] if found else shutil.which("tidewheel")


class Twins(unittest.TestCase):
    def test_a_workflow_means_the_same_as_a_document_and_as_code(self):
        binary = find_binary()
        if binary is None:
            self.skipTest("there is no tidewheel binary: build it, or name it in TIDEWHEEL_BIN")
        blocks = [generate(random.Random(seed)) for seed in range(FLOWS)]
        coded = [play_python(block, shuffle=seed, replay_every_step=seed % 3 == 0) for seed, block in enumerate(blocks)]
        played = play_documents(binary, [(block, code[0]) for block, code in zip(blocks, coded)])
        kinds = set()
        for seed, (block, code, text) in enumerate(zip(blocks, coded, played)):
            with self.subTest(seed=seed):
                self.assertEqual(code[:2], text[:2], (block, text[3]))
                key = lambda arg: (arg["at"], arg["do"], arg["n"])  # noqa: E731
                self.assertEqual(sorted(code[2], key=key), sorted(text[2], key=key), block)
                self.assertEqual(branches(code[2]), branches(text[2]), block)
                kinds.update((code[0], arg["do"]) for arg in code[2])
                # A process that dies in the middle changes nothing.
                crash = random.Random(seed).choice(code[3])
                again = play_python(block, shuffle=seed, crash_at=crash)
                self.assertEqual((again[:2], sorted(again[2], key=key)), (code[:2], sorted(code[2], key=key)), (block, crash))
        self.assertIn(("faulted", "revert"), kinds)
        self.assertIn(("completed", "broken"), kinds)
        self.assertIn(("completed", "flaky"), kinds)


if __name__ == "__main__":
    unittest.main()
