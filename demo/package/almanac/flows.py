"""A workflow written in Python: how wet the seasons are. `demo/seasons.yaml` starts it.

It does little, and shows much: tasks side by side, a step that is remembered, a wait that costs nothing, and work that is undone
because something after it fails, on purpose.
"""

from __future__ import annotations

from typing import Any, Dict, List

from tidewheel import TaskFailed, ctx, task, wf, workflow

from .tasks import PATIENT, rain

SEASONS = {"spring": [3, 4, 5], "summer": [6, 7, 8], "autumn": [9, 10, 11]}


@task(name="almanac.publish", retry=PATIENT, timeout="1m")
def publish(page: str) -> Dict[str, str]:
    """Puts a page on the board. The key is the same for each attempt, so that it is there once."""
    return {"page": page, "receipt": ctx.idempotency_key(page)}


@task(name="almanac.announce", timeout="1m")
def announce(page: str) -> None:
    """Tells the readers. It fails, each time and on purpose."""
    raise RuntimeError(f"the mail server refuses to announce {page}")


@task(name="almanac.withdraw", retry=PATIENT, timeout="1m")
def withdraw(page: str) -> Dict[str, str]:
    """Takes a page off the board again."""
    return {"withdrawn": page}


@workflow(version="1")
def rehearsal(page: str) -> Dict[str, str]:
    """Publishes and announces a page. Since the announcement fails, what was published is withdrawn."""
    published = publish(page)
    wf.undo(withdraw, page)
    announce(page)
    return published


@workflow(version="1")
def outlook(year: int) -> Dict[str, Any]:
    """Wet days of each season, a season after the other, its months side by side."""
    seasons: Dict[str, int] = {}
    for name, months in SEASONS.items():
        found: List[Dict[str, Any]] = wf.map(rain, [{"year": year, "month": month} for month in months], concurrency=3)
        seasons[name] = sum(month["wet"] for month in found)
        wf.status({"season": name, "wet": seasons[name]})
        wf.sleep("500ms")
    driest = wf.step("driest", lambda: min(seasons, key=seasons.__getitem__))
    try:
        rehearsal(f"outlook-{year}")
        rehearsed = "published"
    except TaskFailed as error:
        rehearsed = f"withdrawn: {error}"
    return {"seasons": seasons, "driest": driest, "rehearsal": rehearsed, "receipt": publish(f"outlook-{year}")["receipt"]}
