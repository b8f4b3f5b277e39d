"""Decoders of the types that JSON has itself. Apart from `decode`, because most tasks need no other and a new worker process
should not load `typing` for them.

>>> integer(1.0), number(2)
(1, 2.0)
"""

from __future__ import annotations

from .errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

#: What JSON calls the types it has.
JSON_NAMES: "Dict[Any, str]" = {
    dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null",
}


def json_name(value: "Any") -> str:
    """What JSON calls the type of a value."""
    return JSON_NAMES.get(type(value), type(value).__name__)


def expected(what: str, value: "Any") -> InputError:
    """The error for a value of another type."""
    return InputError(f"expected {what}, got {json_name(value)}")


def null(value: "Any") -> None:
    if value is not None:
        raise expected("null", value)


def string(value: "Any") -> str:
    if type(value) is str:
        return value
    raise expected("string", value)


def integer(value: "Any") -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)  # JSON does not tell 1 from 1.0, and some writers only have the latter
    raise expected("integer", value)


def number(value: "Any") -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise InputError("the number is too large") from None
    raise expected("number", value)


def boolean(value: "Any") -> bool:
    if type(value) is bool:
        return value
    raise expected("boolean", value)


def bytes_of(value: "Any") -> bytes:
    if type(value) is bytes:  # came as a raw frame
        return value
    from base64 import b64decode

    try:
        return b64decode(string(value), validate=True)
    except ValueError:
        raise InputError("expected bytes in base64") from None


def any_object(value: "Any") -> "Dict[str, Any]":
    if type(value) is dict:
        return value
    raise expected("object", value)


def any_array(value: "Any") -> "list[Any]":
    if type(value) is list:
        return value
    raise expected("array", value)


#: By type; what stands here needs no look at its parameters.
DECODERS: "Dict[Any, Callable[[Any], Any]]" = {
    str: string,
    int: integer,
    float: number,
    bool: boolean,
    bytes: bytes_of,
    dict: any_object,
    list: any_array,
    None: null,
    type(None): null,
}
