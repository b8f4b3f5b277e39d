"""Runs the demo: 338 durable tasks on real data, and two workflows, while agent and server are killed. Standard library only.

What a person would do is done with the command line and shown; what a program would do goes through `tidewheel.client`.

    scripts/demo                               the demo (also: make demo)
    KEEP=1 scripts/demo                        keep server and agent up afterwards
    scripts/demo --kill server@10 --kill agent@50 --kill both@90
                                               kill at other moments, in per cent of the tasks done
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python" / "src"))
from tidewheel.client import Client  # noqa: E402  (the folder has to be on the path first)

BINARY = Path(os.environ.get("TIDEWHEEL_BIN") or ROOT / "target" / "release" / "tidewheel")
OUT = Path(os.environ.get("DEMO_OUT") or ROOT / "demo-out")
PACKAGE = ROOT / "demo" / "package"
#: Environments and downloads. `deploy` and the agent share it, and later runs find it filled.
CACHE = OUT / "cache" / "tidewheel" / "build"
#: One split, 288 cells, 48 months of rain, one report: what `almanac/tasks.py` makes of its data.
TASKS = 1 + 288 + 48 + 1
HOURS, DAYS = 17_518, 1_461
#: Hours from 18 to 20 o'clock in both cities, and wet days of Seattle from March to November 2014.
EVENING_HOURS, WET_2014 = 1_460, 103
#: Attempts at once. Fixed, so that the demo takes about as long on a large machine as on a small one.
CAPACITY = 4
PATIENCE_S = 300
TERMINAL = ("succeeded", "failed", "dead", "cancelled", "expired")


def shown(path: Path) -> str:
    """A path as a person in this folder would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def has_uv() -> bool:
    """Whether the agent will find uv; it looks at these places too."""
    given = os.environ.get("TIDEWHEEL_UV")
    return given != "none" if given else shutil.which("uv") is not None


def say(text: str = "") -> None:
    bar.clear()
    print(text, flush=True)


def step(title: str) -> None:
    say(f"\n\033[1m── {title}\033[0m" if sys.stdout.isatty() else f"\n── {title}")


class Bar:
    """One line on a terminal; elsewhere a line for each tenth."""

    def __init__(self) -> None:
        self.drawn = False
        self.tenth = -1

    def show(self, done: int, text: str) -> None:
        filled = 30 * done // TASKS
        line = f"  {'█' * filled}{'░' * (30 - filled)} {done:3} of {TASKS}  {text}"
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="", flush=True)
            self.drawn = True
        elif 10 * done // TASKS > self.tenth:
            self.tenth = 10 * done // TASKS
            print(line, flush=True)

    def clear(self) -> None:
        if self.drawn:
            print("\r\033[K", end="")
            self.drawn = False


bar = Bar()


class Failed(Exception):
    """The demo cannot go on; the text says why."""


class Process:
    """A part of Tidewheel that runs beside us, in a process group of its own so that it can be killed whole."""

    def __init__(self, name: str, arguments: list, environment: dict) -> None:
        self.name, self.arguments, self.environment = name, arguments, environment
        self.log = OUT / f"{name}.log"
        self.process: "subprocess.Popen | None" = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(BINARY), *self.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self.environment}, start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass  # it has ended by itself, which was the aim
            if number == signal.SIGKILL:
                self.process.wait()

    def stop(self) -> None:
        """Asks it to end, and makes sure of it."""
        if self.is_alive():
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:] if self.log.exists() else []
        return "\n".join(f"    {line}" for line in lines)


class Demo:
    def __init__(self, kills: list) -> None:
        self.kills = kills
        self.killed: "Counter[str]" = Counter()
        self.down = 0.0
        self.run = time.strftime("%Y%m%d-%H%M%S")
        self.begun = time.monotonic()
        self.first = not CACHE.exists()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment: dict = {"TIDEWHEEL_URL": self.url, "XDG_CACHE_HOME": str(OUT / "cache")}
        self.server = Process("server", ["server", "--data-dir", str(OUT / "server"), "--listen", f"127.0.0.1:{self.port}"], {})
        self.agent: "Process | None" = None

    # -- parts -------------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, show: bool = True, environment: "dict | None" = None) -> str:
        """Runs a verb of the command line as a person would; what it prints is shown, and returned."""
        if show:
            say(f"$ tidewheel {shlex.join(arguments)}")
        result = subprocess.run(
            [str(BINARY), *arguments], env={**os.environ, **self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        if result.returncode != 0:
            raise Failed(f"'tidewheel {shlex.join(arguments)}' ended with exit code {result.returncode}:\n{result.stderr.strip()}")
        for line in (result.stdout + result.stderr).rstrip().splitlines() if show else ():
            say(f"  {line}")
        return result.stdout

    def start_server(self) -> None:
        self.server.start()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if not self.server.is_alive():
                raise Failed(f"the server has ended; the end of {shown(self.server.log)}:\n{self.server.last_words()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise Failed(f"the server is not ready after 30 s; the end of {shown(self.server.log)}:\n{self.server.last_words()}")

    def set_up(self) -> None:
        step("A server and an agent, each a process of its own")
        shutil.rmtree(OUT / "server", ignore_errors=True)
        OUT.mkdir(parents=True, exist_ok=True)
        for log in OUT.glob("*.log"):
            log.unlink()
        self.start_server()
        say(f"  server: {self.url}, process {self.server.process.pid}, data in {shown(OUT / 'server')}")
        self.environment["TIDEWHEEL_TOKEN"] = self.first_token()
        self.client = Client(self.url, self.environment["TIDEWHEEL_TOKEN"], patience=PATIENCE_S)
        made = json.loads(self.command("token", "create", "demo-agent", "--role", "worker", "-o", "json", show=False))
        arguments = ["agent", "--server", self.url, "--capacity", str(CAPACITY), "--data-dir", str(CACHE)]
        self.agent = Process("agent", arguments, {"TIDEWHEEL_TOKEN": made["secret"]})
        self.agent.start()
        say(f"  agent:  process {self.agent.process.pid}, a token with the role 'worker', {CAPACITY} attempts at once")

    def first_token(self) -> str:
        """The admin token, which the first start of a server writes into its folder."""
        file = OUT / "server" / "admin-token"
        for _ in range(100):
            if file.exists():
                return file.read_text().strip()
            time.sleep(0.05)
        raise Failed(f"the server wrote no {shown(file)}")

    def deploy(self) -> None:
        step("Deploy an automation package with third-party dependencies (pandas, matplotlib, vega_datasets)")
        if self.first:
            say("  The first time, their environment is built; later runs find it.")
        if not has_uv():
            say("  uv is not there: python3 -m venv and pip build the environment, which is slower, and nothing is locked with hashes.")
        arguments = ["deploy", shown(PACKAGE), "-o", "table"]
        try:
            self.command(*arguments)
        except Failed as error:
            if not any(sign in str(error).lower() for sign in ("dns", "connect", "fetch", "network", "timed out", "request")):
                raise
            say("  The package index cannot be reached; trying again with what is in the cache.")
            try:
                self.command(*arguments, environment={"UV_OFFLINE": "1"})
            except Failed:
                # That the cache has nothing says less than why there was nothing else.
                raise error from None

    def kill(self, what: str) -> None:
        """SIGKILL, a moment of silence, and a new start."""
        begun = time.monotonic()
        for name in ("agent", "server"):
            if what in (name, "both"):
                process = getattr(self, name)
                say(f"  ✗ SIGKILL to the {name} (process group {process.process.pid})")
                process.signal(signal.SIGKILL)
                self.killed[name] += 1
        time.sleep(1)
        for name in ("server", "agent"):
            if what in (name, "both"):
                self.start_server() if name == "server" else self.agent.start()
                process = getattr(self, name)
                say(f"  ✓ the {name} is back after {time.monotonic() - begun:.1f} s (process {process.process.pid})")
        self.down += time.monotonic() - begun

    # -- the job -----------------------------------------------------------------------------------------------------

    def records(self) -> list:
        """What the server says of every task of this run."""
        return list(self.client.list(filter=f"label.run:{self.run}", limit=1000))

    def submit(self, kind: str, value: object) -> str:
        """The key makes a repeat harmless: whoever runs this twice gets the task that is there."""
        labels = {"run": self.run}
        return self.client.submit(kind, value, labels=labels, idempotency_key=f"{self.run}-{kind}").id

    def work(self) -> None:
        step(f"{TASKS} tasks: one that splits the data, 336 that analyse a group each, one that reports")
        key = f"{self.run}-almanac.split"
        submit = ["task", "submit", "almanac.split", "--label", f"run={self.run}", "--idempotency-key", key, "-o", "name"]
        self.split = self.command(*submit).split()[-1]
        self.follow(until=TASKS - 1)
        self.parts = self.client.result(self.split, timeout=PATIENCE_S)
        with ThreadPoolExecutor(8) as pool:
            values = list(pool.map(lambda task: self.client.result(task, timeout=PATIENCE_S), self.parts["ids"]))
        cells = [value for value in values if "hour" in value]
        self.report = self.submit("almanac.report", {"cells": cells, "rains": [value for value in values if "wet" in value]})
        self.follow(until=TASKS)
        self.result = self.client.result(self.report, timeout=PATIENCE_S)
        bar.clear()

    def follow(self, until: int) -> None:
        """Shows the progress, and kills where it is time to."""
        changed, last = time.monotonic(), -1
        while True:
            states = Counter(record["state"] for record in self.records())
            done = states["succeeded"]
            waiting = states["queued"] + states["scheduled"]
            bar.show(done, f"{states['running']} at the agent, {waiting} waiting")
            if done >= until:
                return
            ended = sum(states[state] for state in TERMINAL) - done
            if ended:
                raise Failed(f"{ended} tasks ended without success; see: tidewheel task list --filter 'label.run:{self.run} -state:succeeded'")
            if done != last:
                changed, last = time.monotonic(), done
            if time.monotonic() - changed > PATIENCE_S:
                raise Failed(f"nothing has happened for {PATIENCE_S} s")
            if self.kills and 100 * done >= self.kills[0][1] * TASKS:
                self.kill(self.kills.pop(0)[0])
                changed = time.monotonic()
            if not self.agent.is_alive():
                raise Failed(f"the agent has ended; the end of {shown(self.agent.log)}:\n{self.agent.last_words()}")
            time.sleep(0.2)

    def show_report(self) -> None:
        step("The report")
        rows = [self.result["columns"], *self.result["rows"]]
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            say("  " + "  ".join(str(value).rjust(width) for value, width in zip(row, widths)))
            if number == 0:
                say("  " + "  ".join("─" * width for width in widths))
        say()
        for name in ("almanac.png", "almanac.csv", "almanac.html"):
            (OUT / name).unlink(missing_ok=True)  # of an earlier run; the command would ask
            self.command("artifact", "get", self.report, name, "--to", shown(OUT))
        size = (OUT / "almanac.png").stat().st_size
        say(f"  chart: {shown(OUT / 'almanac.png')} ({size:,} bytes), page: {shown(OUT / 'almanac.html')}")

    # -- the proof ---------------------------------------------------------------------------------------------------

    def prove(self) -> bool:
        """Compares what was submitted with the server's records. Nothing that this process remembers of the results counts."""
        step("The proof, from the server's own records")
        self.command("task", "list", "--counts", "-o", "table", "--columns", "counts.succeeded,counts.failed,counts.dead,counts.queued,counts.running")
        submitted = [self.split, *self.parts["ids"], self.report]
        records = {record["id"]: record for record in self.records()}
        with ThreadPoolExecutor(8) as pool:
            attempts = dict(zip(records, pool.map(self.attempts_of, records)))
        outcomes = Counter(attempt["outcome"] for of_task in attempts.values() for attempt in of_task)
        again = sum(record["attempt"] > 1 for record in records.values())
        wrong = {task: record["state"] for task, record in records.items() if record["state"] != "succeeded"}
        unequal = [task for task, of_task in attempts.items() if sum(a["outcome"] == "succeeded" for a in of_task) != 1]
        flaky = [t for t, r in records.items() if r["type"] == "almanac.rain" and any(a["outcome"] == "failed" for a in attempts[t])]
        checks = [
            (f"{len(submitted)} tasks were submitted, all different", len(set(submitted)) == len(submitted) == TASKS, len(set(submitted))),
            ("the server knows each of them, and no other", set(records) == set(submitted), sorted(set(records) ^ set(submitted))),
            ("each has the one terminal state 'succeeded'", not wrong, wrong),
            ("each has exactly one successful attempt", not unequal, unequal),
            (f"the results cover all {HOURS:,} hours and {DAYS:,} days of the data", (self.result["hours"], self.result["days"]) == (HOURS, DAYS),
             (self.result["hours"], self.result["days"])),
            ("the flaky step failed, and was retried", bool(flaky), "no attempt failed"),
        ]
        for text, holds, found in checks:
            say(f"  {'✓' if holds else '✗'} {text}" + ("" if holds else f": {found}"))
        kills = ", ".join(f"{name} {count}×" for name, count in self.killed.items()) or "none"
        say(f"\n  attempts {sum(outcomes.values())}: {outcomes['succeeded']} succeeded, {outcomes['failed']} failed and retried, "
            f"{outcomes['lost']} lost and granted again, {outcomes['returned']} returned unstarted; {again} tasks needed more than one")
        say(f"  killed with SIGKILL: {kills} (down {self.down:.1f} s); total {time.monotonic() - self.begun:.1f} s")
        self.example("lost", attempts)
        self.example("failed", attempts)
        return all(holds for _, holds, _ in checks) and not self.kills

    # -- workflows ---------------------------------------------------------------------------------------------------

    def flow(self) -> None:
        """A workflow that starts one in Python, while agent and server are killed at moments of chance."""
        step("A workflow fans out over the same data, makes a failure good, sleeps, and starts one written in Python")
        self.command("workflow", "deploy", shown(ROOT / "demo" / "seasons.yaml"), "-o", "table")
        started = self.command("workflow", "run", "almanac/seasons", "--input", '{"year": 2014}', "-o", "name")
        self.flow_id = started.split()[-1]
        chance = Random()
        for what in ("agent", "server"):
            time.sleep(chance.uniform(0.3, 2.5))
            self.kill(what)
        end = time.monotonic() + PATIENCE_S
        while True:
            self.flow_run = json.loads(self.command("run", "get", self.flow_id, "-o", "json", show=False))
            if self.flow_run["phase"] in ("completed", "faulted", "cancelled"):
                break
            if time.monotonic() > end:
                raise Failed(f"the run does not end; see: tidewheel run journal {self.flow_id}")
            time.sleep(0.2)
        self.tree = json.loads(self.command("run", "tree", self.flow_id, "-o", "json", show=False))
        say()
        columns = ("-o", "table", "--columns", "key,status,opened_at,done_at")
        self.command("run", "journal", self.flow_id, *columns)
        say()
        say("  and that of the workflow in Python:")
        python = next(run["id"] for run in self.runs_below(self.tree) if run["workflow"] == "outlook")
        self.command("run", "journal", python, *columns)

    def runs_below(self, tree: dict) -> list:
        return [tree["run"], *(run for below in tree.get("children", ()) for run in self.runs_below(below))]

    def prove_flow(self) -> bool:
        """What the server says of the run, of those below it, and of their tasks."""
        step("The proof of the workflow")
        runs = self.runs_below(self.tree)
        output = self.flow_run.get("output") or {}
        entries = [entry for run in runs for entry in self.journal_of(run["id"])]
        tasks = [entry["task"] for entry in entries if entry.get("task") and entry["kind"] in ("task", "undo")]
        with ThreadPoolExecutor(8) as pool:
            attempts = list(pool.map(self.attempts_of, tasks))
        well = [sum(attempt["outcome"] == "succeeded" for attempt in of_task) for of_task in attempts]
        failing = sum(entry["kind"] == "task" and entry["status"] == "failed" for entry in entries)
        keys = Counter((entry["run"], entry["key"]) for entry in entries)
        undone = [entry for entry in entries if entry["kind"] == "undo"]
        phases = Counter(run["phase"] for run in runs)
        outlook = output.get("outlook", {})
        checks = [
            ("the run completed, though agent and server were killed", self.flow_run["phase"] == "completed", self.flow_run.get("error")),
            ("the second workflow, in Python, completed; its rehearsal failed as planned", phases == Counter(completed=2, faulted=1), dict(phases)),
            ("what the failed rehearsal had done is undone, once", [entry["status"] for entry in undone] == ["done"], undone),
            ("the planted failure was caught and made good", "refuses" in str(output.get("board", {}).get("made_good")), output.get("board")),
            ("no key is in a journal twice", all(count == 1 for count in keys.values()), [key for key, count in keys.items() if count > 1]),
            ("each task has one successful attempt, but the two that fail on purpose", sorted(well) == [0] * 2 + [1] * (len(well) - 2) and failing == 2,
             (well, failing)),
            ("the evenings cover 24 fields of the data", output.get("measured") == EVENING_HOURS, output.get("measured")),
            ("the wet days are those of the data", sum(outlook.get("seasons", {}).values()) == WET_2014, outlook),
        ]
        for text, holds, found in checks:
            say(f"  {'✓' if holds else '✗'} {text}" + ("" if holds else f": {found}"))
        say(f"\n  output: {json.dumps(output)}")
        say(f"  to look at it: tidewheel run tree {self.flow_id}")
        return all(holds for _, holds, _ in checks)

    def journal_of(self, run: str) -> list:
        text = self.command("run", "journal", run, "-o", "json", show=False)
        return [{**entry, "run": run} for entry in json.loads(text)["items"]]

    def attempts_of(self, task: str) -> list:
        return json.loads(self.command("task", "attempts", task, "-o", "json", show=False))["items"]

    def example(self, outcome: str, attempts: dict) -> None:
        """One task to look at."""
        for task, of_task in attempts.items():
            if any(attempt["outcome"] == outcome for attempt in of_task):
                say()
                columns = "number,outcome,granted_at,error.type,error.message"
                self.command("task", "attempts", task, "-o", "table", "--columns", columns)
                return

    def stop(self) -> None:
        for process in (self.agent, self.server):
            if process is not None:
                process.stop()


def parse(argv: list) -> list:
    parser = argparse.ArgumentParser(description="The Tidewheel demo.")
    parser.add_argument("--kill", action="append", metavar="WHAT@PERCENT", help="agent, server or both; may be given several times")
    kills = []
    for text in parser.parse_args(argv).kill or ["agent@25", "server@60"]:
        what, _, percent = text.partition("@")
        if what not in ("agent", "server", "both") or not percent.isdigit() or int(percent) > 99:
            parser.error(f"--kill {text}: write for example agent@25, server@60 or both@50")
        kills.append((what, int(percent)))
    return sorted(kills, key=lambda kill: kill[1])


def main() -> int:
    demo = Demo(parse(sys.argv[1:]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kept = False
    try:
        print("Tidewheel demo: a weather almanac of two cities, computed while its agent and its server are killed.")
        demo.set_up()
        demo.deploy()
        demo.work()
        demo.show_report()
        proven = demo.prove()
        demo.flow()
        proven = demo.prove_flow() and proven
        if os.environ.get("KEEP"):
            kept = True
            step("Kept up (KEEP=1)")
            say(f"  export TIDEWHEEL_URL={demo.url} TIDEWHEEL_TOKEN={demo.environment['TIDEWHEEL_TOKEN']}")
            say(f"  {shown(BINARY)} task list --filter label.run:{demo.run}")
            say("  Ctrl-C ends it.")
            while demo.server.is_alive() and demo.agent.is_alive():
                time.sleep(0.5)
    except Failed as error:
        say(f"\nThe demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return 0 if kept else 130
    finally:
        demo.stop()
    say(f"\n{'The demo succeeded: nothing was lost, nothing counted twice.' if proven else 'THE PROOF FAILED.'}")
    return 0 if proven else 1


if __name__ == "__main__":
    sys.exit(main())
