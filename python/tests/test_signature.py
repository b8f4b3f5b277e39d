"""What the package reads of a function by itself is what `inspect` and `typing` would say of it."""

import support  # noqa: F401
import functools
import inspect
import types
import typing
import unittest

from tidewheel import signature


def plain(): ...
def typed(a: int, b: "str" = "x", *, c: float = 1.5, d: bool) -> None: ...
def positional(a, b: dict, /, c: list = [], *rest: int, d: bytes = b"", **more: str) -> "list": ...
def only_rest(*rest, last): ...
def optional(a: int = None, b: str = "") -> int: ...
def library(a: typing.List[int], b: "typing.Optional[str]" = None) -> "typing.Dict[str, int]": ...
def wild(a: object, b: "object") -> "typing.Any": ...


@functools.wraps(typed)
def wrapper(*args, **kwargs):
    return typed(*args, **kwargs)


class Methods:
    def __call__(self, a: int, b: str = "") -> str: ...

    @staticmethod
    def static(a: int) -> int: ...


def shadowed() -> types.FunctionType:
    """A module in which `int` is something else."""
    names = {"__name__": __name__, "int": str}
    exec("def f(a: 'int') -> int: ...", names)
    return names["f"]  # type: ignore[return-value]


FUNCTIONS = [plain, typed, positional, only_rest, optional, library, wild, wrapper, Methods(), Methods.static, functools.partial(typed, 1)]


class Reading(unittest.TestCase):
    def test_parameters(self):
        for function in FUNCTIONS:
            with self.subTest(function):
                ours = [(p.name, p.kind, inspect.Parameter.empty if p.default is signature._EMPTY else p.default)
                        for p in signature._parameters(function)]
                theirs = [(p.name, int(p.kind), p.default) for p in inspect.signature(function).parameters.values()]
                self.assertEqual(ours, theirs)

    def test_annotations(self):
        for function in [f for f in FUNCTIONS if isinstance(f, types.FunctionType)] + [shadowed()]:
            with self.subTest(function):
                ours = signature._hints(function, "here", signature._parameters(function))
                self.assertEqual(ours, typing.get_type_hints(function, include_extras=True))


if __name__ == "__main__":
    unittest.main()
