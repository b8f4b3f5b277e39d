"""JSON to Python and back, by annotation; and the schemas that go with it."""

import support  # noqa: F401
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import typing
import unittest
import uuid
from typing import Any, Dict, FrozenSet, Generic, List, Literal, NamedTuple, NewType, Optional, Sequence, Set, Tuple, TypedDict, TypeVar, Union

from tidewheel import Secret
from tidewheel.decode import decoder_for
from tidewheel.encode import dump_bytes, dumps
from tidewheel.errors import InputError, ResultError
from tidewheel.schema import schema_for

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Shape(enum.Enum):
    ROUND = object()


class Text(str, enum.Enum):
    A = "a"


@dataclasses.dataclass
class Line:
    name: str
    amount: decimal.Decimal = decimal.Decimal("1.5")
    tags: List[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.amount < 0:
            raise ValueError("amount is negative")


@dataclasses.dataclass
class Tree:
    value: int
    children: "List[Tree]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


class Movie(TypedDict, total=False):
    title: str
    year: int


class Point(NamedTuple):
    x: int
    y: int = 0


class Model:
    """Looks like pydantic's, as far as the package asks."""

    def __init__(self, size):
        self.size = size

    @classmethod
    def model_validate(cls, value):
        if not isinstance(value, dict) or "size" not in value:
            raise ValueError("size: field required")
        return cls(value["size"])

    def model_dump(self, mode="python"):
        return {"size": self.size}

    @classmethod
    def model_json_schema(cls, ref_template=""):
        return {"type": "object", "properties": {"size": {}}, "$defs": {"Inner": {}}}

    def __eq__(self, other):
        return self.size == other.size


class RoundTrip(unittest.TestCase):
    def check(self, hint, value, text):
        self.assertEqual(json.loads(dumps(value)), json.loads(text), hint)
        back = decoder_for(hint)(json.loads(text))
        self.assertEqual(back, value)
        self.assertIs(type(back), type(value))

    def test_values_come_back_as_they_went(self):
        utc = dt.timezone.utc
        cases = [
            (str, "ä\u2028\x00", json.dumps("ä\u2028\x00")),
            (int, 2**70, str(2**70)),
            (float, 1.5, "1.5"),
            (bool, True, "true"),
            (None, None, "null"),
            (bytes, b"\x00\xff", '"AP8="'),
            (decimal.Decimal, decimal.Decimal("1.10"), '"1.10"'),
            (uuid.UUID, uuid.UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
            (pathlib.PurePosixPath, pathlib.PurePosixPath("/a/b"), '"/a/b"'),
            (dt.datetime, dt.datetime(2024, 2, 29, 1, 2, 3, 4, utc), '"2024-02-29T01:02:03.000004+00:00"'),
            (dt.date, dt.date(2024, 2, 29), '"2024-02-29"'),
            (dt.time, dt.time(1, 2), '"01:02:00"'),
            (dt.timedelta, dt.timedelta(days=-1, microseconds=1), '"-PT86399.999999S"'),
            (dt.timedelta, dt.timedelta(0), '"PT0S"'),
            (Color, Color.BLUE, '"blue"'),
            (Level, Level.HIGH, "2"),
            (Shape, Shape.ROUND, '"ROUND"'),
            (Text, Text.A, '"a"'),
            (List[int], [1, 2], "[1,2]"),
            (Sequence[int], [1, 2], "[1,2]"),
            (Dict[str, List[dt.date]], {"a": [dt.date(2024, 1, 1)]}, '{"a":["2024-01-01"]}'),
            (Dict[int, str], {1: "a"}, '{"1":"a"}'),
            (Dict[Color, int], {Color.RED: 1}, '{"red":1}'),
            (Dict[uuid.UUID, int], {uuid.UUID(int=1): 1}, '{"00000000-0000-0000-0000-000000000001":1}'),
            (Tuple[int, str], (1, "a"), '[1,"a"]'),
            (Tuple[int, ...], (1, 2), "[1,2]"),
            (Set[int], {2, 1}, "[1,2]"),
            (FrozenSet[str], frozenset("ba"), '["a","b"]'),
            (Optional[int], None, "null"),
            (Union[int, str], "1", '"1"'),
            (Union[float, int], 1, "1"),
            (Union[dt.date, str], "soon", '"soon"'),
            (Literal["a", 1], 1, "1"),
            (Line, Line("x", decimal.Decimal("2"), ["t"]), '{"name":"x","amount":"2","tags":["t"]}'),
            (Tree, Tree(1, [Tree(2)]), '{"value":1,"children":[{"value":2,"children":[]}]}'),
            (Box[dt.date], Box(dt.date(2024, 1, 1)), '{"content":"2024-01-01"}'),
            (Movie, {"title": "x"}, '{"title":"x"}'),
            (Point, Point(1, 2), "[1,2]"),
            (Model, Model(3), '{"size":3}'),
            (NewType("Id", int), 3, "3"),
            (Any, {"a": [1]}, '{"a":[1]}'),
        ]
        for hint, value, text in cases:
            with self.subTest(hint=hint):
                self.check(hint, value, text)

    def test_lenient_readings(self):
        cases = [
            (int, 2.0, 2),
            (float, 2, 2.0),
            (decimal.Decimal, 1.1, decimal.Decimal("1.1")),
            (dt.datetime, "2024-01-01T00:00:00Z", dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)),
            (dt.datetime, "2024-01-01T00:00:00.5+0200", dt.datetime(2024, 1, 1, 0, 0, 0, 500000, dt.timezone(dt.timedelta(hours=2)))),
            (dt.timedelta, "1h30m", dt.timedelta(minutes=90)),
            (dt.timedelta, "P1DT2H", dt.timedelta(hours=26)),
            (Point, {"x": 1}, Point(1)),
            (Line, {"name": "x"}, Line("x")),
        ]
        for hint, value, wanted in cases:
            with self.subTest(hint=hint, value=value):
                self.assertEqual(decoder_for(hint)(value), wanted)

    def test_errors_name_the_path(self):
        cases = [
            (str, 1, "input: expected string, got integer"),
            (int, True, "input: expected integer, got boolean"),
            (int, 1.5, "input: expected integer, got number"),
            (float, 10**400, "input: the number is too large"),
            (bytes, "*", "input: expected bytes in base64"),
            (decimal.Decimal, "x", "input: 'x' is not a decimal number"),
            (decimal.Decimal, "NaN", "input: 'NaN' is not a finite number"),
            (uuid.UUID, "x", "input: 'x' is not a UUID"),
            (dt.date, "2023-02-29", "input: '2023-02-29' is not a date in ISO 8601"),
            (dt.timedelta, "fast", "input: 'fast' is not a duration such as PT5M or 1h30m"),
            (Color, "green", "input: 'green' is none of 'red', 'blue'"),
            (Literal[1], True, "input: True is none of 1"),
            (List[List[int]], [[1], [2, None]], "input[1][1]: expected integer, got null"),
            (Dict[int, str], {"a": "b"}, "input.a: expected a key that is an integer"),
            (Tuple[int, str], [1], "input: expected 2 elements, got 1"),
            (Set[Any], [[]], "input: the elements of a set have to be plain values"),
            (Optional[int], "a", "input: expected integer, got string"),
            (Union[int, str], [], "input: expected integer or string, got array"),
            (Union[Tree, str], {"value": "x"}, "input.value: expected integer, got string"),
            (Line, {}, "input.name: is missing"),
            (Line, {"name": "x", "amont": 1}, "input.amont: unknown field; did you mean 'amount'?"),
            (Line, {"name": "x", "amount": -1}, "input: amount is negative"),
            (Tree, {"value": 1, "children": [{"value": "x"}]}, "input.children[0].value: expected integer, got string"),
            (Movie, {"title": 1}, "input.title: expected string, got integer"),
            (Point, [1, 2, 3], "input: expected 2 elements, got 3"),
            (Model, {}, "input: size: field required"),
        ]
        for hint, value, message in cases:
            with self.subTest(hint=hint, value=value):
                with self.assertRaises(InputError) as caught:
                    decoder_for(hint)(value)
                self.assertEqual(str(caught.exception), message)

    def test_types_that_cannot_come_from_json_are_refused_at_registration(self):
        for hint in (socket_like, collections.OrderedDict, typing.Callable):
            with self.subTest(hint=hint), self.assertRaises(TypeError):
                decoder_for(hint)

    def test_values_without_json_form_name_the_place(self):
        loop: list = []
        loop.append(loop)
        cases = [
            ({"rows": [1, object()]}, "v.rows[1]: object has no JSON form"),
            ({"m": float("inf")}, "v.m: inf has no JSON form"),
            ({"m": decimal.Decimal("NaN")}, "v.m: NaN has no JSON form"),
            ({"p": Secret("x")}, "v.p: a Secret does not leave the task"),
            ({(1, 2): 1}, "v: a key of type tuple has no JSON form"),
            ({Color.RED: 1, "red": 2}, "v: two keys become the same text 'red'"),
            (["\ud800"], "v[0]: the text holds half of a surrogate pair"),
            ({"n": [1, 10**400]}, "v.n[1]: an integer of 1329 bits is larger than a double holds"),
            ({"n": -(10**6000)}, "v.n: an integer of 19932 bits is larger than a double holds"),
            (Box(Box(object())), "v.content.content: object has no JSON form"),
            (loop, "nested deeper than"),
        ]
        for value, message in cases:
            with self.subTest(message=message):
                with self.assertRaises(ResultError) as caught:
                    dump_bytes(value, "v")
                self.assertIn(message, str(caught.exception))

    def test_large_integers_and_texts_of_digits_go_as_they_are(self):
        for value in (10**308, -(2**1023), "9" * 400, {"9" * 400: ["8" * 500]}):
            with self.subTest(value=str(value)[:20]):
                self.assertEqual(json.loads(dump_bytes(value)), value)


class socket_like:
    pass


class Schemas(unittest.TestCase):
    def test_schemas_of_types(self):
        cases = [
            (str, {"type": "string"}),
            (Optional[int], {"type": ["integer", "null"]}),
            (Union[int, List[str]], {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}),
            (Dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
            (Set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
            (Tuple[int, str], {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2}),
            (dt.datetime, {"type": "string", "format": "date-time"}),
            (bytes, {"type": "string", "contentEncoding": "base64"}),
            (Literal["a", 1], {"enum": ["a", 1]}),
            (Any, {}),
        ]
        for hint, wanted in cases:
            with self.subTest(hint=hint):
                self.assertEqual(schema_for(hint), wanted)

    def test_a_class_is_defined_once_and_may_contain_itself(self):
        schema = schema_for(List[Tree])
        self.assertEqual(schema["items"], {"$ref": "#/$defs/Tree"})
        tree = schema["$defs"]["Tree"]
        self.assertEqual(tree["properties"]["children"]["items"], {"$ref": "#/$defs/Tree"})
        self.assertEqual(tree["required"], ["value"])
        self.assertIs(tree["additionalProperties"], False)

    def test_defaults_of_fields_are_shown(self):
        amount = schema_for(Line)["$defs"]["Line"]["properties"]["amount"]
        self.assertEqual(amount, {"type": "string", "format": "decimal", "default": "1.5"})

    def test_a_models_own_schema_is_taken(self):
        self.assertEqual(set(schema_for(Model)["$defs"]), {"Model", "Inner"})


if __name__ == "__main__":
    unittest.main()
