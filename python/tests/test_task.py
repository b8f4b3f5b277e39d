"""The decorator, signatures, options and the context outside an agent."""

import support  # noqa: F401
import datetime as dt
import inspect
import pickle
import unittest
from dataclasses import dataclass
from typing import Dict, List
from unittest import mock

from tidewheel import Batch, Cancelled, Conflict, NotAllowed, Retry, Secret, TaskFailed, ctx, queue, task
from tidewheel import handle, options
from tidewheel.context import Context, LocalHost
from tidewheel.errors import InputError, NotFound, Overloaded, from_problem, from_task
from tidewheel.signature import Signature


@task
def plain(a, b=2):
    """Adds."""
    return a + b


@dataclass
class Order:
    customer: str


@task(
    name="ship-order", queue="ship", retry=Retry(5, delay="2s", jitter="500ms"), timeout="10m", priority="high", rate="100/m",
    concurrency={"key": "order.customer", "limit": 3}, key="region", cpu=1, memory="512MB", requires={"gpu": True},
    labels={"team": "ops", "n": 1}, resource_class="cpu-intensive",
)
def ship(order: Order, region: str = "eu") -> str:
    return order.customer + region


class Decorator(unittest.TestCase):
    def test_a_task_stays_a_plain_function(self):
        self.assertEqual(plain(1), 3)
        self.assertEqual(plain.__name__, "plain")
        self.assertEqual(plain.__doc__, "Adds.")
        self.assertEqual(list(inspect.signature(plain).parameters), ["a", "b"])
        self.assertEqual(ship(Order("x"), region="us"), "xus")

    def test_a_task_goes_through_a_process_pool(self):
        self.assertIs(pickle.loads(pickle.dumps(plain)), plain)

    def test_a_method_stays_a_method(self):
        class Service:
            @task
            def double(self, x):
                return 2 * x

        self.assertEqual(Service().double(4), 8)

    def test_a_submission_holds_what_the_decorator_says(self):
        body = ship.submission((Order("acme"),), {}, delay="5m", labels={"k": True}, priority=9)
        self.assertEqual(body, {
            "type": "ship-order", "input": {"order": {"customer": "acme"}}, "queue": "ship", "priority": 9, "delay": "5m",
            "timeout": {"run": "10m"}, "requires": {"gpu": True},
            "retry": {"max_attempts": 5, "delay": "2s", "backoff": "exponential", "factor": 2.0, "jitter": "500ms"},
            "resources": {"class": "cpu-intensive", "cpu": 1, "memory": "512MB"},
            "labels": {"team": "ops", "n": "1", "k": "true"}, "key": "eu",
            "concurrency_key": "order.customer:acme", "concurrency_limit": 3,
        })

    def test_defaults_for_the_manifest(self):
        defaults = ship.defaults()
        self.assertEqual(defaults["rate"], "100/m")
        self.assertEqual(defaults["concurrency"], {"key": "order.customer", "limit": 3})
        self.assertEqual(task(batch=Batch(5, "2s"))(lambda items: items).defaults(), {"batch": {"size": 5, "wait": "2s"}})

    def test_wrong_options_are_refused_where_they_are_written(self):
        cases = [
            dict(priority="urgent"), dict(priority=10), dict(priority=True), dict(timeout="soon"), dict(timeout={"boot": "1s"}), dict(rate="fast"),
            dict(rate="0/s"), dict(concurrency={"key": "a"}), dict(concurrency={"key": "zzz", "limit": 1}), dict(key="zzz"),
            dict(concurrency={"key": "a", "limit": 0}), dict(cpu=0), dict(memory="lots"), dict(retry="3"), dict(name=""), dict(name="x" * 201),
            dict(batch=5), dict(labels={"a": []}),
        ]
        for case in cases:
            with self.subTest(case), self.assertRaises((TypeError, ValueError)):
                task(**case)(lambda a: a)
        for bad in (lambda: Retry(0), lambda: Retry(factor=0.5), lambda: Retry(on=("x", 3)), lambda: Retry(delay=-1), lambda: Batch(0),
                    lambda: Retry(delay=float("nan")), lambda: task(3), lambda: task(plain)):
            with self.assertRaises((TypeError, ValueError)):
                bad()

    def test_an_unknown_option_is_named_with_its_neighbour(self):
        with self.assertRaisesRegex(TypeError, "did you mean 'priority'"):
            plain.with_options(prioriti=1)

    def test_run_at_needs_a_zone(self):
        zone = dt.timezone(dt.timedelta(hours=2))
        self.assertEqual(options.run_at(dt.datetime(2024, 1, 1, 2, tzinfo=zone)), "2024-01-01T00:00:00.000Z")
        with self.assertRaises(ValueError):
            options.run_at(dt.datetime(2024, 1, 1))

    def test_retry_knows_subclasses_and_names(self):
        self.assertTrue(Retry(on=(OSError,)).allows(ConnectionResetError()))
        self.assertTrue(Retry(on=("OSError",)).allows(ConnectionResetError()))
        self.assertFalse(Retry(no_retry=(LookupError,)).allows(KeyError("x")))
        self.assertEqual(Retry(delay="1s", factor=100).delay_ms(1000), 3_600_000)


class Many(unittest.TestCase):
    """Idempotency keys of submissions that go together."""

    def keys(self, *arguments, **options):
        sent = []

        class Backend:
            def enqueue(self, items):
                sent.extend(items)
                return [str(i) for i in range(len(items))]

        with mock.patch.object(handle, "_client", Backend()):
            plain.with_options(**options.pop("bound", {})).enqueue_many([(1,), (2,), (3,)], *arguments, **options)
        return [body["idempotency_key"] for body in sent]

    def test_one_key_per_call(self):
        self.assertEqual(self.keys(idempotency_keys=["a", "b", "c"]), ["a", "b", "c"])
        self.assertEqual(self.keys(idempotency_keys=(str(n) for n in range(3))), ["0", "1", "2"])

    def test_one_key_for_all_gives_each_its_own(self):
        self.assertEqual(self.keys(bound={"idempotency_key": "import-7"}), ["import-7:0", "import-7:1", "import-7:2"])

    def test_without_a_key_each_has_a_random_one(self):
        self.assertEqual(len(set(self.keys() + self.keys())), 6)

    def test_wrong_keys_are_refused_before_anything_is_sent(self):
        for wrong in (["a", "b"], ["a", "b", "c", "d"], ["a", "b", "a"], ["a", "b", ""], ["a", "b", 3], "abc"):
            with self.subTest(wrong), self.assertRaises((TypeError, ValueError)):
                self.keys(idempotency_keys=wrong)
        with self.assertRaisesRegex(ValueError, "both"):
            self.keys(idempotency_keys=["a", "b", "c"], bound={"idempotency_key": "x"})


class Queues(unittest.TestCase):
    def test_a_queue_takes_tasks_by_type(self):
        sent = []

        class Backend:
            def enqueue(self, items):
                sent.append(items)
                return [f"t{i}" for i in range(len(items))]

        invoices = queue("invoices", priority=9)
        with mock.patch.object(handle, "_client", Backend()):
            self.assertEqual(invoices.submit("read", {"page": 1}, delay="5s", labels={"a": 1}).id, "t0")
            self.assertEqual([h.id for h in invoices.submit_many("read", [1, None], idempotency_key="k")], ["t0", "t1"])
        (one,), (first, second) = sent
        self.assertEqual(len(one.pop("idempotency_key")), 32)
        self.assertEqual(one, {"type": "read", "input": {"page": 1}, "queue": "invoices", "priority": 9, "delay": "5s", "labels": {"a": "1"}})
        self.assertEqual((first["input"], first["idempotency_key"], second["idempotency_key"]), (1, "k:0", "k:1"))
        self.assertNotIn("input", second)

    def test_wrong_queues(self):
        for name in ("", None, 5):
            with self.subTest(name), self.assertRaises((TypeError, ValueError)):
                queue(name)
        with self.assertRaisesRegex(TypeError, "queue"):
            queue("a", queue="b")
        with self.assertRaisesRegex(TypeError, "did you mean 'priority'"):
            queue("a").submit("t", prioritty=3)
        self.assertEqual(repr(queue("a")), "queue('a')")


class Inputs(unittest.TestCase):
    def call(self, function, value):
        args, kwargs = Signature(function).arguments(value)
        return function(*args, **kwargs)

    def refuse(self, function, value, message):
        with self.assertRaises(InputError) as caught:
            self.call(function, value)
        self.assertEqual(str(caught.exception), message)

    def test_forms_of_an_input(self):
        def f(a, b: int = 2):
            return (a, b)

        self.assertEqual(self.call(f, {"a": 1}), (1, 2))
        self.assertEqual(self.call(f, [1, 3]), (1, 3))
        self.assertEqual(self.call(lambda: "none", None), "none")
        self.assertEqual(self.call(lambda: "none", {}), "none")
        self.assertEqual(self.call(lambda x: x, "bare"), "bare")
        self.assertEqual(self.call(lambda *, x: x, 5), 5)
        self.assertEqual(self.call(lambda *xs: xs, [1, 2]), (1, 2))
        self.assertEqual(self.call(lambda a, /, b: (a, b), {"a": 1, "b": 2}), (1, 2))
        self.assertEqual(self.call(lambda **kw: kw, {"a": 1}), {"a": 1})

    def test_errors_of_an_input(self):
        def f(customer: str, amount: int = 1):
            pass

        self.refuse(f, {"customer": 7}, "input.customer: expected string, got integer")
        self.refuse(f, [7], "input[0]: expected string, got integer")
        self.refuse(f, {"customer": "a", "amout": 1}, "input.amout: unknown field; did you mean 'amount'?")
        self.refuse(f, {}, "input.customer: is missing")
        self.refuse(f, None, "input.customer: is missing")
        self.refuse(f, ["a", 1, 2], "input: expected at most 2 arguments, got 3")
        self.refuse(f, "a", "input: expected an object with the arguments by name, or an array, got string")
        self.refuse(lambda values: 0, [1, 2], "input: expected at most 1 arguments, got 2; to give one array, send {'values': [...]}")

    def test_extra_named_arguments_are_read_by_their_type(self):
        def f(**rest: int):
            return rest

        self.assertEqual(self.call(f, {"a": 1}), {"a": 1})
        self.refuse(f, {"a": "x"}, "input.a: expected integer, got string")

    def test_what_enqueue_sends_comes_back(self):
        def by_name(a: dt.date, b: Dict[str, int]):
            return a, b

        def by_position(a: dt.date, /, *rest: int):
            return a, rest

        for function, args in ((by_name, (dt.date(2024, 1, 1), {"x": 1})), (by_position, (dt.date(2024, 1, 1), 1, 2))):
            signature = Signature(function)
            sent = signature.input(signature.bind(args, {}))
            self.assertEqual(self.call(function, sent), function(*args))

    def test_a_batch_takes_elements(self):
        def f(items: List[Order]) -> List[int]:
            return []

        signature = Signature(f, batch=True)
        self.assertEqual(signature.member({"customer": "a"}), Order("a"))
        self.assertEqual(signature.schema_in()["$ref"], "#/$defs/Order")
        self.assertEqual(signature.schema_out()["type"], "integer")
        with self.assertRaises(TypeError):
            Signature(lambda a, b: 0, batch=True)

    def test_the_schema_of_a_function(self):
        schema = ship.signature.schema_in()
        self.assertEqual(schema["$schema"], "https://json-schema.org/draft/2020-12/schema")
        self.assertEqual(schema["required"], ["order"])
        self.assertEqual(schema["properties"]["region"], {"type": "string", "default": "eu"})
        self.assertEqual(ship.signature.schema_out()["type"], "string")

    def test_an_annotation_nobody_can_resolve_is_named(self):
        def f(x: "Missing"):  # noqa: F821
            pass

        with self.assertRaisesRegex(TypeError, "Missing"):
            Signature(f)


class Contexts(unittest.TestCase):
    def test_outside_a_task_everything_is_harmless(self):
        ctx.progress(0.3, "x")
        with self.assertLogs("tidewheel", "INFO") as logs:
            ctx.log.info("hello", pages=3)
        self.assertIn("hello pages=3", logs.output[0])
        self.assertEqual((ctx.attempt, ctx.deadline, ctx.labels), (1, None, {}))
        with self.assertRaises(NotAllowed):
            ctx.asset("erp")

    def test_cancellation_is_raised_once_and_then_known(self):
        context = Context(LocalHost(), "l", {})
        context.cancel("operator")
        with self.assertRaisesRegex(Cancelled, "operator"):
            context.progress(0.1)
        context.progress(0.2)
        self.assertTrue(context.cancelled())

    def test_whoever_asks_is_not_interrupted(self):
        context = Context(LocalHost(), "l", {})
        context.cancel("operator")
        self.assertTrue(context.cancelled())
        context.log.info("cleaning up")

    def test_a_batch_is_cancelled_with_its_last_member(self):
        members = [Context(LocalHost(), str(i), {}) for i in range(2)]
        whole = Context(LocalHost(), "0", {}, members)
        members[0].cancel("x")
        self.assertFalse(whole.cancelled())
        whole.progress(0.5)
        members[1].cancel("x")
        with self.assertRaises(Cancelled):
            whole.progress(0.5)

    def test_artifact_names_stay_below_the_task(self):
        for name in ("", "/etc/x", "../x", "a/../b", "a\\b", "a//b", "x\n", "x" * 256):
            with self.subTest(name), self.assertRaises(ValueError):
                ctx.artifact(name, b"")
        with self.assertRaises(FileNotFoundError):
            ctx.artifact("a", "no-such-file")
        ctx.artifact("a/b.txt", b"x")

    def test_deadline_and_keys(self):
        context = Context(LocalHost(), "l", {"deadline_ms": 1_700_000_000_500, "idempotency_key": "k"})
        self.assertEqual(context.deadline, dt.datetime(2023, 11, 14, 22, 13, 20, 500000, dt.timezone.utc))
        self.assertEqual((context.idempotency_key(), context.idempotency_key("mail")), ("k", "k:mail"))


class Errors(unittest.TestCase):
    def test_codes_become_exceptions(self):
        cases = [("conflict", 409, Conflict), ("rate-limited", 429, Overloaded), ("not-found", 404, NotFound), ("unauthenticated", 401, NotAllowed)]
        for code, status, kind in cases:
            self.assertIs(type(from_problem({"code": code, "status": status})), kind)
        self.assertIs(type(from_problem("<html>busy</html>", 503)), Overloaded)
        error = from_problem({"code": "invalid-field", "detail": "wrong", "errors": [{"pointer": "/type", "detail": "is missing"}]})
        self.assertEqual(str(error), "wrong\n  /type: is missing")

    def test_a_failed_task_says_how(self):
        error = from_task({"id": "task_1", "state": "dead", "error": {"type": "ValueError", "message": "no", "detail": "Traceback", "retryable": True}})
        self.assertIsInstance(error, TaskFailed)
        self.assertEqual((str(error), error.type, error.traceback, error.task_id), ("ValueError: no", "ValueError", "Traceback", "task_1"))

    def test_a_secret_stays_one(self):
        secret = Secret("hunter22")
        self.assertNotIn("hunter", f"{secret} {secret!r} {secret:>20}")
        self.assertTrue(secret == Secret("hunter22") and secret != Secret("x"))
        for bad in (lambda: pickle.dumps(secret), lambda: hash(secret), lambda: vars(secret)):
            with self.assertRaises(TypeError):
                bad()


if __name__ == "__main__":
    unittest.main()
