"""The code of the golden journals (`golden/*.json`). It may only change in ways that every one of them replays with.

``python3 golden_flows.py`` prints what this version writes, for a new file when the version of the package changes."""

import support  # noqa: F401
import asyncio

from tidewheel import TaskFailed, Timeout, task, wf, workflow


@task(queue="billing", timeout="1m")
def charge(order: str, cents: int) -> dict:
    return {"order": order, "cents": cents}


@task
def refuse(why: str) -> None:
    raise ValueError(why)


@task
def release(order: str) -> None:
    pass


@workflow(namespace="golden", version="1")
def packed(id: str) -> str:
    return "packed " + id


@workflow(namespace="golden", version="1")
def order(id: str, round: int = 0) -> dict:
    """Has every kind of entry."""
    wf.status({"round": round})
    wf.undo(release, id)
    paid = charge(id, 1250)
    checks = wf.all(charge.submit(id, 1), lambda: charge(id, 2), lambda: [wf.sleep("1d"), charge(id, 3)][1])
    rows = wf.map(charge, [(id, n) for n in range(3)], concurrency=2)
    which, signal = wf.any(lambda: wf.signal("hurry"), lambda: wf.sleep("2d"))
    try:
        refuse("no")
    except TaskFailed as error:
        refused = error.detail
    try:
        wf.event("com.acme.paid", where={"order": id}, timeout="3d")
        came = True
    except Timeout:
        came = False
    stamp = wf.step("stamp", lambda: 7)
    answer = wf.promise("answer").result()
    extra = charge(id, 9) if wf.patched("extra") else None
    child = wf.call_workflow(packed, {"id": id})
    chance = wf.random().randint(0, 1000), str(wf.uuid()), wf.now().isoformat()
    if round == 0:
        wf.continue_as_new(id, round=1)
    return {"paid": paid, "checks": checks, "rows": rows, "which": which, "signal": signal, "refused": refused, "came": came, "stamp": stamp,
            "answer": answer, "extra": extra, "child": child, "chance": chance}


@workflow(namespace="golden", version="1")
async def pipelines(count: int) -> list:
    """asyncio: tasks, timers, a limit."""

    async def one(n: int) -> list:
        value = await charge(str(n), n)
        await asyncio.sleep(count - n)
        more = await asyncio.gather(charge.submit("x", n), charge.submit("y", n))
        return [value, more]

    results = await asyncio.gather(*[one(n) for n in range(count)])
    try:
        await asyncio.wait([asyncio.ensure_future(wf.signal("never"))], timeout=60)
    finally:
        await wf.step("tidy", lambda: None)
    return [results, wf.random().random()]


BY_NAME = {"golden/order": order, "golden/pipelines": pipelines}


def main() -> None:
    import json
    import os
    import sys

    from tidewheel.testing import run

    outcome = run(order, "o-1", signals=[("40h", "hurry", {"now": True})], promises=[(0, "answer", 42), (0, "answer", 43)])
    outcome.unwrap()
    made = {"order": outcome.history(0), "order-next": outcome.history(1)}
    outcome = run(pipelines, 3, shuffle=1)
    outcome.unwrap()
    made["pipelines"] = outcome.history()
    folder = sys.argv[2]
    for name, journal in made.items():
        with open(os.path.join(folder, f"{sys.argv[1]}-{name}.json"), "x") as file:
            json.dump(journal, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
