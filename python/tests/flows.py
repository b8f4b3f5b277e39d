"""Drives activations as an engine would: for tests of the driver and of the shim, in which nothing else is under test."""

import support  # noqa: F401
import copy
import json

from tidewheel._driver import activate
from tidewheel.context import Context, LocalHost


class FlowHost:
    """A host that remembers."""

    def __init__(self, turns=()):
        self.lines = []
        self.turns = list(turns)
        self.loads = []

    def history(self, run, generation, epoch, below):
        return [turn for turn in self.turns if not isinstance(turn, dict) or turn["no"] < below]

    def load(self, ref):
        self.loads.append(ref)
        return ["loaded", ref["$ref"]]

    def log(self, level, msg, fields):
        self.lines.append((level, msg, fields))

    def step_context(self, idempotency_key):
        return Context(LocalHost(), "step", {"idempotency_key": idempotency_key})


def payload(turns, ref="default/f:1.0.0", input=None, first=1, **more):
    """The input of an activation, through JSON as it comes."""
    body = {"v": 1, "run": "run_1", "workflow": ref, "seed": "00ff", "generation": 0, "input": input, "first": first, "turns": turns, **more}
    return json.loads(json.dumps(body))


class Run:
    """One run: its turns, and the way on. ``once`` is called for each live activation."""

    def __init__(self, workflow, input=None, parked=None, once=None):
        self.workflow = workflow
        self.input = {} if input is None else input
        self.parked = parked
        self.host = FlowHost()
        self.turns = []
        self.now = 1_000_000
        self.once = once or (lambda body: activate(self.workflow, body, self.host, self.parked))
        self.result = {}

    def turn(self, *done, cancel=None, after=1000, first=1):
        """Goes on with what has ended: ``(key, value)``, ``(key, exception-like dict, "error")``."""
        self.now += after
        turn = {"no": len(self.turns) + 1, "now": self.now, "done": [_done(item, self.now) for item in done]}
        if cancel is not None:
            turn["cancel"] = cancel
        body = payload(copy.deepcopy((self.turns + [turn])[first - 1 :]), self.workflow.ref, self.input, first)
        self.result = self.once(body)
        self.turns.append({**turn, "opened": [{"key": c["key"], "hash": c["hash"]} for c in self.result["commands"]]})
        return self.result

    @property
    def keys(self):
        return [item["key"] for turn in self.turns for item in turn["opened"]]


def _done(item, at):
    if isinstance(item, dict):
        return {"at": at, **item}
    key, value, *status = item
    if status:
        return {"key": key, "status": status[0], "error": value, "at": at}
    return {"key": key, "status": "ok", "value": value, "at": at}
