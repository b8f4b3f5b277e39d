"""Python values to JSON text. Plain values take the C encoder alone; what fails there is walked to name the place.

>>> import datetime, decimal
>>> dumps({"due": datetime.date(2024, 2, 29), "sum": decimal.Decimal("1.10")})
'{"due":"2024-02-29","sum":"1.10"}'
>>> dumps({"rows": [{"x": float("nan")}]}, "result")
Traceback (most recent call last):
tidewheel.errors.ResultError: result.rows[0].x: nan has no JSON form; use None or a text
"""

from __future__ import annotations

import json
import re

from .errors import ResultError
from .secret import Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

#: Deeper values are refused here, because the other side's parser refuses them too (its bound is 128 with the frame's own levels).
MAX_DEPTH = 100

#: Readers of JSON take numbers for doubles, the largest of which has 309 digits: an integer of fewer is none too large.
_DIGITS = 308
_MANY_DIGITS = re.compile("[0-9]{%d}" % (_DIGITS + 1))
_MOST = 1.7976931348623157e308


def dumps(value: "Any", root: str = "value") -> str:
    """JSON text of a value; raises `ResultError` that names the place which has no JSON form."""
    try:
        text = _ENCODE(value)
    except (ResultError, TypeError, ValueError, RecursionError):
        # Slow, but it either knows better (dict keys that are enums, dates, ids) or names the place.
        return _ENCODE(to_json(value, root))
    if len(text) > _DIGITS and _MANY_DIGITS.search(text):
        to_json(value, root)  # names the number, unless the digits are of a text
    return text


def dump_bytes(value: "Any", root: str = "value") -> bytes:
    """The same as UTF-8."""
    text = dumps(value, root)
    try:
        return text.encode()
    except UnicodeEncodeError:
        to_json(value, root)  # names the text with the lone surrogate
        raise ResultError(f"{root}: a text holds half of a surrogate pair and cannot be sent as UTF-8") from None


def to_json(value: "Any", path: str = "value", depth: int = 0) -> "Any":
    """The value with nothing left in it but dict, list, str, int, float, bool and None."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        value = str.__str__(value) if kind is str else _plain_text(value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ResultError(f"{path}: the text holds half of a surrogate pair and cannot be sent as UTF-8") from None
        return value
    if isinstance(value, int):
        if not -_MOST <= value <= _MOST:
            raise ResultError(f"{path}: an integer of {value.bit_length()} bits is larger than a double holds (1.8e308); use a text")
        return int(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ResultError(f"{path}: {float(value)!r} has no JSON form; use None or a text")
        return float(value)
    if depth > MAX_DEPTH:
        raise ResultError(f"{path[:200]}: nested deeper than {MAX_DEPTH} levels, or it contains itself")
    if isinstance(value, dict):
        out = {}
        for key, item in value.items():
            name = _key(key, path)
            if name in out:
                raise ResultError(f"{path}: two keys become the same text {name!r}")
            out[name] = to_json(item, f"{path}.{name}", depth + 1)
        return out
    if isinstance(value, (list, tuple)):
        return [to_json(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    try:
        plain = _convert(value)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None
    return to_json(plain, path, depth + 1)


def _plain_text(value: str) -> str:
    inner = getattr(value, "value", value)  # an Enum with str as its base
    return str.__str__(inner) if isinstance(inner, str) else str.__str__(value)


def _key(key: "Any", path: str) -> str:
    if isinstance(key, str):
        return _plain_text(key)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return int.__repr__(key)
    try:
        text = _convert(key)
    except ResultError:
        text = None
    if isinstance(text, (str, int)) and not isinstance(text, bool):
        return str(text)
    raise ResultError(f"{path}: a key of type {type(key).__name__} has no JSON form")


def _convert(value: "Any") -> "Any":
    """One step towards JSON for types the encoder does not know. Called for each, so it asks for no import that the
    user's program has not made: whoever holds a UUID has loaded its module."""
    kind = type(value)
    found = _CONVERTERS.get(kind)
    if found is None:
        found = _CONVERTERS[kind] = _find(kind)
    return found(value)


def _find(kind: "Any") -> "Callable[[Any], Any]":
    if issubclass(kind, Secret):
        return _no_secret
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses

        names = tuple(f.name for f in dataclasses.fields(kind))
        return lambda value: {name: getattr(value, name) for name in names}
    if hasattr(kind, "model_dump") and hasattr(kind, "model_validate"):
        return lambda value: value.model_dump(mode="json")
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return _base64
    if issubclass(kind, (set, frozenset)):
        return _ordered
    import datetime
    import decimal
    import enum
    import pathlib
    import uuid

    if issubclass(kind, enum.Enum):
        return enum_json
    if issubclass(kind, (datetime.datetime, datetime.date, datetime.time)):
        return lambda value: value.isoformat()
    if issubclass(kind, datetime.timedelta):
        return iso_duration
    if issubclass(kind, decimal.Decimal):
        return _decimal
    if issubclass(kind, (uuid.UUID, pathlib.PurePath)):
        return str
    return _unknown


_CONVERTERS: "Dict[type, Callable[[Any], Any]]" = {}


def _no_secret(value: "Any") -> "Any":
    raise ResultError("a Secret does not leave the task")


def _unknown(value: "Any") -> "Any":
    raise ResultError(f"{type(value).__name__} has no JSON form; return a dict, list, text, number or a dataclass of them")


def _base64(value: "Any") -> str:
    from base64 import b64encode

    return b64encode(bytes(value)).decode("ascii")


def _ordered(value: "Any") -> "list[Any]":
    """Sets have no order of their own; sorted, equal sets give equal texts and so equal hashes."""
    return sorted(value, key=lambda item: dumps(item))


def _decimal(value: "Any") -> str:
    if not value.is_finite():
        raise ResultError(f"{value} has no JSON form; use None or a text")
    return str(value)


def enum_json(value: "Any") -> "Any":
    """An enum by its value where that is plain, else by its name."""
    inner = value.value
    return inner if inner is None or isinstance(inner, (str, int, float, bool)) else value.name


def iso_duration(value: "Any") -> str:
    """A timedelta as ISO 8601, in seconds, without loss."""
    micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    sign = "-" if micros < 0 else ""
    seconds, rest = divmod(abs(micros), 1_000_000)
    return f"{sign}PT{seconds}" + (f".{rest:06d}".rstrip("0") if rest else "") + "S"


_ENCODE: "Callable[[Any], str]" = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_convert
).encode
