"""The test kit."""

import support  # noqa: F401
import asyncio
import os
import tempfile
import unittest
from dataclasses import dataclass
from typing import List

from tidewheel import Batch, Cancelled, NotAllowed, Retry, TaskFailed, ctx, task
from tidewheel.errors import InputError, ResultError, TidewheelError
from tidewheel.testing import Clock, mock_run, run


@dataclass
class Order:
    customer: str
    lines: List[int]


@task(retry=Retry(4, delay="10s", factor=2, jitter="1s", on=(OSError,)), timeout="5m", labels={"team": "a"})
def flaky(order: Order, until: int = 3) -> int:
    order.lines.append(0)  # an attempt must not see what an earlier one did
    if ctx.attempt < until:
        raise ConnectionError("reset")
    return len(order.lines)


@task
def busy(name: str):
    ctx.log.info("hello", name=name)
    ctx.progress(0.5, "half")
    ctx.artifact("a.txt", b"content")
    child = flaky.enqueue(Order("x", []), delay="1m")
    return {"child": child.result(), "password": len(ctx.asset("erp")["password"].reveal()), "labels": ctx.labels}


@task
def reads(file: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with open(ctx.fetch(file, os.path.join(folder, "in.bin")), "rb") as content:
            return len(content.read())


@task
def opens(name: str) -> int:
    with open(ctx.file(name), "rb") as content:
        return len(content.read())


class MockRun(unittest.TestCase):
    def test_files_of_the_project_are_found_where_they_are(self):
        self.assertGreater(mock_run(opens, "src/tidewheel/context.py").unwrap(), 1000)
        self.assertGreater(opens("pyproject.toml"), 100)
        self.assertIsInstance(mock_run(opens, "none.bin").error, FileNotFoundError)
        for name in ("../x", "/etc/passwd", "", "a//b", "a\\b"):
            self.assertIsInstance(mock_run(opens, name).error, ValueError, name)

    def test_stored_files_are_given_by_their_hash(self):
        file = "sha256:" + "0" * 64
        self.assertEqual(mock_run(reads, file, assets={file: b"content"}).unwrap(), 7)
        self.assertIsInstance(mock_run(reads, file).error, NotAllowed)
        self.assertIsInstance(mock_run(reads, "../etc/passwd").error, ValueError)

    def test_everything_a_task_does_is_seen(self):
        outcome = mock_run(busy, "acme", assets={"erp": {"password": "hunter22"}}, labels={"k": "v"}, results={flaky: 9})
        self.assertEqual(outcome.unwrap(), {"child": 9, "password": 8, "labels": {"k": "v"}})
        self.assertEqual((outcome.logs[0].level, outcome.logs[0].fields), ("info", {"name": "acme"}))
        self.assertEqual(outcome.progress[0], (0.5, "half"))
        self.assertEqual(outcome.artifacts, {"a.txt": b"content"})
        self.assertEqual((outcome.enqueued[0]["type"], outcome.enqueued[0]["delay"]), ("flaky", "1m"))

    def test_what_is_not_given_is_said(self):
        self.assertIsInstance(mock_run(busy, "acme", results={flaky: 9}).error, NotAllowed)
        error = mock_run(busy, "acme", assets={"erp": {}}).error
        self.assertIsInstance(error, TidewheelError)
        self.assertIn("results={'flaky': ...}", str(error))

    def test_one_attempt_of_several(self):
        self.assertIsInstance(mock_run(flaky, Order("a", [])).error, ConnectionError)
        self.assertEqual(mock_run(flaky, Order("a", []), attempt=3).result, 1)

    def test_values_take_the_way_through_json(self):
        self.assertIsInstance(mock_run(task(lambda: object())).error, ResultError)
        self.assertIsInstance(mock_run(flaky, Order(5, [])).error, InputError)

    def test_cancelled_before_it_began(self):
        self.assertIsInstance(mock_run(busy, "x", cancel=True).error, Cancelled)

    def test_coroutines_inside_and_outside_a_loop(self):
        @task
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            ctx.log.info("in")
            return 2 * x

        self.assertEqual(mock_run(double, 4).result, 8)

        async def main():
            return mock_run(double, 5)

        outcome = asyncio.run(main())
        self.assertEqual((outcome.result, len(outcome.logs)), (10, 1))

    def test_a_batch(self):
        @task(batch=Batch(10))
        def batch(items: List[int]) -> List[int]:
            return [ValueError("odd") if i % 2 else i for i in items]

        self.assertEqual(mock_run(batch, [2, 4]).result, [2, 4])
        self.assertIsInstance(mock_run(task(batch=Batch(2))(lambda items: []), [1]).error, ResultError)

    def test_exiting_is_an_error(self):
        self.assertIsInstance(mock_run(task(lambda: exit(3))).error, SystemExit)


class Run(unittest.TestCase):
    def test_the_policy_is_applied_without_waiting(self):
        outcome = run(flaky, Order("a", [1]))
        self.assertEqual(outcome.result, 2)
        self.assertEqual(len(outcome.attempts), 3)
        self.assertTrue(10 <= outcome.delays[0] <= 11 and 20 <= outcome.delays[1] <= 21, outcome.delays)
        self.assertAlmostEqual(outcome.elapsed, sum(outcome.delays), 3)
        self.assertEqual(outcome.delays, run(flaky, Order("a", [1])).delays)  # the same seed, the same run

    def test_it_ends_with_the_last_attempt(self):
        outcome = run(flaky, Order("a", []), until=9)
        self.assertEqual((len(outcome.attempts), type(outcome.error)), (4, ConnectionError))
        with self.assertRaises(ConnectionError):
            outcome.unwrap()

    def test_errors_that_are_not_retried(self):
        @task(retry=Retry(5, no_retry=(KeyError,)))
        def fails(kind: int):
            raise [KeyError("k"), TaskFailed("no", retryable=False)][kind]

        for kind in (0, 1):
            self.assertEqual(len(run(fails, kind).attempts), 1)
        self.assertEqual(len(run(flaky, Order("a", []), retries=False).attempts), 1)

    def test_a_clock_of_ones_own_moves_the_deadline(self):
        seen = []

        @task(retry=Retry(2, delay="1h"), timeout="5m")
        def watch():
            seen.append(ctx.deadline.timestamp())
            if ctx.attempt == 1:
                raise OSError

        clock = Clock(1000.0)
        clock.advance("1m")
        run(watch, clock=clock)
        self.assertEqual(seen, [1360.0, 4960.0])
        self.assertEqual(clock.elapsed, 3660.0)


if __name__ == "__main__":
    unittest.main()
