"""When is it pleasant outside? A weather almanac of two cities, made by 338 durable tasks.

    split ──┬── cell × 288    one per city, month and two hours of the day: temperature and how sure we are of it
            └── rain × 48     one per month of four years; every third one fails at its first attempt
    report                    all results as a table (CSV, HTML) and a chart (PNG)

The data are measurements of NOAA, the weather service of the United States, as the PyPI package `vega_datasets` carries
them: 17,518 hourly temperatures of 2010, and 1,461 days of Seattle's weather from 2012 to 2015.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, Dict, List

import numpy as np
import pandas as pd
from tidewheel import Retry, ctx, task
from vega_datasets import data

CITIES = {"seattle": "Seattle", "sf": "San Francisco"}
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
YEARS = range(2012, 2016)
BLOCK_HOURS = 2
#: What most people like to sit outside in, in degrees Celsius.
PLEASANT = (15.0, 24.0)
#: A lost agent costs an attempt, as any failure does; the demo kills one, so there are some to spare.
PATIENT = Retry(10, delay="500ms", max_delay="2s")


@lru_cache(maxsize=None)
def hourly(city: str) -> pd.DataFrame:
    """Hourly temperatures of a city. The process stays warm between tasks, so they are read once."""
    table = data.seattle_temps() if city == "seattle" else data.sf_temps()
    return pd.DataFrame(
        {"month": table["date"].dt.month, "hour": table["date"].dt.hour, "celsius": (table["temp"] - 32) / 1.8}
    )


@task(name="almanac.split", retry=PATIENT, timeout="5m")
def split() -> Dict[str, Any]:
    """Submits a task for every group.

    Each has a key made of this task's own key and the name of the group. If this attempt dies half way, the next one
    submits all of them again and gets the tasks that are there already.
    """
    ids: List[str] = []
    for city in CITIES:
        for month in range(1, 13):
            for hour in range(0, 24, BLOCK_HOURS):
                key = ctx.idempotency_key(f"{city}-{month}-{hour}")
                ids.append(cell.enqueue(city, month, hour, labels=ctx.labels, idempotency_key=key).id)
            ctx.progress(len(ids) / 336, f"{CITIES[city]}, {MONTHS[month - 1]}")
    for year in YEARS:
        for month in range(1, 13):
            key = ctx.idempotency_key(f"rain-{year}-{month}")
            ids.append(rain.enqueue(year, month, labels=ctx.labels, idempotency_key=key).id)
    rows = sum(len(hourly(city)) for city in CITIES)
    ctx.log.info("split", tasks=len(ids), hours=rows)
    return {"ids": ids, "hours": rows, "days": len(data.seattle_weather())}


@task(name="almanac.cell", retry=PATIENT, timeout="2m")
def cell(city: str, month: int, hour: int) -> Dict[str, Any]:
    """The mean temperature of one part of the day in one month, with its 95 % interval by the bootstrap."""
    table = hourly(city)
    block = table["hour"].between(hour, hour + BLOCK_HOURS - 1)
    celsius = table.loc[(table["month"] == month) & block, "celsius"].to_numpy()
    # Seeded by the group: every attempt comes to the same figures.
    draw = np.random.default_rng([*city.encode(), month, hour])
    means: List[float] = []
    for part in range(10):
        sample = draw.choice(celsius, size=(10_000, len(celsius)))
        means.extend(sample.mean(axis=1))
        ctx.progress((part + 1) / 10)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "city": city, "month": month, "hour": hour, "hours": len(celsius),
        "mean": round(float(celsius.mean()), 2), "low": round(float(low), 2), "high": round(float(high), 2),
        "pleasant": int(((celsius >= PLEASANT[0]) & (celsius <= PLEASANT[1])).sum()),
    }


@task(name="almanac.rain", retry=Retry(10, delay="1s", factor=1, on=(ConnectionError,)), timeout="1m")
def rain(year: int, month: int) -> Dict[str, Any]:
    """Wet days and the longest dry spell of one month in Seattle. Reading its data fails now and then, on purpose."""
    if ctx.attempt == 1 and month % 3 == 0:
        raise ConnectionError(f"the archive of {MONTHS[month - 1]} {year} did not answer")
    table = data.seattle_weather()
    table = table[(table["date"].dt.year == year) & (table["date"].dt.month == month)]
    wet = table["precipitation"].to_numpy() > 0
    longest = spell = 0
    for is_wet in wet:
        spell = 0 if is_wet else spell + 1
        longest = max(longest, spell)
    return {"year": year, "month": month, "days": len(wet), "wet": int(wet.sum()), "dry_spell": longest}


@task(name="almanac.report", retry=PATIENT, timeout="2m", priority="high")
def report(cells: List[Dict[str, Any]], rains: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Brings the results together: a table in three forms, and a chart of which each field was one task."""
    measured = pd.DataFrame(cells)
    wet = pd.DataFrame(rains).groupby("month")
    days_of = measured.groupby(["city", "month"])["hours"].sum() / 24
    table = pd.DataFrame({"Month": MONTHS})
    for city, name in CITIES.items():
        of_city = measured[measured["city"] == city].groupby("month")
        table[f"{name} °C"] = of_city["mean"].mean().round(1).to_numpy()
        table[f"{name} pleasant h/day"] = (of_city["pleasant"].sum() / days_of[city]).round(1).to_numpy()
    table["Seattle wet days"] = wet["wet"].mean().round(1).to_numpy()
    table["Seattle dry spell"] = wet["dry_spell"].max().to_numpy()
    ctx.artifact("almanac.csv", table.to_csv(index=False).encode())
    ctx.artifact("almanac.html", page(table).encode())
    ctx.artifact("almanac.png", chart(measured))
    return {
        "columns": list(table.columns), "rows": table.astype(object).to_numpy().tolist(),
        "hours": int(measured["hours"].sum()), "days": int(sum(item["days"] for item in rains)),
    }


def page(table: pd.DataFrame) -> str:
    """The table as a page of its own."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Weather almanac</title>'
        "<style>body{font:16px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:right}</style>"
        f"<h1>Weather almanac</h1>{table.to_html(index=False, border=0)}"
        "<p>Measurements: NOAA, through vega_datasets. Made by Tidewheel.</p></html>"
    )


def chart(measured: pd.DataFrame) -> bytes:
    """Month against time of day, one field per task."""
    import matplotlib

    matplotlib.use("Agg")  # no screen here
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CITIES), figsize=(11, 5), sharey=True, layout="constrained")
    colours = {"vmin": measured["mean"].min(), "vmax": measured["mean"].max(), "cmap": "RdYlBu_r", "aspect": "auto"}
    for axis, (city, name) in zip(axes, CITIES.items()):
        grid = measured[measured["city"] == city].pivot(index="hour", columns="month", values="mean")
        image = axis.imshow(grid, **colours)
        axis.set_title(name)
        axis.set_xticks(range(12), MONTHS)
        axis.set_yticks(range(len(grid)), [f"{hour:02d}:00" for hour in grid.index])
    figure.colorbar(image, ax=axes, label="mean temperature, °C")
    figure.suptitle("Temperature by month and time of day, 2010")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()
