"""What the driver of workflows costs: per activation, and per entry of a replay. ``python3 python/tests/bench_flows.py``"""

import support  # noqa: F401
import time

from flows import FlowHost, payload
from tidewheel import task, wf, workflow
from tidewheel._driver import Parked, activate
from tidewheel._journal import hash_of

ENTRIES = 5_000


@task
def call(x: int) -> int:
    return x


@workflow(name="one")
def plain(x: int = 1) -> int:
    return call(x)


@workflow(name="one")
async def aio(x: int = 1) -> int:
    return await call(x)


@workflow(name="many")
def plain_many(n: int) -> int:
    return sum([call(i) for i in range(n)])


@workflow(name="many")
async def aio_many(n: int) -> int:
    return sum([await call(i) for i in range(n)])


def measured(function, count):
    times = []
    for i in range(count):
        begin = time.perf_counter()
        function(i)
        times.append((time.perf_counter() - begin) * 1e6)
    times.sort()
    return f"p50 {times[count // 2]:.0f} us, p90 {times[count * 9 // 10]:.0f} us"


def main():
    host = FlowHost()
    for name, function in (("plain", plain), ("async", aio)):
        first = payload([{"no": 1, "now": 1, "done": []}], function.ref, {})
        opened = [{"key": "/task:call#0", "hash": hash_of({"x": 1})}]
        second = payload([{**first["turns"][0], "opened": opened}, {"no": 2, "now": 2, "done": [{"key": "/task:call#0", "status": "ok", "value": 3}]}],
                         function.ref, {})
        print(f"{name}: replay of a turn, and the end       {measured(lambda i: activate(function, second, host), 3000)}")
        parked = Parked(10**9)

        def go(body, i):
            body["run"] = f"run_{i}"
            activate(function, body, host, parked)

        print(f"{name}: first turn, parked, new threads     {measured(lambda i: go(first, i), 500)}")
        print(f"{name}: second turn of what is parked       {measured(lambda i: go(second, i), 500)}")
        print(f"{name}: first turn, parked, threads kept    {measured(lambda i: go(first, i), 60)}")
    for name, function in (("plain", plain_many), ("async", aio_many)):
        turns = []
        for i in range(ENTRIES + 1):
            done = [{"key": f"/task:call#{i - 1}", "status": "ok", "value": 1}] if i else []
            turns.append({"no": i + 1, "now": i, "done": done, "opened": [{"key": f"/task:call#{i}", "hash": hash_of({"x": i})}]})
        body = payload(turns, function.ref, {"n": ENTRIES})
        begin = time.process_time()
        assert activate(function, body, host)["end"] == {"ok": ENTRIES}
        print(f"{name}: replay, per entry                   {(time.process_time() - begin) / ENTRIES * 1e6:.0f} us of processor time")


if __name__ == "__main__":
    main()
