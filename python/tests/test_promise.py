"""Promises that are completed by a token: the text, the driver, the test kit."""

from __future__ import annotations

import asyncio
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from tidewheel import Conflict, TaskFailed, task, wf, workflow
from tidewheel._promise import read, run_of, token
from tidewheel.errors import NotFound
from tidewheel.testing import complete_promise, replay, run

#: The server has the same numbers in a test (`crates/api/src/auth/promise.rs`).
GIVEN = bytes([1, 0, 0, 0, 7]) + (0x0123456789ABCDEF0011223344556677).to_bytes(16, "big") + bytes([9] * 32)
GOLDEN = "twp_0400000704hmasw9nf6yy00h48sm8nb6exzs8hjp36m4t272dhxm6btg5tg2yw3jdxppjwv579gpwwvqcns26c0"


@task
def mail(to: str, text: str) -> str:
    return to


@workflow
def approval(to: str):
    answer = wf.promise("answer", timeout="3d")
    mail(to, f"https://shop.example/approve?token={answer.token}")
    return answer.result()


@workflow
def two():
    first, second = wf.promise("answer"), wf.promise("answer")
    mail("ann", first.token)
    mail("bob", second.token)
    return [first.result(), second.result()]


@workflow
async def asynchronous():
    answer = wf.promise("answer")
    await mail("ann", answer.token)
    return await answer


def link(text: str) -> str:
    return text.rpartition("=")[2]


class Texts(unittest.TestCase):
    def test_a_token_is_the_one_that_the_server_makes(self):
        self.assertEqual(token(GIVEN, "/promise:answer#0"), GOLDEN)
        head, key = read(GOLDEN)
        self.assertEqual((head, key), (GIVEN[:21], "/promise:answer#0"))
        self.assertEqual(run_of(head), "run_014d2pf2dbsqqg04926d25askq")

    def test_keys_of_every_length_are_read_back(self):
        for length in range(1, 60):
            key = "k" * length
            self.assertEqual(read(token(GIVEN, key))[1], key)
        self.assertEqual(read(token(GIVEN, "g1/p0/promise:ärger#12"))[1], "g1/p0/promise:ärger#12")

    def test_what_is_no_token_is_refused(self):
        for text in ("", "twp_", "tw_" + GOLDEN, GOLDEN.upper(), "answer", GOLDEN[:20], "twp_u" + GOLDEN[5:]):
            with self.assertRaisesRegex(ValueError, "twp_"):
                read(text)


class Kit(unittest.TestCase):
    def test_whoever_gets_the_token_completes_the_promise(self):
        sent = []

        def send(to, text):
            sent.append(text)
            complete_promise(link(text), {"by": to})

        outcome = run(approval, "ann", mocks={mail: send})
        self.assertEqual(outcome.unwrap(), {"by": "ann"})
        self.assertEqual(len(sent), 1)
        self.assertRegex(link(sent[0]), "^twp_[0-9a-z]+$")

    def test_tokens_are_the_same_in_each_replay_and_each_run_of_the_test(self):
        plain = run(approval, "ann", promises={"answer": 1})
        stepwise = run(approval, "ann", promises={"answer": 1}, replay_every_step=True)
        crashed = run(approval, "ann", promises={"answer": 1}, crash_at="/task:mail#0")
        texts = [outcome.entry("/task:mail#0")["args"] for outcome in (plain, stepwise, crashed)]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(texts[0], texts[2])

    def test_two_promises_of_one_name_are_told_apart(self):
        seen = {}
        outcome = run(two, mocks={mail: lambda to, text: seen.setdefault(to, text)})
        self.assertEqual(outcome.phase, "waiting")
        self.assertNotEqual(seen["ann"], seen["bob"])

        def send(to, text):
            if to == "bob":
                complete_promise(seen["bob"], "second")
                complete_promise(seen["ann"], "first")

        self.assertEqual(run(two, mocks={mail: send}).unwrap(), ["first", "second"])
        self.assertEqual(run(two, mocks={mail: None}, promises={"/promise:answer#1": "b", "/promise:answer#0": "a"}).unwrap(), ["a", "b"])

    def test_the_first_one_counts_and_may_be_said_again(self):
        def send(to, text):
            complete_promise(link(text), 1)
            complete_promise(link(text), 1)
            with self.assertRaisesRegex(Conflict, "the first one counts"):
                complete_promise(link(text), 2)

        self.assertEqual(run(approval, "ann", mocks={mail: send}).unwrap(), 1)

    def test_a_promise_ends_with_an_error_too(self):
        outcome = run(approval, "ann", mocks={mail: lambda to, text: complete_promise(link(text), error="rejected")})
        self.assertIsInstance(outcome.error, TaskFailed)
        self.assertEqual(str(outcome.error), "rejected")

    def test_an_error_may_be_an_object_as_the_client_takes_it(self):
        error = {"title": "No", "detail": "rejected", "type": "https://shop.example/no", "status": 422}
        outcome = run(approval, "ann", mocks={mail: lambda to, text: complete_promise(link(text), error=error)})
        self.assertIsInstance(outcome.error, TaskFailed)
        self.assertEqual((str(outcome.error), outcome.error.type, outcome.error.status), ("rejected", error["type"], 422))

    def test_a_token_of_another_run_completes_nothing(self):
        def send(to, text):
            for wrong in (token(GIVEN, "/promise:answer#0"), link(text)[:-1] + "0"):
                if wrong != link(text):
                    with self.assertRaises(NotFound):
                        complete_promise(wrong, 1)
            complete_promise(link(text), 2)

        self.assertEqual(run(approval, "ann", mocks={mail: send}).unwrap(), 2)
        with self.assertRaises(NotFound):
            complete_promise(GOLDEN, 1)

    def test_an_async_workflow_has_tokens_too(self):
        outcome = run(asynchronous, mocks={mail: lambda to, text: complete_promise(text, "yes")}, replay_every_step=True)
        self.assertEqual(outcome.unwrap(), "yes")
        self.assertFalse(asyncio.iscoroutine(outcome.output))

    def test_a_history_of_another_server_is_replayed_although_its_tokens_were_others(self):
        outcome = run(approval, "ann", promises={"answer": 1})
        history = outcome.history()
        history["run"] = "run_014d2pf2dbsqqg04926d25askq"
        self.assertEqual(replay(approval, history).end, {"ok": 1})
        # What is no token still has to be the same.
        history["input"] = {"to": "bob"}
        with self.assertRaisesRegex(Exception, "other arguments"):
            replay(approval, history)

    def test_a_function_may_end_with_a_token(self):
        @workflow(name="gives-token")
        def gives():
            answer = wf.promise("answer")
            wf.sleep("1s")
            return ["see", answer.token]

        history = run(gives).history()
        self.assertTrue(history["end"]["ok"][1].startswith("twp_"))
        history["end"] = {"ok": ["see", GOLDEN]}
        self.assertEqual(replay(gives, history).turns, 2)
        history["end"] = {"ok": ["look", GOLDEN]}
        with self.assertRaisesRegex(Exception, "ended with"):
            replay(gives, history)

    def test_no_promise_is_named_like_a_token(self):
        @workflow
        def named():
            wf.promise("twp_1").result()

        self.assertIsInstance(run(named).error, ValueError)


if __name__ == "__main__":
    unittest.main()
