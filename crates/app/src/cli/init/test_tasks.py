"""Tests of the tasks. They need no server and no waiting: `tidewheel test`."""

import unittest

from tasks import flaky, greet
from tidewheel.testing import run


class TasksTest(unittest.TestCase):
    def test_a_task_is_a_plain_function(self):
        self.assertEqual(greet("Ann"), "Hello, Ann!")

    def test_a_flaky_task_is_retried(self):
        outcome = run(flaky, succeeds_at=3)
        self.assertEqual(outcome.result, "done at attempt 3")
        self.assertEqual(len(outcome.attempts), 3)


if __name__ == "__main__":
    unittest.main()
